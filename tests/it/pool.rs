//! The pool of instances as its users and administrators see it: it is as large as is
//! wanted, an instance is one user's alone, and what ends leaves nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use browserfleet_tests::api::Caller;
use browserfleet_tests::scripted_agent::Machines;
use browserfleet_tests::world::{Plan, World};
use browserfleet_tests::{eventually, processes};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

/// How long a start of a machine and its agent takes at the most.
const SOON: Duration = Duration::from_secs(15);
/// How long an end may take until nothing is left.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A pool of machines without browsers.
fn scripted(kit: &Machines) -> Plan {
    Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("SESSIONS_PER_INSTANCE", 1)
}

async fn pool(admin: &Caller) -> Value {
    admin.get("/api/ec2/pool").await.ok()
}

async fn count(admin: &Caller, what: &str) -> u64 {
    let pool = pool(admin).await;
    pool["instances"][what].as_u64().unwrap_or_default()
}

/// The caller's instances, the newest first.
async fn instances(caller: &Caller) -> Vec<Value> {
    let listed = caller.get("/api/ec2/instances").await.ok();
    listed["data"].as_array().cloned().unwrap_or_default()
}

async fn status(caller: &Caller, id: &str) -> Value {
    let path = format!("/api/ec2/instances/{id}/status");
    caller.get(&path).await.ok()
}

async fn is(caller: &Caller, id: &str, phase: &str) -> bool {
    status(caller, id).await["phase"] == phase
}

/// An instance that the caller asked for and that is ready.
async fn own(caller: &Caller) -> String {
    let wanted = caller.post("/api/ec2/instances", json!({})).await;
    assert_eq!(wanted.status, 202, "{wanted:?}");
    let id = wanted.text("id");
    let place = format!("/api/ec2/instances/{id}/status");
    assert_eq!(wanted.headers["location"], place.as_str());
    eventually("it is ready", SOON, || is(caller, &id, "ready")).await;
    id
}

fn folder(world: &World, instance: &str) -> PathBuf {
    world.data_dir().join("instances").join(instance)
}

/// The process of an instance's agent.
fn process(world: &World, instance: &str) -> i32 {
    let note = std::fs::read(folder(world, instance).join("process.json"));
    let note: Value = serde_json::from_slice(&note.unwrap_or_default()).unwrap_or_default();
    note["id"]
        .as_i64()
        .and_then(|it| it.try_into().ok())
        .unwrap_or_default()
}

/// Whether a process is more than an entry in the kernel's table.
fn lives(process: i32) -> bool {
    let all = processes::all();
    all.iter()
        .any(|it| it.id == process && !it.command.is_empty())
}

/// Waits until there is neither a process nor a folder of an instance.
async fn gone(world: &World, instance: &str) {
    let folder = folder(world, instance);
    let name = folder.to_string_lossy().into_owned();
    eventually("nothing is left of it", GONE_WITHIN, || async {
        !folder.exists() && !processes::all().iter().any(|it| it.command.contains(&name))
    })
    .await;
}

#[tokio::test]
async fn whoever_gets_a_warm_instance_leaves_another_one() {
    let kit = Machines::new().unwrap();
    let plan = scripted(&kit).with("POOL_WARM", 2).with("POOL_MAX", 4);
    let world = plan.start().await.unwrap();
    let crew = kit.work();
    let admin = world.administrator().await;
    eventually("two are ready", SOON, || async {
        count(&admin, "ready").await == 2
    })
    .await;
    let alice = world.user("alice").await;
    let asked = Instant::now();
    let opened = alice.post("/api/sessions", json!({})).await;
    assert_eq!(opened.status, 201, "without any wait: {opened:?}");
    println!("a session on a warm instance after {:?}", asked.elapsed());
    eventually("two are ready again", SOON, || async {
        count(&admin, "ready").await == 2 && count(&admin, "held").await == 1
    })
    .await;
    // The second leaves one, the third none: there may be four.
    for ready in [1, 0] {
        let opened = alice.post("/api/sessions", json!({})).await;
        assert_eq!(opened.status, 201, "{opened:?}");
        let held = 3 - ready;
        eventually("as many as there may be", SOON, || async {
            count(&admin, "held").await == held && count(&admin, "ready").await == 4 - held
        })
        .await;
    }
    assert_eq!(crew.held().len(), 3);
    world.stop().await;
}

#[tokio::test]
async fn a_stop_in_the_midst_of_launches_leaves_nothing() {
    for delay_ms in (0..200).step_by(15) {
        let kit = Machines::new().unwrap();
        let plan = scripted(&kit).with("POOL_WARM", 20).with("POOL_MAX", 20);
        let world = plan.start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        world.stop().await;
    }
}

#[tokio::test]
async fn what_administrators_want_holds_at_once_and_has_to_make_sense() {
    let kit = Machines::new().unwrap();
    let plan = scripted(&kit).with("POOL_WARM", 0).with("POOL_MAX", 4);
    let world = plan.start().await.unwrap();
    let _crew = kit.work();
    let admin = world.administrator().await;
    let before = admin.get("/api/ec2/pool").await;
    let etag = before.headers["etag"].to_str().unwrap().to_owned();
    let before = before.ok();
    assert_eq!((&before["warm"], &before["max"]), (&0.into(), &4.into()));
    let wanted = json!({ "warm": 3, "max": 5, "idle_minutes": 7 });
    let changed = admin
        .call_with(
            Method::PUT,
            "/api/ec2/pool",
            Some(wanted.clone()),
            &[("if-match", &etag)],
        )
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let newer = changed.headers["etag"].to_str().unwrap().to_owned();
    assert_ne!(newer, etag);
    let changed = changed.ok();
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field}");
        assert_eq!(&changed["overrides"][field], value, "{field}");
    }
    eventually("three are ready", SOON, || async {
        count(&admin, "ready").await == 3
    })
    .await;

    // Whoever read an older one does not overwrite the newer one.
    let late = admin
        .call_with(
            Method::PUT,
            "/api/ec2/pool",
            Some(json!({})),
            &[("if-match", &etag)],
        )
        .await;
    assert_eq!(
        (late.status, late.code()),
        (412, "precondition_failed".into()),
        "{late:?}"
    );
    for (wish, field) in [
        (json!({ "max": 0 }), "max"),
        (json!({ "max": 10_001 }), "max"),
        (json!({ "warm": 5 }), "warm"),
        (json!({ "warm": 3, "max": 2 }), "warm"),
        // A process is not stopped and started again.
        (json!({ "stopped": 1 }), "stopped"),
        (json!({ "idle_minutes": 1_441 }), "idle_minutes"),
        (json!({ "instance_types": ["m7i.large"] }), "instance_types"),
        (json!({ "subnets": ["subnet-1"] }), "subnets"),
        (json!({ "market": "spot" }), "market"),
    ] {
        let refused = admin.put("/api/ec2/pool", wish.clone()).await;
        assert_eq!(
            (refused.status, refused.code()),
            (422, "invalid".into()),
            "{wish}: {refused:?}"
        );
        assert_eq!(refused.text("field"), field, "{wish}");
    }
    for wish in [
        json!({ "warm": -1 }),
        json!({ "warm": "many" }),
        json!({ "cold": 1 }),
    ] {
        let refused = admin.put("/api/ec2/pool", wish.clone()).await;
        assert!([400, 422].contains(&refused.status), "{wish}: {refused:?}");
    }
    let after = admin.get("/api/ec2/pool").await;
    assert_eq!(
        after.headers["etag"],
        newer.as_str(),
        "nothing of it was written"
    );

    // What nobody wants otherwise is as the settings say, also after a restart.
    admin.put("/api/ec2/pool", json!({ "max": 3 })).await.ok();
    let mut world = world;
    world.kill().await;
    world.start_again().await;
    let after = pool(&world.administrator().await).await;
    assert_eq!(
        (&after["warm"], &after["max"]),
        (&0.into(), &3.into()),
        "{after}"
    );
    world.stop().await;
}

#[tokio::test]
async fn what_is_too_much_for_two_minutes_is_let_go_and_nothing_else() {
    let kit = Machines::new().unwrap();
    let plan = scripted(&kit).with("POOL_WARM", 3).with("POOL_MAX", 4);
    let world = plan.start().await.unwrap();
    let _crew = kit.work();
    let alice = world.user("alice").await;
    let held = alice
        .post(
            "/api/sessions",
            json!({ "wait_ms": 20_000, "idle_timeout_ms": 600_000 }),
        )
        .await
        .ok();
    let admin = world.administrator().await;
    eventually("three are ready", SOON, || async {
        count(&admin, "ready").await == 3
    })
    .await;
    let changed = Instant::now();
    let wanted = json!({ "warm": 1, "idle_minutes": 0 });
    admin.put("/api/ec2/pool", wanted).await.ok();
    eventually("some go", Duration::from_secs(150), || async {
        count(&admin, "ready").await < 3
    })
    .await;
    let first = changed.elapsed();
    assert!(first >= Duration::from_secs(119), "too soon: {first:?}");
    eventually("one is left", SOON, || async {
        count(&admin, "ready").await == 1
    })
    .await;
    println!(
        "scaled in from {first:?} to {:?} after the wish",
        changed.elapsed()
    );
    // Signing in again: a token lives for ten minutes, and the session is still there.
    let path = format!("/api/sessions/{}", held["id"].as_str().unwrap());
    assert_eq!(alice.get(&path).await.ok()["status"], "live");
    let ended = instances(&admin).await;
    let surplus = ended.iter().filter(|it| it["error_code"] == "surplus");
    assert_eq!(surplus.count(), 2, "{ended:?}");
    world.stop().await;
}

#[tokio::test]
async fn an_instance_is_its_users_alone_and_ends_with_all_that_is_on_it() {
    let plan = Plan::default().with("POOL_WARM", 0).with("POOL_MAX", 2);
    let world = plan.with("INSTANCES_PER_USER", 1).start().await.unwrap();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let admin = world.administrator().await;
    let id = own(&alice).await;
    let shown = status(&alice, &id).await;
    let me = alice.get("/api/users/me").await.text("id");
    assert_eq!(shown["assigned_to_user_id"], me.as_str());
    assert_eq!(
        (&shown["status"], &shown["health_status"], &shown["link"]),
        (&"running".into(), &"healthy".into(), &"up".into()),
        "{shown}"
    );

    // It counts against what she may have, and against what there may be.
    let more = alice.post("/api/ec2/instances", json!({})).await;
    assert_eq!(
        (more.status, more.code()),
        (429, "quota_reached".into()),
        "{more:?}"
    );
    let bobs = own(&bob).await;
    let more = admin.post("/api/ec2/instances", json!({})).await;
    assert_eq!(
        (more.status, more.code()),
        (503, "no_capacity".into()),
        "{more:?}"
    );
    assert!(more.headers.contains_key("retry-after"));

    // Each sees their own, an administrator all.
    for (caller, sees) in [
        (&alice, vec![&id]),
        (&bob, vec![&bobs]),
        (&admin, vec![&bobs, &id]),
    ] {
        let listed = instances(caller).await;
        let ids: Vec<&str> = listed.iter().filter_map(|it| it["id"].as_str()).collect();
        assert_eq!(ids, sees);
    }
    let theirs = bob.delete(&format!("/api/ec2/instances/{id}")).await;
    assert_eq!(theirs.status, 404, "{theirs:?}");

    let session = alice.open(json!({})).await;
    assert_eq!(session.show().await["instance_id"], id.as_str());
    assert_eq!(session.value("1 + 1").await, 2);
    let ended = alice.delete(&format!("/api/ec2/instances/{id}")).await;
    assert_eq!(ended.status, 202, "{ended:?}");
    let shown = session.show().await;
    assert_eq!(
        (&shown["status"], &shown["end_reason"]),
        (&"ended".into(), &"instance_deleted".into()),
        "{shown}"
    );
    let command = session
        .command("execute", json!({ "expression": "1" }))
        .await;
    assert_eq!(
        (command.status, command.code()),
        (410, "session_gone".into())
    );
    gone(&world, &id).await;
    eventually("its row says so", SOON, || is(&alice, &id, "terminated")).await;
    assert_eq!(status(&alice, &id).await["error_code"], "deleted");
    // Ending what is over is nothing; and she may have another one.
    let again = alice.delete(&format!("/api/ec2/instances/{id}")).await;
    assert_eq!(again.status, 200, "{again:?}");
    own(&alice).await;
    world.stop().await;
}

#[tokio::test]
async fn a_draining_instance_takes_nothing_new_and_ends_with_its_last_session() {
    let plan = Plan::default().with("POOL_WARM", 0).with("POOL_MAX", 2);
    let world = plan.start().await.unwrap();
    let alice = world.user("alice").await;
    let idle = own(&alice).await;
    let drained = alice
        .post(&format!("/api/ec2/instances/{idle}/drain"), json!({}))
        .await;
    assert_eq!(drained.status, 202, "{drained:?}");
    gone(&world, &idle).await;

    let busy = own(&alice).await;
    let session = alice.open(json!({})).await;
    assert_eq!(session.show().await["instance_id"], busy.as_str());
    let path = format!("/api/ec2/instances/{busy}/drain");
    let drained = alice.post(&path, json!({})).await;
    assert_eq!(drained.text("draining"), "drained", "{drained:?}");
    assert_eq!(
        alice.post(&path, json!({})).await.status,
        202,
        "once more is nothing more"
    );
    let restart = format!("/api/ec2/instances/{busy}/restart");
    let refused = alice.post(&restart, json!({})).await;
    assert_eq!(
        (refused.status, refused.code()),
        (409, "instance_not_running".into())
    );
    let next = alice.open(json!({})).await;
    assert_ne!(next.show().await["instance_id"], busy.as_str());
    assert_eq!(session.value("1").await, 1, "what is there goes on");
    session.end().await.ok();
    gone(&world, &busy).await;
    eventually("its row says so", SOON, || is(&alice, &busy, "terminated")).await;
    assert_eq!(status(&alice, &busy).await["error_code"], "drained");
    let over = alice.post(&path, json!({})).await;
    assert_eq!(
        (over.status, over.code()),
        (409, "instance_not_running".into())
    );
    world.stop().await;
}

#[tokio::test]
async fn a_restart_is_a_new_life_of_the_same_instance() {
    let plan = Plan::default().with("POOL_WARM", 0).with("POOL_MAX", 1);
    let mut world = plan.start().await.unwrap();
    let alice = world.user("alice").await;
    let id = own(&alice).await;
    let path = format!("/api/ec2/instances/{id}/restart");
    for (mode, orphaned) in [
        ("agent", false),
        ("reboot", false),
        ("agent", true),
        ("reboot", true),
    ] {
        let words = format!("{mode}, orphaned: {orphaned}");
        if orphaned {
            // Its agent is no child of this control plane any more.
            world.kill().await;
            world.start_again().await;
            eventually("it is ready", SOON, || is(&alice, &id, "ready")).await;
            eventually("its link is up", SOON, || async {
                status(&alice, &id).await["link"] == "up"
            })
            .await;
        }
        let session = alice.open(json!({})).await;
        let before = process(&world, &id);
        let asked = Instant::now();
        let restart = alice.post(&path, json!({ "mode": mode })).await;
        assert_eq!(restart.status, 202, "{words}: {restart:?}");
        assert_eq!(restart.json()["restart"]["mode"], mode, "{words}");
        let second = alice.post(&path, json!({})).await;
        assert_eq!(
            (second.status, second.code()),
            (409, "instance_not_running".into()),
            "{words}"
        );
        eventually("it is ready", Duration::from_secs(30), || {
            is(&alice, &id, "ready")
        })
        .await;
        println!("{words}: ready again after {:?}", asked.elapsed());
        let after = process(&world, &id);
        assert!(
            after != 0 && after != before,
            "{words}: {before} and {after}"
        );
        assert!(!lives(before), "{words}");
        assert_eq!(
            session.show().await["end_reason"],
            "instance_restarted",
            "{words}"
        );
        let next = alice.open(json!({})).await;
        assert_eq!(next.show().await["instance_id"], id.as_str(), "{words}");
        assert_eq!(next.value("1").await, 1, "{words}");
        next.end().await.ok();
    }
    assert_eq!(status(&alice, &id).await["restart"], Value::Null);
    let refused = alice.post(&path, json!({ "mode": "hard" })).await;
    assert!([400, 422].contains(&refused.status), "{refused:?}");
    world.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_is_replaced_and_its_session_told() {
    let plan = Plan::default()
        .with("METRICS_LISTEN", "127.0.0.1:0")
        .with("POOL_WARM", 1)
        .with("POOL_MAX", 2);
    let world = plan.start().await.unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let id = session.show().await["instance_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let admin = world.administrator().await;
    eventually("another is ready", SOON, || async {
        count(&admin, "ready").await == 1
    })
    .await;
    let killed = Instant::now();
    processes::signal(process(&world, &id), Signal::SIGKILL);
    eventually("the session is told", Duration::from_secs(5), || async {
        session.show().await["end_reason"] == "instance_lost"
    })
    .await;
    println!("told {:?} after the kill", killed.elapsed());
    gone(&world, &id).await;
    let series = "browserfleet_orphans_total{kind=\"row\"}";
    assert_eq!(world.metrics().await.value(series), Some(1.0));
    let next = alice.open(json!({})).await;
    assert_ne!(next.show().await["instance_id"], id.as_str());
    eventually("one is ready again", SOON, || async {
        count(&admin, "ready").await == 1
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn an_instance_ends_once_nobody_has_used_it_for_long_enough() {
    let kit = Machines::new().unwrap();
    let plan = scripted(&kit).with("POOL_WARM", 0).with("POOL_MAX", 2);
    let world = plan.with("POOL_IDLE_MS", 1_500).start().await.unwrap();
    let _crew = kit.work();
    let alice = world.user("alice").await;
    let session = alice.open(json!({ "idle_timeout_ms": 2_000 })).await;
    let id = session.show().await["instance_id"]
        .as_str()
        .unwrap()
        .to_owned();
    // Commands are what keeps a session, and the session what keeps its instance.
    let active = Instant::now();
    while active.elapsed() < Duration::from_secs(5) {
        assert_eq!(session.value("1").await, 1);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let last = status(&alice, &id).await;
    assert_eq!(last["status"], "running", "{last}");
    eventually(
        "the commands count as its activity",
        Duration::from_secs(8),
        || async {
            let now = session.show().await;
            let of_instance = status(&alice, &id).await["last_activity_time"].clone();
            of_instance.as_str() >= now["last_activity_at"].as_str() || now["status"] == "ended"
        },
    )
    .await;
    let idle = Instant::now();
    eventually("the session ends", SOON, || async {
        session.show().await["end_reason"] == "idle_timeout"
    })
    .await;
    eventually("its instance ends", SOON, || is(&alice, &id, "terminated")).await;
    println!("ended {:?} after the last look at it", idle.elapsed());
    assert_eq!(status(&alice, &id).await["error_code"], "idle");
    gone(&world, &id).await;
    world.stop().await;
}

#[tokio::test]
async fn a_user_may_want_their_idle_instance_ended_sooner() {
    let kit = Machines::new().unwrap();
    let plan = scripted(&kit).with("POOL_WARM", 0).with("POOL_MAX", 2);
    let world = plan.start().await.unwrap();
    let _crew = kit.work();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let wish =
        json!({ "ec2_preferences": { "terminate_when_idle": true, "idle_timeout_minutes": 1 } });
    alice.put("/api/users/settings", wish).await.ok();
    let (hers, his) = (own(&alice).await, own(&bob).await);
    let ready = Instant::now();
    eventually("hers ends", Duration::from_secs(90), || {
        is(&alice, &hers, "terminated")
    })
    .await;
    let took = ready.elapsed();
    assert!(took > Duration::from_secs(55), "{took:?}");
    assert_eq!(status(&alice, &hers).await["error_code"], "idle");
    assert!(is(&bob, &his, "ready").await);
    world.stop().await;
}

/// A program of this text in a folder of the test's own.
fn write_program(folder: &Path, text: &str) -> PathBuf {
    let program = folder.join("agent");
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    program
}

/// Launches fail, whatever is tried: they are tried one by one and by and by, and who
/// waits is told so.
async fn launches_that_fail_are_held_back(program: &str, failure: &str) {
    let folder = tempfile::TempDir::new().unwrap();
    let program = write_program(folder.path(), program);
    let plan = Plan::default()
        .with("LOCAL_AGENT", program.display())
        .with("POOL_WARM", 1)
        .with("POOL_MAX", 8);
    let world = plan.start().await.unwrap();
    let admin = world.administrator().await;
    eventually("nothing more is tried", SOON, || async {
        pool(&admin).await["launches"]["held_back"] == "launches_fail"
    })
    .await;
    let shown = pool(&admin).await;
    let launches = &shown["launches"];
    assert_eq!(launches["failures_in_a_row"], 3, "{shown}");
    let last = launches["last_failure"].as_str().unwrap_or_default();
    assert!(last.contains(failure), "{last}");
    assert!(launches["last_failed_at"].is_string(), "{shown}");
    // More demand does not make more tries.
    let alice = world.user("alice").await;
    let mut tickets = Vec::new();
    for _ in 0..4 {
        let asked = alice.post("/api/sessions", json!({})).await;
        assert_eq!(asked.status, 202, "{asked:?}");
        tickets.push(asked.text("ticket"));
    }
    for ticket in &tickets {
        let shown = alice.get(&format!("/api/queue/{ticket}")).await.ok();
        assert_eq!(shown["reason"], "launches_fail", "{shown}");
        assert_eq!(shown["estimate_ms"], Value::Null, "{shown}");
    }
    let tried = |all: &[Value]| all.iter().filter(|it| it["provider"] == "local").count();
    assert_eq!(tried(&instances(&admin).await), 3);
    // A minute later one is tried, and one only, however many wait.
    eventually("one more is tried", Duration::from_secs(75), || async {
        for ticket in &tickets {
            alice.get(&format!("/api/queue/{ticket}")).await.ok();
        }
        tried(&instances(&admin).await) > 3
    })
    .await;
    eventually("that was of no use either", SOON, || async {
        pool(&admin).await["launches"]["failures_in_a_row"] == 4
    })
    .await;
    assert_eq!(tried(&instances(&admin).await), 4);
    for ticket in &tickets {
        alice.delete(&format!("/api/sessions/{ticket}")).await.ok();
    }
    let log = world.log();
    assert!(
        log.contains("fewer instances are launched than are wanted"),
        "{log}"
    );
    drop(world);
}

#[tokio::test]
async fn launches_that_fail_are_tried_one_by_one_and_by_and_by() {
    let ends_at_once = "#!/bin/sh\nread -r token\nexit 7\n";
    let is_no_program = "#!/no/such/interpreter\n";
    // Both wait for most of it.
    tokio::join!(
        launches_that_fail_are_held_back(ends_at_once, "exit status: 7"),
        launches_that_fail_are_held_back(is_no_program, "No such file"),
    );
}
