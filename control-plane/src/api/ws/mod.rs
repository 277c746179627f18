//! `/ws`: one socket for a frontend. Commands, what happens in sessions and to
//! instances, and whatever else a page needs, many at once, each answered by the id that
//! it came with. What is said on it, and how, is in `/asyncapi.json`.

mod control;
mod frames;
mod instances;
mod message;
mod outbox;
mod sessions;
mod socket;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::UserId;
use serde::Deserialize;

use super::extract::{Parameters, caller_of};
use super::{Api, origin};
use crate::accounts::{Client, Pass};
use crate::error::Error;
use crate::telemetry::metrics;

pub(super) use frames::Subscription;
pub(super) use sessions::standing;
use socket::Socket;

/// Largest message that is taken, in bytes: the largest text that may be typed, with
/// room for what is around it.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that are read at once. Most messages are smaller, and idle sockets many.
const READ_BYTES: usize = 8 * 1024;
/// Sockets that one user may have open.
const SOCKETS_MAX: usize = 2_500;

/// How a socket's holder is known where no header can be sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    ticket: Option<String>,
}

/// How many sockets each user has.
#[derive(Debug, Default, Clone)]
pub struct Sockets(Arc<Mutex<HashMap<UserId, usize>>>);

/// One of a user's sockets.
pub(super) struct Counted {
    user: UserId,
    all: Sockets,
}

impl Sockets {
    /// Counts one more, until it is dropped.
    ///
    /// # Errors
    /// [`Error::QuotaReached`]
    pub(super) fn count(&self, user: UserId) -> Result<Counted, Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.entry(user).or_default();
        if *open >= SOCKETS_MAX {
            return Err(Error::QuotaReached {
                name: "sockets",
                limit: u32::try_from(SOCKETS_MAX).unwrap_or(u32::MAX),
                retry_after: None,
            });
        }
        *open += 1;
        metrics::sockets(1);
        Ok(Counted {
            user,
            all: self.clone(),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::sockets(-1);
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&self.user) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.user);
            }
        }
    }
}

/// Opens a socket. Whoever may not is told so before.
///
/// # Errors
/// [`Error::Unauthenticated`], [`Error::CrossOrigin`], [`Error::QuotaReached`], or
/// [`Error::BadRequest`] where this is no handshake.
pub async fn open(State(api): State<Api>, request: Request) -> Result<Response, Error> {
    let (mut parts, _) = request.into_parts();
    let pass = pass_of(&api, &mut parts).await?;
    let client = Client::from_request_parts(&mut parts, &api).await?;
    tracing::Span::current().record("user.id", tracing::field::display(pass.user.id));
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &api).await;
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Ok(no_handshake(&rejection)),
    };
    let counted = api.sockets.count(pass.user.id)?;
    let upgrade = upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .read_buffer_size(READ_BYTES)
        // Messages go out as they come.
        .write_buffer_size(0);
    let tasks = api.sessions.tasks().clone();
    Ok(upgrade.on_upgrade(async move |websocket| {
        let socket = Socket::new(api, pass, client).hold(websocket);
        let served = tasks.spawn("socket", async move {
            let _counted = counted;
            socket.await;
        });
        if served.await.is_err() {
            tracing::debug!("a socket's task was ended");
        }
    }))
}

/// Who opens it, and how far they may go: by the ticket in the URL, else as everywhere.
async fn pass_of(api: &Api, parts: &mut Parts) -> Result<Pass, Error> {
    origin::check_socket(parts, &api.front)?;
    let Parameters(query) = Parameters::<Query>::from_request_parts(parts, &()).await?;
    match query.ticket {
        Some(ticket) => api.accounts.redeem_ticket(&ticket).await,
        None => {
            let user = caller_of(api, parts).await?;
            let user = user.ok_or(Error::Unauthenticated)?;
            if user.has_to_enrol {
                return Err(Error::SecondFactorEnrolmentNeeded);
            }
            Ok(Pass::of(user))
        }
    }
}

pub(super) fn no_handshake(rejection: &WebSocketUpgradeRejection) -> Response {
    let error = Error::BadRequest {
        field: None,
        message: format!("this is a WebSocket: {rejection}"),
    };
    let mut response = error.into_response();
    response
        .headers_mut()
        .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response
}
