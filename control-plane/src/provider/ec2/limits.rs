//! Our own pace, at half of what AWS takes from an account in a region: the other
//! half is for whoever else is in the account. A call waits for its turn, first
//! come, first served, but not for long.
//!
//! Each action has a bucket of its own, as at AWS. So terminations never wait for
//! launches.

use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::provider::{Error, Fault};

/// The longest that a call waits for its turn: as long as a replica that cannot
/// renew its lead goes on at the most.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many calls at once, and how often one more. Halves of the figures that EC2
/// documents for accounts whose limits nobody raised.
#[derive(Debug)]
pub(in crate::provider) struct Limits {
    /// 5, and 2 a second.
    pub run: Bucket,
    /// The same.
    pub start: Bucket,
    /// 100, and 5 a second.
    pub terminate: Bucket,
    /// 50, and 5 a second, for each action that changes something.
    pub stop: Bucket,
    pub reboot: Bucket,
    /// 100, and 20 a second, for each that looks, in pages and with filters.
    pub instances: Bucket,
    pub statuses: Bucket,
    pub images: Bucket,
    pub console: Bucket,
    /// 3 a second, which is SSM's figure for what writes.
    pub put: Bucket,
    pub delete: Bucket,
    pub command: Bucket,
    /// 40 a second, for what reads.
    pub parameters: Bucket,
    pub invocations: Bucket,
}

impl Default for Limits {
    fn default() -> Self {
        let launches = || Bucket::new(2, Duration::from_secs(1));
        let changes = || Bucket::new(25, Duration::from_millis(400));
        let looks = || Bucket::new(50, Duration::from_millis(100));
        let writes = || Bucket::new(1, Duration::from_millis(667));
        let reads = || Bucket::new(20, Duration::from_millis(50));
        Self {
            run: launches(),
            start: launches(),
            terminate: Bucket::new(50, Duration::from_millis(400)),
            stop: changes(),
            reboot: changes(),
            instances: looks(),
            statuses: looks(),
            images: looks(),
            console: looks(),
            put: writes(),
            delete: writes(),
            command: writes(),
            parameters: reads(),
            invocations: reads(),
        }
    }
}

/// A bucket of turns, filled by time.
#[derive(Debug)]
pub(in crate::provider) struct Bucket {
    turns: DefaultDirectRateLimiter,
    /// Held by the one that is next.
    queue: Mutex<()>,
    patience: Duration,
}

/// There was no turn in time. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("our own limit, at half of AWS's")]
pub(in crate::provider) struct NoTurn;

impl NoTurn {
    /// For the caller of the provider.
    pub fn of_call(self, doing: &'static str) -> Error {
        Error {
            doing,
            fault: Fault::Throttled,
            reason: self.to_string(),
        }
    }
}

impl Bucket {
    /// At most `burst` turns at once, and another each `period`.
    fn new(burst: u32, period: Duration) -> Self {
        let one = std::num::NonZeroU32::MIN;
        let quota = Quota::with_period(period)
            .unwrap_or(Quota::per_second(one))
            .allow_burst(one.saturating_add(burst.saturating_sub(1)));
        Self {
            turns: RateLimiter::direct(quota),
            queue: Mutex::new(()),
            patience: PATIENCE,
        }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`NoTurn`] where there is none for too long.
    pub async fn turn(&self) -> Result<(), NoTurn> {
        let waited = timeout(self.patience, async {
            let _next = self.queue.lock().await;
            while let Err(until) = self.turns.check() {
                sleep(until.wait_time_from(DefaultClock::default().now())).await;
            }
        });
        waited.await.map_err(|_| NoTurn)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_burst_passes_at_once_and_the_rest_as_time_does() {
        let bucket = Bucket::new(3, Duration::from_millis(40));
        let began = Instant::now();
        for _ in 0..3 {
            bucket.turn().await.expect("a turn of the burst");
        }
        assert!(began.elapsed() < Duration::from_millis(40));
        for _ in 0..5 {
            bucket.turn().await.expect("a turn in time");
        }
        assert!(began.elapsed() >= Duration::from_millis(180));
    }

    #[tokio::test]
    async fn a_wait_has_an_end_and_takes_no_turn() {
        let mut bucket = Bucket::new(1, Duration::from_millis(300));
        bucket.patience = Duration::from_millis(30);
        bucket.turn().await.expect("the first turn");
        for _ in 0..3 {
            assert_eq!(bucket.turn().await, Err(NoTurn));
        }
        bucket.patience = Duration::from_secs(5);
        let began = Instant::now();
        bucket.turn().await.expect("the next turn");
        assert!(began.elapsed() < Duration::from_millis(400));
    }

    #[tokio::test]
    async fn who_comes_first_is_served_first() {
        let bucket = Bucket::new(1, Duration::from_millis(10));
        let order = std::sync::Mutex::new(Vec::new());
        let callers = (0..8).map(|caller| {
            let (bucket, order) = (&bucket, &order);
            async move {
                bucket.turn().await.expect("a turn in time");
                order.lock().unwrap().push(caller);
            }
        });
        futures_util::future::join_all(callers).await;
        assert_eq!(*order.lock().unwrap(), (0..8).collect::<Vec<_>>());
    }
}
