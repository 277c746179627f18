//! `/asyncapi.json`

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// The document is a file of its own; a test holds every message on a socket against it.
const DOCUMENT: &str = include_str!("asyncapi.json");

/// What is said on `/ws`.
pub async fn document() -> Response {
    let mut response = DOCUMENT.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
