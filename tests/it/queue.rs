//! Sessions that find no instance free: who waits, for how long, what they are told,
//! and in whose turn they are served.

use std::time::{Duration, Instant};

use browserfleet_tests::api::{Caller, Reply};
use browserfleet_tests::eventually;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::scripted_agent::{Machines, ScriptedAgent};
use browserfleet_tests::world::{Plan, World};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long a start of a scripted machine and its agent takes at the most.
const SOON: Duration = Duration::from_secs(15);
/// What is answered without waiting for anything is answered within this.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A pool of machines without browsers, one session on each, none ahead of demand.
fn plan(kit: &Machines, max: u32) -> Plan {
    Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("POOL_WARM", 0)
        .with("POOL_MAX", max)
        .with("SESSIONS_PER_INSTANCE", 1)
}

async fn ask(caller: &Caller, wish: Value) -> Reply {
    caller.post("/api/sessions", wish).await
}

async fn ticket(caller: &Caller, id: &str) -> Value {
    caller.get(&format!("/api/queue/{id}")).await.ok()
}

async fn is_live(caller: &Caller, id: &str) -> bool {
    ticket(caller, id).await["status"] == "live"
}

async fn end(caller: &Caller, id: &str) {
    caller.delete(&format!("/api/sessions/{id}")).await.ok();
}

/// The ids of this caller's sessions with this status, the first to come first.
async fn with_status(caller: &Caller, status: &str) -> Vec<String> {
    let path = format!("/api/sessions?status={status}&limit=500");
    let listed = caller.get(&path).await.ok();
    let ids = listed["data"].as_array().into_iter().flatten();
    let mut ids: Vec<String> = ids
        .filter_map(|it| it["id"].as_str().map(str::to_owned))
        .collect();
    ids.reverse();
    ids
}

#[tokio::test]
async fn who_finds_nothing_free_gets_a_ticket_that_tells_how_far_it_is() {
    let mut kit = Machines::new().unwrap();
    let plan = plan(&kit, 1).with("POOL_IDLE_MS", 0);
    let world = plan.start().await.unwrap();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let accepted = ask(&alice, json!({})).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.text("ticket");
    assert_eq!(
        accepted.headers["location"],
        format!("/api/queue/{id}").as_str()
    );
    assert_eq!(accepted.headers["retry-after"], "1");
    assert_eq!(accepted.text("session_id"), id);
    assert_eq!(accepted.json()["position"], 1);
    // Nobody else's business.
    let theirs = bob.get(&format!("/api/queue/{id}")).await;
    assert_eq!(theirs.status, 404, "{theirs:?}");

    // The machine runs, and its agent is not there.
    let invitation = kit.invitation().await.unwrap();
    eventually("it boots", SOON, || async {
        ticket(&alice, &id).await["boot_phase"] == "booting"
    })
    .await;
    let shown = ticket(&alice, &id).await;
    assert_eq!(shown["reason"], "instance_starting", "{shown}");
    assert_eq!(shown["status"], "queued", "{shown}");
    let agent = ScriptedAgent::join(invitation).await.unwrap();
    eventually("it joined", SOON, || async {
        ticket(&alice, &id).await["boot_phase"] == "joined"
    })
    .await;
    let serving = tokio::spawn(agent.link().await.unwrap().serve("1"));
    eventually("it is live", SOON, || is_live(&alice, &id)).await;
    let shown = ticket(&alice, &id).await;
    assert_eq!(
        (&shown["position"], &shown["reason"]),
        (&0.into(), &"live".into())
    );

    // From now on it is known how long a start takes.
    let pool = world.administrator().await.get("/api/ec2/pool").await.ok();
    assert_eq!(pool["boot"]["seen"], 1, "{pool}");
    let longest = pool["boot"]["p90_ms"].as_u64().unwrap().max(1_000);
    end(&alice, &id).await;
    eventually("its machine is gone", SOON, || async {
        world.agents().is_empty()
    })
    .await;
    let next = ask(&bob, json!({})).await;
    assert_eq!(next.status, 202, "{next:?}");
    let estimate = ticket(&bob, &next.text("ticket")).await["estimate_ms"].clone();
    assert!(
        estimate
            .as_u64()
            .is_some_and(|it| (1..=longest).contains(&it)),
        "{estimate}"
    );
    end(&bob, &next.text("ticket")).await;
    world.stop().await;
    serving.await.unwrap().ok();
}

#[tokio::test]
async fn an_instance_that_somebody_asked_for_is_what_their_session_waits_for() {
    let mut kit = Machines::new().unwrap();
    let world = plan(&kit, 1).start().await.unwrap();
    let alice = world.user("alice").await;
    alice.post("/api/ec2/instances", json!({})).await.ok();
    let invitation = kit.invitation().await.unwrap();
    let asked = ask(&alice, json!({})).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let id = asked.text("ticket");
    eventually("it boots", SOON, || async {
        ticket(&alice, &id).await["boot_phase"] == "booting"
    })
    .await;
    assert_eq!(ticket(&alice, &id).await["reason"], "instance_starting");
    drop(invitation);
    world.stop().await;
}

#[tokio::test]
async fn who_waits_is_answered_when_it_is_live() {
    let kit = Machines::new().unwrap();
    let world = plan(&kit, 1).start().await.unwrap();
    let crew = kit.work();
    let alice = world.user("alice").await;
    let opened = ask(&alice, json!({ "wait_ms": 20_000 })).await;
    assert_eq!(opened.status, 201, "{opened:?}");
    assert_eq!(opened.text("status"), "live");
    assert_eq!(crew.held(), [opened.text("id")]);
    world.stop().await;
}

#[tokio::test]
async fn at_the_maximum_and_at_the_quota_it_is_said_at_once() {
    let kit = Machines::new().unwrap();
    let plan = plan(&kit, 1).with("SESSIONS_PER_USER", 3);
    let world = plan.with("INSTANCES_PER_USER", 1).start().await.unwrap();
    let _crew = kit.work();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let held = ask(&alice, json!({ "wait_ms": 20_000 })).await;
    assert_eq!(held.status, 201, "{held:?}");

    let started = Instant::now();
    let full = ask(&bob, json!({})).await;
    assert_eq!(
        (full.status, full.code()),
        (503, "no_capacity".into()),
        "{full:?}"
    );
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(full.json()["retryable"], true);
    let enough = ask(&alice, json!({})).await;
    assert_eq!(
        (enough.status, enough.code()),
        (429, "quota_reached".into()),
        "{enough:?}"
    );
    assert!(enough.headers.contains_key("retry-after"));
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    // Nothing of either is left.
    for caller in [&alice, &bob] {
        assert_eq!(with_status(caller, "queued").await, [] as [String; 0]);
    }

    // Who wants to wait, waits: in vain, or until somebody leaves.
    let started = Instant::now();
    let full = ask(&bob, json!({ "wait_ms": 700 })).await;
    assert_eq!(
        (full.status, full.code()),
        (503, "no_capacity".into()),
        "{full:?}"
    );
    assert!(started.elapsed() >= Duration::from_millis(700));
    assert_eq!(with_status(&bob, "queued").await, [] as [String; 0]);
    let waits = {
        let bob = bob.clone();
        tokio::spawn(async move { ask(&bob, json!({ "wait_ms": 30_000 })).await })
    };
    eventually("bob waits", AT_ONCE, || async {
        !with_status(&bob, "queued").await.is_empty()
    })
    .await;
    end(&alice, &held.text("id")).await;
    let served = waits.await.unwrap();
    assert_eq!(served.status, 201, "{served:?}");

    // So many sessions at once, queued ones included.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let alice = alice.clone();
        waiting.push(tokio::spawn(async move {
            ask(&alice, json!({ "wait_ms": 20_000 })).await
        }));
    }
    eventually("they wait", AT_ONCE, || async {
        with_status(&alice, "queued").await.len() == 3
    })
    .await;
    let started = Instant::now();
    let many = ask(&alice, json!({ "wait_ms": 20_000 })).await;
    assert_eq!(
        (many.status, many.code()),
        (429, "quota_reached".into()),
        "{many:?}"
    );
    assert!(started.elapsed() < AT_ONCE);
    for id in with_status(&alice, "queued").await {
        end(&alice, &id).await;
    }
    for waiting in waiting {
        let told = waiting.await.unwrap();
        assert_eq!(
            (told.status, told.code()),
            (410, "session_gone".into()),
            "{told:?}"
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn a_ticket_that_nobody_asks_after_is_over_after_a_minute() {
    let (postgres, kit) = (Postgres::start().unwrap(), Machines::new().unwrap());
    let plan = plan(&kit, 1).with("DATABASE_URL", postgres.database("fleet").unwrap());
    let world = plan.start().await.unwrap();
    let alice = world.user("alice").await;
    let id = ask(&alice, json!({})).await.text("ticket");
    let left = || {
        let sql = format!(
            "select (wait_until - extract(epoch from clock_timestamp()) * 1e6)::bigint \
             from sessions where id = '{id}'"
        );
        postgres
            .query("fleet", &sql)
            .unwrap()
            .parse::<i64>()
            .unwrap()
    };
    let minute = 55_000_000..=61_000_000;
    assert!(minute.contains(&left()), "{}", left());
    // As if nobody had asked for all but two seconds of it.
    let age = |seconds: u32| {
        let sql = format!(
            "update sessions set wait_until = (extract(epoch from clock_timestamp()) \
             + {seconds}) * 1e6 where id = '{id}'"
        );
        postgres.query("fleet", &sql).unwrap();
    };
    age(2);
    assert_eq!(ticket(&alice, &id).await["status"], "queued");
    assert!(minute.contains(&left()), "asking keeps it: {}", left());
    age(1);
    let path = format!("/api/sessions/{id}");
    eventually("it is over", Duration::from_secs(5), || async {
        alice.get(&path).await.ok()["end_reason"] == "wait_timeout"
    })
    .await;
    let over = ticket(&alice, &id).await;
    assert_eq!(
        (&over["reason"], &over["end_reason"]),
        (&"ended".into(), &"wait_timeout".into())
    );
    world.stop().await;
}

#[tokio::test]
async fn who_leaves_the_queue_is_out_of_it_within_a_second() {
    let kit = Machines::new().unwrap();
    let world = plan(&kit, 1).start().await.unwrap();
    let alice = world.user("alice").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let asked = ask(&alice, json!({})).await;
        assert_eq!(asked.status, 202, "{asked:?}");
        ids.push(asked.text("ticket"));
    }
    assert_eq!(ticket(&alice, &ids[2]).await["position"], 3);
    let left = Instant::now();
    end(&alice, &ids[0]).await;
    assert_eq!(ticket(&alice, &ids[0]).await["end_reason"], "ended");
    assert_eq!(ticket(&alice, &ids[2]).await["position"], 2);
    assert!(
        left.elapsed() < Duration::from_secs(1),
        "{:?}",
        left.elapsed()
    );

    // Who hangs up while they wait has left as well.
    let waits = {
        let alice = alice.clone();
        tokio::spawn(async move { ask(&alice, json!({ "wait_ms": 60_000 })).await })
    };
    eventually("they wait", SOON, || async {
        with_status(&alice, "queued").await.len() == 3
    })
    .await;
    waits.abort();
    let left = Instant::now();
    eventually("they are out", Duration::from_secs(1), || async {
        with_status(&alice, "queued").await.len() == 2
    })
    .await;
    println!("out of the queue {:?} after hanging up", left.elapsed());
    assert_eq!(with_status(&alice, "queued").await, ids[1..]);
    // Unless what they asked for has a name by which they may come back for the answer.
    let body = json!({ "wait_ms": 2_000 });
    let keyed = {
        let (alice, body) = (alice.clone(), body.clone());
        tokio::spawn(async move {
            let key = [("idempotency-key", "the same again")];
            let path = "/api/sessions";
            alice.try_call(Method::POST, path, Some(body), &key).await
        })
    };
    eventually("they wait", SOON, || async {
        with_status(&alice, "queued").await.len() == 3
    })
    .await;
    keyed.abort();
    let key = [("idempotency-key", "the same again")];
    eventually("the answer is there", SOON, || async {
        let again = alice
            .call_with(Method::POST, "/api/sessions", Some(body.clone()), &key)
            .await;
        again.status == 202 && again.headers.contains_key("idempotency-replayed")
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn who_waits_survives_a_power_cut() {
    let kit = Machines::new().unwrap();
    let mut world = plan(&kit, 2).start().await.unwrap();
    let alice = world.user("alice").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(ask(&alice, json!({})).await.text("ticket"));
    }
    world.kill().await;
    world.start_again().await;
    assert_eq!(ticket(&alice, &ids[1]).await["position"], 2);
    let crew = kit.work();
    for id in &ids {
        eventually("it is live", SOON, || is_live(&alice, id)).await;
    }
    // Once more while they are live: their agents come back with them.
    world.kill().await;
    world.start_again().await;
    for id in &ids {
        eventually("it is live again", SOON, || is_live(&alice, id)).await;
        let session = json!({ "session_id": id, "expression": "1" });
        eventually("it answers", SOON, || async {
            let path = "/api/browser/execute";
            alice.post(path, session.clone()).await.status == 200
        })
        .await;
    }
    let mut held = crew.held();
    held.sort();
    assert_eq!(held, ids);
    world.stop().await;
}

#[tokio::test]
async fn who_queues_a_hundred_holds_up_nobody_else() {
    let kit = Machines::new().unwrap();
    let world = plan(&kit, 1)
        .with("POOL_REUSE", "proven-clean")
        .with("SESSIONS_PER_USER", 200)
        .start()
        .await
        .unwrap();
    let crew = kit.work();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let alice = alice.clone();
        waiting.push(tokio::spawn(async move {
            ask(&alice, json!({ "wait_ms": 120_000 })).await
        }));
    }
    eventually(
        "one is live, the others wait",
        Duration::from_secs(30),
        || async { with_status(&alice, "queued").await.len() == 99 && crew.held().len() == 1 },
    )
    .await;
    let as_they_came = with_status(&alice, "queued").await;
    let late = {
        let bob = bob.clone();
        tokio::spawn(async move { ask(&bob, json!({ "wait_ms": 60_000 })).await })
    };
    eventually("bob waits", SOON, || async {
        !with_status(&bob, "queued").await.is_empty()
    })
    .await;
    let live = || async {
        let mut live = with_status(&alice, "live").await;
        live.extend(with_status(&bob, "live").await);
        live
    };
    let mut late = Some(late);
    let mut bobs = None;
    let mut served: Vec<String> = Vec::new();
    for _ in 0..4 {
        let now = live().await.remove(0);
        if with_status(&bob, "live").await.contains(&now) {
            // Who is live is told so before anybody ends it.
            bobs = late.take().expect("once").await.ok();
            end(&bob, &now).await;
        } else {
            end(&alice, &now).await;
        }
        eventually("the next is live", SOON, || async {
            let live = live().await;
            live.len() == 1 && live[0] != now
        })
        .await;
        served.extend(live().await);
    }
    let bobs = bobs.expect("bob had his turn");
    assert_eq!(bobs.status, 201, "{bobs:?}");
    let place = served.iter().position(|it| *it == bobs.text("id"));
    assert!(
        place.is_some_and(|it| it < 2),
        "bob was served as number {place:?} of those after him"
    );
    // Hers are served in the order in which she asked.
    let hers: Vec<String> = served
        .iter()
        .filter(|it| **it != bobs.text("id"))
        .cloned()
        .collect();
    assert_eq!(hers, as_they_came[..hers.len()]);
    // And never more than there may be at once.
    assert!(crew.rosters().values().all(|it| it.held_most() == 1));
    for waiting in &waiting {
        waiting.abort();
    }
    eventually("all have left", Duration::from_secs(20), || async {
        with_status(&alice, "queued").await.is_empty()
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_hundred_who_queue_keep_to_what_they_may_have() {
    let kit = Machines::new().unwrap();
    let world = plan(&kit, 3)
        .with("INSTANCES_PER_USER", 2)
        .with("SESSIONS_PER_USER", 200)
        .start()
        .await
        .unwrap();
    let crew = kit.work();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let alice = alice.clone();
        waiting.push(tokio::spawn(async move {
            ask(&alice, json!({ "wait_ms": 60_000 })).await
        }));
    }
    eventually("two are live", SOON, || async {
        with_status(&alice, "queued").await.len() == 98 && crew.held().len() == 2
    })
    .await;
    // The third instance is for others.
    let bobs = ask(&bob, json!({ "wait_ms": 20_000 })).await;
    assert_eq!(bobs.status, 201, "{bobs:?}");
    assert_eq!(with_status(&alice, "live").await.len(), 2);
    let instances = alice.get("/api/ec2/instances").await.ok();
    assert_eq!(
        instances["data"].as_array().map(Vec::len),
        Some(2),
        "{instances}"
    );
    for waiting in &waiting {
        waiting.abort();
    }
    world.stop().await;
}

#[tokio::test]
async fn a_full_queue_says_so_at_once() {
    const QUEUE_MAX: u32 = 2_000;
    let (postgres, kit) = (Postgres::start().unwrap(), Machines::new().unwrap());
    let plan = plan(&kit, 1).with("DATABASE_URL", postgres.database("fleet").unwrap());
    let world = plan
        .with("SESSIONS_PER_USER", 10_000)
        .start()
        .await
        .unwrap();
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let id = ask(&alice, json!({})).await.text("ticket");
    let waits = format!(
        "insert into sessions (id, user_id, epoch, status_rank, name, metadata, spec, timeout_us, \
         idle_timeout_us, created_at, expires_at, last_activity_at, wait_until) \
         select overlay(s.id placing lpad(to_hex(n), 4, '0') from length(s.id) - 3), user_id, epoch, \
         status_rank, name, metadata, spec, timeout_us, idle_timeout_us, created_at + n, expires_at, \
         last_activity_at, wait_until from sessions s, generate_series(1, {QUEUE_MAX}) n \
         where s.id = '{id}' and right(s.id, 4) <> lpad(to_hex(n), 4, '0')"
    );
    postgres.query("fleet", &waits).unwrap();
    let started = Instant::now();
    for (caller, wish) in [(&bob, json!({})), (&alice, json!({ "wait_ms": 60_000 }))] {
        let refused = ask(caller, wish).await;
        assert_eq!(
            (refused.status, refused.code()),
            (503, "overloaded".into()),
            "{refused:?}"
        );
        assert!(refused.headers.contains_key("retry-after"));
    }
    assert!(started.elapsed() < 2 * AT_ONCE, "{:?}", started.elapsed());
    // Once one has left, another may come.
    for id in &with_status(&alice, "queued").await[..2] {
        end(&alice, id).await;
    }
    eventually("bob waits", SOON, || async {
        ask(&bob, json!({})).await.status == 202
    })
    .await;
    world.stop().await;
}

/// Sends a whole request for a session, or a part of it, and hangs up after a while.
async fn cut_short(world: &World, caller: &Caller, bytes: Option<usize>, after: Duration) {
    let body = r#"{"wait_ms":30000}"#;
    let address = world.api.trim_start_matches("http://");
    let request = format!(
        "POST /api/sessions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        caller.token(),
        body.len()
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    let part = &request.as_bytes()[..bytes.unwrap_or(request.len()).min(request.len())];
    socket.write_all(part).await.unwrap();
    sleep(after).await;
    // Half of them with a reset, as a client that was killed.
    if after.as_millis().is_multiple_of(2) {
        socket.set_zero_linger().unwrap();
    }
}

#[tokio::test]
async fn who_is_cut_off_at_any_step_leaves_no_use_behind() {
    const CREATIONS: u64 = 100;
    let kit = Machines::new().unwrap();
    let world = plan(&kit, 4)
        .with("SESSIONS_PER_USER", CREATIONS)
        .start()
        .await
        .unwrap();
    let crew = kit.work();
    let alice = world.user("alice").await;
    let cuts = (0..CREATIONS).map(|number| {
        // A third within the request, the others while it is worked on and waited for.
        let bytes = (number % 3 == 0).then_some(number as usize * 8);
        cut_short(&world, &alice, bytes, Duration::from_millis(number * 13))
    });
    let started = Instant::now();
    futures_util::future::join_all(cuts).await;
    let used = || async {
        let mut used = Vec::new();
        for status in ["queued", "starting", "live", "ending"] {
            used.extend(with_status(&alice, status).await);
        }
        used.sort();
        used
    };
    eventually(
        "what is used is what is held",
        Duration::from_secs(60),
        || async {
            let mut held = crew.held();
            held.sort();
            used().await == held
        },
    )
    .await;
    let held = crew.held();
    println!(
        "{} live sessions, as many in use, {:?} after the first was cut off",
        held.len(),
        started.elapsed()
    );
    assert!(with_status(&alice, "queued").await.is_empty());
    for id in held {
        end(&alice, &id).await;
    }
    let served = ask(&alice, json!({ "wait_ms": 20_000 })).await;
    assert_eq!(served.status, 201, "{served:?}");
    world.stop().await;
}
