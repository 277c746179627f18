//! Becoming a socket. Its messages are sent in the parts that they come in, which axum's
//! sockets cannot: a large one would be held whole, and copied again for each part of it
//! that the client's window takes.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::limits::TUNNEL_MESSAGE_IN_BYTES_MAX;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::api::{Api, ws};
use crate::error::Error;
use crate::tasks::Tasks;

/// How long it may take until the connection is the socket's.
const UPGRADES_WITHIN: Duration = Duration::from_secs(10);
/// Bytes that are read at once: some messages are large.
const READ_BYTES: usize = 64 * 1024;

/// A socket that a client asked for.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A client's side of the handshake, which is in order.
pub(super) struct Handshake {
    connection: OnUpgrade,
    accept: HeaderValue,
}

impl Handshake {
    /// Looks at a request.
    ///
    /// # Errors
    /// The answer to one that is no handshake.
    pub(super) async fn of(parts: &mut Parts, api: &Api) -> Result<Self, Response> {
        let connection = parts.extensions.get::<OnUpgrade>().cloned();
        if let Err(rejection) = WebSocketUpgrade::from_request_parts(parts, api).await {
            return Err(ws::no_handshake(&rejection));
        }
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let accept = key.map(|it| derive_accept_key(it.as_bytes()));
        let accept = accept.and_then(|it| HeaderValue::try_from(it).ok());
        // Over HTTP/2 there is neither.
        match connection.zip(accept) {
            Some((connection, accept)) => Ok(Self { connection, accept }),
            None => Err(Error::BadRequest {
                field: None,
                message: "sockets are opened over HTTP/1.1".into(),
            }
            .into_response()),
        }
    }

    /// Answers it, and lets the socket be used.
    pub(super) fn accept<F>(
        self,
        tasks: &Tasks,
        carry: impl FnOnce(Socket) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let Self { connection, accept } = self;
        tasks.spawn("tunnel", async move {
            let upgraded = match timeout(UPGRADES_WITHIN, connection).await {
                Ok(Ok(upgraded)) => upgraded,
                Ok(Err(error)) => return tracing::debug!(%error, "a client left at the handshake"),
                Err(_) => return tracing::debug!("a handshake took too long"),
            };
            let config = WebSocketConfig::default()
                .max_message_size(Some(TUNNEL_MESSAGE_IN_BYTES_MAX))
                .max_frame_size(Some(TUNNEL_MESSAGE_IN_BYTES_MAX))
                .read_buffer_size(READ_BYTES)
                // Messages go out as they come.
                .write_buffer_size(0);
            let io = TokioIo::new(upgraded);
            carry(Socket::from_raw_socket(io, Role::Server, Some(config)).await).await;
        });
        let upgrade = HeaderValue::from_static("websocket");
        let connection = HeaderValue::from_static("upgrade");
        let headers = [
            (header::CONNECTION, connection),
            (header::UPGRADE, upgrade),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}
