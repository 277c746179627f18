//! The one door to time.
//!
//! [`now`] is steady: the wall clock as it was when the process started, moved
//! on by the monotonic clock. A wall clock that jumps an hour ends no session
//! and keeps none alive. [`wall`] is the wall clock itself, for tokens, which
//! other machines judge too.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::time::Timestamp;

static START: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (wall(), Instant::now()));

thread_local! {
    /// What this thread has skipped.
    static SKIPPED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The time that all rows and deadlines are counted in.
#[must_use]
pub fn now() -> Timestamp {
    let (wall_at_start, started) = *START;
    wall_at_start.plus(started.elapsed()).plus(SKIPPED.get())
}

/// Skips some time, for whatever this thread does from now on. For tests, which need
/// not wait then; nothing of the product calls it.
pub fn skip(duration: Duration) {
    SKIPPED.set(SKIPPED.get().saturating_add(duration));
}

/// The wall clock, which may jump.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this module is the door that the ban leaves open"
)]
pub fn wall() -> Timestamp {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}
