//! The queue: sessions that wait for an instance, as rows. Each replica gives
//! places on the instances whose links it has, in the order that
//! [`placement`](crate::domain::placement) says, and starts what it placed. Who
//! stops asking stops waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, SessionId};
use tokio::sync::watch;

use super::{OwnedSession, Sessions};
use crate::clock;
use crate::domain::instance::{self, Instance};
use crate::domain::placement::{self, Assignment, Bounds, Place};
use crate::domain::session::Status;
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::fleet::phase_of;

/// How long a ticket is good without anybody asking after it.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);
/// How soon to ask after a ticket again.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many sessions may wait, of everybody: above it a newcomer would wait longer
/// than anybody does.
pub(super) const QUEUE_MAX: usize = 2_000;
/// How long a start is taken to last where none was seen yet.
const BOOT_GUESS: Duration = Duration::from_secs(60);

/// How far the opening of a session is, for who waits here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for an instance.
    Queued,
    /// It waits on, after a round in which there was none for it.
    PassedOver,
    /// It has one.
    Placed,
    /// It is live, or failed.
    Decided,
}

/// A session whose opening is waited for here.
#[derive(Debug)]
pub(super) struct Opening {
    stage: watch::Sender<Stage>,
    failure: Mutex<Option<Error>>,
}

impl Opening {
    pub(super) fn follow(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Why it failed, if it did. Taken once.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }
}

/// All of those.
#[derive(Debug, Default)]
pub(super) struct Openings(Mutex<HashMap<SessionId, Arc<Opening>>>);

impl Openings {
    pub(super) fn expect(&self, id: SessionId) -> Arc<Opening> {
        let opening = Arc::new(Opening {
            stage: watch::Sender::new(Stage::Queued),
            failure: Mutex::default(),
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, Arc::clone(&opening));
        opening
    }

    fn placed(&self, id: SessionId) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = all.get(&id) {
            opening.stage.send_replace(Stage::Placed);
        }
    }

    fn passed_over(&self, id: SessionId) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = all.get(&id) {
            opening.stage.send_if_modified(|stage| {
                let is_news = *stage == Stage::Queued;
                if is_news {
                    *stage = Stage::PassedOver;
                }
                is_news
            });
        }
    }

    /// Tells who waits, if anybody does, and forgets them.
    pub(super) fn decide(&self, id: SessionId, failure: Option<Error>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(opening) = all.remove(&id) else {
            return;
        };
        drop(all);
        if let Some(failure) = failure {
            let mut place = opening
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *place = Some(failure);
        }
        opening.stage.send_replace(Stage::Decided);
    }

    pub(super) fn forget(&self, id: SessionId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&id);
    }
}

/// Where a session stands that was asked for.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The session that it will be.
    pub session: SessionId,
    /// How far it is.
    pub status: Status,
    /// Counts from 1; 0 once it has an instance.
    pub position: usize,
    /// How long it will probably take.
    pub estimate: Option<Duration>,
    /// What it waits for, in a word.
    pub reason: &'static str,
    /// What the start of the instance is at that it will probably get.
    pub boot_phase: Option<&'static str>,
    /// Why it ended, if it did.
    pub end_reason: Option<String>,
}

/// What a round of placing leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// Sessions that got an instance.
    pub placed: usize,
    /// Sessions that wait on.
    pub waiting: usize,
    /// When the next of them has waited for long enough.
    pub due: Option<Timestamp>,
}

impl Sessions {
    /// Changes when somebody may wait.
    pub fn queued(&self) -> watch::Receiver<u64> {
        self.queued.subscribe()
    }

    /// Gives places to those that wait, as far as there are any, and ends the
    /// waiting of those that nobody asks after.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn place_queued(self: &Arc<Self>) -> Result<Placed, Error> {
        let now = clock::now();
        let mut queue = self.store.queue().await?;
        for given_up in queue.iter().filter(|it| it.wait_until <= now) {
            self.finish(
                given_up.session,
                "wait_timeout",
                "no instance was ready in time",
            )
            .await;
        }
        queue.retain(|it| it.wait_until > now);
        let mut done = Placed {
            due: queue.iter().map(|it| it.wait_until).min(),
            ..Placed::default()
        };
        if queue.is_empty() {
            return Ok(done);
        }
        let rows = self.fleet.rows().await?;
        let waiting = self.fleet.waiting(&queue).await?;
        let pool = self.fleet.pool();
        let bounds = Bounds {
            instances: pool.max,
            sessions_per_instance: pool.sessions_per_instance,
        };
        let reachable = |id| self.fleet.is_reachable(id);
        let Assignment { places, claims } = placement::assign(&waiting, &rows, reachable, bounds);
        for (session, user, place) in places {
            let (instance, epoch) = match place {
                Place::Own(instance, epoch) => {
                    let placed = self
                        .store
                        .place_on_own(session, instance, epoch, now)
                        .await?;
                    (instance, placed.then_some(epoch))
                }
                Place::Free(instance) => {
                    let epoch = self
                        .store
                        .place_on_free(session, user, instance, now)
                        .await?;
                    (instance, epoch)
                }
            };
            let Some(epoch) = epoch else { continue };
            tracing::debug!(session.id = %session, instance.id = %instance, epoch, "session placed");
            done.placed += 1;
            queue.retain(|it| it.session != session);
            self.openings.placed(session);
            let this = Arc::clone(self);
            self.tasks.spawn("start session", async move {
                this.start_placed(session, instance, epoch).await;
            });
        }
        done.waiting = queue.len();
        for waiting in &queue {
            self.openings.passed_over(waiting.session);
        }
        // Taken back for those whose turn it is; those that are in use follow later.
        let empty = |it: &&Instance| claims.contains(&it.id) && it.sessions == 0;
        for row in rows.iter().filter(empty) {
            self.fleet.reclaim(row).await?;
        }
        // One of the warm ones is gone, or one more is needed.
        self.fleet.wake();
        Ok(done)
    }

    /// Where a session stands. Asking keeps it in the queue.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn ticket(&self, session: &OwnedSession) -> Result<Ticket, Error> {
        let row = self.show(session).await?;
        let mut ticket = Ticket {
            session: row.id,
            status: row.status,
            position: 0,
            estimate: None,
            reason: match row.status {
                Status::Queued => "waiting_for_instance",
                Status::Starting => "starting_browser",
                Status::Live => "live",
                Status::Ending | Status::Ended => "ended",
            },
            boot_phase: None,
            end_reason: row.end_reason,
        };
        if row.status != Status::Queued {
            return Ok(ticket);
        }
        let now = clock::now();
        self.store
            .go_on_waiting(row.id, now.plus(TICKET_LIFE))
            .await?;
        let queue = self.store.queue().await?;
        let rows = self.fleet.rows().await?;
        let waiting = self.fleet.waiting(&queue).await?;
        let order = placement::in_order(&waiting, &rows);
        let place = order.iter().position(|it| it.session == row.id);
        let place = place.unwrap_or(order.len());
        ticket.position = place + 1;
        let boot = self.fleet.usual_boot().unwrap_or(BOOT_GUESS);
        // Those that started first are there first, and who is first gets them.
        let mut coming: Vec<&Instance> = rows.iter().filter(|it| it.is_coming()).collect();
        coming.sort_by_key(|it| it.created_at);
        let own = rows.iter().find(|it| {
            let theirs = it.assigned_to == Some(row.user) && it.draining.is_none();
            theirs && it.status == instance::Status::Provisioning
        });
        match own.or(coming.get(place).copied()) {
            Some(instance) => {
                let again = instance.parking.map(|it| it.at);
                let begun = again.or(instance.launched_at);
                let age = now.since(begun.unwrap_or(instance.created_at));
                ticket.estimate = Some(boot.saturating_sub(age).max(ASK_AGAIN));
                ticket.boot_phase = Some(phase_of(instance));
                ticket.reason = "instance_starting";
            }
            None => {
                ticket.estimate = Some(boot);
                if let Some(reason) = self.fleet.held_back() {
                    ticket.reason = reason;
                    ticket.estimate = None;
                }
            }
        }
        Ok(ticket)
    }

    /// Where the session with this id stands.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub async fn ticket_of(&self, id: SessionId) -> Result<Ticket, Error> {
        let row = self.store.session(id).await?;
        let row = row.ok_or(Error::NotFound("session"))?;
        self.ticket(&OwnedSession::Row(Box::new(row))).await
    }

    async fn start_placed(&self, id: SessionId, instance: InstanceId, epoch: i64) {
        let started = match self.store.session(id).await {
            Ok(Some(session)) => self.start(session, instance, epoch).await,
            Ok(None) => Err(Error::NotFound("session")),
            Err(error) => Err(error.into()),
        };
        match started {
            Ok(()) => self.openings.decide(id, None),
            Err(error) => {
                let (code, words) = (error.code(), error.to_string());
                // Who waits is told in the words of the error itself.
                self.openings.decide(id, Some(error));
                self.finish(id, code, &words).await;
            }
        }
    }
}
