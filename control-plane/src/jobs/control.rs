//! Ends who drives once their time is over, and brings what other replicas wrote of it
//! here. It sleeps until the next end; only where there may be other replicas does it
//! look again and again: a read of an index.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Jobs;
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::store::instances::before;
use crate::tasks::Tasks;

/// Wait where nobody drives.
const PERIOD: Duration = Duration::from_secs(60);
/// How late it is known here what was written at another replica: a person who takes
/// control there sees the automation stop.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How much further back is looked than the last time: a transaction may take a moment.
const OVERLAP: Duration = Duration::from_secs(10);

pub(super) async fn run(jobs: Jobs, tasks: Tasks) {
    let sessions = Arc::clone(&jobs.sessions);
    let mut news = sessions.controls();
    let mut looked = None;
    loop {
        news.mark_unchanged();
        let mut wait = sessions.settle_controls().await.unwrap_or(PERIOD);
        if jobs.store.is_shared() {
            match look(&jobs, looked).await {
                Ok(now) => looked = Some(now),
                Err(error) => {
                    tracing::warn!(cause = error.cause(), "could not look who drives elsewhere");
                }
            }
            wait = wait.min(LOOK_EVERY);
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = news.changed() => {}
            () = tasks.stopping() => return,
        }
    }
}

/// Gives the database's time before the look.
async fn look(jobs: &Jobs, looked: Option<Timestamp>) -> Result<Timestamp, Error> {
    let now = jobs.store.time().await?;
    let since = before(looked.unwrap_or(now), OVERLAP);
    jobs.sessions.follow_controls(since).await?;
    Ok(now)
}
