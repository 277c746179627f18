//! The control plane ends, by a signal or a power cut, and comes back.

use std::time::{Duration, Instant};

use browserfleet_tests::eventually;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use serde_json::json;

#[tokio::test]
async fn a_signal_answers_what_is_in_flight_and_leaves_nothing() {
    let (mut world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let session = world.user("alice").await.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let waiting = {
        let session = session.clone();
        tokio::spawn(async move {
            session
                .command(
                    "execute",
                    json!({ "expression": "new Promise((done) => setTimeout(done, 20000))" }),
                )
                .await
        })
    };
    eventually(
        "the command is under way",
        Duration::from_secs(2),
        || async { session.commands().await.len() == 2 },
    )
    .await;
    let started = Instant::now();
    let status = world.terminate().await;
    assert!(status.success(), "{status} {}", world.log());
    assert!(started.elapsed() < Duration::from_secs(30));
    let answered = waiting.await;
    assert!(answered.is_ok_and(|it| it.status >= 400), "{}", world.log());
    world.stop().await;
}

#[tokio::test]
async fn sessions_go_on_where_they_were_after_a_power_cut() {
    let (mut world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let session = world.user("alice").await.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    session
        .value("document.cookie = 'a=1'; window.kept = 'yes'")
        .await;
    for _ in 0..3 {
        world.kill().await;
        world.start_again().await;
        eventually(
            "the session answers again",
            Duration::from_secs(10),
            || async { session.state().await.status == 200 },
        )
        .await;
        assert_eq!(
            session.value("[window.kept, document.cookie]").await,
            json!(["yes", "a=1"])
        );
    }
    for command in session.commands().await {
        assert!(command["ended_at"].is_string(), "{command}");
    }
    session.end().await.ok();
    world.stop().await;
}

#[tokio::test]
async fn a_command_that_a_power_cut_met_is_unknown_and_not_run_again() {
    let (mut world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let session = world.user("alice").await.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let slow = "new Promise((done) => setTimeout(() => { window.ran = (window.ran ?? 0) + 1; done(1); }, 700))";
    let met = {
        let session = session.clone();
        tokio::spawn(async move {
            session
                .command("execute", json!({ "expression": slow }))
                .await
        })
    };
    eventually(
        "the command is written down",
        Duration::from_secs(2),
        || async { session.commands().await.len() == 2 },
    )
    .await;
    world.kill().await;
    assert!(met.await.is_err(), "nobody can have answered");
    world.start_again().await;
    eventually(
        "the session answers again",
        Duration::from_secs(10),
        || async { session.state().await.status == 200 },
    )
    .await;
    eventually("the script has run", Duration::from_secs(5), || async {
        session.value("window.ran ?? 0").await == 1
    })
    .await;
    let commands = session.commands().await;
    let row = commands
        .iter()
        .find(|it| it["params"]["script"]["expression"] == slow)
        .unwrap();
    assert!(
        ["unknown", "ok"].contains(&row["status"].as_str().unwrap()),
        "{row}"
    );
    world.stop().await;
}
