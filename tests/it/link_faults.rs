//! The link between an agent and the control plane breaks.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use browserfleet_tests::eventually;
use browserfleet_tests::fault_proxy::FaultProxy;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::{Plan, World, program};
use serde_json::json;
use tempfile::TempDir;

/// A world whose agents dial through a proxy, which leads to it.
async fn behind_a_proxy() -> (World, FaultProxy, TempDir) {
    let (world, proxy, folder) = behind_a_closed_proxy().await;
    proxy.lead_to(Some(world.agents));
    (world, proxy, folder)
}

/// A world whose agents dial through a proxy, where they wait.
async fn behind_a_closed_proxy() -> (World, FaultProxy, TempDir) {
    let proxy = FaultProxy::start().await.unwrap();
    let folder = TempDir::new().unwrap();
    let agent = folder.path().join("agent");
    let script = format!(
        "#!/bin/sh\nBROWSERFLEET_CONTROL_PLANE=https://{} exec {}\n",
        proxy.address,
        program("browserfleet-agent").unwrap().display()
    );
    std::fs::write(&agent, script).unwrap();
    std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755)).unwrap();
    let world = Plan::default()
        .with("LOCAL_AGENT", agent.display())
        .with("POOL_WARM", 1)
        .with("POOL_MAX", 1)
        .start()
        .await
        .unwrap();
    (world, proxy, folder)
}

/// How late answers are that are to be lost: more than it takes to look at the log.
const LATENESS: Duration = Duration::from_millis(500);
/// How long an agent may take to join, with answers that are late.
const JOINING: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_agent_that_did_not_hear_that_it_joined_asks_again_and_is_the_same() {
    let (world, proxy, _folder) = behind_a_closed_proxy().await;
    proxy.answers_after(LATENESS);
    proxy.lead_to(Some(world.agents));
    eventually("it was given a certificate", JOINING, || async {
        world.was_logged_after(0, "an agent joined")
    })
    .await;
    proxy.answers_after(Duration::ZERO);
    assert!(proxy.cut() > 0);
    let alice = world.user("alice").await;
    let session = alice.open(json!({ "wait_ms": 20_000 })).await;
    assert_eq!(session.value("1 + 1").await, 2);
    // No other had to take its place; those that ended would be listed too.
    let admin = world.administrator().await;
    let instances = admin.get("/api/ec2/instances").await.ok();
    let ids: Vec<_> = instances["data"].as_array().into_iter().flatten().collect();
    assert_eq!(ids.len(), 1, "{instances}");
    let log = world.log();
    let joined = log.lines().filter(|it| it.contains("an agent joined"));
    assert_eq!(joined.count(), 2, "it asked twice");
    world.stop().await;
}

#[tokio::test]
async fn a_page_is_still_there_after_a_reset() {
    let ((world, proxy, _folder), site) = (behind_a_proxy().await, Site::start().await.unwrap());
    let session = world.user("alice").await.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    session.value("window.kept = 'yes'").await;
    assert!(proxy.cut() > 0);
    eventually("the link is up again", Duration::from_secs(5), || async {
        let reply = session
            .command("execute", json!({ "expression": "window.kept" }))
            .await;
        reply.status == 200 && reply.json()["value"] == "yes"
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn no_click_runs_twice_however_often_the_link_is_cut() {
    let ((world, proxy, _folder), site) = (behind_a_proxy().await, Site::start().await.unwrap());
    let session = world.user("alice").await.open(json!({})).await;
    session.navigate(&site.url("/")).await.ok();
    let (mut ok, mut unknown) = (0, 0);
    let latest = Instant::now() + Duration::from_secs(10);
    let mut next_cut = Instant::now() + Duration::from_secs(1);
    while Instant::now() < latest {
        if Instant::now() > next_cut {
            next_cut = Instant::now() + Duration::from_secs(2);
            let _cut = proxy.cut();
        }
        let reply = session
            .command("click", json!({ "selector": "#count", "timeout_ms": 3000 }))
            .await;
        match reply.status {
            200 => ok += 1,
            _ if reply.text("outcome") == "not_sent" => {}
            _ => unknown += 1,
        }
    }
    proxy.lead_to(Some(world.agents));
    eventually("the session answers", Duration::from_secs(10), || async {
        session.state().await.status == 200
    })
    .await;
    let total = session.value("total").await.as_u64().unwrap();
    assert!(ok > 10, "{ok} clicks worked");
    assert!(
        (ok..=ok + unknown).contains(&total),
        "{total} clicks of {ok} ok and {unknown} unknown"
    );
    let mut rows = session.commands().await;
    rows.retain(|it| it["ended_at"].is_null());
    assert_eq!(rows, Vec::<serde_json::Value>::new());
    world.stop().await;
}
