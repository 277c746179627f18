//! A thousand sessions come and go, one in ten with its browser killed, and
//! nothing is left of them.

use std::time::Duration;

use browserfleet_tests::world::{Plan, World};
use browserfleet_tests::{eventually, processes};
use nix::sys::signal::Signal;
use serde_json::json;

const SESSIONS: usize = 1_000;
/// What the agents may grow by; below it lies what the allocator keeps.
const GROWTH_MAX: f64 = 1.1;

async fn open_and_close(world: &World, from: usize, to: usize) {
    let alice = world.administrator().await;
    for number in from..to {
        let session = alice.open(json!({})).await;
        if number % 10 == 0 {
            let victims = world.browsers();
            for victim in &victims {
                processes::signal(victim.id, Signal::SIGKILL);
            }
            eventually("its end is noticed", Duration::from_secs(5), || async {
                session.show().await["status"] == "ended"
            })
            .await;
        } else {
            session.end().await.ok();
        }
    }
}

fn memory_of_agents(world: &World) -> u64 {
    world.agents().into_iter().map(processes::memory).sum()
}

#[tokio::test]
async fn a_thousand_sessions_leave_nothing() {
    let world = Plan::default()
        .with("POOL_MAX", 1)
        .with("LOG", "warn,browserfleet=info")
        .start()
        .await
        .unwrap();
    open_and_close(&world, 0, SESSIONS / 5).await;
    let (memory, descriptors) = (
        memory_of_agents(&world),
        descriptors_of_agents(&world).await,
    );
    open_and_close(&world, SESSIONS / 5, SESSIONS).await;

    eventually(
        "only the spare is left",
        Duration::from_secs(10),
        || async { world.browsers().len() <= 1 },
    )
    .await;
    let folders = std::fs::read_dir(world.data_dir().join("instances"))
        .unwrap()
        .flatten();
    let profiles: usize = folders
        .map(|it| std::fs::read_dir(it.path().join("browsers")).map_or(0, Iterator::count))
        .sum();
    assert!(profiles <= 1, "{profiles} folders");
    let live = world
        .administrator()
        .await
        .get("/api/sessions?status=live")
        .await
        .ok();
    assert_eq!(live["data"], json!([]));
    let after = descriptors_of_agents(&world).await;
    assert!(
        after <= descriptors + descriptors / 10,
        "{descriptors} descriptors, then {after}"
    );
    let grown = memory_of_agents(&world) as f64 / memory as f64;
    assert!(
        grown <= GROWTH_MAX,
        "the agents grew by a factor of {grown:.2}"
    );
    world.stop().await;
}

async fn descriptors_of_agents(world: &World) -> usize {
    eventually("the spare is there", Duration::from_secs(10), || async {
        world.browsers().len() == 1
    })
    .await;
    world.agents().into_iter().map(processes::descriptors).sum()
}
