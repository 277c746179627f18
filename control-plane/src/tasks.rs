//! The one door to spawning: every task has a name, its panic is an error line
//! in the log, and the app waits for all of them before it ends.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one app, and the word that tells them to end.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Starts a task. `None` is its result if it panicked.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.tracker.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(done) => Some(done),
                Err(panic) => {
                    tracing::error!(task = name, panic = panic_text(&*panic), "a task panicked");
                    None
                }
            }
        })
    }

    /// Resolves once the app is to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Tells all tasks to end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether [`Tasks::stop`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves once no task is left.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// How many tasks are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tracker.len()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_task_and_is_counted_out() {
        let tasks = Tasks::default();
        let panicked = tasks.spawn("panics", async { panic!("as the test says") });
        let fine = tasks.spawn("fine", async { 1 });
        assert!(matches!(panicked.await, Ok(None::<()>)));
        assert!(matches!(fine.await, Ok(Some(1))));
        tasks.ended().await;
        assert_eq!(tasks.count(), 0);
    }
}
