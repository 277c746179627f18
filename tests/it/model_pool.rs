//! The pool against a model of a cloud that fails in every way that clouds do: the
//! real fleet, the real store, both databases. Nothing here waits: time is skipped.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use browserfleet_control_plane::clock;
use browserfleet_control_plane::domain::instance::{AttemptState, Instance, Status};
use browserfleet_control_plane::domain::offering::Shortage;
use browserfleet_control_plane::error::Error;
use browserfleet_control_plane::fleet::{NewInstance, Settings};
use browserfleet_control_plane::store::Store;
use browserfleet_control_plane::store::instances::{Unless, Wanted};
use browserfleet_proto::ids::{InstanceId, UserId};
use browserfleet_tests::model_pool::{ModelPool, SETTINGS};
use browserfleet_tests::model_provider::{BOOT, Call, Failure, LAG, PLACES, Start};
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::rows::{session_of, user_in};
use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
const ALWAYS: usize = usize::MAX;
/// Times that it dies at each step.
const DEATHS: usize = 20;
/// The least number of times that a control plane waits between an instance's intent
/// and its first word. An answer that is there at once is no wait: a server that is
/// quick has been seen to leave 34, and one on a machine that is busy, where the answer
/// is there before this process looks again, 18.
const STEPS_MIN: usize = 10;

/// Each of these on a file of its own, and all of them on one server.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod on_sqlite {
            use super::*;
            $(
                #[tokio::test]
                async fn $law() {
                    let folder = TempDir::new().unwrap();
                    let file = folder.path().join("pool.db");
                    super::$law(format!("sqlite:{}", file.display())).await;
                }
            )*
        }

        #[tokio::test]
        async fn all_of_it_holds_on_postgres() {
            let postgres = Postgres::start().unwrap();
            $(
                eprintln!(stringify!($law));
                Box::pin($law(postgres.database(stringify!($law)).unwrap())).await;
            )*
        }
    };
}

laws![
    a_lost_reply_does_not_start_a_second_machine,
    a_request_is_sent_as_it_was_written_whatever_changed,
    a_machine_that_was_gone_before_it_was_known_is_followed_by_a_new_row,
    no_capacity_leads_to_the_next_place_and_is_remembered,
    no_capacity_anywhere_is_said_and_waited_for,
    a_quota_is_not_got_round_by_another_place,
    a_throttled_provider_gets_a_pause,
    a_list_that_fails_changes_nothing,
    a_machine_that_is_not_shown_is_kept_while_its_agent_is_heard,
    a_list_that_is_old_revives_nothing,
    a_machine_that_does_not_end_is_told_again_once_a_minute,
    a_machine_without_a_row_ends_once_it_is_surely_nobodys,
    what_another_deployment_made_is_left_alone,
    the_maximum_holds_whoever_asks_at_once,
    an_instance_is_leased_or_retired_and_never_both,
    idle_counts_from_the_last_session,
    a_pool_as_wanted_is_left_alone,
    a_machine_whose_agent_never_comes_is_replaced,
    a_machine_that_is_pending_for_ever_is_replaced,
    launches_that_all_fail_are_tried_one_at_a_time,
    a_machine_that_ends_by_itself_is_known_within_half_a_minute,
    a_sick_zone_is_replaced_little_by_little,
    one_that_was_stopped_is_started_before_any_is_launched,
    at_the_maximum_who_asks_gets_one_that_was_stopped,
    who_asks_for_one_that_finds_no_room_is_told,
    a_refusal_that_looked_at_nothing_leaves_what_was_made_before_to_be_found,
    places_have_as_many_instances_each,
    what_is_made_otherwise_takes_the_place_of_what_was_made_before,
    a_second_leader_launches_nothing_twice,
    a_leader_that_was_suspended_does_nothing_of_what_it_saw,
    whatever_step_it_dies_at_one_machine_comes_of_it,
];

fn settings(warm: u32, max: u32) -> Settings {
    Settings {
        warm,
        max,
        ..SETTINGS
    }
}

async fn settled(url: &str, warm: u32, max: u32) -> ModelPool {
    let mut pool = ModelPool::new(url, settings(warm, max)).await;
    pool.settles().await;
    pool
}

fn reference(row: &Instance) -> &str {
    row.reference.as_deref().unwrap()
}

/// Somebody new gets an instance, with a session on it.
async fn leased(pool: &ModelPool, instance: InstanceId) -> Option<UserId> {
    let user = user_in(&pool.store).await;
    let session = session_of(user);
    let now = clock::now();
    let admitted = pool
        .store
        .admit_session(&session, now.plus(MINUTE), 1)
        .await;
    assert!(admitted.unwrap());
    let placed = pool.store.place_on_free(session.id, user, instance, now);
    placed.await.unwrap().map(|_| user)
}

async fn a_lost_reply_does_not_start_a_second_machine(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    pool.provider.fails(Call::Launch, Failure::LoseReply, 3);
    // Lists do not show it meanwhile either.
    pool.provider.lists_lag(LAG);
    pool.settles().await;
    assert_eq!(pool.provider.started(), 1);
    assert_eq!(pool.provider.calls(Call::Launch), 4);
    pool.is_one_to_one().await;
}

async fn a_request_is_sent_as_it_was_written_whatever_changed(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    pool.provider.fails(Call::Launch, Failure::LoseReply, 1);
    pool.provider.lists_lag(LAG);
    while pool.provider.calls(Call::Launch) == 0 {
        pool.round().await.unwrap();
    }
    pool.provider.publishes("image-2");
    let mut pool = pool.restart().await;
    pool.passes(MINUTE * 2).await;
    let requests = pool.provider.requests();
    assert_eq!(requests[0], requests[1]);
    assert!(requests[0].contains("image-1"), "{requests:?}");
    let of_it = pool.provider.booted();
    let first = of_it.iter().map(|it| it.instance).min().unwrap();
    assert_eq!(pool.row_of(first).await.status, Status::Running);
}

async fn a_machine_that_was_gone_before_it_was_known_is_followed_by_a_new_row(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    pool.provider.fails(Call::Launch, Failure::LoseReply, 1);
    pool.provider.lists_lag(LAG);
    while pool.provider.calls(Call::Launch) == 0 {
        pool.round().await.unwrap();
    }
    let first = pool.row().await;
    pool.provider.ends_by_itself("m-0");
    pool.passes(MINUTE * 5).await;
    let over = pool.row_of(first.id).await;
    assert_eq!(over.error_code.as_deref(), Some("terminated_at_start"));
    assert_eq!(pool.provider.started(), 2);
    pool.is_one_to_one().await;
}

async fn no_capacity_leads_to_the_next_place_and_is_remembered(url: String) {
    let mut pool = ModelPool::new(&url, settings(1, 10)).await;
    pool.provider.is_short(PLACES[0], Shortage::Capacity);
    pool.provider.is_short(PLACES[1], Shortage::Addresses);
    pool.settles().await;
    assert_eq!(pool.row().await.zone.as_deref(), Some(PLACES[2]));
    assert_eq!(pool.provider.calls(Call::Launch), 3);
    // The next one does not ask where there was none a minute ago.
    let first = pool.row().await.id;
    leased(&pool, first).await.unwrap();
    pool.passes(MINUTE).await;
    assert_eq!(pool.provider.calls(Call::Launch), 4);
    pool.is_one_to_one().await;
}

async fn no_capacity_anywhere_is_said_and_waited_for(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    for place in PLACES {
        pool.provider.is_short(place, Shortage::Capacity);
    }
    pool.passes(MINUTE * 2).await;
    assert_eq!(pool.replica.fleet.held_back(), Some("no_capacity"));
    assert_eq!(pool.provider.calls(Call::Launch), PLACES.len());
    let failed = pool.row().await;
    assert_eq!(failed.error_code.as_deref(), Some("no_capacity"));
    assert!(!failed.counts());
    pool.provider.is_well_again();
    pool.passes(MINUTE * 4).await;
    assert_eq!(pool.provider.started(), 1);
    pool.is_one_to_one().await;
}

async fn a_quota_is_not_got_round_by_another_place(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    for place in PLACES {
        pool.provider.is_short(place, Shortage::Quota);
    }
    pool.passes(MINUTE * 9).await;
    assert_eq!(pool.provider.calls(Call::Launch), 1);
    assert_eq!(pool.replica.fleet.held_back(), Some("no_capacity"));
    pool.provider.is_well_again();
    pool.passes(MINUTE * 4).await;
    assert_eq!(pool.provider.started(), 1);
}

async fn a_throttled_provider_gets_a_pause(url: String) {
    let mut pool = ModelPool::new(&url, settings(5, 10)).await;
    pool.provider.fails(Call::Launch, Failure::Throttle, ALWAYS);
    pool.passes(MINUTE * 10).await;
    // Five at once, then one pause for all: waits that double, up to a minute, on
    // average half as long.
    let calls = pool.provider.calls(Call::Launch);
    assert!(calls < 5 * 60, "{calls} launches in ten minutes");
    assert_eq!(pool.provider.started(), 0);
    pool.provider.is_well_again();
    pool.settles().await;
    assert_eq!(pool.provider.started(), 5);
    pool.is_one_to_one().await;
}

async fn a_list_that_fails_changes_nothing(url: String) {
    let mut pool = settled(&url, 2, 10).await;
    let held = pool.rows().await[0].id;
    leased(&pool, held).await.unwrap();
    pool.settles().await;
    let before = pool.rows().await;
    pool.provider.fails(Call::List, Failure::Fail, ALWAYS);
    let (launches, ends) = (
        pool.provider.calls(Call::Launch),
        pool.provider.calls(Call::Terminate),
    );
    pool.passes(MINUTE * 60).await;
    let names = |rows: &[Instance]| -> Vec<(InstanceId, Status)> {
        rows.iter().map(|it| (it.id, it.status)).collect()
    };
    assert_eq!(names(&pool.rows().await), names(&before));
    assert_eq!(pool.provider.calls(Call::Launch), launches);
    assert_eq!(pool.provider.calls(Call::Terminate), ends);
    pool.provider.is_well_again();
    pool.passes(MINUTE).await;
    pool.is_one_to_one().await;
}

async fn a_machine_that_is_not_shown_is_kept_while_its_agent_is_heard(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    let row = pool.row().await;
    pool.provider.hides(reference(&row), true);
    pool.passes(MINUTE * 30).await;
    let kept = pool.row().await;
    assert_eq!((kept.id, kept.status), (row.id, Status::Running));
    pool.provider.hides(reference(&row), false);
    pool.passes(MINUTE).await;
    assert_eq!(pool.row().await.missing_since, None);
    // Once its agent is silent too, it is believed to be gone.
    pool.provider.hides(reference(&row), true);
    pool.silent.push(row.id);
    pool.passes(MINUTE * 3).await;
    assert_ne!(pool.row_of(row.id).await.status, Status::Running);
}

async fn a_list_that_is_old_revives_nothing(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    let first = pool.row().await;
    // For all that lists say, it runs on.
    pool.provider.lists_lag(MINUTE * 2);
    pool.replica.fleet.end(first.id).await.unwrap();
    let mut last = Status::Running;
    for _ in 0..60 {
        pool.passes(Duration::from_secs(5)).await;
        let status = pool.row_of(first.id).await.status;
        assert!(
            status == last || last.may_become(status),
            "{last:?} {status:?}"
        );
        last = status;
    }
    assert_eq!(last, Status::Terminated);
    pool.settles().await;
    assert_eq!(pool.provider.started(), 2);
    pool.is_one_to_one().await;
}

async fn a_machine_that_does_not_end_is_told_again_once_a_minute(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    pool.provider.shuts_down_in(MINUTE * 20);
    let first = pool.row().await.id;
    pool.replica.fleet.end(first).await.unwrap();
    pool.passes(MINUTE * 19).await;
    assert_eq!(pool.row_of(first).await.status, Status::Stopping);
    let ends = pool.provider.calls(Call::Terminate);
    assert!((18..=20).contains(&ends), "told {ends} times in 19 minutes");
    pool.passes(MINUTE * 2).await;
    assert_eq!(pool.row_of(first).await.status, Status::Terminated);
}

async fn a_machine_without_a_row_ends_once_it_is_surely_nobodys(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    let deployment = pool.store.deployment().await.unwrap();
    let stranger = pool.provider.makes_by_itself(&deployment);
    pool.passes(LAG - Duration::from_secs(10)).await;
    assert!(pool.provider.alive().contains(&stranger), "too soon");
    pool.passes(MINUTE).await;
    assert!(!pool.provider.alive().contains(&stranger));
    pool.is_one_to_one().await;
}

async fn what_another_deployment_made_is_left_alone(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    let theirs = pool.provider.makes_by_itself("another");
    pool.passes(MINUTE * 20).await;
    assert!(pool.provider.alive().contains(&theirs));
    assert_eq!(pool.rows().await.len(), 1);
}

async fn the_maximum_holds_whoever_asks_at_once(url: String) {
    const RIVALS: usize = 50;
    let mut pool = settled(&url, 1, 3).await;
    pool.passes(MINUTE).await;
    let users = join_all((0..RIVALS).map(|_| user_in(&pool.store))).await;
    let fleet = &pool.replica.fleet;
    let wishes = users
        .iter()
        .map(|user| fleet.want(*user, NewInstance::default()));
    let wishes = join_all(wishes).await;
    let granted = wishes.iter().filter(|it| it.is_ok()).count();
    assert_eq!(granted, 2);
    let refused = wishes.iter().filter_map(|it| it.as_ref().err());
    for error in refused {
        assert!(matches!(error, Error::NoCapacity { .. }), "{error}");
    }
    pool.passes(MINUTE * 5).await;
    assert_eq!(pool.provider.started(), 3);
    pool.is_one_to_one().await;
}

async fn an_instance_is_leased_or_retired_and_never_both(url: String) {
    const RACES: usize = 2_000;
    let pool = ModelPool::new(&url, settings(0, 10)).await;
    let store = &pool.store;
    let user = user_in(store).await;
    let (mut leases, mut ends) = (0, 0);
    for race in 0..RACES {
        let now = clock::now();
        let instance = browserfleet_control_plane::store::instances::NewInstance {
            id: InstanceId::new(),
            provider: "model",
            region: "nowhere".into(),
            sessions_max: 1,
            generation: 1,
            kind: None,
            parks: false,
            holder: None,
            at: now,
        };
        let wanted = store.want_instance(&instance, u32::MAX, None).await;
        assert_eq!(wanted.unwrap(), Wanted::Written);
        assert!(store.ready(instance.id, now).await.unwrap());
        let session = session_of(user);
        let admitted = store.admit_session(&session, now.plus(MINUTE), u32::MAX);
        assert!(admitted.await.unwrap());
        let lease = store.place_on_free(session.id, user, instance.id, now);
        let end = store.end_instance(instance.id, "surplus", Unless::Held, now);
        // Who asks first is not always who is first.
        let (leased, ended) = if race % 2 == 0 {
            join(lease, end).await
        } else {
            let (ended, leased) = join(end, lease).await;
            (leased, ended)
        };
        let (leased, ended) = (leased.unwrap(), ended.unwrap());
        assert_ne!(leased.is_some(), ended, "{url}: {leased:?}, {ended}");
        let row = pool.row_of(instance.id).await;
        assert_eq!(row.assigned_to, leased.map(|_| user));
        leases += usize::from(leased.is_some());
        ends += usize::from(ended);
        let over = store.end_session(session.id, "ended", None, now).await;
        over.unwrap();
        let gone = store.instance_gone(instance.id, "surplus", now).await;
        gone.unwrap();
    }
    assert!(leases > 0 && ends > 0, "{leases} leases, {ends} ends");
}

async fn idle_counts_from_the_last_session(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    let row = pool.row().await;
    let user = leased(&pool, row.id).await.unwrap();
    let sessions = || async { pool.store.sessions_on(row.id).await.unwrap() };
    let session = sessions().await[0].id;
    pool.passes(SETTINGS.idle * 2).await;
    let busy = pool.row_of(row.id).await;
    assert_eq!(
        (busy.status, busy.assigned_to),
        (Status::Running, Some(user))
    );
    let ended = pool
        .store
        .end_session(session, "ended", None, clock::now())
        .await;
    ended.unwrap();
    pool.passes(SETTINGS.idle - MINUTE).await;
    assert_eq!(pool.row_of(row.id).await.status, Status::Running);
    pool.passes(MINUTE * 2).await;
    let over = pool.row_of(row.id).await;
    assert_eq!(over.status, Status::Terminated);
    assert_eq!(over.error_code.as_deref(), Some("idle"));
    pool.is_one_to_one().await;
}

async fn a_pool_as_wanted_is_left_alone(url: String) {
    let mut pool = settled(&url, 3, 10).await;
    let held = pool.rows().await[0].id;
    leased(&pool, held).await.unwrap();
    pool.settles().await;
    let calls = |pool: &ModelPool| {
        [Call::Launch, Call::Terminate, Call::HandToken].map(|it| pool.provider.calls(it))
    };
    let before = calls(&pool);
    pool.passes(MINUTE * 60).await;
    assert_eq!(calls(&pool), before);
    pool.is_one_to_one().await;
}

async fn a_machine_whose_agent_never_comes_is_replaced(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    pool.provider.next_start(Start::Silent);
    pool.passes(MINUTE).await;
    let first = pool.row().await;
    pool.provider.next_start(Start::Well);
    pool.passes(SETTINGS.boot).await;
    let over = pool.row_of(first.id).await;
    assert_eq!(over.error_code.as_deref(), Some("boot_timeout"));
    let words = over.error_message.unwrap_or_default();
    assert!(words.contains("no network"), "its last words: {words}");
    pool.settles().await;
    assert_eq!(pool.provider.started(), 2);
    pool.is_one_to_one().await;
}

async fn a_machine_that_is_pending_for_ever_is_replaced(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    pool.provider.next_start(Start::Never);
    pool.passes(MINUTE).await;
    let first = pool.row().await;
    assert_eq!(first.attempt.state, AttemptState::Accepted);
    pool.provider.next_start(Start::Well);
    pool.passes(SETTINGS.boot + MINUTE).await;
    let over = pool.row_of(first.id).await;
    assert_eq!(over.error_code.as_deref(), Some("boot_timeout"));
    pool.settles().await;
    assert_eq!(pool.provider.started(), 2);
    pool.is_one_to_one().await;
}

async fn launches_that_all_fail_are_tried_one_at_a_time(url: String) {
    let mut pool = ModelPool::new(&url, settings(5, 10)).await;
    pool.provider.next_start(Start::Dies);
    pool.passes(MINUTE * 5).await;
    assert_eq!(pool.replica.fleet.held_back(), Some("launches_fail"));
    let before = pool.provider.started();
    pool.passes(MINUTE * 60).await;
    let probes = pool.provider.started() - before;
    assert!((5..=10).contains(&probes), "{probes} tries in an hour");
    let report = pool.replica.fleet.pool_report().await.unwrap();
    assert!(report.history.failure.is_some());
    pool.provider.is_well_again();
    pool.passes(MINUTE * 15).await;
    assert_eq!(pool.replica.fleet.held_back(), None);
    pool.settles().await;
    pool.is_one_to_one().await;
}

async fn a_machine_that_ends_by_itself_is_known_within_half_a_minute(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    let row = pool.row().await;
    leased(&pool, row.id).await.unwrap();
    pool.provider.ends_by_itself(reference(&row));
    pool.passes(Duration::from_secs(30)).await;
    let over = pool.row_of(row.id).await;
    assert_eq!(over.status, Status::Terminated);
    assert_eq!(over.error_code.as_deref(), Some("instance_terminated"));
    let lost = pool.lost.lock().unwrap().clone();
    assert!(lost.contains(&(row.id, "instance_terminated".into())));
    pool.passes(BOOT + MINUTE).await;
    pool.is_one_to_one().await;
}

async fn a_sick_zone_is_replaced_little_by_little(url: String) {
    let mut pool = settled(&url, 10, 20).await;
    for row in &pool.rows().await[..5] {
        pool.provider.is_sick(reference(row), true);
    }
    let mut ended = Vec::new();
    for _ in 0..4 {
        pool.passes(MINUTE * 10).await;
        ended.push(pool.provider.calls(Call::Terminate));
    }
    // A fifth of the pool in ten minutes; what was launched in its place counts.
    let steps: Vec<usize> = ended.windows(2).map(|it| it[1] - it[0]).collect();
    assert!(
        ended[0] <= 3 && steps.iter().all(|it| *it <= 3),
        "{ended:?}"
    );
    assert_eq!(ended.last(), Some(&5), "{ended:?}");
    pool.is_one_to_one().await;
}

async fn one_that_was_stopped_is_started_before_any_is_launched(url: String) {
    let wanted = Settings {
        stopped: 2,
        ..settings(1, 10)
    };
    let mut pool = ModelPool::new(&url, wanted).await;
    pool.settles().await;
    assert_eq!((pool.rows().await.len(), pool.provider.started()), (3, 3));
    let rows = pool.rows().await;
    let ready = rows.iter().find(|it| it.takes_work()).unwrap();
    let stopped: Vec<InstanceId> = rows
        .iter()
        .filter(|it| it.is_parked())
        .map(|it| it.id)
        .collect();
    leased(&pool, ready.id).await.unwrap();
    // Both answers about its start are lost.
    pool.provider.fails(Call::Start, Failure::LoseReply, 2);
    pool.settles().await;
    let rows = pool.rows().await;
    let ready = rows
        .iter()
        .find(|it| it.takes_work() && it.assigned_to.is_none());
    assert!(stopped.contains(&ready.unwrap().id));
    // One more to be stopped takes its place there.
    assert_eq!((rows.len(), pool.provider.started()), (4, 4));
    pool.is_one_to_one().await;
}

/// One instance is stopped, and there may be no other.
async fn full_with_one_stopped(url: &str) -> ModelPool {
    let wanted = Settings {
        stopped: 1,
        ..settings(0, 1)
    };
    let mut pool = ModelPool::new(url, wanted).await;
    pool.settles().await;
    pool
}

async fn at_the_maximum_who_asks_gets_one_that_was_stopped(url: String) {
    let mut pool = full_with_one_stopped(&url).await;
    let stopped = pool.row().await;
    let (user, late) = (user_in(&pool.store).await, user_in(&pool.store).await);
    let fleet = &pool.replica.fleet;
    let theirs = fleet.want(user, NewInstance::default()).await.unwrap();
    assert_eq!((theirs.id, theirs.asked_for), (stopped.id, true));
    let refused = fleet.want(late, NewInstance::default()).await;
    assert!(matches!(refused, Err(Error::NoCapacity { .. })));
    pool.passes(BOOT + MINUTE).await;
    let row = pool.row().await;
    assert_eq!((row.id, row.status), (stopped.id, Status::Running));
    assert_eq!(row.assigned_to, Some(user));
    assert_eq!(
        (pool.provider.started(), pool.provider.calls(Call::Start)),
        (1, 1)
    );
    pool.is_one_to_one().await;
}

async fn who_asks_for_one_that_finds_no_room_is_told(url: String) {
    let mut pool = full_with_one_stopped(&url).await;
    let user = user_in(&pool.store).await;
    let no_room = Failure::Refuse(Shortage::Capacity);
    pool.provider.fails(Call::Start, no_room, 1);
    let fleet = &pool.replica.fleet;
    let theirs = fleet.want(user, NewInstance::default()).await.unwrap();
    pool.passes(MINUTE * 2).await;
    let row = pool.row_of(theirs.id).await;
    assert_eq!(row.error_code.as_deref(), Some("no_capacity"));
    assert_eq!(row.status, Status::Terminated);
    pool.settles().await;
    assert_eq!(
        pool.provider.started(),
        2,
        "another is stopped in its place"
    );
    pool.is_one_to_one().await;
}

async fn a_refusal_that_looked_at_nothing_leaves_what_was_made_before_to_be_found(url: String) {
    let mut pool = ModelPool::new(&url, settings(1, 1)).await;
    pool.provider.fails(Call::Launch, Failure::LoseReply, 1);
    let forbidden = Failure::Refuse(Shortage::Request);
    pool.provider.fails(Call::Launch, forbidden, 1);
    pool.provider.lists_lag(MINUTE * 2);
    pool.passes(MINUTE).await;
    let failed = pool.row().await;
    assert_eq!(failed.error_code.as_deref(), Some("launch_refused"));
    assert!(failed.counts(), "a machine may be there: {failed:?}");
    assert_eq!(pool.provider.alive().len(), 1, "no other is made meanwhile");
    pool.settles().await;
    assert_eq!(pool.row_of(failed.id).await.status, Status::Terminated);
    assert_eq!(pool.provider.started(), 2);
    pool.is_one_to_one().await;
}

async fn places_have_as_many_instances_each(url: String) {
    let pool = settled(&url, 7, 10).await;
    let rows = pool.rows().await;
    let places = PLACES.map(|place| {
        let there = rows.iter().filter(|it| it.zone.as_deref() == Some(place));
        there.count()
    });
    assert_eq!(places, [3, 2, 2]);
    assert_eq!(pool.provider.calls(Call::Launch), 7);
}

async fn what_is_made_otherwise_takes_the_place_of_what_was_made_before(url: String) {
    let pool = settled(&url, 2, 10).await;
    let before = pool.rows().await;
    let mut pool = pool.restart().await;
    pool.passes(MINUTE * 20).await;
    let names = |rows: &[Instance]| -> Vec<InstanceId> { rows.iter().map(|it| it.id).collect() };
    assert_eq!(
        names(&pool.rows().await),
        names(&before),
        "the same is the same"
    );
    pool.provider.tells("start another agent");
    let mut pool = pool.restart().await;
    // Nobody asks for one: one more than is wanted comes first; then the rest follow.
    pool.passes(MINUTE * 30).await;
    pool.settles().await;
    let after = pool.rows().await;
    assert_eq!(pool.provider.started(), 2 + before.len());
    let free: Vec<&Instance> = after
        .iter()
        .filter(|it| it.takes_work() && it.assigned_to.is_none())
        .collect();
    assert_eq!(free.len(), 2);
    for row in free {
        assert_eq!(row.generation, before[0].generation + 1);
        assert!(!names(&before).contains(&row.id));
    }
    pool.is_one_to_one().await;
}

/// Polls a future until it waits for the provider's answer, which the test gives.
async fn suspended<T>(future: &mut (impl Future<Output = T> + Unpin), so: impl Fn() -> bool) {
    while !so() {
        let waits = future.now_or_never().is_none();
        assert!(waits, "it came through");
        tokio::task::yield_now().await;
    }
}

async fn a_second_leader_launches_nothing_twice(url: String) {
    let mut pool = ModelPool::new(&url, SETTINGS).await;
    let second = pool.another_replica().await;
    let (store, provider) = (pool.store.clone(), Arc::clone(&pool.provider));
    let name = pool.replica.name();
    while pool.rows().await.is_empty() {
        pool.round().await.unwrap();
    }
    // The machine is made, and whoever asked for it is suspended.
    provider.fails(Call::Launch, Failure::Wait, 1);
    provider.lists_lag(LAG);
    let mut first = Box::pin(pool.round());
    suspended(&mut first, || provider.started() == 1).await;
    store.give_lead_back(&name).await.unwrap();
    while store.instances().await.unwrap()[0].attempt.state != AttemptState::Accepted {
        second.fleet.converge(&|_, _| {}).await.unwrap();
        clock::skip(Duration::from_secs(1));
    }
    provider.answers();
    first.await.unwrap();
    assert_eq!(provider.calls(Call::Launch), 2);
    pool.replica = second;
    pool.settles().await;
    assert_eq!(provider.started(), 1);
    pool.is_one_to_one().await;
}

async fn a_leader_that_was_suspended_does_nothing_of_what_it_saw(url: String) {
    let mut pool = settled(&url, 1, 10).await;
    let row = pool.row().await;
    let mut second = pool.another_replica().await;
    let provider = Arc::clone(&pool.provider);
    // It sees an agent that has been silent for too long, and is suspended.
    pool.silent.push(row.id);
    pool.passes(Duration::from_secs(1)).await;
    clock::skip(Duration::from_secs(70));
    provider.fails(Call::Troubles, Failure::Wait, 1);
    let asked = provider.calls(Call::Troubles);
    let lost = |_, _| {};
    let mut first = Box::pin(pool.replica.fleet.converge(&lost));
    suspended(&mut first, || provider.calls(Call::Troubles) > asked).await;
    // Another leads meanwhile, and has the agent's link.
    let name = pool.replica.name();
    pool.store.give_lead_back(&name).await.unwrap();
    second.play_agents(&provider, &[]).await;
    assert!(second.fleet.converge(&lost).await.unwrap().led);
    clock::skip(MINUTE);
    second.play_agents(&provider, &[]).await;
    // Longer than the first one believes that it leads.
    tokio::time::sleep(Duration::from_secs(6)).await;
    provider.answers();
    first.await.unwrap();
    let kept = pool.row().await;
    assert_eq!((kept.id, kept.status), (row.id, Status::Running));
    assert_eq!(kept.unhealthy, None);
    assert_eq!(provider.calls(Call::Terminate), 0);
}

/// Polls a future, and drops it where it waits for the `at`th time.
async fn cut_at<T>(at: &mut usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if *at == 0 => Poll::Ready(None),
        Poll::Pending => {
            *at -= 1;
            Poll::Pending
        }
    })
    .await
}

/// The control plane lives until the instance runs, or until it waits for the `at`th
/// time. Gives whether it lived.
async fn lives_until(pool: &mut ModelPool, id: InstanceId, mut at: usize) -> bool {
    while pool.row_of(id).await.status != Status::Running {
        let Some(done) = cut_at(&mut at, pool.round()).await else {
            return false;
        };
        done.unwrap();
        let provider = Arc::clone(&pool.provider);
        let agents = pool.replica.play_agents(&provider, &[]);
        if cut_at(&mut at, agents).await.is_none() {
            return false;
        }
    }
    true
}

async fn whatever_step_it_dies_at_one_machine_comes_of_it(url: String) {
    let mut pool = ModelPool::new(&url, settings(0, 10)).await;
    pool.provider.starts_in(Duration::ZERO);
    pool.provider.shuts_down_in(Duration::ZERO);
    let user = user_in(&pool.store).await;
    let mut at = 0;
    loop {
        let mut lived = 0;
        for _ in 0..DEATHS {
            let wish = NewInstance::default();
            let id = pool.replica.fleet.want(user, wish).await.unwrap().id;
            let before = pool.provider.started();
            lived += usize::from(lives_until(&mut pool, id, at).await);
            pool = pool.restart().await;
            pool.settles().await;
            assert_eq!(pool.row().await.id, id, "it died at {at}");
            assert_eq!(pool.provider.started(), before + 1, "it died at {at}");
            pool.is_one_to_one().await;
            pool.replica.fleet.end(id).await.unwrap();
            while !pool.rows().await.is_empty() {
                pool.passes(Duration::from_secs(1)).await;
            }
            assert_eq!(pool.provider.alive(), [""; 0]);
        }
        at += 1;
        if lived == DEATHS {
            break;
        }
    }
    assert!(at > STEPS_MIN, "it waits {at} times only");
    eprintln!("died at each of {at} steps, {DEATHS} times");
}

#[tokio::test]
async fn a_database_that_was_restored_ends_nothing() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("pool.db");
    let backup = folder.path().join("backup.db");
    let url = format!("sqlite:{}", file.display());
    let pool = ModelPool::new(&url, settings(12, 20)).await;
    // A backup of when there was nothing yet.
    pool.store.close().await;
    std::fs::copy(&file, &backup).unwrap();
    let store = Store::open(&url, clock::now()).await.unwrap();
    let mut pool = pool.restart_over(store).await;
    pool.settles().await;
    let machines = pool.provider.alive();
    pool.store.close().await;
    for suffix in ["-wal", "-shm"] {
        let _none = std::fs::remove_file(folder.path().join(format!("pool.db{suffix}")));
    }
    std::fs::copy(&backup, &file).unwrap();
    let store = Store::open(&url, clock::now()).await.unwrap();
    let mut pool = pool.restart_over(store).await;
    pool.passes(MINUTE * 30).await;
    let alive = pool.provider.alive();
    assert!(machines.iter().all(|it| alive.contains(it)), "{alive:?}");
    assert_eq!(pool.provider.calls(Call::Terminate), 0);
    let report = pool.replica.fleet.pool_report().await.unwrap();
    let alarm = report.alarm.unwrap_or_default();
    assert!(alarm.starts_with("12 machines"), "{alarm}");
}
