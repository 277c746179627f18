//! The doors. Here requests are parsed, one service function is called, and its
//! answer is rendered; nothing is decided. This file is the whole URL table.

pub mod body;
pub mod browser;
pub mod extract;
pub mod grpc;
pub mod idempotency;
pub mod problem;
pub mod serve;

mod auth;
mod edge;
mod health;
mod openapi;
mod sessions;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::accounts::Accounts;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::sessions::Sessions;

/// The services that the doors call.
#[derive(Clone)]
pub struct Api {
    /// Users and their credentials.
    pub accounts: Arc<Accounts>,
    /// Browsers.
    pub sessions: Arc<Sessions>,
    /// Instances.
    pub fleet: Arc<Fleet>,
    /// What was answered to which `Idempotency-Key`.
    pub answered: idempotency::Answered,
    /// Whether requests are taken.
    pub readiness: health::Readiness,
}

pub use health::Readiness;

/// The public API.
pub fn router(api: Api) -> Router {
    let known = Router::new()
        .route("/api/users/me", get(users::me))
        .route(
            "/api/users/settings",
            get(users::settings).put(users::replace_settings),
        )
        .route("/api/sessions", get(sessions::list).post(sessions::open))
        .route(
            "/api/sessions/{session}",
            get(sessions::show).delete(sessions::end),
        )
        .route("/api/sessions/{session}/extend", post(sessions::extend))
        .route("/api/sessions/{session}/commands", get(sessions::commands))
        .route("/api/browser/navigate", post(browser::navigate))
        .route("/api/browser/click", post(browser::click))
        .route("/api/browser/type", post(browser::type_text))
        .route("/api/browser/screenshot", post(browser::screenshot))
        .route("/api/browser/execute", post(browser::execute))
        .route("/api/browser/scroll", post(browser::scroll))
        .route("/api/browser/dialog", post(browser::dialog))
        .route("/api/browser/state", get(browser::state))
        // The innermost first: a request is authenticated, then looked up by key.
        .layer(from_fn_with_state(api.clone(), idempotency::once))
        .layer(from_fn_with_state(api.clone(), extract::authenticate));
    let open = Router::new()
        .route("/api/auth/register", post(auth::register))
        .route("/api/auth/login", post(auth::login))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi::document));
    known
        .merge(open)
        .method_not_allowed_fallback(|| async { Error::MethodNotAllowed })
        .fallback(|| async { Error::NotFound("address") })
        .layer(from_fn(edge::around))
        .with_state(api)
}

/// What agents reach, on their own port.
pub fn agent_router(api: &Api) -> Router {
    grpc::router(api)
}
