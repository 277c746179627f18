//! Errors as gRPC says them, from the one table of [`Error`].
//!
//! The status is told by the HTTP status, and only where one of those means two things
//! here, by more. What is stable is REST's code: it is the `reason` of the status'
//! `ErrorInfo`, as it is, without the capitals that are usual there, so that one search
//! finds a code everywhere.

use std::collections::HashMap;

use browserfleet_proto::action::Code as Rejected;
use browserfleet_proto::browser::v1;
use browserfleet_proto::ids::CommandId;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::api::problem::outcome_of;
use crate::error::{CommandError, Error};

/// Whose codes they are.
const DOMAIN: &str = "browserfleet";

/// An error, and the command that it is about, if it is about one.
#[derive(Debug)]
pub(super) struct Refusal {
    error: Error,
    command: Option<CommandId>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            error,
            command: None,
        }
    }
}

impl From<CommandError> for Refusal {
    fn from(CommandError { command, error }: CommandError) -> Self {
        Self {
            error,
            command: Some(command),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let Refusal { error, command } = &refusal;
        refusal.log();
        let mut about = HashMap::from([("retryable".to_owned(), error.retryable().to_string())]);
        let more = [
            ("field", error.field().map(str::to_owned)),
            ("command_id", command.map(|it| it.to_string())),
            ("outcome", refusal.outcome().map(str::to_owned)),
            ("end_reason", end_reason_of(error).map(str::to_owned)),
            ("detail_json", detail_of(error).map(str::to_owned)),
        ];
        about.extend(
            more.into_iter()
                .filter_map(|(name, value)| value.map(|it| (name.to_owned(), it))),
        );
        let mut details = ErrorDetails::with_error_info(error.code(), DOMAIN, about);
        if let Some(field) = error.field() {
            details.add_bad_request_violation(field, error.to_string());
        }
        if let Some(after) = error.retry_after() {
            details.set_retry_info(Some(after));
        }
        Self::with_error_details(code_of(error), error.to_string(), details)
    }
}

impl Refusal {
    /// As an answer of a stream, which goes on.
    pub(super) fn problem(&self) -> v1::Problem {
        let Self { error, command } = self;
        self.log();
        let after = error.retry_after().unwrap_or_default();
        v1::Problem {
            status: code_of(error) as u32,
            code: error.code().to_owned(),
            message: error.to_string(),
            field: error.field().unwrap_or_default().to_owned(),
            retryable: error.retryable(),
            retry_after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            command_id: command.map(|it| it.to_string()).unwrap_or_default(),
            outcome: self.outcome().unwrap_or_default().to_owned(),
            detail_json: detail_of(error).unwrap_or_default().to_owned(),
        }
    }

    fn outcome(&self) -> Option<&'static str> {
        self.command.map(|_| outcome_of(&self.error))
    }

    fn log(&self) {
        if let Error::Internal(cause) = &self.error {
            tracing::error!(cause = format!("{cause:?}"), "a call failed on our side");
        }
    }
}

/// The status for an error that no command had.
pub(in crate::api::grpc) fn status_of(error: Error) -> Status {
    Refusal::from(error).into()
}

fn end_reason_of(error: &Error) -> Option<&str> {
    match error {
        Error::SessionGone { reason } => Some(reason),
        _ => None,
    }
}

fn detail_of(error: &Error) -> Option<&str> {
    match error {
        Error::Rejected(rejection) if !rejection.detail.is_empty() => Some(&rejection.detail),
        _ => None,
    }
}

fn code_of(error: &Error) -> Code {
    match (error.status(), error) {
        (_, Error::Rejected(it)) if it.code == Rejected::Cancelled => Code::Cancelled,
        // The request was fine, the page was not as it supposes.
        (422, Error::Rejected(_)) => Code::FailedPrecondition,
        (409, Error::IdempotencyInProgress) => Code::Aborted,
        // A deadline may be met again; this is not known, and stays so.
        (504, Error::OutcomeUnknown) => Code::Unknown,
        (400 | 415 | 422, _) => Code::InvalidArgument,
        (401, _) => Code::Unauthenticated,
        (403, _) => Code::PermissionDenied,
        (404, _) => Code::NotFound,
        (405, _) => Code::Unimplemented,
        (408 | 504, _) => Code::DeadlineExceeded,
        (409 | 410 | 412 | 423, _) => Code::FailedPrecondition,
        (413 | 429, _) => Code::ResourceExhausted,
        (502 | 503, _) => Code::Unavailable,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use browserfleet_proto::action::Rejection;

    use super::*;

    fn rejected(code: Rejected) -> Error {
        Error::Rejected(Rejection {
            code,
            message: "as the page is".into(),
            detail: r#"{"line":1}"#.into(),
        })
    }

    #[test]
    fn each_error_has_the_status_that_clients_act_on() {
        let gone = Error::SessionGone {
            reason: "idle".into(),
        };
        let full = Error::NoCapacity {
            reason: "the pool is full".into(),
            retry_after: Duration::from_secs(3),
        };
        for (error, code) in [
            (Error::Unauthenticated, Code::Unauthenticated),
            (Error::Forbidden("no"), Code::PermissionDenied),
            (Error::NotFound("session"), Code::NotFound),
            (Error::invalid("url", "is missing"), Code::InvalidArgument),
            (gone, Code::FailedPrecondition),
            (full, Code::Unavailable),
            (Error::NotSent, Code::Unavailable),
            (Error::OutcomeUnknown, Code::Unknown),
            (rejected(Rejected::Cancelled), Code::Cancelled),
            (rejected(Rejected::CommandTimeout), Code::DeadlineExceeded),
            (
                rejected(Rejected::SelectorNotFound),
                Code::FailedPrecondition,
            ),
            (Error::Internal(anyhow::anyhow!("secret")), Code::Internal),
        ] {
            assert_eq!(code_of(&error), code, "{error:?}");
        }
    }

    #[test]
    fn a_status_carries_what_rest_says() {
        let command = CommandId::new();
        let refusal = Refusal::from(CommandError {
            command,
            error: rejected(Rejected::SelectorNotFound),
        });
        let problem = refusal.problem();
        let status = Status::from(refusal);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "selector_not_found");
        assert_eq!(info.metadata["command_id"], command.to_string());
        assert_eq!(info.metadata["outcome"], "error");
        assert_eq!(info.metadata["detail_json"], r#"{"line":1}"#);
        assert_eq!(problem.code, info.reason);
        assert_eq!(problem.status, status.code() as u32);

        let status = status_of(Error::invalid("url", "is missing"));
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "url");

        let status = status_of(Error::Internal(anyhow::anyhow!("secret")));
        assert!(!format!("{status:?}").contains("secret"));
    }
}
