//! What happens in sessions, for those who watch them.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::agent::v1::{self, to_agent::Body};
use browserfleet_proto::ids::{InstanceId, SessionId};
use browserfleet_proto::limits;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::registry::{Held, Phase};
use super::{OwnedSession, Report, Sessions};
use crate::clock;
use crate::domain::session::{Session, Status};
use crate::error::Error;
use crate::relay::{Event, Followed, Follower};

/// How long a browser goes on to tell of its pages after the last one who watched left:
/// they may only have lost their connection, and miss nothing if they come back.
const KEEP_WATCHING: Duration = Duration::from_secs(60);
/// How often is looked how far a session is that waits, or is elsewhere, although
/// nothing happened here: another replica may have done something.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A session's state as its watchers are told it.
fn status_of(status: &str, end_reason: Option<&str>, message: &str) -> Value {
    match end_reason {
        Some(reason) => json!({ "status": status, "end_reason": reason, "message": message }),
        None => json!({ "status": status }),
    }
}

impl Held {
    /// Tells its watchers what happened.
    pub fn tell(&self, kind: &str, payload: &Value) {
        self.events.tell(kind, payload);
    }

    /// Tells its watchers how far it is.
    pub(super) fn tell_phase(&self, phase: &Phase) {
        let payload = match phase {
            Phase::Ended { reason, message } => status_of("ended", Some(reason), message),
            other => status_of(other.as_str(), None, ""),
        };
        self.tell("session.status", &payload);
        if matches!(phase, Phase::Ended { .. }) {
            self.events.end();
        }
    }
}

impl Sessions {
    /// Something happened in a browser.
    pub fn told(&self, instance: InstanceId, report: &v1::Event) -> Report {
        let Some(held) = self.reported(instance, &report.session_id, report.epoch) else {
            return Report::Strange;
        };
        if report.payload_json.len() > limits::EVENT_BYTES_MAX {
            return Report::Strange;
        }
        match serde_json::from_str::<Value>(&report.payload_json) {
            Ok(payload) if payload.is_object() => {
                held.events
                    .tell_of_agent(report.number, &report.kind, &payload);
                Report::Taken
            }
            _ => Report::Strange,
        }
    }

    /// Follows what happens in a session: from now on, or after an event that was
    /// followed before.
    pub fn follow(self: &Arc<Self>, session: &OwnedSession, after: Option<u64>) -> Following {
        let mut following = Following {
            sessions: Arc::clone(self),
            session: session.id(),
            after,
            news: self.queued.subscribe(),
            waited: matches!(session, OwnedSession::Row(_)),
            told: None,
            at: None,
        };
        if let OwnedSession::Held(held) = session {
            following.attach(held);
        }
        following
    }

    /// Has the browser tell of its pages while somebody watches. One task for each
    /// session.
    fn watch_pages(self: &Arc<Self>, held: &Arc<Held>) {
        if !held.begin_watching() {
            return;
        }
        let (this, held) = (Arc::clone(self), Arc::clone(held));
        self.tasks.spawn("watched session", async move {
            let mut phase = held.follow();
            let over = phase.wait_for(|it| matches!(it, Phase::Ended { .. }));
            tokio::select! {
                () = this.while_watched(&held) => {}
                _ = over => {}
            }
        });
    }

    async fn while_watched(&self, held: &Held) {
        let mut followers = held.events.followers();
        self.say_watched(held, true).await;
        loop {
            if followers.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            let back = timeout(KEEP_WATCHING, followers.wait_for(|count| *count > 0));
            if back.await.is_err() {
                break;
            }
        }
        held.end_watching();
        self.say_watched(held, false).await;
    }

    /// Says so once there is a link to say it over.
    async fn say_watched(&self, held: &Held, pages: bool) {
        let mut links = self.relay.changes();
        loop {
            links.mark_unchanged();
            let watch = v1::Watch {
                session_id: held.id.to_string(),
                epoch: held.epoch.unsigned_abs(),
                pages,
            };
            if self.relay.say(held.instance, Body::Watch(watch)).is_ok() {
                return;
            }
            if links.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Somebody who follows a session, wherever it is.
#[derive(Debug)]
pub struct Following {
    sessions: Arc<Sessions>,
    session: SessionId,
    after: Option<u64>,
    news: watch::Receiver<u64>,
    /// Whether it was not here at first: then all that is told of it here is news.
    waited: bool,
    /// The status that was told while it was not here.
    told: Option<Status>,
    at: Option<Follower>,
}

impl Following {
    fn attach(&mut self, held: &Arc<Held>) {
        self.at = Some(match self.after {
            None if self.waited => held.events.follow_all(),
            after => held.events.follow(after),
        });
        self.sessions.watch_pages(held);
    }

    /// What comes next. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn next(&mut self) -> Result<Followed, Error> {
        loop {
            if let Some(at) = &mut self.at {
                match at.next().await {
                    Followed::Moved => {
                        self.after = Some(at.at());
                        self.at = None;
                    }
                    followed => return Ok(followed),
                }
            }
            if let Some(held) = self.sessions.registry.find(self.session) {
                self.attach(&held);
                continue;
            }
            let row = self.sessions.store.session(self.session).await?;
            let Some(row) = row else {
                return Ok(Followed::Over);
            };
            if self.told != Some(row.status) {
                self.told = Some(row.status);
                return Ok(Followed::Event(Arc::new(event_of(&row)?)));
            }
            if row.status == Status::Ended {
                return Ok(Followed::Over);
            }
            tokio::select! {
                _ = self.news.changed() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// What is told of a session that is not looked after here.
fn event_of(row: &Session) -> Result<Event, Error> {
    let now = clock::now();
    let seq = u64::try_from(now.0).unwrap_or(0);
    let kind = "session.status";
    let message = json!({
        "type": kind,
        "session_id": row.id,
        "seq": seq,
        "at": now,
        "payload": status_of(row.status.as_str(), row.end_reason.as_deref(), ""),
    });
    let text = serde_json::to_vec(&message).map_err(|error| Error::Internal(error.into()))?;
    Ok(Event {
        seq,
        kind: kind.to_owned(),
        text: Bytes::from(text),
    })
}
