//! An open dialog never hangs a command.

use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use serde_json::json;

#[tokio::test]
async fn each_policy_answers_as_it_says() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    for (policy, answer) in [("accept", true), ("dismiss", false)] {
        let session = alice.open(json!({ "dialogs": policy })).await;
        session.navigate(&site.url("/")).await.ok();
        assert_eq!(session.value("confirm('Sure?')").await, answer, "{policy}");
    }
    let session = alice.open(json!({ "dialogs": "report" })).await;
    session.navigate(&site.url("/")).await.ok();
    let met = session
        .command("click", json!({ "selector": "#alert" }))
        .await;
    assert_eq!((met.status, met.code()), (409, "dialog_open".into()));
    let state = session.state().await.ok();
    assert_eq!(
        (&state["dialog"]["type"], &state["dialog"]["message"]),
        (&"alert".into(), &"Boo".into())
    );
    let held = session
        .command("execute", json!({ "expression": "1" }))
        .await;
    assert_eq!(held.code(), "dialog_open");
    session
        .command("dialog", json!({ "accept": true }))
        .await
        .ok();
    assert_eq!(session.value("document.title").await, "After");
    world.stop().await;
}
