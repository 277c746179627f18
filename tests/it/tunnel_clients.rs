//! Clients of CDP from npm work unchanged, over a tunnel, beside all else.

use std::time::Duration;

use browserfleet_tests::api::Caller;
use browserfleet_tests::eventually;
use browserfleet_tests::services::{client, run_client};
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

/// A key of this user: what programs have.
async fn key_of(caller: &Caller) -> String {
    let wish = json!({ "name": "cdp", "scopes": ["sessions:read", "sessions:write"] });
    caller.post("/api/keys", wish).await.ok()["key"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// How many of the user's sessions are not over.
async fn sessions_of(caller: &Caller) -> usize {
    let all = caller.get("/api/sessions").await.ok();
    let all = all["data"].as_array().cloned().unwrap_or_default();
    all.iter().filter(|it| it["status"] != "ended").count()
}

async fn playwright(part: &str, address: &str, site: &Site) -> Value {
    let did = run_client("playwright.js", &[part, address, &site.url("")]).await;
    did.unwrap_or_else(|error| panic!("{part}: {error:#}"))
}

#[tokio::test]
async fn playwright_finds_a_browser_of_its_own_and_leaves_none() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let address = format!("{}?token={}", world.api, key_of(&alice).await);
    let did = playwright("pages", &address, &site).await;
    assert_eq!(did["first"], "about:blank");
    assert_eq!(did["apart"], "", "contexts share nothing");
    assert_eq!(did["total"], "1");
    assert_eq!(did["popupTitle"], "Second");
    assert_eq!(did["framed"], "Framed");
    assert_eq!(did["frameTitle"], "Second");
    eventually("its session is over", Duration::from_secs(10), || async {
        sessions_of(&alice).await == 0
    })
    .await;
    // Only the full browser keeps sites in processes of their own.
    let full = alice.open(json!({ "browser": "full" })).await;
    let address = format!("{address}&session_id={}", full.id);
    let did = playwright("pages", &address, &site).await;
    assert_eq!(
        (&did["frameTitle"], &did["outOfProcess"]),
        (&"Second".into(), &1.into())
    );
    world.stop().await;
}

#[tokio::test]
async fn playwright_intercepts_uploads_traces_and_prints() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let key = key_of(&alice).await;
    let address = format!("{}?token={key}&session_id={}", world.api, session.id);
    let did = playwright("network", &address, &site).await;
    let expected = json!({
        "routed": "Ours", "inWorker": 42, "uploaded": "uploaded", "pdf": "%PDF-",
        "picture": "PNG", "recorded": true, "traced": true,
    });
    assert_eq!(did, expected);
    let did = playwright("many", &address, &site).await;
    assert_eq!(did, json!({ "sum": 949 * 950 / 2, "total": "40" }));
    let did = playwright("ten", &address, &site).await;
    assert_eq!(did, json!({ "good": 10 }));
    assert_eq!(session.show().await["status"], "live", "it is the user's");
    assert_eq!(session.value("1 + 1").await, 2);
    world.stop().await;
}

#[tokio::test]
async fn what_a_client_downloads_is_fetched_over_rest() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let key = key_of(&alice).await;
    let address = format!("{}?token={key}&session_id={}", world.api, session.id);
    let all = format!("/api/sessions/{}/downloads", session.id);
    assert_eq!(alice.get(&all).await.ok()["data"], json!([]));
    let did = playwright("downloads", &address, &site).await;
    assert_eq!(did, json!({ "name": "a.bin", "failure": null }));
    let listed = alice.get(&all).await.ok()["data"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed[0]["size_bytes"], 3);
    let one = format!("{all}/{}", listed[0]["name"].as_str().unwrap());
    let file = alice.get(&one).await;
    assert_eq!(&file.body[..], b"abc");
    assert_eq!(file.headers["content-disposition"], "attachment");
    for none in ["none", "..%2F..%2Fetc%2Fpasswd", "%00"] {
        let reply = alice.get(&format!("{all}/{none}")).await;
        assert_eq!(reply.status, 404, "{none}: {reply:?}");
    }
    assert_eq!(world.user("bob").await.get(&one).await.status, 404);
    session.end().await.ok();
    assert_eq!(alice.get(&one).await.status, 410);
    world.stop().await;
}

#[tokio::test]
async fn puppeteer_connects_and_its_close_ends_the_session() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let key = key_of(&alice).await;
    let base = world.api.replacen("http", "ws", 1);
    let address = format!("{base}/devtools/browser/{}?token={key}", session.id);
    let did = run_client("puppeteer.js", &["pages", &address, &site.url("")]).await;
    let expected = json!({
        "total": "1", "popupTitle": "Second", "routed": "Ours", "frameTitle": "Second",
        "inWorker": 42, "pdf": "%PDF-", "picture": "PNG", "sum": 999 * 1000 / 2,
    });
    assert_eq!(did.unwrap(), expected);
    assert_eq!(session.show().await["status"], "live");
    let did = run_client("puppeteer.js", &["close", &address, &site.url("")]).await;
    let version = did.unwrap()["version"].to_string();
    assert!(version.contains("Chrome/"), "{version}");
    eventually("the session is over", Duration::from_secs(10), || async {
        session.show().await["end_reason"] == "browser_closed"
    })
    .await;
    let again = alice.open(json!({})).await;
    let address = format!(
        "{base}/devtools/browser/{}?token={key}&keep_alive=true",
        again.id
    );
    let did = run_client("puppeteer.js", &["close", &address, &site.url("")]).await;
    did.unwrap();
    assert_eq!(again.value("1 + 1").await, 2, "it is kept");
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_knows_a_host_and_a_port_finds_its_pages() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let key = key_of(&alice).await;
    let (host, port) = world
        .api
        .trim_start_matches("http://")
        .split_once(':')
        .unwrap();
    let arguments = [host, port, &key, &site.url("")];
    let did = run_client("remote-interface.js", &arguments).await;
    assert_eq!(did.unwrap(), json!({ "title": "Second", "pages": 2 }));
    assert_eq!(session.show().await["status"], "live");
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_is_killed_leaves_nothing_or_what_is_the_users() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let key = key_of(&alice).await;
    let named = alice.open(json!({})).await;
    let own = format!("{}?token={key}", world.api);
    let joined = format!("{own}&session_id={}", named.id);
    let mut stays = Vec::new();
    for address in [&own, &joined] {
        let mut child = client("playwright.js", &["stay", address, &site.url("")]).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap();
        assert_eq!(line.as_deref(), Some(r#"{"done":1000}"#));
        stays.push((child, lines));
    }
    assert_eq!(sessions_of(&alice).await, 2);
    for (child, _) in &mut stays {
        child.kill().await.unwrap();
    }
    eventually(
        "its own session is over",
        Duration::from_secs(10),
        || async { sessions_of(&alice).await == 1 },
    )
    .await;
    assert_eq!(named.value("1 + 1").await, 2);
    world.stop().await;
}
