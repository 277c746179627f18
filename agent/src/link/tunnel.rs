//! Clients of CDP: from a browser to the control plane and back, each on a stream of
//! its own. Who does not read stops its own stream, and what waits for it waits in the
//! browser's queue for it, which is bounded.

use std::io;
use std::time::Duration;

use browserfleet_proto::agent::v1::media_service_client::MediaServiceClient;
use browserfleet_proto::agent::v1::tunnel_ended::Reason;
use browserfleet_proto::agent::v1::tunnel_up::Body;
use browserfleet_proto::agent::v1::{Piece, TunnelEnded, TunnelJoined, TunnelUp};
use browserfleet_proto::ids::{SessionId, TunnelId};
use browserfleet_proto::limits::{
    MEDIA_CHUNK_BYTES_MAX, TUNNEL_MESSAGE_IN_BYTES_MAX, TUNNEL_OPENS_WITHIN,
};
use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::browser::{Part, Parts, Tunnel, TunnelEnd};

/// Parts that wait for the stream: one is being sent while the next is fetched.
const WAITING_MAX: usize = 2;
/// How long the control plane may take to hear why a tunnel is over: as long as it waits
/// for a client that does not read.
const LAST_WORD_TAKES: Duration = Duration::from_secs(30);
/// Bytes around a piece's data.
const PIECE_FRAME_BYTES: usize = 4096;

/// Carries tunnels while there is a link. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tunneler {
    channel: watch::Receiver<Option<Channel>>,
}

impl Tunneler {
    /// Carries them over the connection that `channel` has.
    #[must_use]
    pub fn new(channel: watch::Receiver<Option<Channel>>) -> Self {
        Self { channel }
    }

    /// Carries one until either end has enough of it, or says why it is not to be.
    pub async fn carry(
        self,
        id: TunnelId,
        session: SessionId,
        joining: impl Future<Output = Result<Tunnel, TunnelEnd>>,
    ) {
        let joined = joining.await;
        let refused = joined.as_ref().err().copied();
        let Some((up, mut down)) = self.open(id, session, refused).await else {
            return;
        };
        let Ok(tunnel) = joined else { return };
        tracing::info!(tunnel.id = %id, session.id = %session, "a client of CDP joined");
        let end = tokio::select! {
            end = carry_up(&tunnel, &up) => end,
            () = carry_down(&tunnel, &mut down) => None,
        };
        // It holds nothing of the browser any more, whatever becomes of its last word.
        drop(tunnel);
        tracing::info!(tunnel.id = %id, session.id = %session, "a client of CDP left");
        if let Some(end) = end {
            say_last(id, up, down, end).await;
        }
    }

    /// Hands a file over, or says that there is none.
    pub async fn hand_over(
        self,
        id: TunnelId,
        session: SessionId,
        reading: impl Future<Output = io::Result<Parts>>,
    ) {
        let read = reading.await;
        let refused = read.as_ref().err().map(|_| TunnelEnd::NotFound);
        let Some((up, down)) = self.open(id, session, refused).await else {
            return;
        };
        let Ok(mut parts) = read else { return };
        let handed = async {
            while let Some(part) = parts.recv().await {
                let data = match part {
                    Ok(data) => data,
                    Err(error) => {
                        tracing::warn!(session.id = %session, %error, "a download could not be read");
                        return Err(Gone);
                    }
                };
                let last = false;
                send(&up, Body::Piece(Piece { data, last })).await?;
            }
            let data = Bytes::new();
            send(&up, Body::Piece(Piece { data, last: true })).await
        };
        if handed.await.is_ok() {
            say_last(id, up, down, TunnelEnd::Closed).await;
        }
    }

    /// Opens the stream that the control plane asked for.
    async fn open(
        &self,
        id: TunnelId,
        session: SessionId,
        refused: Option<TunnelEnd>,
    ) -> Option<(mpsc::Sender<TunnelUp>, Streaming<Piece>)> {
        // Whoever asked hears nothing where there is no link, and gives up.
        let channel = self.channel.borrow().clone()?;
        let (up, messages) = mpsc::channel(WAITING_MAX);
        let first = Body::Joined(TunnelJoined {
            tunnel_id: id.to_string(),
            session_id: session.to_string(),
            refused: refused.map(why),
        });
        send(&up, first).await.ok()?;
        let mut client = MediaServiceClient::new(channel)
            .max_decoding_message_size(MEDIA_CHUNK_BYTES_MAX + PIECE_FRAME_BYTES);
        let opening = client.tunnel(ReceiverStream::new(messages));
        match timeout(TUNNEL_OPENS_WITHIN, opening).await {
            Ok(Ok(down)) => Some((up, down.into_inner())),
            Ok(Err(status)) => {
                tracing::info!(tunnel.id = %id, %status, "nobody waits for a tunnel");
                None
            }
            Err(_) => {
                tracing::warn!(tunnel.id = %id, "the control plane took no tunnel in time");
                None
            }
        }
    }
}

/// Says why it is over, and waits until that was read: whoever has read it ends the
/// stream.
async fn say_last(
    id: TunnelId,
    up: mpsc::Sender<TunnelUp>,
    mut down: Streaming<Piece>,
    end: TunnelEnd,
) {
    let last_word = async {
        if send(&up, Body::Ended(why(end))).await.is_err() {
            return;
        }
        drop(up);
        while let Ok(Some(_)) = down.message().await {}
    };
    if timeout(LAST_WORD_TAKES, last_word).await.is_err() {
        tracing::debug!(tunnel.id = %id, "nobody heard why a tunnel ended");
    }
}

/// The control plane's end of it is gone.
struct Gone;

async fn send(up: &mpsc::Sender<TunnelUp>, body: Body) -> Result<(), Gone> {
    let message = TunnelUp { body: Some(body) };
    up.send(message).await.map_err(|_| Gone)
}

/// Until there is no more, or it is cut: then it tells why. `None`: nobody is there.
async fn carry_up(tunnel: &Tunnel, up: &mpsc::Sender<TunnelUp>) -> Option<TunnelEnd> {
    loop {
        let Part { data, last } = match tunnel.next().await {
            Ok(part) => part,
            Err(end) => return Some(end),
        };
        let piece = Body::Piece(Piece { data, last });
        tokio::select! {
            biased;
            sent = send(up, piece) => if sent.is_err() {
                return None;
            },
            // What is on its way already is all that its stream holds.
            end = tunnel.is_cut() => return Some(end),
        }
    }
}

/// Until the client is gone.
async fn carry_down(tunnel: &Tunnel, down: &mut Streaming<Piece>) {
    let mut message = BytesMut::new();
    loop {
        let piece = match down.message().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "a tunnel's stream broke");
                return;
            }
        };
        if message.len() + piece.data.len() > TUNNEL_MESSAGE_IN_BYTES_MAX {
            tracing::warn!("a tunnel brought a message that is too large");
            return;
        }
        let whole = match (message.is_empty(), piece.last) {
            // Most are in one piece, which is not copied.
            (true, true) => piece.data,
            (_, last) => {
                message.extend_from_slice(&piece.data);
                if !last {
                    continue;
                }
                std::mem::take(&mut message).freeze()
            }
        };
        tunnel.say(whole).await;
    }
}

fn why(end: TunnelEnd) -> TunnelEnded {
    let reason = match end {
        TunnelEnd::NotFound => Reason::NotFound,
        TunnelEnd::TooMany => Reason::TooMany,
        TunnelEnd::Closed => Reason::Closed,
        TunnelEnd::TargetGone => Reason::TargetGone,
        TunnelEnd::BrowserGone => Reason::BrowserGone,
        TunnelEnd::TooLarge => Reason::TooLarge,
        TunnelEnd::Stalled => Reason::Stalled,
    };
    TunnelEnded {
        reason: reason.into(),
    }
}
