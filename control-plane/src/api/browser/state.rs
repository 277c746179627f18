//! `GET /api/browser/state`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::Action;
use serde::Deserialize;

use super::{Envelope, perform};
use crate::api::Api;
use crate::api::extract::{Caller, Parameters};

/// Which session.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateParameters {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
}

/// Reads where the browser is.
pub async fn state(
    State(api): State<Api>,
    caller: Caller,
    Parameters(parameters): Parameters<StateParameters>,
) -> Result<Response, Response> {
    let envelope = Envelope {
        session_id: parameters.session_id.as_deref(),
        timeout_ms: parameters.timeout_ms,
    };
    Ok(perform(&api, &caller, envelope, Action::State)
        .await?
        .into_json())
}
