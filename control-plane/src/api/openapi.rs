//! `/openapi.json`

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// The document is a file of its own; a test checks it against the URL table.
const DOCUMENT: &str = include_str!("openapi.json");

/// What the API is.
pub async fn document() -> Response {
    let mut response = DOCUMENT.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
