//! The link to the control plane: dial, say Hello, then carry messages both ways
//! until it breaks, and dial again.
//!
//! Sessions do not notice: what they have to say is kept in the [`Outbox`] until
//! it is durable at the other end.

pub mod authorities;
pub mod backoff;
pub mod connect;
pub mod deliver;
pub mod identity;
pub mod keeper;
pub mod live;
pub mod outbox;
mod pump;
pub mod stored;
pub mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::agent::v1::FromAgent;
use browserfleet_proto::ids::BootId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::host::start::Start;
use crate::sessions::Handle;
use backoff::Backoff;
use connect::Dialer;
use identity::Identity;
use outbox::Outbox;

/// Why a link ended.
#[derive(Debug)]
pub enum Ended {
    /// It broke, or was closed; dial again.
    Broken {
        /// For the log.
        reason: String,
        /// What the server asked for.
        retry_after: Option<Duration>,
    },
    /// The server will not have this agent any more.
    Refused(String),
}

/// What the link shares with the rest of the agent.
pub struct Shared {
    /// What may not be lost.
    pub outbox: Arc<Outbox>,
    /// The sessions.
    pub sessions: Handle,
    /// When the last renewal of the lease was asked for.
    pub renewed: watch::Sender<Instant>,
    /// The connection for pictures, while there is a link.
    pub media: watch::Sender<Option<Channel>>,
    /// The connection for live views, while there is a link.
    pub live: watch::Sender<Option<Channel>>,
    /// The connection for clients of CDP, while there is a link.
    pub tunnels: watch::Sender<Option<Channel>>,
    /// Why the process is to end and be started anew, once it is.
    pub restart: watch::Sender<Option<String>>,
    /// This life of the process.
    pub boot: BootId,
    /// How it began.
    pub start: Arc<Start>,
    /// How many sessions this machine takes.
    pub sessions_max: u32,
}

/// Keeps a link up for as long as the control plane wants this agent. Returns
/// the reason why it does not.
pub async fn run(
    dialer: Dialer,
    shared: Arc<Shared>,
    mut may_be_lost: mpsc::Receiver<FromAgent>,
    mut identity: watch::Receiver<Identity>,
) -> String {
    let mut backoff = Backoff::default();
    loop {
        let dialed = Instant::now();
        let current = identity.borrow_and_update().clone();
        let ended = match dialer.dial(&current).await {
            Ok(channel) => pump::hold(channel, &dialer, &current, &shared, &mut may_be_lost).await,
            Err(reason) => Ended::Broken {
                reason,
                retry_after: None,
            },
        };
        shared.media.send_replace(None);
        shared.live.send_replace(None);
        shared.tunnels.send_replace(None);
        match ended {
            Ended::Refused(reason) => return reason,
            Ended::Broken {
                reason,
                retry_after,
            } => {
                // The lease is renewed by a Welcome.
                let was_up = *shared.renewed.borrow() >= dialed;
                let held = if was_up {
                    dialed.elapsed()
                } else {
                    Duration::ZERO
                };
                let wait = backoff.after(held, rand::random(), retry_after);
                tracing::warn!(
                    reason,
                    wait_ms = wait.as_millis(),
                    "link down; dialing again"
                );
                sleep(wait).await;
            }
        }
    }
}
