//! What leaves its browser's process group: full Chromium's crash handlers do. They
//! end by themselves with their browser, become the agent's children, and stay as
//! entries in the kernel's table until somebody asks how they ended.

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::census;

/// Asks, whenever a child of this process has ended.
pub(super) async fn collect() {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            tracing::error!(%error, "strays will not be collected");
            return;
        }
    };
    while ended.recv().await.is_some() {
        collect_now();
    }
}

/// Asks all that have ended. Whatever the agent started itself leads a group, and is
/// asked by whoever started it.
pub(super) fn collect_now() {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let strays = census::all()
        .into_iter()
        .filter(|it| it.ended && it.parent == own && it.group != it.process);
    for stray in strays {
        let process = Pid::from_raw(stray.process);
        match waitpid(process, Some(WaitPidFlag::WNOHANG)) {
            // Whoever reaps a whole group may have been faster.
            Ok(_) | Err(Errno::ECHILD) => {}
            Err(error) => tracing::debug!(%process, %error, "could not collect a stray"),
        }
    }
}
