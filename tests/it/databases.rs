//! Both databases keep the same promises.

use std::time::Duration;

use browserfleet_tests::eventually;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::{PASSWORD, Plan, World};
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use super::replicas::with_keys_in;

/// What a database had before there were logins, an audit and a pool.
const OLD: [(&str, &str); 3] = [
    (
        "accounts",
        include_str!("../../migrations/0001_accounts.sql"),
    ),
    (
        "instances",
        include_str!("../../migrations/0002_instances.sql"),
    ),
    (
        "sessions",
        include_str!("../../migrations/0003_sessions.sql"),
    ),
];
/// The instance of an old database, and its session: both were over long ago.
const OLD_INSTANCE: &str = "ins_01890a5dac96774bbcceb302099a8057";
/// See [`OLD_INSTANCE`].
const OLD_SESSION: &str = "ses_01890a5dac96774bbcceb302099a8058";
/// How long two control planes may take to put an old database in order.
const IN_ORDER: Duration = Duration::from_secs(60);

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

/// Makes a database as the first version left it, with a session that nobody ended on
/// an instance whose machine is gone.
fn fill_as_of_old(postgres: &Postgres) {
    let run = |statement: &str| postgres.query("fleet", statement).unwrap();
    run(
        "create table _sqlx_migrations (version bigint primary key, description text not null, \
         installed_on timestamptz not null default now(), success boolean not null, \
         checksum bytea not null, execution_time bigint not null)",
    );
    for (number, (name, sql)) in (1..).zip(OLD) {
        run(sql);
        run(&format!(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
             values ({number}, '{name}', true, sha384(convert_to($sql${sql}$sql$, 'UTF8')), 1)"
        ));
    }
    let user = "usr_01890a5dac96774bbcceb302099a8056";
    let spec = json!({
        "browser": "shell", "width": 1280, "height": 720, "scale": 1.0, "user_agent": "",
        "locale": "", "timezone": "", "dialogs": "dismiss", "command_timeout_ms": 30_000,
    });
    run(&format!(
        "insert into users (id, email, password_hash, role, settings, created_at, updated_at) \
         values ('{user}', 'ada@example.com', '', 'user', '{{}}', 1, 1)"
    ));
    run(&format!(
        "insert into instances (id, provider, reference, status, assigned_to_user_id, epoch, \
         sessions_max, certificate_serial, created_at, last_activity_at) \
         values ('{OLD_INSTANCE}', 'local', '{OLD_INSTANCE}', 'running', '{user}', 1, 1, 'ab', 1, 1)"
    ));
    run(&format!(
        "insert into sessions (id, user_id, instance_id, epoch, status_rank, metadata, spec, \
         timeout_us, idle_timeout_us, created_at, started_at, expires_at, last_activity_at) \
         values ('{OLD_SESSION}', '{user}', '{OLD_INSTANCE}', 1, 2, '{{}}', '{spec}', \
         60000000, 60000000, 1, 1, 60000001, 1)"
    ));
}

/// Two control planes start at once on what is there: they migrate it once, one of them
/// leads, and what is done is done once.
async fn two_start_at_once(postgres: &Postgres, url: &str, ended: usize) {
    let keys = TempDir::new().unwrap();
    let plan = Plan::default()
        .with("DATABASE_URL", url)
        .with("POOL_WARM", 1)
        .with("POOL_MAX", 4);
    let plan = with_keys_in(keys.path(), plan);
    let (one, other) = tokio::join!(plan.clone().start(), plan.start());
    let worlds = [one.unwrap(), other.unwrap()];
    let ask = |statement: &str| postgres.query("fleet", statement).unwrap();
    let migrated = "select count(*) = max(version) and bool_and(success) from _sqlx_migrations";
    assert_eq!(ask(migrated), "t");
    let warm = format!(
        "select count(*) from instances where status = 'running' and id <> '{OLD_INSTANCE}'"
    );
    eventually("one is warm", IN_ORDER, || async { ask(&warm) == "1" }).await;
    let told = |words: &[&str]| {
        let logs = worlds.each_ref().map(World::log);
        let lines = logs.iter().flat_map(|it| it.lines());
        lines
            .filter(|line| words.iter().all(|it| line.contains(it)))
            .count()
    };
    let session_ends = ["session ended", OLD_SESSION];
    eventually("what was over has ended", IN_ORDER, || async {
        told(&session_ends) >= ended
    })
    .await;
    assert_eq!(told(&session_ends), ended);
    let open = "select count(*) from sessions where status_rank < 4";
    assert_eq!(ask(open), "0");
    assert_eq!(told(&["this replica leads the pool"]), 1);
    assert_eq!(told(&["instance wanted"]), 1);
    assert_eq!(told(&["instance terminated", OLD_INSTANCE]), ended);
    let processes: usize = worlds.iter().map(|it| it.agents().len()).sum();
    assert_eq!(processes, 1);
    for world in worlds {
        world.stop().await;
    }
}

#[tokio::test]
async fn two_control_planes_start_at_once_on_an_empty_and_on_an_old_database() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database("fleet").unwrap();
    two_start_at_once(&postgres, &url, 0).await;
    let postgres = Postgres::start().unwrap();
    let url = postgres.database("fleet").unwrap();
    fill_as_of_old(&postgres);
    two_start_at_once(&postgres, &url, 1).await;
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
