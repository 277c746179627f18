//! Instances as users and administrators see and change them. What they want is
//! written; the leader does it.

use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, UserId};

use super::Fleet;
use super::converge::failed;
use crate::accounts::CurrentUser;
use crate::clock;
use crate::domain::health::Figures;
use crate::domain::instance::{AttemptState, Instance, RestartMode, Status};
use crate::domain::user::Role;
use crate::error::Error;
use crate::provider::Fault;
use crate::store::instances::{self, BootPhase, Unless, Wanted, before};

/// How long an instance that is over is listed.
const ENDED_LISTED: Duration = Duration::from_secs(60 * 60);
/// When to ask again where there may be no more instances.
const MAXIMUM_RETRY: Duration = Duration::from_secs(10);

/// What a user wishes of an instance of their own.
#[derive(Debug, Clone, Default)]
pub struct NewInstance {
    /// The kind of machine; `None`: as their settings say, or the pool.
    pub kind: Option<String>,
}

/// All that is known of one instance.
#[derive(Debug, Clone)]
pub struct InstanceReport {
    /// Its row.
    pub row: Instance,
    /// How long its agent was silent; `None`: its link is up here.
    pub silence: Option<Duration>,
    /// What its agent last said of its machine.
    pub figures: Option<Figures>,
    /// How its machine started.
    pub boot_phases: Vec<BootPhase>,
    /// What its start is at.
    pub phase: &'static str,
}

impl Fleet {
    /// An instance of this user's; any for an administrator.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is somebody else's.
    pub async fn owned(&self, user: &CurrentUser, id: InstanceId) -> Result<Instance, Error> {
        let row = self.store.instance(id).await?;
        row.filter(|it| user.role == Role::Admin || it.assigned_to == Some(user.id))
            .ok_or(Error::NotFound("instance"))
    }

    /// This user's instances, or all for an administrator: newest first, with those
    /// that ended of late.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn list(
        &self,
        user: &CurrentUser,
        before_id: Option<InstanceId>,
        limit: u32,
    ) -> Result<Vec<Instance>, Error> {
        let whose = (user.role != Role::Admin).then_some(user.id);
        let since = before(clock::now(), ENDED_LISTED);
        Ok(self
            .store
            .instances_of(whose, since, before_id, limit)
            .await?)
    }

    /// An instance as its row is now.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub async fn reread(&self, id: InstanceId) -> Result<Instance, Error> {
        let row = self.store.instance(id).await?;
        row.ok_or(Error::NotFound("instance"))
    }

    /// All that is known of an instance.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn report(&self, row: Instance) -> Result<InstanceReport, Error> {
        let details = self.store.instance_details(row.id).await?;
        Ok(InstanceReport {
            silence: self.silence(&row, clock::now()),
            figures: self.figures_of(row.id).or(details.figures),
            boot_phases: details.boot_phases,
            phase: phase_of(&row),
            row,
        })
    }

    /// Wants an instance for this user, who may have `instances_max`.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::QuotaReached`], [`Error::NoCapacity`]
    pub async fn want(&self, user: UserId, wish: NewInstance) -> Result<Instance, Error> {
        let pool = self.pool();
        let (instances_max, preferred) = self.limits_of(user).await?;
        if let Some(kind) = &wish.kind
            && !pool.kinds().contains(&kind.as_str())
        {
            return Err(Error::invalid(
                "instance_type",
                format!("has to be one of: {}", pool.kinds().join(", ")),
            ));
        }
        let preferred = preferred.filter(|it| pool.kinds().contains(&it.as_str()));
        let named = wish.kind.as_deref();
        let instance = instances::NewInstance {
            id: InstanceId::new(),
            provider: self.provider.name(),
            region: self.provider.region().to_owned(),
            sessions_max: pool.sessions_per_instance,
            generation: pool.generation,
            kind: wish.kind.clone().or(preferred),
            holder: Some((user, instances_max)),
            parks: false,
            at: clock::now(),
        };
        match self.store.want_instance(&instance, pool.max, None).await? {
            Wanted::Written => {}
            Wanted::Quota => {
                return Err(Error::QuotaReached {
                    name: "instances",
                    limit: instances_max,
                    retry_after: None,
                });
            }
            Wanted::Maximum | Wanted::NoLead => {
                // One that is stopped counts against the maximum, and is nobody's.
                let now = clock::now();
                let stopped = self.store.lease_stopped(user, instances_max, named, now);
                if let Some(id) = stopped.await? {
                    tracing::info!(instance.id = %id, user.id = %user, "stopped instance wanted by a user");
                    self.wake();
                    return self.reread(id).await;
                }
                return Err(Error::NoCapacity {
                    reason: format!("there are {} instances, and may be no more", pool.max),
                    retry_after: MAXIMUM_RETRY,
                });
            }
        }
        tracing::info!(instance.id = %instance.id, user.id = %user, "instance wanted by a user");
        self.wake();
        self.reread(instance.id).await
    }

    /// Ends an instance, with what is on it. Ending one that ends changes nothing.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end(&self, id: InstanceId) -> Result<(), Error> {
        let now = clock::now();
        let ended = self
            .store
            .end_instance(id, "deleted", Unless::Nothing, now)
            .await?;
        if ended {
            tracing::info!(instance.id = %id, reason = "deleted", "instance stopping");
            // Its agent has nothing more to say that anybody wants to hear.
            self.drain_agent(id);
            self.relay.cut(id);
        }
        self.wake();
        Ok(())
    }

    /// Takes no new sessions on an instance, and ends it with its last one.
    ///
    /// # Errors
    /// [`Error::InstanceNotRunning`]
    pub async fn drain(&self, row: &Instance) -> Result<(), Error> {
        let is_there = matches!(row.status, Status::Provisioning | Status::Running);
        if is_there && row.draining.is_some() {
            return Ok(());
        }
        let drains = self
            .store
            .drain_instance(row.id, "drained", None, clock::now())
            .await?;
        if !drains {
            return Err(Error::InstanceNotRunning {
                status: row.status.as_str(),
            });
        }
        tracing::info!(instance.id = %row.id, "instance drains");
        self.wake();
        Ok(())
    }

    /// Starts an instance's agent, or its whole machine, anew.
    ///
    /// # Errors
    /// [`Error::InstanceNotRunning`]
    pub async fn ask_restart(&self, row: &Instance, mode: RestartMode) -> Result<(), Error> {
        if !self.store.ask_restart(row.id, mode, clock::now()).await? {
            return Err(Error::InstanceNotRunning {
                status: match row.status {
                    Status::Running if row.restart.is_some() => "restarting",
                    Status::Running => "draining",
                    other => other.as_str(),
                },
            });
        }
        self.wake();
        Ok(())
    }

    /// The last words of an instance's agent.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there are none, [`Error::ProviderFailed`]
    pub async fn journal(&self, row: &Instance) -> Result<String, Error> {
        let reference = row.reference.as_ref().ok_or(Error::NotFound("journal"))?;
        match self.provider.journal(reference).await {
            Ok(words) => Ok(words),
            Err(error) if error.fault == Fault::NotFound => Err(Error::NotFound("journal")),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives back all instances of somebody who is barred; those that still have
    /// sessions follow when these are over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn release_all_of(&self, user: UserId) -> Result<(), Error> {
        let now = clock::now();
        for row in self.store.instances().await? {
            if row.assigned_to == Some(user) {
                self.store
                    .drain_instance(row.id, "holder_barred", None, now)
                    .await?;
            }
        }
        self.wake();
        Ok(())
    }

    /// Takes back the instance that its holder has left idle the longest, for somebody
    /// who waits. `false`: none is idle.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn reclaim_one(&self, rows: &[Instance]) -> Result<bool, Error> {
        let idle = rows
            .iter()
            .filter(|it| it.takes_work() && it.sessions == 0 && !it.asked_for)
            .filter(|it| it.assigned_to.is_some())
            .min_by_key(|it| it.last_activity_at);
        match idle {
            Some(row) => self.reclaim(row).await,
            None => Ok(false),
        }
    }

    /// Takes an idle instance back from its holder, for somebody who waits. `false`: it
    /// was used meanwhile.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn reclaim(&self, row: &Instance) -> Result<bool, Error> {
        let reclaimed = self.take_back(row, "reclaimed").await?;
        if reclaimed {
            self.wake();
        }
        Ok(reclaimed)
    }

    /// How long a start usually takes, where that was seen.
    #[must_use]
    pub fn usual_boot(&self) -> Option<Duration> {
        self.memory().boot
    }

    /// Why fewer instances are launched than are wanted.
    #[must_use]
    pub fn held_back(&self) -> Option<&'static str> {
        self.memory().held_back
    }
}

/// What an instance's start is at, in a word.
#[must_use]
pub fn phase_of(row: &Instance) -> &'static str {
    match row.status {
        Status::Provisioning if row.is_parked() && !row.is_booting() => "stopped",
        Status::Provisioning => match row.attempt.state {
            AttemptState::Wanted | AttemptState::Refused => "wanted",
            AttemptState::Unsent | AttemptState::Sent => "requested",
            AttemptState::Accepted if row.enrolled_at.is_some() => "joined",
            AttemptState::Accepted if row.token_at.is_some() => "booting",
            AttemptState::Accepted => "launched",
        },
        Status::Running if row.restart.is_some() => "restarting",
        Status::Running if row.recycling_since.is_some() => "recycling",
        Status::Running if row.draining.is_some() => "draining",
        Status::Running => "ready",
        Status::Stopping => "stopping",
        Status::Terminated => "terminated",
        Status::Error => "failed",
    }
}
