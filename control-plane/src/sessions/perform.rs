//! One command, from its admission to its one final outcome. The work goes on
//! if the caller leaves, and what became of it is in the history.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::action::{self, Action, Answer, Code, Rejection};
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::{ladder, limits};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::control::Admitted;
use super::line::InLine;
use super::registry::{Held, Phase};
use super::{OwnedSession, Sessions, wheel};
use crate::clock;
use crate::domain::command::{Status, Ticket};
use crate::domain::control::Driver;
use crate::error::{CommandError, Error};
use crate::relay::{self, Final, Picture, Settled, Waiting};
use crate::store::commands::{Admission, Entry, Settlement};
use crate::telemetry::metrics;

/// What a caller asks of a session.
#[derive(Debug)]
pub struct Request {
    /// How long the caller waits; `None`: as the session says.
    pub timeout: Option<Duration>,
    /// What.
    pub action: Action,
    /// The person who drives, where it is theirs; `None`: the automation's.
    pub driver: Option<Driver>,
    /// Ends it before its time, if that is still possible; `None`: nobody can.
    pub cancelled: Option<CancellationToken>,
}

/// A command that did what it was asked.
#[derive(Debug)]
pub struct Performed {
    /// Its id, in the history.
    pub command: CommandId,
    /// What it answered.
    pub answer: Answer,
    /// The picture of a screenshot.
    pub picture: Option<Picture>,
}

impl Sessions {
    /// Runs one command to its final outcome, by its deadline and
    /// [`ladder::SETTLE_GRACE`], also where the caller leaves.
    ///
    /// # Errors
    /// Everything but success; the error says what is known of the outcome.
    pub async fn perform(
        self: &Arc<Self>,
        session: OwnedSession,
        request: Request,
    ) -> Result<Performed, CommandError> {
        let begun = self.begin(session, request)?;
        let id = begun.id;
        let work = self.tasks.spawn("command", begun.run());
        match work.await {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(CommandError {
                command: id,
                error: Error::Internal(anyhow::anyhow!(
                    "the command's task ended before the command"
                )),
            }),
        }
    }

    /// Gives a command its place: a session's commands reach its browser in the order in
    /// which they began. It has to be run then.
    ///
    /// # Errors
    /// Where the session takes none, or this process none any more.
    pub fn begin(
        self: &Arc<Self>,
        session: OwnedSession,
        request: Request,
    ) -> Result<Begun, CommandError> {
        let id = CommandId::new();
        let until_done = self.commands.token();
        let held = if self.commands.is_closed() {
            Err(Error::NotSent)
        } else {
            session.held()
        };
        let held = held.map_err(|error| CommandError { command: id, error })?;
        Ok(Begun {
            id,
            place: match request.driver {
                // Nobody's command waits behind those that are held while they drive.
                Some(_) => held.persons.stand(),
                None => held.automation.stand(),
            },
            request,
            held,
            sessions: Arc::clone(self),
            _until_done: until_done,
        })
    }

    /// Lets no more commands begin, and resolves once none is under way.
    pub async fn commands_answered(&self) {
        self.commands.close();
        self.commands.wait().await;
    }

    fn dispatch(
        &self,
        held: &Held,
        command: CommandId,
        action: &Action,
        deadline: Instant,
    ) -> Result<Waiting, relay::NotSent> {
        self.relay.dispatch(
            held.instance,
            relay::Command {
                id: command,
                session: held.id,
                epoch: held.epoch.unsigned_abs(),
                action: action.into(),
                deadline,
            },
        )
    }

    async fn outcome_of(
        &self,
        dispatched: Result<Waiting, relay::NotSent>,
        held: &Held,
        command: CommandId,
        cancelled: Option<CancellationToken>,
    ) -> Outcome {
        match dispatched {
            Ok(waiting) => {
                let cancelled = cancelled.unwrap_or_default();
                let outcome = waiting.outcome();
                tokio::pin!(outcome);
                tokio::select! {
                    outcome = &mut outcome => Outcome::Final(outcome),
                    () = cancelled.cancelled() => {
                        self.relay.cancel(held.instance, held.id, command);
                        Outcome::Final(outcome.await)
                    }
                }
            }
            Err(refused) => Outcome::Refused(refused),
        }
    }

    pub(super) async fn append(&self, entry: Entry) -> Result<Ticket, Error> {
        self.ledger
            .append(entry)
            .await
            .map_err(|_| Error::StoreUnavailable)
    }
}

/// A command that has its place among those of its session. Dropping it gives that up.
pub struct Begun {
    /// Its id, in the history.
    id: CommandId,
    place: InLine,
    request: Request,
    held: Arc<Held>,
    sessions: Arc<Sessions>,
    _until_done: TaskTrackerToken,
}

impl Begun {
    /// Runs it to its final outcome, by its deadline and [`ladder::SETTLE_GRACE`].
    /// Whoever may leave before calls [`Sessions::perform`].
    ///
    /// # Errors
    /// Everything but success; the error says what is known of the outcome.
    pub async fn run(self) -> Result<Performed, CommandError> {
        let command = self.id;
        let held = Arc::clone(&self.held);
        let outcome = self.outcome().await;
        held.touch(clock::now());
        outcome.map_err(|error| CommandError { command, error })
    }

    async fn outcome(self) -> Result<Performed, Error> {
        let Self {
            id: command,
            mut place,
            request,
            held,
            sessions,
            _until_done,
        } = self;
        let held = &held;
        sessions.keep_pace(held.user).await?;
        let timeout = request
            .timeout
            .unwrap_or(held.command_timeout)
            .min(limits::COMMAND_TIMEOUT_MAX);
        let deadline = Instant::now() + timeout;
        let first = timeout_at(deadline, place.first()).await;
        first.map_err(|_| Error::NotSent)?;
        let admitted = held.admits(request.driver)?;
        let now = clock::now();
        held.touch(now);
        let written = sessions.append(Entry::Admitted(Admission {
            id: command,
            session: held.id,
            kind: request.action.kind(),
            params: params_of(&request.action),
            at: now,
            deadline_at: now.plus(timeout),
        }));
        let written = timeout_at(deadline, written).await;
        written
            .map_err(|_| Error::NotSent)?
            .map_err(|_| Error::NotSent)?;
        let started = Instant::now();
        held.tell(
            "command.started",
            &json!({ "command_id": command, "kind": request.action.kind() }),
        );

        let turn = match admitted {
            Admitted::AtOnce => Ok(Turn::OfItsPlace { _place: place }),
            Admitted::InTurn => {
                let cancelled = request.cancelled.clone();
                let turn = sessions.wait_for_turn(held, place, deadline, cancelled);
                turn.await.map(|turn| Turn::OfTheWheel { _turn: turn })
            }
        };
        let outcome = match turn {
            Ok(turn) => {
                let dispatched = sessions.dispatch(held, command, &request.action, deadline);
                // It is on its way, so that whoever waits next comes after it.
                drop(turn);
                let cancelled = request.cancelled;
                sessions
                    .outcome_of(dispatched, held, command, cancelled)
                    .await
            }
            Err(error) => Outcome::Parked(error),
        };
        metrics::command(request.action.kind(), status_of(&outcome).as_str());
        held.tell(
            "command.finished",
            &json!({
                "command_id": command,
                "kind": request.action.kind(),
                "status": status_of(&outcome).as_str(),
                "error": code_of(&outcome),
                "took_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
        );
        let ticket = match &outcome {
            Outcome::Final(Final::Settled(Settled {
                written: Some(ticket),
                ..
            })) => *ticket,
            // Whoever hears its answer writes it.
            Outcome::Final(Final::Left) => return Err(Error::OutcomeUnknown),
            other => {
                let entry = settled_entry(command, held.id, other);
                sessions.append(entry).await?
            }
        };
        let latest = deadline + ladder::SETTLE_GRACE;
        match timeout_at(latest, sessions.ledger.durable(ticket)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Error::StoreUnavailable),
        }
        match outcome {
            Outcome::Final(Final::Settled(Settled {
                outcome: Ok(answer),
                picture,
                ..
            })) => Ok(Performed {
                command,
                answer,
                picture,
            }),
            Outcome::Final(Final::Settled(Settled {
                outcome: Err(rejection),
                ..
            })) => Err(error_of(rejection, held)),
            Outcome::Final(Final::NotSent) | Outcome::Refused(relay::NotSent::NoLink) => {
                Err(Error::NotSent)
            }
            Outcome::Refused(relay::NotSent::Busy) => Err(Error::AgentBusy),
            Outcome::Final(Final::Unknown | Final::Left) => Err(Error::OutcomeUnknown),
            Outcome::Parked(error) => Err(error),
        }
    }
}

/// What keeps a command's order until it is on its way.
enum Turn<'a> {
    OfItsPlace { _place: InLine },
    OfTheWheel { _turn: wheel::Turn<'a> },
}

enum Outcome {
    /// It waited for the automation's turn, and did not get it.
    Parked(Error),
    Refused(relay::NotSent),
    Final(Final),
}

fn params_of(action: &Action) -> String {
    serde_json::to_string(action).unwrap_or_else(|_| "null".into())
}

fn status_of(outcome: &Outcome) -> Status {
    match outcome {
        Outcome::Parked(Error::Rejected(rejection)) if rejection.code == Code::Cancelled => {
            Status::Cancelled
        }
        Outcome::Parked(_) => Status::NotSent,
        Outcome::Refused(_) | Outcome::Final(Final::NotSent) => Status::NotSent,
        Outcome::Final(Final::Unknown | Final::Left) => Status::Unknown,
        Outcome::Final(Final::Settled(settled)) => status_of_answer(&settled.outcome),
    }
}

fn status_of_answer(outcome: &action::Outcome) -> Status {
    match outcome {
        Ok(_) => Status::Ok,
        Err(rejection) => match rejection.code {
            Code::CommandTimeout | Code::NavigationTimeout => Status::Timeout,
            Code::Cancelled => Status::Cancelled,
            _ => Status::Error,
        },
    }
}

fn code_of(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Final(Final::Settled(Settled {
            outcome: Err(rejection),
            ..
        })) => Some(rejection.code.as_str()),
        Outcome::Parked(error) => Some(error.code()),
        _ => None,
    }
}

fn settled_entry(command: CommandId, session: SessionId, outcome: &Outcome) -> Entry {
    match outcome {
        Outcome::Final(Final::Settled(settled)) => answered(command, session, &settled.outcome),
        Outcome::Parked(error) => Entry::Settled(Settlement {
            id: command,
            session,
            status: status_of(outcome),
            result: None,
            error_code: Some(error.code()),
            error_message: Some(error.to_string()),
            at: clock::now(),
        }),
        Outcome::Refused(_) | Outcome::Final(_) => {
            without_answer(command, session, status_of(outcome))
        }
    }
}

fn without_answer(command: CommandId, session: SessionId, status: Status) -> Entry {
    Entry::Settled(Settlement {
        id: command,
        session,
        status,
        result: None,
        error_code: None,
        error_message: None,
        at: clock::now(),
    })
}

/// The history's line for an answer.
pub(super) fn answered(command: CommandId, session: SessionId, outcome: &action::Outcome) -> Entry {
    let at = clock::now();
    match outcome {
        Ok(answer) => Entry::Settled(Settlement {
            id: command,
            session,
            status: Status::Ok,
            result: serde_json::to_string(answer).ok(),
            error_code: None,
            error_message: None,
            at,
        }),
        Err(rejection) => Entry::Settled(Settlement {
            id: command,
            session,
            status: status_of_answer(outcome),
            result: None,
            error_code: Some(rejection.code.as_str()),
            error_message: Some(rejection.message.clone()),
            at,
        }),
    }
}

/// A rejection because the session is gone tells why it went, where that is known.
fn error_of(rejection: Rejection, held: &Held) -> Error {
    match (rejection.code, held.phase()) {
        (Code::SessionGone | Code::BrowserCrashed, Phase::Ended { reason, .. }) => {
            Error::SessionGone { reason }
        }
        (Code::SessionGone, _) => Error::SessionGone {
            reason: "ended".into(),
        },
        (Code::BrowserCrashed, _) => Error::SessionGone {
            reason: "browser_crashed".into(),
        },
        _ => Error::Rejected(rejection),
    }
}
