//! `POST /api/browser/dialog`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::{Action, AnswerDialog};
use browserfleet_proto::browser::v1;
use serde::Deserialize;

use super::{Asked, perform, text_of};
use crate::api::Api;
use crate::api::body::Body;
use crate::api::extract::Caller;
use crate::error::Error;

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
    Ok(perform(&api, &caller, request).await?.into_json())
}

impl From<v1::AnswerDialog> for DialogRequest {
    fn from(it: v1::AnswerDialog) -> Self {
        Self {
            session_id: None,
            timeout_ms: None,
            accept: it.accept,
            text: it.text,
        }
    }
}

impl TryFrom<DialogRequest> for Asked {
    type Error = Error;

    fn try_from(request: DialogRequest) -> Result<Self, Error> {
        Ok(Self {
            session_id: request.session_id,
            timeout_ms: request.timeout_ms,
            action: Action::Dialog(AnswerDialog {
                accept: request.accept,
                text: text_of("text", request.text)?,
            }),
        })
    }
}
