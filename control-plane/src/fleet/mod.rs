//! Instances: how many there are, who gets one, how agents join, and what becomes
//! of them. What is wanted is in rows; [`Fleet::converge`] alone calls a provider.

pub mod authorities;
pub mod authority;
mod client_certificates;
mod converge;
mod enrol;
mod instances;
mod launch;
mod lead;
mod parking;
mod pool;
mod presence;
mod steps;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use browserfleet_proto::ids::InstanceId;
use governor::DefaultDirectRateLimiter;
use tokio::sync::watch;

use crate::domain::instance::Instance;
use crate::provider::Provider;
use crate::relay::{Contact, Relay};
use crate::store::{self, Store};

pub use converge::{Converged, Lost};
pub use enrol::{Applicant, Enrolled};
pub use instances::{InstanceReport, NewInstance, phase_of};
pub use lead::Replica;
pub use pool::{MarketPolicy, Overrides, Pool, PoolCounts, PoolReport, Settings};

use authorities::Authorities;
use converge::{Memory, Rounds};
use lead::Lead;
use presence::Presence;

/// The service.
pub struct Fleet {
    store: Store,
    relay: Arc<Relay>,
    provider: Arc<dyn Provider>,
    authorities: Authorities,
    /// How many refusals of agents the audit takes.
    refusals_told: DefaultDirectRateLimiter,
    settings: Settings,
    /// What this database was named when it was made.
    deployment: String,
    lead: Lead,
    pool: watch::Sender<Pool>,
    presence: Presence,
    memory: Mutex<Memory>,
    /// Held while one is under way.
    rounds: tokio::sync::Mutex<Rounds>,
    wake: watch::Sender<u64>,
    /// Changes when an instance may have room for somebody who waits.
    rooms: watch::Sender<u64>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("deployment", &self.deployment)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// The service of this replica.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn open(
        replica: Replica,
        store: Store,
        relay: Arc<Relay>,
        provider: Arc<dyn Provider>,
        authorities: Authorities,
        settings: Settings,
    ) -> Result<Self, store::Error> {
        let row = store.pool().await?;
        let pool = Pool::new(&settings, &provider.offerings(), &row);
        Ok(Self {
            deployment: store.deployment().await?,
            lead: Lead::new(replica),
            pool: watch::Sender::new(pool),
            presence: Presence::default(),
            memory: Mutex::default(),
            rounds: tokio::sync::Mutex::new(Rounds::Go),
            wake: watch::Sender::new(0),
            rooms: watch::Sender::new(0),
            refusals_told: DefaultDirectRateLimiter::direct(enrol::REFUSALS_TOLD),
            store,
            relay,
            provider,
            authorities,
            settings,
        })
    }

    /// Says that the pool may have to change.
    pub fn wake(&self) {
        self.wake.send_modify(|count| *count += 1);
    }

    /// Changes when the pool may have to change.
    pub fn woken(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// Changes when an instance may have room for somebody who waits.
    pub fn rooms(&self) -> watch::Receiver<u64> {
        self.rooms.subscribe()
    }

    pub(super) fn room_changed(&self) {
        self.rooms.send_modify(|count| *count += 1);
    }

    /// The pool as it is wanted now.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool.borrow().clone()
    }

    /// The certificate authorities of the agents.
    #[must_use]
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// Whether instances, and the sessions on them, go on when this process ends.
    #[must_use]
    pub fn outlives_us(&self) -> bool {
        self.provider.outlives_us()
    }

    /// Whether an instance's agent has a link here.
    #[must_use]
    pub fn is_reachable(&self, instance: InstanceId) -> bool {
        self.relay.contact(instance) == Contact::Up
    }

    /// All instances that are there, or may be.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn rows(&self) -> Result<Vec<Instance>, store::Error> {
        self.store.instances().await
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
