//! Who brings the pool to what is wanted: one replica at a time.
//!
//! The lease lasts 15 s on the database's clock and is renewed every 5 s. Here it
//! counts for 10 s from when its renewal was asked for: whoever loses the database
//! stops before anybody else may start. What reaches a provider is written first,
//! in statements that name the epoch, so that even a process that slept through
//! its end writes nothing.

use std::time::Duration;

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

/// The lead, as far as this process holds it.
#[derive(Debug)]
pub(super) struct Lead {
    /// Names this process among others.
    holder: String,
    held: Mutex<Option<Held>>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: LeadEpoch,
    asked_at: Instant,
}

impl Lead {
    pub(super) fn new() -> Self {
        Self {
            holder: format!("{:032x}", rand::random::<u128>()),
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
        match store.take_lead(&self.holder, LIFE).await {
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
        if let Err(error) = store.give_lead_back(&self.holder).await {
            tracing::debug!(%error, "the lead was not given back; it ends by itself");
        }
    }
}
