//! The pages that people see, in a real browser: our own.

use std::time::Duration;

use browserfleet_tests::api::Session;
use browserfleet_tests::eventually;
use browserfleet_tests::world::{PASSWORD, World};
use serde_json::json;

const NEW_PASSWORD: &str = "five other words and 2 numbers";

async fn fill(page: &Session, fields: &[(&str, &str)]) {
    for (name, text) in fields {
        let field = json!({ "selector": format!("input[name={name}]"), "text": text });
        page.command("type", field).await.ok();
    }
    page.command("click", json!({ "selector": "form button" }))
        .await
        .ok();
}

async fn reads(page: &Session, text: &str) {
    eventually(text, Duration::from_secs(10), || async {
        let says = page
            .value("document.querySelector('#says').textContent")
            .await;
        says.as_str().unwrap_or_default().contains(text)
    })
    .await;
}

#[tokio::test]
async fn a_person_registers_signs_in_and_sets_a_new_password() {
    let world = World::new().await.unwrap();
    let page = world
        .administrator()
        .await
        .open(json!({ "browser": "full" }))
        .await;
    let open = async |path: &str| page.navigate(&format!("{}{path}", world.api)).await.ok();
    let link = async |name: &str| {
        page.command("click", json!({ "selector": format!("text={name}") }))
            .await
            .ok()
    };

    open("/").await;
    reads(&page, "Sign in.").await;
    link("Make an account").await;
    fill(
        &page,
        &[("email", "ada@example.com"), ("password", PASSWORD)],
    )
    .await;
    reads(&page, "A mail is on its way").await;
    let token = world.mailed_token("ada@example.com", "verify-email").await;
    open(&format!("/verify-email#token={token}")).await;
    reads(&page, "The address is confirmed").await;
    // What the link carried is no longer in the address.
    assert!(
        !page
            .value("location.href")
            .await
            .to_string()
            .contains(&token)
    );

    open("/").await;
    fill(
        &page,
        &[
            ("email", "ada@example.com"),
            ("password", "not the password"),
        ],
    )
    .await;
    reads(&page, "is wrong").await;
    open("/").await;
    fill(
        &page,
        &[("email", "ada@example.com"), ("password", PASSWORD)],
    )
    .await;
    reads(&page, "Signed in as ada@example.com").await;
    // No script can read what keeps them signed in, and another site cannot use it.
    assert_eq!(page.value("document.cookie").await, "");
    open("/").await;
    reads(&page, "Signed in as ada@example.com").await;
    link("Sign out").await;
    reads(&page, "Sign in.").await;

    link("Forgot the password?").await;
    fill(&page, &[("email", "ada@example.com")]).await;
    reads(&page, "a mail is on its way").await;
    let token = world
        .mailed_token("ada@example.com", "reset-password")
        .await;
    open(&format!("/reset-password#token={token}")).await;
    fill(&page, &[("new_password", NEW_PASSWORD)]).await;
    reads(&page, "The password is set").await;
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", NEW_PASSWORD)
            .await
            .is_ok()
    );
    let complaints = "performance.getEntriesByType('resource').every((it) => it.name.startsWith(location.origin))";
    assert_eq!(page.value(complaints).await, true);
    page.end().await;
    world.stop().await;
}
