//! Which pages may call: those of our own origin and those that the operator
//! names. Programs, which have no origin, may as long as they bring no cookie.

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::Front;
use crate::error::Error;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses what pages of other origins ask to change.
pub fn protection(
    origins: &[String],
) -> CsrfLayer<impl Fn(ProtectionError) -> Response + Clone + Send + Sync + 'static> {
    let mut layer = CsrfLayer::new();
    for origin in origins {
        layer = match layer.clone().add_trusted_origin(origin) {
            Ok(layer) => layer,
            // The configuration takes nothing that is no origin.
            Err(_) => layer,
        };
    }
    layer.with_rejection_response(|_: ProtectionError| Error::CrossOrigin.into_response())
}

/// Lets pages of the named origins read what is answered.
pub fn sharing(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|it| it.parse().ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            HeaderName::from_static("idempotency-key"),
        ])
        .expose_headers([
            header::ETAG,
            header::RETRY_AFTER,
            HeaderName::from_static("x-request-id"),
        ])
}

/// Whether a page asks, and not a program.
pub fn is_page(parts: &Parts) -> bool {
    parts.headers.contains_key(SEC_FETCH_SITE) || parts.headers.contains_key(header::ORIGIN)
}

/// A socket is opened by our own pages, by those of the origins that the operator names,
/// and by programs: those have no origin, and bring no cookie. Nothing else stands
/// between a foreign page and a user's cookie here, since sockets know no CORS.
///
/// # Errors
/// [`Error::CrossOrigin`]
pub fn check_socket(parts: &Parts, front: &Front) -> Result<(), Error> {
    let Some(origin) = parts.headers.get(header::ORIGIN) else {
        return if parts.headers.contains_key(header::COOKIE) {
            Err(Error::CrossOrigin)
        } else {
            Ok(())
        };
    };
    let origin = origin.to_str().map_err(|_| Error::CrossOrigin)?;
    let host = parts.headers.get(header::HOST);
    let host = host.and_then(|it| it.to_str().ok()).or_else(|| {
        // HTTP/2 has it in the address.
        parts
            .uri
            .authority()
            .map(axum::http::uri::Authority::as_str)
    });
    let own = host.is_some_and(|host| {
        let scheme = if front.tls {
            &["https://"][..]
        } else {
            &["http://", "https://"]
        };
        let rest = scheme.iter().find_map(|it| origin.strip_prefix(it));
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
    });
    if own || front.allowed_origins.iter().any(|it| it == origin) {
        Ok(())
    } else {
        Err(Error::CrossOrigin)
    }
}

/// A cookie comes along whoever asks: where something is changed, a request with
/// one has to say where it comes from, so that [`protection`] could look at it.
pub fn check_cookie(parts: &Parts) -> Result<(), Error> {
    let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if safe || is_page(parts) {
        Ok(())
    } else {
        Err(Error::CrossOrigin)
    }
}
