//! Getting an instance for a user: their own, a free one, or a new one.

use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, UserId};
use tokio::time::{Instant, timeout_at};

use super::Fleet;
use crate::clock;
use crate::domain::placement::{self, Place};
use crate::error::Error;
use crate::relay::Contact;

/// How long a caller waits for an instance.
const ACQUIRE_DEADLINE: Duration = Duration::from_secs(30);
/// When to ask again where all instances are taken.
const FULL_RETRY: Duration = Duration::from_secs(10);

/// Who holds an instance, under which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Which.
    pub instance: InstanceId,
    /// Only grows.
    pub epoch: i64,
}

impl Fleet {
    /// Leases an instance with room for one more session to this user, who may
    /// have `instances_max`.
    ///
    /// # Errors
    /// [`Error::QuotaReached`]; [`Error::NoCapacity`] where all are taken, or none
    /// was ready in time.
    pub async fn acquire(&self, user: UserId, instances_max: u32) -> Result<Lease, Error> {
        let latest = Instant::now() + ACQUIRE_DEADLINE;
        let mut links = self.relay.changes();
        let mut pool = self.woken();
        loop {
            links.mark_unchanged();
            pool.mark_unchanged();
            if let Some(lease) = self.try_acquire(user, instances_max).await? {
                return Ok(lease);
            }
            let news = async {
                tokio::select! {
                    changed = links.changed() => changed,
                    changed = pool.changed() => changed,
                }
            };
            if !matches!(timeout_at(latest, news).await, Ok(Ok(()))) {
                return Err(Error::NoCapacity {
                    reason: "no instance was ready in time".into(),
                    retry_after: Duration::from_secs(5),
                });
            }
        }
    }

    async fn try_acquire(&self, user: UserId, instances_max: u32) -> Result<Option<Lease>, Error> {
        let doors = self.placing.lock().await;
        let instances = self.store.instances().await?;
        let reachable = |id| self.relay.contact(id) == Contact::Up;
        match placement::choose(&instances, reachable, user, instances_max, self.wanted.max) {
            Place::Own(instance) => {
                Ok(instances
                    .iter()
                    .find(|it| it.id == instance)
                    .map(|it| Lease {
                        instance,
                        epoch: it.epoch,
                    }))
            }
            Place::Free(instance) => {
                let epoch = self
                    .store
                    .lease_instance(instance, user, clock::now())
                    .await?;
                // One of the warm ones is gone.
                self.wake();
                Ok(epoch.map(|epoch| Lease { instance, epoch }))
            }
            Place::Launch => {
                self.launch(*doors).await?;
                Ok(None)
            }
            Place::Wait => Ok(None),
            Place::Enough => Err(Error::QuotaReached {
                name: "instances",
                limit: instances_max,
                retry_after: None,
            }),
            Place::Full => {
                // An idle instance of another user may be given back for this one.
                if self.retire_one_idle(&instances).await? {
                    self.wake();
                    return Ok(None);
                }
                Err(Error::NoCapacity {
                    reason: format!("all {} instances are in use", self.wanted.max),
                    retry_after: FULL_RETRY,
                })
            }
        }
    }
}
