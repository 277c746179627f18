//! The pages that mails lead to, and where a person signs in. Whoever has a
//! frontend of their own puts its address into `BROWSERFLEET_PUBLIC_URL`, with
//! pages at the same paths.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The one page; its script does what its path says.
pub async fn account() -> Response {
    page(
        "text/html; charset=utf-8",
        include_str!("pages/account.html"),
    )
}

/// Its script.
pub async fn script() -> Response {
    page(
        "text/javascript; charset=utf-8",
        include_str!("pages/account.js"),
    )
}

/// Its looks.
pub async fn style() -> Response {
    page("text/css; charset=utf-8", include_str!("pages/account.css"))
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
