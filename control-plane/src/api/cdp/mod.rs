//! Chrome's own doors, for clients of CDP: what `/json` tells, and the sockets that it
//! names. What is said on those is Chrome's business and the client's; here is decided
//! who may say it, and to which browser.
//!
//! A client that names no session gets one of its own, which ends with its connection.

mod address;
mod handshake;
mod pass;
mod protocol;
mod sockets;
mod targets;
mod wire;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::Api;
use crate::error::Error;
use crate::sessions::OwnedSession;
use address::Address;
use pass::Visitor;

pub use protocol::document as protocol;
pub use sockets::{browser, page};
pub use targets::{activate, close, list, open};

/// As Chrome names it.
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
/// The name in a socket's address of a session that is yet to be opened.
const NEW: &str = "new";

#[derive(Serialize)]
struct VersionView {
    #[serde(rename = "Browser")]
    browser: String,
    #[serde(rename = "Protocol-Version")]
    protocol: String,
    #[serde(rename = "User-Agent")]
    user_agent: String,
    #[serde(rename = "V8-Version")]
    v8: String,
    #[serde(rename = "webSocketDebuggerUrl")]
    socket: String,
}

/// Says which browser this is, and where its socket is. Where no session is named, the
/// browser is not there yet: dialing the socket opens one.
///
/// # Errors
/// Where the caller may not, or the session is not live.
pub async fn version(State(api): State<Api>, request: Request) -> Result<Response, Error> {
    let (parts, _) = request.into_parts();
    let visitor = Visitor::of(&api, &parts).await?;
    let address = Address::of(&api.front, &parts)?;
    let session = visitor.named_session(&api).await?;
    let known = match &session {
        Some(session) => {
            let nothing = json!({});
            api.sessions
                .ask_browser(session, "Browser.getVersion", nothing)
                .await?
        }
        None => Value::Null,
    };
    let text = |key: &str, otherwise: &str| known[key].as_str().unwrap_or(otherwise).to_owned();
    let own = concat!("Browserfleet/", env!("CARGO_PKG_VERSION"));
    let id = session.as_ref().map(OwnedSession::id);
    let name = id.map_or_else(|| NEW.to_owned(), |it| it.to_string());
    let ticket = visitor.ticket(&api, id).await?;
    let keep_alive = if visitor.keep_alive {
        "&keep_alive=true"
    } else {
        ""
    };
    let path = format!("/devtools/browser/{name}?token={ticket}{keep_alive}");
    Ok(shown(&VersionView {
        browser: text("product", own),
        protocol: text("protocolVersion", "1.3"),
        user_agent: text("userAgent", own),
        v8: text("jsVersion", ""),
        socket: address.socket(&path),
    }))
}

fn shown(view: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(view) {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], text).into_response(),
        Err(error) => Error::Internal(error.into()).into_response(),
    }
}
