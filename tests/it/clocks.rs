//! Wall clocks are wrong and jump. What lasts a time is measured by clocks that do not.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use browserfleet_tests::eventually;
use browserfleet_tests::wall_clock::WallClock;
use browserfleet_tests::world::{PASSWORD, Plan, program};
use serde_json::json;
use tempfile::TempDir;

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

#[tokio::test]
async fn a_machine_whose_clock_jumps_keeps_its_sessions_and_ends_them_in_time() {
    let clock = WallClock::new().unwrap();
    let plan = clock
        .environment()
        .into_iter()
        .fold(Plan::default(), |plan, (name, value)| {
            plan.with_variable(name, value)
        });
    let world = plan.start().await.unwrap();
    let alice = world.user("alice").await;
    let long = alice.open(json!({ "idle_timeout_ms": 60_000 })).await;
    for jump in [HOUR, -HOUR] {
        clock.set(0).unwrap();
        let short = alice.open(json!({ "idle_timeout_ms": 3_000 })).await;
        clock.set(jump).unwrap();
        // Tokens are for other machines to judge too: they go by the wall clock.
        let refused = alice.get("/api/users/me").await;
        assert_eq!(refused.status, 401, "{jump}: {refused:?}");
        let again = world.nobody().sign_in("alice@example.com", PASSWORD).await;
        let again = again.unwrap();
        let path = format!("/api/sessions/{}", short.id);
        eventually("the unused one ends", Duration::from_secs(8), || async {
            again.get(&path).await.ok()["end_reason"] == "idle_timeout"
        })
        .await;
        // What is due was ended since the jump, and nothing else.
        let kept = again.get(&format!("/api/sessions/{}", long.id)).await.ok();
        assert_eq!(kept["status"], "live", "{jump}");
        let value = again
            .post(
                "/api/browser/execute",
                json!({ "session_id": long.id, "expression": "1 + 1" }),
            )
            .await;
        assert_eq!(value.ok()["value"], 2, "{jump}");
    }
    clock.set(0).unwrap();
    long.end().await.ok();
    world.stop().await;
}

#[tokio::test]
async fn an_agent_may_be_a_day_off() {
    for offset in [DAY, -DAY] {
        let clock = WallClock::new().unwrap();
        clock.set(offset).unwrap();
        let folder = TempDir::new().unwrap();
        let agent = folder.path().join("agent");
        let mut script = String::from("#!/bin/sh\n");
        for (name, value) in clock.environment() {
            script.push_str(&format!("export {name}={value}\n"));
        }
        script.push_str(&format!(
            "exec {}\n",
            program("browserfleet-agent").unwrap().display()
        ));
        std::fs::write(&agent, script).unwrap();
        std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755)).unwrap();
        let world = Plan::default()
            .with("LOCAL_AGENT", agent.display())
            .start()
            .await
            .unwrap();
        let session = world.user("alice").await.open(json!({})).await;
        let late = session
            .command(
                "execute",
                json!({ "expression": "new Promise(() => {})", "timeout_ms": 500 }),
            )
            .await;
        assert_eq!(late.text("code"), "command_timeout", "{offset}: {late:?}");
        assert_eq!(session.value("1").await, 1);
        session.end().await.ok();
        world.stop().await;
    }
}
