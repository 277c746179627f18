//! What agents report: browsers that are there or gone, outcomes, pages. A
//! report counts only for a session that the agent holds, in its epoch.

use std::sync::Arc;

use browserfleet_proto::action::Rejection;
use browserfleet_proto::agent::v1::{self, HeldSession, ToAgent, to_agent::Body};
use browserfleet_proto::ids::{CommandId, InstanceId, SessionId};
use browserfleet_proto::ladder;
use browserfleet_proto::wire::outcome_from_wire;
use serde_json::json;

use super::perform::answered;
use super::registry::{Held, Holding, Page, Phase};
use super::{Sessions, ledger::Unwritable};
use crate::clock;
use crate::domain::command::Ticket;
use crate::domain::session::{Session, Status};
use crate::domain::time::Timestamp;
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
    /// Ends what a former process of this kind had begun to start, where this is the
    /// only one: nobody will go on with it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn recover(&self) -> Result<(), Error> {
        if self.store.is_shared() {
            return Ok(());
        }
        for row in self.store.sessions_starting().await? {
            self.finish(
                row.id,
                "control_plane_restarted",
                "the control plane was restarted while the session started",
            )
            .await;
        }
        Ok(())
    }

    /// Takes up the sessions of an agent that has a link here now, and says which of
    /// those that it holds go on. Sessions that it should hold and does not are over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn greet(
        &self,
        instance: InstanceId,
        held: &[HeldSession],
    ) -> Result<Vec<SessionId>, Error> {
        let claimed: Vec<(SessionId, u64)> = held
            .iter()
            .filter_map(|it| Some((it.session_id.parse().ok()?, it.epoch)))
            .collect();
        let mut kept = Vec::new();
        for row in self.store.sessions_on(instance).await? {
            let there = claimed
                .iter()
                .any(|(id, epoch)| *id == row.id && *epoch == row.epoch.unsigned_abs());
            let here = self.registry.find(row.id);
            match (there, here.as_ref().map(|it| it.phase())) {
                (true, Some(Phase::Live | Phase::Starting)) => kept.push(row.id),
                (true, Some(Phase::Ending { reason })) => {
                    self.finish(row.id, reason, "").await;
                }
                (true, Some(Phase::Ended { .. })) => {}
                (true, None) if row.status == Status::Ending => {
                    self.finish(row.id, "ended", "").await;
                }
                (true, None) => {
                    self.take_up(&row, instance).await?;
                    kept.push(row.id);
                }
                // It is being opened over another link of the same agent.
                (false, Some(Phase::Starting)) => {}
                (false, _) => {
                    let words = "the agent no longer has the session's browser";
                    let reason = match (&here, row.status) {
                        (_, Status::Ending) => "ended",
                        (None, Status::Starting) => "control_plane_restarted",
                        _ => "agent_restarted",
                    };
                    self.finish(row.id, reason, words).await;
                }
            }
        }
        Ok(kept)
    }

    /// A session whose browser runs, and that another process looked after before.
    async fn take_up(&self, row: &Session, instance: InstanceId) -> Result<(), Error> {
        let phase = if row.status == Status::Live {
            Phase::Live
        } else {
            // Its agent still has to say that its browser is there.
            Phase::Starting
        };
        let held = Held::new(
            Holding {
                id: row.id,
                user: row.user,
                instance,
                epoch: row.epoch,
                command_timeout: std::time::Duration::from_millis(row.spec.command_timeout_ms),
                idle_timeout: row.idle_timeout,
                while_controlled: row.spec.while_controlled,
                expires_at: row.expires_at,
                // Nobody could be active while no process looked after it.
                last_activity_at: clock::now(),
            },
            phase,
        );
        // No command passes a person who holds control, not even the first.
        held.wheel.begin(row.control.clone());
        self.registry.insert(held);
        // What was written between reading the row and now.
        self.recall_control(row.id).await?;
        self.ends.send_modify(|count| *count += 1);
        tracing::info!(session.id = %row.id, instance.id = %instance, "session taken up again");
        Ok(())
    }

    /// An agent's answer to OpenSession.
    pub async fn opened(&self, instance: InstanceId, report: v1::SessionOpened) -> Report {
        let Some(held) = self.reported(instance, &report.session_id, report.epoch) else {
            return self.opened_in_vain(instance, &report).await;
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

    /// A browser is there for a session that ended while it started: whoever ended it
    /// could not say so to an agent that had not begun.
    async fn opened_in_vain(&self, instance: InstanceId, report: &v1::SessionOpened) -> Report {
        let Ok(id) = report.session_id.parse::<SessionId>() else {
            return Report::Strange;
        };
        let row = match self.store.session(id).await {
            Ok(row) => row,
            Err(error) => {
                tracing::warn!(session.id = %id, %error, "could not read whose browser came up");
                None
            }
        };
        let was_its_own = row.is_some_and(|it| {
            it.status == Status::Ended
                && it.instance == Some(instance)
                && it.epoch.unsigned_abs() == report.epoch
        });
        if !was_its_own {
            return Report::Strange;
        }
        let end = Body::EndSession(v1::EndSession {
            session_id: report.session_id.clone(),
            epoch: report.epoch,
        });
        if let Err(error) = self.relay.say(instance, end) {
            // Its next link says which sessions go on.
            tracing::debug!(session.id = %id, %error, "could not tell an agent of a session's end");
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
        let words = "the session's instance is gone";
        for held in self.registry.select(|held| held.instance == instance) {
            self.finish(held.id, reason, words).await;
        }
        // What another process had looked after, or another replica looks after.
        match self.store.sessions_on(instance).await {
            Ok(rows) => {
                for row in rows {
                    self.finish(row.id, reason, words).await;
                }
            }
            Err(error) => {
                tracing::error!(instance.id = %instance, %error, "could not end the sessions of an instance that is gone");
            }
        }
    }

    /// The sessions of an instance end at this time: the cloud takes its machine back.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instance_ending(
        &self,
        instance: InstanceId,
        at: Timestamp,
        reason: &'static str,
    ) -> Result<(), Error> {
        for held in self.registry.select(|held| held.instance == instance) {
            if held.shorten(at, reason) {
                self.store.shorten_session(held.id, at, reason).await?;
                tracing::warn!(session.id = %held.id, reason, ends_at = %at, "session ends before its time");
                let seconds_left = at.since(clock::now()).as_secs();
                held.tell(
                    "session.ending",
                    &json!({ "reason": reason, "ends_at": at, "seconds_left": seconds_left }),
                );
            }
        }
        self.ends.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Lets go of what another replica looks after now, and ends here what ended
    /// there since `since`.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn follow_replicas(self: &Arc<Self>, since: Timestamp) -> Result<(), Error> {
        for (id, reason) in self.store.sessions_ended_since(since).await? {
            let Some(held) = self.registry.find(id) else {
                continue;
            };
            let end = Body::EndSession(v1::EndSession {
                session_id: id.to_string(),
                epoch: held.epoch.unsigned_abs(),
            });
            if let Err(error) = self.relay.say(held.instance, end) {
                tracing::debug!(session.id = %id, %error, "could not tell an agent of a session's end");
            }
            self.finish(id, &reason, "").await;
        }
        let away = self
            .registry
            .select(|held| !self.fleet.is_reachable(held.instance));
        if away.is_empty() {
            return Ok(());
        }
        let now = clock::now();
        let rows = self.fleet.rows().await?;
        for held in away {
            let row = rows.iter().find(|it| it.id == held.instance);
            let Some(heard) = row.and_then(|it| it.seen_at) else {
                continue;
            };
            let here = self.fleet.heard_here_at(held.instance);
            // Somebody heard it, and it was not here.
            let elsewhere = now.since(heard) < ladder::OFFLINE && here.is_none_or(|it| it < heard);
            if elsewhere {
                self.registry.remove(held.id);
                // Its followers look for it there.
                held.events.moved();
                self.relay.end_view(held.id);
            }
        }
        Ok(())
    }

    /// Gives an unknown outcome to commands that a former process left.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn give_up_commands(&self) -> Result<u64, Error> {
        let now = clock::now();
        let grace = i64::try_from(2 * ladder::SETTLE_GRACE.as_micros()).unwrap_or(0);
        let overdue = Timestamp(now.0 - grace);
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

    pub(super) fn reported(
        &self,
        instance: InstanceId,
        session: &str,
        epoch: u64,
    ) -> Option<Arc<Held>> {
        let held = self.registry.find(session.parse().ok()?)?;
        (held.instance == instance && held.epoch.unsigned_abs() == epoch).then_some(held)
    }
}
