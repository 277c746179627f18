//! How long to wait before dialing again. Pure: randomness comes in.

use std::time::Duration;

use browserfleet_proto::ladder;

/// How many times longer than the last link held an agent may wait for the next: a
/// control plane that restarts often is then away for little longer than it is, and one
/// that drops its agents at once is left alone more and more.
const WAIT_FOR_HELD: u32 = 2;

/// Full jitter over a bound that doubles with each failure. A link that held for a
/// while takes failures back, and one that held for [`ladder::RECONNECT_STABLE`] all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: of a link that was welcomed and held for
    /// `held` since it was dialed, or of a dial, which held for nothing. `random` is in 0 to 1. What the
    /// server asked for is the least.
    pub fn after(&mut self, held: Duration, random: f64, asked: Option<Duration>) -> Duration {
        if held >= ladder::RECONNECT_STABLE {
            self.failures = 0;
        } else if !held.is_zero() {
            let longest = held.max(ladder::RECONNECT_MIN) * WAIT_FOR_HELD;
            while self.bound() > longest {
                self.failures -= 1;
            }
        }
        let bound = self.bound();
        if bound < ladder::RECONNECT_MAX {
            self.failures += 1;
        }
        let wait = bound.mul_f64(random.clamp(0.0, 1.0));
        // Everybody was told the same time; the jitter keeps them apart.
        asked.map_or(wait, |asked| asked + wait)
    }

    fn bound(self) -> Duration {
        ladder::RECONNECT_MIN
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(ladder::RECONNECT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bound_doubles_up_to_its_maximum() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..8)
            .map(|_| backoff.after(Duration::ZERO, 1.0, None).as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    }

    #[test]
    fn a_link_that_held_wipes_the_slate() {
        let mut backoff = Backoff { failures: 9 };
        let wait = backoff.after(ladder::RECONNECT_STABLE, 1.0, None);
        assert_eq!(wait, ladder::RECONNECT_MIN);
    }

    #[test]
    fn a_link_that_held_for_a_while_is_not_waited_for_much_longer() {
        let mut backoff = Backoff { failures: 6 };
        let held = Duration::from_secs(2);
        assert_eq!(backoff.after(held, 1.0, None), Duration::from_secs(4));
        // A dial that failed is no reason to hurry.
        let dialed = backoff.after(Duration::ZERO, 1.0, None);
        assert_eq!(dialed, Duration::from_secs(8));
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_asked_and_the_maximum(failures in 0..64u32, held in 0..100_000u64, random in 0.0..=1.0f64, asked in proptest::option::of(0..100u64)) {
            let asked = asked.map(Duration::from_secs);
            let held = Duration::from_millis(held);
            let wait = Backoff { failures }.after(held, random, asked);
            let least = asked.unwrap_or_default();
            prop_assert!(wait >= least && wait <= least + ladder::RECONNECT_MAX);
        }
    }
}
