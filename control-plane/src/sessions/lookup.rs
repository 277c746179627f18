//! Finding sessions: always by id and user together.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::ids::{CommandId, SessionId};

use super::control::standing_in;
use super::registry::Phase;
use super::{Opened, OwnedSession, Sessions, Wish};
use crate::accounts::CurrentUser;
use crate::clock;
use crate::domain::command::Command;
use crate::domain::session::Session;
use crate::error::Error;
use crate::store::sessions::Filter;

/// How long a command waits for an instance where its caller has no session yet.
const ONLY_SESSION_WAIT: Duration = Duration::from_secs(30);
/// When to ask again where none was there in time.
const RETRY: Duration = Duration::from_secs(5);

/// A part of a list, and where the next part begins.
#[derive(Debug)]
pub struct Page<T, C> {
    /// The entries, newest first.
    pub data: Vec<T>,
    /// The last entry's id, if there is more.
    pub next: Option<C>,
}

impl Sessions {
    /// A session of this user.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is somebody else's.
    pub async fn owned(&self, user: &CurrentUser, id: SessionId) -> Result<OwnedSession, Error> {
        let found = match self.registry.find(id) {
            Some(held) => Some((held.user, OwnedSession::Held(held))),
            None => self
                .store
                .session(id)
                .await?
                .map(|row| (row.user, OwnedSession::Row(Box::new(row)))),
        };
        match found {
            Some((owner, session)) if owner == user.id => Ok(session),
            _ => Err(Error::NotFound("session")),
        }
    }

    /// The user's only live session; a new one where they have none.
    ///
    /// # Errors
    /// [`Error::SessionAmbiguous`], or what opening one gives.
    pub async fn only_session(self: &Arc<Self>, user: &CurrentUser) -> Result<OwnedSession, Error> {
        let mut live = self.live_of(user);
        match (live.pop(), live.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(_), false) => Err(Error::SessionAmbiguous),
            (None, _) => {
                self.open_within(user, Wish::default(), ONLY_SESSION_WAIT)
                    .await
            }
        }
    }

    /// The user's sessions that take commands here.
    pub fn live_of(&self, user: &CurrentUser) -> Vec<OwnedSession> {
        let live = self
            .registry
            .select(|held| held.user == user.id && held.phase() == Phase::Live);
        live.into_iter().map(OwnedSession::Held).collect()
    }

    /// Opens a session for somebody who does not wait any longer than this.
    ///
    /// # Errors
    /// What opening one gives.
    pub async fn open_within(
        self: &Arc<Self>,
        user: &CurrentUser,
        wish: Wish,
        wait: Duration,
    ) -> Result<OwnedSession, Error> {
        match self.open(user, wish, wait).await? {
            Opened::Live(session) => self.owned(user, session.id).await,
            Opened::Queued(ticket) => {
                // Nobody has its ticket.
                self.finish(
                    ticket.session,
                    "no_capacity",
                    "no instance was ready in time",
                )
                .await;
                Err(Error::NoCapacity {
                    reason: "no instance was ready in time".into(),
                    retry_after: RETRY,
                })
            }
        }
    }

    /// The row of a session, with what is known of it here and not yet there.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn show(&self, session: &OwnedSession) -> Result<Session, Error> {
        let row = match session {
            OwnedSession::Row(row) => (**row).clone(),
            OwnedSession::Held(held) => self
                .store
                .session(held.id)
                .await?
                .ok_or(Error::NotFound("session"))?,
        };
        Ok(self.refresh(row))
    }

    /// A user's sessions, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn list(
        &self,
        user: &CurrentUser,
        mut filter: Filter,
    ) -> Result<Page<Session, SessionId>, Error> {
        let limit = filter.limit;
        filter.limit += 1;
        let rows = self.store.sessions_of(user.id, &filter).await?;
        let rows = rows.into_iter().map(|row| self.refresh(row)).collect();
        Ok(page_of(rows, limit, |row| row.id))
    }

    /// A session's commands, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn commands(
        &self,
        session: &OwnedSession,
        before: Option<CommandId>,
        limit: u32,
    ) -> Result<Page<Command, CommandId>, Error> {
        let rows = self
            .store
            .commands_of(session.id(), before, limit + 1)
            .await?;
        Ok(page_of(rows, limit, |row| row.id))
    }

    fn refresh(&self, mut row: Session) -> Session {
        row.control = standing_in(&row.control, row.ended_at);
        if let Some(held) = self.registry.find(row.id) {
            if row.ended_at.is_none() {
                row.control = held.wheel.control().at(clock::now());
            }
            row.last_activity_at = held.last_activity_at();
            let page = held.page();
            if !page.url.is_empty() {
                row.current_url = Some(page.url);
                row.current_title = Some(page.title);
            }
        }
        row
    }
}

/// One more row than asked for was read: it tells that there is more.
fn page_of<T, C>(mut data: Vec<T>, limit: u32, id: impl Fn(&T) -> C) -> Page<T, C> {
    let more = data.len() > limit as usize;
    data.truncate(limit as usize);
    let next = data.last().filter(|_| more).map(id);
    Page { data, next }
}
