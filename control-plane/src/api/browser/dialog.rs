//! `POST /api/browser/dialog`

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use browserfleet_proto::action::{Action, AnswerDialog};
use serde::Deserialize;

use super::{Envelope, perform, text_of};
use crate::api::Api;
use crate::api::body::Body;
use crate::api::extract::Caller;

/// How to answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialogRequest {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
    accept: bool,
    #[serde(default)]
    text: String,
}

/// Answers the open dialog.
pub async fn dialog(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<DialogRequest>,
) -> Result<Response, Response> {
    let text = text_of("text", request.text).map_err(IntoResponse::into_response)?;
    let envelope = Envelope {
        session_id: request.session_id.as_deref(),
        timeout_ms: request.timeout_ms,
    };
    let action = Action::Dialog(AnswerDialog {
        accept: request.accept,
        text,
    });
    Ok(perform(&api, &caller, envelope, action).await?.into_json())
}
