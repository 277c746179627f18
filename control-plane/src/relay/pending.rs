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
use super::media::{Oversize, PARKED_BYTES_MAX, Picture};
use crate::domain::command::Ticket;

/// What an agent answered.
#[derive(Debug)]
pub struct Settled {
    /// The answer or the rejection.
    pub outcome: Outcome,
    /// The picture of a screenshot.
    pub picture: Option<Picture>,
    /// Where its line is in the history, if it has one yet.
    pub written: Option<Ticket>,
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
    /// Came ahead of its outcome, and goes with whoever waits for it.
    picture: Option<Picture>,
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
    /// The final outcome, at the latest [`ladder::ANSWER_GRACE`] after the deadline.
    pub async fn outcome(mut self) -> Final {
        let latest = self.deadline + ladder::ANSWER_GRACE;
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
                picture: None,
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

    /// Keeps a picture until its command's outcome comes, if somebody waits for it.
    pub(super) fn park(&self, command: CommandId, picture: Picture) -> Result<(), Oversize> {
        let mut entries = self.entries();
        let held: usize = entries
            .values()
            .filter_map(|it| it.picture.as_ref())
            .map(Picture::len)
            .sum();
        if held + picture.len() > PARKED_BYTES_MAX {
            return Err(Oversize);
        }
        if let Some(entry) = entries.get_mut(&command) {
            entry.picture = Some(picture);
        }
        Ok(())
    }

    pub(super) fn parked(&self, command: CommandId) -> Option<Picture> {
        self.entries().get_mut(&command)?.picture.take()
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

#[cfg(test)]
mod tests {
    use super::*;
    use browserfleet_proto::action::{Code, Rejection};
    use browserfleet_proto::browser::v1::Action;
    use proptest::prelude::*;

    const COMMANDS: usize = 6;

    fn command() -> Command {
        Command {
            id: CommandId::new(),
            session: SessionId::new(),
            epoch: 1,
            action: Action::default(),
            deadline: Instant::now(),
        }
    }

    #[test]
    fn a_picture_goes_with_whoever_waited_for_it() {
        let pending = Arc::new(PendingCommands::default());
        let largest = bytes::Bytes::from(vec![0; PARKED_BYTES_MAX / 4]);
        for _ in 0..8 {
            let command = command();
            let waiting = pending.admit(&command, InstanceId::new(), BootId::new());
            let parked = pending.park(command.id, Picture::from(largest.clone()));
            assert!(parked.is_ok(), "nobody else's picture is held");
            drop(waiting);
            assert!(pending.parked(command.id).is_none());
        }
        let waiting: Vec<Waiting> = (0..4)
            .map(|_| {
                let command = command();
                let waiting = pending.admit(&command, InstanceId::new(), BootId::new());
                let parked = pending.park(command.id, Picture::from(largest.clone()));
                assert!(parked.is_ok());
                waiting
            })
            .collect();
        let one_more = pending.park(CommandId::new(), Picture::from(largest));
        assert_eq!(one_more, Err(Oversize));
        drop(waiting);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Sent(usize),
        SettledBy(usize, usize),
        LinkClosedWithIt(usize),
        SessionLost(usize),
        GivenUp(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..COMMANDS).prop_map(Step::Sent),
            (0..COMMANDS, 0..2usize).prop_map(|(command, by)| Step::SettledBy(command, by)),
            (0..COMMANDS).prop_map(Step::LinkClosedWithIt),
            (0..2usize).prop_map(Step::SessionLost),
            (0..COMMANDS).prop_map(Step::GivenUp),
        ];
        proptest::collection::vec(step, 0..40)
    }

    /// What the model knows of a command.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Known {
        Queued,
        Sent,
        Ended(&'static str),
        Forgotten,
    }

    fn name(outcome: &Final) -> &'static str {
        match outcome {
            Final::Settled(_) => "settled",
            Final::NotSent => "not_sent",
            Final::Unknown => "unknown",
        }
    }

    proptest! {
        /// Commands 0, 2, 4 are of session 0 and instance 0; the others of 1.
        #[test]
        fn every_command_ends_once_and_as_far_as_can_be_known(steps in steps()) {
            let pending = Arc::new(PendingCommands::default());
            let sessions = [SessionId::new(), SessionId::new()];
            let instances = [InstanceId::new(), InstanceId::new()];
            let boot = BootId::new();
            let ids: Vec<CommandId> = (0..COMMANDS).map(|_| CommandId::new()).collect();
            let mut waiting: Vec<Option<Waiting>> = (0..COMMANDS)
                .map(|index| {
                    let command = Command {
                        id: ids[index],
                        session: sessions[index % 2],
                        ..command()
                    };
                    Some(pending.admit(&command, instances[index % 2], boot))
                })
                .collect();
            let mut model = [Known::Queued; COMMANDS];
            for step in steps {
                match step {
                    Step::Sent(it) => {
                        let may = pending.sent(ids[it]);
                        let open = matches!(model[it], Known::Queued | Known::Sent);
                        prop_assert_eq!(may, open);
                        if open {
                            model[it] = Known::Sent;
                        }
                    }
                    Step::SettledBy(it, by) => {
                        let settled = Settled {
                            outcome: Err(Rejection::new(Code::Cancelled, "")),
                            picture: None,
                            written: None,
                        };
                        let took = pending.settle(ids[it], instances[by], settled);
                        let open = matches!(model[it], Known::Queued | Known::Sent);
                        prop_assert_eq!(took, open && by == it % 2);
                        if took {
                            model[it] = Known::Ended("settled");
                        }
                    }
                    Step::LinkClosedWithIt(it) => {
                        pending.unsent(ids[it]);
                        if model[it] == Known::Queued {
                            model[it] = Known::Ended("not_sent");
                        }
                    }
                    Step::SessionLost(session) => {
                        pending.lose(sessions[session]);
                        for known in model.iter_mut().skip(session).step_by(2) {
                            *known = match *known {
                                Known::Queued => Known::Ended("not_sent"),
                                Known::Sent => Known::Ended("unknown"),
                                other => other,
                            };
                        }
                    }
                    Step::GivenUp(it) => {
                        waiting[it] = None;
                        model[it] = Known::Forgotten;
                    }
                }
                let again: Vec<CommandId> = pending
                    .unanswered(instances[0], boot)
                    .iter()
                    .map(|it| it.id)
                    .collect();
                for it in (0..COMMANDS).step_by(2) {
                    prop_assert_eq!(again.contains(&ids[it]), model[it] == Known::Sent);
                }
            }
            for (it, waiting) in waiting.iter_mut().enumerate() {
                let Some(waiting) = waiting else { continue };
                let ended = waiting.reply.try_recv().ok();
                let expected = match model[it] {
                    Known::Ended(how) => Some(how),
                    _ => None,
                };
                prop_assert_eq!(ended.as_ref().map(name), expected);
            }
            drop(waiting);
            prop_assert!(pending.entries().is_empty(), "nothing adds up");
        }
    }
}
