//! The harness: a whole Browserfleet of real processes for each test, a site for
//! its browsers, a database server, and the faults in between.

#![expect(
    clippy::disallowed_methods,
    reason = "the harness is not the product: its tasks end with their test"
)]

pub mod api;
pub mod aws;
pub mod cdp;
pub mod fault_proxy;
pub mod grpc;
pub mod mail;
pub mod metrics;
pub mod model_pool;
pub mod model_provider;
pub mod postgres;
pub mod processes;
pub mod rows;
pub mod screen;
pub mod scripted_agent;
pub mod services;
pub mod site;
pub mod socket;
pub mod traces;
pub mod wall_clock;
pub mod world;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a level is looked at while a test waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until this is so.
///
/// # Panics
/// When it is not so within `within`.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    within: Duration,
    so: impl Fn() -> F,
) {
    let latest = Instant::now() + within;
    while !so().await {
        assert!(Instant::now() < latest, "not within {within:?}: {what}");
        sleep(LOOK_EVERY).await;
    }
}
