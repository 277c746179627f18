//! The dead man's switch: a machine whose control plane is gone for good must not go
//! on, since nobody knows it any more. It counts from the agent's start, also before
//! there ever was a link.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What part of the patience may be added to it: machines of a whole fleet that lost
/// its control plane do not all go in the same minute, and one that comes back finds
/// some.
const JITTER_PART: u32 = 3;

/// How long this machine waits. `random` is in 0 to 1.
#[must_use]
pub fn patience(configured: Duration, random: f64) -> Duration {
    configured + (configured / JITTER_PART).mul_f64(random.clamp(0.0, 1.0))
}

/// Resolves when the control plane was silent for this long.
pub async fn unheard(mut heard: watch::Receiver<Instant>, patience: Duration) {
    loop {
        let latest = *heard.borrow_and_update() + patience;
        tokio::select! {
            changed = heard.changed() => if changed.is_err() { return },
            () = sleep_until(latest) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::advance;

    proptest! {
        #[test]
        fn nobody_goes_early_and_nobody_stays_for_long(configured in 1..90_000_000u64, random in 0.0..=1.0f64) {
            let configured = Duration::from_millis(configured);
            let patience = patience(configured, random);
            prop_assert!(patience >= configured && patience <= configured + configured / JITTER_PART);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_word() {
        let patience = Duration::from_secs(100);
        let started = Instant::now();
        let (say, heard) = watch::channel(started);
        let ended = crate::tasks::spawn("unheard", unheard(heard, patience));
        advance(Duration::from_secs(99)).await;
        say.send_replace(Instant::now());
        ended.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 199);
    }
}
