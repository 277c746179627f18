//! A browser is opened, driven and shot through the public API, and nothing of it
//! is left.

use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn the_main_job_works_from_sign_in_to_picture() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let wish = json!({
        "name": "tour", "metadata": { "team": "a" }, "viewport": { "width": 800, "height": 600 },
        "locale": "de-DE", "timezone": "Asia/Tokyo", "user_agent": "Tester/1.0",
    });
    let session = alice.open(wish).await;

    let arrived = session.navigate(&site.url("/redirected")).await.ok();
    assert_eq!(
        (&arrived["url"], &arrived["title"], &arrived["status"]),
        (&site.url("/second").into(), &"Second".into(), &200.into())
    );
    session.navigate(&site.url("/")).await.ok();
    session
        .command("type", json!({ "selector": "#name", "text": "Ada ☃" }))
        .await
        .ok();
    session
        .command(
            "click",
            json!({ "selector": "role=button[name=\"Greet\"]" }),
        )
        .await
        .ok();
    assert_eq!(
        session
            .value("document.querySelector('#greeting').textContent")
            .await,
        "Hello, Ada ☃"
    );
    assert_eq!(
        session.value("[innerWidth, navigator.userAgent, navigator.language, Intl.DateTimeFormat().resolvedOptions().timeZone]").await,
        json!([800, "Tester/1.0", "de-DE", "Asia/Tokyo"])
    );
    let state = session.state().await.ok();
    assert_eq!(
        (&state["title"], state["tabs"].as_array().map(Vec::len)),
        (&"A small page".into(), Some(1))
    );

    let shot = alice
        .try_call(
            Method::POST,
            "/api/browser/screenshot",
            Some(json!({ "session_id": session.id })),
            &[("accept", "image/png")],
        )
        .await
        .unwrap();
    assert_eq!(shot.headers["content-type"], "image/png");
    assert!(shot.body.starts_with(b"\x89PNG"));
    for format in ["png", "jpeg", "webp"] {
        let as_json = session
            .command("screenshot", json!({ "format": format }))
            .await
            .ok();
        assert_eq!(
            (&as_json["width"], &as_json["height"]),
            (&800.into(), &600.into()),
            "{format}"
        );
    }

    let whole = session
        .command("screenshot", json!({ "full_page": true }))
        .await
        .ok();
    assert_eq!(whole["width"], 800, "no scroll bar takes its part");

    let listed = alice
        .get("/api/sessions?status=live&metadata.team=a")
        .await
        .ok();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    session.end().await.ok();
    let shown = session.show().await;
    assert_eq!(
        (&shown["status"], &shown["end_reason"]),
        (&"ended".into(), &"ended".into())
    );
    let kinds: Vec<String> = session
        .commands()
        .await
        .iter()
        .map(|it| it["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(kinds.first().map(String::as_str), Some("screenshot"));
    assert_eq!(kinds.last().map(String::as_str), Some("navigate"));
    world.stop().await;
}

#[tokio::test]
async fn full_chrome_runs_where_it_is_asked_for() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let session = world
        .user("alice")
        .await
        .open(json!({ "browser": "full" }))
        .await;
    session.navigate(&site.url("/")).await.ok();
    session
        .command("click", json!({ "selector": "#count" }))
        .await
        .ok();
    assert_eq!(session.value("total").await, 1);
    world.stop().await;
}
