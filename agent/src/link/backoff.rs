//! How long to wait before dialing again. Pure: randomness comes in.

use std::time::Duration;

use browserfleet_proto::ladder;

/// Full jitter over a bound that doubles with each failure. A link that held for
/// [`ladder::RECONNECT_STABLE`] wipes the slate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure of a link that held for `held`. `random`
    /// is in 0 to 1. What the server asked for is the least.
    pub fn after(&mut self, held: Duration, random: f64, asked: Option<Duration>) -> Duration {
        if held >= ladder::RECONNECT_STABLE {
            self.failures = 0;
        }
        let bound = ladder::RECONNECT_MIN
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(ladder::RECONNECT_MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = bound.mul_f64(random.clamp(0.0, 1.0));
        // Everybody was told the same time; the jitter keeps them apart.
        asked.map_or(wait, |asked| asked + wait)
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

    proptest! {
        #[test]
        fn no_wait_is_longer_than_asked_and_the_maximum(failures in 0..u32::MAX, random in 0.0..=1.0f64, asked in proptest::option::of(0..100u64)) {
            let asked = asked.map(Duration::from_secs);
            let wait = Backoff { failures }.after(Duration::ZERO, random, asked);
            let least = asked.unwrap_or_default();
            prop_assert!(wait >= least && wait <= least + ladder::RECONNECT_MAX);
        }
    }
}
