//! What is counted and measured, for Prometheus. All instruments are here, and
//! nobody else names the crates behind them.
//!
//! Like the log it is one for the process: whoever has something to count calls a
//! function. Until [`start`] was called none of them does anything, which costs one
//! look at an atomic.
//!
//! Labels are from closed sets: the routes of the URL table, words of our own
//! enums and codes. No id, no address and no word of a user ever is one, so that
//! the number of series does not grow with what is done here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{
    AsyncInstrument, Counter, Histogram, Meter, MeterProvider, UpDownCounter,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

use super::labels::{Answer, Orphan, ProviderCall};
use super::process;

/// Where a request's time is put, in seconds: a command on a warm page, a page's
/// load, a screenshot, a session's start, what is too long, and what has a deadline.
const DURATION_BOUNDARIES: [f64; 6] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0];

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

/// How many there are of each word.
type Counts = Arc<Mutex<BTreeMap<&'static str, u64>>>;

struct Instruments {
    requests: Counter<u64>,
    request_duration: Histogram<f64>,
    commands: Counter<u64>,
    logins_refused: Counter<u64>,
    joins_refused: Counter<u64>,
    handshakes_failed: Counter<u64>,
    strange_reports: Counter<u64>,
    queues_full: Counter<u64>,
    connections_missed: Counter<u64>,
    provider_calls: Counter<u64>,
    launches: Counter<u64>,
    terminations: Counter<u64>,
    orphans: Counter<u64>,
    sockets: UpDownCounter<i64>,
    viewers: UpDownCounter<i64>,
    tunnels: UpDownCounter<i64>,
    socket_messages_refused: Counter<u64>,
    instances: Counts,
}

/// What was counted, and the way to have more watched.
pub struct Metrics {
    registry: Registry,
    meter: Meter,
    /// Ends with the process; instruments without it count for nobody.
    _provider: SdkMeterProvider,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Starts counting.
///
/// # Errors
/// Where it was started before.
pub fn start() -> anyhow::Result<Metrics> {
    let metrics = Metrics::new()?;
    let instruments = Instruments::new(&metrics.meter);
    INSTRUMENTS
        .set(instruments)
        .map_err(|_| anyhow::anyhow!("the metrics were started before"))?;
    metrics.watch_process();
    Ok(metrics)
}

impl Metrics {
    fn new() -> anyhow::Result<Self> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()?;
        let resource = Resource::builder_empty()
            .with_service_name("browserfleet")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkMeterProvider::builder()
            .with_reader(exporter)
            .with_resource(resource)
            .build();
        Ok(Self {
            registry,
            meter: provider.meter("browserfleet"),
            _provider: provider,
        })
    }

    /// All of it, in Prometheus' text format.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn text(&self) -> anyhow::Result<String> {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .context("could not write the metrics")
    }

    /// Watches the sessions that this replica looks after, by status.
    pub fn watch_sessions<const N: usize>(
        &self,
        counts: impl Fn() -> [(&'static str, usize); N] + Send + Sync + 'static,
    ) {
        self.meter
            .u64_observable_gauge("browserfleet.sessions")
            .with_description("Sessions that this replica looks after")
            .with_callback(move |observer| {
                for (status, count) in counts() {
                    observer.observe(count as u64, &[KeyValue::new("status", status)]);
                }
            })
            .build();
    }

    /// Watches how many agents are connected to this replica.
    pub fn watch_links(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        self.meter
            .u64_observable_gauge("browserfleet.links")
            .with_description("Agents that are connected to this replica")
            .with_callback(move |observer| observer.observe(count() as u64, &[]))
            .build();
    }

    /// Watches how many entries of the history wait to be written.
    pub fn watch_ledger(&self, waiting: impl Fn() -> usize + Send + Sync + 'static) {
        self.meter
            .u64_observable_gauge("browserfleet.ledger.waiting")
            .with_description("Entries of the history that wait to be written")
            .with_callback(move |observer| observer.observe(waiting() as u64, &[]))
            .build();
    }

    /// Watches the days that certificates have left.
    pub fn watch_certificates(
        &self,
        days_left: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static,
    ) {
        self.meter
            .f64_observable_gauge("browserfleet.certificate.remaining")
            .with_description("Days until a certificate ends; less than none once it has")
            .with_unit("d")
            .with_callback(move |observer| {
                for (certificate, days) in days_left() {
                    observer.observe(days, &[KeyValue::new("certificate", certificate)]);
                }
            })
            .build();
    }

    /// Under the names that Prometheus' own clients give them.
    fn watch_process(&self) {
        let observed = |value: fn() -> Option<u64>| {
            move |observer: &dyn AsyncInstrument<u64>| {
                if let Some(value) = value() {
                    observer.observe(value, &[]);
                }
            }
        };
        self.meter
            .u64_observable_gauge("process.resident_memory")
            .with_description("Memory of this process that is not swapped out")
            .with_unit("By")
            .with_callback(observed(process::resident_memory_bytes))
            .build();
        self.meter
            .u64_observable_gauge("process.open_fds")
            .with_description("Descriptors that this process has open")
            .with_callback(observed(process::descriptors))
            .build();
        self.meter
            .u64_observable_gauge("process.max_fds")
            .with_description("Descriptors that this process may have open")
            .with_callback(observed(process::descriptors_max))
            .build();
    }
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let counter = |name, description| {
            meter
                .u64_counter(name)
                .with_description(description)
                .build()
        };
        let instruments = Self {
            requests: counter("http.server.requests", "Requests that were answered"),
            request_duration: meter
                .f64_histogram("http.server.request.duration")
                .with_description("Time until the head of an answer")
                .with_unit("s")
                .with_boundaries(DURATION_BOUNDARIES.to_vec())
                .build(),
            commands: counter("browserfleet.commands", "Commands that have their outcome"),
            logins_refused: counter("browserfleet.logins.refused", "Logins that were refused"),
            joins_refused: counter(
                "browserfleet.agent.joins.refused",
                "Agents that were given no certificate",
            ),
            handshakes_failed: counter(
                "browserfleet.tls.handshakes.failed",
                "TLS handshakes that failed, for a certificate or otherwise",
            ),
            strange_reports: counter(
                "browserfleet.agent.strange_reports",
                "Reports that were not their agent's to make",
            ),
            queues_full: counter(
                "browserfleet.link.queue.full",
                "Messages that found the queue of their agent's link full",
            ),
            connections_missed: counter(
                "browserfleet.database.connections.missed",
                "Statements that got no connection to the database in time",
            ),
            provider_calls: counter(
                "browserfleet.provider.calls",
                "Calls of the provider of instances",
            ),
            launches: counter("browserfleet.instance.launches", "Instances asked for"),
            terminations: counter("browserfleet.instance.terminations", "Instances ended"),
            orphans: counter(
                "browserfleet.orphans",
                "What belonged to nothing, and was mended",
            ),
            sockets: meter
                .i64_up_down_counter("browserfleet.sockets")
                .with_description("Sockets of frontends that are open")
                .build(),
            viewers: meter
                .i64_up_down_counter("browserfleet.viewers")
                .with_description("Live views of sessions that are open")
                .build(),
            tunnels: meter
                .i64_up_down_counter("browserfleet.tunnels")
                .with_description("Clients of CDP that are joined to sessions")
                .build(),
            socket_messages_refused: counter(
                "browserfleet.socket.messages.refused",
                "Messages on sockets that were refused",
            ),
            instances: Counts::default(),
        };
        instruments.begin_at_zero();
        let counts = Arc::clone(&instruments.instances);
        meter
            .u64_observable_gauge("browserfleet.instances")
            .with_description("Instances by status, at the last look at the pool")
            .with_callback(move |observer| {
                for (status, count) in &*locked(&counts) {
                    observer.observe(*count, &[KeyValue::new("status", *status)]);
                }
            })
            .build();
        instruments
    }

    /// A counter that appears with its first event never shows that it rose: an
    /// alarm needs the zero before.
    fn begin_at_zero(&self) {
        for counter in [
            &self.strange_reports,
            &self.queues_full,
            &self.connections_missed,
            &self.launches,
            &self.terminations,
        ] {
            counter.add(0, &[]);
        }
        for orphan in Orphan::ALL {
            self.orphans
                .add(0, &[KeyValue::new("kind", orphan.as_str())]);
        }
    }
}

fn locked(counts: &Counts) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(which: impl FnOnce(&Instruments) -> &Counter<u64>, number: u64, labels: &[KeyValue]) {
    if let Some(instruments) = INSTRUMENTS.get() {
        which(instruments).add(number, labels);
    }
}

/// A request was answered. `route` is the pattern of the URL table, never the path.
pub fn request(method: &'static str, route: Option<&str>, status: u16, took: Duration) {
    let Some(instruments) = INSTRUMENTS.get() else {
        return;
    };
    let class = match status {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    let labels = [
        KeyValue::new("method", method),
        KeyValue::new("route", route.unwrap_or("none").to_owned()),
        KeyValue::new("status", class),
    ];
    instruments.requests.add(1, &labels);
    instruments
        .request_duration
        .record(took.as_secs_f64(), &labels[..2]);
}

/// A command has its outcome.
pub fn command(kind: &'static str, outcome: &'static str) {
    let labels = [
        KeyValue::new("kind", kind),
        KeyValue::new("outcome", outcome),
    ];
    count(|it| &it.commands, 1, &labels);
}

/// A login was refused, with this public code.
pub fn login_refused(code: &'static str) {
    count(|it| &it.logins_refused, 1, &[KeyValue::new("reason", code)]);
}

/// An agent was given no certificate.
pub fn join_refused(reason: &'static str) {
    count(
        |it| &it.joins_refused,
        1,
        &[KeyValue::new("reason", reason)],
    );
}

/// A TLS handshake failed on this port of ours.
pub fn handshake_failed(port: &'static str) {
    count(
        |it| &it.handshakes_failed,
        1,
        &[KeyValue::new("port", port)],
    );
}

/// An agent reported what was not its own to report.
pub fn strange_report() {
    count(|it| &it.strange_reports, 1, &[]);
}

/// The queue of an agent's link was full.
pub fn link_queue_full() {
    count(|it| &it.queues_full, 1, &[]);
}

/// Sockets of frontends were opened, or closed.
pub fn sockets(change: i64) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.sockets.add(change, &[]);
    }
}

/// Live views were opened, or closed.
pub fn viewers(change: i64) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.viewers.add(change, &[]);
    }
}

/// Clients of CDP joined, or left.
pub fn tunnels(change: i64) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.tunnels.add(change, &[]);
    }
}

/// A message on a socket was refused, with this public code.
pub fn socket_message_refused(code: &'static str) {
    count(
        |it| &it.socket_messages_refused,
        1,
        &[KeyValue::new("reason", code)],
    );
}

/// A statement got no connection to the database in time.
pub fn database_not_reached() {
    count(|it| &it.connections_missed, 1, &[]);
}

/// The provider was called, and answered so.
pub fn provider_call(call: ProviderCall, answer: Answer) {
    let labels = [
        KeyValue::new("call", call.as_str()),
        KeyValue::new("answer", answer.as_str()),
    ];
    count(|it| &it.provider_calls, 1, &labels);
}

/// So many instances were asked for.
pub fn launched(number: u32) {
    count(|it| &it.launches, number.into(), &[]);
}

/// So many instances were ended.
pub fn terminated(number: u32) {
    count(|it| &it.terminations, number.into(), &[]);
}

/// So much of this kind belonged to nothing, and was mended.
pub fn orphaned(orphan: Orphan, number: u32) {
    let labels = [KeyValue::new("kind", orphan.as_str())];
    count(|it| &it.orphans, number.into(), &labels);
}

/// The statuses of all instances, each as often as there are such instances.
pub fn instances(statuses: impl IntoIterator<Item = &'static str>) {
    let Some(instruments) = INSTRUMENTS.get() else {
        return;
    };
    let mut counts = locked(&instruments.instances);
    // A status that nothing has any more is a zero, not its former number.
    for count in counts.values_mut() {
        *count = 0;
    }
    for status in statuses {
        *counts.entry(status).or_default() += 1;
    }
}
