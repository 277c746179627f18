//! `/healthz`: the process runs. `/readyz`: it takes requests.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::watch;

use super::Api;

/// Whether requests are taken: from the end of the start to the first signal.
#[derive(Clone, Debug, Default)]
pub struct Readiness(watch::Sender<bool>);

impl Readiness {
    /// Says whether requests are taken.
    pub fn set(&self, ready: bool) {
        self.0.send_replace(ready);
    }

    fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Follows it.
    pub(super) fn follow(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

/// The process runs.
pub async fn alive() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// It takes requests.
pub async fn ready(State(api): State<Api>) -> Response {
    if api.readiness.is_ready() {
        Json(json!({ "status": "ready" })).into_response()
    } else {
        let body = Json(json!({ "status": "not ready" }));
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}
