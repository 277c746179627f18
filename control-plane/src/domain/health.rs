//! What makes an instance unhealthy: it takes no new sessions, and is replaced
//! where that lasts.

use std::time::Duration;

use browserfleet_proto::ladder;
use serde::{Deserialize, Serialize};

/// Disk below which an agent cannot keep another profile: Chrome's own grow by
/// some hundred MiB.
const DISK_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// Memory below which the next page may end a browser.
const MEMORY_BYTES_MIN: u64 = 96 * 1024 * 1024;
/// Load for each processor, times 100, at which commands no longer meet their
/// deadlines.
const LOAD_PERCENT_MAX: u32 = 2_500;
/// Browsers that an agent may have beyond its sessions: spares, and those that are
/// just being reaped.
const BROWSERS_MORE_MAX: u32 = 16;

/// What an agent says of its machine with each heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Sessions that it holds.
    pub sessions: u32,
    /// Browsers that it runs.
    pub browsers: u32,
    /// Load average of a minute, times 100.
    pub load_percent: u32,
    /// What the load is spread over; 0: not said.
    pub processors: u32,
    /// Bytes.
    pub memory_available: u64,
    /// Bytes.
    pub disk_available: u64,
}

/// What is known of an instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs<'a> {
    /// How long its agent has been silent; `None`: its link is up.
    pub silence: Option<Duration>,
    /// What it last said.
    pub figures: Option<Figures>,
    /// What its provider says is wrong.
    pub trouble: Option<&'a str>,
}

/// What is wrong, if anything is.
#[must_use]
pub fn judge<'a>(signs: &Signs<'a>) -> Option<&'a str> {
    if let Some(trouble) = signs.trouble {
        return Some(trouble);
    }
    if signs.silence.is_some_and(|it| it >= ladder::OFFLINE) {
        return Some("agent_silent");
    }
    let figures = signs.figures?;
    let load_max = LOAD_PERCENT_MAX.saturating_mul(figures.processors.max(1));
    // 0 is what cannot be read.
    let short = |available: u64, least: u64| (1..least).contains(&available);
    if short(figures.disk_available, DISK_BYTES_MIN) {
        Some("disk_full")
    } else if short(figures.memory_available, MEMORY_BYTES_MIN) {
        Some("out_of_memory")
    } else if figures.load_percent > load_max {
        Some("overloaded")
    } else if figures.browsers > figures.sessions.saturating_add(BROWSERS_MORE_MAX) {
        Some("browsers_left_over")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Figures = Figures {
        sessions: 2,
        browsers: 3,
        load_percent: 180,
        processors: 2,
        memory_available: 4 << 30,
        disk_available: 9 << 30,
    };

    fn judged(change: impl FnOnce(&mut Signs<'static>)) -> Option<String> {
        let mut signs = Signs {
            figures: Some(FINE),
            ..Signs::default()
        };
        change(&mut signs);
        judge(&signs).map(str::to_owned)
    }

    #[test]
    fn each_sign_has_its_reason() {
        assert_eq!(judged(|_| {}), None);
        assert_eq!(judged(|it| it.figures = None), None);
        let reason = judged(|it| it.trouble = Some("status_check_failed"));
        assert_eq!(reason.as_deref(), Some("status_check_failed"));
        let reason = judged(|it| it.silence = Some(ladder::OFFLINE));
        assert_eq!(reason.as_deref(), Some("agent_silent"));
        let with = |figures| judged(|it| it.figures = Some(figures));
        let disk_available = 1 << 20;
        let figures = Figures {
            disk_available,
            ..FINE
        };
        assert_eq!(with(figures).as_deref(), Some("disk_full"));
        let memory_available = 1 << 20;
        let figures = Figures {
            memory_available,
            ..FINE
        };
        assert_eq!(with(figures).as_deref(), Some("out_of_memory"));
        let load_percent = 5_001;
        let figures = Figures {
            load_percent,
            ..FINE
        };
        assert_eq!(with(figures).as_deref(), Some("overloaded"));
        let figures = Figures {
            browsers: 40,
            ..FINE
        };
        assert_eq!(with(figures).as_deref(), Some("browsers_left_over"));
    }

    #[test]
    fn what_cannot_be_read_is_no_sign() {
        assert_eq!(judged(|it| it.figures = Some(Figures::default())), None);
        let short = Some(Duration::from_secs(3));
        assert_eq!(judged(|it| it.silence = short), None);
    }
}
