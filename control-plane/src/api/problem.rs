//! Errors as `application/problem+json` (RFC 9457), from the one table of
//! [`Error`].

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::CommandId;
use serde::Serialize;
use serde_json::Value;

use crate::error::{CommandError, Error};

/// What went wrong, as callers read it.
#[derive(Serialize)]
pub struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<CommandId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
}

/// Marks a response that is a problem, so that the edge can add the request's id
/// and log what is for the log alone.
#[derive(Clone, Debug)]
pub struct InternalCause(pub String);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        render(&self, None)
    }
}

impl IntoResponse for CommandError {
    fn into_response(self) -> Response {
        render(&self.error, Some(self.command))
    }
}

/// The word for how the command ended that the error is about.
#[must_use]
pub fn outcome_of(error: &Error) -> &'static str {
    use browserfleet_proto::action::Code;
    match error {
        Error::OutcomeUnknown | Error::StoreUnavailable => "unknown",
        Error::NotSent | Error::AgentBusy | Error::SessionGone { .. } => "not_sent",
        Error::Rejected(rejection) => match rejection.code {
            Code::CommandTimeout | Code::NavigationTimeout => "timeout",
            Code::Cancelled => "cancelled",
            _ => "error",
        },
        _ => "error",
    }
}

/// What is said of an error.
#[must_use]
pub fn problem_of(error: &Error, command: Option<CommandId>) -> Problem {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail: error.to_string(),
        code: error.code(),
        retryable: error.retryable(),
        field: error.field().map(str::to_owned),
        limit: limit_of(error),
        end_reason: match error {
            Error::SessionGone { reason } => Some(reason.clone()),
            _ => None,
        },
        command_id: command,
        outcome: command.map(|_| outcome_of(error)),
        error: detail_of(error),
        challenge: match error {
            Error::SecondFactorNeeded { challenge } => Some(challenge.clone()),
            _ => None,
        },
    }
}

fn render(error: &Error, command: Option<CommandId>) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(problem_of(error, command))).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if let Some(wait) = error.retry_after() {
        // Whole seconds, rounded up: asking again too early is in vain.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
    }
    if error.status() == 401 {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Error::Internal(cause) = error {
        response
            .extensions_mut()
            .insert(InternalCause(format!("{cause:?}")));
    }
    response
}

fn limit_of(error: &Error) -> Option<Value> {
    match error {
        Error::BodyTooLarge { limit_bytes } => {
            Some(serde_json::json!({ "name": "body_bytes", "value": limit_bytes }))
        }
        Error::QuotaReached { name, limit, .. } => {
            Some(serde_json::json!({ "name": name, "value": limit }))
        }
        _ => None,
    }
}

fn detail_of(error: &Error) -> Option<Value> {
    match error {
        Error::Rejected(rejection) if !rejection.detail.is_empty() => {
            serde_json::from_str(&rejection.detail).ok()
        }
        _ => None,
    }
}
