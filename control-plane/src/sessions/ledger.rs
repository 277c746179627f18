//! The history's batch writer. Commands are written off the hot path, many in
//! one transaction; whoever needs an entry to be durable waits for its ticket.
//!
//! ```text
//!  perform ──Admitted──▶ queue ─┐
//!  perform ──Settled───▶ queue ─┼─▶ one transaction ─▶ flushed = last ticket
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::domain::command::Ticket;
use crate::store::{Store, commands::Entry};
use crate::tasks::Tasks;

/// How many entries may wait: two for each command, at several thousand commands
/// a second this is the writer's backlog of one second.
const QUEUE_MAX: usize = 8192;
/// Entries in one transaction.
const BATCH_MAX: usize = 512;
/// How long a command's admission waits for its outcome where nothing else is to be
/// written: of a quick command both are one statement then, and none is under way when
/// its outcome comes. Who crashes in it forgets a command that began a moment before, as it does
/// while a transaction is under way.
const ADMISSION_WAITS: Duration = Duration::from_millis(5);
/// Wait between two attempts while the database does not answer.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// The way to the batch writer. Cheap to clone.
#[derive(Debug)]
pub struct Ledger {
    queue: mpsc::Sender<(Ticket, Entry)>,
    closed: CancellationToken,
    /// Held while an entry is numbered and queued, so that the queue is in the
    /// order of the numbers.
    last: Mutex<u64>,
    flushed: watch::Receiver<Ticket>,
}

/// The history cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the history cannot be written")]
pub struct Unwritable;

impl Ledger {
    /// Starts the writer.
    #[must_use]
    pub fn start(store: Store, tasks: &Tasks) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE_MAX);
        let (progress, flushed) = watch::channel(Ticket(0));
        let closed = CancellationToken::new();
        tasks.spawn("ledger", write(store, entries, progress, closed.clone()));
        Self {
            queue,
            closed,
            last: Mutex::new(0),
            flushed,
        }
    }

    /// Queues an entry, and waits only where the queue is full.
    ///
    /// # Errors
    /// [`Unwritable`] once the writer has ended.
    pub async fn append(&self, entry: Entry) -> Result<Ticket, Unwritable> {
        let place = self.queue.reserve().await.map_err(|_| Unwritable)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let ticket = Ticket(*last);
        place.send((ticket, entry));
        Ok(ticket)
    }

    /// How many entries wait.
    pub fn waiting(&self) -> usize {
        QUEUE_MAX - self.queue.capacity()
    }

    /// Takes no more entries; those that are queued are still written.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Resolves once the entry is durable.
    ///
    /// # Errors
    /// [`Unwritable`] once the writer has ended.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), Unwritable> {
        let mut flushed = self.flushed.clone();
        let reached = flushed.wait_for(|last| *last >= ticket).await;
        reached.map(drop).map_err(|_| Unwritable)
    }
}

/// Whether somebody waits until it is written.
fn is_awaited(entry: &Entry) -> bool {
    matches!(entry, Entry::Settled(_))
}

async fn write(
    store: Store,
    mut entries: mpsc::Receiver<(Ticket, Entry)>,
    progress: watch::Sender<Ticket>,
    closed: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let received = tokio::select! {
            received = entries.recv_many(&mut batch, BATCH_MAX) => received,
            () = closed.cancelled(), if !entries.is_closed() => {
                entries.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        let latest = Instant::now() + ADMISSION_WAITS;
        while batch.len() < BATCH_MAX && !batch.iter().any(|(_, entry)| is_awaited(entry)) {
            let room = BATCH_MAX - batch.len();
            let more = timeout_at(latest, entries.recv_many(&mut batch, room));
            if !matches!(more.await, Ok(1..)) {
                break;
            }
        }
        let Some(last) = batch.last().map(|(ticket, _)| *ticket) else {
            continue;
        };
        let lines: Vec<Entry> = batch.drain(..).map(|(_, entry)| entry).collect();
        while let Err(error) = store.append_history(&lines).await {
            tracing::warn!(%error, entries = lines.len(), "could not write the history; trying again");
            tokio::time::sleep(RETRY_WAIT).await;
        }
        progress.send_replace(last);
    }
}
