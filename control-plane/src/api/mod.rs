//! The doors. Here requests are parsed, one service function is called, and its
//! answer is rendered; nothing is decided. This file is the whole URL table.

pub mod body;
pub mod browser;
pub mod cdp;
pub mod client;
pub mod extract;
pub mod grpc;
pub mod idempotency;
pub mod problem;
pub mod serve;
pub mod ws;

mod admin;
mod asyncapi;
mod auth;
mod control;
mod cookies;
mod downloads;
mod ec2;
mod edge;
mod etag;
mod follow;
mod health;
mod keys;
mod metrics;
mod oauth;
mod openapi;
mod origin;
mod pages;
mod policy;
mod queue;
mod sessions;
mod shares;
mod tickets;
mod under_way;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, delete, get, patch, post, put};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::accounts::Accounts;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::sessions::Sessions;
use crate::telemetry::metrics::Metrics;

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
    /// Who stands before us, and who may call.
    pub front: Front,
    /// Who has sockets open.
    pub sockets: ws::Sockets,
}

/// What the operator says of proxies, pages and TLS.
#[derive(Clone)]
pub struct Front {
    /// Proxies whose word about addresses counts.
    pub trusted_proxies: client::TrustedProxies,
    /// Origins whose pages may call, besides our own.
    pub allowed_origins: Arc<[String]>,
    /// Where clients find us, where the operator says so; else it is as they dialed.
    pub public_url: Option<String>,
    /// Whether we are reached over TLS, so that browsers should never try without.
    pub tls: bool,
}

/// Two years, as the preload lists ask for.
const HSTS: &str = "max-age=63072000";

pub use health::Readiness;

/// The public API.
pub fn router(api: Api) -> Router {
    let browsers = Router::new()
        .route("/api/sessions", get(sessions::list).post(sessions::open))
        .route(
            "/api/sessions/{session}",
            get(sessions::show).delete(sessions::end),
        )
        .route("/api/sessions/{session}/extend", post(sessions::extend))
        .route("/api/sessions/{session}/commands", get(sessions::commands))
        .route(
            "/api/sessions/{session}/control",
            get(control::show).post(control::steer),
        )
        .route(
            "/api/sessions/{session}/handoff",
            get(control::handoff).post(control::ask),
        )
        .route(
            "/api/sessions/{session}/handoff/answer",
            post(control::answer),
        )
        .route("/api/sessions/{session}/downloads", get(downloads::list))
        .route(
            "/api/sessions/{session}/downloads/{name}",
            get(downloads::fetch),
        )
        .route("/api/queue/{session}", get(queue::show))
        .route("/api/ec2/instances", get(ec2::list).post(ec2::create))
        .route("/api/ec2/instances/{instance}", delete(ec2::end))
        .route("/api/ec2/instances/{instance}/status", get(ec2::status))
        .route("/api/ec2/instances/{instance}/restart", post(ec2::restart))
        .route("/api/ec2/instances/{instance}/drain", post(ec2::drain))
        .route("/api/ec2/instances/{instance}/journal", get(ec2::journal))
        .route("/api/ec2/pool", get(ec2::pool).put(ec2::change_pool))
        .route("/api/browser/navigate", post(browser::navigate))
        .route("/api/browser/click", post(browser::click))
        .route("/api/browser/type", post(browser::type_text))
        .route("/api/browser/screenshot", post(browser::screenshot))
        .route("/api/browser/execute", post(browser::execute))
        .route("/api/browser/scroll", post(browser::scroll))
        .route("/api/browser/dialog", post(browser::dialog))
        .route("/api/browser/state", get(browser::state))
        // What keeps answers is not laid around accounts: those have secrets in them.
        .layer(from_fn_with_state(api.clone(), idempotency::once));
    let accounts = Router::new()
        .route(
            "/api/users/me",
            get(users::me)
                .put(users::update_me)
                .delete(users::delete_me),
        )
        .route("/api/users/me/password", post(users::change_password))
        .route(
            "/api/users/me/second-factor",
            get(users::second_factor)
                .post(users::propose_second_factor)
                .delete(users::disable_second_factor),
        )
        .route(
            "/api/users/me/second-factor/confirm",
            post(users::confirm_second_factor),
        )
        .route(
            "/api/users/me/second-factor/recovery-codes",
            post(users::new_recovery_codes),
        )
        .route(
            "/api/users/settings",
            get(users::settings).put(users::replace_settings),
        )
        .route(
            "/api/auth/sessions",
            get(auth::logins).delete(auth::end_other_logins),
        )
        .route("/api/auth/sessions/{login}", delete(auth::end_login))
        .route("/api/users/me/identities", get(oauth::identities))
        .route("/api/users/me/identities/{identity}", delete(oauth::unlink))
        .route("/api/keys", get(keys::list).post(keys::create))
        .route("/api/keys/{key}", delete(keys::revoke))
        .route("/api/ws-ticket", post(tickets::issue))
        .route(
            "/api/sessions/{session}/shares",
            get(shares::list).post(shares::create),
        )
        .route(
            "/api/sessions/{session}/shares/{share}",
            delete(shares::revoke),
        )
        .route(
            "/api/admin/users",
            get(admin::users).post(admin::create_user),
        )
        .route(
            "/api/admin/users/{user}",
            get(admin::user).merge(patch(admin::change_user)),
        )
        .route(
            "/api/admin/users/{user}/second-factor",
            delete(admin::reset_second_factor),
        )
        .route(
            "/api/admin/users/{user}/sessions",
            delete(admin::end_logins),
        )
        .route("/api/admin/invitations", post(admin::invite))
        .route("/api/admin/audit", get(admin::audit));
    let known = browsers
        .merge(accounts)
        // Outside of idempotency: a request is authenticated, then looked up by key.
        .layer(from_fn_with_state(api.clone(), extract::authenticate));
    let open = Router::new()
        .route("/api/auth/register", post(auth::register))
        .route("/api/auth/verify-email", post(auth::verify_email))
        .route(
            "/api/auth/verify-email/resend",
            post(auth::resend_verification),
        )
        .route("/api/auth/login", post(auth::login))
        .route(
            "/api/auth/login/second-factor",
            post(auth::login_with_second_factor),
        )
        .route("/api/auth/refresh-token", post(auth::refresh))
        .route("/api/auth/logout", post(auth::logout))
        .route("/api/auth/forgot-password", post(auth::forgot_password))
        .route("/api/auth/reset-password", post(auth::reset_password))
        .route("/api/shares/redeem", post(shares::redeem))
        .route("/api/auth/oauth", get(oauth::providers))
        .route("/api/auth/oauth/{provider}", get(oauth::begin))
        .route("/api/auth/oauth/{provider}/callback", get(oauth::callback))
        .route("/", get(pages::account))
        .route("/verify-email", get(pages::account))
        .route("/reset-password", get(pages::account))
        .route("/accept-invitation", get(pages::account))
        .route("/account.js", get(pages::script))
        .route("/account.css", get(pages::style))
        .route("/live/{session}", get(pages::live))
        .route("/pages/{file}", get(pages::live_file))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi::document))
        .route("/asyncapi.json", get(asyncapi::document))
        .route("/ws", any(ws::open))
        .route("/json/version", get(cdp::version))
        .route("/json/version/", get(cdp::version))
        .route("/json", get(cdp::list))
        .route("/json/list", get(cdp::list))
        .route("/json/protocol", get(cdp::protocol))
        .route("/json/new", put(cdp::open))
        .route("/json/activate/{target}", get(cdp::activate))
        .route("/json/close/{target}", get(cdp::close))
        .route("/devtools/browser/{session}", any(cdp::browser))
        .route("/devtools/page/{target}", any(cdp::page));
    let front = api.front.clone();
    let hsts = HeaderValue::from_static(HSTS);
    known
        .merge(open)
        .merge(grpc::services(&api))
        .method_not_allowed_fallback(|| async { Error::MethodNotAllowed })
        .fallback(|| async { Error::NotFound("address") })
        .layer(origin::protection(&front.allowed_origins))
        .layer(origin::sharing(&front.allowed_origins))
        .layer(from_fn_with_state(front.trusted_proxies, client::identify))
        .layer(from_fn(edge::around))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::STRICT_TRANSPORT_SECURITY,
            move |_: &axum::response::Response| front.tls.then(|| hsts.clone()),
        ))
        .with_state(api)
}

/// What Prometheus reaches, on an address of its own.
pub fn metrics_router(metrics: Arc<Metrics>) -> Router {
    metrics::router(metrics)
}

/// What agents reach, on their own port.
pub fn agent_router(api: &Api) -> Router {
    grpc::router(api)
}
