//! A new control plane takes another's place, again and again, while programs go on:
//! pages stay, and whoever may ask again is answered within seconds.

use std::process::Stdio;
use std::time::{Duration, Instant};

use browserfleet_tests::api::{Caller, Session};
use browserfleet_tests::aws::Aws;
use browserfleet_tests::eventually;
use browserfleet_tests::fault_proxy::FaultProxy;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::world::{ADMINISTRATOR, PASSWORD, Plan, World, program};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How often one takes the other's place.
const DEPLOYS: usize = 10;
/// Sessions that are used meanwhile.
const SESSIONS: usize = 2;
/// How long a request may be asked again until it is answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon it is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// What all replicas have in common, and what stands before them.
struct Front {
    aws: Aws,
    plan: Plan,
    api: FaultProxy,
    agents: FaultProxy,
    _postgres: Postgres,
    _keys: TempDir,
}

impl Front {
    async fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let (aws, postgres) = (Aws::start().await.unwrap(), Postgres::start().unwrap());
        let keys = TempDir::new().unwrap();
        let (api, agents) = (
            FaultProxy::start().await.unwrap(),
            FaultProxy::start().await.unwrap(),
        );
        let mut plan = aws.plan();
        for name in ["SIGNING_KEYS", "SEALING_KEY"] {
            let file = keys.path().join(name);
            std::fs::write(&file, rand::random::<[u8; 32]>()).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            plan = plan.with(name, file.display());
        }
        let authority = keys.path().join("authority");
        let made = std::process::Command::new(program("browserfleet").unwrap())
            .arg("authority")
            .arg(&authority)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        let plan = plan
            .with("DATABASE_URL", postgres.database("fleet").unwrap())
            .with("AGENT_AUTHORITIES", authority.display())
            .with("AGENT_LISTEN", "127.0.0.1:0")
            .with("AGENT_ADDRESS", format!("https://{}", agents.address))
            .with("POOL_WARM", 0)
            .with("SESSIONS_PER_INSTANCE", SESSIONS);
        Self {
            aws,
            plan,
            api,
            agents,
            _postgres: postgres,
            _keys: keys,
        }
    }

    /// A replica that newcomers are led to from now on.
    async fn deploy(&self) -> World {
        let world = self.plan.clone().start().await.unwrap();
        let api = world.api.trim_start_matches("http://").parse().unwrap();
        self.api.lead_to(Some(api));
        self.agents.lead_to(Some(world.agents));
        world
    }
}

/// How it went for one program.
#[derive(Debug, Default)]
struct Told {
    asked: u64,
    again: u64,
    slowest: Duration,
}

/// Asks for what may be asked twice, and asks again where it is told that it may.
async fn ask_until(session: Session, stopped: watch::Receiver<bool>) -> Told {
    let mut told = Told::default();
    while !*stopped.borrow() {
        let started = Instant::now();
        loop {
            let body = json!({ "session_id": session.id, "expression": "window.mark" });
            let path = "/api/browser/execute";
            let post = reqwest::Method::POST;
            match session.caller.try_call(post, path, Some(body), &[]).await {
                Ok(reply) if reply.status == 200 => {
                    assert_eq!(
                        reply.json()["value"],
                        session.id.as_str(),
                        "the page stayed"
                    );
                    break;
                }
                Ok(reply) => {
                    let may = reply.json()["retryable"] == true;
                    assert!(may, "failed for good: {reply:?}");
                }
                // A connection that was closed under it; reading may be done again.
                Err(_) => {}
            }
            told.again += 1;
            let waited = started.elapsed();
            assert!(waited < PATIENCE, "not answered within {waited:?}");
            sleep(AGAIN).await;
        }
        told.asked += 1;
        told.slowest = told.slowest.max(started.elapsed());
    }
    told
}

async fn load(alice: &Caller, stopped: &watch::Receiver<bool>) -> Vec<(Session, JoinHandle<Told>)> {
    let mut asking = Vec::new();
    for _ in 0..SESSIONS {
        let session = alice.open(json!({ "wait_ms": 60_000 })).await;
        let mark = format!("window.mark = '{}'", session.id);
        session.value(&mark).await;
        let task = tokio::spawn(ask_until(session.clone(), stopped.clone()));
        asking.push((session, task));
    }
    asking
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_deploy_loses_no_page_and_fails_nothing_that_may_be_asked_again() {
    let front = Front::new().await;
    let mut current = front.deploy().await;
    current.register("alice@example.com", PASSWORD).await;
    let nobody = Caller::nobody(&format!("http://{}", front.api.address));
    let alice = nobody.sign_in("alice@example.com", PASSWORD).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let asking = load(&alice, &stopped).await;
    for _ in 0..DEPLOYS {
        let next = front.deploy().await;
        let mut former = std::mem::replace(&mut current, next);
        assert!(former.terminate().await.success());
        former.assert_quiet();
        sleep(Duration::from_secs(1)).await;
    }
    stop.send_replace(true);
    for (session, task) in asking {
        let told = task.await.unwrap();
        eprintln!("{DEPLOYS} deploys: {told:?}");
        assert!(told.asked > 20, "{told:?}");
        assert_eq!(session.show().await["status"], "live");
        session.end().await.ok();
    }
    let admin = nobody.sign_in(ADMINISTRATOR, PASSWORD).await.unwrap();
    let rows = admin.get("/api/ec2/instances").await.ok();
    let rows = rows["data"].as_array().cloned().unwrap_or_default();
    for row in rows {
        let id = row["id"].as_str().unwrap_or_default().to_owned();
        admin.delete(&format!("/api/ec2/instances/{id}")).await;
    }
    eventually("AWS has nothing left", Duration::from_secs(30), || async {
        front.aws.alive().await.is_empty()
    })
    .await;
    assert_eq!(
        front.aws.machines().await.len(),
        1,
        "one machine did it all"
    );
    current.stop().await;
    front.aws.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_outlasts_its_replica_has_its_outcome_in_the_history() {
    let front = Front::new().await;
    let mut former = front.deploy().await;
    former.register("alice@example.com", PASSWORD).await;
    let nobody = Caller::nobody(&format!("http://{}", front.api.address));
    let alice = nobody.sign_in("alice@example.com", PASSWORD).await.unwrap();
    let session = alice.open(json!({ "wait_ms": 60_000 })).await;
    let asking = {
        let session = session.clone();
        tokio::spawn(async move {
            // Longer than a stop waits for it.
            let expression = "new Promise(done => setTimeout(() => done('late'), 14000))";
            let body = json!({ "session_id": session.id, "expression": expression });
            session.caller.post("/api/browser/execute", body).await
        })
    };
    eventually("it is under way", PATIENCE, || async {
        session.commands().await.len() == 1
    })
    .await;
    let current = front.deploy().await;
    let began = Instant::now();
    assert!(former.terminate().await.success());
    former.assert_quiet();
    println!("the stop took {:?}", began.elapsed());
    let reply = asking.await.unwrap();
    let told = reply.json();
    assert_eq!(
        (
            reply.status,
            told["code"].as_str(),
            told["outcome"].as_str()
        ),
        (504, Some("outcome_unknown"), Some("unknown")),
        "{told}"
    );
    let history = || async { session.commands().await.remove(0) };
    eventually("its outcome comes", Duration::from_secs(30), || async {
        history().await["status"] != "pending"
    })
    .await;
    let outcome = history().await;
    assert_eq!(outcome["status"], "ok", "{outcome}");
    assert_eq!(outcome["result"]["value"], "late", "{outcome}");
    session.end().await.ok();
    current.stop().await;
    front.aws.stop().await;
}
