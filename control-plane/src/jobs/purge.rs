//! Notes what was seen of sessions, gives up commands that a former process
//! left, and removes what is of no use any more.

use std::time::Duration;

use tokio::time::sleep;

use super::Jobs;
use crate::clock;
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::store::sessions::Activity;
use crate::tasks::Tasks;

/// Pages and activity are in the rows at most this late.
const PERIOD: Duration = Duration::from_secs(5);
/// How long an `Idempotency-Key` is kept.
const KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn run(jobs: Jobs, tasks: Tasks) {
    let mut noted = Timestamp(0);
    loop {
        let now = clock::now();
        if let Err(error) = round(&jobs, noted).await {
            tracing::warn!(%error, "could not tidy up");
        } else {
            noted = now;
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            () = tasks.stopping() => return,
        }
    }
}

async fn round(jobs: &Jobs, noted: Timestamp) -> Result<(), Error> {
    let now = clock::now();
    let active = jobs
        .sessions
        .registry()
        .select(|held| held.last_activity_at() >= noted);
    let seen: Vec<Activity> = active
        .iter()
        .map(|held| {
            let page = held.page();
            Activity {
                session: held.id,
                at: held.last_activity_at(),
                url: page.url,
                title: page.title,
            }
        })
        .collect();
    if !seen.is_empty() {
        jobs.store.note_activity(&seen).await?;
    }
    let given_up = jobs.sessions.give_up_commands().await?;
    if given_up > 0 {
        tracing::warn!(
            commands = given_up,
            "commands of a former process have an unknown outcome"
        );
    }
    let key_life = i64::try_from(KEY_LIFE.as_micros()).unwrap_or(i64::MAX);
    jobs.store.purge_keys(Timestamp(now.0 - key_life)).await?;
    jobs.store.purge_join_tokens(now).await?;
    jobs.accounts.tidy().await?;
    Ok(())
}
