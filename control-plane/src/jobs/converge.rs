//! Brings the pool to what is wanted. All of it is in
//! [`Fleet::converge`](crate::fleet::Fleet::converge), which reads and then mends;
//! this is when it is done, and who is told of what was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Jobs;
use crate::tasks::Tasks;
use crate::telemetry::labels::Orphan;
use crate::telemetry::metrics;

/// The longest time between two rounds, whatever happens or does not.
const PERIOD: Duration = Duration::from_secs(30);
/// First wait after a round that failed; doubles up to [`PERIOD`].
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Rounds that follow each other at once are this far apart: what woke the one may
/// come with more.
const BREATH: Duration = Duration::from_millis(5);

pub(super) async fn run(jobs: Jobs, tasks: Tasks) {
    let mut woken = jobs.fleet.woken();
    let mut links = jobs.links.clone();
    let mut departures = jobs.provider.departures();
    let mut failures = 0;
    loop {
        woken.mark_unchanged();
        links.mark_unchanged();
        let wait = round(&jobs, &tasks, &mut failures).await;
        let departure = async {
            match &mut departures {
                Some(departures) => departures.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(wait.max(BREATH)) => {}
            _ = woken.changed() => {}
            _ = links.changed() => {}
            departed = departure => if departed.is_none() { departures = None },
            () = tasks.stopping() => return,
        }
    }
}

async fn round(jobs: &Jobs, tasks: &Tasks, failures: &mut u32) -> Duration {
    let sessions = Arc::clone(&jobs.sessions);
    let lost = |instance, reason: String| {
        let sessions = Arc::clone(&sessions);
        tasks.spawn("end sessions of an instance", async move {
            sessions.instance_lost(instance, &reason).await;
        });
    };
    match jobs.fleet.converge(&lost).await {
        Ok(done) => {
            *failures = 0;
            metrics::launched(done.wanted);
            metrics::terminated(done.ended);
            metrics::orphaned(Orphan::Machine, done.orphans);
            metrics::orphaned(Orphan::Row, done.lost);
            metrics::orphaned(Orphan::Link, done.strange_links);
            done.next.map_or(PERIOD, |next| next.min(PERIOD))
        }
        Err(error) => {
            tracing::warn!(
                cause = error.cause(),
                "could not bring the pool to what is wanted"
            );
            let wait = RETRY_WAIT.saturating_mul(2_u32.saturating_pow(*failures));
            *failures += 1;
            wait.min(PERIOD)
        }
    }
}
