//! Two control planes over one Postgres: what one decides, the other knows.

use std::path::Path;
use std::time::{Duration, Instant};

use browserfleet_tests::eventually;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::world::{ADMINISTRATOR, PASSWORD, Plan, World};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two control planes, their database and their keys.
pub struct Pair {
    /// The first to start leads the pool.
    pub worlds: [World; 2],
    /// Its database is `fleet`.
    pub postgres: Postgres,
    _keys: TempDir,
}

async fn pair() -> Pair {
    pair_of(Plan::default().with("POOL_WARM", 0)).await
}

/// Two control planes of this plan over one database.
pub async fn pair_of(plan: Plan) -> Pair {
    let (postgres, keys) = (Postgres::start().unwrap(), TempDir::new().unwrap());
    let plan = plan.with("DATABASE_URL", postgres.database("fleet").unwrap());
    let plan = with_keys_in(keys.path(), plan);
    let one = plan.clone().start().await.unwrap();
    let other = plan.start().await.unwrap();
    Pair {
        worlds: [one, other],
        postgres,
        _keys: keys,
    }
}

/// The plan with keys that replicas have in common, which are made in this folder.
pub fn with_keys_in(folder: &Path, mut plan: Plan) -> Plan {
    use std::os::unix::fs::PermissionsExt;
    for (setting, name) in [("SIGNING_KEYS", "signing"), ("SEALING_KEY", "sealing")] {
        let file = folder.join(name);
        let key: [u8; 32] = rand::random();
        std::fs::write(&file, key).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        plan = plan.with(setting, file.display());
    }
    plan
}

#[tokio::test]
async fn a_hundred_refreshes_with_one_token_leave_one_living_end() {
    let pair = pair().await;
    pair.worlds[0].register("ada@example.com", PASSWORD).await;
    for round in 0..3 {
        let body = json!({ "email": "ada@example.com", "password": PASSWORD });
        let signed_in = pair.worlds[0]
            .nobody()
            .post("/api/auth/login", body)
            .await
            .ok();
        let refreshes = (0..100).map(|number| {
            let caller = pair.worlds[number % 2].nobody();
            let body = json!({ "refresh_token": signed_in["refresh_token"] });
            async move { caller.post("/api/auth/refresh-token", body).await }
        });
        let replies = join_all(refreshes).await;
        let mut next: Vec<String> = replies
            .iter()
            .filter(|it| it.status == 200)
            .map(|it| it.text("refresh_token"))
            .collect();
        assert!(replies.iter().all(|it| [200, 401].contains(&it.status)));
        assert!(
            (1..=2).contains(&next.len()),
            "round {round}: {} were served",
            next.len()
        );
        next.dedup();
        assert_eq!(next.len(), 1, "they got the same");
        let living = "select count(*) from refresh_tokens t join login_sessions l \
            on l.id = t.login_session_id where l.ended_at is null and t.generation = l.generation";
        let living = pair.postgres.query("fleet", living).unwrap();
        assert_eq!(living, (round + 1).to_string(), "one for each login");
        let body = json!({ "refresh_token": next[0] });
        let reply = pair.worlds[1]
            .nobody()
            .post("/api/auth/refresh-token", body)
            .await;
        assert_eq!(reply.status, 200);
    }
    for world in pair.worlds {
        world.stop().await;
    }
}

#[tokio::test]
async fn what_ends_at_one_ends_at_the_other_within_five_seconds() {
    let pair = pair().await;
    let [one, other] = &pair.worlds;
    let admin = one.nobody().sign_in(ADMINISTRATOR, PASSWORD).await.unwrap();
    let there = |token: &str| other.nobody().with_token(token);
    for (number, way) in ["logout", "password", "disable", "replay", "key"]
        .into_iter()
        .enumerate()
    {
        let email = format!("user{number}@example.com");
        one.register(&email, PASSWORD).await;
        let body = json!({ "email": email, "password": PASSWORD });
        let signed_in: Value = one.nobody().post("/api/auth/login", body).await.ok();
        let here = one
            .nobody()
            .with_token(signed_in["access_token"].as_str().unwrap());
        let mut token = here.token().to_owned();
        let id = here.get("/api/users/me").await.text("id");
        let key = json!({ "name": "k", "scopes": ["account:read"] });
        let key = here.post("/api/keys", key).await.ok();
        if way == "key" {
            token = key["key"].as_str().unwrap().to_owned();
        }
        assert_eq!(
            there(&token).get("/api/users/me").await.status,
            200,
            "{way}"
        );
        let asked = Instant::now();
        match way {
            "logout" => {
                here.post("/api/auth/logout", json!({})).await.ok();
            }
            "password" => {
                let body =
                    json!({ "current_password": PASSWORD, "new_password": "another set of words" });
                here.post("/api/users/me/password", body).await.ok();
            }
            "disable" => {
                let path = format!("/api/admin/users/{id}");
                admin.patch(&path, json!({ "disabled": true })).await.ok();
            }
            "replay" => {
                let body = json!({ "refresh_token": signed_in["refresh_token"] });
                let second = one
                    .nobody()
                    .post("/api/auth/refresh-token", body.clone())
                    .await
                    .ok();
                let next = json!({ "refresh_token": second["refresh_token"] });
                one.nobody()
                    .post("/api/auth/refresh-token", next)
                    .await
                    .ok();
                assert_eq!(
                    one.nobody()
                        .post("/api/auth/refresh-token", body)
                        .await
                        .status,
                    401
                );
            }
            _ => {
                let id = key["id"].as_str().unwrap();
                assert_eq!(here.delete(&format!("/api/keys/{id}")).await.status, 204);
            }
        }
        eventually(way, Duration::from_secs(5), || async {
            there(&token).get("/api/users/me").await.status == 401
        })
        .await;
        println!("{way}: known at the other after {:?}", asked.elapsed());
    }
    for world in pair.worlds {
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_before_a_start_is_known_from_the_first_answer_on() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.database("fleet").unwrap();
    let plan = Plan::default()
        .with("DATABASE_URL", url)
        .with("POOL_WARM", 0);
    let mut world = plan.start().await.unwrap();
    let ada = world.user("ada").await;
    ada.post("/api/auth/logout", json!({})).await.ok();
    world.kill().await;
    // A database that takes its time with what ended.
    let slow = "begin; lock table login_sessions in access exclusive mode; \
        select pg_sleep(6); commit";
    std::thread::scope(|threads| {
        threads.spawn(|| postgres.query("fleet", slow).unwrap());
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                world.start_again().await;
                assert_eq!(ada.get("/api/users/me").await.status, 401);
            });
        });
    });
    world.stop().await;
}

#[tokio::test]
async fn a_session_that_is_ended_at_one_has_no_browser_at_the_other() {
    let pair = pair().await;
    let [one, other] = &pair.worlds;
    one.register("ada@example.com", PASSWORD).await;
    let nobody = one.nobody();
    let ada = nobody.sign_in("ada@example.com", PASSWORD).await.unwrap();
    let session = ada.open(json!({ "wait_ms": 30_000 })).await;
    // Whichever has the link of its agent: the other one is asked.
    let there = other.nobody().with_token(ada.token());
    let runs_at_one = {
        let body = json!({ "session_id": session.id, "expression": "1" });
        ada.post("/api/browser/execute", body).await.status == 200
    };
    let elsewhere = if runs_at_one { &there } else { &ada };
    assert!(!one.browsers().is_empty() || !other.browsers().is_empty());
    let path = format!("/api/sessions/{}", session.id);
    let ended = elsewhere.delete(&path).await.ok();
    assert_eq!(ended["status"], "ended");
    eventually("its browser is gone", Duration::from_secs(10), || async {
        let idle = |it: &browserfleet_tests::processes::Process| it.command.contains("--headless");
        !one.browsers().iter().any(idle) && !other.browsers().iter().any(idle)
    })
    .await;
    for world in pair.worlds {
        world.stop().await;
    }
}
