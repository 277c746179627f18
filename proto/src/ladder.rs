//! All the times that the two ends of a link must agree on, in the order that
//! makes them safe. The order is asserted when this crate is compiled.
//!
//! ```text
//!  0 s  the agent asks for a renewal (heartbeat, every 5 s)
//! 15 s  the control plane calls the agent offline
//! 30 s  the agent takes no new work      ┐ by its own clock, counted
//! 40 s  the agent kills its browsers     ┘ from when it asked
//! 60 s  the control plane may give the instance away
//! ```

use std::time::Duration;

/// How often an agent says that it lives, and renews its lease.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which the control plane calls an agent offline.
pub const OFFLINE: Duration = Duration::from_secs(15);
/// Age of the last renewal at which the agent takes no new work.
pub const STOP_WORK: Duration = Duration::from_secs(30);
/// Age of the last renewal at which the agent kills its browsers.
pub const KILL: Duration = Duration::from_secs(40);
/// Age of the last renewal at which the control plane may give the instance to
/// another user.
pub const GIVE_AWAY: Duration = Duration::from_secs(60);

/// What an agent may need to kill and reap its browsers once it began.
pub const KILL_TAKES: Duration = Duration::from_secs(5);
/// How far two clocks may drift apart over one ladder; both count durations, so
/// only the rates differ (a bad oscillator: 500 ppm; a paused virtual machine is
/// what the rest is for).
pub const CLOCK_DRIFT: Duration = Duration::from_secs(5);

/// How much later than its deadline an agent's answer to a command still counts. What
/// is left until [`SETTLE_GRACE`] is for writing the outcome down.
pub const ANSWER_GRACE: Duration = Duration::from_millis(1_500);

/// How much later than its deadline a command may get its final outcome.
pub const SETTLE_GRACE: Duration = Duration::from_secs(2);

/// Longest first wait of an agent before it dials again; later ones grow with the time
/// that it is away, up to [`RECONNECT_MAX`].
pub const RECONNECT_MIN: Duration = Duration::from_millis(500);
/// Longest wait of an agent before it dials again.
pub const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// How long a link must hold before the agent forgets all earlier failures.
pub const RECONNECT_STABLE: Duration = Duration::from_secs(60);

/// Life of an agent's certificate. It is renewed at two thirds.
pub const CERTIFICATE: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of the token with which an agent joins.
pub const JOIN_TOKEN: Duration = Duration::from_secs(10 * 60);

/// Keep-alive of HTTP/2 on both ends of a link.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Silence after a keep-alive ping at which the connection is dead.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = {
    assert!(HEARTBEAT.as_millis() * 3 <= OFFLINE.as_millis());
    assert!(OFFLINE.as_millis() < STOP_WORK.as_millis());
    assert!(STOP_WORK.as_millis() < KILL.as_millis());
    assert!(
        KILL.as_millis() + KILL_TAKES.as_millis() + CLOCK_DRIFT.as_millis() < GIVE_AWAY.as_millis()
    );
    assert!(ANSWER_GRACE.as_millis() < SETTLE_GRACE.as_millis());
    assert!(RECONNECT_MIN.as_millis() < RECONNECT_MAX.as_millis());
    assert!(KEEP_ALIVE.as_millis() + KEEP_ALIVE_TIMEOUT.as_millis() <= OFFLINE.as_millis());
};
