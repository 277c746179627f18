//! Commands under way. Each gets one final outcome from whichever comes first:
//! the agent's answer, the loss of the session, or the caller's deadline. What
//! comes later finds nobody waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use browserfleet_proto::action::Outcome;
use browserfleet_proto::ids::{BootId, CommandId, InstanceId, SessionId};
use browserfleet_proto::ladder;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Command;
use super::media::Picture;

/// What an agent answered.
#[derive(Debug)]
pub struct Settled {
    /// The answer or the rejection.
    pub outcome: Outcome,
    /// The picture of a screenshot.
    pub picture: Option<Picture>,
}

/// How a command ended, as far as can be known. Exactly one for each.
#[derive(Debug)]
pub enum Final {
    /// The agent answered.
    Settled(Settled),
    /// It did not reach the agent, and will not.
    NotSent,
    /// It may have run; its answer is lost.
    Unknown,
}

#[derive(Debug)]
struct Entry {
    command: Command,
    instance: InstanceId,
    boot: BootId,
    progress: Progress,
    reply: oneshot::Sender<Final>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Queued,
    Sent,
}

#[derive(Debug, Default)]
pub(super) struct PendingCommands(Mutex<HashMap<CommandId, Entry>>);

/// The caller's end of a command. Dropping it takes the command back if it was
/// not sent, and otherwise leaves its answer to nobody.
#[derive(Debug)]
pub struct Waiting {
    command: CommandId,
    deadline: Instant,
    reply: oneshot::Receiver<Final>,
    pending: Arc<PendingCommands>,
}

impl Waiting {
    /// The final outcome, at the latest [`ladder::SETTLE_GRACE`] after the deadline.
    pub async fn outcome(mut self) -> Final {
        let latest = self.deadline + ladder::SETTLE_GRACE;
        match tokio::time::timeout_at(latest, &mut self.reply).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Final::Unknown,
            Err(_) => match self.pending.remove(self.command) {
                Some(Progress::Queued) => Final::NotSent,
                Some(Progress::Sent) => Final::Unknown,
                // It was settled between the two steps.
                None => self.reply.try_recv().unwrap_or(Final::Unknown),
            },
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.remove(self.command);
    }
}

impl PendingCommands {
    fn entries(&self) -> MutexGuard<'_, HashMap<CommandId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        command: &Command,
        instance: InstanceId,
        boot: BootId,
    ) -> Waiting {
        let (sender, reply) = oneshot::channel();
        self.entries().insert(
            command.id,
            Entry {
                command: command.clone(),
                instance,
                boot,
                progress: Progress::Queued,
                reply: sender,
            },
        );
        Waiting {
            command: command.id,
            deadline: command.deadline,
            reply,
            pending: Arc::clone(self),
        }
    }

    /// Whether the command may be sent: somebody still waits for it.
    pub(super) fn sent(&self, command: CommandId) -> bool {
        match self.entries().get_mut(&command) {
            Some(entry) => {
                entry.progress = Progress::Sent;
                true
            }
            None => false,
        }
    }

    /// What was sent to this life of an agent and has no outcome yet. It may be
    /// sent again: the agent runs a command that it knows only once.
    pub(super) fn unanswered(&self, instance: InstanceId, boot: BootId) -> Vec<Command> {
        self.entries()
            .values()
            .filter(|it| it.instance == instance && it.boot == boot)
            .filter(|it| it.progress == Progress::Sent)
            .map(|it| it.command.clone())
            .collect()
    }

    /// It will not be sent. What was sent before, by an earlier link, stays.
    pub(super) fn unsent(&self, command: CommandId) {
        let progress = self.entries().get(&command).map(|it| it.progress);
        if progress == Some(Progress::Queued) {
            self.finish(command, Final::NotSent);
        }
    }

    pub(super) fn is_pending(&self, command: CommandId, instance: InstanceId) -> bool {
        self.entries()
            .get(&command)
            .is_some_and(|entry| entry.instance == instance)
    }

    pub(super) fn settle(
        &self,
        command: CommandId,
        instance: InstanceId,
        settled: Settled,
    ) -> bool {
        if !self.is_pending(command, instance) {
            return false;
        }
        self.finish(command, Final::Settled(settled))
    }

    pub(super) fn lose(&self, session: SessionId) {
        let lost: Vec<(CommandId, Progress)> = self
            .entries()
            .iter()
            .filter(|(_, entry)| entry.command.session == session)
            .map(|(id, entry)| (*id, entry.progress))
            .collect();
        for (command, progress) in lost {
            let outcome = match progress {
                Progress::Queued => Final::NotSent,
                Progress::Sent => Final::Unknown,
            };
            self.finish(command, outcome);
        }
    }

    fn finish(&self, command: CommandId, outcome: Final) -> bool {
        let entry = self.entries().remove(&command);
        entry.is_some_and(|entry| entry.reply.send(outcome).is_ok())
    }

    fn remove(&self, command: CommandId) -> Option<Progress> {
        self.entries().remove(&command).map(|entry| entry.progress)
    }
}
