//! Ends sessions whose time is over or that nobody uses. It sleeps until the
//! next one is due.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::clock;
use crate::sessions::Sessions;
use crate::sessions::registry::Phase;
use crate::tasks::Tasks;

/// Wait where no session is there.
const PERIOD: Duration = Duration::from_secs(60);

pub(super) async fn run(sessions: Arc<Sessions>, tasks: Tasks) {
    let mut ends = sessions.ends();
    loop {
        ends.mark_unchanged();
        let wait = end_those_due(&sessions, &tasks);
        tokio::select! {
            () = sleep(wait) => {}
            _ = ends.changed() => {}
            () = tasks.stopping() => return,
        }
    }
}

/// Ends what is due, and gives the time until the next one is.
fn end_those_due(sessions: &Arc<Sessions>, tasks: &Tasks) -> Duration {
    let now = clock::now();
    let mut wait = PERIOD;
    for held in sessions
        .registry()
        .select(|held| held.phase() == Phase::Live && sessions.is_reachable(held))
    {
        let (at, reason) = held.ends();
        if at > now {
            wait = wait.min(at.since(now));
            continue;
        }
        let sessions = Arc::clone(sessions);
        tasks.spawn("expire session", async move {
            if let Err(error) = sessions.wind_down(&held, reason).await {
                tracing::warn!(session.id = %held.id, %error, "could not end a session that is due");
            }
        });
    }
    wait
}
