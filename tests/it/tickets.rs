//! Tickets of sockets, on both engines: good once, briefly, and for no more than was
//! asked for.

use std::time::Duration;

use browserfleet_control_plane::accounts::{
    Accounts, Client, CurrentUser, MailSettings, Settings, TICKET_LIFE,
};
use browserfleet_control_plane::config::{Passwords, Registration};
use browserfleet_control_plane::domain::access::{Reach, Right};
use browserfleet_control_plane::domain::audit::{Action, Credential, Event};
use browserfleet_control_plane::domain::key::{ApiKey, Scope};
use browserfleet_control_plane::domain::login::Lives;
use browserfleet_control_plane::domain::time::Timestamp;
use browserfleet_control_plane::domain::user::Role;
use browserfleet_control_plane::error::Error;
use browserfleet_control_plane::store::Store;
use browserfleet_control_plane::store::access::Change;
use browserfleet_control_plane::store::tickets::Ticket;
use browserfleet_proto::ids::{ApiKeyId, SessionId, UserId};
use browserfleet_tests::api::Caller;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::rows::{NOW, user_in};
use browserfleet_tests::world::World;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// As late as no test is.
const FAR: Timestamp = Timestamp(i64::MAX / 2);

/// The accounts of two replicas of one database.
fn accounts(store: &Store, folder: &TempDir, replica: &str) -> Accounts {
    let data = folder.path().join(replica);
    std::fs::create_dir_all(&data).unwrap();
    let settings = Settings {
        passwords: Passwords {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
            at_once: 1,
        },
        signing_keys: Vec::new(),
        sealing_key: None,
        registration: Registration::Open,
        lives: Lives {
            idle: HOUR,
            longest: HOUR,
        },
        public_url: "http://localhost".into(),
        mail: MailSettings {
            smtp: None,
            from: "nobody@localhost".into(),
            folder: data.join("mail"),
        },
        providers: Vec::new(),
        allowed_origins: Vec::new(),
    };
    Accounts::open(store.clone(), &data, settings).unwrap()
}

async fn key_of(store: &Store, user: UserId, scopes: &[Scope], ends: Timestamp) -> CurrentUser {
    let key = ApiKey {
        id: ApiKeyId::new(),
        user,
        name: "k".into(),
        hint: "bf_".into(),
        scopes: scopes.to_vec(),
        created_at: NOW,
        expires_at: Some(ends),
        last_used_at: None,
    };
    let event = Event::new(NOW, Action::KeyCreated).on(user);
    let hash = key.id.to_string();
    assert!(store.create_key(&key, &hash, 10, &event).await.unwrap());
    CurrentUser {
        id: user,
        role: Role::User,
        credential: Credential::Key(key.id),
        scopes: Some(scopes.to_vec()),
        has_to_enrol: false,
        access_version: 1,
        good_until: None,
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.expect_err("it is refused").code()
}

async fn on_both_engines<F: AsyncFn(&Store, &TempDir)>(test: F) {
    let folder = TempDir::new().unwrap();
    let postgres = Postgres::start().unwrap();
    let file = format!("sqlite:{}", folder.path().join("store.db").display());
    for url in [file, postgres.database("fleet").unwrap()] {
        let store = Store::open(&url, NOW).await.unwrap();
        test(&store, &folder).await;
        store.close().await;
    }
}

#[tokio::test]
async fn of_all_who_bring_a_ticket_at_once_one_gets_in() {
    on_both_engines(async |store, folder| {
        let user = user_in(store).await;
        let caller = key_of(store, user, &Scope::ALL, FAR).await;
        let replicas = [
            accounts(store, folder, "one"),
            accounts(store, folder, "two"),
        ];
        let ticket = replicas[0].issue_ticket(&caller, None, None).await.unwrap();
        let tries = (0..20).map(|number| replicas[number % 2].redeem_ticket(&ticket));
        let (good, bad): (Vec<_>, Vec<_>) =
            join_all(tries).await.into_iter().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (1, 19));
        assert!(bad.into_iter().all(|it| refused(it) == "unauthenticated"));
        let pass = good.into_iter().next().unwrap().unwrap();
        assert_eq!((pass.user, pass.right), (caller, Right::Own));
        assert_eq!((pass.session, pass.share), (None, None));
    })
    .await;
}

#[tokio::test]
async fn what_is_got_with_a_ticket_is_good_for_no_more_and_no_longer() {
    on_both_engines(async |store, folder| {
        let user = user_in(store).await;
        let caller = key_of(store, user, &Scope::ALL, FAR).await;
        let accounts = accounts(store, folder, "one");
        let (session, another) = (SessionId::new(), SessionId::new());
        let right = Some(Right::Drive);
        let first = accounts.issue_ticket(&caller, Some(session), right).await;
        let mut pass = accounts.redeem_ticket(&first.unwrap()).await.unwrap();
        let ends = pass.tickets_until.unwrap();
        // The clocks of the database and of this process are read one after the other.
        let latest = ends.plus(Duration::from_secs(1));
        for _ in 0..3 {
            let next = accounts.pass_on(&pass, None).await.unwrap();
            pass = accounts.redeem_ticket(&next).await.unwrap();
            assert!(pass.tickets_until.unwrap() < latest);
            assert_eq!((pass.session, pass.right), (Some(session), Right::Drive));
            assert!(pass.permit(another, Right::View).is_err());
        }
        pass.tickets_until = Some(NOW);
        let late = accounts.pass_on(&pass, None).await;
        assert_eq!(refused(late), "unauthenticated");
    })
    .await;
}

#[tokio::test]
async fn a_ticket_that_is_too_old_is_none() {
    on_both_engines(async |store, folder| {
        let user = user_in(store).await;
        let caller = key_of(store, user, &Scope::ALL, FAR).await;
        let ticket = Ticket {
            user,
            credential: caller.credential,
            access_version: 1,
            scopes: None,
            reach: Reach {
                right: Right::Drive,
                session: Some(SessionId::new()),
            },
        };
        for (hash, life) in [("old", Duration::ZERO), ("young", HOUR)] {
            assert!(store.issue_ticket(&ticket, hash, life, 1).await.unwrap());
        }
        assert!(!store.issue_ticket(&ticket, "more", HOUR, 1).await.unwrap());
        assert_eq!(store.take_ticket("old").await.unwrap(), None);
        let (taken, left) = store.take_ticket("young").await.unwrap().unwrap();
        assert_eq!(taken, ticket);
        assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
        assert_eq!(store.take_ticket("young").await.unwrap(), None);
        let accounts = accounts(store, folder, "one");
        for odd in ["", "tkt_", "tkt_young", "bf_x", "young"] {
            let code = refused(accounts.redeem_ticket(odd).await);
            assert_eq!(code, "unauthenticated", "{odd}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_ticket_is_for_no_more_than_was_asked_for_and_may_be() {
    on_both_engines(async |store, folder| {
        let user = user_in(store).await;
        let reader = key_of(store, user, &[Scope::SessionsRead], FAR).await;
        let accounts = accounts(store, folder, "one");
        for right in [Right::Drive, Right::Own] {
            let asked = accounts.issue_ticket(&reader, None, Some(right)).await;
            assert_eq!(refused(asked), "insufficient_scope");
        }
        let writer = key_of(store, user, &[Scope::SessionsWrite], FAR).await;
        let (mine, other) = (SessionId::new(), SessionId::new());
        let asked = accounts.issue_ticket(&writer, Some(mine), Some(Right::View));
        let pass = accounts.redeem_ticket(&asked.await.unwrap()).await.unwrap();
        assert!(pass.permit(mine, Right::View).is_ok());
        assert_eq!(refused(pass.permit(mine, Right::Drive)), "forbidden");
        assert_eq!(refused(pass.permit(other, Right::View)), "not_found");
        let asked = accounts.issue_ticket(&reader, None, None).await.unwrap();
        let pass = accounts.redeem_ticket(&asked).await.unwrap();
        assert_eq!(pass.right, Right::View);
        assert!(pass.permit(other, Right::View).is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_ticket_ends_with_what_asked_for_it() {
    on_both_engines(async |store, folder| {
        let user = user_in(store).await;
        let [asker, elsewhere] = ["one", "two"].map(|it| accounts(store, folder, it));
        let client = Client {
            address: [192, 0, 2, 1].into(),
            user_agent: None,
        };
        // Revoked at another replica.
        let caller = key_of(store, user, &Scope::ALL, FAR).await;
        let ticket = asker.issue_ticket(&caller, None, None).await.unwrap();
        let Credential::Key(key) = caller.credential else {
            unreachable!("it is a key");
        };
        elsewhere.revoke_key(&caller, key, &client).await.unwrap();
        let code = refused(asker.redeem_ticket(&ticket).await);
        assert_eq!(code, "unauthenticated", "revoked");
        // At its time.
        let past = key_of(store, user, &Scope::ALL, NOW).await;
        let ticket = asker.issue_ticket(&past, None, None).await.unwrap();
        let code = refused(asker.redeem_ticket(&ticket).await);
        assert_eq!(code, "unauthenticated", "ended");
        // What its user may has changed.
        let caller = key_of(store, user, &Scope::ALL, FAR).await;
        let ticket = asker.issue_ticket(&caller, None, None).await.unwrap();
        let event = Event::new(NOW, Action::UserDisabled).on(user);
        for change in [Change::Disable, Change::Enable] {
            store.change_access(user, change, &event).await.unwrap();
        }
        let code = refused(asker.redeem_ticket(&ticket).await);
        assert_eq!(code, "unauthenticated", "changed");
    })
    .await;
}

/// How much longer than a ticket what came of it may live: two clocks, on a busy machine.
const TICKET_SLACK: Duration = Duration::from_secs(1);
/// How often a ticket is exchanged for the next one: often enough that one is asked with
/// between its end and the slack after it.
const EXCHANGED_EVERY: Duration = Duration::from_millis(500);

/// Asks with a ticket for an address with the next one, and with that one again, until
/// none is given any more.
async fn exchange_until_refused(nobody: &Caller, owner: &Caller, path: &str, place: &str) {
    let given = owner.post("/api/ws-ticket", json!({})).await.ok();
    let since = Instant::now();
    let mut ticket = given["ticket"].as_str().unwrap().to_owned();
    loop {
        let age = since.elapsed();
        let told = nobody.get(&format!("{path}?token={ticket}")).await;
        if told.status != 200 {
            assert_eq!(told.status, 401, "{path}");
            assert_eq!(told.code(), "unauthenticated", "{path}");
            assert!(age > TICKET_LIFE - TICKET_SLACK, "{path}: after {age:?}");
            return;
        }
        assert!(
            age < TICKET_LIFE + TICKET_SLACK,
            "{path}: still after {age:?}"
        );
        let told = told.json();
        let address = told.pointer(place).and_then(Value::as_str).unwrap();
        let (_, next) = address.split_once("token=").unwrap();
        assert!(next.starts_with("tkt_") && next != ticket, "{address}");
        next.clone_into(&mut ticket);
        sleep(EXCHANGED_EVERY).await;
    }
}

#[tokio::test]
async fn a_ticket_that_came_of_a_ticket_ends_with_it() {
    let world = World::new().await.unwrap();
    let (nobody, alice) = (world.nobody(), world.user("alice").await);
    // Of its pages the second address tells.
    let session = alice.open(json!({})).await;
    tokio::join!(
        exchange_until_refused(&nobody, &alice, "/json/version", "/webSocketDebuggerUrl"),
        exchange_until_refused(&nobody, &alice, "/json/list", "/0/webSocketDebuggerUrl"),
    );
    assert_eq!(session.value("1 + 1").await, 2);
    world.stop().await;
}
