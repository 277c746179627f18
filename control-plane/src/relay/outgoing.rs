//! What waits for one link's socket. A command counts as sent from the moment
//! the socket takes it, and only then is its time left reckoned.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use browserfleet_proto::agent::v1::{self, ToAgent, to_agent::Body};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Command;
use super::pending::PendingCommands;

/// One message to an agent.
#[derive(Debug)]
pub enum Outgoing {
    /// A command, whose fate is followed.
    Command(Command),
    /// Anything else.
    Message(ToAgent),
}

/// The messages of one link, as its socket asks for them. Ends when the link is
/// cut; commands that are still in the queue then were not sent.
pub(super) struct Messages {
    pub(super) queue: mpsc::Receiver<Outgoing>,
    pub(super) pending: Arc<PendingCommands>,
    pub(super) cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Messages {
    pub(super) fn new(
        queue: mpsc::Receiver<Outgoing>,
        pending: Arc<PendingCommands>,
        cut: CancellationToken,
    ) -> Self {
        Self {
            queue,
            pending,
            cut: Box::pin(cut.cancelled_owned()),
        }
    }
}

impl Stream for Messages {
    type Item = ToAgent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ToAgent>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            let command = match self.queue.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Outgoing::Message(message))) => {
                    return Poll::Ready(Some(message));
                }
                Poll::Ready(Some(Outgoing::Command(command))) => command,
            };
            // Whoever asked has given up: it was never sent, and never will be.
            if !self.pending.sent(command.id) {
                continue;
            }
            return Poll::Ready(Some(message_of(command)));
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.queue.close();
        while let Ok(outgoing) = self.queue.try_recv() {
            if let Outgoing::Command(command) = outgoing {
                self.pending.unsent(command.id);
            }
        }
    }
}

fn message_of(command: Command) -> ToAgent {
    let left = command
        .deadline
        .saturating_duration_since(Instant::now())
        .as_millis();
    ToAgent {
        body: Some(Body::Command(v1::Command {
            command_id: command.id.to_string(),
            session_id: command.session.to_string(),
            epoch: command.epoch,
            time_left_ms: u32::try_from(left).unwrap_or(u32::MAX),
            action: Some(command.action),
        })),
    }
}
