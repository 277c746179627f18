//! Both databases keep the same promises.

use std::time::Duration;

use browserfleet_tests::eventually;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::{PASSWORD, Plan, World};
use reqwest::Method;
use serde_json::json;

async fn main_job(mut world: World) {
    let site = Site::start().await.unwrap();
    let session = world
        .user("alice")
        .await
        .open(json!({ "metadata": { "a": "b" } }))
        .await;
    session.navigate(&site.url("/")).await.ok();
    session
        .command("click", json!({ "selector": "#count" }))
        .await
        .ok();
    world.kill().await;
    world.start_again().await;
    let again = world
        .nobody()
        .sign_in("alice@example.com", browserfleet_tests::world::PASSWORD)
        .await
        .unwrap();
    let found = again.get("/api/sessions?metadata.a=b").await.ok();
    assert_eq!(found["data"].as_array().map(Vec::len), Some(1));
    let kinds: Vec<String> = session
        .commands()
        .await
        .iter()
        .map(|it| it["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(kinds, ["click", "navigate"]);
    session.end().await.ok();
    world.stop().await;
}

#[tokio::test]
async fn postgres_carries_the_main_job_and_a_restart() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database("fleet").unwrap();
    main_job(
        Plan::default()
            .with("DATABASE_URL", url)
            .start()
            .await
            .unwrap(),
    )
    .await;
    let open = postgres
        .query(
            "fleet",
            "select count(*) from commands where ended_at is null",
        )
        .unwrap();
    assert_eq!(open, "0");
}

#[tokio::test]
async fn sqlite_carries_the_main_job_and_a_restart() {
    main_job(World::new().await.unwrap()).await;
}

#[tokio::test]
async fn a_newer_database_is_refused_in_one_line() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database("fleet").unwrap();
    let world = Plan::default()
        .with("DATABASE_URL", &url)
        .start()
        .await
        .unwrap();
    world.stop().await;
    postgres
        .query("fleet", "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'later', true, '\\x00', 0)")
        .unwrap();
    let refused = Plan::default().with("DATABASE_URL", &url).start().await;
    let said = refused.err().map(|it| it.to_string()).unwrap_or_default();
    assert!(said.contains("newer"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[tokio::test]
async fn many_writers_never_meet_a_locked_database() {
    let world = World::new().await.unwrap();
    let session = world.user("alice").await.open(json!({})).await;
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    let reply = session
                        .command("execute", json!({ "expression": "1" }))
                        .await;
                    assert!(reply.status == 200 || reply.status == 503, "{reply:?}");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    world.stop().await;
}

/// Every statement about accounts, once, in the order in which a deployment lives.
async fn accounts_work(plan: Plan) {
    let world = plan
        .with("COMMANDS_PER_MINUTE", 1_000)
        .start()
        .await
        .unwrap();
    let (ada, admin) = (world.user("ada").await, world.administrator().await);
    let nobody = world.nobody();
    let id = ada.get("/api/users/me").await.text("id");
    let names = json!({ "first_name": "Ada", "last_name": "L\u{f6}velace" });
    assert_eq!(
        ada.put("/api/users/me", names).await.ok()["first_name"],
        "Ada"
    );
    assert_eq!(
        ada.put("/api/users/settings", json!({ "theme": "dark" }))
            .await
            .status,
        200
    );
    let key = json!({ "name": "k", "scopes": ["sessions:read"], "expires_in": 600 });
    let key = ada.post("/api/keys", key).await.ok();
    let by_key = nobody.with_token(key["key"].as_str().unwrap());
    assert_eq!(by_key.get("/api/sessions").await.status, 200);
    assert!(!ada.get("/api/keys").await.ok()["data"][0]["last_used_at"].is_null());
    let path = "/api/users/me/second-factor";
    let proof = json!({ "current_password": PASSWORD });
    let proposed = ada.post(path, proof.clone()).await.ok();
    let totp = totp_rs::Totp::from_url(proposed["otpauth_url"].as_str().unwrap()).unwrap();
    let code = json!({ "code": totp.generate_current().to_string() });
    let recovery = ada.post(&format!("{path}/confirm"), code).await.ok();
    let recovery = recovery["recovery_codes"].as_array().unwrap().clone();
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    let challenge = nobody.post("/api/auth/login", login).await.json()["challenge"].clone();
    let answer = json!({ "challenge": challenge, "code": recovery[0] });
    let again = nobody
        .post("/api/auth/login/second-factor", answer)
        .await
        .ok();
    assert_eq!(ada.get(path).await.ok()["recovery_codes_left"], 9);
    let code = json!({ "code": recovery[1] });
    let fresh = ada.post(&format!("{path}/recovery-codes"), code).await.ok();
    let off = json!({ "code": fresh["recovery_codes"][0] });
    assert_eq!(ada.call(Method::DELETE, path, Some(off)).await.status, 204);
    let refresh = json!({ "refresh_token": again["refresh_token"] });
    let next = nobody
        .post("/api/auth/refresh-token", refresh.clone())
        .await
        .ok();
    assert_eq!(
        nobody.post("/api/auth/refresh-token", refresh).await.ok()["refresh_token"],
        next["refresh_token"]
    );
    assert_eq!(
        ada.get("/api/auth/sessions").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(ada.delete("/api/auth/sessions").await.status, 204);
    assert_eq!(
        ada.get("/api/auth/sessions").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let all = admin.get("/api/admin/users?email=a_a").await.ok();
    assert_eq!(all["data"], json!([]), "a pattern is no wildcard");
    let one = admin
        .get("/api/admin/users?email=ADA&role=user&disabled=false&limit=1")
        .await
        .ok();
    assert_eq!(one["data"][0]["id"], id);
    let theirs = format!("/api/admin/users/{id}");
    for change in [
        json!({ "quotas": { "sessions": 2, "instances": 1 } }),
        json!({ "second_factor_required": true }),
        json!({ "second_factor_required": false }),
        json!({ "role": "admin" }),
        json!({ "role": "user" }),
        json!({ "disabled": true }),
        json!({ "disabled": false }),
    ] {
        assert_eq!(
            admin.patch(&theirs, change.clone()).await.status,
            200,
            "{change}"
        );
    }
    let query =
        format!("/api/admin/audit?user_id={id}&action=user.role_changed&result=done&limit=1");
    let line = admin.get(&query).await.ok();
    assert_eq!(line["data"].as_array().unwrap().len(), 1);
    let cursor = line["next_cursor"].as_str().unwrap();
    let line = admin.get(&format!("{query}&cursor={cursor}")).await.ok();
    assert_eq!(line["data"][0]["detail"], "admin");
    let body = json!({ "email": "ada@example.com" });
    assert_eq!(
        nobody.post("/api/auth/forgot-password", body).await.status,
        202
    );
    let token = world
        .mailed_token("ada@example.com", "reset-password")
        .await;
    let reset = json!({ "token": token, "new_password": "another set of 3 words" });
    assert_eq!(
        nobody.post("/api/auth/reset-password", reset).await.status,
        204
    );
    let ada = nobody
        .sign_in("ada@example.com", "another set of 3 words")
        .await
        .unwrap();
    let session = ada.open(json!({ "metadata": { "a": "b" } })).await;
    assert_eq!(session.value("1").await, 1);
    let leave = json!({ "current_password": "another set of 3 words" });
    assert_eq!(
        ada.call(Method::DELETE, "/api/users/me", Some(leave))
            .await
            .status,
        204
    );
    eventually("the history is gone", Duration::from_secs(15), || async {
        world
            .log()
            .contains("the history of a user who left is gone")
    })
    .await;
    assert_eq!(admin.get(&theirs).await.status, 404);
    world.stop().await;
}

#[tokio::test]
async fn postgres_carries_accounts() {
    let postgres = Postgres::start().unwrap();
    accounts_work(Plan::default().with("DATABASE_URL", postgres.database("fleet").unwrap())).await;
    let left = "select (select count(*) from commands) + (select count(*) from sessions) \
        + (select count(*) from api_keys) + (select count(*) from recovery_codes)";
    assert_eq!(postgres.query("fleet", left).unwrap(), "0");
}

#[tokio::test]
async fn sqlite_carries_accounts() {
    accounts_work(Plan::default()).await;
}
