//! What is counted, and that its number of series has a bound.

use std::collections::BTreeSet;
use std::time::Duration;

use browserfleet_proto::agent::v1::Hello;
use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_tests::api::Caller;
use browserfleet_tests::eventually;
use browserfleet_tests::metrics::Metrics;
use browserfleet_tests::scripted_agent::{Link, Machines};
use browserfleet_tests::world::{ADMINISTRATOR, Plan, World};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinHandle;

/// All series that there may ever be of what is done here. By far the most are
/// requests: some 65 routes with a method each, nine series for its time, and as
/// many more as there are classes of status that it answered with.
const SERIES_MAX: usize = 1_000;
/// Sessions before the series are looked at first, and of the whole test. The set is
/// the same after both: one series in a hundred sessions would be seen, and at ten
/// thousand there is nothing else to see.
const SESSIONS_FIRST: usize = 100;
const SESSIONS: usize = 2_000;
/// Users, each with an instance; and how many sessions each has at once.
const USERS: usize = 4;
const AT_ONCE: usize = 8;

/// A world of scripted agents, one for each user, whose links are up.
async fn world_of(users: usize) -> (World, Machines, Vec<Link>) {
    let mut kit = Machines::new().unwrap();
    let world = Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("METRICS_LISTEN", "127.0.0.1:0")
        .with("POOL_WARM", users)
        .with("POOL_MAX", users)
        .with("LOG", "warn,browserfleet_control_plane::app=info")
        .start()
        .await
        .unwrap();
    let mut links = Vec::new();
    for _ in 0..users {
        links.push(kit.next().await.unwrap().link().await.unwrap());
    }
    (world, kit, links)
}

/// They live as they should.
fn serving(links: Vec<Link>) -> Vec<JoinHandle<()>> {
    let serve = |link: Link| tokio::spawn(async move { drop(link.serve("1").await) });
    links.into_iter().map(serve).collect()
}

/// What users do, and what strangers try: all of it has something of its own in it.
async fn one_session(caller: &Caller, number: usize) {
    let session = caller
        .open(json!({ "metadata": { "n": number.to_string() } }))
        .await;
    if number.is_multiple_of(10) {
        assert_eq!(session.value(&format!("{number}")).await, 1);
        let nowhere = format!("/api/sessions/{}x/{number}", session.id);
        assert_eq!(caller.get(&nowhere).await.status, 404);
        let method = Method::from_bytes(format!("ODD{number}").as_bytes()).unwrap();
        let odd = caller.call(method, "/api/sessions", None).await;
        assert_eq!(odd.status, 405);
    }
    assert_eq!(session.end().await.status, 200);
}

async fn sessions(callers: &[Caller], numbers: std::ops::Range<usize>) {
    let workers = callers.len() * AT_ONCE;
    let work = (0..workers).map(|worker| {
        let (caller, numbers) = (callers[worker % callers.len()].clone(), numbers.clone());
        tokio::spawn(async move {
            for number in numbers.skip(worker).step_by(workers) {
                one_session(&caller, number).await;
            }
        })
    });
    for done in join_all(work).await {
        done.unwrap();
    }
}

fn named(metrics: &Metrics) -> BTreeSet<String> {
    metrics.series().map(str::to_owned).collect()
}

#[tokio::test]
async fn thousands_of_sessions_leave_as_many_series_as_a_hundred() {
    let (world, _kit, links) = world_of(USERS).await;
    let serving = serving(links);
    let names = (0..USERS).map(|it| format!("user{it}"));
    let callers = join_all(names.map(|name| {
        let world = &world;
        async move { world.user(&name).await }
    }))
    .await;
    sessions(&callers, 0..SESSIONS_FIRST).await;
    let first = named(&world.metrics().await);
    sessions(&callers, SESSIONS_FIRST..SESSIONS).await;
    let metrics = world.metrics().await;
    let last = named(&metrics);
    let new: Vec<&String> = last.difference(&first).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(last.len() < SERIES_MAX, "{}", last.len());
    for series in &last {
        let of_somebody = ["ses_", "ins_", "usr_", "req_", "ODD", "user0", "://"];
        let told = of_somebody.iter().find(|it| series.contains(**it));
        assert_eq!(told, None, "{series}");
    }
    let opened = r#"http_server_requests_total{method="POST",route="/api/sessions",status="2xx"}"#;
    assert_eq!(metrics.value(opened), Some(SESSIONS as f64));
    world.stop().await;
    for serving in serving {
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_done_is_counted() {
    let (world, _kit, links) = world_of(1).await;
    // Nobody says Hello twice.
    links[0].say(Said::Hello(Hello::default())).await.unwrap();
    let serving = serving(links);
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    session.value("1").await;
    for (email, password) in [(ADMINISTRATOR, "wrong"), ("nobody@example.com", "wrong")] {
        let refused = world.nobody().sign_in(email, password).await;
        assert!(refused.is_err());
    }
    let metrics = world.metrics().await;
    for (series, expected) in [
        (r#"browserfleet_sessions{status="live"}"#, 1.0),
        (r#"browserfleet_sessions{status="starting"}"#, 0.0),
        (
            r#"browserfleet_commands_total{kind="execute",outcome="ok"}"#,
            1.0,
        ),
        (
            r#"browserfleet_logins_refused_total{reason="bad_credentials"}"#,
            2.0,
        ),
        ("browserfleet_links", 1.0),
        ("browserfleet_ledger_waiting", 0.0),
        ("browserfleet_agent_strange_reports_total", 1.0),
        ("browserfleet_link_queue_full_total", 0.0),
        ("browserfleet_database_connections_missed_total", 0.0),
        ("browserfleet_instance_launches_total", 1.0),
        (r#"browserfleet_orphans_total{kind="machine"}"#, 0.0),
        (
            r#"http_server_requests_total{method="POST",route="/api/auth/login",status="4xx"}"#,
            2.0,
        ),
        (
            r#"http_server_request_duration_seconds_count{method="POST",route="/api/browser/execute"}"#,
            1.0,
        ),
    ] {
        let value = metrics.value(series);
        assert_eq!(value, Some(expected), "{series}: {metrics:?}");
    }
    let days = r#"browserfleet_certificate_remaining_days{certificate="agent_authority_1"}"#;
    assert!(metrics.value(days).is_some_and(|it| it > 3_600.0));
    for series in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
    ] {
        assert!(metrics.value(series).is_some_and(|it| it > 3.0), "{series}");
    }
    session.end().await.ok();
    eventually("the pool is looked at", Duration::from_secs(35), || async {
        let running = r#"browserfleet_instances{status="running"}"#;
        world.metrics().await.value(running) == Some(1.0)
    })
    .await;
    // Nothing of it is where users are.
    assert_eq!(world.nobody().get("/metrics").await.status, 404);
    world.stop().await;
    for serving in serving {
        serving.await.unwrap();
    }
}
