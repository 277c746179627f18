//! What administrators do to accounts, and the audit of it all.

use std::time::{Duration, Instant};

use browserfleet_tests::eventually;
use browserfleet_tests::world::{ADMINISTRATOR, PASSWORD, Plan, World};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_disabled_user_is_out_within_five_seconds() {
    let world = World::new().await.unwrap();
    let (ada, admin) = (world.user("ada").await, world.administrator().await);
    let key = json!({ "name": "k", "scopes": ["sessions:read"] });
    let key = ada.post("/api/keys", key).await.ok()["key"].clone();
    let by_key = world.nobody().with_token(key.as_str().unwrap());
    assert_eq!(by_key.get("/api/sessions").await.status, 200);
    let id = ada.get("/api/users/me").await.text("id");
    let session = ada.open(json!({})).await;
    assert_eq!(session.value("1").await, 1);
    let browsers: Vec<i32> = world.browsers().iter().map(|it| it.id).collect();
    let path = format!("/api/admin/users/{id}");
    let asked = Instant::now();
    let disabled = admin.patch(&path, json!({ "disabled": true })).await.ok();
    assert!(!disabled["disabled_at"].is_null());
    assert_eq!(ada.get("/api/users/me").await.status, 401);
    assert_eq!(by_key.get("/api/sessions").await.status, 401);
    assert!(
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .is_err()
    );
    eventually("its browser is gone", Duration::from_secs(5), || async {
        let now: Vec<i32> = world.browsers().iter().map(|it| it.id).collect();
        browsers.iter().any(|it| !now.contains(it))
    })
    .await;
    println!("out after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(5));
    admin.patch(&path, json!({ "disabled": false })).await.ok();
    let ada = world
        .nobody()
        .sign_in("ada@example.com", PASSWORD)
        .await
        .unwrap();
    assert_eq!(
        ada.get(&format!("/api/sessions/{}", session.id))
            .await
            .text("end_reason"),
        "user_barred"
    );
    assert_eq!(ada.open(json!({})).await.value("2").await, 2);
    world.stop().await;
}

#[tokio::test]
async fn a_session_that_opens_while_its_user_is_disabled_does_not_live() {
    let world = Plan::default().with("POOL_WARM", 2).start().await.unwrap();
    let (ada, admin) = (world.user("ada").await, world.administrator().await);
    let id = ada.get("/api/users/me").await.text("id");
    let path = format!("/api/admin/users/{id}");
    let opens: Vec<_> = (0..12)
        .map(|number| {
            let ada = ada.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * 10)).await;
                ada.post("/api/sessions", json!({})).await.status
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(60)).await;
    admin.patch(&path, json!({ "disabled": true })).await.ok();
    let disabled = Instant::now();
    for open in opens {
        open.await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(disabled.elapsed())).await;
    admin.patch(&path, json!({ "disabled": false })).await.ok();
    let ada = world
        .nobody()
        .sign_in("ada@example.com", PASSWORD)
        .await
        .unwrap();
    let live = ada.get("/api/sessions?status=live").await.ok();
    assert_eq!(live["data"], json!([]));
    world.stop().await;
}

#[tokio::test]
async fn there_is_always_an_administrator_and_never_a_default_one() {
    let world = World::new().await.unwrap();
    let admin = world.administrator().await;
    let id = admin.get("/api/users/me").await.text("id");
    let path = format!("/api/admin/users/{id}");
    for change in [json!({ "role": "user" }), json!({ "disabled": true })] {
        let reply = admin.patch(&path, change).await;
        assert_eq!(
            (reply.status, reply.code()),
            (409, "last_administrator".into())
        );
    }
    let leave = json!({ "current_password": PASSWORD });
    let leave = admin
        .call(Method::DELETE, "/api/users/me", Some(leave))
        .await;
    assert_eq!(
        (leave.status, leave.code()),
        (409, "last_administrator".into())
    );
    // A second one, and of two that go for each other at once one remains.
    let other = json!({ "email": "bea@example.com", "role": "admin" });
    let made = admin.post("/api/admin/users", other).await.ok();
    let password = made["password"].as_str().unwrap();
    let bea = world
        .nobody()
        .sign_in("bea@example.com", password)
        .await
        .unwrap();
    let beas = format!("/api/admin/users/{}", made["id"].as_str().unwrap());
    let (one, two) = tokio::join!(
        admin.patch(&beas, json!({ "role": "user" })),
        bea.patch(&path, json!({ "role": "user" })),
    );
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert!(
        statuses == [200, 401] || statuses == [200, 403] || statuses == [200, 409],
        "{statuses:?}"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_role_reaches_tokens_that_were_given_before() {
    let world = World::new().await.unwrap();
    let (ada, admin) = (world.user("ada").await, world.administrator().await);
    assert_eq!(ada.get("/api/admin/users").await.status, 403);
    let id = ada.get("/api/users/me").await.text("id");
    let path = format!("/api/admin/users/{id}");
    admin.patch(&path, json!({ "role": "admin" })).await.ok();
    // The old token says what is no longer so.
    assert_eq!(ada.get("/api/users/me").await.status, 401);
    let ada = world
        .nobody()
        .sign_in("ada@example.com", PASSWORD)
        .await
        .unwrap();
    assert_eq!(ada.get("/api/admin/users").await.status, 200);
    let key = json!({ "name": "k", "scopes": ["admin:read"] });
    let key = ada.post("/api/keys", key).await.ok()["key"].clone();
    let key = world.nobody().with_token(key.as_str().unwrap());
    assert_eq!(key.get("/api/admin/users").await.status, 200);
    admin.patch(&path, json!({ "role": "user" })).await.ok();
    assert_eq!(ada.get("/api/admin/users").await.status, 401);
    assert_eq!(key.get("/api/admin/users").await.status, 403);
    let found = admin
        .get("/api/admin/users?email=ADA@&role=user&disabled=false")
        .await
        .ok();
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    assert_eq!(
        admin.get("/api/admin/users?email=%25").await.ok()["data"],
        json!([])
    );
    let first = admin.get("/api/admin/users?limit=1").await.ok();
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = admin
        .get(&format!("/api/admin/users?cursor={cursor}"))
        .await
        .ok();
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn quotas_hold() {
    let world = Plan::default()
        .with("SESSIONS_PER_INSTANCE", 2)
        .start()
        .await
        .unwrap();
    let (ada, admin) = (world.user("ada").await, world.administrator().await);
    let id = ada.get("/api/users/me").await.text("id");
    let path = format!("/api/admin/users/{id}");
    let set = async |quotas: Value| {
        let changed = admin.patch(&path, json!({ "quotas": quotas })).await.ok();
        assert_eq!(changed["quotas"], quotas);
        world
            .nobody()
            .sign_in("ada@example.com", PASSWORD)
            .await
            .unwrap()
    };
    let refused = async |caller: &browserfleet_tests::api::Caller| {
        let reply = caller.post("/api/sessions", json!({})).await;
        assert_eq!(
            (reply.status, reply.code()),
            (429, "quota_reached".into()),
            "{reply:?}"
        );
        reply.json()["limit"].clone()
    };
    let ada = set(json!({ "sessions": 1, "instances": null, "commands_per_minute": null })).await;
    let session = ada.open(json!({})).await;
    assert_eq!(
        refused(&ada).await,
        json!({ "name": "live_sessions", "value": 1 })
    );
    let ada = set(json!({ "sessions": null, "instances": 1, "commands_per_minute": null })).await;
    ada.open(json!({})).await;
    assert_eq!(
        refused(&ada).await,
        json!({ "name": "instances", "value": 1 })
    );
    let ada = set(json!({ "sessions": null, "instances": null, "commands_per_minute": 3 })).await;
    let mut session = session;
    session.caller = ada;
    for _ in 0..3 {
        assert_eq!(session.value("1").await, 1);
    }
    let fourth = session
        .command("execute", json!({ "expression": "1" }))
        .await;
    assert_eq!(
        (fourth.status, fourth.code()),
        (429, "quota_reached".into())
    );
    let wait: u32 = fourth.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    world.stop().await;
}

#[tokio::test]
async fn who_registers_is_decided() {
    let world = Plan::default()
        .with("REGISTRATION", "invitation")
        .start()
        .await
        .unwrap();
    let (nobody, admin) = (world.nobody(), world.administrator().await);
    let account = |invitation: Option<&str>, email: &str| json!({ "email": email, "password": PASSWORD, "invitation": invitation });
    let register = async |body: Value| {
        let reply = nobody.post("/api/auth/register", body).await;
        (reply.status, reply.code())
    };
    assert_eq!(
        register(account(None, "ada@example.com")).await,
        (403, "invitation_needed".into())
    );
    let invite = json!({ "email": "ada@example.com" });
    assert_eq!(
        admin.post("/api/admin/invitations", invite).await.status,
        202
    );
    let token = world
        .mailed_token("ada@example.com", "accept-invitation")
        .await;
    let other = account(Some(&token), "bob@example.com");
    assert_eq!(register(other).await, (400, "token_invalid".into()));
    let mine = account(Some(&token), "ada@example.com");
    assert_eq!(register(mine.clone()).await, (201, String::new()));
    assert_eq!(register(mine).await, (400, "token_invalid".into()));
    assert!(nobody.sign_in("ada@example.com", PASSWORD).await.is_ok());
    world.stop().await;
    let world = Plan::default()
        .with("REGISTRATION", "closed")
        .start()
        .await
        .unwrap();
    let reply = world
        .nobody()
        .post("/api/auth/register", account(None, "a@example.com"))
        .await;
    assert_eq!(
        (reply.status, reply.code()),
        (403, "registration_closed".into())
    );
    world.stop().await;
}

#[tokio::test]
async fn every_security_event_is_one_line_without_a_secret() {
    let world = World::new().await.unwrap();
    let nobody = world.nobody();
    let odd = "Mozilla\u{202e} evil";
    world.register("ada@example.com", PASSWORD).await;
    let login = json!({ "email": "ada@example.com", "password": "a wrong password" });
    let headers = [("user-agent", odd)];
    nobody
        .call_with(Method::POST, "/api/auth/login", Some(login), &headers)
        .await;
    let ada = nobody.sign_in("ada@example.com", PASSWORD).await.unwrap();
    let key = ada
        .post(
            "/api/keys",
            json!({ "name": "k\u{202e}", "scopes": ["sessions:read"] }),
        )
        .await
        .ok();
    ada.delete(&format!("/api/keys/{}", key["id"].as_str().unwrap()))
        .await;
    ada.get("/api/admin/users").await;
    nobody
        .post(
            "/api/auth/forgot-password",
            json!({ "email": "ada@example.com" }),
        )
        .await;
    let token = world
        .mailed_token("ada@example.com", "reset-password")
        .await;
    let reset = json!({ "token": token, "new_password": "a wholly new pass phrase" });
    assert_eq!(
        nobody.post("/api/auth/reset-password", reset).await.status,
        204
    );
    let admin = world.administrator().await;
    let id = admin.get("/api/admin/users?email=ada").await.ok()["data"][0]["id"].clone();
    let path = format!("/api/admin/users/{}", id.as_str().unwrap());
    for change in [
        json!({ "disabled": true }),
        json!({ "disabled": false }),
        json!({ "quotas": { "sessions": 1 } }),
        json!({ "second_factor_required": true }),
    ] {
        admin.patch(&path, change).await.ok();
    }
    let lines = admin.get("/api/admin/audit?limit=500").await.ok();
    let lines = lines["data"].as_array().unwrap().clone();
    let count = |action: &str, result: &str| {
        let those = lines
            .iter()
            .filter(|it| it["action"] == action && it["result"] == result);
        those
            .filter(|it| it["subject_user_id"] == id || it["actor_user_id"] == id)
            .count()
    };
    for (action, result) in [
        ("account.registered", "done"),
        ("account.verified", "done"),
        ("login", "refused"),
        ("login", "done"),
        ("key.created", "done"),
        ("key.revoked", "done"),
        ("access.denied", "refused"),
        ("password.reset_requested", "done"),
        ("password.reset", "done"),
        ("user.disabled", "done"),
        ("user.enabled", "done"),
        ("user.quotas_changed", "done"),
        ("user.second_factor_required", "done"),
    ] {
        assert_eq!(count(action, result), 1, "{action} {result}");
    }
    let all = Value::from(lines.clone()).to_string();
    for secret in [
        PASSWORD,
        "a wrong password",
        "a wholly new",
        &token,
        key["key"].as_str().unwrap(),
        ada.token(),
    ] {
        assert!(!all.contains(secret), "{secret}");
        assert!(!world.log().contains(secret), "{secret} is in the log");
    }
    assert!(lines.iter().any(|it| it["user_agent"] == odd));
    // In the log, what strangers write is one line, and cannot turn around what is after it.
    assert!(!world.log().contains('\u{202e}'));
    let one = admin
        .get("/api/admin/audit?action=login&result=refused&limit=1")
        .await
        .ok();
    assert_eq!(one["data"].as_array().unwrap().len(), 1);
    let wrong = admin.get("/api/admin/audit?action=nonsense").await;
    assert_eq!((wrong.status, wrong.text("field")), (422, "action".into()));
    assert!(ADMINISTRATOR.contains('@'));
    world.stop().await;
}

#[tokio::test]
async fn what_was_refused_is_told_for_what_it_was() {
    let world = World::new().await.unwrap();
    let (nobody, ada) = (world.nobody(), world.user("ada").await);
    let wrong = "not the password at all";
    let me = "/api/users/me";
    let factor = "/api/users/me/second-factor";
    let deliver = |method, path, body| ada.call(method, path, Some(body));
    let refused = [
        deliver(Method::DELETE, me, json!({ "current_password": wrong })).await,
        deliver(
            Method::PUT,
            me,
            json!({ "email": "other@example.com", "current_password": wrong }),
        )
        .await,
        deliver(
            Method::POST,
            "/api/users/me/password",
            json!({ "current_password": wrong, "new_password": "a wholly new pass phrase" }),
        )
        .await,
        deliver(Method::POST, factor, json!({ "current_password": wrong })).await,
    ];
    for reply in refused {
        assert_eq!(reply.code(), "current_password_wrong");
    }
    let body = json!({ "email": "other@example.com", "current_password": PASSWORD });
    assert_eq!(deliver(Method::PUT, me, body).await.status, 200);
    let proposed = deliver(
        Method::POST,
        factor,
        json!({ "current_password": PASSWORD }),
    )
    .await
    .ok();
    let totp = totp_rs::Totp::from_url(proposed["otpauth_url"].as_str().unwrap()).unwrap();
    let code = json!({ "code": totp.generate_current().to_string() });
    let confirm = "/api/users/me/second-factor/confirm";
    deliver(Method::POST, confirm, code).await.ok();
    let off = json!({ "code": "no code at all" });
    assert_eq!(deliver(Method::DELETE, factor, off).await.status, 403);
    // Of links that do not count nobody knows whose they are; but from where.
    for (path, body) in [
        (
            "/api/auth/reset-password",
            json!({ "token": "x", "new_password": "a wholly new pass phrase" }),
        ),
        ("/api/auth/verify-email", json!({ "token": "x" })),
    ] {
        assert_eq!(nobody.post(path, body).await.status, 400);
    }
    let admin = world.administrator().await;
    for (action, result) in [
        ("account.deleted", "refused"),
        ("account.email_changed", "refused"),
        ("account.email_change_requested", "done"),
        ("password.changed", "refused"),
        ("second_factor.enabled", "refused"),
        ("second_factor.enabled", "done"),
        ("second_factor.disabled", "refused"),
        ("password.reset", "refused"),
        ("account.verified", "refused"),
    ] {
        let path = format!("/api/admin/audit?action={action}&result={result}");
        eventually(action, Duration::from_secs(5), || async {
            admin.get(&path).await.json()["data"] != json!([])
        })
        .await;
        let lines = admin.get(&path).await.ok()["data"].clone();
        assert_eq!(lines.as_array().map(Vec::len), Some(1), "{action} {result}");
        assert_eq!(lines[0]["address"], "127.0.0.1", "{action} {result}");
    }
    let logins = admin
        .get("/api/admin/audit?action=login&result=refused")
        .await
        .ok();
    assert_eq!(logins["data"], json!([]), "nobody tried to sign in");
    world.stop().await;
}
