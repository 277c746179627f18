//! The store alone, on both engines: what it promises under races and against a model.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_control_plane::domain::audit::{Action, Event};
use browserfleet_control_plane::domain::command::Status as CommandStatus;
use browserfleet_control_plane::domain::instance::Status as InstanceStatus;
use browserfleet_control_plane::domain::machine::{
    Addresses, Machine as Made, MachineState, Market, Offering,
};
use browserfleet_control_plane::domain::session::{Session, Status};
use browserfleet_control_plane::domain::time::Timestamp;
use browserfleet_control_plane::domain::user::Role;
use browserfleet_control_plane::store::commands::{Admission, Entry, Settlement};
use browserfleet_control_plane::store::instances::{NewInstance, Unless, Wanted};
use browserfleet_control_plane::store::launches::{Failure, NewRequest};
use browserfleet_control_plane::store::users::NewUser;
use browserfleet_control_plane::store::{OpenError, Store};
use browserfleet_proto::ids::{CommandId, InstanceId, SessionId, UserId};
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::rows::{NOW, session_of, user_in};
use futures_util::future::{join_all, try_join_all};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

const LATER: Timestamp = Timestamp(NOW.0 + 60_000_000);

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

async fn instance_in(store: &Store) -> InstanceId {
    let id = InstanceId::new();
    let instance = NewInstance {
        id,
        provider: "local",
        region: "here".into(),
        sessions_max: 8,
        generation: 1,
        kind: None,
        holder: None,
        parks: false,
        at: NOW,
    };
    let wanted = store.want_instance(&instance, u32::MAX, None).await;
    assert_eq!(wanted.unwrap(), Wanted::Written);
    id
}

fn admitted(id: CommandId, session: SessionId) -> Entry {
    Entry::Admitted(Admission {
        id,
        session,
        kind: "execute",
        params: "{}".into(),
        at: NOW,
        deadline_at: NOW,
    })
}

fn settled(id: CommandId, session: SessionId, status: CommandStatus) -> Entry {
    Entry::Settled(Settlement {
        id,
        session,
        status,
        result: Some("1".into()),
        error_code: None,
        error_message: None,
        at: NOW,
    })
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
                assert!(store.admit_session(&session, LATER, 1).await?);
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
            assert!(store.ready(instance, NOW).await.unwrap());
            let users = join_all((0..RIVALS).map(|_| user_in(&store))).await;
            let waiting: Vec<Session> = users.iter().map(|user| session_of(*user)).collect();
            for session in &waiting {
                assert!(store.admit_session(session, LATER, 1).await.unwrap());
            }
            let leases = waiting
                .iter()
                .map(|it| store.place_on_free(it.id, it.user, instance, NOW));
            let won = try_join_all(leases).await.unwrap();
            assert_eq!(won.iter().flatten().collect::<Vec<_>>(), [&1], "{url}");
            let sessions: Vec<Session> = (0..RIVALS).map(|_| session_of(users[0])).collect();
            for session in &waiting {
                store
                    .end_session(session.id, "ended", None, NOW)
                    .await
                    .unwrap();
            }
            let admissions = sessions
                .iter()
                .map(|it| store.admit_session(it, LATER, QUOTA));
            let admitted = try_join_all(admissions).await.unwrap();
            let admitted = admitted.iter().filter(|it| **it).count();
            assert_eq!(admitted, QUOTA as usize, "{url}");
        }
        store.close().await;
    }
}

#[tokio::test]
async fn an_outcome_counts_once_whether_it_comes_with_its_command_or_later() {
    use CommandStatus::{Error, Ok};
    for url in &engines().urls {
        let store = Store::open(url, NOW).await.unwrap();
        let row = session_of(user_in(&store).await);
        let session = row.id;
        assert!(store.admit_session(&row, NOW, 1).await.unwrap());
        let ids: Vec<_> = (0..5).map(|_| CommandId::new()).collect();
        let [together, apart, again, foreign, twice] = ids[..] else {
            unreachable!()
        };
        let write = async |entries: &[Entry]| store.append_history(entries).await.unwrap();
        write(&[admitted(together, session), settled(together, session, Ok)]).await;
        write(&[admitted(apart, session), admitted(again, session)]).await;
        write(&[
            settled(apart, session, Ok),
            settled(together, session, Error),
        ])
        .await;
        // A batch that was written and is written again.
        write(&[admitted(again, session), settled(again, session, Ok)]).await;
        write(&[admitted(again, session), settled(again, session, Error)]).await;
        write(&[
            admitted(foreign, session),
            settled(foreign, SessionId::new(), Ok),
        ])
        .await;
        write(&[
            admitted(twice, session),
            settled(twice, session, Ok),
            settled(twice, session, Error),
        ])
        .await;
        let shown = store.commands_of(session, None, 10).await.unwrap();
        let of = |id| shown.iter().find(|it| it.id == id).expect("it is there");
        for id in [together, apart, again, twice] {
            let command = of(id);
            assert_eq!((command.status, command.ended_at), (Ok, Some(NOW)), "{url}");
            assert_eq!(command.result.as_deref(), Some("1"), "{url}");
        }
        assert_eq!(of(foreign).status, CommandStatus::Pending, "{url}");
        assert_eq!(shown.len(), ids.len(), "{url}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_word_that_comes_late_changes_nothing() {
    const LIFE: Duration = Duration::from_secs(60);
    let offering = Offering {
        kind: "large".into(),
        place: "a".into(),
        market: Market::OnDemand,
    };
    let failure = Failure {
        code: "launch_refused",
        words: "no",
        left_behind: false,
    };
    for url in &engines().urls {
        let store = Store::open(url, NOW).await.unwrap();
        let id = instance_in(&store).await;
        let lead = store.take_lead("a", None, LIFE).await.unwrap().unwrap();
        let request = NewRequest {
            instance: id,
            after: 0,
            text: "{}",
            offering: &offering,
            image: "image",
            at: NOW,
        };
        assert!(store.write_request(&request, lead).await.unwrap());
        assert!(!store.write_request(&request, lead).await.unwrap(), "{url}");
        let send = || async { store.sending(id, 1, NOW, lead).await.unwrap().unwrap() };
        let (first, second) = (send().await, send().await);
        // What was answered to the first is no news of the second.
        assert!(
            !store.refused(&first, None, "no", NOW).await.unwrap(),
            "{url}"
        );
        let machine = Made {
            reference: "m-1".into(),
            instance: Some(id),
            attempt: 1,
            state: MachineState::Pending,
            launched_at: NOW,
            reason: None,
            addresses: Addresses::default(),
            kind: "large".into(),
            zone: "a".into(),
        };
        assert!(store.accepted(id, 1, &machine).await.unwrap());
        assert!(!store.refused(&second, None, "no", NOW).await.unwrap());
        assert!(!store.launch_failed(id, 1, &failure, NOW).await.unwrap());
        assert!(store.ready(id, NOW).await.unwrap());
        // It came up after somebody saw that it had not.
        let seen = Unless::Moved(InstanceStatus::Provisioning, 0);
        let ended = store.end_instance(id, "boot_timeout", seen, NOW).await;
        assert!(!ended.unwrap(), "{url}");
        let another = store.take_lead("b", None, LIFE).await.unwrap();
        assert_eq!(another, None, "{url}");
        store.give_lead_back("a").await.unwrap();
        let next = store.take_lead("b", None, LIFE).await.unwrap().unwrap();
        assert!(next > lead);
        let late = store.sending(id, 1, NOW, lead).await.unwrap();
        assert_eq!(late, None, "{url}");
        store.close().await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Run(usize),
    PlaceOnFree(usize, usize),
    PlaceOnOwn(usize, usize, i64),
    Start(usize),
    End(usize),
    Drain(usize),
    Retire(usize),
    EndUnused(usize),
    Recycle(usize),
    Recycled(usize, i64),
    Gone(usize),
}

const INSTANCES: usize = 2;
const USERS: usize = 2;
const SESSIONS: usize = 4;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..INSTANCES).prop_map(Step::Run),
        (0..SESSIONS, 0..INSTANCES)
            .prop_map(|(session, instance)| Step::PlaceOnFree(session, instance)),
        (0..SESSIONS, 0..INSTANCES, 0..4i64)
            .prop_map(|(session, instance, epoch)| Step::PlaceOnOwn(session, instance, epoch)),
        (0..SESSIONS).prop_map(Step::Start),
        (0..SESSIONS).prop_map(Step::End),
        (0..INSTANCES).prop_map(Step::Drain),
        (0..INSTANCES).prop_map(Step::Retire),
        (0..INSTANCES).prop_map(Step::EndUnused),
        (0..INSTANCES).prop_map(Step::Recycle),
        (0..INSTANCES, 0..4i64).prop_map(|(instance, epoch)| Step::Recycled(instance, epoch)),
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
    draining: bool,
    recycling: bool,
}

fn is_used(places: &[(Status, Option<usize>)], instance: usize) -> bool {
    let mut there = places.iter().filter(|(_, at)| *at == Some(instance));
    there.any(|(status, _)| *status != Status::Ended)
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
        store
            .admit_session(session, LATER, 10)
            .await
            .map_err(fail)?;
    }
    let mut machines = [Machine {
        status: InstanceStatus::Provisioning,
        holder: None,
        epoch: 0,
        draining: false,
        recycling: false,
    }; INSTANCES];
    let mut places = [(Status::Queued, None); SESSIONS];
    for step in steps {
        match *step {
            Step::Run(it) => {
                let ready = store.ready(instances[it], NOW).await;
                let machine = &mut machines[it];
                let may = machine.status == InstanceStatus::Provisioning && !machine.draining;
                prop_assert_eq!(ready.map_err(fail)?, may);
                if may {
                    machine.status = InstanceStatus::Running;
                }
            }
            Step::PlaceOnFree(it, at) => {
                let (session, user) = (sessions[it].id, sessions[it].user);
                let placed = store.place_on_free(session, user, instances[at], NOW).await;
                let machine = &mut machines[at];
                let may = places[it].0 == Status::Queued
                    && machine.status == InstanceStatus::Running
                    && machine.holder.is_none()
                    && !machine.draining;
                prop_assert_eq!(placed.map_err(fail)?, may.then_some(machine.epoch + 1));
                if may {
                    machine.holder = Some(it % USERS);
                    machine.epoch += 1;
                    places[it] = (Status::Starting, Some(at));
                }
            }
            Step::PlaceOnOwn(it, at, epoch) => {
                let placed = store.place_on_own(sessions[it].id, instances[at], epoch, NOW);
                let machine = machines[at];
                let may = places[it].0 == Status::Queued
                    && machine.status == InstanceStatus::Running
                    && machine.epoch == epoch
                    && !machine.draining
                    && !machine.recycling;
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
            Step::Drain(it) => {
                let drained = store
                    .drain_instance(instances[it], "drained", None, NOW)
                    .await;
                let machine = &mut machines[it];
                let may = !machine.draining
                    && matches!(
                        machine.status,
                        InstanceStatus::Provisioning | InstanceStatus::Running
                    );
                prop_assert_eq!(drained.map_err(fail)?, may);
                machine.draining |= may;
            }
            Step::Retire(it) | Step::EndUnused(it) => {
                let (unless, unheld) = match step {
                    Step::Retire(_) => (Unless::Held, machines[it].holder.is_none()),
                    _ => (Unless::UsedSince(NOW), true),
                };
                let ended = store
                    .end_instance(instances[it], "surplus", unless, NOW)
                    .await;
                let there = matches!(
                    machines[it].status,
                    InstanceStatus::Provisioning | InstanceStatus::Running
                );
                let may = there && unheld && !is_used(&places, it);
                prop_assert_eq!(ended.map_err(fail)?, may);
                if may {
                    machines[it].status = InstanceStatus::Stopping;
                }
            }
            Step::Recycle(it) => {
                let begun = store.begin_recycling(instances[it], NOW, NOW).await;
                let used = is_used(&places, it);
                let machine = &mut machines[it];
                let may = machine.status == InstanceStatus::Running
                    && machine.holder.is_some()
                    && !machine.draining
                    && !machine.recycling
                    && !used;
                prop_assert_eq!(begun.map_err(fail)?, may);
                machine.recycling |= may;
            }
            Step::Recycled(it, epoch) => {
                let recycled = store.recycled(instances[it], epoch, NOW).await;
                let machine = &mut machines[it];
                let may = machine.status == InstanceStatus::Running
                    && machine.recycling
                    && machine.epoch == epoch;
                prop_assert_eq!(recycled.map_err(fail)?, may);
                if may {
                    machine.holder = None;
                    machine.recycling = false;
                    machine.epoch += 1;
                }
            }
            Step::Gone(it) => {
                let gone = store.instance_gone(instances[it], "terminated", NOW).await;
                let there = machines[it].status != InstanceStatus::Terminated;
                prop_assert_eq!(gone.map_err(fail)?, there);
                machines[it].status = InstanceStatus::Terminated;
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
