//! The sessions that this process looks after: those that start, live or end.
//! What is here is a copy of the rows that is cheap to read on every command;
//! the rows decide.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, SessionId, UserId};
use tokio::sync::watch;

use super::line::Line;
use super::wheel::Wheel;
use crate::domain::control::Control;
use crate::domain::session::WhileControlled;
use crate::domain::time::Timestamp;
use crate::relay::Log;

/// How far a session is, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its browser is being started.
    Starting,
    /// It takes commands.
    Live,
    /// It is being ended.
    Ending {
        /// Why: the browser's end will be its consequence.
        reason: &'static str,
    },
    /// It has ended.
    Ended {
        /// Why.
        reason: String,
        /// More about it, for its owner.
        message: String,
    },
}

impl Phase {
    /// The word that callers read.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Ending { .. } => "ending",
            Self::Ended { .. } => "ended",
        }
    }
}

/// One session that is looked after.
#[derive(Debug)]
pub struct Held {
    /// Its id.
    pub id: SessionId,
    /// Who holds it.
    pub user: UserId,
    /// Where its browser is.
    pub instance: InstanceId,
    /// The lease's epoch.
    pub epoch: i64,
    /// A command's time where the caller names none.
    pub command_timeout: Duration,
    /// How long it may be without activity.
    pub idle_timeout: Duration,
    /// What becomes of commands while a person drives.
    pub while_controlled: WhileControlled,
    /// Who drives.
    pub wheel: Wheel,
    /// The automation's commands that are on their way to the browser.
    pub(super) automation: Line,
    /// Those of whoever drives.
    pub(super) persons: Line,
    phase: watch::Sender<Phase>,
    expires_at: AtomicI64,
    last_activity_at: AtomicI64,
    page: Mutex<Page>,
    ending: OnceLock<&'static str>,
    /// What happens in it.
    pub events: Arc<Log>,
    /// Its browser tells of its pages.
    watched: AtomicBool,
}

/// Where a session's browser is, as its agent last said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Page {
    /// The address.
    pub url: String,
    /// The document's title.
    pub title: String,
}

/// What a session is registered with.
#[derive(Debug)]
pub struct Holding {
    /// Its id.
    pub id: SessionId,
    /// Who holds it.
    pub user: UserId,
    /// Where its browser is.
    pub instance: InstanceId,
    /// The lease's epoch.
    pub epoch: i64,
    /// A command's time where the caller names none.
    pub command_timeout: Duration,
    /// How long it may be without activity.
    pub idle_timeout: Duration,
    /// What becomes of commands while a person drives.
    pub while_controlled: WhileControlled,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// When it was last active.
    pub last_activity_at: Timestamp,
}

impl Held {
    /// A session that is in this phase.
    #[must_use]
    pub fn new(holding: Holding, phase: Phase) -> Self {
        let held = Self {
            id: holding.id,
            user: holding.user,
            instance: holding.instance,
            epoch: holding.epoch,
            command_timeout: holding.command_timeout,
            idle_timeout: holding.idle_timeout,
            while_controlled: holding.while_controlled,
            wheel: Wheel::default(),
            automation: Line::default(),
            persons: Line::default(),
            phase: watch::Sender::new(phase.clone()),
            expires_at: AtomicI64::new(holding.expires_at.0),
            last_activity_at: AtomicI64::new(holding.last_activity_at.0),
            page: Mutex::default(),
            ending: OnceLock::new(),
            events: Arc::new(Log::new(holding.id)),
            watched: AtomicBool::new(false),
        };
        held.tell_phase(&phase);
        held
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Follows how far it is.
    pub fn follow(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Moves it on; an ended session stays ended. `false`: it was.
    pub fn enter(&self, phase: Phase) -> bool {
        let entered = self.phase.send_if_modified(|current| {
            if matches!(current, Phase::Ended { .. }) || *current == phase {
                return false;
            }
            *current = phase.clone();
            true
        });
        if entered {
            self.tell_phase(&phase);
        }
        entered
    }

    /// Somebody watches. `false`: somebody did already.
    pub fn begin_watching(&self) -> bool {
        !self.watched.swap(true, Ordering::AcqRel)
    }

    /// Nobody watches any more.
    pub fn end_watching(&self) {
        self.watched.store(false, Ordering::Release);
    }

    /// When it ends at the latest.
    pub fn expires_at(&self) -> Timestamp {
        Timestamp(self.expires_at.load(Ordering::Relaxed))
    }

    /// Moves its end.
    pub fn extend(&self, expires_at: Timestamp) {
        self.expires_at.store(expires_at.0, Ordering::Relaxed);
    }

    /// Makes it end before its time, for this reason. `false`: it ends sooner.
    pub fn shorten(&self, expires_at: Timestamp, reason: &'static str) -> bool {
        let before = self.expires_at.fetch_min(expires_at.0, Ordering::Relaxed);
        before > expires_at.0 && self.ending.set(reason).is_ok()
    }

    /// When it was last active.
    pub fn last_activity_at(&self) -> Timestamp {
        Timestamp(self.last_activity_at.load(Ordering::Relaxed))
    }

    /// Notes activity.
    pub fn touch(&self, now: Timestamp) {
        self.last_activity_at.fetch_max(now.0, Ordering::Relaxed);
    }

    /// When it is over if nothing happens, and why. Whoever waits for a person's answer
    /// is not idle.
    pub fn ends(&self) -> (Timestamp, &'static str) {
        let asks_until = |it: &Control| it.open_handoff().map(|it| it.expires_at);
        let active = Some(self.last_activity_at()).max(self.wheel.look(asks_until));
        let active = active.unwrap_or_else(|| self.last_activity_at());
        let idle = active.plus(self.idle_timeout);
        let expires = self.expires_at();
        if idle < expires {
            (idle, "idle_timeout")
        } else {
            (expires, self.ending.get().copied().unwrap_or("expired"))
        }
    }

    /// Where its browser is.
    pub fn page(&self) -> Page {
        self.page_lock().clone()
    }

    /// Notes where its browser is.
    pub fn set_page(&self, page: Page) {
        *self.page_lock() = page;
    }

    fn page_lock(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Registry(RwLock<HashMap<SessionId, Arc<Held>>>);

impl Registry {
    /// Takes one in.
    pub fn insert(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(held.id, Arc::clone(&held));
        held
    }

    /// Finds one.
    pub fn find(&self, id: SessionId) -> Option<Arc<Held>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// Forgets one.
    pub fn remove(&self, id: SessionId) -> Option<Arc<Held>> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)
    }

    /// How many are in each phase.
    pub fn counts(&self) -> [(&'static str, usize); 3] {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts = ["starting", "live", "ending"].map(|it| (it, 0));
        for held in held.values() {
            let phase = held.phase.borrow().as_str();
            if let Some((_, count)) = counts.iter_mut().find(|(it, _)| *it == phase) {
                *count += 1;
            }
        }
        counts
    }

    /// All, or those that pass.
    pub fn select(&self, passes: impl Fn(&Held) -> bool) -> Vec<Arc<Held>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .filter(|held| passes(held))
            .cloned()
            .collect()
    }
}
