//! Machines that booted once are stopped, cost a disk only, and are started again
//! once they are needed.

use std::time::Duration;

use super::Fleet;
use super::converge::Lost;
use crate::clock;
use crate::domain::instance::{Instance, Stage};
use crate::error::Error;
use crate::provider::Fault;
use crate::store::lead::LeadEpoch;

/// How long no stopped machine is started after there was no room for one. Its kind
/// and place are given, so that no other can be tried in its stead.
const STARTS_PAUSE: Duration = Duration::from_secs(3 * 60);

impl Fleet {
    /// Tells a machine to stop whose agent has shown that it lives.
    pub(super) async fn stop(&self, row: &Instance, lead: LeadEpoch) -> Result<bool, Error> {
        let (Some(reference), Some(parking)) = (&row.reference, row.parking) else {
            return Ok(false);
        };
        let now = clock::now();
        let stage = parking.stage;
        if !self.store.power_asked(row.id, stage, now, lead).await? {
            return Ok(false);
        }
        tracing::debug!(instance.id = %row.id, "machine is told to stop");
        self.drain_agent(row.id);
        match self.provider.stop(reference).await {
            Ok(()) => {
                tracing::info!(instance.id = %row.id, reference, "machine stops until it is needed");
            }
            Err(error) => {
                tracing::warn!(instance.id = %row.id, reference, %error, "could not stop a machine yet");
            }
        }
        Ok(true)
    }

    /// A machine was seen stopped.
    pub(super) async fn stopped(&self, row: &Instance, lead: LeadEpoch) -> Result<bool, Error> {
        self.relay.cut(row.id);
        let stopped = self.store.stopped(row.id, clock::now(), lead).await?;
        if stopped {
            tracing::info!(instance.id = %row.id, "instance stopped until it is needed");
        }
        Ok(stopped)
    }

    /// Tells a machine to start that is needed.
    pub(super) async fn start(
        &self,
        row: &Instance,
        lead: LeadEpoch,
        lost: Lost<'_>,
    ) -> Result<bool, Error> {
        let Some(reference) = &row.reference else {
            return Ok(false);
        };
        let now = clock::now();
        let stage = Stage::Starting;
        if !self.store.power_asked(row.id, stage, now, lead).await? {
            return Ok(false);
        }
        tracing::debug!(instance.id = %row.id, "machine is told to start");
        match self.provider.start(reference).await {
            Ok(()) => tracing::info!(instance.id = %row.id, reference, "machine started again"),
            Err(error) if error.fault == Fault::NoCapacity => {
                tracing::warn!(instance.id = %row.id, reference, %error, "there is no room for a stopped machine now");
                let now = clock::now();
                self.memory().starts_paused_until = Some(now.plus(STARTS_PAUSE));
                if row.assigned_to.is_some() {
                    // Who asked for it is told, as where nothing could be launched.
                    return self.begin_to_end(row, "no_capacity", lost).await;
                }
                self.store.start_refused(row.id, now, lead).await?;
            }
            // It may be stopping still, or have been done: who does not come up is replaced.
            Err(error) => {
                tracing::warn!(instance.id = %row.id, reference, %error, "could not start a machine yet");
            }
        }
        Ok(true)
    }
}
