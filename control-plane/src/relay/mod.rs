//! The relay: who is connected, what was sent to them, and what they answered.
//!
//! ```text
//!  sessions ──dispatch──▶ pending ──▶ link queue ──▶ agent
//!                           │                          │
//!  perform ◀──one final─────┴──────settle──────────────┘
//! ```
//!
//! It decides nothing about users or instances and never reads the database.
//! Outcomes are never dropped; every queue is bounded, and a full one refuses.

mod events;
mod frames;
mod links;
mod media;
mod outgoing;
mod pending;
mod tunnels;

use std::sync::Arc;

pub use events::{Event, Followed, Follower, Log};
pub use frames::{
    Downs, Frame, Full, Keeper, Line, Over, Place, Strange, VIEWERS_MAX, ViewWish, Viewer,
};
pub use links::{Attached, Contact, Link, Newcomer};
pub use media::{Oversize, Picture};
pub use outgoing::Outgoing;
pub use pending::{Claimed, Final, Settled, Waiting};
pub use tunnels::{Ended, Expecting, Hearing, Pieces, Refused, Saying, Tunnel, Ups};

use browserfleet_proto::agent::v1::{Cancel, ToAgent, to_agent::Body};
use browserfleet_proto::ids::{CommandId, InstanceId, SessionId};

/// One action on its way to a session's agent.
#[derive(Debug, Clone)]
pub struct Command {
    /// The same id is never run twice.
    pub id: CommandId,
    /// Whose browser.
    pub session: SessionId,
    /// The lease's epoch; an agent drops older ones.
    pub epoch: u64,
    /// What.
    pub action: browserfleet_proto::browser::v1::Action,
    /// When the caller stops waiting.
    pub deadline: tokio::time::Instant,
}

/// Why something did not leave the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The agent has no link.
    #[error("the agent is not connected")]
    NoLink,
    /// The link's queue is full.
    #[error("the agent's queue is full")]
    Busy,
}

/// All links, all commands under way, all that is seen, and whoever is to join.
#[derive(Debug, Default)]
pub struct Relay {
    links: links::Links,
    pending: Arc<pending::PendingCommands>,
    views: frames::Views,
    tunnels: Arc<tunnels::Tunnels>,
}

impl Relay {
    /// Sends a command to the agent that holds its session.
    ///
    /// # Errors
    /// [`NotSent`]: it did not and will not reach the agent.
    pub fn dispatch(&self, instance: InstanceId, command: Command) -> Result<Waiting, NotSent> {
        let link = self.links.find(instance).ok_or(NotSent::NoLink)?;
        let waiting = self.pending.admit(&command, instance, link.boot);
        // Dropping `waiting` takes the command back.
        link.push(Outgoing::Command(command))?;
        Ok(waiting)
    }

    /// Takes a command back: one that was not sent never is, and the agent is told to
    /// give up one that was. Its outcome says what became of it.
    pub fn cancel(&self, instance: InstanceId, session: SessionId, command: CommandId) {
        if self.pending.take_back(command) {
            return;
        }
        let cancel = Cancel {
            command_id: command.to_string(),
            session_id: session.to_string(),
        };
        if let Err(error) = self.say(instance, Body::Cancel(cancel)) {
            tracing::debug!(command.id = %command, %error, "could not cancel a command; its deadline will");
        }
    }

    /// Says something to an agent that has no outcome of its own.
    ///
    /// # Errors
    /// [`NotSent`]: it did not and will not reach the agent.
    pub fn say(&self, instance: InstanceId, body: Body) -> Result<(), NotSent> {
        let message = ToAgent { body: Some(body) };
        self.links
            .find(instance)
            .ok_or(NotSent::NoLink)?
            .push(Outgoing::Message(message))
    }

    /// Takes an agent's link in. A link that the same identity had before ends:
    /// the newest wins, since the older one may be a half-open connection.
    /// `welcome` is the first thing that it carries, whoever finds the link meanwhile.
    pub fn attach(&self, newcomer: Newcomer, welcome: ToAgent) -> Attached {
        self.links.attach(newcomer, welcome, &self.pending)
    }

    /// Sends again what an earlier link may have lost. The agent runs a command that
    /// it knows only once, so nothing runs twice; one that has no room now has its
    /// deadline.
    pub fn send_again(&self, link: &Link) {
        for command in self.pending.unanswered(link.instance, link.boot) {
            tracing::debug!(command.id = %command.id, "sending a command again");
            if let Err(error) = link.push(Outgoing::Command(command)) {
                tracing::debug!(%error, "could not send a command again");
            }
        }
    }

    /// Forgets a link, if it is still the instance's.
    pub fn detach(&self, link: &Link) {
        self.links.detach(link);
    }

    /// Notes that an agent's lease was renewed.
    pub fn renewed(&self, instance: InstanceId) {
        self.links.renewed(instance);
    }

    /// What is known of an instance's link.
    pub fn contact(&self, instance: InstanceId) -> Contact {
        self.links.contact(instance)
    }

    /// How many links are up.
    pub fn links(&self) -> usize {
        self.links.count()
    }

    /// The instances with links that are up and not being cut.
    pub fn linked(&self) -> Vec<InstanceId> {
        self.links.linked()
    }

    /// Changes whenever a link came or went.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.links.changes()
    }

    /// Cuts an instance's link, if it has one.
    pub fn cut(&self, instance: InstanceId) {
        self.links.cut(instance);
    }

    /// Cuts all links. No answer comes over them any more: their agents go to another
    /// replica, or are gone.
    pub fn close(&self) {
        self.links.cut_all();
        self.pending.leave_all();
    }

    /// Gives a command its final outcome. `false`: nobody waits for it here.
    pub fn settle(&self, claimed: Claimed, settled: Settled) -> bool {
        self.pending.settle(claimed, settled)
    }

    /// Ends what is under way on a session that is gone, and what is seen of it: sent commands have an
    /// unknown outcome, others were not sent.
    pub fn lose_session(&self, session: SessionId) {
        self.pending.lose(session);
        self.views.end(session);
    }

    /// Whether somebody waits for it.
    pub fn is_pending(&self, claimed: Claimed) -> bool {
        self.pending.is_pending(claimed)
    }

    /// Keeps a picture until its outcome comes, if somebody waits for it.
    ///
    /// # Errors
    /// [`Oversize`] where the control plane holds too many bytes already.
    pub fn park(&self, claimed: Claimed, picture: Picture) -> Result<(), Oversize> {
        self.pending.park(claimed, picture)
    }

    /// The picture that came ahead of an outcome.
    pub fn parked(&self, claimed: Claimed) -> Option<Picture> {
        self.pending.parked(claimed)
    }
}
