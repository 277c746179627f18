//! A client of CDP that speaks gRPC: what both sides say goes through in its order, and
//! who does not read is not read for.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::browser::v1::{self, tunnel_request::Body};
use browserfleet_proto::limits::{
    TUNNEL_HELD_BYTES_MAX, TUNNEL_MESSAGE_IN_BYTES_MAX, TUNNEL_MESSAGE_OUT_BYTES_MAX,
};
use bytes::BytesMut;
use futures_util::stream::{Stream, unfold};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::Call;
use super::refusal::{Refusal, status_of};
use crate::api::browser::said;
use crate::clock;
use crate::error::Error;
use crate::relay::{Ended, Saying};
use crate::sessions::registry::Held;
use crate::sessions::{Tunnel, TunnelWish};

/// How long a client may take to say which session it wants.
const JOINED_WITHIN: Duration = Duration::from_secs(10);
/// How long the reason of an end may take that was noticed here first.
const REASON_WITHIN: Duration = Duration::from_secs(3);

/// Reads which session a client wants, and joins it.
///
/// # Errors
/// Where it does not say so first, or may not.
pub(super) async fn join(
    call: &Call,
    asked: &mut Streaming<v1::TunnelRequest>,
) -> Result<Tunnel, Status> {
    let first = timeout(JOINED_WITHIN, asked.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("nothing was said"))??;
    let Some(Body::Join(wanted)) = first.and_then(|it| it.body) else {
        let missing = Error::invalid("join", "comes first");
        return Err(status_of(missing));
    };
    let joined = async {
        let session = call.find(&wanted.session_id).await?;
        let wish = TunnelWish {
            target: said(wanted.target_id),
            keeps_browser: wanted.keep_alive,
        };
        call.api.sessions.tunnel(&session, wish).await
    };
    Ok(joined.await.map_err(Refusal::from)?)
}

/// What the browser says, for as long as both are there.
pub(super) fn carry(
    call: &Call,
    tunnel: Tunnel,
    asked: Streaming<v1::TunnelRequest>,
) -> impl Stream<Item = Result<v1::MessagePiece, Status>> + use<> {
    let fault = CancellationToken::new();
    let taking = take_in(asked, tunnel.saying.clone(), tunnel.held(), fault.clone());
    let (over, leaving) = (call.until_over(), CancellationToken::new());
    let left = leaving.clone();
    call.api.sessions.tasks().spawn("gRPC tunnel", async move {
        tokio::select! {
            () = taking => {}
            () = left.cancelled() => {}
            _ = over => {}
        }
    });
    let leaving = leaving.drop_guard();
    unfold(Some((tunnel, fault, leaving)), |carried| async {
        let (mut tunnel, fault, leaving) = carried?;
        let ended = tokio::select! {
            piece = tunnel.hearing.next_piece() => match piece {
                Ok(piece) => {
                    let piece = v1::MessagePiece { data: piece.data, last: piece.last };
                    return Some((Ok(piece), Some((tunnel, fault, leaving))));
                }
                Err(ended) => ended,
            },
            () = fault.cancelled() => return Some((Err(too_large()), None)),
        };
        let status = status_at(ended, &tunnel.held()).await?;
        Some((Err(status), None))
    })
}

/// What the client says, until it is over.
async fn take_in(
    mut asked: Streaming<v1::TunnelRequest>,
    saying: Saying,
    held: Arc<Held>,
    fault: CancellationToken,
) {
    let mut coming = BytesMut::new();
    loop {
        let piece = match asked.message().await {
            Ok(Some(v1::TunnelRequest {
                body: Some(Body::Piece(piece)),
            })) => piece,
            // A newer client's kind of message, or a second word of the same.
            Ok(Some(_)) => continue,
            // It listens on, or is gone.
            Ok(None) | Err(_) => return,
        };
        held.touch(clock::now());
        if coming.len() + piece.data.len() > TUNNEL_MESSAGE_IN_BYTES_MAX {
            return fault.cancel();
        }
        let message = match (coming.is_empty(), piece.last) {
            // Most are in one piece, which is not copied.
            (true, true) => piece.data,
            (_, last) => {
                coming.extend_from_slice(&piece.data);
                if !last {
                    continue;
                }
                std::mem::take(&mut coming).freeze()
            }
        };
        if !saying.say(message).await {
            return;
        }
    }
}

fn too_large() -> Status {
    status_of(Error::BodyTooLarge {
        limit_bytes: TUNNEL_MESSAGE_IN_BYTES_MAX,
    })
}

/// Why there is no more; `None`: all went as it should.
async fn status_at(ended: Ended, held: &Held) -> Option<Status> {
    let error = match ended {
        Ended::Closed | Ended::TargetGone => return None,
        Ended::TooLarge => {
            return Some(Status::resource_exhausted(format!(
                "a message is larger than {TUNNEL_MESSAGE_OUT_BYTES_MAX} bytes"
            )));
        }
        Ended::Stalled => {
            return Some(Status::resource_exhausted(format!(
                "not read in time, or more than {TUNNEL_HELD_BYTES_MAX} bytes behind"
            )));
        }
        Ended::BrowserGone | Ended::Lost => match timeout(REASON_WITHIN, held.over()).await {
            Ok(reason) => Error::SessionGone { reason },
            Err(_) if ended == Ended::Lost => Error::NotSent,
            Err(_) => Error::SessionGone {
                reason: "browser_gone".into(),
            },
        },
    };
    Some(status_of(error))
}
