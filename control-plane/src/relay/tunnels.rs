//! Clients of CDP: each has a stream of its own from its agent, which is handed on as it
//! is. Nothing is kept here between the two: who does not read stops its own stream, as
//! far as the browser.
//!
//! ```text
//! agent ─pieces─▶ Hearing ─▶ whole messages ─▶ client
//! agent ◀─pieces─ Saying ◀── whole messages ◀─ client
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use browserfleet_proto::agent::v1::tunnel_ended::Reason;
use browserfleet_proto::agent::v1::tunnel_up::Body as Up;
use browserfleet_proto::agent::v1::{
    FetchDownload, OpenTunnel, Piece, TunnelJoined, TunnelUp, to_agent::Body,
};
use browserfleet_proto::ids::{InstanceId, SessionId, TunnelId};
use browserfleet_proto::limits::{MEDIA_CHUNK_BYTES_MAX, TUNNEL_MESSAGE_OUT_BYTES_MAX};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{NotSent, Place, Relay};

/// Pieces that wait for the agent's stream: one is being sent while the next is cut.
const PIECES_MAX: usize = 2;

/// What an agent says on a tunnel, until it is gone.
pub type Ups = BoxStream<'static, TunnelUp>;
/// What goes to the agent.
pub type Pieces = ReceiverStream<Piece>;

/// Why there will be no more messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client asked the browser to close.
    Closed,
    /// The page is gone.
    TargetGone,
    /// The browser is gone.
    BrowserGone,
    /// A message was larger than may be.
    TooLarge,
    /// The client did not read.
    Stalled,
    /// The agent is gone.
    Lost,
}

/// Why somebody may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such page, or the session is not there.
    NotFound,
    /// As many as may have joined.
    TooMany,
    /// The browser is gone, or does not answer.
    BrowserGone,
}

/// Those that are asked for.
#[derive(Debug, Default)]
pub(super) struct Tunnels(Mutex<HashMap<TunnelId, Expected>>);

#[derive(Debug)]
struct Expected {
    place: Place,
    joined: oneshot::Sender<Result<Tunnel, Refused>>,
}

/// One that was asked for and is not there. Dropped: nobody wants it any more.
#[derive(Debug)]
pub struct Expecting {
    id: TunnelId,
    all: Arc<Tunnels>,
    joined: oneshot::Receiver<Result<Tunnel, Refused>>,
}

/// A client's way to its browser and back.
#[derive(Debug)]
pub struct Tunnel {
    /// Its id, for logs.
    pub id: TunnelId,
    /// What the browser says.
    pub hearing: Hearing,
    /// What is said to it.
    pub saying: Saying,
}

/// What a browser says to a client.
pub struct Hearing {
    ups: Ups,
    coming: BytesMut,
}

impl std::fmt::Debug for Hearing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Hearing").finish_non_exhaustive()
    }
}

/// What a client says to a browser.
#[derive(Debug, Clone)]
pub struct Saying(mpsc::Sender<Piece>);

impl Tunnels {
    fn expected(&self) -> MutexGuard<'_, HashMap<TunnelId, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// Asks a session's agent to let a client of CDP join: on one of its pages, or on
    /// the browser.
    ///
    /// # Errors
    /// [`NotSent`]
    pub fn ask_for_tunnel(
        &self,
        place: Place,
        target: Option<String>,
        keeps_browser: bool,
    ) -> Result<Expecting, NotSent> {
        self.ask(place, |id| {
            Body::OpenTunnel(OpenTunnel {
                tunnel_id: id.to_string(),
                session_id: place.session.to_string(),
                epoch: place.epoch,
                target_id: target.unwrap_or_default(),
                keeps_browser,
            })
        })
    }

    /// Asks a session's agent for a file that its browser downloaded, or for the list of
    /// all: it is what is said, in one message.
    ///
    /// # Errors
    /// [`NotSent`]
    pub fn ask_for_download(
        &self,
        place: Place,
        name: Option<String>,
    ) -> Result<Expecting, NotSent> {
        self.ask(place, |id| {
            Body::FetchDownload(FetchDownload {
                tunnel_id: id.to_string(),
                session_id: place.session.to_string(),
                epoch: place.epoch,
                name: name.unwrap_or_default(),
            })
        })
    }

    fn ask(
        &self,
        place: Place,
        asking: impl FnOnce(TunnelId) -> Body,
    ) -> Result<Expecting, NotSent> {
        let id = TunnelId::new();
        let (joined, joining) = oneshot::channel();
        self.tunnels
            .expected()
            .insert(id, Expected { place, joined });
        // From here on, to be dropped takes it back.
        let expecting = Expecting {
            id,
            all: Arc::clone(&self.tunnels),
            joined: joining,
        };
        self.say(place.instance, asking(id))?;
        Ok(expecting)
    }

    /// An agent opened the stream of a tunnel that it was asked for. `None`: it was not,
    /// or nobody wants it any more.
    pub fn tunnel_joined(
        &self,
        instance: InstanceId,
        joined: &TunnelJoined,
        ups: Ups,
    ) -> Option<Pieces> {
        let id = joined.tunnel_id.parse::<TunnelId>().ok()?;
        let session = joined.session_id.parse::<SessionId>().ok()?;
        let expected = {
            let mut all = self.tunnels.expected();
            let place = all.get(&id)?.place;
            if place.instance != instance || place.session != session {
                return None;
            }
            all.remove(&id)?
        };
        let (pieces, going) = mpsc::channel(PIECES_MAX);
        let answer = match &joined.refused {
            Some(refused) => Err(refusal_of(refused.reason())),
            None => Ok(Tunnel {
                id,
                hearing: Hearing {
                    ups,
                    coming: BytesMut::new(),
                },
                saying: Saying(pieces),
            }),
        };
        expected.joined.send(answer).ok()?;
        Some(ReceiverStream::new(going))
    }

    /// How many are asked for and not there.
    pub fn tunnels_expected(&self) -> usize {
        self.tunnels.expected().len()
    }
}

impl Expecting {
    /// Resolves once the agent has let the client join, or says why not.
    ///
    /// # Errors
    /// [`Refused`]
    pub async fn joined(mut self) -> Result<Tunnel, Refused> {
        match (&mut self.joined).await {
            Ok(joined) => joined,
            // Only where the relay is gone.
            Err(_) => Err(Refused::BrowserGone),
        }
    }
}

impl Drop for Expecting {
    fn drop(&mut self) {
        self.all.expected().remove(&self.id);
    }
}

impl Hearing {
    /// The next message, whole. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Ended`]
    pub async fn next(&mut self) -> Result<Bytes, Ended> {
        loop {
            let piece = self.next_piece().await?;
            if self.coming.len() + piece.data.len() > TUNNEL_MESSAGE_OUT_BYTES_MAX {
                return Err(Ended::TooLarge);
            }
            match (self.coming.is_empty(), piece.last) {
                // Most are in one piece, which is not copied.
                (true, true) => return Ok(piece.data),
                (_, last) => {
                    self.coming.extend_from_slice(&piece.data);
                    if last {
                        return Ok(std::mem::take(&mut self.coming).freeze());
                    }
                }
            }
        }
    }

    /// The next part of a message, for whoever does not need it whole.
    ///
    /// # Errors
    /// [`Ended`]
    pub async fn next_piece(&mut self) -> Result<Piece, Ended> {
        loop {
            let up = self.ups.next().await.ok_or(Ended::Lost)?;
            match up.body {
                Some(Up::Piece(piece)) => return Ok(piece),
                Some(Up::Ended(ended)) => return Err(end_of(ended.reason())),
                Some(Up::Joined(_)) => return Err(Ended::Lost),
                // A newer agent's kind of message.
                None => {}
            }
        }
    }
}

impl Saying {
    /// Says a whole message; returns once it is on its way. `false`: nobody is there.
    pub async fn say(&self, mut message: Bytes) -> bool {
        loop {
            let data = message.split_to(message.len().min(MEDIA_CHUNK_BYTES_MAX));
            let last = message.is_empty();
            if self.0.send(Piece { data, last }).await.is_err() {
                return false;
            }
            if last {
                return true;
            }
        }
    }

    /// Resolves once nobody is there.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

fn end_of(reason: Reason) -> Ended {
    match reason {
        Reason::Closed => Ended::Closed,
        Reason::TargetGone => Ended::TargetGone,
        Reason::TooLarge => Ended::TooLarge,
        Reason::Stalled => Ended::Stalled,
        Reason::NotFound | Reason::TooMany | Reason::BrowserGone | Reason::Unspecified => {
            Ended::BrowserGone
        }
    }
}

fn refusal_of(reason: Reason) -> Refused {
    match reason {
        Reason::TooMany => Refused::TooMany,
        Reason::NotFound => Refused::NotFound,
        _ => Refused::BrowserGone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn up(body: Up) -> TunnelUp {
        TunnelUp { body: Some(body) }
    }

    fn piece(data: &'static [u8], last: bool) -> TunnelUp {
        let data = Bytes::from_static(data);
        up(Up::Piece(Piece { data, last }))
    }

    fn hearing(ups: Vec<TunnelUp>) -> Hearing {
        Hearing {
            ups: stream::iter(ups).boxed(),
            coming: BytesMut::new(),
        }
    }

    #[tokio::test]
    async fn messages_are_put_together_and_the_end_is_told() {
        let ended = browserfleet_proto::agent::v1::TunnelEnded {
            reason: Reason::Stalled.into(),
        };
        let mut hearing = hearing(vec![
            piece(b"one", true),
            piece(b"t", false),
            piece(b"w", false),
            piece(b"o", true),
            up(Up::Ended(ended)),
        ]);
        assert_eq!(hearing.next().await.as_deref(), Ok(&b"one"[..]));
        assert_eq!(hearing.next().await.as_deref(), Ok(&b"two"[..]));
        assert_eq!(hearing.next().await, Err(Ended::Stalled));
    }

    #[tokio::test]
    async fn an_agent_that_goes_in_the_middle_of_a_message_says_nothing() {
        let mut hearing = hearing(vec![piece(b"half", false)]);
        assert_eq!(hearing.next().await, Err(Ended::Lost));
    }

    #[tokio::test]
    async fn a_large_message_goes_in_pieces_and_an_empty_one_in_one() {
        let (sender, mut pieces) = mpsc::channel(8);
        let saying = Saying(sender);
        assert!(saying.say(vec![0; MEDIA_CHUNK_BYTES_MAX + 1].into()).await);
        assert!(saying.say(Bytes::new()).await);
        drop(saying);
        let mut seen = Vec::new();
        while let Some(piece) = pieces.recv().await {
            seen.push((piece.data.len(), piece.last));
        }
        assert_eq!(seen, [(MEDIA_CHUNK_BYTES_MAX, false), (1, true), (0, true)]);
    }

    #[tokio::test]
    async fn only_the_agent_that_was_asked_may_answer() {
        let relay = Relay::default();
        let place = Place {
            session: SessionId::new(),
            instance: InstanceId::new(),
            epoch: 1,
        };
        assert!(relay.ask_for_tunnel(place, None, false).is_err());
        assert_eq!(relay.tunnels_expected(), 0, "nobody was there to be asked");
        let (joined, joining) = oneshot::channel();
        let id = TunnelId::new();
        let expected = Expected { place, joined };
        relay.tunnels.expected().insert(id, expected);
        let said = TunnelJoined {
            tunnel_id: id.to_string(),
            session_id: place.session.to_string(),
            refused: None,
        };
        let join = |instance| relay.tunnel_joined(instance, &said, stream::empty().boxed());
        assert!(join(InstanceId::new()).is_none());
        assert!(join(place.instance).is_some());
        assert!(join(place.instance).is_none(), "it joined already");
        assert!(matches!(joining.await, Ok(Ok(_))));
    }
}
