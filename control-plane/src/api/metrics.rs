//! `/metrics`, on an address of its own: who can reach it is the operator's to
//! decide, and nobody signs in.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::error::Error;
use crate::telemetry::metrics::Metrics;

/// The version of the format, as Prometheus asks for it.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Nothing else is here.
pub(super) fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(text))
        .fallback(|| async { Error::NotFound("address") })
        .with_state(metrics)
}

/// All that is counted and measured.
async fn text(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "could not tell the metrics");
            Error::Internal(error).into_response()
        }
    }
}
