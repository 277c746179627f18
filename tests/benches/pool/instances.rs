//! Instances of `local`: how long each phase of a start takes, and how long who comes
//! to a warm one waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use browserfleet_tests::api::Caller;
use browserfleet_tests::eventually;
use browserfleet_tests::world::{Plan, World};
use serde_json::json;

/// How often each is measured.
const STARTS: usize = 20;
/// How long a start, or an end, may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// What the spare browser of a warm instance is given to start; it is not in the
/// figures.
const SPARE_STARTS: Duration = Duration::from_millis(500);
/// The phases, as the log of the control plane has them, each with what it is about.
const PHASES: [(&str, &str); 5] = [
    ("instance wanted", "wanted"),
    ("instance launched", "process spawned"),
    ("an agent joined", "joined, with its certificate"),
    ("link up", "link up"),
    ("instance running", "running"),
];

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds since midnight, of a line of the log.
fn time_of(line: &str) -> Option<f64> {
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some((next()? * 60.0 + next()?) * 60_000.0 + next()? * 1_000.0)
}

/// When each phase of an instance's start was reached.
fn reached(log: &str, instance: &str) -> Option<Vec<f64>> {
    let lines: Vec<&str> = log.lines().filter(|it| it.contains(instance)).collect();
    let at = |words: &str| time_of(lines.iter().find(|it| it.contains(words))?);
    PHASES.iter().map(|(words, _)| at(words)).collect()
}

async fn ended(alice: &Caller, instance: &str) {
    let path = format!("/api/ec2/instances/{instance}");
    alice.delete(&path).await;
    let status = format!("{path}/status");
    eventually("it is gone", DEADLINE, || async {
        alice.get(&status).await.ok()["status"] == "terminated"
    })
    .await;
}

/// Starts that somebody asks for, one after another: until each phase, and the first
/// command on a session there.
async fn starts(world: &World) {
    let alice = world.administrator().await;
    let mut times: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for _ in 0..STARTS {
        let asked = Instant::now();
        let wanted = alice.post("/api/ec2/instances", json!({})).await.ok();
        let instance = wanted["id"].as_str().unwrap().to_owned();
        let session = alice.open(json!({})).await;
        session.value("1").await;
        let first_answer = asked.elapsed().as_secs_f64() * 1e3;
        let log = world.log();
        let reached = reached(&log, &instance);
        let reached = reached.unwrap_or_else(|| panic!("phases of {instance} in {log}"));
        for (phase, at) in reached.iter().enumerate() {
            times.entry(phase).or_default().push(at - reached[0]);
        }
        times.entry(PHASES.len()).or_default().push(first_answer);
        session.end().await.ok();
        ended(&alice, &instance).await;
    }
    println!("\n| on `local` | median of {STARTS}, ms |");
    println!("| --- | --- |");
    for (phase, times) in times {
        let name = PHASES.get(phase).map_or(
            "first command answered, since it was asked for",
            |(_, name)| name,
        );
        println!("| start: {name} | {:.0} |", median(times));
    }
}

/// Sessions that find a warm instance.
async fn warm(world: &World) {
    let alice = world.administrator().await;
    let (mut opened, mut answered) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        eventually("one is warm", DEADLINE, || async {
            let pool = alice.get("/api/ec2/pool").await.ok();
            pool["instances"]["ready"].as_u64() >= Some(1)
        })
        .await;
        tokio::time::sleep(SPARE_STARTS).await;
        let asked = Instant::now();
        let session = alice.open(json!({})).await;
        opened.push(asked.elapsed().as_secs_f64() * 1e3);
        session.value("1").await;
        answered.push(asked.elapsed().as_secs_f64() * 1e3);
        let instance = session.show().await["instance_id"].clone();
        session.end().await.ok();
        ended(&alice, instance.as_str().unwrap()).await;
    }
    println!(
        "| warm: session live, since it was asked for | {:.0} |",
        median(opened)
    );
    println!("| warm: first command answered | {:.0} |", median(answered));
}

/// Prints the table.
pub async fn measure() {
    let cold = Plan::default().with("POOL_WARM", 0).start().await.unwrap();
    starts(&cold).await;
    cold.stop().await;
    let ready = Plan::default().with("POOL_WARM", 1).start().await.unwrap();
    warm(&ready).await;
    ready.stop().await;
}
