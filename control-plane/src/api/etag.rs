//! `ETag` and `If-Match`: what is replaced is what was read.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use crate::error::Error;

/// The tag of a version.
pub(super) fn etag_of(version: i64) -> String {
    format!("\"{version}\"")
}

/// An answer that carries its tag.
pub(super) fn with_etag(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// The version that `If-Match` names; without it, or with `*`, any. What was
/// never an ETag of ours matches nothing.
pub(super) fn expected_of(headers: &HeaderMap) -> Result<Option<i64>, Error> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    if value == "*" {
        return Ok(None);
    }
    let version = value
        .to_str()
        .ok()
        .and_then(|it| it.trim_matches('"').parse().ok());
    version.map(Some).ok_or(Error::PreconditionFailed)
}
