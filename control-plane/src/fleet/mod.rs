//! Instances: who gets one, how agents join, and what becomes of them.

mod acquire;
pub mod authorities;
pub mod authority;
mod client_certificates;
mod enrol;
mod reconcile;

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use governor::DefaultDirectRateLimiter;
use tokio::sync::{Mutex, watch};

use crate::provider::Provider;
use crate::relay::Relay;
use crate::store::Store;

pub use acquire::Lease;
pub use enrol::{Applicant, Enrolled};
pub use reconcile::Reconciled;

use authorities::Authorities;

/// The pool that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Instances that are ready and unassigned.
    pub warm: u32,
    /// Instances at the most.
    pub max: u32,
    /// Sessions on one instance.
    pub sessions_per_instance: u32,
    /// How long a user keeps an instance without a session.
    pub idle: Duration,
}

/// Whether instances may be launched. Whoever launches one holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doors {
    Open,
    /// The process ends: what would be launched now, nobody would end.
    Closed,
}

/// The service.
pub struct Fleet {
    store: Store,
    relay: Arc<Relay>,
    provider: Arc<dyn Provider>,
    authorities: Authorities,
    /// How many refusals of agents the audit takes.
    refusals_told: DefaultDirectRateLimiter,
    wanted: Wanted,
    /// One placement at a time: the choice is made from rows, and changes them.
    placing: Mutex<Doors>,
    wake: watch::Sender<u64>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// The service.
    #[must_use]
    pub fn new(
        store: Store,
        relay: Arc<Relay>,
        provider: Arc<dyn Provider>,
        authorities: Authorities,
        wanted: Wanted,
    ) -> Self {
        Self {
            store,
            relay,
            provider,
            authorities,
            refusals_told: DefaultDirectRateLimiter::direct(enrol::REFUSALS_TOLD),
            wanted,
            placing: Mutex::new(Doors::Open),
            wake: watch::Sender::new(0),
        }
    }

    /// Says that the pool may have to change.
    pub fn wake(&self) {
        self.wake.send_modify(|count| *count += 1);
    }

    /// Changes when the pool may have to change.
    pub fn woken(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// The certificate authorities of the agents.
    #[must_use]
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// Notes that an agent renewed its lease.
    pub fn renewed(&self, instance: InstanceId) {
        self.relay.renewed(instance);
    }
}
