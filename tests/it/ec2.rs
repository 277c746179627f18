//! The pool on EC2, from the wish for a session to the end of its machine: the real
//! SDK, an AWS of the test's own, simulated machines, real agents and real Chrome. The
//! policies of `deploy/iam` hold for the control plane and for each machine.

use std::time::{Duration, Instant};

use browserfleet_tests::api::{Caller, Session};
use browserfleet_tests::aws::{Aws, Machine};
use browserfleet_tests::eventually;
use browserfleet_tests::scripted_agent::{Invitation, new_key};
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use serde_json::{Value, json};
use tonic::Code;

/// How long a machine and its agent may take in these tests.
const BOOT: Duration = Duration::from_secs(60);

async fn instances(caller: &Caller) -> Vec<Value> {
    let listed = caller.get("/api/ec2/instances").await.ok();
    listed["data"].as_array().cloned().unwrap_or_default()
}

fn named(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

async fn opened(caller: &Caller) -> Session {
    caller.open(json!({ "wait_ms": 60_000 })).await
}

/// Everything is ended by hand, AWS has nothing left of it, and nothing that was asked
/// for was forbidden.
async fn wound_up(world: World, aws: Aws) {
    let admin = world.administrator().await;
    let pool = json!({ "warm": 0 });
    admin.put("/api/ec2/pool", pool).await.ok();
    for row in instances(&admin).await {
        let path = format!("/api/ec2/instances/{}", named(&row, "id"));
        admin.delete(&path).await;
    }
    aws.assert_balanced(&[], BOOT).await;
    aws.assert_permitted().await;
    world.stop().await;
    aws.stop().await;
}

#[tokio::test]
async fn a_session_on_a_machine_of_ec2_ends_in_a_picture() {
    let aws = Aws::start().await.unwrap();
    let plan = aws.plan().with("POOL_WARM", 1).with("POOL_MAX", 3);
    let world = aws.start_permitted(plan).await;
    let site = Site::start().await.unwrap();
    let alice = world.user("alice").await;
    let session = opened(&alice).await;
    session.navigate(&site.url("/")).await.ok();
    let shot = session.command("screenshot", json!({})).await.ok();
    assert!(named(&shot, "data").starts_with("iVBORw0KGgo"), "a PNG");

    let rows = instances(&alice).await;
    let [row] = rows.as_slice() else {
        panic!("one is hers: {rows:?}")
    };
    assert_eq!(row["status"], "running");
    assert_eq!(row["health_status"], "healthy");
    assert_eq!(row["id"], session.show().await["instance_id"]);
    let machine = aws.machine(&named(row, "instance_id")).await;
    assert_eq!(machine.state, "running");
    let status = format!("/api/ec2/instances/{}/status", named(row, "id"));
    let status = alice.get(&status).await.ok();
    assert_eq!(status["link"], "up");
    assert_eq!(status["region"], aws.fact("region").as_str());
    let phases: Vec<String> = status["boot_phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| named(it, "name"))
        .collect();
    assert!(phases.contains(&"joined".to_owned()), "{phases:?}");
    // Its token is gone from where it lay.
    assert_eq!(aws.token(&machine).await, None);

    // Who ends it, ends what is on it.
    let path = format!("/api/ec2/instances/{}", named(row, "id"));
    assert_eq!(alice.delete(&path).await.status, 202);
    assert_eq!(session.show().await["end_reason"], "instance_deleted");
    eventually("its machine is gone", BOOT, || async {
        aws.machine(&machine.id).await.state == "terminated"
    })
    .await;
    wound_up(world, aws).await;
}

#[tokio::test]
async fn a_machine_that_is_terminated_from_outside_ends_its_session_with_the_reason() {
    let aws = Aws::start().await.unwrap();
    let world = aws.start_permitted(aws.plan().with("POOL_WARM", 0)).await;
    let alice = world.user("alice").await;
    let session = opened(&alice).await;
    let row = instances(&alice).await.remove(0);
    let started = Instant::now();
    aws.terminate(&named(&row, "instance_id")).await;
    eventually("the session is over", Duration::from_secs(30), || async {
        session.show().await["status"] == "ended"
    })
    .await;
    eprintln!("ended {:?} after its machine", started.elapsed());
    assert_eq!(session.show().await["end_reason"], "instance_terminated");
    wound_up(world, aws).await;
}

#[tokio::test]
async fn a_machine_whose_agent_never_calls_is_ended_and_says_why() {
    let aws = Aws::start().await.unwrap();
    aws.knobs(json!({ "silent": true })).await;
    let plan = aws.plan().with("POOL_WARM", 0).with("POOL_BOOT_MS", 3_000);
    let world = aws.start_permitted(plan).await;
    let alice = world.user("alice").await;
    let made = alice.post("/api/ec2/instances", json!({})).await.ok();
    let status = format!("/api/ec2/instances/{}/status", named(&made, "id"));
    eventually("it is given up", BOOT, || async {
        alice.get(&status).await.ok()["status"] == "terminated"
    })
    .await;
    let over = alice.get(&status).await.ok();
    assert_eq!(over["error_code"], "boot_timeout", "{over}");
    // Hers again.
    aws.knobs(json!({ "silent": false })).await;
    let session = opened(&alice).await;
    session.end().await.ok();
    wound_up(world, aws).await;
}

/// The newest machine, and its token as soon as that lies ready.
async fn invited(aws: &Aws) -> (Machine, String) {
    let latest = Instant::now() + BOOT;
    loop {
        if let Some(machine) = aws.alive().await.pop()
            && let Some(token) = aws.token(&machine).await
        {
            return (machine, token);
        }
        assert!(Instant::now() < latest, "no token came");
    }
}

/// What a program on the machine is told by its metadata service.
async fn user_data_of(machine: &Machine) -> String {
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}/latest/{path}", machine.metadata_endpoint);
    let asked = http.put(url("api/token"));
    let asked = asked.header("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let session = asked.send().await.unwrap().text().await.unwrap();
    let asked = http.get(url("user-data"));
    let asked = asked.header("x-aws-ec2-metadata-token", session);
    asked.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_token_is_of_no_use_elsewhere_nor_twice_and_user_data_has_none() {
    let aws = Aws::start().await.unwrap();
    let world = aws.start_permitted(aws.plan().with("POOL_WARM", 0)).await;
    let authorities = world.data_dir().join("agent-authorities.pem");
    let door = Invitation {
        token: String::new(),
        address: format!("https://{}", world.agents),
        authorities: std::fs::read_to_string(authorities).unwrap(),
    };
    let (_, request) = new_key().unwrap();
    let refused = async |machine: &str, token: &str| {
        let refused = door.join_from(machine, token, &request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    };
    let alice = world.user("alice").await;
    aws.knobs(json!({ "silent": true })).await;
    let made = alice.post("/api/ec2/instances", json!({})).await.ok();
    let (machine, token) = invited(&aws).await;
    let told = user_data_of(&machine).await;
    assert!(told.starts_with("#cloud-config"), "{told}");
    assert!(!told.contains(&token));
    refused("i-0123456789abcdef0", &token).await;
    // Whoever carried it away had their chance, and may not say next that they did not.
    refused(&machine.id, &token).await;
    let path = format!("/api/ec2/instances/{}", named(&made, "id"));
    alice.delete(&path).await.ok();
    aws.assert_balanced(&[], BOOT).await;

    aws.knobs(json!({ "silent": false })).await;
    alice.post("/api/ec2/instances", json!({})).await.ok();
    let (machine, token) = invited(&aws).await;
    let session = opened(&alice).await;
    assert_eq!(aws.token(&machine).await, None);
    refused(&machine.id, &token).await;
    assert_eq!(session.value("1 + 1").await, 2);
    wound_up(world, aws).await;
}

#[tokio::test]
async fn how_a_machine_starts_is_streamed() {
    let aws = Aws::start().await.unwrap();
    let world = aws.start_permitted(aws.plan().with("POOL_WARM", 0)).await;
    let alice = world.user("alice").await;
    let made = alice.post("/api/ec2/instances", json!({})).await.ok();
    let status = format!("/api/ec2/instances/{}/status", named(&made, "id"));
    let stream = [("accept", "text/event-stream")];
    let streamed = alice
        .call_with(reqwest::Method::GET, &status, None, &stream)
        .await;
    let text = String::from_utf8(streamed.body.to_vec()).unwrap();
    let phases: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .map(|view| named(&view, "phase"))
        .collect();
    // Some pass faster than anybody looks; none comes back, and the last is the end.
    let order = [
        "wanted",
        "requested",
        "launched",
        "booting",
        "joined",
        "ready",
    ];
    let places: Vec<usize> = phases
        .iter()
        .map(|it| order.iter().position(|known| known == it).unwrap())
        .collect();
    assert!(places.is_sorted(), "{phases:?}");
    assert!(phases.len() >= 3, "{phases:?}");
    assert_eq!(phases.last().map(String::as_str), Some("ready"));
    wound_up(world, aws).await;
}

#[tokio::test]
async fn where_one_kind_is_short_the_next_is_had() {
    let aws = Aws::start().await.unwrap();
    aws.rules(json!([{
        "action": "RunInstances",
        "when": { "type": "c7i.large" },
        "do": { "error": "InsufficientInstanceCapacity" },
    }]))
    .await;
    let world = aws.start_permitted(aws.plan().with("POOL_WARM", 0)).await;
    let alice = world.user("alice").await;
    let session = opened(&alice).await;
    let row = instances(&alice).await.remove(0);
    assert_eq!(row["instance_type"], "m7i.large", "{row}");
    session.end().await.ok();
    wound_up(world, aws).await;
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_machine() {
    let aws = Aws::start().await.unwrap();
    aws.rules(json!([{
        "action": "RunInstances",
        "times": 2,
        "do": { "lost": true },
    }]))
    .await;
    let world = aws.start_permitted(aws.plan().with("POOL_WARM", 0)).await;
    let alice = world.user("alice").await;
    let session = opened(&alice).await;
    assert_eq!(aws.machines().await.len(), 1, "one machine was ever made");
    session.end().await.ok();
    wound_up(world, aws).await;
}

#[tokio::test]
async fn throttled_calls_are_made_again_later_and_by_and_by() {
    let aws = Aws::start().await.unwrap();
    aws.rules(json!([{
        "action": "RunInstances",
        "times": 3,
        "do": { "error": "RequestLimitExceeded" },
    }]))
    .await;
    let world = aws.start_permitted(aws.plan().with("POOL_WARM", 0)).await;
    let alice = world.user("alice").await;
    let session = opened(&alice).await;
    assert_eq!(aws.machines().await.len(), 1);
    assert!(aws.calls("RunInstances").await.len() >= 4);
    session.end().await.ok();
    wound_up(world, aws).await;
}

#[tokio::test]
async fn the_agent_or_the_machine_is_started_anew_and_is_the_same_instance() {
    let aws = Aws::start().await.unwrap();
    let world = aws.start_permitted(aws.plan().with("POOL_WARM", 0)).await;
    let alice = world.user("alice").await;
    for mode in ["agent", "reboot"] {
        let session = opened(&alice).await;
        let row = instances(&alice).await.remove(0);
        let path = format!("/api/ec2/instances/{}", named(&row, "id"));
        let restarted = alice
            .post(&format!("{path}/restart"), json!({ "mode": mode }))
            .await;
        assert_eq!(restarted.status, 202, "{restarted:?}");
        let again = alice.post(&format!("{path}/restart"), json!({})).await;
        assert_eq!(
            (again.status, again.code().as_str()),
            (409, "instance_not_running")
        );
        eventually("it is up again", BOOT, || async {
            let status = alice.get(&format!("{path}/status")).await.ok();
            status["restart"].is_null() && status["link"] == "up"
        })
        .await;
        assert_eq!(session.show().await["end_reason"], "instance_restarted");
        let session = opened(&alice).await;
        assert_eq!(session.show().await["instance_id"], row["id"], "{mode}");
        session.end().await.ok();
    }
    assert_eq!(aws.machines().await.len(), 1, "no other machine was made");
    wound_up(world, aws).await;
}

#[tokio::test]
async fn owners_are_told_that_the_cloud_takes_a_machine_back() {
    let aws = Aws::start().await.unwrap();
    let plan = aws.plan().with("POOL_WARM", 0).with("EC2_MARKET", "spot");
    let world = aws.start_permitted(plan).await;
    let alice = world.user("alice").await;
    let session = opened(&alice).await;
    let row = instances(&alice).await.remove(0);
    assert_eq!(row["market"], "spot");
    aws.notice(&named(&row, "instance_id"), Duration::from_secs(26))
        .await;
    eventually("it is told", Duration::from_secs(12), || async {
        session.show().await["ending_reason"] == "spot_interruption"
    })
    .await;
    // It goes on until then, and a new one goes elsewhere.
    assert_eq!(session.value("1 + 1").await, 2);
    let elsewhere = opened(&alice).await;
    assert_ne!(elsewhere.show().await["instance_id"], row["id"]);
    eventually("it ended in time", Duration::from_secs(30), || async {
        session.show().await["end_reason"] == "spot_interruption"
    })
    .await;
    elsewhere.end().await.ok();
    wound_up(world, aws).await;
}
