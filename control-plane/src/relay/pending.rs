//! Commands under way. Each gets one final outcome from whichever comes first:
//! the agent's answer, the loss of the session, or the caller's deadline. What
//! comes later finds nobody waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use browserfleet_proto::action::{Code, Outcome, Rejection};
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

/// A command as an agent names it. It counts only if it is of that session, and the
/// session of that agent.
#[derive(Debug, Clone, Copy)]
pub struct Claimed {
    /// The command.
    pub command: CommandId,
    /// Whose browser, as the agent says.
    pub session: SessionId,
    /// Who says so, as its certificate says.
    pub instance: InstanceId,
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
    /// It goes on, and another replica will hear its answer.
    Left,
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

impl Entry {
    fn is(&self, claimed: Claimed) -> bool {
        self.instance == claimed.instance && self.command.session == claimed.session
    }
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

    /// Ends a command that was not sent. `false`: it was, or has its outcome.
    pub(super) fn take_back(&self, command: CommandId) -> bool {
        let mut entries = self.entries();
        let queued = entries
            .get(&command)
            .is_some_and(|it| it.progress == Progress::Queued);
        let Some(entry) = queued.then(|| entries.remove(&command)).flatten() else {
            return false;
        };
        drop(entries);
        let cancelled = Settled {
            outcome: Err(Rejection::new(
                Code::Cancelled,
                "the command was cancelled before it was sent",
            )),
            picture: None,
            written: None,
        };
        entry.reply.send(Final::Settled(cancelled)).is_ok()
    }

    pub(super) fn is_pending(&self, claimed: Claimed) -> bool {
        self.entries()
            .get(&claimed.command)
            .is_some_and(|entry| entry.is(claimed))
    }

    /// Keeps a picture until its command's outcome comes, if somebody waits for it.
    pub(super) fn park(&self, claimed: Claimed, picture: Picture) -> Result<(), Oversize> {
        let mut entries = self.entries();
        let held: usize = entries
            .values()
            .filter_map(|it| it.picture.as_ref())
            .map(Picture::len)
            .sum();
        let entry = entries.get_mut(&claimed.command);
        let Some(entry) = entry.filter(|entry| entry.is(claimed)) else {
            return Ok(());
        };
        if held + picture.len() > PARKED_BYTES_MAX {
            return Err(Oversize);
        }
        entry.picture = Some(picture);
        Ok(())
    }

    pub(super) fn parked(&self, claimed: Claimed) -> Option<Picture> {
        let mut entries = self.entries();
        let entry = entries.get_mut(&claimed.command)?;
        entry.is(claimed).then(|| entry.picture.take()).flatten()
    }

    pub(super) fn settle(&self, claimed: Claimed, settled: Settled) -> bool {
        self.is_pending(claimed) && self.finish(claimed.command, Final::Settled(settled))
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

    /// Ends waiting for agents that go on without this process.
    pub(super) fn leave_all(&self) {
        let left: Vec<Entry> = self.entries().drain().map(|(_, entry)| entry).collect();
        for entry in left {
            let outcome = match entry.progress {
                Progress::Queued => Final::NotSent,
                Progress::Sent => Final::Left,
            };
            if entry.reply.send(outcome).is_err() {
                tracing::debug!(command.id = %entry.command.id, "nobody waits for it");
            }
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
        let wait = || {
            let command = command();
            let claimed = Claimed {
                command: command.id,
                session: command.session,
                instance: InstanceId::new(),
            };
            let waiting = pending.admit(&command, claimed.instance, BootId::new());
            (claimed, waiting)
        };
        let park = |claimed| pending.park(claimed, Picture::from(largest.clone()));
        for _ in 0..8 {
            let (claimed, waiting) = wait();
            assert!(park(claimed).is_ok(), "nobody else's picture is held");
            let another = Claimed {
                instance: InstanceId::new(),
                ..claimed
            };
            assert!(pending.parked(another).is_none());
            drop(waiting);
            assert!(pending.parked(claimed).is_none());
        }
        let held: Vec<_> = (0..4).map(|_| wait()).collect();
        assert!(held.iter().all(|(claimed, _)| park(*claimed).is_ok()));
        let (one_more, _waiting) = wait();
        assert_eq!(park(one_more), Err(Oversize));
        assert!(pending.parked(held[0].0).is_some());
        assert!(park(one_more).is_ok());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Sent(usize),
        SettledBy(usize, usize),
        LinkClosedWithIt(usize),
        SessionLost(usize),
        GivenUp(usize),
        LeftBehind,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..COMMANDS).prop_map(Step::Sent),
            (0..COMMANDS, 0..2usize).prop_map(|(command, by)| Step::SettledBy(command, by)),
            (0..COMMANDS).prop_map(Step::LinkClosedWithIt),
            (0..2usize).prop_map(Step::SessionLost),
            (0..COMMANDS).prop_map(Step::GivenUp),
            Just(Step::LeftBehind),
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
            Final::Left => "left",
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
                        let claimed = Claimed {
                            command: ids[it],
                            session: sessions[it % 2],
                            instance: instances[by],
                        };
                        let took = pending.settle(claimed, settled);
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
                    Step::LeftBehind => {
                        pending.leave_all();
                        for known in &mut model {
                            *known = match *known {
                                Known::Queued => Known::Ended("not_sent"),
                                Known::Sent => Known::Ended("left"),
                                other => other,
                            };
                        }
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
