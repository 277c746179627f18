//! Sessions: opening, ending and extending them, and running commands on them.

pub mod address;
mod control;
mod downloads;
mod events;
mod handoff;
pub mod ledger;
mod line;
mod live;
mod lookup;
mod open;
mod pace;
mod perform;
mod queue;
pub mod registry;
mod reports;
mod shown;
mod tunnel;
mod wheel;

use std::sync::Arc;

use browserfleet_proto::ids::SessionId;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::domain::session::{Session, Status};
use crate::domain::user::Limits;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::relay::{NotSent, Relay};
use crate::store::Store;
use crate::tasks::Tasks;

pub use control::{Actor, Steer};
pub use downloads::Download;
pub use events::Following;
pub use handoff::Asked;
pub use live::Answering;
pub use lookup::Page;
pub use open::{Opened, TIMEOUT_MAX, Wish};
pub use perform::{Begun, Performed, Request};
pub use queue::{ASK_AGAIN, Placed, Ticket};
pub use reports::Report;
pub use shown::{ControlView, HandoffView};
pub use tunnel::{Tunnel, TunnelWish};

use ledger::Ledger;
use pace::Pace;
use queue::Openings;
use registry::{Held, Phase, Registry};

/// The service.
#[derive(Debug)]
pub struct Sessions {
    store: Store,
    relay: Arc<Relay>,
    fleet: Arc<Fleet>,
    ledger: Ledger,
    registry: Registry,
    tasks: Tasks,
    limits: Limits,
    pace: Pace,
    /// Changes when a session began or its end was moved.
    ends: watch::Sender<u64>,
    /// Changes when somebody's control may run out sooner.
    controls: watch::Sender<u64>,
    /// Changes when somebody may wait for an instance.
    queued: watch::Sender<u64>,
    openings: Openings,
    /// Those that have begun and have no outcome yet.
    commands: TaskTracker,
}

/// A session that its caller holds: found by id and user together.
#[derive(Debug, Clone)]
pub enum OwnedSession {
    /// It starts, lives or ends, here.
    Held(Arc<Held>),
    /// It waits, or is over.
    Row(Box<Session>),
}

impl From<NotSent> for Error {
    fn from(refused: NotSent) -> Self {
        match refused {
            NotSent::Busy => Self::AgentBusy,
            NotSent::NoLink => Self::NotSent,
        }
    }
}

impl OwnedSession {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        match self {
            Self::Held(held) => held.id,
            Self::Row(row) => row.id,
        }
    }

    /// The session, if it takes commands.
    fn held(&self) -> Result<Arc<Held>, Error> {
        match self {
            Self::Held(held) => match held.phase() {
                Phase::Live => Ok(Arc::clone(held)),
                Phase::Ended { reason, .. } => Err(Error::SessionGone { reason }),
                other => Err(Error::SessionNotLive {
                    status: other.as_str(),
                }),
            },
            Self::Row(row) => Err(match &row.end_reason {
                Some(reason) => Error::SessionGone {
                    reason: reason.clone(),
                },
                // Its agent has no link here just now.
                None if row.status == Status::Live => Error::NotSent,
                None => Error::SessionNotLive {
                    status: row.status.as_str(),
                },
            }),
        }
    }
}

impl Sessions {
    /// The service. It knows no session until [`Sessions::recover`] ran.
    #[must_use]
    pub fn new(
        store: Store,
        relay: Arc<Relay>,
        fleet: Arc<Fleet>,
        tasks: Tasks,
        limits: Limits,
    ) -> Self {
        Self {
            ledger: Ledger::start(store.clone(), &tasks),
            store,
            relay,
            fleet,
            registry: Registry::default(),
            tasks,
            limits,
            pace: Pace::default(),
            ends: watch::Sender::new(0),
            controls: watch::Sender::new(0),
            queued: watch::Sender::new(0),
            openings: Openings::default(),
            commands: TaskTracker::new(),
        }
    }

    /// Changes when the next session's end may have moved.
    pub fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    /// Whether a session's agent has a link here. One that has it elsewhere, or just
    /// now nowhere, is not this replica's to end.
    pub(crate) fn is_reachable(&self, held: &Held) -> bool {
        self.fleet.is_reachable(held.instance)
    }

    /// How many sessions are looked after here, by status.
    pub fn counts(&self) -> [(&'static str, usize); 3] {
        self.registry.counts()
    }

    /// How many entries of the history wait to be written.
    pub fn unwritten(&self) -> usize {
        self.ledger.waiting()
    }

    /// The sessions that are looked after here.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where work goes on that outlives its caller.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}
