//! Both databases keep the same promises.

use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::{Plan, World};
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
