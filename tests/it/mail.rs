//! New passwords by mail, over a mail server that takes nothing in the clear.

use std::time::Duration;

use browserfleet_tests::eventually;
use browserfleet_tests::mail;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::services::MailServer;
use browserfleet_tests::world::{PASSWORD, Plan, World};
use serde_json::json;

const NEW_PASSWORD: &str = "five other words and 2 numbers";

#[tokio::test]
async fn mail_goes_over_starttls_with_credentials() {
    let server = MailServer::start().await.unwrap();
    let world = Plan::default()
        .with("SMTP_URL", &server.url)
        .with("MAIL_FROM", "Fleet <fleet@example.com>")
        .with("PUBLIC_URL", "https://fleet.example.com/browsers/")
        .with_variable("SSL_CERT_FILE", server.root().display())
        .start()
        .await
        .unwrap();
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    // The link is ours, whatever host a caller names.
    let headers = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
    ];
    let reply = world
        .nobody()
        .call_with(
            reqwest::Method::POST,
            "/api/auth/register",
            Some(body),
            &headers,
        )
        .await;
    assert_eq!(reply.status, 202);
    eventually("the mail came", Duration::from_secs(10), || async {
        !server.mails().is_empty()
    })
    .await;
    let mail = &server.mails()[0];
    assert_eq!(mail["secure"], true);
    assert_eq!(mail["user"], "fleet");
    assert_eq!(mail["to"], json!(["ada@example.com"]));
    let text = mail["text"].as_str().unwrap();
    assert!(text.contains("From: Fleet <fleet@example.com>"), "{text}");
    assert!(text.contains("text/plain") && text.contains("text/html"));
    let link = "https://fleet.example.com/browsers/verify-email#token=";
    assert_eq!(text.matches(link).count(), 3, "{text}");
    assert!(!text.contains("evil"), "{text}");
    let token = mail::token(text, "verify-email").unwrap();
    let verified = world
        .nobody()
        .post("/api/auth/verify-email", json!({ "token": token }))
        .await;
    assert_eq!(verified.status, 204);
    assert!(!world.log().contains("p@ss/word") && !world.log().contains("p%40ss"));
    world.stop().await;
}

#[tokio::test]
async fn a_mail_server_that_is_not_to_be_trusted_gets_nothing() {
    let server = MailServer::start().await.unwrap();
    let world = Plan::default()
        .with("SMTP_URL", &server.url)
        .start()
        .await
        .unwrap();
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(
        world.nobody().post("/api/auth/register", body).await.status,
        202
    );
    eventually("it is in the log", Duration::from_secs(30), || async {
        world.log().contains("a mail did not go")
    })
    .await;
    assert!(server.mails().is_empty());
    drop(world);
}

/// Postgres, because the test turns back its rows.
#[tokio::test]
async fn a_reset_link_is_good_once_for_ten_minutes_and_signs_nobody_in() {
    let postgres = Postgres::start().unwrap();
    let world = Plan::default()
        .with("DATABASE_URL", postgres.database("fleet").unwrap())
        .start()
        .await
        .unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let nobody = world.nobody();
    let signed_in = nobody.sign_in("ada@example.com", PASSWORD).await.unwrap();
    let asked = async |world: &World| {
        let before = world.mails("ada@example.com").len();
        let body = json!({ "email": "ada@example.com" });
        assert_eq!(
            nobody.post("/api/auth/forgot-password", body).await.status,
            202
        );
        eventually("the mail came", Duration::from_secs(5), || async {
            world.mails("ada@example.com").len() > before
        })
        .await;
        world
            .mailed_token("ada@example.com", "reset-password")
            .await
    };
    let reset = async |token: &str, password: &str| {
        let body = json!({ "token": token, "new_password": password });
        let reply = nobody.post("/api/auth/reset-password", body).await;
        let mut answer = reply.json();
        answer["request_id"] = json!(null);
        (reply.status, answer, reply.cookies())
    };
    let older = asked(&world).await;
    let newer = asked(&world).await;
    assert_ne!(older, newer);
    let kept = postgres
        .query("fleet", "select * from mail_tokens")
        .unwrap();
    assert!(
        !kept.contains(&newer) && kept.lines().count() == 1,
        "{kept}"
    );
    let refused = reset("never was one", NEW_PASSWORD).await;
    assert_eq!(refused.0, 400);
    assert_eq!(reset(&older, NEW_PASSWORD).await, refused);
    // A password that is refused does not use the link up.
    assert_eq!(reset(&newer, "password1234").await.0, 422);
    let set = reset(&newer, NEW_PASSWORD).await;
    assert_eq!((set.0, set.2), (204, String::new()), "nobody is signed in");
    assert_eq!(reset(&newer, NEW_PASSWORD).await, refused);
    assert_eq!(signed_in.get("/api/users/me").await.status, 401);
    assert!(nobody.sign_in("ada@example.com", PASSWORD).await.is_err());
    let ada = nobody
        .sign_in("ada@example.com", NEW_PASSWORD)
        .await
        .unwrap();

    let late = asked(&world).await;
    let ten_minutes = "select (max(expires_at - created_at)) / 1000000 from mail_tokens";
    assert_eq!(postgres.query("fleet", ten_minutes).unwrap(), "600");
    let age = "update mail_tokens set expires_at = expires_at - 601000000";
    postgres.query("fleet", age).unwrap();
    assert_eq!(reset(&late, PASSWORD).await, refused);

    // A link that was sent to an address is of no use once it is not the account's.
    let early = asked(&world).await;
    let change = json!({ "email": "lovelace@example.com", "current_password": NEW_PASSWORD });
    let without = json!({ "email": "lovelace@example.com" });
    assert_eq!(
        ada.put("/api/users/me", without).await.text("field"),
        "current_password"
    );
    assert_eq!(ada.put("/api/users/me", change).await.status, 200);
    let token = world
        .mailed_token("lovelace@example.com", "verify-email")
        .await;
    assert_eq!(
        ada.get("/api/users/me").await.text("email"),
        "ada@example.com"
    );
    let verify = json!({ "token": token });
    assert_eq!(
        nobody.post("/api/auth/verify-email", verify).await.status,
        204
    );
    assert_eq!(
        ada.get("/api/users/me").await.text("email"),
        "lovelace@example.com"
    );
    assert_eq!(reset(&early, PASSWORD).await, refused);
    assert!(
        nobody
            .sign_in("lovelace@example.com", NEW_PASSWORD)
            .await
            .is_ok()
    );
    world.stop().await;
}

#[tokio::test]
async fn a_new_password_takes_back_every_link_that_was_mailed_before() {
    let world = World::new().await.unwrap();
    let nobody = world.nobody();
    let mine = "ada@example.com";
    world.register(mine, PASSWORD).await;
    // Somebody else knows the password, and wants the account to keep.
    let steal = async |password: &str, to: &str| {
        let thief = nobody.sign_in(mine, password).await.unwrap();
        let body = json!({ "email": to, "current_password": password });
        assert_eq!(thief.put("/api/users/me", body).await.status, 200);
        world.mailed_token(to, "verify-email").await
    };
    let forgotten = async || {
        let body = json!({ "email": mine });
        let before = world.mails(mine).len();
        nobody.post("/api/auth/forgot-password", body).await.ok();
        eventually("the mail came", Duration::from_secs(5), || async {
            world.mails(mine).len() > before
        })
        .await;
        world.mailed_token(mine, "reset-password").await
    };
    let verify = async |token: &str| {
        let body = json!({ "token": token });
        nobody.post("/api/auth/verify-email", body).await.status
    };
    let reset = async |token: &str, password: &str| {
        let body = json!({ "token": token, "new_password": password });
        nobody.post("/api/auth/reset-password", body).await.status
    };
    // By its owner, who has it still.
    let (stolen, early) = (
        steal(PASSWORD, "thief@example.com").await,
        forgotten().await,
    );
    let ada = nobody.sign_in(mine, PASSWORD).await.unwrap();
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    ada.post("/api/users/me/password", body).await.ok();
    assert_eq!(verify(&stolen).await, 400);
    assert_eq!(reset(&early, PASSWORD).await, 400);
    // By mail.
    let stolen = steal(NEW_PASSWORD, "thief2@example.com").await;
    let link = forgotten().await;
    assert_eq!(reset(&link, PASSWORD).await, 204);
    assert_eq!(verify(&stolen).await, 400);
    let ada = nobody.sign_in(mine, PASSWORD).await.unwrap();
    assert_eq!(ada.get("/api/users/me").await.text("email"), mine);
    world.stop().await;
}

#[tokio::test]
async fn a_mail_in_the_folder_is_for_its_owner_alone_who_can_copy_its_link() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new().await.unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let folder = world.data_dir().join("mail");
    let mut files = std::fs::read_dir(&folder).unwrap();
    let file = files.next().unwrap().unwrap();
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let token = world.mailed_token("ada@example.com", "verify-email").await;
    let link = format!("{}/verify-email#token={token}", world.api);
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(text.lines().any(|line| line == link), "{text}");
    world.stop().await;
}

/// Postgres, because the test looks at the hash.
#[tokio::test]
async fn a_hash_is_made_anew_when_it_is_to_cost_more() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database("fleet").unwrap();
    let hash = || {
        let statement = "select password_hash from users where email = 'ada@example.com'";
        postgres.query("fleet", statement).unwrap()
    };
    let world = Plan::default()
        .with("DATABASE_URL", &url)
        .start()
        .await
        .unwrap();
    world.register("ada@example.com", PASSWORD).await;
    let first = hash();
    assert!(
        first.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{first}"
    );
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_ok()
    );
    assert_eq!(hash(), first);
    world.stop().await;
    let world = Plan::default()
        .with("DATABASE_URL", &url)
        .with("PASSWORD_PASSES", 3)
        .start()
        .await
        .unwrap();
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", "wrong by a word")
            .await
            .is_err()
    );
    assert_eq!(hash(), first);
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_ok()
    );
    assert!(
        hash().starts_with("$argon2id$v=19$m=19456,t=3,p=1$"),
        "{}",
        hash()
    );
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_ok()
    );
    world.stop().await;
}
