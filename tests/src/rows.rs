//! Rows that a test of the store begins with.

use std::collections::BTreeMap;
use std::time::Duration;

use browserfleet_control_plane::domain::audit::{Action, Event};
use browserfleet_control_plane::domain::control::Control;
use browserfleet_control_plane::domain::session::{
    Browser, Dialogs, Session, SessionSpec, Status, WhileControlled,
};
use browserfleet_control_plane::domain::time::Timestamp;
use browserfleet_control_plane::domain::user::Role;
use browserfleet_control_plane::store::Store;
use browserfleet_control_plane::store::users::NewUser;
use browserfleet_proto::ids::{SessionId, UserId};

/// When they were made.
pub const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

/// A new user.
///
/// # Panics
/// Where the database does not take it.
pub async fn user_in(store: &Store) -> UserId {
    let id = UserId::new();
    let user = NewUser {
        id,
        email: format!("{id}@example.com")
            .parse()
            .expect("it is an address"),
        password_hash: String::new(),
        first_name: None,
        last_name: None,
        role: Role::User,
        at: NOW,
        verified: true,
    };
    let event = |_| Event::new(NOW, Action::AccountRegistered).on(user.id);
    assert_eq!(
        store
            .create_user(&user, event)
            .await
            .expect("the database answers"),
        Some(user.id)
    );
    id
}

/// A session that waits.
#[must_use]
pub fn session_of(user: UserId) -> Session {
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
            while_controlled: WhileControlled::default(),
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
        ending_reason: None,
        control: Control::default(),
    }
}
