//! Until when a caller waits: the `grpc-timeout` of the call.

use std::future::{Future, pending};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use super::refusal::Refusal;
use crate::error::Error;

/// Digits that the protocol allows.
const DIGITS_MAX: usize = 8;

/// When the caller stops waiting, if ever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// What a call's metadata says.
    ///
    /// # Errors
    /// Where it is no time.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Self, Error> {
        let Some(said) = metadata.get("grpc-timeout") else {
            return Ok(Self(None));
        };
        let left = said.to_str().ok().and_then(duration_of);
        let left = left.ok_or_else(|| Error::invalid("grpc-timeout", "is no time"))?;
        // What is beyond the end of time is never.
        Ok(Self(Instant::now().checked_add(left)))
    }

    /// How long the caller still waits; `None`: for ever.
    pub(super) fn left(self) -> Option<Duration> {
        self.0
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Resolves once the caller waits no longer.
    pub(super) async fn passed(self) {
        match self.0 {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    }

    /// Works for as long as the caller waits; then the work is dropped.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`, or what the work ends with.
    pub(super) async fn hold<T, E: Into<Refusal>>(
        self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Response<T>, Status> {
        let done = match self.0 {
            Some(at) => timeout_at(at, work).await.map_err(|_| exceeded())?,
            None => work.await,
        };
        Ok(done.map(Response::new).map_err(Into::into)?)
    }
}

/// What a caller who waits no longer is told.
pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("the call's own deadline has passed")
}

/// Up to eight digits, and a unit.
fn duration_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = digits.bytes().all(|it| it.is_ascii_digit());
    if !plain || digits.len() > DIGITS_MAX {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_the_protocol_writes_it() {
        assert_eq!(duration_of("1S"), Some(Duration::from_secs(1)));
        assert_eq!(duration_of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            duration_of("99999999n"),
            Some(Duration::from_nanos(99_999_999))
        );
        assert_eq!(duration_of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(
            duration_of("99999999H").map(|it| it.as_secs()),
            Some(359_999_996_400)
        );
        for wrong in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1é", "+1S"] {
            assert_eq!(duration_of(wrong), None, "{wrong}");
        }
    }
}
