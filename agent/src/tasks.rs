//! The one door to spawning: every task has a name, and its panic is an error
//! line in the log.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinHandle;

/// Starts a task. `None` is its result if it panicked.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is the door that the ban leaves open"
)]
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<Option<T>> {
    tokio::spawn(async move {
        match AssertUnwindSafe(task).catch_unwind().await {
            Ok(done) => Some(done),
            Err(_) => {
                tracing::error!(task = name, "a task panicked");
                None
            }
        }
    })
}
