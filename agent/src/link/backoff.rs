//! How long to wait before dialing again. Pure: randomness comes in.
//!
//! Whoever has been away for a while waits as long again, or half of it. So all who lost
//! the same control plane come back within the time that it was away, spread over it:
//! waits between nothing and twice the last one would bring most of them back in the
//! first moments, and some long after all others.

use std::time::Duration;

use browserfleet_proto::ladder;

/// How many times longer than the last link held an agent may wait for the next: a
/// control plane that restarts often is then away for little longer than it is, and one
/// that drops its agents at once is left alone more and more.
const WAIT_FOR_HELD: u32 = 2;
/// What part of a wait is certain, once there was one.
const CERTAIN: f64 = 0.5;

/// Waits that grow with the time for which there was no link. One that held for a while
/// takes most of it back, and one that held for [`ladder::RECONNECT_STABLE`] all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// What was waited since a link last held.
    away: Duration,
}

impl Backoff {
    /// The wait after one more failure: of a link that was welcomed and held for
    /// `held` since it was dialed, or of a dial, which held for nothing. `random` is in 0 to 1. What the
    /// server asked for is the least.
    pub fn after(&mut self, held: Duration, random: f64, asked: Option<Duration>) -> Duration {
        if held >= ladder::RECONNECT_STABLE {
            self.away = Duration::ZERO;
        } else if !held.is_zero() {
            let longest = held.max(ladder::RECONNECT_MIN) * WAIT_FOR_HELD;
            self.away = self.away.min(longest);
        }
        // All lose a control plane at the same moment: the first waits are spread over
        // all of the shortest one.
        let certain = if self.away.is_zero() { 0.0 } else { CERTAIN };
        let longest = self
            .away
            .clamp(ladder::RECONNECT_MIN, ladder::RECONNECT_MAX);
        let wait = longest.mul_f64(certain + (1.0 - certain) * random.clamp(0.0, 1.0));
        self.away = (self.away + wait).min(ladder::RECONNECT_MAX);
        // Everybody was told the same time; the jitter keeps them apart.
        asked.map_or(wait, |asked| asked + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::TestRng;

    fn away_for(seconds: u64) -> Backoff {
        Backoff {
            away: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn waits_double_up_to_their_maximum() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9)
            .map(|_| backoff.after(Duration::ZERO, 1.0, None).as_millis())
            .collect();
        assert_eq!(
            waits,
            [500, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
    }

    #[test]
    fn the_first_wait_may_be_none_and_each_later_one_is_some() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(Duration::ZERO, 0.0, None), Duration::ZERO);
        let mut backoff = away_for(8);
        let wait = backoff.after(Duration::ZERO, 0.0, None);
        assert_eq!(wait, Duration::from_secs(4));
    }

    #[test]
    fn a_link_that_held_wipes_the_slate() {
        let wait = away_for(9).after(ladder::RECONNECT_STABLE, 1.0, None);
        assert_eq!(wait, ladder::RECONNECT_MIN);
    }

    #[test]
    fn a_link_that_held_for_a_while_is_not_waited_for_much_longer() {
        let mut backoff = away_for(20);
        let held = Duration::from_secs(2);
        assert_eq!(backoff.after(held, 1.0, None), Duration::from_secs(4));
        // A dial that failed is no reason to hurry.
        let dialed = backoff.after(Duration::ZERO, 1.0, None);
        assert_eq!(dialed, Duration::from_secs(8));
    }

    /// How much busier than the mean the busiest second may be in which agents come back.
    const PEAK_MAX: f64 = 3.0;
    const AGENTS: usize = 500;

    /// When agents come back to a control plane that was away for so long, in seconds
    /// since it is there again.
    fn arrivals(away: f64, random: &mut TestRng) -> Vec<f64> {
        let one = |_| {
            let (mut backoff, mut now) = (Backoff::default(), 0.0);
            while now < away {
                now += backoff
                    .after(Duration::ZERO, random.random(), None)
                    .as_secs_f64();
            }
            now - away
        };
        (0..AGENTS).map(one).collect()
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_asked_and_the_maximum(away in 0..100u64, held in 0..100_000u64, random in 0.0..=1.0f64, asked in proptest::option::of(0..100u64)) {
            let asked = asked.map(Duration::from_secs);
            let held = Duration::from_millis(held);
            let wait = away_for(away).after(held, random, asked);
            let least = asked.unwrap_or_default();
            prop_assert!(wait >= least && wait <= least + ladder::RECONNECT_MAX);
        }

        #[test]
        fn all_come_back_spread_over_the_time_that_they_were_away(away in 0.1..100.0f64, mut random in any::<u64>().prop_perturb(|_, random| random)) {
            let arrivals = arrivals(away, &mut random);
            let first = arrivals.iter().copied().fold(f64::MAX, f64::min);
            let last = arrivals.iter().copied().fold(0.0, f64::max);
            prop_assert!(last <= away.clamp(0.5, 30.0), "the last after {last} s");
            let mut seconds = vec![0_u32; (last - first) as usize + 1];
            for at in &arrivals {
                seconds[(at - first) as usize] += 1;
            }
            let mean = AGENTS as f64 / (last - first).max(1.0);
            let peak = f64::from(seconds.into_iter().max().unwrap_or(0)) / mean;
            prop_assert!(peak <= PEAK_MAX, "{peak:.2} times the mean");
        }
    }
}
