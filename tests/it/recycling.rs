//! An instance that goes from one user to the next: nothing of the one is there for
//! the other, and where something stays, nobody gets it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use browserfleet_control_plane::domain::time::Timestamp;
use browserfleet_control_plane::store::Store;
use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_proto::agent::v1::to_agent::Body as Heard;
use browserfleet_proto::agent::v1::{Recycled, SessionEnded};
use browserfleet_proto::ids::InstanceId;
use browserfleet_tests::api::{Caller, Session};
use browserfleet_tests::scripted_agent::{Link, Machines};
use browserfleet_tests::traces::{CANARY, FIND, LEAVE, Traces};
use browserfleet_tests::world::{Plan, World};
use browserfleet_tests::{eventually, processes};
use serde_json::{Value, json};

/// How long a launch, or a handover, may take.
const SOON: Duration = Duration::from_secs(20);
/// How long Chrome may keep to itself what a page wrote.
const FLUSHED_WITHIN: Duration = Duration::from_secs(45);
/// Where anybody may write.
const SHARED_FOLDERS: [&str; 2] = ["/tmp", "/dev/shm"];
/// Kinds of traces that are left and found, at the least, of those that there are.
const KINDS_MIN: usize = 27;

/// One instance, which goes to the next user as soon as nothing of the last is on it.
async fn one_instance() -> World {
    one_instance_of(Plan::default()).await
}

async fn one_instance_of(plan: Plan) -> World {
    plan.with("POOL_REUSE", "proven-clean")
        .with("POOL_IDLE_MS", 0)
        .with("POOL_WARM", 1)
        .with("POOL_MAX", 1)
        .start()
        .await
        .unwrap()
}

async fn instance_of(session: &Session) -> String {
    let shown = session.show().await;
    shown["instance_id"].as_str().unwrap_or_default().to_owned()
}

/// The epoch of an instance's lease, which its users do not see.
async fn epoch(world: &World, instance: &str) -> i64 {
    let file = world.data_dir().join("browserfleet.db");
    let url = format!("sqlite:{}", file.display());
    let store = Store::open(&url, Timestamp(0)).await.unwrap();
    let id: InstanceId = instance.parse().unwrap();
    store.instance(id).await.unwrap().unwrap().epoch
}

/// Names of the traces that a session's page finds.
async fn found(session: &Session) -> BTreeSet<String> {
    let kinds = session.value(FIND).await;
    let kinds = kinds.as_array().cloned().unwrap_or_default();
    let words = kinds.iter().filter_map(Value::as_str);
    words.map(str::to_owned).collect()
}

fn browsers(world: &World, instance: &str) -> PathBuf {
    let folder = world.data_dir().join("instances").join(instance);
    folder.join("browsers")
}

/// Files below this folder that have the word in them, or in their names.
fn with_canary(folder: &Path, deep: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if entry.file_name().to_string_lossy().contains("canary") {
            found.push(path);
        } else if metadata.is_dir() && deep {
            found.extend(with_canary(&path, deep));
        } else if metadata.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes
                .windows(CANARY.len())
                .any(|it| it == CANARY.as_bytes())
            {
                found.push(path);
            }
        }
    }
    found
}

fn on_disk(world: &World, instance: &str) -> Vec<PathBuf> {
    let own = browsers(world, instance);
    let mut found = with_canary(own.parent().unwrap(), true);
    for shared in SHARED_FOLDERS {
        found.extend(with_canary(Path::new(shared), false));
    }
    found
}

/// Everything that runs out of an instance's folder, but for its agent.
fn running(world: &World, instance: &str) -> BTreeSet<i32> {
    let folder = browsers(world, instance).to_string_lossy().into_owned();
    let all = processes::all();
    let theirs = all.iter().filter(|it| it.command.contains(&folder));
    theirs.map(|it| it.id).collect()
}

async fn visited(caller: &Caller, site: &Traces, wish: Value) -> Session {
    let session = caller.open(wish).await;
    session.navigate(&site.url()).await.ok();
    session
}

/// How the one instance goes from one to the other with a browser of this kind.
async fn hand_over(world: &World, site: &Traces, kind: &str, from: &Caller, to: &Caller) {
    let wish = json!({
        "browser": kind,
        "user_agent": "Canary/1",
        "locale": "de-CH",
        "timezone": "Asia/Tokyo",
        "viewport": { "width": 777, "height": 555, "scale": 2 },
    });
    let former = visited(from, site, wish).await;
    let instance = instance_of(&former).await;
    let before = epoch(world, &instance).await;
    assert_eq!(former.value(LEAVE).await, "left", "{kind}");
    let left = found(&former).await;
    assert!(
        left.len() >= KINDS_MIN,
        "{kind}: {} of them: {left:?}",
        left.len()
    );
    // A tab more, with a dialog in it that nobody answers.
    former.value("void open('/', '_blank')").await;
    former
        .command(
            "execute",
            json!({ "expression": "setTimeout(() => alert('canary'))" }),
        )
        .await
        .ok();
    eventually("something of it is on the disk", FLUSHED_WITHIN, || async {
        !on_disk(world, &instance).is_empty()
    })
    .await;
    let ran = running(world, &instance);
    assert!(!ran.is_empty(), "{kind}");

    former.end().await.ok();
    let ended = Instant::now();
    let next = visited(to, site, json!({ "browser": kind })).await;
    println!(
        "{kind}: {} kinds left; with the next user after {:?}",
        left.len(),
        ended.elapsed()
    );
    assert_eq!(
        instance_of(&next).await,
        instance,
        "{kind}: it is the same instance"
    );
    assert!(
        epoch(world, &instance).await > before,
        "{kind}: under a newer lease"
    );
    // Looking for traces leaves some: the disk comes first.
    let disk = on_disk(world, &instance);
    assert!(disk.is_empty(), "{kind}: {disk:?}");
    let seen = found(&next).await;
    assert!(seen.is_empty(), "{kind}: {seen:?}");
    let state = next.state().await.ok();
    assert_eq!(
        state["tabs"].as_array().map(Vec::len),
        Some(1),
        "{kind}: {state}"
    );
    assert_eq!(state["dialog"], Value::Null, "{kind}: {state}");
    let theirs = to
        .get(&format!("/api/sessions/{}/commands", former.id))
        .await;
    assert_eq!(theirs.status, 404, "{kind}");
    let still: Vec<i32> = running(world, &instance)
        .intersection(&ran)
        .copied()
        .collect();
    assert!(still.is_empty(), "{kind}: {still:?} run on");
    next.end().await.ok();
}

#[tokio::test]
async fn nothing_of_one_user_is_there_for_the_next() {
    let (world, site) = (one_instance().await, Traces::start().await.unwrap());
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    for round in 0..2 {
        let (from, to) = if round % 2 == 0 {
            (&alice, &bob)
        } else {
            (&bob, &alice)
        };
        hand_over(&world, &site, "shell", from, to).await;
    }
    hand_over(&world, &site, "full", &alice, &bob).await;
    let admin = world.administrator().await;
    let all = admin.get("/api/ec2/instances").await.ok();
    assert_eq!(
        all["data"].as_array().map(Vec::len),
        Some(1),
        "no other was needed: {all}"
    );
    world.stop().await;
}

/// Ends a program of the test's own.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn run(script: &str, folder: &Path) -> Running {
    let child = Command::new("/bin/sh")
        .args(["-c", script])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(child.unwrap())
}

#[tokio::test]
async fn what_a_browser_left_behind_is_ended_and_removed() {
    let world = one_instance().await;
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let session = alice.open(json!({})).await;
    let instance = instance_of(&session).await;
    let folder = browsers(&world, &instance);
    // As if a browser had left its group, and a download its folder.
    let mut stray = run("exec sleep 600", &folder);
    std::fs::create_dir_all(folder.join("stray/profile")).unwrap();
    std::fs::write(folder.join("stray/profile/cookies"), CANARY).unwrap();
    std::fs::write(folder.join("download"), CANARY).unwrap();
    session.end().await.ok();
    let next = bob.open(json!({})).await;
    assert_eq!(instance_of(&next).await, instance);
    assert!(stray.0.try_wait().unwrap().is_some(), "the process runs on");
    assert!(on_disk(&world, &instance).is_empty());
    assert!(!folder.join("stray").exists());
    next.end().await.ok();
    world.stop().await;
}

/// The lease that an agent is told to remove all traces of.
async fn recycling(link: &mut Link) -> u64 {
    loop {
        match link.hear().await.unwrap() {
            Some(Heard::Recycle(recycle)) => return recycle.epoch,
            Some(_) => {}
            None => panic!("the link ended before"),
        }
    }
}

/// A session of this caller over this link, from its beginning to its end.
async fn one_session(link: &mut Link, caller: &Caller) -> String {
    let (session, opened) = tokio::join!(caller.open(json!({})), link.open());
    opened.unwrap();
    let instance = instance_of(&session).await;
    let ends = async {
        loop {
            if let Some(Heard::EndSession(end)) = link.hear().await.unwrap() {
                let ended = SessionEnded {
                    session_id: end.session_id,
                    epoch: end.epoch,
                    ..SessionEnded::default()
                };
                return link.report(Said::SessionEnded(ended)).await.unwrap();
            }
        }
    };
    let (ended, ()) = tokio::join!(session.end(), ends);
    ended.ok();
    instance
}

fn recycled(epoch: u64, residue: &[&str]) -> Said {
    let residue = residue.iter().map(|it| (*it).to_owned()).collect();
    Said::Recycled(Recycled { epoch, residue })
}

#[tokio::test]
async fn an_instance_that_cannot_be_made_clean_goes_to_nobody() {
    let mut kit = Machines::new().unwrap();
    let world = one_instance_of(Plan::default().with("LOCAL_AGENT", kit.program().display())).await;
    let mut link = kit.next().await.unwrap().link().await.unwrap();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let instance = one_session(&mut link, &alice).await;
    let first = recycling(&mut link).await;
    link.report(recycled(first, &[])).await.unwrap();
    // The next one gets it; what is said late of the lease before changes nothing.
    let again = one_session(&mut link, &bob).await;
    assert_eq!(again, instance);
    let second = recycling(&mut link).await;
    assert!(second > first);
    link.report(recycled(first, &["a cookie"])).await.unwrap();
    let admin = world.administrator().await;
    let path = format!("/api/ec2/instances/{instance}/status");
    let shown = || async { admin.get(&path).await.ok() };
    eventually("it is being made clean", SOON, || async {
        let shown = shown().await;
        (&shown["status"], &shown["phase"]) == (&"running".into(), &"recycling".into())
    })
    .await;

    link.report(recycled(second, &["a cookie"])).await.unwrap();
    eventually("it is over", SOON, || async {
        let shown = shown().await;
        (&shown["status"], &shown["error_code"]) == (&"terminated".into(), &"residue".into())
    })
    .await;
    let mut other = kit.next().await.unwrap().link().await.unwrap();
    let next = one_session(&mut other, &alice).await;
    assert_ne!(next, instance);
    world.stop().await;
}
