//! Brings the pool to what is wanted.

use std::time::Duration;

use tokio::time::sleep;

use super::Jobs;
use crate::tasks::Tasks;
use crate::telemetry::labels::Orphan;
use crate::telemetry::metrics;

/// The longest time between two rounds, whatever happens or does not.
const PERIOD: Duration = Duration::from_secs(30);
/// Wait after a round that failed.
const RETRY_WAIT: Duration = Duration::from_secs(2);

pub(super) async fn run(jobs: Jobs, tasks: Tasks) {
    let mut woken = jobs.fleet.woken();
    let mut departures = jobs.provider.departures();
    loop {
        woken.mark_unchanged();
        let wait = round(&jobs).await;
        let departure = async {
            match &mut departures {
                Some(departures) => departures.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            _ = woken.changed() => {}
            departed = departure => if departed.is_none() { departures = None },
            () = tasks.stopping() => return,
        }
    }
}

async fn round(jobs: &Jobs) -> Duration {
    match jobs.fleet.reconcile().await {
        Ok(done) => {
            metrics::launched(done.launched);
            metrics::terminated(done.terminated);
            metrics::orphaned(Orphan::Machine, done.orphans);
            for (instance, reason) in &done.lost {
                jobs.sessions.instance_lost(*instance, reason).await;
            }
            if !done.lost.is_empty() {
                // What was lost may have to be replaced, and somebody may wait.
                jobs.fleet.wake();
            }
            done.next.map_or(PERIOD, |next| next.min(PERIOD))
        }
        Err(error) => {
            tracing::warn!(%error, "could not bring the pool to what is wanted");
            RETRY_WAIT
        }
    }
}
