//! The JSON body of a request: bounded in bytes and time, strict in form, and
//! where it is refused, the field that is at fault is named.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Largest body, in bytes: the largest text that may be typed, escaped at its
/// worst (six bytes for one), would be six times as much; nobody types that.
pub const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The whole body, not yet read as JSON; what idempotency keeps a print of.
pub struct Raw(pub Bytes);

impl<S: Sync> FromRequest<S> for Raw {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let too_large = || Error::BodyTooLarge {
            limit_bytes: BODY_BYTES_MAX,
        };
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
            return Err(too_large());
        }
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
        match tokio::time::timeout(BODY_DEADLINE, body).await {
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
                Err(too_large())
            }
            Ok(Err(_)) => Err(Error::BadRequest {
                field: None,
                message: "the body could not be read to its end".into(),
            }),
            Err(_) => Err(Error::BodyTimeout),
        }
    }
}

/// A body that has to be there, as JSON.
pub struct Body<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        require_json(request.headers())?;
        let Raw(bytes) = Raw::from_request(request, state).await?;
        parse(&bytes).map(Self)
    }
}

/// A body that may be left out: then it is `{}`.
pub struct OptionalBody<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for OptionalBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let described = require_json(request.headers());
        let Raw(bytes) = Raw::from_request(request, state).await?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        described?;
        parse(&bytes).map(Self)
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Error> {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    match media_type {
        Some(it) if it.eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(Error::UnsupportedMediaType),
    }
}

/// Reads JSON: what is no JSON is 400, what has the wrong fields 422.
///
/// # Errors
/// With the path of the field at fault.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let message = message_of(&inner);
            let field = match unknown_field(&message) {
                Some(name) if path == "." => name.to_owned(),
                _ if path == "." => "body".to_owned(),
                _ => path,
            };
            Error::Invalid { field, message }
        } else {
            Error::BadRequest {
                field: (path != ".").then_some(path),
                message: format!("the body is not JSON: {inner}"),
            }
        }
    })?;
    json.end().map_err(|error| Error::BadRequest {
        field: None,
        message: format!("the body is not one JSON value: {error}"),
    })?;
    Ok(value)
}

/// The message without its position, which counts bytes that nobody sees.
fn message_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

fn unknown_field(message: &str) -> Option<&str> {
    message
        .strip_prefix("unknown field `")
        .or_else(|| message.strip_prefix("missing field `"))
        .or_else(|| message.strip_prefix("duplicate field `"))?
        .split('`')
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its form counts")]
    struct Outer {
        inner: Inner,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its form counts")]
    struct Inner {
        number: u8,
    }

    fn field_of(text: &str) -> Option<String> {
        let error = parse::<Outer>(text.as_bytes()).expect_err("it is refused");
        error.field().map(str::to_owned)
    }

    #[test]
    fn the_field_at_fault_is_named() {
        assert_eq!(
            field_of(r#"{"inner":{"number":300}}"#).as_deref(),
            Some("inner.number")
        );
        assert_eq!(field_of(r#"{"outer":1}"#).as_deref(), Some("outer"));
        assert_eq!(field_of("{}").as_deref(), Some("inner"));
    }

    #[test]
    fn what_is_no_json_is_a_bad_request() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{",
            "NaN",
            "{\"inner\":{\"number\":1}} x",
            &deep,
            r#""\ud800""#,
        ] {
            let error = parse::<Outer>(text.as_bytes()).expect_err("it is refused");
            assert!(matches!(error.status(), 400 | 422), "{text:.20}: {error}");
        }
    }
}
