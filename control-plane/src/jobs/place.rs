//! Gives places to sessions that wait, whenever one may have become free or one
//! more waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Jobs;
use crate::clock;
use crate::tasks::Tasks;

/// How often a replica looks whether sessions wait that another one took in: there
/// is no word of it between them. A look is one read of an index.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Wait where this is the only process.
const PERIOD: Duration = Duration::from_secs(60);
/// Wait after a round that failed.
const RETRY_WAIT: Duration = Duration::from_secs(1);

pub(super) async fn run(jobs: Jobs, tasks: Tasks) {
    let mut queued = jobs.sessions.queued();
    let mut rooms = jobs.fleet.rooms();
    let mut links = jobs.links.clone();
    loop {
        queued.mark_unchanged();
        rooms.mark_unchanged();
        links.mark_unchanged();
        let wait = round(&jobs).await;
        tokio::select! {
            () = sleep(wait) => {}
            _ = queued.changed() => {}
            _ = rooms.changed() => {}
            _ = links.changed() => {}
            () = tasks.stopping() => return,
        }
    }
}

async fn round(jobs: &Jobs) -> Duration {
    let longest = if jobs.store.is_shared() {
        LOOK_EVERY
    } else {
        PERIOD
    };
    match Arc::clone(&jobs.sessions).place_queued().await {
        Ok(placed) => {
            let now = clock::now();
            let due = placed.due.map_or(longest, |due| due.since(now));
            due.min(longest)
        }
        Err(error) => {
            tracing::warn!(
                cause = error.cause(),
                "could not give places to those that wait"
            );
            RETRY_WAIT
        }
    }
}
