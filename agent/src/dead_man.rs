//! The dead man's switch: a machine whose control plane is gone for good must not go
//! on, since nobody knows it any more. It counts from the agent's start, also before
//! there ever was a link.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// How often a sign of life is left at most; it is looked for once a minute.
const SIGN_EVERY: Duration = Duration::from_secs(20);

/// What part of the patience may be added to it: machines of a whole fleet that lost
/// its control plane do not all go in the same minute, and one that comes back finds
/// some.
const JITTER_PART: u32 = 3;

/// How long this machine waits. `random` is in 0 to 1.
#[must_use]
pub fn patience(configured: Duration, random: f64) -> Duration {
    configured + (configured / JITTER_PART).mul_f64(random.clamp(0.0, 1.0))
}

/// Resolves when the control plane was silent for this long.
pub async fn unheard(mut heard: watch::Receiver<Instant>, patience: Duration) {
    loop {
        let latest = *heard.borrow_and_update() + patience;
        tokio::select! {
            changed = heard.changed() => if changed.is_err() { return },
            () = sleep_until(latest) => return,
        }
    }
}

/// Touches a file whenever the control plane is heard, so that whoever looks after
/// the machine sees an agent that hangs: `browserfleet-dead-man` ends its machine.
pub async fn keep_sign(mut heard: watch::Receiver<Instant>, file: PathBuf) {
    loop {
        if let Err(error) = std::fs::write(&file, b"") {
            tracing::warn!(file = %file.display(), %error, "could not leave a sign of life");
        }
        sleep(SIGN_EVERY).await;
        if heard.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::advance;

    proptest! {
        #[test]
        fn nobody_goes_early_and_nobody_stays_for_long(configured in 1..90_000_000u64, random in 0.0..=1.0f64) {
            let configured = Duration::from_millis(configured);
            let patience = patience(configured, random);
            prop_assert!(patience >= configured && patience <= configured + configured / JITTER_PART);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_is_left_while_the_control_plane_is_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("heard");
        let (say, heard) = watch::channel(Instant::now());
        let keeping = crate::tasks::spawn("sign", keep_sign(heard, file.clone()));
        tokio::task::yield_now().await;
        assert!(file.exists());
        std::fs::remove_file(&file).expect("it is there");
        // Nothing is heard: no sign.
        sleep(SIGN_EVERY * 3).await;
        assert!(!file.exists());
        say.send_replace(Instant::now());
        sleep(SIGN_EVERY).await;
        assert!(file.exists());
        drop(say);
        keeping.await.expect("it ends with the link");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_word() {
        let patience = Duration::from_secs(100);
        let started = Instant::now();
        let (say, heard) = watch::channel(started);
        let ended = crate::tasks::spawn("unheard", unheard(heard, patience));
        advance(Duration::from_secs(99)).await;
        say.send_replace(Instant::now());
        ended.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 199);
    }
}
