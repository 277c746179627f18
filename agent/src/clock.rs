//! The one door to the wall clock. Everything that is waited for is counted by the
//! monotonic clock; the wall clock is asked only where another machine wrote a time
//! of day down: in a certificate, in a notice.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time of day, since 1970. It may be wrong, and it may jump.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this module is the door that the ban leaves open"
)]
pub fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
