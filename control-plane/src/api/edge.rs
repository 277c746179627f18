//! What happens around every request: it gets an id, its time is taken, a panic
//! in it is a 500, and what is for the log alone is logged, once.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::RequestId;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use tracing::Instrument;

use super::problem::InternalCause;
use crate::error::Error;
use crate::telemetry::metrics;

/// Largest problem that is rewritten to carry the request's id, in bytes.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// The outermost layer.
pub async fn around(request: Request, next: Next) -> Response {
    let id = RequestId::new();
    let started = Instant::now();
    let method = name_of(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        method = %request.method(),
        path = %request.uri().path(),
        user.id = tracing::field::Empty,
    );
    async move {
        let response = AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| {
                Error::Internal(anyhow::anyhow!("the request's handler panicked")).into_response()
            });
        let took = started.elapsed();
        let route = route.as_ref().map(MatchedPath::as_str);
        metrics::request(method, route, response.status().as_u16(), took);
        if let Some(InternalCause(cause)) = response.extensions().get() {
            tracing::error!(cause, "a request failed on our side");
        }
        tracing::debug!(status = response.status().as_u16(), ?took, "answered");
        finish(response, id).await
    }
    .instrument(span)
    .await
}

/// A method as a label; a client may make up as many as it likes.
fn name_of(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

async fn finish(response: Response, id: RequestId) -> Response {
    let mut response = if is_problem(&response) {
        with_request_id(response, id).await
    } else {
        response
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert("x-request-id", value);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // What the API answers is no page: nothing in it runs, and nobody frames it.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    // What the API answers belongs to one user; nothing in between keeps it.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

fn is_problem(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|it| it == "application/problem+json")
}

async fn with_request_id(response: Response, id: RequestId) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = http_body_util::Limited::new(body, PROBLEM_BYTES_MAX)
        .collect()
        .await
    else {
        return parts.status.into_response();
    };
    let mut text = body.to_bytes().to_vec();
    if text.last() == Some(&b'}') {
        text.pop();
        text.extend_from_slice(format!(",\"request_id\":\"{id}\"}}").as_bytes());
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, text.into())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn panicking() -> &'static str {
        panic!("as the test says")
    }

    async fn ask(router: &Router, path: &str) -> (u16, serde_json::Value) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        assert!(response.headers().contains_key("x-request-id"));
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body");
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        (status, body)
    }

    #[tokio::test]
    async fn a_panic_is_a_500_that_tells_nothing_and_hurts_nobody_else() {
        let router = Router::new()
            .route("/panic", get(panicking))
            .route("/fine", get(|| async { "1" }))
            .layer(from_fn(around));
        let (status, body) = ask(&router, "/panic").await;
        assert_eq!((status, &body["code"]), (500, &"internal".into()));
        assert!(body["request_id"].is_string());
        assert!(!body.to_string().contains("as the test says"), "{body}");
        assert_eq!(ask(&router, "/fine").await, (200, 1.into()));
    }
}
