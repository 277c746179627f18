//! `/json/protocol`: CDP's own description, as its authors publish it.

use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::JSON;

/// Copyright The Chromium Authors, under the BSD licence that is beside it.
const DOCUMENT: &str = include_str!("protocol.json");

/// Gives it. It is no secret, and the same for all.
pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, JSON)], DOCUMENT).into_response()
}
