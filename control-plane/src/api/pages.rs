//! The pages that mails lead to, where a person signs in, and the live page of a
//! session. Whoever has a frontend of their own puts its address into
//! `BROWSERFLEET_PUBLIC_URL`, with pages at the same paths.

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::error::Error;

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The one page; its script does what its path says.
pub async fn account() -> Response {
    page(HTML, include_str!("pages/account.html"))
}

/// Its script.
pub async fn script() -> Response {
    page(SCRIPT, include_str!("pages/account.js"))
}

/// Its looks.
pub async fn style() -> Response {
    page(STYLE, include_str!("pages/account.css"))
}

/// A session's live page; its script looks whether there is such a session, and whether
/// its reader may see it.
pub async fn live() -> Response {
    page(HTML, include_str!("pages/live.html"))
}

/// What the live page is made of.
pub async fn live_file(Path(name): Path<String>) -> Result<Response, Error> {
    let (kind, text) = match name.as_str() {
        "live.css" => (STYLE, include_str!("pages/live.css")),
        "live.js" => (SCRIPT, include_str!("pages/live.js")),
        "live-frame.js" => (SCRIPT, include_str!("pages/live-frame.js")),
        "live-input.js" => (SCRIPT, include_str!("pages/live-input.js")),
        "live-socket.js" => (SCRIPT, include_str!("pages/live-socket.js")),
        "live-view.js" => (SCRIPT, include_str!("pages/live-view.js")),
        _ => return Err(Error::NotFound("address")),
    };
    Ok(page(kind, text))
}

fn page(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
