//! The control plane ends, by a signal or a power cut, and comes back.

use std::time::{Duration, Instant};

use browserfleet_tests::api::Session;
use browserfleet_tests::eventually;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

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

/// Power cuts, one after another.
const CUTS: usize = 100;
/// Callers who click without pause, each on a page of their own.
const CLICKERS: usize = 2;

/// What a clicker was told.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    ok: u64,
    maybe: u64,
}

async fn click_until(session: Session, mut stop: watch::Receiver<bool>) -> Told {
    let mut told = Told::default();
    while !*stop.borrow_and_update() {
        let body = json!({ "session_id": session.id, "selector": "#count", "timeout_ms": 3000 });
        let click = session
            .caller
            .try_call(Method::POST, "/api/browser/click", Some(body), &[]);
        match click.await {
            Ok(reply) if reply.status == 200 => told.ok += 1,
            Ok(reply) if reply.text("outcome") == "not_sent" => {}
            // Nobody was there to take it.
            Err(error) if error.is_connect() => sleep(Duration::from_millis(20)).await,
            _ => told.maybe += 1,
        }
    }
    told
}

#[tokio::test]
async fn a_hundred_power_cuts_lose_no_page_and_run_no_click_twice() {
    let (mut world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let (stop, stopped) = watch::channel(false);
    let mut clickers = Vec::new();
    for _ in 0..CLICKERS {
        let session = alice.open(json!({})).await;
        session.navigate(&site.url("/")).await.ok();
        let clicker = tokio::spawn(click_until(session.clone(), stopped.clone()));
        clickers.push((session, clicker));
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..CUTS {
        sleep(Duration::from_millis(rand::random_range(50..300))).await;
        world.kill().await;
        world.start_again().await;
        let started = Instant::now();
        for (session, _) in &clickers {
            eventually("the session answers", Duration::from_secs(10), || async {
                session.state().await.status == 200
            })
            .await;
        }
        slowest = slowest.max(started.elapsed());
    }
    stop.send_replace(true);
    eprintln!("taken up again within {slowest:?} at the most");
    for (session, clicker) in clickers {
        let told = clicker.await.unwrap();
        let total = session.value("total").await.as_u64().unwrap();
        assert!(told.ok > 100, "{told:?}");
        assert!(
            (told.ok..=told.ok + told.maybe).contains(&total),
            "{total} clicks, told {told:?}"
        );
        eventually(
            "every command has its outcome",
            Duration::from_secs(10),
            || async {
                session
                    .commands()
                    .await
                    .iter()
                    .all(|it| it["ended_at"].is_string())
            },
        )
        .await;
        session.end().await.ok();
    }
    world.stop().await;
}
