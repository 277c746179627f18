//! Clients against a Chrome that is played.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);
/// What the pipe between the two holds.
const PIPE_BYTES: usize = 64 * 1024;

/// The other end of the pipe.
struct Chrome {
    reads: BufReader<DuplexStream>,
    writes: DuplexStream,
}

struct Stage {
    chrome: Chrome,
    client: Client,
    killed: mpsc::Receiver<EndReason>,
    kill: mpsc::Sender<EndReason>,
}

fn stage() -> Stage {
    let (commands, chrome_in) = duplex(PIPE_BYTES);
    let (chrome_out, answers) = duplex(PIPE_BYTES);
    let (kill, killed) = mpsc::channel(1);
    Stage {
        chrome: Chrome {
            reads: BufReader::new(chrome_in),
            writes: chrome_out,
        },
        client: Client::start(commands, answers, |_, _| {}, || {}),
        killed,
        kill,
    }
}

impl Chrome {
    /// The next command.
    async fn hear(&mut self) -> Value {
        let mut frame = Vec::new();
        let read = self.reads.read_until(0, &mut frame);
        timeout(SOON, read)
            .await
            .expect("in time")
            .expect("a frame");
        frame.pop();
        serde_json::from_slice(&frame).expect("JSON")
    }

    /// Says something as it is.
    async fn say(&mut self, text: &str) {
        self.writes.write_all(text.as_bytes()).await.expect("room");
        self.writes.write_all(b"\0").await.expect("room");
    }

    /// Lets a client have the session of this name.
    async fn let_join(&mut self, session: &str) {
        let asked = self.hear().await;
        let id = &asked["id"];
        self.say(&format!(
            r#"{{"id":{id},"result":{{"sessionId":"{session}"}}}}"#
        ))
        .await;
    }
}

impl Stage {
    async fn join(&mut self, session: &str, keeps_browser: bool) -> Tunnel {
        let grounds = Grounds {
            client: self.client.clone(),
            folder: "/own".into(),
            downloads: "/own/downloads".into(),
            kill: self.kill.clone(),
        };
        let wish = TunnelWish {
            target: None,
            keeps_browser,
        };
        let mux = self.client.mux();
        let joining = mux.join(grounds, wish, Instant::now() + SOON);
        let (joined, ()) = tokio::join!(joining, self.chrome.let_join(session));
        joined.expect("it joined")
    }
}

async fn said(tunnel: &Tunnel) -> String {
    let part = timeout(SOON, tunnel.next()).await.expect("in time");
    let part = part.expect("something is said");
    assert!(part.last);
    String::from_utf8(part.data.to_vec()).expect("text")
}

async fn say(tunnel: &Tunnel, text: &str) {
    tunnel.say(Bytes::from(text.to_owned())).await;
}

#[tokio::test]
async fn each_has_its_own_ids_and_hears_its_own_answers() {
    let mut stage = stage();
    let (one, two) = (stage.join("S1", false).await, stage.join("S2", false).await);
    for tunnel in [&one, &two] {
        say(tunnel, r#"{"id":1,"method":"Browser.getVersion"}"#).await;
    }
    let (first, second) = (stage.chrome.hear().await, stage.chrome.hear().await);
    assert_eq!(
        (&first["sessionId"], &second["sessionId"]),
        (&"S1".into(), &"S2".into())
    );
    assert_ne!(first["id"], second["id"]);
    for (asked, answer) in [(&second, "b"), (&first, "a")] {
        let (id, session) = (&asked["id"], asked["sessionId"].as_str().expect("a name"));
        assert!(id.as_u64() >= Some(u64::from(TUNNELED)));
        let text = format!(r#"{{"id":{id},"result":{{"x":"{answer}"}},"sessionId":"{session}"}}"#);
        stage.chrome.say(&text).await;
    }
    assert_eq!(said(&one).await, r#"{"id":1,"result":{"x":"a"}}"#);
    assert_eq!(said(&two).await, r#"{"id":1,"result":{"x":"b"}}"#);
}

#[tokio::test]
async fn pages_are_followed_and_are_nobody_elses() {
    let mut stage = stage();
    let (one, two) = (stage.join("S1", false).await, stage.join("S2", false).await);
    let attached = |session: &str| json!({ "sessionId": session, "targetInfo": { "type": "page" }, "waitingForDebugger": false });
    let event = |params: &Value, on: &str| {
        format!(r#"{{"method":"Target.attachedToTarget","params":{params},"sessionId":"{on}"}}"#)
    };
    stage.chrome.say(&event(&attached("P1"), "S1")).await;
    let heard = said(&one).await;
    assert!(
        heard.ends_with(r#""waitingForDebugger":false}}"#),
        "{heard}"
    );
    // A frame within the page, which is told on the page's session.
    stage.chrome.say(&event(&attached("F1"), "P1")).await;
    assert!(said(&one).await.ends_with(r#","sessionId":"P1"}"#));
    let of_frame = r#"{"method":"Runtime.x","params":{},"sessionId":"F1"}"#;
    stage.chrome.say(of_frame).await;
    assert_eq!(said(&one).await, of_frame);

    say(&two, r#"{"id":3,"method":"Page.enable","sessionId":"P1"}"#).await;
    let refused: Value = serde_json::from_str(&said(&two).await).expect("JSON");
    assert_eq!(
        (&refused["id"], &refused["error"]["code"]),
        (&3.into(), &(-32001).into())
    );
    say(&one, r#"{"id":3,"method":"Page.enable","sessionId":"P1"}"#).await;
    assert_eq!(stage.chrome.hear().await["sessionId"], "P1");

    let gone =
        r#"{"method":"Target.detachedFromTarget","params":{"sessionId":"P1"},"sessionId":"S1"}"#;
    stage.chrome.say(gone).await;
    said(&one).await;
    say(&one, r#"{"id":4,"method":"Page.enable","sessionId":"P1"}"#).await;
    assert!(
        said(&one).await.contains("-32001"),
        "it is not there any more"
    );
    assert!(
        two.next().now_or_never().is_none(),
        "nobody else heard any of it"
    );
}

#[tokio::test]
async fn a_text_of_a_page_is_never_taken_for_the_name_of_a_session() {
    let mut stage = stage();
    let (one, two) = (stage.join("S1", false).await, stage.join("S2", false).await);
    let escaped =
        r#"{"method":"Runtime.x","params":{"text":"a\",\"sessionId\":\"S1\"}"},"sessionId":"S2"}"#;
    stage.chrome.say(escaped).await;
    assert!(said(&two).await.contains("S1"));
    assert!(one.next().now_or_never().is_none());
}

#[tokio::test]
async fn who_does_not_read_is_cut_and_the_other_goes_on() {
    let mut stage = stage();
    let (stalled, other) = (stage.join("S1", false).await, stage.join("S2", false).await);
    let line = "x".repeat(1024 * 1024);
    for number in 0..40 {
        let text = format!(r#"{{"method":"Log.x","params":{{"text":"{line}"}},"sessionId":"S1"}}"#);
        stage.chrome.say(&text).await;
        let text = format!(r#"{{"method":"Log.x","params":{{"n":{number}}},"sessionId":"S2"}}"#);
        stage.chrome.say(&text).await;
        assert_eq!(
            said(&other).await,
            format!(r#"{{"method":"Log.x","params":{{"n":{number}}}}}"#)
        );
    }
    assert_eq!(stalled.next().await, Err(TunnelEnd::Stalled));
}

#[tokio::test]
async fn who_leaves_is_detached_and_leaves_nothing() {
    let mut stage = stage();
    let one = stage.join("S1", false).await;
    say(&one, r#"{"id":1,"method":"Browser.getVersion"}"#).await;
    let asked = stage.chrome.hear().await;
    drop(one);
    let left = stage.chrome.hear().await;
    assert_eq!(left["method"], "Target.detachFromTarget");
    assert_eq!(left["params"]["sessionId"], "S1");
    // Its answer is nobody's.
    let id = &asked["id"];
    stage
        .chrome
        .say(&format!(r#"{{"id":{id},"result":{{}},"sessionId":"S1"}}"#))
        .await;
    let mux = stage.client.mux();
    let state = mux.state();
    assert!(state.joined.is_empty() && state.sessions.is_empty() && state.calls.is_empty());
}

#[tokio::test]
async fn a_pages_socket_is_that_page_alone() {
    let mut stage = stage();
    let grounds = Grounds {
        client: stage.client.clone(),
        folder: "/own".into(),
        downloads: "/own/downloads".into(),
        kill: stage.kill.clone(),
    };
    let wish = TunnelWish {
        target: Some("T1".into()),
        keeps_browser: false,
    };
    let mux = stage.client.mux();
    let joining = mux.join(grounds, wish, Instant::now() + SOON);
    let chrome = &mut stage.chrome;
    let letting = async {
        chrome.let_join("BASE").await;
        let asked = chrome.hear().await;
        assert_eq!(asked["sessionId"], "BASE");
        // As Chrome does: the event comes before the answer.
        chrome
            .say(r#"{"method":"Target.attachedToTarget","params":{"sessionId":"P1"},"sessionId":"BASE"}"#)
            .await;
        let id = &asked["id"];
        chrome
            .say(&format!(
                r#"{{"id":{id},"result":{{"sessionId":"P1"}},"sessionId":"BASE"}}"#
            ))
            .await;
    };
    let (joined, ()) = tokio::join!(joining, letting);
    let page = joined.expect("it joined");
    assert!(
        page.next().now_or_never().is_none(),
        "nothing is for it yet"
    );
    let text = r#"{"id":1,"method":"Target.getTargets","sessionId":"BASE"}"#;
    say(&page, text).await;
    assert!(said(&page).await.contains("-32001"));
    say(&page, r#"{"id":2,"method":"Page.enable"}"#).await;
    assert_eq!(stage.chrome.hear().await["sessionId"], "P1");
}

#[tokio::test]
async fn calls_on_a_page_that_has_gone_wait_no_more() {
    let mut stage = stage();
    let one = stage.join("S1", false).await;
    let attached =
        r#"{"method":"Target.attachedToTarget","params":{"sessionId":"P1"},"sessionId":"S1"}"#;
    stage.chrome.say(attached).await;
    said(&one).await;
    for text in [
        r#"{"id":1,"method":"Runtime.evaluate","sessionId":"P1"}"#,
        r#"{"id":2,"method":"Browser.getVersion"}"#,
    ] {
        say(&one, text).await;
        stage.chrome.hear().await;
    }
    let gone =
        r#"{"method":"Target.detachedFromTarget","params":{"sessionId":"P1"},"sessionId":"S1"}"#;
    stage.chrome.say(gone).await;
    said(&one).await;
    let mux = stage.client.mux();
    let state = mux.state();
    let waiting: usize = state.joined.values().map(|it| it.calls).sum();
    assert_eq!((state.calls.len(), waiting), (1, 1));
}

#[tokio::test]
async fn to_close_the_browser_is_the_sessions_end_unless_it_is_kept() {
    let mut stage = stage();
    let keeps = stage.join("S1", true).await;
    say(&keeps, r#"{"id":1,"method":"Browser.close"}"#).await;
    assert_eq!(said(&keeps).await, r#"{"id":1,"result":{}}"#);
    assert_eq!(keeps.next().await, Err(TunnelEnd::Closed));
    assert!(stage.killed.try_recv().is_err());
    let closes = stage.join("S2", false).await;
    say(&closes, r#"{"id":1,"method":"Browser.close"}"#).await;
    assert_eq!(said(&closes).await, r#"{"id":1,"result":{}}"#);
    assert_eq!(stage.chrome.hear().await["method"], "Browser.close");
    assert_eq!(stage.killed.try_recv(), Ok(EndReason::BrowserClosed));
}

#[tokio::test]
async fn all_hear_that_the_browser_is_gone() {
    let mut stage = stage();
    let one = stage.join("S1", false).await;
    drop(stage.chrome);
    let end = timeout(SOON, one.next()).await.expect("in time");
    assert_eq!(end, Err(TunnelEnd::BrowserGone));
}
