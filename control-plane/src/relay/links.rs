//! Who is connected. One link for each instance; the newest wins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use browserfleet_proto::agent::v1::ToAgent;
use browserfleet_proto::ids::{BootId, InstanceId, LinkId};
use browserfleet_proto::limits;
use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::NotSent;
use super::outgoing::{Messages, Outgoing};
use super::pending::PendingCommands;
use crate::clock;
use crate::domain::time::Timestamp;
use crate::telemetry::metrics;

/// An agent that said Hello.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer {
    /// This life of its link.
    pub link: LinkId,
    /// As its certificate says.
    pub instance: InstanceId,
    /// This life of its process.
    pub boot: BootId,
}

/// One life of the stream to an agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its id, for logs.
    pub id: LinkId,
    /// Whose.
    pub instance: InstanceId,
    /// The agent's process.
    pub boot: BootId,
    queue: mpsc::Sender<Outgoing>,
    cut: CancellationToken,
}

impl Link {
    /// Queues a message, or refuses at once.
    ///
    /// # Errors
    /// [`NotSent`]
    pub fn push(&self, outgoing: Outgoing) -> Result<(), NotSent> {
        self.queue
            .try_send(outgoing)
            .map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => {
                    metrics::link_queue_full();
                    NotSent::Busy
                }
                mpsc::error::TrySendError::Closed(_) => NotSent::NoLink,
            })
    }

    /// Resolves when the link is to end.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

/// A link that was taken in, and what its socket is to carry.
pub struct Attached {
    /// The link.
    pub link: Link,
    /// The messages, in order.
    pub messages: Box<dyn Stream<Item = ToAgent> + Send + Unpin>,
    /// Whether the same identity had a link already.
    pub replaced: bool,
}

/// What is known of an instance's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It is connected.
    Up,
    /// It is not, and its lease was last renewed this long ago (since the start
    /// of this process at the most).
    Silent(Duration),
}

#[derive(Debug)]
pub(super) struct Links {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    since: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    up: HashMap<InstanceId, Link>,
    renewed: HashMap<InstanceId, Timestamp>,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            since: clock::now(),
        }
    }
}

impl Links {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attach(
        &self,
        newcomer: Newcomer,
        welcome: ToAgent,
        pending: &Arc<PendingCommands>,
    ) -> Attached {
        let (queue, receiver) = mpsc::channel(limits::LINK_QUEUE_MAX);
        let cut = CancellationToken::new();
        let link = Link {
            id: newcomer.link,
            instance: newcomer.instance,
            boot: newcomer.boot,
            queue,
            cut: cut.clone(),
        };
        // Never refused: the queue is new, and nobody else can find it yet.
        let _taken = link.push(Outgoing::Message(welcome));
        let messages = Messages::new(receiver, Arc::clone(pending), cut);
        let before = {
            let mut state = self.state();
            state.renewed.insert(link.instance, clock::now());
            state.up.insert(link.instance, link.clone())
        };
        if let Some(before) = &before {
            before.cut.cancel();
        }
        self.changes.send_modify(|count| *count += 1);
        Attached {
            link,
            messages: Box::new(messages),
            replaced: before.is_some(),
        }
    }

    pub(super) fn detach(&self, link: &Link) {
        link.cut.cancel();
        let mut state = self.state();
        if state
            .up
            .get(&link.instance)
            .is_some_and(|it| it.id == link.id)
        {
            state.up.remove(&link.instance);
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn find(&self, instance: InstanceId) -> Option<Link> {
        self.state().up.get(&instance).cloned()
    }

    pub(super) fn renewed(&self, instance: InstanceId) {
        self.state().renewed.insert(instance, clock::now());
    }

    pub(super) fn contact(&self, instance: InstanceId) -> Contact {
        let state = self.state();
        if state.up.contains_key(&instance) {
            return Contact::Up;
        }
        let last = state.renewed.get(&instance).copied().unwrap_or(self.since);
        Contact::Silent(clock::now().since(last))
    }

    pub(super) fn count(&self) -> usize {
        self.state().up.len()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn linked(&self) -> Vec<InstanceId> {
        let state = self.state();
        let kept = state.up.iter().filter(|(_, it)| !it.cut.is_cancelled());
        kept.map(|(instance, _)| *instance).collect()
    }

    pub(super) fn cut(&self, instance: InstanceId) {
        if let Some(link) = self.find(instance) {
            link.cut.cancel();
        }
    }

    pub(super) fn cut_all(&self) {
        for link in self.state().up.values() {
            link.cut.cancel();
        }
    }
}
