//! What is on its way to a socket: bounded in messages and in bytes. Whoever has
//! something to say waits for room, so that a socket that does not read is waited for by
//! its own tasks, and by nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Messages that wait for one socket.
const MESSAGES_MAX: usize = 64;
/// Bytes that they may have together. A larger message goes alone.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a socket may take for one message: at the end of it the peer has not read
/// for as long, and is cut.
pub(super) const WRITE_DEADLINE: Duration = Duration::from_secs(20);

struct Waiting {
    message: Message,
    /// Told once the socket has it.
    written: Option<oneshot::Sender<()>>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Takes messages for one socket. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox {
    waiting: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// The socket is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// An outbox, and what empties it.
pub(super) fn outbox() -> (Outbox, Writer) {
    let (sender, waiting) = mpsc::channel(MESSAGES_MAX);
    let outbox = Outbox {
        waiting: sender,
        room: Arc::new(Semaphore::new(BYTES_MAX)),
    };
    (outbox, Writer { waiting })
}

impl Outbox {
    /// Says something, once there is room for it.
    ///
    /// # Errors
    /// [`Gone`]
    pub(super) async fn say(&self, text: String) -> Result<(), Gone> {
        self.send(Message::Text(text.into())).await
    }

    /// Says what was written for several sockets: nothing is copied.
    ///
    /// # Errors
    /// [`Gone`]
    pub(super) async fn say_shared(&self, text: &Bytes) -> Result<(), Gone> {
        match Utf8Bytes::try_from(text.clone()) {
            Ok(text) => self.send(Message::Text(text)).await,
            Err(error) => {
                tracing::error!(%error, "a message is no text");
                Ok(())
            }
        }
    }

    /// Sends a message, once there is room for it.
    ///
    /// # Errors
    /// [`Gone`]
    pub(super) async fn send(&self, message: Message) -> Result<(), Gone> {
        let bytes = match &message {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
            Message::Close(_) => 0,
        };
        let permits = u32::try_from(bytes.min(BYTES_MAX)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(permits);
        let waiting = Waiting {
            message,
            written: None,
            _room: room.await.ok(),
        };
        self.waiting.send(waiting).await.map_err(|_| Gone)
    }

    /// Sends what may not be old when it arrives, and resolves once the socket has it. It
    /// takes no room from what else is said.
    ///
    /// # Errors
    /// [`Gone`]
    pub(super) async fn show(&self, frame: Bytes) -> Result<(), Gone> {
        let (written, has_it) = oneshot::channel();
        let waiting = Waiting {
            message: Message::Binary(frame),
            written: Some(written),
            _room: None,
        };
        self.waiting.send(waiting).await.map_err(|_| Gone)?;
        has_it.await.map_err(|_| Gone)
    }
}

/// Empties an outbox into its socket.
pub(super) struct Writer {
    waiting: mpsc::Receiver<Waiting>,
}

impl Writer {
    /// Writes until the socket ends, or nobody has anything to say any more. What a
    /// closing message follows is not written.
    pub(super) async fn run(mut self, mut socket: SplitSink<WebSocket, Message>) {
        while let Some(waiting) = self.waiting.recv().await {
            let last = matches!(waiting.message, Message::Close(_));
            match timeout(WRITE_DEADLINE, socket.send(waiting.message)).await {
                Ok(Ok(())) if !last => {
                    if let Some(written) = waiting.written {
                        // Whoever showed it may have been told to stop.
                        let _stopped = written.send(());
                    }
                }
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a socket ended while it was written to");
                    return;
                }
                Err(_) => {
                    tracing::debug!("a socket did not take a message in time");
                    return;
                }
            }
        }
    }
}

/// A socket's end as its peer is told it.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

impl Closing {
    pub(super) const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    pub(super) fn message(&self) -> Message {
        Message::Close(Some(CloseFrame {
            code: self.code,
            reason: self.reason.into(),
        }))
    }
}
