//! Browsers that die, hang, or do not start.

use std::time::{Duration, Instant};

use browserfleet_tests::site::Site;
use browserfleet_tests::world::{Plan, World};
use browserfleet_tests::{eventually, processes};
use nix::sys::signal::Signal;
use serde_json::json;

#[tokio::test]
async fn a_killed_or_stopped_browser_ends_its_session_in_time() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    for (signal, within, reason) in [
        (Signal::SIGKILL, Duration::from_secs(2), "browser_crashed"),
        (Signal::SIGSTOP, Duration::from_secs(15), "browser_hung"),
    ] {
        let session = alice.open(json!({})).await;
        session.navigate(&site.url("/")).await.ok();
        let waiting = {
            let session = session.clone();
            tokio::spawn(async move {
                session
                    .command("execute", json!({ "expression": "new Promise(() => {})" }))
                    .await
            })
        };
        // The session's, and the spare ones.
        for browser in world.browsers() {
            processes::signal(browser.id, signal);
        }
        eventually("the session has ended", within, || async {
            session.show().await["status"] == "ended"
        })
        .await;
        assert_eq!(session.show().await["end_reason"], reason);
        let answered = waiting.await.unwrap();
        assert!(answered.status >= 400, "{answered:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_browser_that_cannot_start_is_named_within_its_deadline() {
    for (browser, words) in [
        ("/etc/passwd", "/etc/passwd"),
        ("/bin/false", "exit status: 1"),
    ] {
        let world = Plan::default()
            .with("BROWSER_EXECUTABLE", browser)
            .start()
            .await
            .unwrap();
        let alice = world.user("alice").await;
        let started = Instant::now();
        // The instance may be starting yet.
        let wish = json!({ "wait_ms": 20_000 });
        let refused = alice.post("/api/sessions", wish).await;
        assert!(started.elapsed() < Duration::from_secs(35));
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(
            refused.text("detail").contains(words),
            "{}",
            refused.text("detail")
        );
        let live = alice.get("/api/sessions?status=live").await.ok();
        assert_eq!(live["data"], json!([]));
        world.stop().await;
    }
}
