//! Certificates that somebody has to replace before they end.

use std::fmt;
use std::time::Duration;

use super::time::Timestamp;

/// How long before its end a certificate is warned about: a month, which is time
/// for an order, an approval and a window for the change.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const DAY_MICROSECONDS: f64 = 24.0 * 60.0 * 60.0 * 1e6;

/// Which of ours it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The API's, which users see.
    Api,
    /// The authority of the agents at this place of the list, from 1.
    Authority(usize),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("api"),
            Self::Authority(place) => write!(f, "agent_authority_{place}"),
        }
    }
}

/// One certificate, as far as its end goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Which.
    pub purpose: Purpose,
    /// When it ends, by the wall clock.
    pub ends_at: Timestamp,
}

/// What is to be said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Good,
    /// It ends within [`WARN_BEFORE`].
    EndsSoon,
    /// It has ended.
    Ended,
}

impl Certificate {
    /// Days until its end; less than none once it has ended.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a microsecond more or less of some years"
    )]
    pub fn days_left(&self, now: Timestamp) -> f64 {
        self.ends_at.0.saturating_sub(now.0) as f64 / DAY_MICROSECONDS
    }

    /// What is to be said of it.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        if self.ends_at <= now {
            Standing::Ended
        } else if self.ends_at <= now.plus(WARN_BEFORE) {
            Standing::EndsSoon
        } else {
            Standing::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_month_is_warned_about() {
        let now = Timestamp(1_000_000_000);
        let ending = |after: Duration| Certificate {
            purpose: Purpose::Api,
            ends_at: now.plus(after),
        };
        let second = Duration::from_secs(1);
        let good = ending(WARN_BEFORE + second);
        assert_eq!(good.standing(now), Standing::Good);
        assert_eq!(ending(WARN_BEFORE).standing(now), Standing::EndsSoon);
        assert_eq!(ending(second).standing(now), Standing::EndsSoon);
        assert_eq!(ending(Duration::ZERO).standing(now), Standing::Ended);
        assert!((ending(WARN_BEFORE).days_left(now) - 30.0).abs() < 1e-9);
        let ended = Certificate {
            purpose: Purpose::Authority(1),
            ends_at: Timestamp(0),
        };
        assert!(ended.days_left(now) < 0.0);
    }
}
