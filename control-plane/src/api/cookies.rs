//! What browsers keep for us. `__Host-` binds a cookie to this host, all of it,
//! over TLS (or on localhost); scripts cannot read it, other sites cannot send it.

use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use cookie::{Cookie, SameSite};

/// The access token.
pub const ACCESS: &str = "__Host-browserfleet-access";
/// The refresh token.
pub const REFRESH: &str = "__Host-browserfleet-refresh";

/// What was begun with another provider.
pub const ATTEMPT: &str = "__Host-browserfleet-attempt";
/// That the first factor was shown, at another provider.
pub const CHALLENGE: &str = "__Host-browserfleet-challenge";

/// A cookie of the request.
pub fn read<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts
        .headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(';'))
        .filter_map(|it| it.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value)
}

/// Has the browser keep a value.
pub fn set(
    headers: &mut HeaderMap,
    name: &'static str,
    value: &str,
    life: Duration,
    site: SameSite,
) {
    let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let cookie = Cookie::build((name, value))
        .path("/")
        .secure(true)
        .http_only(true)
        .same_site(site)
        .max_age(cookie::time::Duration::seconds(seconds))
        .build();
    if let Ok(value) = HeaderValue::from_str(&cookie.to_string()) {
        headers.append(header::SET_COOKIE, value);
    }
}

/// Has the browser forget a value.
pub fn clear(headers: &mut HeaderMap, name: &'static str, site: SameSite) {
    set(headers, name, "", Duration::ZERO, site);
}
