//! `GET /api/browser/state`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::Action;
use serde::Deserialize;

use super::{Asked, perform};
use crate::api::Api;
use crate::api::extract::{Caller, Parameters};
use crate::error::Error;

/// Which session.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateParameters {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
}

/// Reads where the browser is.
pub async fn state(
    State(api): State<Api>,
    caller: Caller,
    Parameters(request): Parameters<StateParameters>,
) -> Result<Response, Response> {
    Ok(perform(&api, &caller, request).await?.into_json())
}

impl TryFrom<StateParameters> for Asked {
    type Error = Error;

    fn try_from(request: StateParameters) -> Result<Self, Error> {
        Ok(Self {
            session_id: request.session_id,
            timeout_ms: request.timeout_ms,
            action: Action::State,
        })
    }
}
