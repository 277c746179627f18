//! The control plane is killed between any two steps from the wish for a machine to
//! the session on it. Whatever it was at, after the next start there is no machine
//! without an instance, no instance without its machine, and one lease or none.

use std::time::{Duration, Instant};

use browserfleet_tests::api::Caller;
use browserfleet_tests::aws::Aws;
use browserfleet_tests::eventually;
use browserfleet_tests::world::World;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;

/// Worlds at once.
const LOTS: usize = 4;
/// How often it is killed at each step.
const TIMES: usize = 20;
/// How long all of it may take from a start until everything is in order again.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a step may take to be reached.
const STEP: Duration = Duration::from_secs(20);

/// What the log says when a step was taken; the kill follows at once. AWS is slow to
/// answer a launch where the line ends in `…`, and is killed into that.
const STEPS: &[&str] = &[
    "instance wanted",
    "launch request written",
    "launch request goes out",
    "launch request goes out…",
    "instance launched",
    "token handed over",
    "an agent joined",
    "link up instance.id",
    "instance running",
    "session placed",
    "session live",
];

async fn reached(world: &World, lines: usize, step: &str) {
    let latest = Instant::now() + STEP;
    while !world.was_logged_after(lines, step.trim_end_matches('…')) {
        assert!(Instant::now() < latest, "`{step}` was not reached");
        sleep(Duration::from_millis(1)).await;
    }
}

async fn rows(caller: &Caller) -> Vec<Value> {
    let listed = caller.get("/api/ec2/instances").await.ok();
    let rows = listed["data"].as_array().cloned().unwrap_or_default();
    rows.into_iter()
        .filter(|it| it["status"] != "terminated")
        .collect()
}

/// One wish, one kill, one start, and what comes of it.
async fn killed_at(step: &str, world: &mut World, aws: &Aws, alice: &Caller, admin: &Caller) {
    let slow = if step.ends_with('…') { 400 } else { 0 };
    aws.rules(json!([{ "action": "RunInstances", "do": { "late_ms": slow } }]))
        .await;
    let lines = world.lines_logged();
    let opened = alice.post("/api/sessions", json!({})).await.ok();
    let id = opened["session_id"].as_str().unwrap_or_default().to_owned();
    reached(world, lines, step).await;
    sleep(Duration::from_millis(rand::random_range(0..20) + slow / 2)).await;
    world.kill().await;
    aws.rules(json!([])).await;
    world.start_again().await;

    let session = format!("/api/sessions/{id}");
    eventually("the session is decided", PATIENCE, || async {
        let shown = alice.get(&session).await.ok();
        // Asking keeps it in the queue.
        alice.get(&format!("/api/queue/{id}")).await;
        matches!(shown["status"].as_str(), Some("live" | "ended"))
    })
    .await;
    let shown = alice.get(&session).await.ok();
    if shown["status"] == "live" {
        let alive = aws.alive().await;
        let held: Vec<Value> = rows(alice).await;
        assert_eq!((alive.len(), held.len()), (1, 1), "{step}: {held:?}");
        assert_eq!(held[0]["id"], shown["instance_id"], "{step}");
    } else {
        assert_eq!(shown["end_reason"], "control_plane_restarted", "{step}");
    }
    alice.delete(&session).await;
    for row in rows(alice).await {
        let id = row["id"].as_str().unwrap_or_default().to_owned();
        alice.delete(&format!("/api/ec2/instances/{id}")).await;
    }
    eventually("nothing is left", PATIENCE, || async {
        aws.alive().await.is_empty() && rows(admin).await.is_empty()
    })
    .await;
}

/// A world and an AWS of its own, killed at each of these steps.
async fn lot(steps: &[&str]) {
    let aws = Aws::start().await.unwrap();
    let mut world = aws
        .plan()
        .with("POOL_WARM", 0)
        .with("POOL_MAX", 2)
        .with("LOG", "info,sqlx=warn,browserfleet_control_plane=debug")
        .start()
        .await
        .unwrap();
    let alice = world.user("alice").await;
    let admin = world.administrator().await;
    for step in steps {
        let started = Instant::now();
        for _ in 0..TIMES {
            killed_at(step, &mut world, &aws, &alice, &admin).await;
        }
        eprintln!("{TIMES} kills at `{step}`: {:?}", started.elapsed());
    }
    aws.assert_balanced(&[], PATIENCE).await;
    world.stop().await;
    aws.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_it_leaves_no_machine_and_loses_none() {
    // Most of each round is waiting for machines.
    join_all(STEPS.chunks(STEPS.len().div_ceil(LOTS)).map(lot)).await;
}
