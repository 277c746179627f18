//! Brings what ended anywhere to this replica: tokens are refused, and what the
//! barred hold is ended, within 5 s of when it was decided.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Jobs;
use crate::error::Error;
use crate::tasks::Tasks;

/// How often is looked: a decision of another replica is known by then, which
/// leaves 3 s of the 5 that are promised for acting on it. A look is four reads
/// of an index.
const PERIOD: Duration = Duration::from_secs(2);

pub(super) async fn run(jobs: Jobs, tasks: Tasks) {
    let mut departures = jobs.accounts.departures();
    loop {
        departures.mark_unchanged();
        if let Err(error) = round(&jobs, &tasks).await {
            tracing::warn!(%error, "could not look for what ended");
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            _ = departures.changed() => {}
            () = tasks.stopping() => return,
        }
    }
}

async fn round(jobs: &Jobs, tasks: &Tasks) -> Result<(), Error> {
    for access in jobs.accounts.learn_endings().await? {
        jobs.sessions.forget_limits(access.user);
        if access.barred {
            let jobs = jobs.clone();
            tasks.spawn("end sessions of a barred user", async move {
                Arc::clone(&jobs.sessions).end_all_of(access.user).await;
                if let Err(error) = jobs.fleet.release_all_of(access.user).await {
                    tracing::warn!(user.id = %access.user, %error, "could not give instances back");
                }
            });
        }
    }
    for user in jobs.store.departed().await? {
        if jobs.store.erase_history(user, crate::clock::now()).await? {
            tracing::info!(user.id = %user, "the history of a user who left is gone");
        }
    }
    Ok(())
}
