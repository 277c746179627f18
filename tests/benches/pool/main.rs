//! The pool: a thousand instances of a model of a cloud, from none to all and back, on
//! both databases; and what a start and a warm instance take on `local`, with real
//! agents and real browsers. Prints the tables of the README.
#![expect(clippy::unwrap_used, reason = "a bench fails where it expects")]

mod instances;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use browserfleet_control_plane::clock;
use browserfleet_control_plane::domain::instance::Instance;
use browserfleet_control_plane::fleet::{Overrides, Settings};
use browserfleet_tests::model_pool::{ModelPool, SETTINGS};
use browserfleet_tests::model_provider::Call;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::rows::{session_of, user_in};
use tempfile::TempDir;

/// Instances of the large pool.
const INSTANCES: u32 = 1_000;
/// What a round with nothing to do is measured over.
const IDLE_ROUNDS: u32 = 20;

/// What it took to come from one size to another.
struct Converged {
    rounds: usize,
    calls: BTreeMap<Call, usize>,
    /// What the rounds themselves took.
    work: Duration,
    /// With the boots and the waits, which are skipped here.
    time: Duration,
}

impl Converged {
    fn line(&self, what: &str, database: &str) {
        let calls = |call| self.calls.get(&call).copied().unwrap_or(0);
        println!(
            "| {what} | {database} | {} | {} | {} | {} | {} | {} | {:.1} s | {:.0} s |",
            self.rounds,
            calls(Call::Launch),
            calls(Call::Terminate),
            calls(Call::HandToken),
            calls(Call::TakeToken),
            calls(Call::List) + calls(Call::Find) + calls(Call::Troubles) + calls(Call::Tokens),
            self.work.as_secs_f64(),
            self.time.as_secs_f64(),
        );
    }
}

/// Rounds until the rows are as wanted.
async fn converge(pool: &mut ModelPool, so: impl Fn(&[Instance]) -> bool) -> Converged {
    let began = clock::now();
    let before = (pool.rounds, pool.provider.all_calls());
    let provider = Arc::clone(&pool.provider);
    let mut work = Duration::ZERO;
    loop {
        let started = Instant::now();
        let done = pool.round().await.unwrap();
        work += started.elapsed();
        if so(&pool.rows().await) {
            break;
        }
        clock::skip(done.next.unwrap_or_default());
        pool.replica.play_agents(&provider, &[]).await;
    }
    let mut calls = pool.provider.all_calls();
    for (call, count) in before.1 {
        calls.entry(call).and_modify(|it| *it -= count);
    }
    Converged {
        rounds: pool.rounds - before.0,
        calls,
        work,
        time: clock::now().since(began),
    }
}

/// Milliseconds of a round with nothing to do.
async fn idle_round(pool: &mut ModelPool) -> f64 {
    let started = Instant::now();
    for _ in 0..IDLE_ROUNDS {
        pool.round().await.unwrap();
    }
    (started.elapsed() / IDLE_ROUNDS).as_secs_f64() * 1e3
}

/// Each instance gets a holder of its own, who leaves it idle.
async fn hold_all(pool: &ModelPool) {
    let store = &pool.store;
    for row in pool.rows().await {
        let now = clock::now();
        let user = user_in(store).await;
        let session = session_of(user);
        assert!(store.admit_session(&session, now, 1).await.unwrap());
        let placed = store.place_on_free(session.id, user, row.id, now).await;
        assert!(placed.unwrap().is_some());
        let ended = store.end_session(session.id, "ended", None, now).await;
        assert!(ended.unwrap());
    }
}

async fn thousand(url: &str, database: &str) {
    let settings = Settings {
        warm: INSTANCES,
        max: INSTANCES,
        ..SETTINGS
    };
    let mut pool = ModelPool::new(url, settings).await;
    let all = |rows: &[Instance]| {
        let ready = rows.iter().filter(|it| it.takes_work()).count();
        ready == INSTANCES as usize
    };
    converge(&mut pool, all).await.line("0 → 1,000", database);
    let free = idle_round(&mut pool).await;
    hold_all(&pool).await;
    let held = idle_round(&mut pool).await;
    let none = Overrides {
        warm: Some(0),
        ..Overrides::default()
    };
    pool.replica.fleet.change_pool(&none, None).await.unwrap();
    // Their holders' time runs out first.
    clock::skip(SETTINGS.idle);
    let gone = converge(&mut pool, <[_]>::is_empty).await;
    gone.line("1,000 → 0", database);
    eprintln!(
        "{database}: a round over {INSTANCES} instances with nothing to do takes {free:.1} ms; \
         {held:.1} ms where each has another holder"
    );
    assert_eq!(pool.provider.started(), INSTANCES as usize);
    assert!(pool.provider.alive().is_empty());
}

/// On one thread, whose time is skipped.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "| instances | database | rounds | launches | ends | tokens handed | taken | looks | \
         its own work | with boots and waits |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("pool.db");
    thousand(&format!("sqlite:{}", file.display()), "SQLite").await;
    let postgres = Postgres::start().unwrap();
    thousand(&postgres.database("pool").unwrap(), "Postgres").await;
    instances::measure().await;
}
