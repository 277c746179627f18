//! What an answer of AWS's means, told by its code.
//!
//! Not by its status: capacity and throttling come as 5xx, like failures after
//! which a machine may well be there. What has no code that is known is taken
//! for what costs least if it is wrong: a 4xx was refused, all else is unknown.

use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};

use super::limits::NoTurn;
use crate::domain::offering::Shortage;
use crate::provider::{Error, Fault, LaunchError};

/// Too many calls, whoever counted them.
const THROTTLED: &[&str] = &[
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TooManyUpdates",
];
/// AWS's own failures, after which anything may have been done.
const FAILED: &[&str] = &[
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "Unavailable",
];
/// There are no machines of this kind in this place.
const NO_CAPACITY: &[&str] = &[
    "InsufficientCapacity",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    // The kind is not had in this zone, or not in this way.
    "Unsupported",
    "UnsupportedOperation",
];
/// There is no place left in this subnet, or no such subnet.
const NO_ADDRESSES: &[&str] = &[
    "InsufficientAddressCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InvalidSubnet",
    "InvalidSubnetID.NotFound",
];
/// The account may not have more. No other zone helps.
const NO_QUOTA: &[&str] = &[
    "InstanceLimitExceeded",
    "MaxIOPSLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "NetworkInterfaceLimitExceeded",
    "PendingVerification",
    "ResourceCountExceeded",
    "VcpuLimitExceeded",
    "VolumeLimitExceeded",
];
/// Made a moment ago, and not seen everywhere yet.
const NOT_YET: &[&str] = &["InvalidGroup.NotFound", "NoSuchEntity"];
/// What there is not, or not yet.
const NOT_FOUND: &[&str] = &[
    "InvalidInstanceID.NotFound",
    "InvocationDoesNotExist",
    "ParameterNotFound",
    // Of Run Command: its agent on the machine has not called in.
    "InvalidInstanceId",
];

/// Characters of a message that are kept: a refused permission comes with
/// kilobytes that only AWS can read.
const MESSAGE_MAX: usize = 500;

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) struct Failure {
    /// AWS's, without the `Client.` or `Server.` that some have before them.
    code: Option<String>,
    message: String,
    sent: Sent,
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It could not be written.
    No,
    /// Nobody can tell.
    Perhaps,
    /// It was answered with this status.
    Answered(u16),
}

impl Failure {
    /// What the SDK says of it.
    pub fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let sent = match error {
            SdkError::ConstructionFailure(_) => Sent::No,
            SdkError::ServiceError(answered) => Sent::Answered(answered.raw().status().as_u16()),
            _ => Sent::Perhaps,
        };
        let known = error.as_service_error();
        let code = known.and_then(ProvideErrorMetadata::code);
        let message = known.and_then(ProvideErrorMetadata::message);
        let message = match (message, sent) {
            (Some(message), _) => message.to_owned(),
            (None, Sent::Answered(status)) => format!("status {status}: {}", chain(error)),
            (None, _) => chain(error),
        };
        Self {
            code: code.map(|it| bare(it).to_owned()),
            message: message.chars().take(MESSAGE_MAX).collect(),
            sent,
        }
    }

    /// It could not even be written.
    pub fn of_writing(error: &dyn std::error::Error) -> Self {
        Self {
            code: None,
            message: chain(error),
            sent: Sent::No,
        }
    }

    /// AWS's code; nothing where there is none.
    pub fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_default()
    }

    /// AWS's words, or the SDK's.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What it means for a launch.
    pub fn of_launch(self) -> LaunchError {
        let code = self.code();
        match code {
            "IdempotentParameterMismatch" => return LaunchError::Mismatch(self.message),
            "IdempotentInstanceTerminated" => return LaunchError::Spent,
            _ => {}
        }
        match self.fault() {
            Fault::Throttled => LaunchError::Throttled(self.to_string()),
            Fault::Unknown if self.shortage() == Shortage::Request => {
                LaunchError::Unknown(self.to_string())
            }
            _ => LaunchError::Refused {
                shortage: self.shortage(),
                code: self.code.unwrap_or_else(|| "RequestNotWritten".into()),
                message: self.message,
            },
        }
    }

    /// What it means for any other call.
    pub fn of_call(self, doing: &'static str) -> Error {
        Error {
            doing,
            fault: self.fault(),
            reason: self.to_string(),
        }
    }

    /// What it means for the start of a stopped machine.
    pub fn of_start(self, doing: &'static str) -> Error {
        let no_room = matches!(
            self.shortage(),
            Shortage::Capacity | Shortage::Addresses | Shortage::Quota
        );
        let mut error = self.of_call(doing);
        if no_room {
            error.fault = Fault::NoCapacity;
        }
        error
    }

    /// How it failed.
    pub fn fault(&self) -> Fault {
        let code = self.code();
        if THROTTLED.contains(&code) {
            return Fault::Throttled;
        }
        if NOT_FOUND.contains(&code) {
            return Fault::NotFound;
        }
        match self.sent {
            Sent::No => Fault::Refused,
            // A 4xx without a code is somebody's on the way.
            Sent::Answered(400..=499) if self.code.is_some() && !FAILED.contains(&code) => {
                Fault::Refused
            }
            Sent::Answered(_) | Sent::Perhaps => Fault::Unknown,
        }
    }

    /// What was short, where a launch was refused.
    fn shortage(&self) -> Shortage {
        let code = self.code();
        let is_one_of = |codes: &[&str]| codes.contains(&code);
        // One code for every bad value; only the message tells which.
        let profile = code == "InvalidParameterValue"
            && self
                .message
                .to_ascii_lowercase()
                .contains("iaminstanceprofile");
        if is_one_of(NO_CAPACITY) {
            Shortage::Capacity
        } else if is_one_of(NO_ADDRESSES) {
            Shortage::Addresses
        } else if is_one_of(NO_QUOTA) {
            Shortage::Quota
        } else if is_one_of(NOT_YET) || profile {
            Shortage::NotYet
        } else {
            Shortage::Request
        }
    }
}

/// Ours is no other throttle than theirs.
impl From<NoTurn> for Failure {
    fn from(no_turn: NoTurn) -> Self {
        Self {
            code: Some("Throttling".into()),
            message: no_turn.to_string(),
            sent: Sent::No,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{code}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// An error and what it came from.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn bare(code: &str) -> &str {
    code.strip_prefix("Client.")
        .or_else(|| code.strip_prefix("Server."))
        .unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, code: &str) -> Failure {
        Failure {
            code: Some(bare(code).into()),
            message: "words".into(),
            sent: Sent::Answered(status),
        }
    }

    fn nameless(sent: Sent) -> Failure {
        Failure {
            code: None,
            message: "words".into(),
            sent,
        }
    }

    /// In one word, so that a table is a table.
    fn class(failure: Failure) -> &'static str {
        match failure.of_launch() {
            LaunchError::Refused { shortage, .. } => match shortage {
                Shortage::Capacity => "capacity",
                Shortage::Addresses => "addresses",
                Shortage::Quota => "quota",
                Shortage::NotYet => "not yet",
                Shortage::Request => "request",
            },
            LaunchError::Throttled(_) => "throttled",
            LaunchError::Unknown(_) => "unknown",
            LaunchError::Spent => "spent",
            LaunchError::Mismatch(_) => "mismatch",
        }
    }

    #[test]
    fn a_launch_is_judged_by_code_whatever_the_status() {
        let table = [
            ("InsufficientInstanceCapacity", 500, "capacity"),
            ("Server.InsufficientInstanceCapacity", 503, "capacity"),
            ("InsufficientHostCapacity", 500, "capacity"),
            ("InsufficientReservedInstanceCapacity", 400, "capacity"),
            ("UnfulfillableCapacity", 400, "capacity"),
            ("Unsupported", 400, "capacity"),
            ("SpotMaxPriceTooLow", 400, "capacity"),
            ("InsufficientFreeAddressesInSubnet", 400, "addresses"),
            ("InsufficientFreeAddressesInSubnet", 500, "addresses"),
            ("InvalidSubnetID.NotFound", 400, "addresses"),
            ("VcpuLimitExceeded", 400, "quota"),
            ("MaxSpotInstanceCountExceeded", 400, "quota"),
            ("InstanceLimitExceeded", 400, "quota"),
            ("VolumeLimitExceeded", 400, "quota"),
            ("PendingVerification", 400, "quota"),
            ("InvalidGroup.NotFound", 400, "not yet"),
            ("NoSuchEntity", 404, "not yet"),
            ("RequestLimitExceeded", 503, "throttled"),
            ("Client.RequestLimitExceeded", 400, "throttled"),
            ("Throttling", 400, "throttled"),
            ("ThrottlingException", 400, "throttled"),
            ("InternalError", 500, "unknown"),
            ("InternalFailure", 500, "unknown"),
            ("Unavailable", 503, "unknown"),
            ("ServiceUnavailable", 503, "unknown"),
            ("RequestTimeout", 408, "unknown"),
            ("WasNotHeardOfBefore", 500, "unknown"),
            ("WasNotHeardOfBefore", 400, "request"),
            ("InvalidParameterValue", 400, "request"),
            ("InvalidAMIID.NotFound", 400, "request"),
            ("InvalidLaunchTemplateId.NotFound", 400, "request"),
            ("UnauthorizedOperation", 403, "request"),
            ("AuthFailure", 401, "request"),
            ("IdempotentParameterMismatch", 400, "mismatch"),
            ("IdempotentInstanceTerminated", 400, "spent"),
        ];
        for (code, status, expected) in table {
            assert_eq!(class(answered(status, code)), expected, "{code} {status}");
        }
    }

    #[test]
    fn no_answer_and_no_code_is_unknown() {
        for sent in [
            Sent::Perhaps,
            Sent::Answered(502),
            Sent::Answered(500),
            Sent::Answered(413),
        ] {
            assert_eq!(class(nameless(sent)), "unknown", "{sent:?}");
        }
    }

    #[test]
    fn what_was_never_sent_made_nothing() {
        assert_eq!(class(nameless(Sent::No)), "request");
        assert_eq!(nameless(Sent::No).fault(), Fault::Refused);
    }

    #[test]
    fn a_profile_that_is_not_known_yet_is_told_from_other_bad_values() {
        let mut failure = answered(400, "InvalidParameterValue");
        failure.message = "Value (browserfleet-agent) for parameter iamInstanceProfile.name is \
                           invalid. Invalid IAM Instance Profile name"
            .into();
        assert_eq!(class(failure), "not yet");
    }

    #[test]
    fn other_calls_are_judged_by_the_same_codes() {
        let table = [
            ("InvalidInstanceID.NotFound", 400, Fault::NotFound),
            ("ParameterNotFound", 400, Fault::NotFound),
            ("InvalidInstanceId", 400, Fault::NotFound),
            ("OperationNotPermitted", 400, Fault::Refused),
            ("IncorrectInstanceState", 400, Fault::Refused),
            ("UnauthorizedOperation", 403, Fault::Refused),
            ("AccessDeniedException", 400, Fault::Refused),
            ("RequestLimitExceeded", 503, Fault::Throttled),
            ("ThrottlingException", 400, Fault::Throttled),
            ("TooManyUpdates", 400, Fault::Throttled),
            ("InternalError", 500, Fault::Unknown),
            ("InternalServerError", 500, Fault::Unknown),
        ];
        for (code, status, expected) in table {
            assert_eq!(answered(status, code).fault(), expected, "{code}");
        }
        assert_eq!(nameless(Sent::Answered(500)).fault(), Fault::Unknown);
    }

    #[test]
    fn no_code_is_in_two_lists() {
        let mut all: Vec<&str> = [
            THROTTLED,
            FAILED,
            NO_CAPACITY,
            NO_ADDRESSES,
            NO_QUOTA,
            NOT_YET,
            NOT_FOUND,
        ]
        .concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
