//! The one error of the services, which is also the public one: each variant is
//! a stable code, a status and a word on whether to try again. The seams have
//! small errors of their own; `From` for them is here.

use std::time::Duration;

use browserfleet_proto::action::{Code, Rejection};
use browserfleet_proto::ids::CommandId;

/// What a service refuses or fails with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No credentials, or none that hold.
    #[error("sign in first: send `Authorization: Bearer` with a valid access token")]
    Unauthenticated,
    /// The e-mail address and the password do not belong together.
    #[error("the e-mail address or the password is wrong, or the address was not confirmed yet")]
    BadCredentials,
    /// The caller is known, and may not.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The thing is not there, or is somebody else's.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The route knows other methods.
    #[error("this address does not take that method")]
    MethodNotAllowed,
    /// The request cannot be read.
    #[error("{message}")]
    BadRequest {
        /// What of it.
        field: Option<String>,
        /// Why not.
        message: String,
    },
    /// The request can be read and makes no sense.
    #[error("{field}: {message}")]
    Invalid {
        /// The field of the request.
        field: String,
        /// Why not.
        message: String,
    },
    /// The body is larger than the limit, in bytes.
    #[error("the body is larger than {limit_bytes} bytes")]
    BodyTooLarge {
        /// Bytes.
        limit_bytes: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The body is not JSON.
    #[error("send the body as `Content-Type: application/json`")]
    UnsupportedMediaType,
    /// The address is not one that a session may open.
    #[error("sessions open http and https addresses and about:blank, not `{0}:`")]
    UrlBlocked(String),
    /// The e-mail address has an account.
    #[error("there is an account with this e-mail address")]
    EmailTaken,
    /// The password is one of those that are tried first.
    #[error("{field}: this one is among the first that are tried; choose another")]
    PasswordTooCommon {
        /// Of the request.
        field: &'static str,
    },
    /// Nobody makes an account for themselves here.
    #[error("registration is closed; ask an administrator for an account")]
    RegistrationClosed,
    /// Who is invited may register.
    #[error("registration is by invitation; use the link that you were sent")]
    InvitationNeeded,
    /// What a mail carried counts no more, or never did.
    #[error("this link is of no use any more: it was used, replaced by a newer one, or is too old")]
    MailTokenInvalid,
    /// The refresh token counts no more, or never did.
    #[error("sign in again: the refresh token is of no use any more")]
    RefreshTokenInvalid,
    /// The first factor was right; the second is to be shown.
    #[error("send the code of your second factor along with the challenge")]
    SecondFactorNeeded {
        /// Shows that the first factor was right.
        challenge: String,
    },
    /// The challenge is too old, or never was one.
    #[error("sign in again: it took too long to send the code")]
    ChallengeInvalid,
    /// The code is wrong, or was taken before.
    #[error("the code is wrong, or was used before")]
    CodeWrong,
    /// There is a second factor already.
    #[error("you have a second factor; turn it off first")]
    SecondFactorEnabled,
    /// An administrator requires a second factor, and there is none yet.
    #[error("enrol a second factor first: an administrator requires one of you")]
    SecondFactorEnrolmentNeeded,
    /// The current password was asked for, and is another one.
    #[error("current_password: this is not your password")]
    CurrentPasswordWrong,
    /// Another provider does not answer as it should.
    #[error("the provider could not be used; try again later")]
    ProviderFailed,
    /// Another provider says that somebody did not want to, or may not.
    #[error("the provider did not let you in")]
    ProviderDenied,
    /// What came back from a provider does not belong to what this browser began.
    #[error("begin again: this is not what this browser asked the provider, or it took too long")]
    AttemptInvalid,
    /// Another provider does not vouch for an address.
    #[error(
        "the provider does not vouch for your e-mail address; sign in and join it to your account"
    )]
    ProviderEmailUnverified,
    /// The identity is joined to an account.
    #[error("this identity is joined to an account already")]
    IdentityTaken,
    /// The address has an account that the identity is not joined to.
    #[error("there is an account with this e-mail address; sign in and join the identity to it")]
    LinkNeeded,
    /// There would be no way to sign in left.
    #[error("this is your only way to sign in; set a password first")]
    LastWayIn,
    /// Somebody tried too often.
    #[error("too many attempts; try again later")]
    TooManyAttempts {
        /// When.
        retry_after: Duration,
    },
    /// What was to be replaced has changed meanwhile.
    #[error("it was changed meanwhile; read it again")]
    PreconditionFailed,
    /// There would be no administrator left.
    #[error("you are the last administrator; make another one first")]
    LastAdministrator,
    /// A page of another origin asked for it, or one that does not say its own.
    #[error("pages of other origins may not do this")]
    CrossOrigin,
    /// The key is for other things.
    #[error("this API key lacks what is needed: {needed}")]
    InsufficientScope {
        /// A scope, or a login.
        needed: &'static str,
    },
    /// The session has ended.
    #[error("the session has ended: {reason}")]
    SessionGone {
        /// Why.
        reason: String,
    },
    /// The session cannot do this as it is.
    #[error("the session is {status}")]
    SessionNotLive {
        /// Its status.
        status: &'static str,
    },
    /// Which session is meant cannot be told.
    #[error("you have several live sessions; name one as `session_id`")]
    SessionAmbiguous,
    /// The user has as much as they may.
    #[error("you have reached your limit: {name} {limit}")]
    QuotaReached {
        /// Of what.
        name: &'static str,
        /// How many.
        limit: u32,
        /// When to ask again, where that helps by itself.
        retry_after: Option<Duration>,
    },
    /// The instance cannot do this as it is.
    #[error("the instance is {status}")]
    InstanceNotRunning {
        /// Its status.
        status: &'static str,
    },
    /// No instance is free, and none more may be launched now.
    #[error("{reason}")]
    NoCapacity {
        /// Why.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// The agent takes no more for the moment.
    #[error("the session's agent is busy; the command was not sent")]
    AgentBusy,
    /// A person drives, or is asked for; nothing was sent.
    #[error("{by}; nothing was sent")]
    ControlHeld {
        /// Who is in the way.
        by: &'static str,
    },
    /// Somebody else drives, or nobody.
    #[error("you do not hold the session's control; take it first")]
    ControlNotHeld,
    /// The session asked a person already.
    #[error("the session waits for a person's answer already")]
    HandoffOpen,
    /// The session asks nobody for anything.
    #[error("the session waits for nobody's answer")]
    HandoffNotOpen,
    /// The command did not leave the control plane.
    #[error("the command did not reach the session's agent, and will not")]
    NotSent,
    /// The command may have run; its answer is lost.
    #[error("the command was sent and no answer came in time; whether it ran is not known")]
    OutcomeUnknown,
    /// The agent, or the browser, refused or failed.
    #[error("{}", .0.message)]
    Rejected(Rejection),
    /// The same key came with another request.
    #[error("Idempotency-Key: this key was used for another request")]
    IdempotencyMismatch,
    /// The request with this key is under way.
    #[error("the request with this Idempotency-Key is under way")]
    IdempotencyInProgress,
    /// The first answer to this key is too large to be kept.
    #[error("the request with this Idempotency-Key was done; its answer was too large to keep")]
    IdempotencyNotKept,
    /// Too much at once.
    #[error("too many requests at once; try again shortly")]
    Overloaded,
    /// The database does not answer.
    #[error("the database does not answer")]
    StoreUnavailable,
    /// A fault of ours; the text is for the log alone.
    #[error("something went wrong on our side")]
    Internal(#[source] anyhow::Error),
}

/// An error of one command, which has an id that the caller may ask for.
#[derive(Debug)]
pub struct CommandError {
    /// The command.
    pub command: CommandId,
    /// What became of it.
    pub error: Error,
}

impl Error {
    /// A field of the request that makes no sense.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            message: message.into(),
        }
    }

    /// What went wrong, for the log: what the caller sees of our own faults says
    /// nothing.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Internal(cause) => format!("{cause:#}"),
            other => other.to_string(),
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::BadCredentials => "bad_credentials",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadRequest { .. } => "bad_request",
            Self::Invalid { .. } => "invalid",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UrlBlocked(_) => "url_blocked",
            Self::EmailTaken => "email_taken",
            Self::PasswordTooCommon { .. } => "password_too_common",
            Self::RegistrationClosed => "registration_closed",
            Self::InvitationNeeded => "invitation_needed",
            Self::MailTokenInvalid => "token_invalid",
            Self::RefreshTokenInvalid => "refresh_token_invalid",
            Self::SecondFactorNeeded { .. } => "second_factor_needed",
            Self::ChallengeInvalid => "challenge_invalid",
            Self::CodeWrong => "code_wrong",
            Self::SecondFactorEnabled => "second_factor_enabled",
            Self::SecondFactorEnrolmentNeeded => "second_factor_enrolment_needed",
            Self::CurrentPasswordWrong => "current_password_wrong",
            Self::ProviderFailed => "provider_failed",
            Self::ProviderDenied => "provider_denied",
            Self::AttemptInvalid => "attempt_invalid",
            Self::ProviderEmailUnverified => "provider_email_unverified",
            Self::IdentityTaken => "identity_taken",
            Self::LinkNeeded => "link_needed",
            Self::LastWayIn => "last_way_in",
            Self::TooManyAttempts { .. } => "too_many_attempts",
            Self::PreconditionFailed => "precondition_failed",
            Self::LastAdministrator => "last_administrator",
            Self::CrossOrigin => "cross_origin",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::SessionGone { .. } => "session_gone",
            Self::SessionNotLive { .. } => "session_not_live",
            Self::SessionAmbiguous => "session_ambiguous",
            Self::QuotaReached { .. } => "quota_reached",
            Self::InstanceNotRunning { .. } => "instance_not_running",
            Self::NoCapacity { .. } => "no_capacity",
            Self::AgentBusy => "agent_busy",
            Self::ControlHeld { .. } => "control_held",
            Self::ControlNotHeld => "control_not_held",
            Self::HandoffOpen => "handoff_open",
            Self::HandoffNotOpen => "handoff_not_open",
            Self::NotSent => "not_sent",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Rejected(rejection) => rejection.code.as_str(),
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::IdempotencyInProgress => "idempotency_in_progress",
            Self::IdempotencyNotKept => "idempotency_not_kept",
            Self::Overloaded => "overloaded",
            Self::StoreUnavailable => "store_unavailable",
            Self::Internal(_) => "internal",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::BadRequest { .. } | Self::MailTokenInvalid | Self::AttemptInvalid => 400,
            Self::Unauthenticated
            | Self::BadCredentials
            | Self::RefreshTokenInvalid
            | Self::SecondFactorNeeded { .. }
            | Self::ChallengeInvalid => 401,
            Self::Forbidden(_)
            | Self::UrlBlocked(_)
            | Self::RegistrationClosed
            | Self::InvitationNeeded
            | Self::CodeWrong
            | Self::SecondFactorEnrolmentNeeded
            | Self::CurrentPasswordWrong
            | Self::CrossOrigin
            | Self::ProviderDenied
            | Self::ProviderEmailUnverified
            | Self::InsufficientScope { .. } => 403,
            Self::NotFound(_) => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTimeout => 408,
            Self::EmailTaken
            | Self::SessionNotLive { .. }
            | Self::InstanceNotRunning { .. }
            | Self::SessionAmbiguous
            | Self::ControlNotHeld
            | Self::HandoffOpen
            | Self::HandoffNotOpen
            | Self::IdempotencyInProgress
            | Self::IdempotencyNotKept
            | Self::SecondFactorEnabled
            | Self::IdentityTaken
            | Self::LinkNeeded
            | Self::LastWayIn
            | Self::LastAdministrator => 409,
            Self::SessionGone { .. } => 410,
            Self::PreconditionFailed => 412,
            Self::BodyTooLarge { .. } => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid { .. } | Self::PasswordTooCommon { .. } | Self::IdempotencyMismatch => {
                422
            }
            Self::ControlHeld { .. } => 423,
            Self::QuotaReached { .. } | Self::TooManyAttempts { .. } => 429,
            Self::NoCapacity { .. }
            | Self::AgentBusy
            | Self::NotSent
            | Self::Overloaded
            | Self::StoreUnavailable => 503,
            Self::ProviderFailed => 502,
            Self::OutcomeUnknown => 504,
            Self::Rejected(rejection) => rejection_status(rejection.code),
            Self::Internal(_) => 500,
        }
    }

    /// Whether the same request may do better later, and cannot do anything twice.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::QuotaReached { .. }
            | Self::TooManyAttempts { .. }
            | Self::NoCapacity { .. }
            | Self::AgentBusy
            | Self::ControlHeld { .. }
            | Self::NotSent
            | Self::IdempotencyInProgress
            | Self::Overloaded => true,
            Self::Rejected(rejection) => {
                matches!(rejection.code, Code::AgentBusy | Code::NotLeased)
            }
            _ => false,
        }
    }

    /// When to ask again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoCapacity { retry_after, .. }
            | Self::TooManyAttempts { retry_after }
            | Self::QuotaReached {
                retry_after: Some(retry_after),
                ..
            } => Some(*retry_after),
            _ => (self.retryable() || matches!(self.status(), 429 | 503))
                .then_some(Duration::from_secs(1)),
        }
    }

    /// The field of the request that is at fault.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::BadRequest { field, .. } => field.as_deref(),
            Self::Invalid { field, .. } => Some(field),
            Self::PasswordTooCommon { field } => Some(field),
            Self::CurrentPasswordWrong => Some("current_password"),
            Self::EmailTaken => Some("email"),
            Self::UrlBlocked(_) => Some("url"),
            _ => None,
        }
    }
}

fn rejection_status(code: Code) -> u16 {
    match code {
        Code::UrlBlocked => 403,
        Code::DialogOpen | Code::NoDialog | Code::Cancelled => 409,
        Code::SessionGone | Code::BrowserCrashed => 410,
        Code::NotLeased | Code::AgentBusy | Code::LaunchFailed => 503,
        Code::CommandTimeout | Code::NavigationTimeout => 504,
        Code::SelectorNotFound
        | Code::SelectorInvalid
        | Code::ElementNotActionable
        | Code::ScriptError
        | Code::ResultTooLarge
        | Code::NameNotResolved
        | Code::ConnectionRefused
        | Code::ConnectionFailed
        | Code::TlsError
        | Code::TooManyRedirects
        | Code::NavigationDownload
        | Code::NavigationAborted
        | Code::NavigationFailed
        | Code::ImageTooLarge
        | Code::PageCrashed
        | Code::ViewportRefused
        | Code::UserAgentRefused
        | Code::TimezoneRefused
        | Code::LocaleRefused
        | Code::BrowserError => 422,
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}
