//! One round of mending: what is wanted, the rows, the machines and the links
//! are read, and every mismatch is one idempotent step. The way of a healthy
//! start and the way out of a crash are the same.

use std::time::Duration;

use browserfleet_proto::agent::v1::{self, to_agent::Body};
use browserfleet_proto::ids::{InstanceId, UserId};
use browserfleet_proto::ladder;

use super::{Doors, Fleet};
use crate::clock;
use crate::domain::instance::{Instance, Status};
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::provider::Launch;
use crate::relay::Contact;
use crate::store::instances::NewInstance;
use crate::telemetry::metrics;

/// How long a machine may take until its agent is there.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// What a round did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// Machines that were asked for.
    pub launched: u32,
    /// Machines that were ended.
    pub terminated: u32,
    /// Machines without a row, ended.
    pub orphans: u32,
    /// Instances that are gone, and why.
    pub lost: Vec<(InstanceId, &'static str)>,
    /// When something will be due next, without anything happening before.
    pub next: Option<Duration>,
}

impl Fleet {
    /// Writes the intent of one more instance and launches it.
    pub(super) async fn launch(&self, doors: Doors) -> Result<bool, Error> {
        if doors == Doors::Closed {
            return Ok(false);
        }
        let id = InstanceId::new();
        let wanted = self
            .store
            .want_instance(
                NewInstance {
                    id,
                    provider: self.provider.name(),
                    sessions_max: self.wanted.sessions_per_instance,
                    at: clock::now(),
                },
                self.wanted.max,
            )
            .await?;
        if !wanted {
            return Ok(false);
        }
        let token = self.join_token(id).await?;
        match self
            .provider
            .launch(Launch {
                instance: id,
                token,
            })
            .await
        {
            Ok(machine) => {
                self.store.launched(id, &machine.reference).await?;
                tracing::info!(instance.id = %id, reference = machine.reference, "instance launched");
                Ok(true)
            }
            Err(error) => {
                tracing::error!(instance.id = %id, %error, "could not launch an instance");
                let status = if error.left_behind {
                    Status::Error
                } else {
                    Status::Terminated
                };
                self.store
                    .move_instance(id, status, Some(&error.to_string()), clock::now())
                    .await?;
                Err(Error::NoCapacity {
                    reason: error.to_string(),
                    retry_after: Duration::from_secs(10),
                })
            }
        }
    }

    /// Mends every mismatch there is.
    ///
    /// # Errors
    /// Where the database or the provider fails; then nothing more is done.
    pub async fn reconcile(&self) -> Result<Reconciled, Error> {
        // The machines first: a machine that appears later has a row already.
        let machines = self
            .provider
            .list()
            .await
            .map_err(|error| Error::Internal(error.into()))?;
        let rows = self.store.instances().await?;
        metrics::instances(rows.iter().map(|row| row.status.as_str()));
        let mut done = Reconciled::default();
        for machine in &machines {
            if !rows.iter().any(|row| row.id == machine.instance) {
                tracing::warn!(instance.id = %machine.instance, "ending a machine without a row");
                self.end_machine(machine.instance).await?;
                done.orphans += 1;
            }
        }
        for row in &rows {
            let there = machines.iter().any(|machine| machine.instance == row.id);
            self.mend(row, there, &mut done).await?;
        }
        self.fill(&mut done).await?;
        Ok(done)
    }

    async fn mend(&self, row: &Instance, there: bool, done: &mut Reconciled) -> Result<(), Error> {
        let now = clock::now();
        let age = now.since(row.created_at);
        match row.status {
            Status::Stopping | Status::Error => {
                self.end_machine(row.id).await?;
                self.gone(row, "instance_terminated", done).await?;
                done.terminated += 1;
            }
            _ if !there && row.reference.is_some() => {
                self.gone(row, "instance_lost", done).await?;
            }
            Status::Provisioning if age >= BOOT_DEADLINE => {
                tracing::warn!(instance.id = %row.id, "the agent did not join in time");
                self.end_machine(row.id).await?;
                self.gone(row, "boot_timeout", done).await?;
            }
            Status::Provisioning => due(done, BOOT_DEADLINE.saturating_sub(age)),
            Status::Running => self.watch(row, now, done).await?,
            Status::Terminated => {}
        }
        Ok(())
    }

    /// A running instance: its agent silent for too long, or idle for too long.
    async fn watch(
        &self,
        row: &Instance,
        now: Timestamp,
        done: &mut Reconciled,
    ) -> Result<(), Error> {
        if let Contact::Silent(silence) = self.relay.contact(row.id) {
            if silence >= ladder::GIVE_AWAY {
                tracing::warn!(instance.id = %row.id, "the agent is silent; giving its instance up");
                self.end_machine(row.id).await?;
                self.gone(row, "agent_lost", done).await?;
            } else {
                due(done, ladder::GIVE_AWAY.saturating_sub(silence));
            }
            return Ok(());
        }
        if row.assigned_to.is_none() || row.sessions > 0 {
            return Ok(());
        }
        let idle = now.since(row.last_activity_at);
        let patience = self.patience_for(row).await?;
        if idle < patience {
            due(done, patience.saturating_sub(idle));
            return Ok(());
        }
        // What one user had is never given to another: the machine ends.
        if self.retire(row, patience).await? {
            self.end_machine(row.id).await?;
            self.gone(row, "instance_idle", done).await?;
            done.terminated += 1;
        }
        Ok(())
    }

    /// How long an instance may be idle: as the fleet has it, or sooner where its
    /// holder wants it ended sooner.
    async fn patience_for(&self, row: &Instance) -> Result<Duration, Error> {
        let Some(holder) = row.assigned_to else {
            return Ok(self.wanted.idle);
        };
        let settings = self.store.settings(holder).await?.unwrap_or_default().0;
        Ok(settings.ec2_preferences.patience(self.wanted.idle))
    }

    /// Gives back all instances of somebody who is barred; those that still have
    /// sessions follow when these are over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn release_all_of(&self, user: UserId) -> Result<(), Error> {
        for row in self.store.instances().await? {
            if row.assigned_to == Some(user) && row.status == Status::Running {
                self.retire(&row, Duration::ZERO).await?;
            }
        }
        self.wake();
        Ok(())
    }

    /// Retires the instance that its holder has not used the longest.
    pub(super) async fn retire_one_idle(&self, rows: &[Instance]) -> Result<bool, Error> {
        let idle = rows
            .iter()
            .filter(|it| it.status == Status::Running && it.sessions == 0)
            .filter(|it| it.assigned_to.is_some())
            .min_by_key(|it| it.last_activity_at);
        match idle {
            Some(row) => self.retire(row, Duration::ZERO).await,
            None => Ok(false),
        }
    }

    async fn retire(&self, row: &Instance, idle: Duration) -> Result<bool, Error> {
        let now = clock::now();
        let idle = i64::try_from(idle.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp(now.0.saturating_sub(idle));
        Ok(self.store.retire_idle_instance(row.id, before, now).await?)
    }

    async fn fill(&self, done: &mut Reconciled) -> Result<(), Error> {
        let doors = self.placing.lock().await;
        let rows = self.store.instances().await?;
        let free = rows
            .iter()
            .filter(|it| it.assigned_to.is_none())
            .filter(|it| matches!(it.status, Status::Provisioning | Status::Running))
            .count();
        let missing = (self.wanted.warm as usize).saturating_sub(free);
        for _ in 0..missing {
            if !self.launch(*doors).await? {
                break;
            }
            done.launched += 1;
        }
        Ok(())
    }

    /// Ends all machines, for the end of the process.
    ///
    /// # Errors
    /// Where the database or the provider fails.
    pub async fn end_all(&self) -> Result<(), Error> {
        *self.placing.lock().await = Doors::Closed;
        let machines = self
            .provider
            .list()
            .await
            .map_err(|error| Error::Internal(error.into()))?;
        let ends = machines.iter().map(|it| self.end_machine(it.instance));
        for ended in futures_util::future::join_all(ends).await {
            ended?;
        }
        for row in self.store.instances().await? {
            self.gone(&row, "shutdown", &mut Reconciled::default())
                .await?;
        }
        Ok(())
    }

    async fn end_machine(&self, instance: InstanceId) -> Result<(), Error> {
        // What reaches the agent before its machine's end opens nothing any more.
        let reason = "the instance is being ended".to_owned();
        let drain = Body::Drain(v1::Drain { reason });
        if let Err(error) = self.relay.say(instance, drain) {
            tracing::debug!(instance.id = %instance, %error, "could not drain an agent");
        }
        self.provider
            .terminate(instance)
            .await
            .map_err(|error| Error::Internal(error.into()))
    }

    async fn gone(
        &self,
        row: &Instance,
        reason: &'static str,
        done: &mut Reconciled,
    ) -> Result<(), Error> {
        self.relay.cut(row.id);
        let now = clock::now();
        let message = format!("ended: {reason}");
        if self
            .store
            .move_instance(row.id, Status::Terminated, Some(&message), now)
            .await?
        {
            tracing::info!(instance.id = %row.id, reason, "instance terminated");
        }
        done.lost.push((row.id, reason));
        Ok(())
    }
}

fn due(done: &mut Reconciled, wait: Duration) {
    done.next = Some(done.next.map_or(wait, |next| next.min(wait)));
}
