//! Who brings the pool to what is wanted: one replica at a time.
//!
//! The lease lasts 15 s on the database's clock and is renewed every 5 s. Here it
//! counts for 10 s from when its renewal was asked for: whoever loses the database
//! stops before anybody else may start. What reaches a provider is written first,
//! in statements that name the epoch, so that even a process that slept through
//! its end writes nothing.
//!
//! The holder's name is kept in the data folder, which one process at a time may
//! use: who is started again after a crash takes up the lead at once, under a new
//! epoch, and waits for nobody who is gone.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::{Error, Store, lead::LeadEpoch};

/// How long the lead lasts without a renewal, on the database's clock.
const LIFE: Duration = Duration::from_secs(15);
/// How long it counts here, from when the renewal was asked for.
const COUNTS: Duration = Duration::from_secs(10);
/// How often it is renewed.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(5);

const _: () =
    assert!(RENEW_EVERY.as_secs() < COUNTS.as_secs() && COUNTS.as_secs() < LIFE.as_secs());

/// The name of a control plane among others of the same database. While it lives,
/// no other process has it.
#[derive(Debug)]
pub struct Replica {
    name: String,
    _lock: Flock<File>,
}

impl Replica {
    /// The name that this data folder has had since its first start.
    ///
    /// # Errors
    /// Where another process uses the folder, or it cannot be written to.
    pub fn claim(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("replica");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("could not open {}", path.display()))?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            anyhow::anyhow!(
                "BROWSERFLEET_DATA_DIR: another control plane uses {}; give each a folder of its own",
                folder.display()
            )
        })?;
        let mut name = String::new();
        lock.read_to_string(&mut name)?;
        if name.is_empty() {
            name = format!("{:032x}", rand::random::<u128>());
            lock.rewind()?;
            lock.write_all(name.as_bytes())?;
        }
        Ok(Self { name, _lock: lock })
    }
}

/// The lead, as far as this process holds it.
#[derive(Debug)]
pub(super) struct Lead {
    replica: Replica,
    held: Mutex<Option<Held>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: LeadEpoch,
    asked_at: Instant,
}

impl Lead {
    pub(super) fn new(replica: Replica) -> Self {
        Self {
            replica,
            held: Mutex::new(None),
        }
    }

    /// The epoch, where this process leads; it is taken or renewed where that is due.
    ///
    /// # Errors
    /// Where the database fails and the lead counts no more.
    pub(super) async fn hold(&self, store: &Store) -> Result<Option<LeadEpoch>, Error> {
        let mut held = self.held.lock().await;
        if let Some(it) = held.filter(|it| it.asked_at.elapsed() < RENEW_EVERY) {
            return Ok(Some(it.epoch));
        }
        let asked_at = Instant::now();
        let known = held.map(|it| it.epoch);
        match store.take_lead(&self.replica.name, known, LIFE).await {
            Ok(Some(epoch)) => {
                if held.is_none_or(|it| it.epoch != epoch) {
                    tracing::info!(epoch = epoch.0, "this replica leads the pool");
                }
                *held = Some(Held { epoch, asked_at });
                Ok(Some(epoch))
            }
            Ok(None) => {
                if held.take().is_some() {
                    tracing::warn!("another replica leads the pool now");
                }
                Ok(None)
            }
            Err(error) => match held.filter(|it| it.asked_at.elapsed() < COUNTS) {
                Some(it) => Ok(Some(it.epoch)),
                None => {
                    *held = None;
                    Err(error)
                }
            },
        }
    }

    /// Lets another replica lead at once.
    pub(super) async fn give_back(&self, store: &Store) {
        if self.held.lock().await.take().is_none() {
            return;
        }
        if let Err(error) = store.give_lead_back(&self.replica.name).await {
            tracing::debug!(%error, "the lead was not given back; it ends by itself");
        }
    }
}
