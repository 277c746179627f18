//! What agents report: browsers that are there or gone, outcomes, pages. A
//! report counts only for a session that the agent holds, in its epoch.

use std::sync::Arc;

use browserfleet_proto::action::Rejection;
use browserfleet_proto::agent::v1::{self, HeldSession, ToAgent};
use browserfleet_proto::ids::{CommandId, InstanceId, SessionId};
use browserfleet_proto::ladder;
use browserfleet_proto::wire::outcome_from_wire;

use super::perform::answered;
use super::registry::{Held, Holding, Page, Phase};
use super::{Sessions, ledger::Unwritable};
use crate::clock;
use crate::domain::command::Ticket;
use crate::domain::session::Status;
use crate::error::Error;
use crate::relay::{Attached, Claimed, Link, Newcomer, Oversize, Picture, Settled};

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It counts, and is durable already.
    Taken,
    /// It counts, and is durable with this ticket.
    Written(Ticket),
    /// It is not this agent's to report.
    Strange,
}

impl Sessions {
    /// Takes up the sessions that had not ended when the last process did. Their
    /// browsers may be there still: their agents will say.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn recover(&self) -> Result<(), Error> {
        let now = clock::now();
        for row in self.store.sessions_alive().await? {
            let (Some(instance), Status::Live | Status::Ending) = (row.instance, row.status) else {
                self.finish(
                    row.id,
                    "control_plane_restarted",
                    "the control plane was restarted while the session started",
                )
                .await;
                continue;
            };
            let phase = if row.status == Status::Live {
                Phase::Live
            } else {
                Phase::Ending { reason: "ended" }
            };
            self.registry.insert(Held::new(
                Holding {
                    id: row.id,
                    user: row.user,
                    instance,
                    epoch: row.epoch,
                    command_timeout: std::time::Duration::from_millis(row.spec.command_timeout_ms),
                    idle_timeout: row.idle_timeout,
                    expires_at: row.expires_at,
                    // Nobody could be active while the process was away.
                    last_activity_at: now,
                },
                phase,
            ));
            tracing::info!(session.id = %row.id, instance.id = %instance, "session taken up again");
        }
        Ok(())
    }

    /// Which of the sessions that an agent holds go on. Sessions that it should
    /// hold and does not are over.
    pub async fn greet(&self, instance: InstanceId, held: &[HeldSession]) -> Vec<SessionId> {
        let claimed: Vec<(SessionId, u64)> = held
            .iter()
            .filter_map(|it| Some((it.session_id.parse().ok()?, it.epoch)))
            .collect();
        let expected = self.registry.select(|held| held.instance == instance);
        let mut kept = Vec::new();
        for session in expected {
            let there = claimed
                .iter()
                .any(|(id, epoch)| *id == session.id && *epoch == session.epoch.unsigned_abs());
            match (there, session.phase()) {
                (true, Phase::Live | Phase::Starting) => kept.push(session.id),
                (true, Phase::Ending { reason }) => {
                    self.finish(session.id, reason, "").await;
                }
                (true, Phase::Ended { .. }) => {}
                // It is being opened over another link of the same agent.
                (false, Phase::Starting) => {}
                (false, _) => {
                    self.finish(
                        session.id,
                        "agent_restarted",
                        "the agent no longer has the session's browser",
                    )
                    .await;
                }
            }
        }
        kept
    }

    /// An agent's answer to OpenSession.
    pub async fn opened(&self, instance: InstanceId, report: v1::SessionOpened) -> Report {
        let Some(held) = self.reported(instance, &report.session_id, report.epoch) else {
            return Report::Strange;
        };
        if let Some(rejection) = report.rejection {
            let rejection = Rejection::from(rejection);
            self.finish(held.id, rejection.code.as_str(), &rejection.message)
                .await;
            return Report::Taken;
        }
        let started = self
            .store
            .session_started(held.id, clock::now(), held.expires_at())
            .await;
        match started {
            Ok(true) => {
                held.touch(clock::now());
                held.enter(Phase::Live);
                self.ends.send_modify(|count| *count += 1);
                tracing::info!(session.id = %held.id, instance.id = %instance, browser = report.browser_version, "session live");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(session.id = %held.id, %error, "could not write a session's start");
            }
        }
        Report::Taken
    }

    /// A browser is gone.
    pub async fn ended(&self, instance: InstanceId, report: v1::SessionEnded) -> Report {
        let Some(held) = self.reported(instance, &report.session_id, report.epoch) else {
            // It ended here first; the agent only says so.
            return Report::Taken;
        };
        match held.phase() {
            Phase::Ending { reason } => self.finish(held.id, reason, "").await,
            _ => {
                self.finish(held.id, &report.reason, &report.message).await;
            }
        }
        Report::Taken
    }

    /// A command's outcome.
    pub async fn settled(&self, instance: InstanceId, report: v1::Settled) -> Report {
        let (Ok(command), Ok(session)) = (
            report.command_id.parse::<CommandId>(),
            report.session_id.parse::<SessionId>(),
        ) else {
            return Report::Strange;
        };
        let claimed = Claimed {
            command,
            session,
            instance,
        };
        // One that waits here may be of a session that has ended here.
        let known = self
            .reported(instance, &report.session_id, report.epoch)
            .is_some()
            || self.relay.is_pending(claimed);
        let Some(Ok(outcome)) = report.outcome.map(outcome_from_wire) else {
            return Report::Strange;
        };
        if !known {
            return Report::Strange;
        }
        let picture = if report.payload_delivered {
            self.relay.parked(claimed)
        } else {
            (!report.payload.is_empty()).then(|| Picture::from(report.payload))
        };
        // Written before whoever waits is told, and whether or not somebody waits: the
        // agent may forget the outcome only once it is durable.
        let ticket = self.append(answered(command, session, &outcome)).await.ok();
        let settled = Settled {
            outcome,
            picture,
            written: ticket,
        };
        if !self.relay.settle(claimed, settled) {
            tracing::debug!(command.id = %command, "an outcome came that nobody waits for");
        }
        ticket.map_or(Report::Taken, Report::Written)
    }

    /// A page went somewhere.
    pub fn page_changed(&self, instance: InstanceId, report: v1::PageChanged) -> Report {
        let Some(held) = self.reported(instance, &report.session_id, report.epoch) else {
            return Report::Strange;
        };
        held.set_page(Page {
            url: report.url,
            title: report.title,
        });
        Report::Taken
    }

    /// Resolves once a report is durable.
    ///
    /// # Errors
    /// [`Unwritable`] once the history cannot be written any more.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), Unwritable> {
        self.ledger.durable(ticket).await
    }

    /// Ends what was on an instance that is gone.
    pub async fn instance_lost(&self, instance: InstanceId, reason: &str) {
        for held in self.registry.select(|held| held.instance == instance) {
            self.finish(held.id, reason, "the session's instance is gone")
                .await;
        }
    }

    /// Gives an unknown outcome to commands that a former process left.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn give_up_commands(&self) -> Result<u64, Error> {
        let now = clock::now();
        let grace = i64::try_from(2 * ladder::SETTLE_GRACE.as_micros()).unwrap_or(0);
        let overdue = crate::domain::time::Timestamp(now.0 - grace);
        Ok(self.store.give_up_commands(overdue, now).await?)
    }

    /// Takes an agent's link in.
    pub fn attach(&self, newcomer: Newcomer, welcome: ToAgent) -> Attached {
        self.relay.attach(newcomer, welcome)
    }

    /// Sends again what an earlier link of the same agent may have lost.
    pub fn send_again(&self, link: &Link) {
        self.relay.send_again(link);
    }

    /// Forgets a link that ended.
    pub fn detach(&self, link: &Link) {
        self.relay.detach(link);
    }

    /// Keeps a picture until its outcome comes, if somebody waits for it.
    ///
    /// # Errors
    /// [`Oversize`] where too many bytes are held already.
    pub fn park_picture(&self, claimed: Claimed, picture: Picture) -> Result<(), Oversize> {
        self.relay.park(claimed, picture)
    }

    fn reported(&self, instance: InstanceId, session: &str, epoch: u64) -> Option<Arc<Held>> {
        let held = self.registry.find(session.parse().ok()?)?;
        (held.instance == instance && held.epoch.unsigned_abs() == epoch).then_some(held)
    }
}
