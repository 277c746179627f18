//! What each command promises: the element that is found, the code of each
//! failure, and one outcome in the history.

use std::time::{Duration, Instant};

use browserfleet_tests::api::Session;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use reqwest::Method;
use serde_json::{Value, json};

async fn stage() -> (World, Site, Session) {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let session = world.user("alice").await.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    (world, site, session)
}

#[tokio::test]
async fn elements_are_found_by_every_kind_of_selector() {
    let (world, _site, session) = stage().await;
    for (selector, title) in [
        ("text=In a shadow root", "Shadowed"),
        ("text=\"In a frame\"", "Framed"),
        ("xpath=//button[@id='far']", "Far"),
        ("role=button[name=\"In a shadow root\"]", "Shadowed"),
        ("css=#far", "Far"),
    ] {
        session
            .command("click", json!({ "selector": selector }))
            .await
            .ok();
        assert_eq!(session.value("document.title").await, title, "{selector}");
    }
    world.stop().await;
}

#[tokio::test]
async fn text_reaches_every_kind_of_field() {
    let (world, _site, session) = stage().await;
    for (selector, read) in [
        ("#name", "document.querySelector('#name').value"),
        ("#area", "document.querySelector('#area').value"),
        (
            "#editable",
            "document.querySelector('#editable').textContent",
        ),
    ] {
        for (text, clear) in [("one", false), ("zwei 世界 🎉", true)] {
            let typed = session
                .command(
                    "type",
                    json!({ "selector": selector, "text": text, "clear": clear }),
                )
                .await
                .ok();
            assert_eq!(typed["characters"], text.chars().count());
        }
        assert_eq!(session.value(read).await, "zwei 世界 🎉", "{selector}");
    }
    session
        .command(
            "type",
            json!({ "selector": "#name", "text": "Eve", "clear": true, "submit": true }),
        )
        .await
        .ok();
    assert_eq!(
        session
            .value("document.querySelector('#greeting').textContent")
            .await,
        "Hello, Eve"
    );
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_says_why() {
    let (world, site, session) = stage().await;
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        (
            "click",
            json!({ "selector": "#nothing" }),
            422,
            "selector_not_found",
        ),
        (
            "click",
            json!({ "selector": "a[" }),
            422,
            "selector_invalid",
        ),
        (
            "click",
            json!({ "selector": "#disabled" }),
            422,
            "element_not_actionable",
        ),
        (
            "click",
            json!({ "selector": "#covered" }),
            422,
            "element_not_actionable",
        ),
        (
            "type",
            json!({ "selector": "#greeting", "text": "x" }),
            422,
            "element_not_actionable",
        ),
        (
            "execute",
            json!({ "expression": "throw new RangeError('far')" }),
            422,
            "script_error",
        ),
        (
            "execute",
            json!({ "expression": "'x'.repeat(2000000)" }),
            422,
            "result_too_large",
        ),
        (
            "navigate",
            json!({ "url": site.url("/loop") }),
            422,
            "too_many_redirects",
        ),
        (
            "navigate",
            json!({ "url": site.url("/download") }),
            422,
            "navigation_download",
        ),
        (
            "navigate",
            json!({ "url": "http://127.0.0.1:9/" }),
            403,
            "url_blocked",
        ),
        (
            "navigate",
            json!({ "url": "http://127.0.0.1:59999/" }),
            422,
            "connection_refused",
        ),
        (
            "navigate",
            json!({ "url": "http://nowhere.invalid/" }),
            422,
            "dns_failure",
        ),
        (
            "navigate",
            json!({ "url": site.url("/").replace("http:", "https:") }),
            422,
            "tls_error",
        ),
        (
            "navigate",
            json!({ "url": site.url("/silent") }),
            504,
            "navigation_timeout",
        ),
        (
            "navigate",
            json!({ "url": site.url("/busy") }),
            504,
            "navigation_timeout",
        ),
        (
            "execute",
            json!({ "expression": "while (1);" }),
            504,
            "command_timeout",
        ),
        ("dialog", json!({ "accept": true }), 409, "no_dialog"),
    ];
    for (kind, mut parameters, status, code) in cases {
        session.navigate(&site.url("/")).await.ok();
        parameters["timeout_ms"] = 1500.into();
        let started = Instant::now();
        let reply = session.command(kind, parameters.clone()).await;
        let got = (reply.status, reply.code());
        assert_eq!(
            got,
            (status, code.to_owned()),
            "{kind} {parameters} {}",
            reply.text("detail")
        );
        assert!(
            started.elapsed() < Duration::from_millis(1500 + 2000),
            "{kind} {parameters}"
        );
    }
    assert_eq!(
        session.navigate(&site.url("/missing")).await.ok()["status"],
        404
    );
    assert_eq!(
        session.navigate("about:blank").await.ok()["status"],
        Value::Null
    );
    world.stop().await;
}

#[tokio::test]
async fn pages_that_never_rest_do_not_disturb_commands() {
    let (world, site, session) = stage().await;
    for path in ["/noisy", "/restless", "/refreshing"] {
        session.navigate(&site.url(path)).await.ok();
        for _ in 0..5 {
            session.state().await.ok();
        }
    }
    session.navigate(&site.url("/password")).await.ok();
    session.navigate(&site.url("/tall")).await.ok();
    let tall = session
        .command("screenshot", json!({ "full_page": true }))
        .await;
    assert_eq!((tall.status, tall.code()), (422, "image_too_large".into()));
    session
        .command("scroll", json!({ "to": "bottom" }))
        .await
        .ok();
    let scrolled = session.state().await.ok();
    assert!(
        scrolled["scroll"]["y"].as_f64() > Some(900_000.0),
        "{scrolled}"
    );
    world.stop().await;
}

#[tokio::test]
async fn the_same_key_gets_the_first_outcome_and_runs_once() {
    let (world, site, session) = stage().await;
    let alice = world.user("bob").await;
    let bobs = alice.open(json!({})).await;
    bobs.navigate(&site.url("/")).await.ok();
    let click = json!({ "session_id": bobs.id, "selector": "#count" });
    let mut replies = Vec::new();
    for _ in 0..3 {
        let reply = alice
            .try_call(
                Method::POST,
                "/api/browser/click",
                Some(click.clone()),
                &[("idempotency-key", "once")],
            )
            .await;
        replies.push(reply.unwrap().ok());
    }
    assert_eq!(replies[0], replies[2]);
    assert_eq!(bobs.value("total").await, 1);
    let other = json!({ "session_id": bobs.id, "selector": "#far" });
    let reused = alice
        .try_call(
            Method::POST,
            "/api/browser/click",
            Some(other),
            &[("idempotency-key", "once")],
        )
        .await
        .unwrap();
    assert!((400..500).contains(&reused.status), "{reused:?}");
    drop(session);
    world.stop().await;
}

#[tokio::test]
async fn every_command_has_one_row_with_its_outcome() {
    let (world, _site, session) = stage().await;
    session.value("1").await;
    session
        .command("execute", json!({ "expression": "throw 1" }))
        .await;
    let commands = session.commands().await;
    let outcomes: Vec<(&str, &str)> = commands
        .iter()
        .map(|it| (it["type"].as_str().unwrap(), it["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [("execute", "error"), ("execute", "ok"), ("navigate", "ok")]
    );
    assert!(
        commands
            .iter()
            .all(|it| it["started_at"].is_string() && it["ended_at"].is_string())
    );
    assert_eq!(
        commands[1]["params"]["script"]["expression"], "1",
        "{}",
        commands[1]
    );
    world.stop().await;
}
