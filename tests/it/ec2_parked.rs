//! Machines that booted once, are stopped, and come back when they are needed.

use std::time::{Duration, Instant};

use browserfleet_tests::api::Caller;
use browserfleet_tests::aws::{Aws, Machine};
use browserfleet_tests::eventually;
use browserfleet_tests::world::World;
use serde_json::{Value, json};
use tokio::time::sleep;

/// How long a machine may take to boot, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a step may take to be reached.
const STEP: Duration = Duration::from_secs(20);

/// Under the policies of `deploy/iam`.
async fn world(aws: &Aws) -> World {
    let plan = aws
        .plan()
        .with("POOL_WARM", 0)
        .with("POOL_STOPPED", 1)
        .with("POOL_MAX", 2)
        .with("LOG", "info,sqlx=warn,browserfleet_control_plane=debug");
    aws.start_permitted(plan).await
}

async fn rows(admin: &Caller) -> Vec<Value> {
    let listed = admin.get("/api/ec2/instances").await.ok();
    let rows = listed["data"].as_array().cloned().unwrap_or_default();
    rows.into_iter()
        .filter(|it| it["status"] != "terminated")
        .collect()
}

async fn stopped(aws: &Aws) -> Vec<Machine> {
    let mut machines = aws.alive().await;
    machines.retain(|it| it.state == "stopped");
    machines
}

/// Waits until one machine is stopped, and the API says so too.
async fn parked(aws: &Aws, admin: &Caller) -> Machine {
    eventually("one is stopped", PATIENCE, || async {
        let pool = admin.get("/api/ec2/pool").await.ok();
        let rows = rows(admin).await;
        let shown = rows.iter().any(|it| it["phase"] == "stopped");
        shown && pool["instances"]["stopped"] == 1 && stopped(aws).await.len() == 1
    })
    .await;
    stopped(aws).await.remove(0)
}

async fn wound_up(world: World, aws: Aws, admin: &Caller) {
    let pool = json!({ "warm": 0, "stopped": 0 });
    admin.put("/api/ec2/pool", pool).await.ok();
    for row in rows(admin).await {
        let id = row["id"].as_str().unwrap_or_default();
        admin.delete(&format!("/api/ec2/instances/{id}")).await;
    }
    aws.assert_balanced(&[], PATIENCE).await;
    aws.assert_permitted().await;
    world.stop().await;
    aws.stop().await;
}

#[tokio::test]
async fn a_stopped_machine_is_started_for_who_comes_and_another_takes_its_place() {
    let aws = Aws::start().await.unwrap();
    let world = world(&aws).await;
    let admin = world.administrator().await;
    let machine = parked(&aws, &admin).await;
    assert_eq!(
        (machine.guest.as_str(), machine.agent_process),
        ("off", None)
    );
    assert_eq!(rows(&admin).await[0]["status"], "provisioning");

    let asked_before = aws.calls("RunInstances").await.len();
    let alice = world.user("alice").await;
    let started = Instant::now();
    let session = alice.open(json!({ "wait_ms": 60_000 })).await;
    eprintln!("live {:?} after it was asked for", started.elapsed());
    let hers = rows(&alice).await;
    assert_eq!(hers[0]["instance_id"], machine.id.as_str());
    assert_eq!(hers[0]["id"], session.show().await["instance_id"]);
    assert_eq!(session.value("1 + 1").await, 2);
    let starts = aws.calls("StartInstances").await;
    let done = starts.iter().filter(|it| it.result == "ok").count();
    assert_eq!(done, 1, "{starts:#?}");

    let next = parked(&aws, &admin).await;
    assert_ne!(next.id, machine.id);
    assert_eq!(aws.calls("RunInstances").await.len(), asked_before + 1);
    assert_eq!(aws.machines().await.len(), 2);
    wound_up(world, aws, &admin).await;
}

#[tokio::test]
async fn where_a_stopped_machine_finds_no_room_another_is_launched() {
    let aws = Aws::start().await.unwrap();
    let world = world(&aws).await;
    let admin = world.administrator().await;
    let machine = parked(&aws, &admin).await;
    aws.rules(json!([{
        "action": "StartInstances",
        "do": { "error": "InsufficientInstanceCapacity" },
    }]))
    .await;
    let alice = world.user("alice").await;
    let session = alice.open(json!({ "wait_ms": 60_000 })).await;
    assert_eq!(session.value("1 + 1").await, 2);
    assert_ne!(rows(&alice).await[0]["instance_id"], machine.id.as_str());
    assert_eq!(aws.calls("StartInstances").await.len(), 1);
    // It is there for the next.
    assert_eq!(parked(&aws, &admin).await.id, machine.id);
    wound_up(world, aws, &admin).await;
}

/// What the log says when a step was taken; the kill follows at once.
const STEPS: &[&str] = &[
    "instance lives, and is to be stopped",
    "machine is told to stop",
    "machine stops until it is needed",
    "instance stopped until it is needed",
    "stopped instance wanted back",
    "machine is told to start",
    "machine started again",
    "instance running",
];

#[tokio::test]
async fn killed_between_any_two_steps_it_has_one_machine_for_each_instance() {
    let aws = Aws::start().await.unwrap();
    let mut world = world(&aws).await;
    let admin = world.administrator().await;
    let alice = world.user("alice").await;
    for step in STEPS {
        let lines = world.lines_logged();
        // The second half needs one that is stopped already.
        let backwards = STEPS.iter().position(|it| it == step) >= Some(4);
        if backwards {
            parked(&aws, &admin).await;
        } else {
            for row in rows(&admin).await {
                let id = row["id"].as_str().unwrap_or_default();
                admin.delete(&format!("/api/ec2/instances/{id}")).await;
            }
        }
        let lines = if backwards {
            world.lines_logged()
        } else {
            lines
        };
        let mut asked = Value::Null;
        if backwards {
            asked = alice.post("/api/sessions", json!({})).await.ok();
        }
        let latest = Instant::now() + STEP;
        while !world.was_logged_after(lines, step) {
            assert!(Instant::now() < latest, "`{step}` was not reached");
            sleep(Duration::from_millis(1)).await;
        }
        world.kill().await;
        world.start_again().await;
        if let Some(id) = asked["session_id"].as_str() {
            eventually("the session is decided", PATIENCE, || async {
                alice.get(&format!("/api/queue/{id}")).await;
                let shown = alice.get(&format!("/api/sessions/{id}")).await.ok();
                matches!(shown["status"].as_str(), Some("live" | "ended"))
            })
            .await;
        }
        parked(&aws, &admin).await;
        let there = rows(&admin).await;
        let names: Vec<&str> = there.iter().filter_map(|it| it["id"].as_str()).collect();
        aws.assert_balanced(&names, PATIENCE).await;
        for row in rows(&alice).await {
            let id = row["id"].as_str().unwrap_or_default();
            alice.delete(&format!("/api/ec2/instances/{id}")).await;
        }
        eventually("hers is gone", PATIENCE, || async {
            rows(&alice).await.is_empty()
        })
        .await;
    }
    wound_up(world, aws, &admin).await;
}
