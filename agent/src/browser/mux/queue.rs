//! What waits for one client, in order, and how many bytes that is. Who fills it never
//! waits: it is the one reader of the pipe, which everybody needs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use browserfleet_proto::limits::{
    MEDIA_CHUNK_BYTES_MAX, TUNNEL_HELD_BYTES_MAX, TUNNEL_MESSAGE_OUT_BYTES_MAX,
};
use bytes::Bytes;
use tokio::sync::Notify;

use super::message::Pieces;
use crate::browser::TunnelEnd;

/// Above it no more commands are taken from the client: their answers would come on
/// top.
const ENOUGH_BYTES: usize = TUNNEL_HELD_BYTES_MAX / 4;

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// At most [`MEDIA_CHUNK_BYTES_MAX`].
    pub data: Bytes,
    /// The message ends with it.
    pub last: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Bytes of large messages that wait for any of the browser's clients.
    all_large: Arc<AtomicUsize>,
    /// Something came, or it ended.
    more: Notify,
    /// Something was taken.
    less: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Pieces>,
    /// Bytes that wait.
    held: usize,
    /// Bytes of messages that are larger than all others together may be.
    large: usize,
    ended: Option<TunnelEnd>,
}

impl Queue {
    /// One of a browser, whose clients together hold `all_large` bytes of large messages.
    pub(super) fn new(all_large: Arc<AtomicUsize>) -> Self {
        let mut queue = Self::default();
        queue.all_large = all_large;
        queue
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. One that is larger than may wait has to be alone of its kind, and
    /// all of a browser's together have at most as many bytes as the largest may have;
    /// where there is no room, all that waits is dropped and the tunnel ends.
    pub(super) fn push(&self, message: Pieces) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        let bytes = message.len();
        let is_large = bytes > TUNNEL_HELD_BYTES_MAX;
        let others = state.held - state.large;
        let full = if is_large {
            let all = self.all_large.load(Ordering::Acquire);
            state.large > 0 || all + bytes > TUNNEL_MESSAGE_OUT_BYTES_MAX
        } else {
            others + bytes > TUNNEL_HELD_BYTES_MAX
        };
        if bytes > TUNNEL_MESSAGE_OUT_BYTES_MAX {
            drop(state);
            return self.cut(TunnelEnd::TooLarge);
        }
        if full {
            drop(state);
            return self.cut(TunnelEnd::Stalled);
        }
        state.held += bytes;
        if is_large {
            self.all_large.fetch_add(bytes, Ordering::AcqRel);
            state.large = bytes;
        }
        state.waiting.push_back(message);
        drop(state);
        self.more.notify_one();
    }

    /// No more will come; what waits is still to be had. The first reason counts.
    pub(super) fn end(&self, end: TunnelEnd) {
        self.state().ended.get_or_insert(end);
        self.more.notify_one();
        self.less.notify_one();
    }

    /// No more will come, and what waits is dropped.
    pub(super) fn cut(&self, end: TunnelEnd) {
        self.state().cut(end, &self.all_large);
        self.more.notify_one();
        self.less.notify_one();
    }

    /// The next part, or why there are no more.
    pub(crate) async fn next(&self) -> Result<Part, TunnelEnd> {
        loop {
            {
                let mut state = self.state();
                if let Some(part) = state.pop(&self.all_large) {
                    drop(state);
                    self.less.notify_one();
                    return Ok(part);
                }
                if let Some(end) = state.ended {
                    return Err(end);
                }
            }
            self.more.notified().await;
        }
    }

    /// Resolves once so little waits that the client may ask for more.
    pub(super) async fn has_room(&self) {
        loop {
            {
                let state = self.state();
                if state.held - state.large <= ENOUGH_BYTES || state.ended.is_some() {
                    return;
                }
            }
            self.less.notified().await;
        }
    }

    /// Resolves once it was cut: who is sending a part need not finish.
    pub(crate) async fn is_cut(&self) -> TunnelEnd {
        loop {
            {
                let state = self.state();
                if let Some(end) = state.ended.filter(|it| it.drops_what_waits()) {
                    return end;
                }
            }
            self.more.notified().await;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.state().keep_large(0, &self.all_large);
    }
}

impl State {
    fn cut(&mut self, end: TunnelEnd, all_large: &AtomicUsize) {
        self.ended = Some(end);
        self.waiting.clear();
        self.held = 0;
        self.keep_large(0, all_large);
    }

    /// So many bytes are left of what is large.
    fn keep_large(&mut self, bytes: usize, all_large: &AtomicUsize) {
        all_large.fetch_sub(self.large - bytes, Ordering::AcqRel);
        self.large = bytes;
    }

    fn pop(&mut self, all_large: &AtomicUsize) -> Option<Part> {
        let message = self.waiting.front_mut()?;
        let piece = message.0.first_mut()?;
        let data = piece.split_to(piece.len().min(MEDIA_CHUNK_BYTES_MAX));
        if piece.is_empty() {
            message.0.remove(0);
        }
        let last = message.0.is_empty();
        if last {
            self.waiting.pop_front();
        }
        self.held -= data.len();
        // Whatever is left of a large one counts as large until it is gone.
        self.keep_large(self.large.min(self.held), all_large);
        Some(Part { data, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn message(bytes: usize) -> Pieces {
        Pieces(vec![Bytes::from(vec![b'x'; bytes])])
    }

    fn taken(queue: &Queue) -> usize {
        let mut bytes = 0;
        while let Some(Ok(part)) = queue.next().now_or_never() {
            bytes += part.data.len();
        }
        bytes
    }

    #[tokio::test]
    async fn messages_come_in_parts_and_in_order() {
        let queue = Queue::default();
        queue.push(message(MEDIA_CHUNK_BYTES_MAX + 1));
        queue.push(message(5));
        queue.end(TunnelEnd::Closed);
        let mut parts = Vec::new();
        let end = loop {
            match queue.next().await {
                Ok(part) => parts.push((part.data.len(), part.last)),
                Err(end) => break end,
            }
        };
        assert_eq!(
            parts,
            [(MEDIA_CHUNK_BYTES_MAX, false), (1, true), (5, true)]
        );
        assert_eq!(end, TunnelEnd::Closed);
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_and_holds_nothing() {
        let queue = Queue::default();
        for _ in 0..33 {
            queue.push(message(1024 * 1024));
        }
        assert_eq!(queue.next().await, Err(TunnelEnd::Stalled));
        assert_eq!(queue.state().held, 0);
    }

    #[tokio::test]
    async fn one_large_message_may_wait_with_small_ones() {
        let queue = Queue::default();
        queue.push(message(5));
        queue.push(message(TUNNEL_HELD_BYTES_MAX + 1));
        queue.push(message(7));
        assert!(queue.has_room().now_or_never().is_some());
        assert_eq!(taken(&queue), TUNNEL_HELD_BYTES_MAX + 13);
        queue.push(message(TUNNEL_HELD_BYTES_MAX + 1));
        queue.push(message(TUNNEL_HELD_BYTES_MAX + 1));
        assert_eq!(queue.next().await, Err(TunnelEnd::Stalled));
    }

    #[tokio::test]
    async fn large_messages_of_all_clients_have_one_bound() {
        let large = Arc::new(AtomicUsize::new(0));
        let [first, second, third] = [(); 3].map(|()| Queue::new(Arc::clone(&large)));
        let half = TUNNEL_MESSAGE_OUT_BYTES_MAX / 2;
        first.push(message(half));
        second.push(message(half));
        third.push(message(half));
        assert_eq!(third.next().await, Err(TunnelEnd::Stalled));
        assert_eq!(taken(&first), half);
        drop(second);
        assert_eq!(large.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn what_is_too_large_ends_the_tunnel() {
        let queue = Queue::default();
        queue.push(message(TUNNEL_MESSAGE_OUT_BYTES_MAX + 1));
        assert_eq!(queue.next().await, Err(TunnelEnd::TooLarge));
    }
}
