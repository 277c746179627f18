//! One command, from its admission to its one final outcome. The work goes on
//! if the caller leaves, and what became of it is in the history.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::action::{self, Action, Answer, Code, Rejection};
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::{ladder, limits};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::control::Admitted;
use super::registry::{Held, Phase};
use super::{OwnedSession, Sessions};
use crate::clock;
use crate::domain::command::{Status, Ticket};
use crate::domain::control::Driver;
use crate::error::{CommandError, Error};
use crate::relay::{self, Final, Picture, Settled, Waiting};
use crate::store::commands::Entry;
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
    /// [`ladder::SETTLE_GRACE`].
    ///
    /// # Errors
    /// Everything but success; the error says what is known of the outcome.
    pub async fn perform(
        self: &Arc<Self>,
        session: OwnedSession,
        request: Request,
    ) -> Result<Performed, CommandError> {
        let command = CommandId::new();
        let fail = |error| CommandError { command, error };
        let held = session.held().map_err(fail)?;
        self.keep_pace(held.user).await.map_err(fail)?;
        let this = Arc::clone(self);
        let work = self.tasks.spawn("command", async move {
            let outcome = this.run(&held, command, request).await;
            held.touch(clock::now());
            outcome
        });
        match work.await {
            Ok(Some(outcome)) => outcome.map_err(fail),
            Ok(None) | Err(_) => Err(fail(Error::Internal(anyhow::anyhow!(
                "the command's task ended before the command"
            )))),
        }
    }

    async fn run(
        self: &Arc<Self>,
        held: &Arc<Held>,
        command: CommandId,
        request: Request,
    ) -> Result<Performed, Error> {
        let admitted = held.admits(request.driver)?;
        let timeout = request
            .timeout
            .unwrap_or(held.command_timeout)
            .min(limits::COMMAND_TIMEOUT_MAX);
        let deadline = Instant::now() + timeout;
        let now = clock::now();
        held.touch(now);
        self.append(Entry::Admitted {
            id: command,
            session: held.id,
            kind: request.action.kind(),
            params: params_of(&request.action),
            at: now,
            deadline_at: now.plus(timeout),
        })
        .await?;
        let started = Instant::now();
        held.tell(
            "command.started",
            &json!({ "command_id": command, "kind": request.action.kind() }),
        );

        let turn = match admitted {
            Admitted::AtOnce => Ok(None),
            Admitted::InTurn => {
                let cancelled = request.cancelled.clone();
                self.wait_for_turn(held, deadline, cancelled)
                    .await
                    .map(Some)
            }
        };
        let outcome = match turn {
            Ok(turn) => {
                let dispatched = self.dispatch(held, command, &request.action, deadline);
                // It is on its way, so that whoever waits next comes after it.
                drop(turn);
                self.outcome_of(dispatched, held, command, request.cancelled)
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
            other => self.append(settled_entry(command, held.id, other)).await?,
        };
        let latest = deadline + ladder::SETTLE_GRACE;
        match tokio::time::timeout_at(latest, self.ledger.durable(ticket)).await {
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
            Outcome::Final(Final::Unknown) => Err(Error::OutcomeUnknown),
            Outcome::Parked(error) => Err(error),
        }
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
        Outcome::Final(Final::Unknown) => Status::Unknown,
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
        Outcome::Parked(error) => Entry::Settled {
            id: command,
            session,
            status: status_of(outcome),
            result: None,
            error_code: Some(error.code()),
            error_message: Some(error.to_string()),
            at: clock::now(),
        },
        Outcome::Refused(_) | Outcome::Final(_) => {
            without_answer(command, session, status_of(outcome))
        }
    }
}

fn without_answer(command: CommandId, session: SessionId, status: Status) -> Entry {
    Entry::Settled {
        id: command,
        session,
        status,
        result: None,
        error_code: None,
        error_message: None,
        at: clock::now(),
    }
}

/// The history's line for an answer.
pub(super) fn answered(command: CommandId, session: SessionId, outcome: &action::Outcome) -> Entry {
    let at = clock::now();
    match outcome {
        Ok(answer) => Entry::Settled {
            id: command,
            session,
            status: Status::Ok,
            result: serde_json::to_string(answer).ok(),
            error_code: None,
            error_message: None,
            at,
        },
        Err(rejection) => Entry::Settled {
            id: command,
            session,
            status: status_of_answer(outcome),
            result: None,
            error_code: Some(rejection.code.as_str()),
            error_message: Some(rejection.message.clone()),
            at,
        },
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
