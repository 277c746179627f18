//! An authority of agents takes the place of another, and nobody is dropped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use browserfleet_proto::agent::v1::{HeldSession, Hello, OpenSession};
use browserfleet_tests::api::{Caller, Session};
use browserfleet_tests::scripted_agent::{Link, Machines, ScriptedAgent};
use browserfleet_tests::world::{Plan, World, make_authority};
use browserfleet_tests::{eventually, processes};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;

/// Scripted agents, each with a session.
const AGENTS: usize = 12;
/// Between two commands on a session, and two dials of an agent.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a session may be away when the control plane comes back.
const BACK: Duration = Duration::from_secs(10);

/// The setting.
fn authorities(of: &[&Path]) -> String {
    let folders: Vec<String> = of.iter().map(|it| it.display().to_string()).collect();
    folders.join(",")
}

async fn restart_with(world: &mut World, of: &[&Path]) {
    world.kill().await;
    world.set("AGENT_AUTHORITIES", authorities(of));
    world.start_again().await;
}

/// Commands without end; those that meet a restart have no answer, and none may say
/// that the session is over.
struct Steady {
    answered: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Steady {
    fn on(session: &Session, caller: &Caller) -> Self {
        let (count, answered) = watch::channel(0);
        let (id, caller) = (session.id.clone(), caller.clone());
        let task = tokio::spawn(async move {
            loop {
                let body = json!({ "session_id": id, "expression": "1", "timeout_ms": 2_000 });
                let path = "/api/browser/execute";
                if let Ok(reply) = caller.try_call(Method::POST, path, Some(body), &[]).await {
                    assert!([200, 503, 504].contains(&reply.status), "{reply:?}");
                    if reply.status == 200 {
                        count.send_modify(|it| *it += 1);
                    }
                }
                sleep(PAUSE).await;
            }
        });
        Self { answered, task }
    }

    /// Waits until commands are answered again.
    async fn goes_on(&mut self) {
        let before = *self.answered.borrow();
        // The first one may have been on its way back already.
        let again = self.answered.wait_for(|it| *it > before + 1);
        let again = tokio::time::timeout(BACK, again).await;
        assert!(matches!(again, Ok(Ok(_))), "commands are answered again");
    }

    async fn stop(self) {
        self.task.abort();
        let ended = self.task.await.expect_err("it was told to end");
        assert!(ended.is_cancelled(), "{ended}");
    }
}

/// A scripted agent that dials again whenever its link ends.
struct Living {
    agent: watch::Sender<ScriptedAgent>,
    task: AbortHandle,
}

impl Living {
    fn with(agent: ScriptedAgent, first: Link, opened: OpenSession) -> Self {
        let agent = watch::Sender::new(agent);
        let current = agent.subscribe();
        let held = HeldSession {
            session_id: opened.session_id,
            epoch: opened.epoch,
        };
        let task = tokio::spawn(async move {
            first.serve("1").await.ok();
            loop {
                let agent = current.borrow().clone();
                let hello = Hello {
                    held_sessions: vec![held.clone()],
                    ..agent.hello()
                };
                if let Ok(link) = agent.link_after(hello).await {
                    link.serve("1").await.ok();
                }
                sleep(PAUSE).await;
            }
        });
        Self {
            agent,
            task: task.abort_handle(),
        }
    }

    async fn renew(&self) {
        let agent = self.agent.borrow().clone();
        self.agent.send_replace(agent.renewed().await.unwrap());
    }
}

#[tokio::test]
async fn whoever_renewed_meanwhile_is_not_dropped() {
    let (mut kit, folder) = (Machines::new().unwrap(), tempfile::TempDir::new().unwrap());
    let [old, new]: [PathBuf; 2] = ["old", "new"].map(|it| folder.path().join(it));
    for it in [&old, &new] {
        make_authority(it).await.unwrap();
    }
    let mut world = Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("AGENT_AUTHORITIES", authorities(&[&old]))
        .with("POOL_WARM", AGENTS)
        .with("POOL_MAX", AGENTS)
        .with("SESSIONS_PER_INSTANCE", 1)
        .start()
        .await
        .unwrap();
    let alice = world.user("alice").await;
    let (mut agents, mut work) = (Vec::new(), Vec::new());
    for _ in 0..AGENTS {
        let agent = kit.next().await.unwrap();
        let mut link = agent.link().await.unwrap();
        let (session, opened) = tokio::join!(alice.open(json!({})), link.open());
        work.push(Steady::on(&session, &alice));
        agents.push(Living::with(agent, link, opened.unwrap()));
    }

    restart_with(&mut world, &[&new, &old]).await;
    for steady in &mut work {
        steady.goes_on().await;
    }
    let (late, in_time) = agents.split_last().unwrap();
    for living in in_time {
        living.renew().await;
    }

    restart_with(&mut world, &[&new]).await;
    let (of_the_late, others) = work.split_last_mut().unwrap();
    for steady in others {
        steady.goes_on().await;
    }
    let answered = *of_the_late.answered.borrow();
    let late_agent = late.agent.borrow().clone();
    let refused = late_agent.link().await.map(drop);
    assert!(refused.is_err(), "the old authority is trusted no more");
    assert_eq!(*of_the_late.answered.borrow(), answered);

    for steady in work {
        steady.stop().await;
    }
    world.stop().await;
    for living in agents {
        living.task.abort();
    }
}

#[tokio::test]
async fn a_real_agent_renews_in_time_and_keeps_its_browsers() {
    let folder = tempfile::TempDir::new().unwrap();
    let [old, new]: [PathBuf; 2] = ["old", "new"].map(|it| folder.path().join(it));
    for it in [&old, &new] {
        make_authority(it).await.unwrap();
    }
    let mut world = Plan::default()
        .with("AGENT_AUTHORITIES", authorities(&[&old]))
        .with("AGENT_CERTIFICATE_MS", 10_000)
        .with("POOL_MAX", 1)
        .start()
        .await
        .unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    session.value("window.kept = 'yes'").await;
    let mut steady = Steady::on(&session, &alice);
    for of in [&[&*new, &*old][..], &[&*new]] {
        restart_with(&mut world, of).await;
        steady.goes_on().await;
        let renewals = || world.log().matches("certificate renewed").count();
        let before = renewals();
        eventually("it renews", Duration::from_secs(10), || async {
            renewals() > before
        })
        .await;
    }
    steady.goes_on().await;
    assert_eq!(session.value("window.kept").await, "yes");
    steady.stop().await;
    session.end().await.ok();
    world.stop().await;
}

/// How long an agent goes with its certificate, and a little.
const CERTIFICATE_ENDS: Duration = Duration::from_secs(15);

#[tokio::test]
async fn an_agent_that_cannot_renew_in_time_goes_on_trying_and_says_when_it_is_too_late() {
    let mut world = Plan::default()
        .with("AGENT_CERTIFICATE_MS", 10_000)
        .with("POOL_MAX", 1)
        .start()
        .await
        .unwrap();
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    session.value("window.kept = 'yes'").await;
    // Nobody is there when it is due.
    world.kill().await;
    let lines = world.lines_logged();
    let says = async |world: &World, words: &str| {
        eventually(words, CERTIFICATE_ENDS, || async {
            world.was_logged_after(lines, words)
        })
        .await;
    };
    says(&world, "could not renew the certificate yet").await;
    world.start_again().await;
    says(&world, "certificate renewed").await;
    eventually("the page is there", BACK, || async {
        let asked = json!({ "expression": "window.kept" });
        let reply = session.command("execute", asked).await;
        reply.status == 200 && reply.json()["value"] == "yes"
    })
    .await;
    // Nor when it ends.
    let agents = world.agents();
    world.kill().await;
    says(&world, "the certificate ended before it could be renewed").await;
    eventually("its agent is gone", BACK, || async {
        let processes = processes::all();
        !processes.iter().any(|it| agents.contains(&it.id))
    })
    .await;
    world.start_again().await;
    let next = alice.open(json!({ "wait_ms": 20_000 })).await;
    assert_eq!(next.value("1 + 1").await, 2);
    assert!(world.terminate().await.success());
}
