//! What the agent has to say and may not lose: each message is kept, with a
//! number, until the control plane says that it is durable there.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use browserfleet_proto::agent::v1::FromAgent;
use browserfleet_proto::agent::v1::from_agent::Body;
use browserfleet_proto::limits;
use prost::Message;
use tokio::sync::Notify;

/// Bytes of kept messages at which no new work is taken: pictures are not among
/// them, so this is outcomes of an hour without a control plane.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The kept messages.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    /// Wakes the link when there is more to send.
    more: Notify,
    /// Wakes who waits for the end.
    less: Notify,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<FromAgent>,
    bytes: usize,
    last: u64,
    acknowledged: u64,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a message until it is acknowledged. Never refuses: what has
    /// happened has happened. New work is refused earlier, see [`Outbox::is_full`].
    pub fn keep(&self, body: Body) {
        let mut state = self.state();
        state.last += 1;
        let message = FromAgent {
            sequence: state.last,
            body: Some(body),
        };
        state.bytes += message.encoded_len();
        state.kept.push_back(message);
        drop(state);
        self.more.notify_one();
    }

    /// Whether no new work may be taken, since its outcome might have no room.
    pub fn is_full(&self) -> bool {
        let state = self.state();
        state.kept.len() >= limits::OUTBOX_MAX || state.bytes >= BYTES_MAX
    }

    /// The messages after this number, in order, so many at the most.
    pub fn after(&self, sequence: u64, most: usize) -> Vec<FromAgent> {
        let state = self.state();
        state
            .kept
            .iter()
            .filter(|message| message.sequence > sequence)
            .take(most)
            .cloned()
            .collect()
    }

    /// Forgets what is durable at the other end.
    pub fn acknowledge(&self, sequence: u64) {
        let mut state = self.state();
        while let Some(message) = state.kept.front()
            && message.sequence <= sequence
        {
            state.bytes = state.bytes.saturating_sub(message.encoded_len());
            state.kept.pop_front();
        }
        state.acknowledged = state.acknowledged.max(sequence.min(state.last));
        drop(state);
        self.less.notify_one();
    }

    /// The highest number that was acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.state().acknowledged
    }

    /// Resolves when everything was acknowledged.
    pub async fn emptied(&self) {
        while !self.state().kept.is_empty() {
            self.less.notified().await;
        }
    }

    /// Resolves when there may be more to send.
    pub async fn more(&self) {
        self.more.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use browserfleet_proto::agent::v1::SessionEnded;
    use proptest::prelude::*;

    fn sequences(outbox: &Outbox, after: u64) -> Vec<u64> {
        outbox
            .after(after, usize::MAX)
            .iter()
            .map(|message| message.sequence)
            .collect()
    }

    proptest! {
        #[test]
        fn all_that_is_not_acknowledged_is_sent_again_in_order(
            steps in proptest::collection::vec(proptest::option::of(0..40u64), 0..60),
        ) {
            let outbox = Outbox::default();
            let (mut last, mut acknowledged) = (0, 0);
            for step in steps {
                match step {
                    None => {
                        outbox.keep(Body::SessionEnded(SessionEnded::default()));
                        last += 1;
                    }
                    Some(sequence) => {
                        outbox.acknowledge(sequence);
                        acknowledged = acknowledged.max(sequence.min(last));
                    }
                }
                let expected: Vec<u64> = (acknowledged + 1..=last).collect();
                prop_assert_eq!(sequences(&outbox, 0), expected);
                prop_assert_eq!(outbox.acknowledged(), acknowledged);
            }
            outbox.acknowledge(u64::MAX);
            prop_assert!(outbox.after(0, 1).is_empty());
            prop_assert_eq!(outbox.state().bytes, 0);
        }
    }
}
