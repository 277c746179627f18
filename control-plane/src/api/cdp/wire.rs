//! A client's socket on one side, its way to the browser on the other: messages go
//! through, in order, one at a time in each direction, so that who does not read is not
//! read for.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::agent::v1::Piece;
use browserfleet_proto::ids::SessionId;
use browserfleet_proto::limits::{
    TUNNEL_HELD_BYTES_MAX, TUNNEL_MESSAGE_IN_BYTES_MAX, TUNNEL_MESSAGE_OUT_BYTES_MAX,
};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as Fault, Message, error::ProtocolError};

use super::handshake::Socket;

use crate::accounts::CurrentUser;
use crate::api::Api;
use crate::clock;
use crate::relay::{Ended, Hearing, Saying};
use crate::sessions::Tunnel;
use crate::sessions::registry::Held;

/// How often the peer is sent something, so that nothing in between closes what is
/// silent, and that the system notices a peer that is gone. Whoever does not answer is
/// not closed for it: some clients never do.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a client may take for one part of a message, which has 256 KiB at the most:
/// as long as the system lets it take nothing at all.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);
/// How long what a browser said last may take to come by its own way, once its end has
/// come by another.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the reason of an end may take that was noticed here first.
const REASON_WITHIN: Duration = Duration::from_secs(3);
/// How long the peer may take to close its side.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Longest reason of a close frame, in bytes (RFC 6455, 5.5).
const REASON_BYTES_MAX: usize = 123;

/// Whoever has the socket.
pub(super) struct Client {
    api: Api,
    user: CurrentUser,
    session: SessionId,
}

/// A socket's end as its peer is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Closing {
    code: u16,
    reason: String,
}

impl Client {
    pub(super) fn new(api: Api, user: CurrentUser, session: SessionId) -> Self {
        Self { api, user, session }
    }
}

/// Why a socket is over; `None`: the peer has gone, or closed it.
type Over = Option<Closing>;

fn closing(code: u16, reason: impl Into<String>) -> Over {
    Some(Closing {
        code,
        reason: reason.into(),
    })
}

/// Carries a client's messages until one of both ends has enough.
pub(super) async fn carry(client: Client, socket: Socket, tunnel: Tunnel) {
    let Client { api, user, session } = client;
    let (mut sink, mut stream) = socket.split();
    let held = tunnel.held();
    let Tunnel {
        mut hearing,
        saying,
        ..
    } = tunnel;
    let tasks = api.sessions.tasks();
    let over = tokio::select! {
        ended = out(&mut hearing, &mut sink) => match ended {
            Some(ended) => closing_of(ended, &held).await,
            None => None,
        },
        over = take_in(&mut stream, &saying, &held) => over,
        over = session_over(&held) => over,
        () = api.accounts.until_over(&user) => {
            closing(4401, "what this socket was opened with has ended")
        }
        () = tasks.stopping() => closing(1001, "the server restarts; connect again"),
    };
    // The browser need not wait until the peer has gone.
    drop((hearing, saying));
    if let Some(closing) = over {
        tracing::debug!(session.id = %session, code = closing.code, reason = closing.reason, "closing a tunnel");
        close(closing, session, &mut sink, &mut stream).await;
    }
}

/// What the browser says, in the parts that it comes in, so that a large message is never
/// held whole and the peer hears from us meanwhile. `None`: the client is not there.
async fn out(hearing: &mut Hearing, sink: &mut SplitSink<Socket, Message>) -> Option<Ended> {
    let first = Instant::now() + PING_EVERY;
    let mut ping = interval_at(first, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Bytes of the message that is on its way; `None`: none is.
    let mut sent = None;
    loop {
        let message = tokio::select! {
            said = hearing.next_piece() => match said {
                Ok(Piece { data, last }) => {
                    let (kind, before) = match sent {
                        None => (Data::Text, 0),
                        Some(before) => (Data::Continue, before),
                    };
                    let bytes = before + data.len();
                    if bytes > TUNNEL_MESSAGE_OUT_BYTES_MAX {
                        return Some(Ended::TooLarge);
                    }
                    sent = Some(bytes).filter(|_| !last);
                    Message::Frame(Frame::message(data, OpCode::Data(kind), last))
                }
                Err(ended) => return Some(ended),
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        match timeout(WRITE_DEADLINE, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a tunnel's client left");
                return None;
            }
            Err(_) => return Some(Ended::Stalled),
        }
    }
}

/// What the client says, until it has gone.
async fn take_in(stream: &mut SplitStream<Socket>, saying: &Saying, held: &Arc<Held>) -> Over {
    let mut ahead = None;
    loop {
        let message = match ahead.take() {
            Some(message) => message,
            None => stream.next().await,
        };
        match message {
            Some(Ok(Message::Text(text))) => {
                held.touch(clock::now());
                let on_its_way = saying.say(text.into());
                tokio::pin!(on_its_way);
                let is_heard = loop {
                    tokio::select! {
                        is_heard = &mut on_its_way => break is_heard,
                        // Whoever asks whether we live is answered, however large the
                        // message is; what comes after it waits here, one at a time.
                        next = stream.next(), if ahead.is_none() => match next {
                            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                            next => ahead = Some(next),
                        },
                    }
                };
                if !is_heard {
                    // Why is said on the other way.
                    return std::future::pending().await;
                }
            }
            // They are answered by the library.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) => {
                // Its answer goes out with the next look.
                let answered = timeout(CLOSE_WITHIN, stream.next()).await;
                tracing::trace!(answered = answered.is_ok(), "a tunnel's client closed it");
                return None;
            }
            Some(Ok(Message::Binary(_) | Message::Frame(_))) => {
                return closing(1003, "CDP is text");
            }
            Some(Err(error)) => return fault_of(&error),
            None => return None,
        }
    }
}

/// What the peer is told of what it did wrong.
fn fault_of(error: &Fault) -> Over {
    match error {
        Fault::Capacity(_) => closing(
            1009,
            format!("a message is larger than {TUNNEL_MESSAGE_IN_BYTES_MAX} bytes"),
        ),
        Fault::Utf8(_) => closing(1007, "a text is not UTF-8"),
        Fault::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Fault::Protocol(_) => closing(1002, "this is not the WebSocket protocol"),
        _ => None,
    }
}

/// The session's end, once what the browser said last has had its time.
async fn session_over(held: &Held) -> Over {
    let reason = held.over().await;
    sleep(LAST_WORDS).await;
    Some(end_of_session(&reason))
}

async fn closing_of(ended: Ended, held: &Held) -> Over {
    match ended {
        Ended::Closed => closing(1000, "closed as the client asked"),
        Ended::TargetGone => closing(1000, "the page is gone"),
        Ended::TooLarge => closing(
            1009,
            format!("a message is larger than {TUNNEL_MESSAGE_OUT_BYTES_MAX} bytes"),
        ),
        Ended::Stalled => closing(
            1008,
            format!("not read in time, or more than {TUNNEL_HELD_BYTES_MAX} bytes behind"),
        ),
        Ended::BrowserGone | Ended::Lost => match timeout(REASON_WITHIN, held.over()).await {
            Ok(reason) => Some(end_of_session(&reason)),
            Err(_) if ended == Ended::Lost => closing(1012, "the agent is not connected"),
            Err(_) => closing(1011, "the browser is gone"),
        },
    }
}

/// The codes for the reasons that sessions end for.
fn end_of_session(reason: &str) -> Closing {
    let code = match reason {
        "ended" | "browser_closed" | "client_left" => 1000,
        "shutdown" => 1001,
        "expired" => 4001,
        "idle_timeout" => 4002,
        "user_barred" => 4401,
        "agent_restarted"
        | "control_plane_restarted"
        | "not_kept"
        | "lease_expired"
        | "recycled" => 1012,
        _ => 1011,
    };
    Closing {
        code,
        reason: format!("the session ended: {reason}"),
    }
}

/// Tells the peer why, and waits until it has closed its side: what it sent meanwhile
/// would otherwise undo the telling.
async fn close(
    closing: Closing,
    session: SessionId,
    sink: &mut SplitSink<Socket, Message>,
    stream: &mut SplitStream<Socket>,
) {
    let mut reason = format!("{session}: {}", closing.reason);
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    let frame = Message::Close(Some(CloseFrame {
        code: closing.code.into(),
        reason: reason.into(),
    }));
    if !matches!(timeout(CLOSE_WITHIN, sink.send(frame)).await, Ok(Ok(()))) {
        tracing::debug!(session.id = %session, "a client could not be told why it is closed");
    }
    let silent = async { while let Some(Ok(_)) = stream.next().await {} };
    if timeout(CLOSE_WITHIN, silent).await.is_err() {
        tracing::debug!(session.id = %session, "a client did not close its side");
    }
    if closing.code == 1009 {
        // What it is still sending cannot be read as messages. It has the time to read
        // why, before its connection is reset.
        sleep(CLOSE_WITHIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_code() {
        let code = |reason| end_of_session(reason).code;
        assert_eq!(code("browser_closed"), 1000);
        assert_eq!(code("browser_crashed"), 1011);
        assert_eq!(code("expired"), 4001);
        assert_eq!(code("idle_timeout"), 4002);
    }
}
