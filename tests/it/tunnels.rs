//! Tunnels hold whatever clients do: too much, too little, nonsense, at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use browserfleet_tests::api::{Caller, Session};
use browserfleet_tests::cdp::Cdp;
use browserfleet_tests::eventually;
use browserfleet_tests::processes::memory;
use browserfleet_tests::site::Site;
use browserfleet_tests::wall_clock::WallClock;
use browserfleet_tests::world::{Plan, World};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const MIB: usize = 1024 * 1024;

async fn ready() -> (World, Caller, Session) {
    ready_with(Plan::default()).await
}

async fn ready_with(plan: Plan) -> (World, Caller, Session) {
    let world = plan.start().await.unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    (world, alice, session)
}

/// The same, where tunnels are counted.
async fn ready_and_measured() -> (World, Caller, Session) {
    ready_with(Plan::default().with("METRICS_LISTEN", "127.0.0.1:0")).await
}

/// How many tunnels there are; `None` where there never was one.
async fn tunnels(world: &World) -> Option<f64> {
    world.metrics().await.value("browserfleet_tunnels")
}

/// How soon those who left are counted no more, also on a busy machine.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

async fn ended_as(session: &Session, reason: &str) {
    eventually("the session is over", Duration::from_secs(10), || async {
        session.show().await["end_reason"] == reason
    })
    .await;
}

#[tokio::test]
async fn addresses_are_told_as_chrome_tells_them() {
    let (world, alice, session) = ready().await;
    let token = alice.token();
    let nobody = world.nobody();
    for path in ["/json/version", "/json/version/"] {
        let told = alice.get(path).await;
        assert_eq!(
            told.headers["content-type"],
            "application/json; charset=UTF-8"
        );
        let told = told.ok();
        let socket = told["webSocketDebuggerUrl"].as_str().unwrap();
        let own = world.api.replacen("http", "ws", 1);
        assert!(
            socket.starts_with(&format!("{own}/devtools/browser/new?token=tkt_")),
            "{socket}"
        );
    }
    let path = format!("/json/version?token={token}&session_id={}", session.id);
    let named = nobody.get(&path).await.ok();
    assert!(
        named["Browser"].as_str().unwrap().contains("Chrome/"),
        "{named}"
    );
    let socket = named["webSocketDebuggerUrl"].as_str().unwrap();
    let mut joined = Cdp::dial(socket).await.unwrap();
    joined.ask(None, "Browser.getVersion", json!({})).await;
    assert_eq!(Cdp::dial(socket).await.err(), Some(401), "it is good once");
    joined.leave().await;

    // Who says who they are in a header says so to the socket too, and uses up nothing.
    let pages = alice.get("/json/list").await.ok();
    let socket = pages[0]["webSocketDebuggerUrl"].as_str().unwrap();
    assert!(!socket.contains("token="), "{socket}");
    let pages = nobody.get(&format!("/json/list?token={token}")).await.ok();
    assert_eq!(pages.as_array().map(Vec::len), Some(1), "{pages}");
    assert_eq!(pages[0]["type"], "page");
    let mut page = Cdp::dial(pages[0]["webSocketDebuggerUrl"].as_str().unwrap())
        .await
        .unwrap();
    let sum = page
        .ask(None, "Runtime.evaluate", json!({ "expression": "1 + 1" }))
        .await;
    assert_eq!(sum["result"]["result"]["value"], 2);
    assert!(
        sum.get("sessionId").is_none(),
        "its socket is the page: {sum}"
    );
    let target = pages[0]["id"].as_str().unwrap();
    // As clients dial that keep nothing but the query.
    let again = Cdp::open(&alice, &format!("/devtools/page/{target}")).await;
    again.unwrap().leave().await;
    assert_eq!(alice.get("/json/new").await.status, 405);
    let closed = alice.get(&format!("/json/close/{target}")).await;
    assert_eq!(&closed.body[..], b"Target is closing");
    let end = page.closed().await;
    assert_eq!(
        (end.code, end.reason.contains(&session.id)),
        (Some(1000), true),
        "{end:?}"
    );
    let domains = nobody.get("/json/protocol").await.ok();
    assert!(domains["domains"].as_array().unwrap().len() > 40);

    let bob = world.user("bob").await;
    for (caller, expected) in [(&nobody, 401), (&bob, 404)] {
        let path = format!("/devtools/browser/{}", session.id);
        assert_eq!(Cdp::open(caller, &path).await.err(), Some(expected));
        let path = format!("/devtools/page/{target}");
        assert_eq!(Cdp::open(caller, &path).await.err(), Some(expected));
    }
    world.stop().await;
}

/// Longer than a ticket lives, in seconds: it does so for 30.
const TICKET_TOO_OLD: i64 = 31;
/// Longer than an access token lives, in seconds: it does so for ten minutes.
const TOKEN_TOO_OLD: i64 = 60 * 60;
/// How soon what the control plane says is read, on a busy machine.
const LOGGED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn who_may_not_is_told_so_before_there_is_a_socket() {
    let clock = WallClock::new().unwrap();
    // Each request is a line of the log, with its path.
    let plan = Plan::default().with("LOG", "info,sqlx=warn,browserfleet_control_plane=debug");
    let plan = clock
        .environment()
        .into_iter()
        .fold(plan, |plan, (name, value)| plan.with_variable(name, value));
    let (world, alice, session) = ready_with(plan).await;
    let other = alice.open(json!({})).await;
    let door = |session: &Session| format!("/devtools/browser/{}", session.id);
    let refused = async |caller: &Caller, session: &Session| {
        let opened = Cdp::open(caller, &door(session)).await;
        opened.err().expect("it is refused")
    };
    let ticket = async || {
        let wish = json!({ "session_id": session.id });
        let given = alice.post("/api/ws-ticket", wish).await.ok();
        alice.with_token(given["ticket"].as_str().unwrap())
    };
    let nonsense = alice.with_token("nonsense");
    assert_eq!(refused(&nonsense, &session).await, 401);

    let astray = ticket().await;
    assert_eq!(refused(&astray, &other).await, 404, "it is another one's");
    assert_eq!(refused(&astray, &session).await, 401, "it was used");
    let late = ticket().await;
    clock.set(TICKET_TOO_OLD).unwrap();
    assert_eq!(refused(&late, &session).await, 401, "it is too old");
    clock.set(TOKEN_TOO_OLD).unwrap();
    assert_eq!(refused(&alice, &session).await, 401, "it has expired");
    clock.set(0).unwrap();

    let good = ticket().await;
    Cdp::browser(&good, &session.id).await.leave().await;
    Cdp::browser(&alice, &session.id).await.leave().await;
    eventually("both are logged", LOGGED_WITHIN, || async {
        let log = world.log();
        log.matches("a client of CDP connects").count() == 2
    })
    .await;
    let log = world.log();
    assert!(log.contains(&door(&session)), "paths are logged");
    for secret in [&astray, &late, &good, &alice] {
        assert!(!log.contains(secret.token()), "tokens are not");
    }
    world.stop().await;
}

#[tokio::test]
async fn large_messages_pass_and_larger_ones_end_with_the_limit() {
    let (world, alice, session) = ready().await;
    let mut client = Cdp::browser(&alice, &session.id).await;
    let page = client.attach().await;
    let long = format!("'{}'.length", "x".repeat(90 * MIB));
    let evaluate = |expression: String| json!({ "expression": expression, "returnByValue": true });
    let told = client
        .ask(Some(&page), "Runtime.evaluate", evaluate(long))
        .await;
    assert_eq!(told["result"]["result"]["value"], 90 * MIB);
    let large = evaluate(format!("'x'.repeat({})", 150 * MIB));
    let told = client.ask(Some(&page), "Runtime.evaluate", large).await;
    let text = told["result"]["result"]["value"].as_str().unwrap();
    assert_eq!(text.len(), 150 * MIB);
    let larger = evaluate(format!("'x'.repeat({})", 300 * MIB));
    let end = client
        .try_ask(Some(&page), "Runtime.evaluate", larger)
        .await;
    let end = end.unwrap_err();
    assert_eq!(end.code, Some(1009), "{end:?}");
    assert!(end.reason.contains(&(256 * MIB).to_string()), "{end:?}");

    let mut client = Cdp::browser(&alice, &session.id).await;
    let (said, end) = {
        let said = client.say("x".repeat(101 * MIB)).await;
        (said, client.closed().await)
    };
    assert_eq!(end.code, Some(1009), "{said} {end:?}");
    assert!(end.reason.contains(&(100 * MIB).to_string()), "{end:?}");
    assert_eq!(session.value("1 + 1").await, 2, "nobody else is hurt");
    world.stop().await;
}

#[tokio::test]
async fn who_does_not_read_holds_little_and_hurts_nobody() {
    let (world, alice, session) = ready().await;
    let mut stalled = Cdp::browser(&alice, &session.id).await;
    let page = stalled.attach().await;
    stalled.ask(Some(&page), "Runtime.enable", json!({})).await;
    let before: u64 = world.agents().iter().map(|it| memory(*it)).sum();
    let log = "(() => { const line = 'x'.repeat(200); setInterval(() => { for (let i = 0; i < 500; i++) console.log(line); }, 50); })()";
    let began = Instant::now();
    session
        .command("execute", json!({ "expression": log }))
        .await
        .ok();
    // It logs 10,000 lines a second, of 200 characters each, and is not read.
    let mut worst = Duration::ZERO;
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(10) {
        let asked = Instant::now();
        assert_eq!(session.value("1 + 1").await, 2);
        worst = worst.max(asked.elapsed());
        most = most.max(world.agents().iter().map(|it| memory(*it)).sum());
    }
    assert!(worst < Duration::from_secs(3), "{worst:?}");
    let grown = most.saturating_sub(before) / MIB as u64;
    assert!(grown < 64, "an agent grew by {grown} MiB");
    let end = stalled.closed().await;
    assert!(matches!(end.code, Some(1008) | None), "{end:?}");
    assert!(began.elapsed() < Duration::from_secs(45));
    world.stop().await;
}

/// How long a small file may take to be there: the browser asks a site on its own
/// machine, and others may keep that busy.
const DOWNLOADED_WITHIN: Duration = Duration::from_secs(20);

/// The names of all that the session's browser has downloaded.
async fn downloads(session: &Session) -> BTreeSet<String> {
    let path = format!("/api/sessions/{}/downloads", session.id);
    let listed = session.caller.get(&path).await.ok();
    let files = listed["data"].as_array().unwrap().iter();
    files
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Has a page load a file, and gives what is in it, once it is among the session's.
async fn downloaded(client: &mut Cdp, page: &str, session: &Session, url: &str) -> String {
    let before = downloads(session).await;
    let told = client
        .ask(Some(page), "Page.navigate", json!({ "url": url }))
        .await;
    assert!(told["error"].is_null(), "{told}");
    eventually("the file is listed", DOWNLOADED_WITHIN, || async {
        downloads(session).await.len() > before.len()
    })
    .await;
    let after = downloads(session).await;
    let name = after.difference(&before).next().unwrap();
    let path = format!("/api/sessions/{}/downloads/{name}", session.id);
    let file = session.caller.get(&path).await;
    assert_eq!(file.status, 200, "{name}: {file:?}");
    String::from_utf8(file.body.to_vec()).unwrap()
}

/// The id of what is said as it is written here. No question of [`Cdp::ask`] has it.
const RAW_ID: u32 = 1_000_000;
/// Lists in lists: more than our reader of JSON takes, which gives up at 128, and fewer
/// than Chrome's, which takes 300.
const NESTED: usize = 150;

/// Says a command with these parameters, letter for letter, and gives its answer.
async fn ask_raw(client: &mut Cdp, session: Option<&str>, method: &str, params: &str) -> Value {
    let session = session.map_or_else(String::new, |it| format!(r#","sessionId":"{it}""#));
    let command = format!(r#"{{"id":{RAW_ID},"method":"{method}","params":{params}{session}}}"#);
    assert!(client.say(command).await, "the socket is open");
    loop {
        let said = client.next().await.unwrap();
        if said["id"] == RAW_ID {
            return said;
        }
    }
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_sessions_folder() {
    let (world, alice, session) = ready().await;
    let site = Site::start().await.unwrap();
    let mut client = Cdp::browser(&alice, &session.id).await;
    let page = client.attach().await;
    let foreign = world.folder().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let linked = world.folder().join("linked");
    std::os::unix::fs::symlink(&foreign, &linked).unwrap();
    for (on, method, folder, name) in [
        (None, "Browser.setDownloadBehavior", &foreign, "one.bin"),
        (None, "Browser.setDownloadBehavior", &linked, "two.bin"),
        (
            Some(page.as_str()),
            "Page.setDownloadBehavior",
            &foreign,
            "three.bin",
        ),
        (
            Some(page.as_str()),
            "Page.setDownloadBehavior",
            &linked,
            "four.bin",
        ),
    ] {
        let wish = json!({ "behavior": "allow", "downloadPath": folder });
        let told = client.ask(on, method, wish).await;
        assert!(told["error"].is_null(), "{told}");
        let url = site.url(&format!("/download/{name}"));
        let file = downloaded(&mut client, &page, &session, &url).await;
        assert_eq!(file, name, "{method}");
        let written = std::fs::read_dir(&foreign).unwrap().count();
        assert_eq!(written, 0, "{method}");
    }
    // What Chrome can read and the rules cannot is not Chrome's to judge.
    let nested = format!("{}{}", "[".repeat(NESTED), "]".repeat(NESTED));
    let folder = json!(foreign);
    for (on, method, params) in [
        (
            None,
            "Browser.setDownloadBehavior",
            format!(r#"{{"behavior":"allow","downloadPath":{folder},"z":"\ud800"}}"#),
        ),
        (
            Some(page.as_str()),
            "Page.navigate",
            r#"{"url":"file:///etc/passwd","referrer":"\ud800"}"#.to_owned(),
        ),
        (
            Some(page.as_str()),
            "Page.navigate",
            format!(r#"{{"url":"file:///etc/passwd","z":{nested}}}"#),
        ),
    ] {
        let told = ask_raw(&mut client, on, method, &params).await;
        let said = told["error"]["message"].as_str().unwrap_or_default();
        assert!(said.contains("its parameters cannot be read"), "{told}");
    }
    let url = site.url("/download/five.bin");
    let file = downloaded(&mut client, &page, &session, &url).await;
    assert_eq!(file, "five.bin");
    let files = json!({ "files": ["/etc/passwd"], "nodeId": 1 });
    let told = client
        .ask(Some(&page), "DOM.setFileInputFiles", files)
        .await;
    assert!(
        told["error"]["message"]
            .as_str()
            .unwrap()
            .contains("your machine"),
        "{told}"
    );
    let go = json!({ "url": "file:///etc/passwd" });
    let told = client.ask(Some(&page), "Page.navigate", go).await;
    assert!(told["error"].is_object(), "{told}");
    let shown = session.value("location.protocol").await;
    assert_ne!(shown, "file:");
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 0);
    world.stop().await;
}

#[tokio::test]
async fn whoever_ends_the_browser_ends_the_session() {
    let world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let mut client = Cdp::browser(&alice, &session.id).await;
    let told = client.ask(None, "Browser.close", json!({})).await;
    assert_eq!(told["result"], json!({}));
    let end = client.closed().await;
    assert_eq!(end.code, Some(1000), "{end:?}");
    ended_as(&session, "browser_closed").await;

    let session = alice.open(json!({})).await;
    let mut client = Cdp::browser(&alice, &session.id).await;
    client
        .say(json!({ "id": 1, "method": "Browser.crash" }).to_string())
        .await;
    let end = client.closed().await;
    assert_eq!(end.code, Some(1011), "{end:?}");
    ended_as(&session, "browser_crashed").await;

    // Whoever closes all pages finds a fresh one, as commands do.
    let session = alice.open(json!({})).await;
    let mut client = Cdp::browser(&alice, &session.id).await;
    let told = client.ask(None, "Target.getTargets", json!({})).await;
    for info in told["result"]["targetInfos"].as_array().unwrap() {
        let close = json!({ "targetId": info["targetId"] });
        client.ask(None, "Target.closeTarget", close).await;
    }
    assert_eq!(session.value("1 + 1").await, 2);
    let extra = alice.open(json!({})).await;
    assert_eq!(
        extra.show().await["status"],
        "live",
        "places are free again"
    );
    world.stop().await;
}

#[tokio::test]
async fn twenty_may_join_and_who_leaves_makes_room() {
    let (world, alice, session) = ready_and_measured().await;
    let path = format!("/devtools/browser/{}", session.id);
    let mut joined = Vec::new();
    for _ in 0..20 {
        joined.push(Cdp::open(&alice, &path).await.unwrap());
    }
    assert_eq!(Cdp::open(&alice, &path).await.err(), Some(429));
    assert_eq!(tunnels(&world).await, Some(20.0));
    // Some close, some are just gone, in an order that is none.
    for round in 0..100_usize {
        for step in 0..10 {
            let gone = joined.swap_remove((round * 7 + step * 3) % joined.len());
            if step % 2 == 0 {
                gone.leave().await;
            }
        }
        for _ in 0..10 {
            joined.push(join_soon(&alice, &path).await);
        }
        // Who left may still be counted; nobody is taken off twice.
        let counted = tunnels(&world).await;
        assert!(counted >= Some(20.0), "round {round}: {counted:?}");
    }
    assert_eq!(Cdp::open(&alice, &path).await.err(), Some(429));
    for client in &mut joined {
        client.ask(None, "Browser.getVersion", json!({})).await;
    }
    eventually("twenty are counted", COUNTED_WITHIN, || async {
        tunnels(&world).await == Some(20.0)
    })
    .await;
    drop(joined);
    eventually("none is counted", COUNTED_WITHIN, || async {
        tunnels(&world).await == Some(0.0)
    })
    .await;
    let mut again = Vec::new();
    for _ in 0..20 {
        again.push(join_soon(&alice, &path).await);
    }
    world.stop().await;
}

/// How soon a client is gone whose machine is: it is sent something each 5 s, which has
/// to be acknowledged within 20 s. The rest is for a busy machine.
const LOST_WITHIN: Duration = Duration::from_secs(30);
/// How long others may wait for an answer meanwhile, on a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// How often the others ask: often enough to notice if they had to wait once.
const ASKED_EVERY: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_client_whose_machine_is_gone_is_gone_soon() {
    let (world, alice, session) = ready_and_measured().await;
    let mut stays = Cdp::browser(&alice, &session.id).await;
    let lost = Cdp::browser(&alice, &session.id).await;
    assert_eq!(tunnels(&world).await, Some(2.0));
    lost.lose_network();
    let since = Instant::now();
    while tunnels(&world).await != Some(1.0) {
        assert!(since.elapsed() < LOST_WITHIN, "it is still joined");
        let asked = Instant::now();
        stays.ask(None, "Browser.getVersion", json!({})).await;
        let took = asked.elapsed();
        assert!(took < ANSWERED_WITHIN, "{took:?}");
        tokio::time::sleep(ASKED_EVERY).await;
    }
    // It was held until here: nothing on its side closed it.
    drop(lost);
    stays.ask(None, "Browser.getVersion", json!({})).await;
    stays.leave().await;
    eventually("none is counted", COUNTED_WITHIN, || async {
        tunnels(&world).await == Some(0.0)
    })
    .await;
    world.stop().await;
}

/// Joins once there is room: who has left is known to have a moment later.
async fn join_soon(caller: &Caller, path: &str) -> Cdp {
    let latest = Instant::now() + Duration::from_secs(10);
    loop {
        match Cdp::open(caller, path).await {
            Ok(joined) => return joined,
            Err(status) => {
                assert_eq!(status, 429);
                assert!(Instant::now() < latest, "there is no room");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[tokio::test]
async fn nonsense_is_answered_to_whoever_says_it() {
    let (world, alice, session) = ready().await;
    let mut client = Cdp::browser(&alice, &session.id).await;
    let deep = format!(
        r#"{{"id":5,"method":"Runtime.evaluate","params":{{"x":{}{}}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    for (text, code) in [
        ("{", -32700),
        (r#"{"method":"Browser.getVersion"}"#, -32600),
        (
            r#"{"id":9007199254740992,"method":"Browser.getVersion"}"#,
            -32600,
        ),
        (r#"{"id":1}"#, -32600),
        (r#"{"id":1,"method":"No.such"}"#, -32601),
        (
            r#"{"id":1,"method":"Browser.getVersion","sessionId":"none"}"#,
            -32001,
        ),
    ] {
        client.say(text).await;
        let told = client.next().await.unwrap();
        assert_eq!(told["error"]["code"], code, "{text}: {told}");
    }
    client.say(deep).await;
    let told = client.next().await.unwrap();
    assert!(told["error"].is_object(), "{told}");
    for _ in 0..2 {
        client
            .say(r#"{"id":7,"method":"Browser.getVersion"}"#)
            .await;
    }
    for _ in 0..2 {
        let told: Value = client.next().await.unwrap();
        assert_eq!(told["id"], 7, "an id may be used again");
    }
    client.send(Message::binary(vec![0, 1, 2])).await;
    assert_eq!(client.closed().await.code, Some(1003));
    // Nobody reaches another's pages by the name of their session.
    let mut alone = Cdp::browser(&alice, &session.id).await;
    let theirs = alone.attach().await;
    let mut other = Cdp::browser(&alice, &session.id).await;
    let told = other.ask(Some(&theirs), "Runtime.enable", json!({})).await;
    assert_eq!(told["error"]["code"], -32001, "{told}");
    assert_eq!(session.value("1 + 1").await, 2);
    world.stop().await;
}

#[tokio::test]
async fn who_may_no_longer_is_closed() {
    let (world, alice, session) = ready().await;
    let wish = json!({ "name": "k", "scopes": ["sessions:read", "sessions:write"] });
    let key = alice.post("/api/keys", wish).await.ok();
    let holder = alice.with_token(key["key"].as_str().unwrap());
    let mut client = Cdp::browser(&holder, &session.id).await;
    let mut stays = Cdp::browser(&alice, &session.id).await;
    let path = format!("/api/keys/{}", key["id"].as_str().unwrap());
    let revoked = Instant::now();
    assert_eq!(alice.delete(&path).await.status, 204);
    assert_eq!(client.closed().await.code, Some(4401));
    assert!(revoked.elapsed() < Duration::from_secs(5));
    stays.ask(None, "Browser.getVersion", json!({})).await;
    let path = format!("/devtools/browser/{}", session.id);
    assert_eq!(Cdp::open(&holder, &path).await.err(), Some(401));
    let reads = json!({ "name": "r", "scopes": ["sessions:read"] });
    let key = alice.post("/api/keys", reads).await.ok();
    let reader = alice.with_token(key["key"].as_str().unwrap());
    assert_eq!(Cdp::open(&reader, &path).await.err(), Some(403));
    session.end().await.ok();
    assert_eq!(stays.closed().await.code, Some(1000));
    assert_eq!(Cdp::open(&alice, &path).await.err(), Some(410));
    world.stop().await;
}

#[tokio::test]
async fn a_session_without_activity_ends_with_its_own_code() {
    let world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({ "idle_timeout_ms": 1500 })).await;
    let mut client = Cdp::browser(&alice, &session.id).await;
    // What the client says is activity.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        client.ask(None, "Browser.getVersion", json!({})).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(client.closed().await.code, Some(4002));
    let session = alice.open(json!({ "timeout_ms": 2000 })).await;
    let mut client = Cdp::browser(&alice, &session.id).await;
    assert_eq!(client.closed().await.code, Some(4001));
    world.stop().await;
}

#[tokio::test]
async fn a_session_is_opened_and_kept_where_the_client_says_so() {
    let mut world = World::new().await.unwrap();
    let alice = world.user("alice").await;
    let status = async |id: &str| {
        let session = alice.get(&format!("/api/sessions/{id}")).await.ok();
        session["status"].clone()
    };
    // The first instance takes longer than clients wait for a session.
    alice.open(json!({})).await.end().await.ok();
    let kept = Cdp::open(&alice, "/devtools/browser/new?keep_alive=true")
        .await
        .unwrap();
    let id = kept.session.clone();
    kept.leave().await;
    let mut again = Cdp::browser(&alice, &id).await;
    again.ask(None, "Browser.getVersion", json!({})).await;
    let brief = Cdp::open(&alice, "/devtools/browser/new").await.unwrap();
    let brief_id = brief.session.clone();
    assert_ne!(brief_id, id);
    drop(brief);
    eventually(
        "it went with its client",
        Duration::from_secs(10),
        || async { status(&brief_id).await == "ended" },
    )
    .await;
    assert_eq!(status(&id).await, "live");

    let take = json!({ "action": "take" });
    let held = alice
        .post(&format!("/api/sessions/{id}/control"), take)
        .await;
    assert_eq!(held.status, 200, "{held:?}");
    let path = format!("/devtools/browser/{id}");
    assert_eq!(Cdp::open(&alice, &path).await.err(), Some(423));
    // A person drives: nobody closes a page under their hands, or opens one over it.
    let pages = format!("/json/list?session_id={id}");
    let pages = alice.get(&pages).await.ok();
    let target = pages[0]["id"].as_str().unwrap();
    for path in ["close", "activate"] {
        let path = format!("/json/{path}/{target}?session_id={id}");
        assert_eq!(alice.get(&path).await.status, 423, "{path}");
    }
    again.ask(None, "Browser.getVersion", json!({})).await;

    let (end, stopped) = tokio::join!(again.closed(), world.terminate());
    assert_eq!((end.code, stopped.success()), (Some(1001), true), "{end:?}");
}
