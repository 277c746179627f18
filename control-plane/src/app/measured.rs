//! The metrics' port, and what is looked at whenever they are read.

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::api;
use crate::api::serve::{CONNECTION_WINDOW_BYTES, Port};
use crate::clock;
use crate::domain::certificate::Certificate;
use crate::relay::Relay;
use crate::sessions::Sessions;
use crate::telemetry::metrics::{self, Metrics};

/// How many may read the metrics at once: a pair of Prometheus servers, and people.
const CONNECTIONS_MAX: usize = 16;

pub(super) struct Measured {
    pub(super) listener: TcpListener,
    metrics: Metrics,
}

impl Measured {
    pub(super) fn start(listener: TcpListener) -> anyhow::Result<Self> {
        Ok(Self {
            listener,
            metrics: metrics::start()?,
        })
    }

    pub(super) fn watch(
        &self,
        sessions: &Arc<Sessions>,
        relay: &Arc<Relay>,
        certificates: &[Certificate],
    ) {
        let held = Arc::clone(sessions);
        self.metrics.watch_sessions(move || held.counts());
        let history = Arc::clone(sessions);
        self.metrics.watch_ledger(move || history.unwritten());
        let links = Arc::clone(relay);
        self.metrics.watch_links(move || links.links());
        let certificates = certificates.to_vec();
        self.metrics.watch_certificates(move || {
            let now = clock::wall();
            let days_left = |it: &Certificate| (it.purpose.to_string(), it.days_left(now));
            certificates.iter().map(days_left).collect()
        });
    }

    pub(super) fn port(self) -> Port {
        Port {
            name: "metrics",
            listener: self.listener,
            tls: None,
            connections_max: CONNECTIONS_MAX,
            window_bytes: CONNECTION_WINDOW_BYTES,
            router: api::metrics_router(Arc::new(self.metrics)),
        }
    }
}
