//! Tells the other replicas which agents were heard here, and follows what they
//! did.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Jobs;
use crate::clock;
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::store::instances::before;
use crate::tasks::Tasks;
use crate::telemetry::labels::Orphan;
use crate::telemetry::metrics;

/// An agent that was heard is in the rows at most this late: well before anybody
/// calls it offline.
const PERIOD: Duration = Duration::from_secs(4);
/// How much further back is looked than the last time: clocks differ a little, and
/// a transaction may take a moment.
const OVERLAP: Duration = Duration::from_secs(30);

pub(super) async fn run(jobs: Jobs, tasks: Tasks) {
    let mut looked = clock::now();
    loop {
        let now = clock::now();
        match round(&jobs, before(looked, OVERLAP)).await {
            Ok(()) => looked = now,
            Err(error) => {
                tracing::warn!(cause = error.cause(), "could not write down who was heard");
            }
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            () = tasks.stopping() => return,
        }
    }
}

async fn round(jobs: &Jobs, since: Timestamp) -> Result<(), Error> {
    let strange = jobs.fleet.write_presence().await?;
    metrics::orphaned(Orphan::Link, strange);
    if jobs.store.is_shared() {
        Arc::clone(&jobs.sessions).follow_replicas(since).await?;
    }
    Ok(())
}
