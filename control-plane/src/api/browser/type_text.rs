//! `POST /api/browser/type`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::{Action, Type};
use browserfleet_proto::browser::v1;
use serde::Deserialize;

use super::{Asked, perform, said, selector_of, text_of};
use crate::api::Api;
use crate::api::body::Body;
use crate::api::extract::Caller;
use crate::error::Error;

/// Longest pause between two characters, in milliseconds.
const DELAY_MS_MAX: u32 = 10_000;

/// What to type, and where.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeRequest {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
    selector: Option<String>,
    text: String,
    #[serde(default)]
    clear: bool,
    #[serde(default)]
    delay_ms: u32,
    #[serde(default)]
    submit: bool,
}

/// Types text into an element, or into what has the focus.
pub async fn type_text(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<TypeRequest>,
) -> Result<Response, Response> {
    Ok(perform(&api, &caller, request).await?.into_json())
}

impl From<v1::Type> for TypeRequest {
    fn from(it: v1::Type) -> Self {
        Self {
            session_id: None,
            timeout_ms: None,
            selector: said(it.selector),
            text: it.text,
            clear: it.clear,
            delay_ms: it.delay_ms,
            submit: it.submit,
        }
    }
}

impl TryFrom<TypeRequest> for Asked {
    type Error = Error;

    fn try_from(mut request: TypeRequest) -> Result<Self, Error> {
        Ok(Self {
            session_id: request.session_id.take(),
            timeout_ms: request.timeout_ms,
            action: action_of(&mut request)?,
        })
    }
}

fn action_of(request: &mut TypeRequest) -> Result<Action, Error> {
    if request.delay_ms > DELAY_MS_MAX {
        return Err(Error::invalid(
            "delay_ms",
            format!("has to be 0 to {DELAY_MS_MAX}"),
        ));
    }
    Ok(Action::Type(Type {
        selector: request.selector.take().map(selector_of).transpose()?,
        text: text_of("text", std::mem::take(&mut request.text))?,
        clear: request.clear,
        delay_ms: request.delay_ms,
        submit: request.submit,
    }))
}
