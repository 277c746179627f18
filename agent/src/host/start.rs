//! How this life of a machine began, for whoever waits for it: what was reached, and
//! how long after the machine's own start. Nobody waits for the start of a local one.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use browserfleet_proto::agent::v1::BootPhase;
use tokio::time::Instant;

/// In what unit `/proc/<process>/stat` counts: the kernel promises programs 100 ticks a
/// second on all machines that Chrome runs on, however fast its own clock ticks.
const TICK: Duration = Duration::from_millis(10);
/// Which field after the state says when a process started.
const STARTED_FIELD: usize = 19;

/// How far the machine's start has come.
#[derive(Debug)]
pub struct Start {
    /// When the agent began, and how long the machine had run by then; `None`: that
    /// does not matter.
    began: Instant,
    uptime: Option<Duration>,
    reached: Mutex<Vec<(&'static str, Duration)>>,
}

impl Start {
    /// The agent begins now, on a machine that runs in any case.
    #[must_use]
    pub fn of_the_agent() -> Self {
        Self {
            began: Instant::now(),
            uptime: None,
            reached: Mutex::default(),
        }
    }

    /// The agent begins now, on a machine that was made for it: before it the kernel
    /// came as far as its first program.
    #[must_use]
    pub fn of_the_machine() -> Self {
        let uptime = fs::read_to_string("/proc/uptime");
        let first = fs::read_to_string("/proc/1/stat");
        let kernel = first.ok().and_then(|it| started(&it));
        let start = Self {
            began: Instant::now(),
            uptime: uptime.ok().and_then(|it| since_start(&it)),
            reached: Mutex::new(kernel.map(|it| ("kernel", it)).into_iter().collect()),
        };
        start.reach("agent");
        start
    }

    /// When the agent began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// A step is done now.
    pub fn reach(&self, name: &'static str) {
        if let Some(after) = self.after(Instant::now()) {
            let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            reached.push((name, after));
        }
    }

    fn after(&self, at: Instant) -> Option<Duration> {
        let uptime = self.uptime?;
        Some(uptime + at.saturating_duration_since(self.began))
    }

    /// All steps so far, in order; with the first browser, if there was one by then.
    #[must_use]
    pub fn phases(&self, browser: Option<Instant>) -> Vec<BootPhase> {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let mut phases = reached.clone();
        drop(reached);
        let browser = browser.and_then(|at| self.after(at));
        phases.extend(browser.map(|after| ("browser", after)));
        phases.sort_by_key(|it| it.1);
        let phase = |(name, after): (&str, Duration)| BootPhase {
            name: name.to_owned(),
            after_ms: u32::try_from(after.as_millis()).unwrap_or(u32::MAX),
        };
        phases.into_iter().map(phase).collect()
    }
}

/// `/proc/uptime`: seconds with a fraction, since the machine started.
fn since_start(text: &str) -> Option<Duration> {
    let seconds = text.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// When a process started, since the machine did.
fn started(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = fields.split(' ').nth(STARTED_FIELD)?.parse().ok()?;
    Some(TICK.saturating_mul(ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(
            since_start("12.50 3.00\n"),
            Some(Duration::from_millis(12_500))
        );
        assert_eq!(since_start("-1 0"), None);
        let stat = "1 (a) b) S 0 0 0 0 -1 4194560 36610 24330491 0 1515 70 249 72362 10738 20 0 13 0 21 45912064";
        assert_eq!(started(stat), Some(Duration::from_millis(210)));
    }

    #[tokio::test(start_paused = true)]
    async fn steps_come_in_the_order_in_which_they_were_reached() {
        let start = Start::of_the_machine();
        tokio::time::advance(Duration::from_secs(2)).await;
        let browser = Instant::now();
        tokio::time::advance(Duration::from_secs(3)).await;
        start.reach("token");
        let phases = start.phases(Some(browser));
        let names: Vec<&str> = phases.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["kernel", "agent", "browser", "token"]);
        assert_eq!(phases[2].after_ms - phases[1].after_ms, 2_000);
        assert_eq!(phases[3].after_ms - phases[1].after_ms, 5_000);
        assert_eq!(start.phases(None).len(), 3);
    }

    #[tokio::test]
    async fn a_machine_that_runs_in_any_case_says_nothing() {
        let start = Start::of_the_agent();
        start.reach("agent");
        assert_eq!(start.phases(Some(Instant::now())), []);
    }
}
