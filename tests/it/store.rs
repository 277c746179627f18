//! The store alone, on both engines: what it promises under races and against a model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use browserfleet_control_plane::domain::audit::{Action, Event};
use browserfleet_control_plane::domain::command::Status as CommandStatus;
use browserfleet_control_plane::domain::instance::Status as InstanceStatus;
use browserfleet_control_plane::domain::session::{Browser, Dialogs, Session, SessionSpec, Status};
use browserfleet_control_plane::domain::time::Timestamp;
use browserfleet_control_plane::domain::user::Role;
use browserfleet_control_plane::store::commands::Entry;
use browserfleet_control_plane::store::instances::NewInstance;
use browserfleet_control_plane::store::users::NewUser;
use browserfleet_control_plane::store::{OpenError, Store};
use browserfleet_proto::ids::{CommandId, InstanceId, SessionId, UserId};
use browserfleet_tests::postgres::Postgres;
use futures_util::future::{join_all, try_join_all};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

/// An empty database of each engine, and what holds it.
struct Engines {
    urls: Vec<String>,
    postgres: Postgres,
    _folder: TempDir,
}

fn engines() -> Engines {
    let folder = TempDir::new().unwrap();
    let postgres = Postgres::start().unwrap();
    let file = folder.path().join("store.db");
    Engines {
        urls: vec![
            format!("sqlite:{}", file.display()),
            postgres.database("fleet").unwrap(),
        ],
        postgres,
        _folder: folder,
    }
}

async fn user_in(store: &Store) -> UserId {
    let id = UserId::new();
    let user = NewUser {
        id,
        email: format!("{id}@example.com").parse().unwrap(),
        password_hash: String::new(),
        first_name: None,
        last_name: None,
        role: Role::User,
        at: NOW,
        verified: true,
    };
    let event = |_| Event::new(NOW, Action::AccountRegistered).on(user.id);
    assert_eq!(
        store.create_user(&user, event).await.unwrap(),
        Some(user.id)
    );
    id
}

async fn instance_in(store: &Store) -> InstanceId {
    let id = InstanceId::new();
    let instance = NewInstance {
        id,
        provider: "local",
        sessions_max: 8,
        at: NOW,
    };
    assert!(store.want_instance(instance, u32::MAX).await.unwrap());
    id
}

fn session_of(user: UserId) -> Session {
    Session {
        id: SessionId::new(),
        user,
        instance: None,
        epoch: 0,
        status: Status::Queued,
        end_reason: None,
        error_message: None,
        name: None,
        metadata: BTreeMap::from([("suite".to_owned(), "store".to_owned())]),
        spec: SessionSpec {
            browser: Browser::Shell,
            width: 1280,
            height: 720,
            scale: 1.0,
            user_agent: String::new(),
            locale: String::new(),
            timezone: String::new(),
            dialogs: Dialogs::default(),
            command_timeout_ms: 30_000,
        },
        timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        created_at: NOW,
        started_at: None,
        expires_at: NOW,
        last_activity_at: NOW,
        ended_at: None,
        current_url: None,
        current_title: None,
    }
}

fn admitted(id: CommandId, session: SessionId) -> Entry {
    Entry::Admitted {
        id,
        session,
        kind: "execute",
        params: "{}".into(),
        at: NOW,
        deadline_at: NOW,
    }
}

fn settled(id: CommandId, session: SessionId, status: CommandStatus) -> Entry {
    Entry::Settled {
        id,
        session,
        status,
        result: Some("1".into()),
        error_code: None,
        error_message: None,
        at: NOW,
    }
}

#[tokio::test]
async fn many_starts_at_once_migrate_once() {
    for url in engines().urls.iter().map(String::as_str) {
        let opened = join_all((0..6).map(|_| Store::open(url, NOW))).await;
        for store in opened {
            let store = store.unwrap_or_else(|error| panic!("{url}: {error}"));
            store.ping().await.unwrap();
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_migration_that_fails_half_way_leaves_the_data_and_can_be_taken_up() {
    let engines = engines();
    let url = &engines.urls[1];
    engines
        .postgres
        .query("fleet", "create table session_metadata (mine text)")
        .unwrap();
    engines
        .postgres
        .query("fleet", "insert into session_metadata values ('kept')")
        .unwrap();
    let refused = Store::open(url, NOW).await.unwrap_err();
    assert!(matches!(refused, OpenError::Migration(_)), "{refused}");
    assert_eq!(refused.to_string().lines().count(), 1, "{refused}");
    let ask = |statement| engines.postgres.query("fleet", statement).unwrap();
    assert_eq!(ask("select mine from session_metadata"), "kept");
    // The migration's first table is not left behind.
    assert_eq!(ask("select to_regclass('sessions') is null"), "t");
    ask("drop table session_metadata");
    Store::open(url, NOW).await.unwrap().close().await;
    assert_eq!(ask("select count(*) from sessions"), "0");
}

/// Writers at once, and what they write together.
const WRITERS: usize = 32;
const WRITES: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_find_the_database_free() {
    for url in &engines().urls {
        let store = Store::open(url, NOW).await.unwrap();
        let writers = (0..WRITERS).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let session = session_of(user_in(&store).await);
                assert!(store.admit_session(&session, 1).await?);
                // Each round writes four times.
                for _ in 0..WRITES / WRITERS / 4 {
                    let id = CommandId::new();
                    store.append_history(&[admitted(id, session.id)]).await?;
                    let all = [
                        settled(id, SessionId::new(), CommandStatus::Error),
                        settled(id, session.id, CommandStatus::Ok),
                        settled(id, session.id, CommandStatus::Unknown),
                    ];
                    store.append_history(&all).await?;
                    store.extend_session(session.id, NOW).await?;
                    store.session(session.id).await?;
                }
                store.end_session(session.id, "ended", None, NOW).await?;
                let last = store.commands_of(session.id, None, 1).await?;
                Ok::<_, browserfleet_control_plane::store::Error>(last[0].status)
            })
        });
        for last in try_join_all(writers).await.unwrap() {
            let last = last.unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(
                last,
                CommandStatus::Ok,
                "its session's first outcome counts"
            );
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_has_one_holder_and_a_user_no_more_than_the_quota() {
    const ROUNDS: usize = 20;
    const RIVALS: usize = 16;
    const QUOTA: u32 = 3;
    for url in &engines().urls {
        let store = Store::open(url, NOW).await.unwrap();
        for _ in 0..ROUNDS {
            let instance = instance_in(&store).await;
            assert!(
                store
                    .move_instance(instance, InstanceStatus::Running, None, NOW)
                    .await
                    .unwrap()
            );
            let users = join_all((0..RIVALS).map(|_| user_in(&store))).await;
            let leases = users
                .iter()
                .map(|user| store.lease_instance(instance, *user, NOW));
            let won = try_join_all(leases).await.unwrap();
            assert_eq!(won.iter().flatten().collect::<Vec<_>>(), [&1], "{url}");
            let sessions: Vec<Session> = (0..RIVALS).map(|_| session_of(users[0])).collect();
            let admissions = sessions.iter().map(|it| store.admit_session(it, QUOTA));
            let admitted = try_join_all(admissions).await.unwrap();
            let admitted = admitted.iter().filter(|it| **it).count();
            assert_eq!(admitted, QUOTA as usize, "{url}");
        }
        store.close().await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Run(usize),
    Lease(usize, usize),
    Place(usize, usize, i64),
    Start(usize),
    End(usize),
    Retire(usize),
    Gone(usize),
}

const INSTANCES: usize = 2;
const USERS: usize = 2;
const SESSIONS: usize = 4;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..INSTANCES).prop_map(Step::Run),
        (0..INSTANCES, 0..USERS).prop_map(|(instance, user)| Step::Lease(instance, user)),
        (0..SESSIONS, 0..INSTANCES, 0..2i64)
            .prop_map(|(session, instance, epoch)| Step::Place(session, instance, epoch)),
        (0..SESSIONS).prop_map(Step::Start),
        (0..SESSIONS).prop_map(Step::End),
        (0..INSTANCES).prop_map(Step::Retire),
        (0..INSTANCES).prop_map(Step::Gone),
    ];
    proptest::collection::vec(step, 1..30)
}

/// What an instance is, as the model has it.
#[derive(Debug, Clone, Copy)]
struct Machine {
    status: InstanceStatus,
    holder: Option<usize>,
    epoch: i64,
}

async fn against_the_model(store: &Store, steps: &[Step]) -> Result<(), TestCaseError> {
    let fail = |error: browserfleet_control_plane::store::Error| {
        TestCaseError::fail(format!("the store failed: {error}"))
    };
    let instances = join_all((0..INSTANCES).map(|_| instance_in(store))).await;
    let users = join_all((0..USERS).map(|_| user_in(store))).await;
    let sessions: Vec<Session> = (0..SESSIONS)
        .map(|it| session_of(users[it % USERS]))
        .collect();
    for session in &sessions {
        store.admit_session(session, 10).await.map_err(fail)?;
    }
    let mut machines = [Machine {
        status: InstanceStatus::Provisioning,
        holder: None,
        epoch: 0,
    }; INSTANCES];
    let mut places = [(Status::Queued, None); SESSIONS];
    for step in steps {
        match *step {
            Step::Run(it) => {
                let moved = store.move_instance(instances[it], InstanceStatus::Running, None, NOW);
                let may = machines[it].status == InstanceStatus::Provisioning;
                prop_assert_eq!(moved.await.map_err(fail)?, may);
                if may {
                    machines[it].status = InstanceStatus::Running;
                }
            }
            Step::Lease(it, user) => {
                let leased = store.lease_instance(instances[it], users[user], NOW).await;
                let machine = &mut machines[it];
                let free = machine.status == InstanceStatus::Running && machine.holder.is_none();
                if free {
                    machine.holder = Some(user);
                    machine.epoch += 1;
                }
                prop_assert_eq!(leased.map_err(fail)?, free.then_some(machine.epoch));
            }
            Step::Place(it, at, epoch) => {
                let placed = store.place_session(sessions[it].id, instances[at], epoch, NOW);
                let may = places[it].0 == Status::Queued
                    && machines[at].status == InstanceStatus::Running
                    && machines[at].epoch == epoch;
                prop_assert_eq!(placed.await.map_err(fail)?, may);
                if may {
                    places[it] = (Status::Starting, Some(at));
                }
            }
            Step::Start(it) => {
                let started = store.session_started(sessions[it].id, NOW, NOW).await;
                let may = places[it].0 < Status::Live;
                prop_assert_eq!(started.map_err(fail)?, may);
                if may {
                    places[it].0 = Status::Live;
                }
            }
            Step::End(it) => {
                let ended = store.end_session(sessions[it].id, "ended", None, NOW).await;
                prop_assert_eq!(ended.map_err(fail)?, places[it].0 != Status::Ended);
                places[it].0 = Status::Ended;
            }
            Step::Retire(it) => {
                let retired = store.retire_idle_instance(instances[it], NOW, NOW).await;
                let used = places
                    .iter()
                    .any(|(status, at)| *at == Some(it) && *status != Status::Ended);
                let may = machines[it].status == InstanceStatus::Running && !used;
                prop_assert_eq!(retired.map_err(fail)?, may);
                if may {
                    machines[it].status = InstanceStatus::Stopping;
                }
            }
            Step::Gone(it) => {
                let to = InstanceStatus::Terminated;
                let moved = store.move_instance(instances[it], to, None, NOW).await;
                prop_assert_eq!(moved.map_err(fail)?, machines[it].status != to);
                machines[it].status = to;
            }
        }
        for (it, machine) in machines.iter().enumerate() {
            let row = store.instance(instances[it]).await.map_err(fail)?;
            let row = row.ok_or_else(|| TestCaseError::fail("the row is gone"))?;
            prop_assert_eq!(row.status, machine.status);
            prop_assert_eq!(row.epoch, machine.epoch);
            prop_assert_eq!(row.assigned_to, machine.holder.map(|user| users[user]));
        }
    }
    Ok(())
}

#[test]
fn leases_and_sessions_do_as_their_model() {
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    for url in &engines().urls {
        let store = runtime.block_on(Store::open(url, NOW)).unwrap();
        let mut runner = TestRunner::new(Config {
            cases: 60,
            failure_persistence: None,
            ..Config::default()
        });
        let kept = runner.run(&steps(), |steps| {
            runtime.block_on(against_the_model(&store, &steps))
        });
        kept.unwrap_or_else(|error| panic!("{url}: {error}"));
        runtime.block_on(store.close());
    }
}

#[tokio::test]
async fn of_two_first_administrators_one_is_it() {
    let engines = engines();
    for url in &engines.urls {
        let stores = [
            Store::open(url, NOW).await.unwrap(),
            Store::open(url, NOW).await.unwrap(),
        ];
        let made = (0..8).map(|number| {
            let store = stores[number % 2].clone();
            async move {
                let user = NewUser {
                    id: UserId::new(),
                    email: format!("admin{number}@example.com").parse().unwrap(),
                    password_hash: String::new(),
                    first_name: None,
                    last_name: None,
                    role: Role::Admin,
                    at: NOW,
                    verified: true,
                };
                let event = |id| Event::new(NOW, Action::AccountRegistered).on(id);
                store
                    .create_first_administrator(&user, event)
                    .await
                    .unwrap()
            }
        });
        let made = join_all(made).await;
        assert_eq!(made.iter().filter(|it| **it).count(), 1, "{url}");
        let filter = browserfleet_control_plane::store::users::Filter {
            role: Some(Role::Admin),
            limit: 10,
            ..Default::default()
        };
        assert_eq!(stores[0].users(&filter).await.unwrap().len(), 1, "{url}");
    }
}
