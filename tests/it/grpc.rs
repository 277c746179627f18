//! The API for services: the same sessions and commands as over REST, as gRPC has it.

use std::time::{Duration, Instant};

use browserfleet_proto::browser::v1::{
    self, action, outcome, perform_stream_reply, perform_stream_request, tunnel_request,
    watch_events_reply,
};
use browserfleet_tests::api::Caller;
use browserfleet_tests::eventually;
use browserfleet_tests::grpc::{Client, connect, perform, script, value_of};
use browserfleet_tests::services::python_of;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_types::StatusExt;

/// What happens at once happens within this, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Within this a revocation ends streams, as is promised.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);
/// How long a client in another language may take for all that it does.
const ALL_DONE_WITHIN: Duration = Duration::from_secs(60);

async fn key(caller: &Caller, scopes: &[&str]) -> (String, String) {
    let wish = json!({ "name": "a service", "scopes": scopes });
    let made = caller.post("/api/keys", wish).await.ok();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

async fn service(caller: &Caller) -> Client {
    let (_, key) = key(caller, &["sessions:read", "sessions:write"]).await;
    connect(caller.base(), Some(&key)).await.unwrap()
}

/// The stable code of a refusal.
fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|it| it.reason).unwrap_or_default()
}

fn said(status: &Status) -> (Code, String) {
    (status.code(), reason(status))
}

fn navigate(url: String) -> action::Kind {
    action::Kind::Navigate(v1::Navigate {
        url,
        ..v1::Navigate::default()
    })
}

fn result_of(reply: v1::PerformReply) -> outcome::Result {
    reply.outcome.unwrap().result.unwrap()
}

/// A stream of commands, and what says them.
struct Commands {
    say: mpsc::Sender<v1::PerformStreamRequest>,
    hear: Streaming<v1::PerformStreamReply>,
}

impl Commands {
    async fn open(client: &mut Client) -> Self {
        let (say, said) = mpsc::channel(256);
        let hear = client.perform_stream(ReceiverStream::new(said)).await;
        Self {
            say,
            hear: hear.unwrap().into_inner(),
        }
    }

    async fn ask(&self, id: &str, request: v1::PerformRequest) {
        let body = Some(perform_stream_request::Body::Perform(request));
        let id = id.to_owned();
        let asked = v1::PerformStreamRequest { id, body };
        self.say.send(asked).await.unwrap();
    }

    async fn cancel(&self, id: &str) {
        let body = Some(perform_stream_request::Body::Cancel(v1::Cancel {}));
        let id = id.to_owned();
        let asked = v1::PerformStreamRequest { id, body };
        self.say.send(asked).await.unwrap();
    }

    async fn hear(&mut self) -> (String, Result<v1::PerformReply, v1::Problem>) {
        let reply = timeout(SOON, self.hear.message()).await;
        let reply = reply.expect("it answers in time").unwrap().unwrap();
        let body = match reply.body.unwrap() {
            perform_stream_reply::Body::Done(done) => Ok(done),
            perform_stream_reply::Body::Problem(problem) => Err(problem),
        };
        (reply.id, body)
    }
}

#[tokio::test]
async fn who_may_do_what_is_as_everywhere() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let get = || v1::GetSessionRequest {
        session_id: session.id.clone(),
    };
    for credential in [None, Some("nonsense"), Some("bf_nonsense")] {
        let mut nobody = connect(alice.base(), credential).await.unwrap();
        let refused = nobody.get_session(get()).await.unwrap_err();
        let expected = (Code::Unauthenticated, "unauthenticated".to_owned());
        assert_eq!(said(&refused), expected);
    }
    let (_, read) = key(&alice, &["sessions:read"]).await;
    let mut reader = connect(alice.base(), Some(&read)).await.unwrap();
    let shown = reader.get_session(get()).await.unwrap().into_inner();
    assert_eq!(
        (shown.id.as_str(), shown.status.as_str()),
        (session.id.as_str(), "live")
    );
    let refused = reader.perform(perform(&session.id, script("1"))).await;
    let refused = refused.unwrap_err();
    let expected = (Code::PermissionDenied, "insufficient_scope".to_owned());
    assert_eq!(said(&refused), expected);

    // Another user's things do not exist.
    let mut bob = service(&world.user("bob").await).await;
    let expected = (Code::NotFound, "not_found".to_owned());
    let watch = v1::WatchEventsRequest {
        session_id: session.id.clone(),
        after_seq: None,
    };
    let frames = v1::WatchFramesRequest {
        session_id: session.id.clone(),
        ..v1::WatchFramesRequest::default()
    };
    let end = v1::EndSessionRequest {
        session_id: session.id.clone(),
    };
    let refusals = [
        bob.get_session(get()).await.unwrap_err(),
        bob.end_session(end).await.unwrap_err(),
        bob.watch_events(watch).await.err().unwrap(),
        bob.watch_frames(frames).await.err().unwrap(),
        bob.perform(perform(&session.id, script("1")))
            .await
            .unwrap_err(),
    ];
    for refused in &refusals {
        assert_eq!(said(refused), expected);
    }
    let list = bob.list_sessions(v1::ListSessionsRequest::default()).await;
    assert!(list.unwrap().into_inner().sessions.is_empty());
    // What is not there is said as gRPC says it.
    assert_eq!(
        alice
            .post("/grpc.health.v1.Other/Check", json!({}))
            .await
            .status,
        404
    );
    world.stop().await;
}

#[tokio::test]
async fn sessions_are_opened_listed_and_ended() {
    let world = World::new().await.unwrap();
    let mut client = service(&world.administrator().await).await;
    let wish = v1::OpenSessionRequest {
        options: Some(v1::SessionOptions {
            viewport: Some(v1::Viewport {
                width: 640,
                height: 480,
                scale: 0.0,
            }),
            dialogs: v1::DialogPolicy::Report.into(),
            ..v1::SessionOptions::default()
        }),
        name: "nightly".into(),
        metadata: [("team".to_owned(), "search".to_owned())].into(),
        wait_ms: 20_000,
        ..v1::OpenSessionRequest::default()
    };
    let opened = client
        .open_session(wish.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (opened.status.as_str(), opened.name.as_str()),
        ("live", "nightly")
    );
    let options = opened.options.clone().unwrap();
    assert_eq!(options.viewport.unwrap().width, 640);
    assert_eq!(options.dialogs(), v1::DialogPolicy::Report);
    assert!(opened.started_at_us > 0 && opened.ended_at_us == 0 && opened.queued.is_none());

    let of_team = |team: &str| v1::ListSessionsRequest {
        status: "live".into(),
        metadata: [("team".to_owned(), team.to_owned())].into(),
        ..v1::ListSessionsRequest::default()
    };
    let listed = client.list_sessions(of_team("search")).await.unwrap();
    assert_eq!(listed.into_inner().sessions[0].id, opened.id);
    let listed = client.list_sessions(of_team("other")).await.unwrap();
    assert!(listed.into_inner().sessions.is_empty());
    let odd = v1::ListSessionsRequest {
        status: "asleep".into(),
        ..v1::ListSessionsRequest::default()
    };
    let refused = client.list_sessions(odd).await.unwrap_err();
    assert_eq!(said(&refused), (Code::InvalidArgument, "invalid".into()));

    // The field at fault is named.
    let mut odd = wish;
    odd.options
        .as_mut()
        .unwrap()
        .viewport
        .as_mut()
        .unwrap()
        .width = 1_000_000;
    let refused = client.open_session(odd.clone()).await.unwrap_err();
    let bad = refused.get_details_bad_request().unwrap();
    assert_eq!(bad.field_violations[0].field, "viewport.width");
    odd.options.as_mut().unwrap().browser = 77;
    let refused = client.open_session(odd).await.unwrap_err();
    let bad = refused.get_details_bad_request().unwrap();
    assert_eq!(bad.field_violations[0].field, "options.browser");

    let end = v1::EndSessionRequest {
        session_id: opened.id.clone(),
    };
    let ended = client.end_session(end).await.unwrap().into_inner();
    assert_eq!(
        (ended.status.as_str(), ended.end_reason.as_str()),
        ("ended", "ended")
    );
    let gone = client.perform(perform(&opened.id, script("1"))).await;
    let gone = gone.unwrap_err();
    assert_eq!(
        said(&gone),
        (Code::FailedPrecondition, "session_gone".into())
    );
    let info = gone.get_details_error_info().unwrap();
    assert_eq!(info.metadata["end_reason"], "ended");
    world.stop().await;
}

#[tokio::test]
async fn every_command_does_what_it_does_over_rest() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut client = service(&alice).await;
    let id = session.id.clone();
    let mut run = async |kind: action::Kind| {
        let reply = client.perform(perform(&id, kind)).await;
        reply.map(tonic::Response::into_inner)
    };
    let reply = run(navigate(site.url("/"))).await.unwrap();
    assert!(reply.command_id.starts_with("cmd_"), "{}", reply.command_id);
    assert_eq!(reply.session_id, session.id);
    let outcome::Result::Navigated(went) = result_of(reply) else {
        panic!("it navigates")
    };
    assert_eq!((went.status, went.title.as_str()), (200, "A small page"));

    let typed = action::Kind::Type(v1::Type {
        selector: "#name".into(),
        text: "Ada".into(),
        submit: true,
        ..v1::Type::default()
    });
    let outcome::Result::Typed(typed) = result_of(run(typed).await.unwrap()) else {
        panic!("it types")
    };
    assert_eq!(typed.characters, 3);
    let click = action::Kind::Click(v1::Click {
        target: Some(v1::click::Target::Selector("#count".into())),
        ..v1::Click::default()
    });
    run(click).await.unwrap();
    let scroll = action::Kind::Scroll(v1::Scroll {
        to: Some(v1::scroll::To::Edge(v1::Edge::Bottom.into())),
    });
    let outcome::Result::Scrolled(to) = result_of(run(scroll).await.unwrap()) else {
        panic!("it scrolls")
    };
    assert!(to.y > 1000.0);
    let function = action::Kind::Execute(v1::Execute {
        source: Some(v1::execute::Source::Function(
            "async (n) => [n + 1, document.querySelector('#greeting').textContent, document.querySelector('#total').value]".into(),
        )),
        arguments_json: "[41]".into(),
        await_promise: None,
    });
    let value = value_of(&run(function).await.unwrap());
    assert_eq!(value, json!([42, "Hello, Ada", "1"]));
    let picture = run(action::Kind::Screenshot(v1::Screenshot {
        full_page: true,
        ..v1::Screenshot::default()
    }));
    let picture = picture.await.unwrap();
    assert!(picture.payload.starts_with(b"\x89PNG") && picture.payload.len() > 5_000);
    let outcome::Result::State(state) =
        result_of(run(action::Kind::State(v1::ReadState {})).await.unwrap())
    else {
        panic!("it tells its state")
    };
    assert_eq!(state.url, site.url("/"));

    // What is refused is refused as REST does it, with the same code.
    let nowhere = v1::PerformRequest {
        timeout_ms: 2_000,
        ..perform(
            &id,
            action::Kind::Click(v1::Click {
                target: Some(v1::click::Target::Selector("#nowhere".into())),
                ..v1::Click::default()
            }),
        )
    };
    let refused = client.perform(nowhere).await.unwrap_err();
    assert_eq!(
        said(&refused),
        (Code::FailedPrecondition, "selector_not_found".into())
    );
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.metadata["outcome"], "error");
    assert!(info.metadata["command_id"].starts_with("cmd_"));
    let mut run = async |kind: action::Kind| client.perform(perform(&id, kind)).await.unwrap_err();
    let refused = run(script("null.x")).await;
    assert_eq!(reason(&refused), "script_error");
    let info = refused.get_details_error_info().unwrap();
    let detail: Value = serde_json::from_str(&info.metadata["detail_json"]).unwrap();
    assert!(detail.is_object(), "{detail}");
    let refused = run(navigate("file:///etc/passwd".into())).await;
    assert_eq!(
        said(&refused),
        (Code::PermissionDenied, "url_blocked".into())
    );
    let refused = run(action::Kind::Click(v1::Click::default())).await;
    assert_eq!(said(&refused), (Code::InvalidArgument, "invalid".into()));
    let refused = run(action::Kind::Dialog(v1::AnswerDialog::default())).await;
    assert_eq!(reason(&refused), "no_dialog");
    let refused = client
        .perform(v1::PerformRequest {
            session_id: id.clone(),
            ..v1::PerformRequest::default()
        })
        .await
        .unwrap_err();
    let bad = refused.get_details_bad_request().unwrap();
    assert_eq!(bad.field_violations[0].field, "action");
    world.stop().await;
}

#[tokio::test]
async fn commands_of_a_stream_are_many_at_once_and_answered_by_their_ids() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut client = service(&alice).await;
    let mut commands = Commands::open(&mut client).await;
    let run = |expression: &str| perform(&session.id, script(expression));
    for number in 0..20 {
        commands
            .ask(&number.to_string(), run(&format!("{number} + 1")))
            .await;
    }
    let mut heard = Vec::new();
    for _ in 0..20 {
        let (id, done) = commands.hear().await;
        let number: u64 = id.parse().unwrap();
        assert_eq!(value_of(&done.unwrap()), number + 1);
        heard.push(number);
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..20).collect::<Vec<_>>());

    // What is wrong is told of that one alone.
    commands.ask("bad", run(&"x".repeat(2 << 20))).await;
    let (id, refused) = commands.hear().await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (id.as_str(), refused.code.as_str(), refused.field.as_str()),
        ("bad", "invalid", "expression")
    );
    assert_eq!(refused.status, Code::InvalidArgument as u32);
    commands.ask("", run("1")).await;
    assert_eq!(commands.hear().await.1.unwrap_err().field, "id");

    // One that runs for ever, one behind it, and its name once more.
    let endless = v1::PerformRequest {
        timeout_ms: 60_000,
        ..run("new Promise(() => {})")
    };
    commands.ask("endless", endless).await;
    eventually("it runs", SOON, || async {
        let commands = session.commands().await;
        commands.iter().any(|it| it["status"] == "pending")
    })
    .await;
    commands.ask("behind", run("7")).await;
    commands.ask("endless", run("1")).await;
    let (_, twice) = commands.hear().await;
    assert_eq!(twice.unwrap_err().field, "id");
    commands.cancel("endless").await;
    let (id, cancelled) = commands.hear().await;
    let cancelled = cancelled.unwrap_err();
    assert_eq!(
        (
            id.as_str(),
            cancelled.code.as_str(),
            cancelled.outcome.as_str()
        ),
        ("endless", "cancelled", "cancelled")
    );
    assert_eq!(cancelled.status, Code::Cancelled as u32);
    let (id, done) = commands.hear().await;
    assert_eq!(
        (id.as_str(), value_of(&done.unwrap())),
        ("behind", json!(7))
    );
    // What is done is not answered again.
    commands.cancel("endless").await;

    // The stream ends once all is said and answered.
    commands.ask("last", run("8")).await;
    let Commands { say, mut hear } = commands;
    drop(say);
    let last = hear.message().await.unwrap().unwrap();
    assert_eq!(last.id, "last");
    assert!(hear.message().await.unwrap().is_none());
    world.stop().await;
}

#[tokio::test]
async fn too_many_commands_at_once_are_refused_and_the_rest_goes_on() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut client = service(&alice).await;
    let mut commands = Commands::open(&mut client).await;
    let endless = v1::PerformRequest {
        timeout_ms: 60_000,
        ..perform(&session.id, script("new Promise(() => {})"))
    };
    for number in 0..65 {
        commands.ask(&number.to_string(), endless.clone()).await;
    }
    let (id, refused) = commands.hear().await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (id.as_str(), refused.code.as_str()),
        ("64", "quota_reached")
    );
    assert_eq!(refused.status, Code::ResourceExhausted as u32);
    assert!(refused.retryable && refused.retry_after_ms > 0);
    // Nobody is left to hear: what was admitted is taken back, and what was on its way
    // there is not even that.
    drop(commands);
    let latest = Instant::now() + SOON;
    loop {
        let commands = session.commands().await;
        let back = ["cancelled", "not_sent"];
        let left = commands
            .iter()
            .filter(|it| !back.contains(&it["status"].as_str().unwrap()));
        let left: Vec<_> = left.collect();
        if left.is_empty() && !commands.is_empty() {
            break;
        }
        assert!(
            Instant::now() < latest,
            "of {} these are left: {left:?}",
            commands.len()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn who_waits_no_longer_takes_the_command_back() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut client = service(&alice).await;
    let id = session.id.as_str();
    let endless = v1::PerformRequest {
        timeout_ms: 60_000,
        ..perform(id, script("new Promise(() => {})"))
    };
    let mut first = client.clone();
    let first = tokio::spawn(async move { first.perform(endless).await });
    eventually("the first runs", SOON, || async {
        session.commands().await.len() == 1
    })
    .await;

    // Behind it, for as long as its deadline says.
    let began = Instant::now();
    let mut behind = Request::new(perform(id, script("window.ran = 1")));
    behind.set_timeout(Duration::from_millis(300));
    let late = client.perform(behind).await.unwrap_err();
    assert!(
        matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{late:?}"
    );
    assert!(began.elapsed() < SOON);
    // Behind it too, and its caller leaves.
    let mut leaving = client.clone();
    let asked = perform(id, script("window.ran = 2"));
    let leaving = tokio::spawn(async move { leaving.perform(asked).await });
    eventually("the third waits", SOON, || async {
        session.commands().await.len() == 3
    })
    .await;
    leaving.abort();
    eventually("it is taken back", SOON, || async {
        session.commands().await[0]["status"] == "cancelled"
    })
    .await;
    // The first one's caller leaves as well; nothing that was taken back has run.
    first.abort();
    eventually("the first is taken back", SOON, || async {
        session.commands().await[2]["status"] == "cancelled"
    })
    .await;
    let late = session.commands().await[1]["status"].clone();
    assert!(late == "cancelled" || late == "timeout", "{late}");
    assert_eq!(session.value("window.ran ?? 0").await, 0);

    let mut odd = Request::new(perform(id, script("1")));
    let wrong = "soon".parse().unwrap();
    odd.metadata_mut().insert("grpc-timeout", wrong);
    let refused = client.perform(odd).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    world.stop().await;
}

async fn next_event(events: &mut Streaming<v1::WatchEventsReply>) -> watch_events_reply::Body {
    let said = timeout(SOON, events.message()).await;
    let said = said.expect("it is told in time").unwrap();
    said.expect("it goes on").body.unwrap()
}

async fn event_of_type(events: &mut Streaming<v1::WatchEventsReply>, kind: &str) -> v1::Event {
    loop {
        if let watch_events_reply::Body::Event(event) = next_event(events).await
            && event.r#type == kind
        {
            return event;
        }
    }
}

#[tokio::test]
async fn what_happens_is_told_and_goes_on_where_it_was() {
    use watch_events_reply::Body;
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut client = service(&alice).await;
    let watch = |after_seq: Option<u64>| v1::WatchEventsRequest {
        session_id: session.id.clone(),
        after_seq,
    };
    let mut events = client.watch_events(watch(None)).await.unwrap().into_inner();
    let Body::Standing(standing) = next_event(&mut events).await else {
        panic!("first it is told how it stands")
    };
    let standing: Value = serde_json::from_str(&standing.payload_json).unwrap();
    assert_eq!(standing["status"], "live");
    session.navigate(&site.url("/")).await.ok();
    let navigated = event_of_type(&mut events, "page.navigated").await;
    let payload: Value = serde_json::from_str(&navigated.payload_json).unwrap();
    assert_eq!(payload["url"], site.url("/"));
    assert!(navigated.at.ends_with('Z'), "{}", navigated.at);
    let finished = event_of_type(&mut events, "command.finished").await;
    assert!(finished.seq > navigated.seq);

    // Who comes back goes on; who was away for too long looks at everything again.
    let again = client.watch_events(watch(Some(navigated.seq))).await;
    let mut again = again.unwrap().into_inner();
    assert!(matches!(next_event(&mut again).await, Body::Standing(_)));
    let Body::Event(next) = next_event(&mut again).await else {
        panic!("it goes on where it was")
    };
    assert_eq!(next.seq, navigated.seq + 1);
    let long_ago = client.watch_events(watch(Some(1))).await;
    let mut long_ago = long_ago.unwrap().into_inner();
    assert!(matches!(next_event(&mut long_ago).await, Body::Standing(_)));
    assert!(matches!(next_event(&mut long_ago).await, Body::Resync(_)));

    session.end().await.ok();
    let ended = event_of_type(&mut events, "session.status").await;
    assert!(ended.payload_json.contains("end"), "{ended:?}");
    let rest = timeout(SOON, events.collect::<Vec<_>>()).await.unwrap();
    assert!(rest.iter().all(Result::is_ok), "it ends well: {rest:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_page_is_seen_as_it_changes() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let mut client = service(&alice).await;
    let watch = v1::WatchFramesRequest {
        session_id: session.id.clone(),
        max_width: 320,
        ..v1::WatchFramesRequest::default()
    };
    let odd = v1::WatchFramesRequest {
        max_fps: 1_000,
        ..watch.clone()
    };
    let refused = client.watch_frames(odd).await.err().unwrap();
    let bad = refused.get_details_bad_request().unwrap();
    assert_eq!(bad.field_violations[0].field, "max_fps");

    let mut frames = client.watch_frames(watch).await.unwrap().into_inner();
    let mut next = async || loop {
        let frame = timeout(SOON, frames.message()).await.unwrap().unwrap();
        let frame = frame.expect("it goes on");
        if frame.format() != v1::ImageFormat::Unspecified {
            return frame;
        }
    };
    let first = next().await;
    assert_eq!(first.format(), v1::ImageFormat::Jpeg);
    assert!(first.picture.starts_with(&[0xff, 0xd8]) && first.picture.len() > 500);
    assert!((first.width - 1280.0).abs() < 1.0, "{}", first.width);
    assert!(first.captured_at_us > 0 && !first.cursor.is_empty());
    session
        .value("document.body.style.background = 'green'")
        .await;
    let second = next().await;
    assert!(second.sequence > first.sequence);
    assert_ne!(second.picture, first.picture);
    session.end().await.ok();
    let ended = timeout(SOON, async {
        while frames.message().await.unwrap().is_some() {}
    });
    ended.await.expect("a view ends with its session");
    world.stop().await;
}

/// The status with which a stream ends.
async fn end_of<T>(mut stream: Streaming<T>) -> Code {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    };
    timeout(SOON, ended).await.expect("it ends")
}

#[tokio::test]
async fn streams_end_with_the_key_they_were_opened_with() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let (id, key) = key(&alice, &["sessions:read", "sessions:write"]).await;
    let mut client = connect(alice.base(), Some(&key)).await.unwrap();
    let watch = v1::WatchEventsRequest {
        session_id: session.id.clone(),
        after_seq: None,
    };
    let mut late = Request::new(watch.clone());
    late.set_timeout(Duration::from_millis(300));
    let late = client.watch_events(late).await.unwrap().into_inner();
    assert_eq!(end_of(late).await, Code::DeadlineExceeded);

    let events = client.watch_events(watch).await.unwrap().into_inner();
    let mut commands = Commands::open(&mut client).await;
    commands.ask("1", perform(&session.id, script("1"))).await;
    assert!(commands.hear().await.1.is_ok());
    let began = Instant::now();
    alice.delete(&format!("/api/keys/{id}")).await;
    assert_eq!(end_of(events).await, Code::Unauthenticated);
    assert_eq!(end_of(commands.hear).await, Code::Unauthenticated);
    assert!(began.elapsed() < REVOKED_WITHIN, "{:?}", began.elapsed());
    world.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_streams() {
    let mut world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut client = service(&alice).await;
    let watch = v1::WatchEventsRequest {
        session_id: session.id.clone(),
        after_seq: None,
    };
    let events = client.watch_events(watch).await.unwrap().into_inner();
    let commands = Commands::open(&mut client).await;
    let ended = tokio::spawn(end_of(events));
    // One who asks what there is, and then holds the stream open.
    let channel = tonic::transport::Endpoint::from_shared(alice.base().to_owned()).unwrap();
    let mut describing = ServerReflectionClient::new(channel.connect().await.unwrap());
    let (ask, asked) = mpsc::channel(1);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    ask.send(question).await.unwrap();
    let described = describing.server_reflection_info(ReceiverStream::new(asked));
    let mut described = described.await.unwrap().into_inner();
    assert!(described.message().await.unwrap().is_some());
    let began = Instant::now();
    assert!(world.terminate().await.success());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(ended.await.unwrap(), Code::Unavailable);
    assert_eq!(end_of(commands.hear).await, Code::Unavailable);
}

#[tokio::test]
async fn another_language_drives_it_by_reflection() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let alice = world.administrator().await;
    let (_, key) = key(&alice, &["sessions:read", "sessions:write"]).await;
    let address = alice.base().trim_start_matches("http://");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/services/grpc/client.py");
    let client = Command::new(python_of("grpc").unwrap())
        .args([script, address, &key, &site.url("/")])
        .kill_on_drop(true)
        .output();
    let client = timeout(ALL_DONE_WITHIN, client).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "{errors}");
    let seen: Value = serde_json::from_slice(&client.stdout).unwrap();
    let services = json!([
        "browserfleet.browser.v1.BrowserService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ]);
    let expected = json!({
        "services": services,
        "services_of_version_1": [services[0], services[1], "grpc.reflection.v1.ServerReflection"],
        "health": "SERVING",
        "health_watched": "SERVING",
        "health_of_others": { "status": "NOT_FOUND" },
        "stranger": { "status": "UNAUTHENTICATED", "reason": "unauthenticated" },
        "opened": "live",
        "title": "A small page",
        "picture": "PNG",
        "refused": { "status": "PERMISSION_DENIED", "reason": "url_blocked", "field": "url" },
        "failed": { "status": "FAILED_PRECONDITION", "reason": "script_error" },
        "standing": "live",
        "values": [0, 2, 4, 6, 8, 10, 12, 14, 16, 18],
        "told": "command.started",
        "listed": ["from Python"],
        "ended": "ended",
    });
    assert_eq!(seen, expected);
    assert!(!world.log().contains(&key), "no key is in the log");
    world.stop().await;
}

/// A client of CDP over gRPC.
struct Tunnel {
    say: mpsc::Sender<v1::TunnelRequest>,
    hear: Streaming<v1::MessagePiece>,
}

fn piece(data: &str, last: bool) -> v1::TunnelRequest {
    let data = data.to_owned().into();
    let piece = v1::MessagePiece { data, last };
    v1::TunnelRequest {
        body: Some(tunnel_request::Body::Piece(piece)),
    }
}

impl Tunnel {
    async fn open(client: &mut Client, first: v1::TunnelRequest) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(16);
        say.send(first).await.unwrap();
        let hear = client.tunnel(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, hear })
    }

    async fn join(client: &mut Client, session: &str, keep_alive: bool) -> Result<Self, Status> {
        let join = v1::JoinTunnel {
            session_id: session.to_owned(),
            target_id: String::new(),
            keep_alive,
        };
        let body = Some(tunnel_request::Body::Join(join));
        Self::open(client, v1::TunnelRequest { body }).await
    }

    async fn say(&self, message: &Value) {
        self.say
            .send(piece(&message.to_string(), true))
            .await
            .unwrap();
    }

    /// The answer to the message of this id.
    async fn answer(&mut self, id: u64) -> Value {
        let mut message = Vec::new();
        loop {
            let piece = timeout(SOON, self.hear.message()).await.unwrap();
            let piece = piece.unwrap().expect("it goes on");
            message.extend_from_slice(&piece.data);
            if piece.last {
                let said: Value = serde_json::from_slice(&message).unwrap();
                if said["id"] == id {
                    return said["result"].clone();
                }
                message.clear();
            }
        }
    }
}

#[tokio::test]
async fn a_client_of_cdp_joins_and_large_messages_go_through_in_pieces() {
    let world = World::new().await.unwrap();
    let alice = world.administrator().await;
    let session = alice.open(json!({})).await;
    let mut client = service(&alice).await;
    let mut bob = service(&world.user("bob").await).await;
    let refused = Tunnel::join(&mut bob, &session.id, false).await.err();
    assert_eq!(
        said(&refused.unwrap()),
        (Code::NotFound, "not_found".into())
    );
    let refused = Tunnel::open(&mut client, piece("{}", true)).await.err();
    let refused = refused.unwrap();
    let bad = refused.get_details_bad_request().unwrap();
    assert_eq!(bad.field_violations[0].field, "join");

    let mut tunnel = Tunnel::join(&mut client, &session.id, true).await.unwrap();
    tunnel
        .say
        .send(piece(r#"{"id":1,"method":"Browser."#, false))
        .await
        .unwrap();
    tunnel
        .say
        .send(piece(r#"getVersion"}"#, true))
        .await
        .unwrap();
    let version = tunnel.answer(1).await;
    assert!(
        version["product"].as_str().unwrap().contains("Chrome"),
        "{version}"
    );
    tunnel
        .say(&json!({ "id": 2, "method": "Target.getTargets" }))
        .await;
    let targets = tunnel.answer(2).await;
    let page = &targets["targetInfos"][0]["targetId"];
    let attach = json!({ "targetId": page, "flatten": true });
    tunnel
        .say(&json!({ "id": 3, "method": "Target.attachToTarget", "params": attach }))
        .await;
    let attached = tunnel.answer(3).await;
    let large = json!({ "expression": "'x'.repeat(5 << 20)", "returnByValue": true });
    tunnel
        .say(&json!({ "id": 4, "method": "Runtime.evaluate", "params": large, "sessionId": attached["sessionId"] }))
        .await;
    let large = tunnel.answer(4).await;
    assert_eq!(large["result"]["value"].as_str().unwrap().len(), 5 << 20);
    // Commands go on beside it, and its end ends nothing else where it is to be kept.
    assert_eq!(session.value("1 + 1").await, 2);
    tunnel
        .say(&json!({ "id": 5, "method": "Browser.close" }))
        .await;
    assert_eq!(end_of(tunnel.hear).await, Code::Ok);
    assert_eq!(session.value("1 + 1").await, 2);

    let tunnel = Tunnel::join(&mut client, &session.id, false).await.unwrap();
    tunnel
        .say(&json!({ "id": 1, "method": "Browser.close" }))
        .await;
    assert_eq!(end_of(tunnel.hear).await, Code::Ok);
    eventually("the session has ended", SOON, || async {
        session.show().await["status"] == "ended"
    })
    .await;
    let refused = Tunnel::join(&mut client, &session.id, false).await.err();
    assert_eq!(reason(&refused.unwrap()), "session_gone");
    world.stop().await;
}
