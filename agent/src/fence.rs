//! How long the agent may go on without hearing from the control plane. Pure:
//! from the age of the last renewal to what is still allowed.
//!
//! The age is counted from when the renewal was asked for, which is before the
//! control plane granted it. So the agent always stops first, by its own clock.

use std::time::Duration;

use browserfleet_proto::ladder;

/// What the agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Everything.
    Working,
    /// Finish what runs; take nothing new.
    NoNewWork,
    /// Nothing: its browsers have to be killed.
    Kill,
}

/// What the agent may do when its last renewal is this old.
#[must_use]
pub fn standing(age: Duration) -> Standing {
    if age >= ladder::KILL {
        Standing::Kill
    } else if age >= ladder::STOP_WORK {
        Standing::NoNewWork
    } else {
        Standing::Working
    }
}

/// How long until less is allowed; `None`: nothing is, already.
#[must_use]
pub fn changes_in(age: Duration) -> Option<Duration> {
    [ladder::STOP_WORK, ladder::KILL]
        .into_iter()
        .find(|step| *step > age)
        .map(|step| step.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn standing_only_gets_worse_with_age(a in 0..120_000u64, b in 0..120_000u64) {
            let (younger, older) = (a.min(b), a.max(b));
            prop_assert!(standing(Duration::from_millis(younger)) <= standing(Duration::from_millis(older)));
        }

        #[test]
        fn browsers_are_dead_before_the_instance_is_given_away(age in 0..120_000u64, takes in 0..=5_000u64) {
            let age = Duration::from_millis(age);
            if age >= ladder::GIVE_AWAY.saturating_sub(ladder::CLOCK_DRIFT) {
                prop_assert_eq!(standing(age.saturating_sub(Duration::from_millis(takes))), Standing::Kill);
            }
        }

        #[test]
        fn the_next_change_is_a_change(age in 0..120_000u64) {
            let age = Duration::from_millis(age);
            match changes_in(age) {
                Some(wait) => prop_assert!(standing(age + wait) > standing(age)),
                None => prop_assert_eq!(standing(age), Standing::Kill),
            }
        }
    }
}
