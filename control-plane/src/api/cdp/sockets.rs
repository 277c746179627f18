//! `/devtools/browser/…` and `/devtools/page/…`: whoever may not is told so before the
//! socket is one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::NEW;
use super::handshake::Handshake;
use super::pass::Visitor;
use super::wire::{self, Client};
use crate::api::Api;
use crate::error::Error;
use crate::sessions::{OwnedSession, Sessions, Tunnel, TunnelWish, Wish};

/// How long an instance is waited for where the client names no session. Some clients
/// give up on all of their connecting after 15 s.
const OPENING_WAIT: Duration = Duration::from_secs(10);
/// Which session a client has, where it did not name one.
const SESSION_HEADER: HeaderName = HeaderName::from_static("x-browserfleet-session");

/// A session that was opened for one client, and goes when it does.
struct Opened {
    sessions: Arc<Sessions>,
    /// `None`: it stays.
    session: Option<OwnedSession>,
}

impl Opened {
    /// It stays when its client goes.
    fn keep(mut self) {
        self.session = None;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let sessions = Arc::clone(&self.sessions);
        self.sessions.tasks().spawn("end a client's session", async move {
            if let Err(error) = sessions.end(&session, "client_left").await {
                tracing::warn!(session.id = %session.id(), %error, "could not end a client's session");
            }
        });
    }
}

/// A socket to a browser.
///
/// # Errors
/// Where the caller may not, there is no such session or it is not live, or none can be
/// opened.
pub async fn browser(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Error> {
    let (mut parts, _) = request.into_parts();
    let visitor = Visitor::of(&api, &parts).await?;
    let handshake = match Handshake::of(&mut parts, &api).await {
        Ok(handshake) => handshake,
        Err(refused) => return Ok(refused),
    };
    let (session, opened) = if name == NEW {
        match visitor.named_session(&api).await? {
            Some(session) => (session, None),
            None => {
                let (session, opened) = open(&api, &visitor).await?;
                (session, Some(opened))
            }
        }
    } else {
        (visitor.session(&api, &name).await?, None)
    };
    let wish = TunnelWish {
        target: None,
        keeps_browser: visitor.keep_alive,
    };
    let tunnel = api.sessions.tunnel(&session, wish).await?;
    let opened = match opened {
        Some(opened) if visitor.keep_alive => {
            opened.keep();
            None
        }
        other => other,
    };
    Ok(carry(
        &api, handshake, &parts, &visitor, tunnel, opened, &session,
    ))
}

/// A socket to one page.
///
/// # Errors
/// Where the caller may not, or there is no such page in a session of theirs.
pub async fn page(
    State(api): State<Api>,
    Path(target): Path<String>,
    request: Request,
) -> Result<Response, Error> {
    let (mut parts, _) = request.into_parts();
    let visitor = Visitor::of(&api, &parts).await?;
    let handshake = match Handshake::of(&mut parts, &api).await {
        Ok(handshake) => handshake,
        Err(refused) => return Ok(refused),
    };
    // Clients that keep nothing of an address but its query name a page alone: its name
    // is unique among all sessions.
    let sessions = match visitor.named_session(&api).await? {
        Some(session) => vec![session],
        None => api.sessions.live_of(visitor.user()),
    };
    let tries = sessions.into_iter().map(|session| async {
        let wish = TunnelWish {
            target: Some(target.clone()),
            keeps_browser: visitor.keep_alive,
        };
        let joined = api.sessions.tunnel(&session, wish).await;
        joined.map(|tunnel| (session, tunnel))
    });
    // At once: each may take its time, and one has it.
    let mut tries: FuturesUnordered<_> = tries.collect();
    let mut refused = Error::NotFound("page");
    while let Some(tried) = tries.next().await {
        match tried {
            Ok((session, tunnel)) => {
                return Ok(carry(
                    &api, handshake, &parts, &visitor, tunnel, None, &session,
                ));
            }
            Err(Error::NotFound(_)) => {}
            // It may be the one that has it.
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

async fn open(api: &Api, visitor: &Visitor) -> Result<(OwnedSession, Opened), Error> {
    visitor.may_open()?;
    let session = api
        .sessions
        .open_within(visitor.user(), Wish::default(), OPENING_WAIT)
        .await?;
    let opened = Opened {
        sessions: Arc::clone(&api.sessions),
        session: Some(session.clone()),
    };
    Ok((session, opened))
}

fn carry(
    api: &Api,
    handshake: Handshake,
    parts: &Parts,
    visitor: &Visitor,
    tunnel: Tunnel,
    opened: Option<Opened>,
    session: &OwnedSession,
) -> Response {
    let client = Client::new(api.clone(), visitor.user().clone(), session.id());
    tracing::info!(
        session.id = %session.id(),
        client = ?parts.headers.get(axum::http::header::USER_AGENT),
        "a client of CDP connects"
    );
    let mut response = handshake.accept(api.sessions.tasks(), async move |socket| {
        let _opened = opened;
        wire::carry(client, socket, tunnel).await;
    });
    if let Ok(id) = HeaderValue::from_str(&session.id().to_string()) {
        response.headers_mut().insert(SESSION_HEADER, id);
    }
    response
}
