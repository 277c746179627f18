//! Logs: one line an event, ids as fields, as text for people or JSON for
//! programs. Control characters in values are escaped by both formats.

use tracing_subscriber::EnvFilter;

/// Starts writing the log to standard error.
pub fn start(directives: &str, as_json: bool) {
    let filter = EnvFilter::new(directives);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr);
    let started = if as_json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    if started.is_err() {
        tracing::debug!("the log was started before");
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a panic");
    }));
}
