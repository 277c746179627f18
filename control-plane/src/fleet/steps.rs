//! What a step of [`reconcile`](crate::domain::reconcile) does: a write that names
//! where the row is, then a call, then a write of what came of it.

use browserfleet_proto::agent::v1::{self, to_agent::Body};
use browserfleet_proto::ids::InstanceId;

use super::Fleet;
use super::converge::Lost;
use crate::clock;
use crate::domain::instance::{Instance, RestartMode};
use crate::domain::pool::Reuse;
use crate::domain::reconcile::Step;
use crate::error::Error;
use crate::provider::Fault;
use crate::store::instances::Unless;
use crate::store::lead::LeadEpoch;

impl Fleet {
    /// Takes one step, if this replica still leads as it did when it looked: who was
    /// suspended in between knows nothing of what is now. Gives whether the row has
    /// moved, so that the next step may follow at once.
    pub(super) async fn take_step(
        &self,
        row: &Instance,
        step: Step,
        lead: LeadEpoch,
        lost: Lost<'_>,
    ) -> Result<bool, Error> {
        if self.lead.hold(&self.store).await? != Some(lead) {
            return Ok(false);
        }
        let now = clock::now();
        match step {
            Step::Request => self.request(row, lost).await,
            Step::Send => self.send(row, row.attempt.number).await,
            Step::Adopt(machine) => self.adopt(row, row.attempt.number, &machine).await,
            Step::Note(machine) => {
                self.store.note_machine(row.id, &machine).await?;
                Ok(true)
            }
            Step::Missing(missing) => {
                if missing {
                    tracing::warn!(instance.id = %row.id, reference = row.reference, "the provider does not show an instance's machine");
                }
                self.store
                    .note_missing(row.id, missing.then_some(now))
                    .await?;
                Ok(true)
            }
            Step::HandToken => self.hand_token(row).await,
            Step::Restart(mode) => self.restart(row, mode, lost).await,
            Step::Stop => self.stop(row, lead).await,
            Step::Stopped => self.stopped(row, lead).await,
            Step::Start => self.start(row, lead, lost).await,
            Step::Release => self.take_back(row, "idle").await,
            Step::End(reason) => self.begin_to_end(row, reason, lost).await,
            Step::Terminate => self.terminate(row).await,
            Step::Gone(reason) => {
                self.relay.cut(row.id);
                lost(row.id, row.error_code.clone().unwrap_or(reason.to_owned()));
                let gone = self.store.instance_gone(row.id, reason, now).await?;
                if gone {
                    let reason = row.error_code.as_deref().unwrap_or(reason);
                    tracing::info!(instance.id = %row.id, reason, "instance terminated");
                }
                Ok(gone)
            }
        }
    }

    pub(super) async fn begin_to_end(
        &self,
        row: &Instance,
        reason: &'static str,
        lost: Lost<'_>,
    ) -> Result<bool, Error> {
        let now = clock::now();
        let unless = match reason {
            // The look and this may have a new session between them.
            "drained" if row.drain_until.is_none_or(|until| until > now) => Unless::UsedSince(now),
            _ => Unless::Moved(row.status, row.epoch),
        };
        if !self.store.end_instance(row.id, reason, unless, now).await? {
            return Ok(false);
        }
        let why = row.draining.as_ref().map_or(reason, |it| &it.reason);
        tracing::info!(instance.id = %row.id, reason = why, "instance stopping");
        if matches!(
            reason,
            "boot_timeout" | "terminated_at_start" | "restart_failed"
        ) {
            self.explain(row).await;
        }
        self.drain_agent(row.id);
        lost(row.id, why.to_owned());
        Ok(true)
    }

    /// Writes down the last words of a machine that did not come up.
    async fn explain(&self, row: &Instance) {
        let Some(reference) = &row.reference else {
            return;
        };
        let words = match self.provider.journal(reference).await {
            Ok(words) => words,
            Err(error) => {
                tracing::debug!(instance.id = %row.id, %error, "no last words");
                return;
            }
        };
        if let Err(error) = self.store.explain_end(row.id, &words).await {
            tracing::debug!(instance.id = %row.id, %error, "could not write the last words down");
        }
    }

    async fn terminate(&self, row: &Instance) -> Result<bool, Error> {
        let Some(reference) = &row.reference else {
            return Ok(false);
        };
        let now = clock::now();
        self.drain_agent(row.id);
        // Written first: what is asked for again and again is asked for once a minute.
        self.store.end_asked(row.id, now).await?;
        if let Err(error) = self.provider.take_token(reference).await {
            tracing::debug!(instance.id = %row.id, %error, "could not take the token away; it runs out by itself");
        }
        match self.provider.terminate(reference).await {
            Ok(()) if Self::is_overdue(row, now) => {
                tracing::error!(instance.id = %row.id, reference, "a machine was told to end and does not");
            }
            Ok(()) => {}
            Err(error) if error.fault == Fault::Refused => {
                tracing::error!(instance.id = %row.id, reference, %error, "a machine may not be ended");
                self.store.explain_end(row.id, &error.to_string()).await?;
            }
            Err(error) => {
                tracing::warn!(instance.id = %row.id, reference, %error, "could not end a machine yet");
            }
        }
        Ok(true)
    }

    /// What reaches an agent before its machine's end opens nothing any more.
    pub(super) fn drain_agent(&self, instance: InstanceId) {
        let reason = "the instance is being ended".to_owned();
        self.tell(instance, Body::Drain(v1::Drain { reason }));
    }

    /// Says something to an agent, if it has a link here.
    pub(super) fn tell(&self, instance: InstanceId, body: Body) -> bool {
        match self.relay.say(instance, body) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(instance.id = %instance, %error, "could not tell an agent");
                false
            }
        }
    }

    async fn restart(
        &self,
        row: &Instance,
        mode: RestartMode,
        lost: Lost<'_>,
    ) -> Result<bool, Error> {
        let Some(reference) = &row.reference else {
            return Ok(false);
        };
        lost(row.id, "instance_restarted".into());
        let restart = Body::Restart(v1::Restart {
            reason: "an administrator or the holder asked for it".into(),
        });
        let told = match mode {
            // A machine that is the agent's process is gone with it: there it is the
            // provider who starts another.
            RestartMode::Agent if self.provider.outlives_us() && self.tell(row.id, restart) => {
                Ok(())
            }
            // Past an agent that does not hear.
            RestartMode::Agent => self.provider.restart_agent(reference).await,
            RestartMode::Reboot => self.provider.reboot(reference).await,
        };
        match told {
            Ok(()) => tracing::info!(instance.id = %row.id, mode = mode.as_str(), "restarting"),
            // It may have been done; who does not come up is replaced.
            Err(error) => {
                tracing::warn!(instance.id = %row.id, %error, "could not restart");
                if error.fault == Fault::Throttled {
                    return Ok(false);
                }
            }
        }
        self.store.restart_told(row.id, clock::now()).await?;
        Ok(true)
    }

    /// Takes an idle instance from its holder, unless it was used since the row was
    /// read: it is made clean for the next, or ends.
    pub(super) async fn take_back(
        &self,
        row: &Instance,
        reason: &'static str,
    ) -> Result<bool, Error> {
        let now = clock::now();
        let reusable = self.pool().reuse == Reuse::ProvenClean
            && self.is_reachable(row.id)
            && row.takes_work();
        let unused_since = row.last_activity_at;
        if reusable {
            let begun = self
                .store
                .begin_recycling(row.id, unused_since, now)
                .await?;
            if begun {
                let epoch = row.epoch.unsigned_abs();
                self.tell(row.id, Body::Recycle(v1::Recycle { epoch }));
                tracing::info!(instance.id = %row.id, reason, "instance is made clean");
            }
            return Ok(begun);
        }
        let ended = self
            .store
            .end_instance(row.id, reason, Unless::UsedSince(unused_since), now)
            .await?;
        if ended {
            tracing::info!(instance.id = %row.id, reason, "instance stopping");
        }
        Ok(ended)
    }

    /// Whether an instance is being made clean of this lease: an agent may say late what
    /// was true of an earlier one.
    async fn is_being_cleaned(&self, instance: InstanceId, epoch: i64) -> Result<bool, Error> {
        let row = self.store.instance(instance).await?;
        Ok(row.is_some_and(|it| it.epoch == epoch && it.recycling_since.is_some()))
    }

    /// An agent has made itself clean, or could not.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn recycled(
        &self,
        instance: InstanceId,
        epoch: i64,
        residue: &[String],
    ) -> Result<(), Error> {
        let now = clock::now();
        if residue.is_empty() {
            if self.store.recycled(instance, epoch, now).await? {
                tracing::info!(instance.id = %instance, "instance is clean and nobody's");
            }
        } else if self.is_being_cleaned(instance, epoch).await? {
            tracing::warn!(instance.id = %instance, ?residue, "something of the last holder is left; the instance ends");
            self.store
                .end_instance(instance, "residue", Unless::UsedSince(now), now)
                .await?;
        }
        self.wake();
        self.room_changed();
        Ok(())
    }
}
