//! Being signed in: how long it lasts, and which refresh tokens go on with it.

use std::time::Duration;

use browserfleet_proto::ids::{LoginId, UserId};

use super::time::Timestamp;

/// One time of being signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its id.
    pub id: LoginId,
    /// Who.
    pub user: UserId,
    /// That of its newest refresh token.
    pub generation: i64,
    /// Whether the token before the newest was taken once more.
    pub repeated: bool,
    /// When they signed in.
    pub created_at: Timestamp,
    /// When they last refreshed.
    pub last_activity_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// From where they signed in.
    pub address: Option<String>,
    /// With what they signed in, as it says itself.
    pub user_agent: Option<String>,
    /// When it ended before its time.
    pub ended_at: Option<Timestamp>,
}

/// How long a login lasts.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// Without being refreshed.
    pub idle: Duration,
    /// At the longest.
    pub longest: Duration,
}

impl Lives {
    /// When a login that began at `created_at` ends if it is not refreshed after `now`.
    #[must_use]
    pub fn end(self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        now.plus(self.idle).min(created_at.plus(self.longest))
    }
}

/// What becomes of a refresh token that is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// It is the newest: it gives the next one.
    Rotate,
    /// What it gave was never used, so the answer may have been lost: it gives
    /// the same once more.
    Repeat,
    /// It was taken twice already; a third time helps nobody, and harms nobody.
    Refuse,
    /// What came after it was used: two have this family, and one of them stole
    /// it. It ends.
    Replay,
}

/// Judges a token of generation `presented` of a family whose newest is
/// `newest`. A newest token that was used would not be the newest any more.
#[must_use]
pub fn judge(presented: i64, newest: i64, repeated: bool) -> Presented {
    if presented == newest {
        Presented::Rotate
    } else if presented + 1 == newest {
        if repeated {
            Presented::Refuse
        } else {
            Presented::Repeat
        }
    } else {
        Presented::Replay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_login_ends_when_it_is_idle_and_at_its_longest() {
        let lives = Lives {
            idle: Duration::from_secs(10),
            longest: Duration::from_secs(25),
        };
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        assert_eq!(lives.end(at(0), at(1)), at(11));
        assert_eq!(lives.end(at(0), at(20)), at(25));
    }

    proptest! {
        /// Whatever is presented in whatever order: at any time one token at the
        /// most gives a new one, and a token whose successor was used ends all.
        #[test]
        fn a_family_has_one_living_end(order in proptest::collection::vec(0..6i64, 1..40)) {
            let (mut newest, mut repeated, mut used) = (0, false, vec![0; 64]);
            for back in order {
                let presented = (newest - back).max(0);
                match judge(presented, newest, repeated) {
                    Presented::Rotate => {
                        used[usize::try_from(presented).expect("small")] += 1;
                        newest += 1;
                        repeated = false;
                    }
                    Presented::Repeat => {
                        prop_assert_eq!(used[usize::try_from(newest).expect("small")], 0);
                        used[usize::try_from(presented).expect("small")] += 1;
                        repeated = true;
                    }
                    Presented::Refuse => prop_assert_eq!(presented + 1, newest),
                    Presented::Replay => {
                        prop_assert!(used[usize::try_from(presented + 1).expect("small")] > 0);
                    }
                }
                prop_assert!(used.iter().all(|times| *times <= 2));
            }
        }
    }
}
