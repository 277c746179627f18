//! How many commands a user may give in a minute. Counted by each replica for
//! itself; what a user may is read once, and again when it was changed.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use browserfleet_proto::ids::UserId;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};

use super::Sessions;
use crate::error::Error;

/// A user's limit, and what they have used of it; `None`: no limit.
type Known = Option<(u32, Arc<DefaultDirectRateLimiter>)>;

#[derive(Debug, Default)]
pub(super) struct Pace(RwLock<HashMap<UserId, Known>>);

impl Pace {
    fn known(&self, user: UserId) -> Option<Known> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&user).cloned()
    }

    fn learn(&self, user: UserId, per_minute: u32) -> Known {
        let limit = NonZeroU32::new(per_minute).map(|limit| {
            let quota = governor::Quota::per_minute(limit);
            (per_minute, Arc::new(RateLimiter::direct(quota)))
        });
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(user, limit.clone());
        limit
    }

    fn forget(&self, user: UserId) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(&user);
    }
}

impl Sessions {
    /// Lets a command pass, or says when the next one may.
    pub(super) async fn keep_pace(&self, user: UserId) -> Result<(), Error> {
        let known = match self.pace.known(user) {
            Some(known) => known,
            None => {
                let theirs = self.store.user(user).await?;
                let limits = theirs.map_or(self.limits, |it| it.quotas.or(self.limits));
                self.pace.learn(user, limits.commands_per_minute)
            }
        };
        let Some((limit, limiter)) = known else {
            return Ok(());
        };
        limiter.check().map_err(|until| Error::QuotaReached {
            name: "commands_per_minute",
            limit,
            retry_after: Some(
                until
                    .wait_time_from(DefaultClock::default().now())
                    .max(Duration::from_millis(1)),
            ),
        })
    }

    /// What a user may have was changed.
    pub fn forget_limits(&self, user: UserId) {
        self.pace.forget(user);
    }
}
