//! Who drives a session: taken, given and let go of here. The row decides: it is read,
//! judged by the rule, and written if nobody wrote meanwhile. What came of it is learned
//! here at once and by other replicas within a second, and told to whoever watches.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::ids::{HolderId, SessionId, ShareId};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::line::InLine;
use super::registry::{Held, Phase};
use super::shown::{ControlView, HandoffView};
use super::wheel::Turn;
use super::{OwnedSession, Sessions};
use crate::accounts::{Client, Pass};
use crate::clock;
use crate::domain::access::Right;
use crate::domain::audit::{Action, Event};
use crate::domain::control::{Control, Driver, Lease, Person, Recipient, Refusal, Stage};
use crate::domain::session::{Status, WhileControlled};
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::store::control::Standing;
use browserfleet_proto::action::{Code, Rejection};

/// Shortest time that control is held for: less than this nobody moves a mouse in.
const HOLD_MIN: Duration = Duration::from_secs(1);
/// Longest time that it is held for without any input.
const HOLD_MAX: Duration = Duration::from_secs(60 * 60);
/// How long it is held without input where nobody says otherwise.
const HOLD_DEFAULT: Duration = Duration::from_secs(60);
/// How often a row is read again that others wrote meanwhile: each time, one of them
/// was done.
const TRIES_MAX: usize = 32;
/// How much later than its end a row is settled: the database's clock is read to the
/// millisecond, and is another one.
const SETTLE_SLACK: Duration = Duration::from_millis(20);
/// When to try again after the database failed.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

/// Who does something to a session, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// What they may.
    pub pass: &'a Pass,
    /// From where.
    pub client: &'a Client,
}

impl Actor<'_> {
    /// As whom they drive.
    #[must_use]
    pub fn person(&self) -> Person {
        self.pass.person()
    }

    pub(super) fn did(&self, action: Action, detail: impl Into<String>) -> Event {
        let mut event = self.client.did(action).on(self.pass.user.id).detail(detail);
        event.credential = Some(self.pass.user.credential);
        // Nobody knows who has a share's link.
        event.actor = self.pass.share.is_none().then_some(self.pass.user.id);
        event
    }
}

impl Pass {
    /// As whom somebody with this pass drives.
    #[must_use]
    pub fn person(&self) -> Person {
        self.share.map_or(Person::Owner, Person::Share)
    }
}

/// What is to become of a session's control.
#[derive(Debug, Clone, Copy)]
pub enum Steer {
    /// The caller takes it.
    Take {
        /// How long they hold it without input.
        life: Option<Duration>,
        /// Also where the owner holds it already, elsewhere.
        force: bool,
    },
    /// Another gets it.
    Give {
        /// Who.
        to: Recipient,
        /// How long they hold it without input.
        life: Option<Duration>,
    },
    /// The automation goes on.
    Release,
}

impl Sessions {
    /// Takes, gives or lets go of a session's control.
    ///
    /// # Errors
    /// [`Error::Forbidden`] where the caller may only watch, [`Error::ControlHeld`] and
    /// [`Error::ControlNotHeld`] where the rule refuses it.
    pub async fn steer(
        &self,
        session: &OwnedSession,
        actor: Actor<'_>,
        steer: Steer,
    ) -> Result<Control, Error> {
        let id = session.id();
        actor.pass.permit(id, Right::Drive)?;
        let by = actor.person();
        match steer {
            Steer::Take { life, force } => {
                let lease = self.lease(id, by, life).await?;
                let event = actor.did(Action::ControlTaken, id.to_string());
                self.change(id, Some(event), |control, skew, now| {
                    control.take(lease_at(lease, skew), force, now)
                })
                .await
            }
            Steer::Give { to, life } => {
                let (lease, name) = match to {
                    Recipient::Automation => (None, "automation".to_owned()),
                    Recipient::Person(person) => {
                        let lease = self.lease(id, person, life).await?;
                        (Some(lease), format!("{person:?}"))
                    }
                };
                let event = actor.did(Action::ControlGiven, format!("{id} {name}"));
                self.change(id, Some(event), |control, skew, now| {
                    control.give(by, lease.map(|it| lease_at(it, skew)), now)
                })
                .await
            }
            Steer::Release => {
                let event = actor.did(Action::ControlReleased, id.to_string());
                self.change(id, Some(event), |control, _, _| control.release(by))
                    .await
            }
        }
    }

    /// Who drives a session now.
    #[must_use]
    pub fn control_of(&self, session: &OwnedSession) -> Control {
        match session {
            OwnedSession::Held(held) => match held.phase() {
                Phase::Ended { .. } => held.wheel.control().over(clock::now()),
                _ => held.wheel.control().at(clock::now()),
            },
            OwnedSession::Row(row) => standing_in(&row.control, row.ended_at),
        }
    }

    /// What a share's holder had is over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn share_over(&self, session: SessionId, share: ShareId) -> Result<(), Error> {
        match self
            .change(session, None, |control, _, _| Ok(control.without(share)))
            .await
        {
            Ok(_) | Err(Error::SessionGone { .. } | Error::SessionNotLive { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a client of CDP may begin something here. What it says then is held back
    /// by nobody, so that it has to wait where a command would be held too.
    ///
    /// # Errors
    /// Where the session takes no commands, and [`Error::ControlHeld`] where a person
    /// drives.
    pub fn admit_client(&self, session: &OwnedSession) -> Result<(), Error> {
        session.held()?.wheel.look(parked)
    }

    /// Whether this input counts: its driver holds control. It renews the hold, and is
    /// activity.
    ///
    /// # Errors
    /// [`Error::ControlNotHeld`]
    pub fn admit_input(self: &Arc<Self>, held: &Arc<Held>, driver: Driver) -> Result<(), Error> {
        let now = clock::now();
        let (holds, renew) = held
            .wheel
            .look(|it| (it.is_held_by(driver, now), it.is_to_be_renewed(now)));
        if !holds {
            return Err(Error::ControlNotHeld);
        }
        held.touch(now);
        if renew && held.wheel.begin_renewing() {
            let (this, held) = (Arc::clone(self), Arc::clone(held));
            self.tasks.spawn("renew control", async move {
                let renewed = this
                    .change(held.id, None, |control, _, now| control.renew(driver, now))
                    .await;
                if let Err(error) = renewed {
                    tracing::debug!(session.id = %held.id, %error, "could not renew who drives");
                }
                held.wheel.end_renewing();
            });
        }
        Ok(())
    }

    /// Waits until the automation drives and all that came before had their turn: in the
    /// order of the places that they give up for it.
    pub(super) async fn wait_for_turn<'a>(
        &self,
        held: &'a Arc<Held>,
        before: InLine,
        deadline: Instant,
        cancelled: Option<CancellationToken>,
    ) -> Result<Turn<'a>, Error> {
        let in_the_way = || held.wheel.look(parked).err().unwrap_or(CROWDED);
        let place = held.wheel.queue().ok_or_else(in_the_way)?;
        drop(before);
        let cancelled = cancelled.unwrap_or_default();
        let mut phase = held.follow();
        tokio::select! {
            turn = timeout_at(deadline, place.turn()) => turn.map_err(|_| in_the_way()),
            () = cancelled.cancelled() => {
                let words = "it was cancelled before it was sent";
                Err(Error::Rejected(Rejection::new(Code::Cancelled, words)))
            }
            _ = phase.wait_for(|it| matches!(it, Phase::Ended { .. })) => {
                let session = OwnedSession::Held(Arc::clone(held));
                Err(session.held().err().unwrap_or(Error::NotSent))
            }
        }
    }

    /// Settles what has run out here, and says when something will next.
    pub(crate) async fn settle_controls(&self) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut soon = |wait: Duration| next = Some(next.map_or(wait, |it| it.min(wait)));
        for held in self.registry.select(|held| held.phase() == Phase::Live) {
            let Some(at) = held.wheel.look(Control::runs_out_at) else {
                continue;
            };
            let now = clock::now();
            let due = at.plus(SETTLE_SLACK);
            if due > now {
                soon(due.since(now));
                continue;
            }
            // The row may say that it was renewed elsewhere.
            match self
                .change(held.id, None, |control, _, _| Ok(control))
                .await
            {
                Ok(control) => {
                    if let Some(at) = control.runs_out_at() {
                        soon(at.since(clock::now()) + SETTLE_SLACK);
                    }
                }
                Err(Error::SessionGone { .. } | Error::SessionNotLive { .. }) => {}
                Err(error) => {
                    tracing::warn!(session.id = %held.id, %error, "could not settle who drives");
                    soon(SETTLE_AGAIN);
                }
            }
        }
        next
    }

    /// Learns what other replicas wrote since then, and says up to when it looked: both
    /// on the database's clock.
    ///
    /// # Errors
    /// Where the database fails.
    pub(crate) async fn follow_controls(&self, since: Timestamp) -> Result<(), Error> {
        for (id, standing) in self.store.controls_changed_since(since).await? {
            self.learn_control(id, &standing);
        }
        Ok(())
    }

    /// Learns who drives a session that was just taken up.
    pub(super) async fn recall_control(&self, id: SessionId) -> Result<(), Error> {
        let standing = self.store.control(id).await?;
        self.learn_control(id, &standing);
        Ok(())
    }

    /// Changes when something may run out sooner.
    pub(crate) fn controls(&self) -> tokio::sync::watch::Receiver<u64> {
        self.controls.subscribe()
    }

    /// Reads who drives, asks the rule, and writes its answer; again where somebody wrote
    /// meanwhile. The rule is told by how much the database's clock is ahead of ours, and
    /// its time.
    pub(super) async fn change(
        &self,
        id: SessionId,
        event: Option<Event>,
        rule: impl Fn(Control, i64, Timestamp) -> Result<Control, Refusal>,
    ) -> Result<Control, Error> {
        for _ in 0..TRIES_MAX {
            let seen = self.store.control(id).await?;
            let skew = seen.now.0 - clock::now().0;
            let current = seen.control.clone().at(seen.now);
            let next = rule(current, skew, seen.now).map_err(|it| refused(it, &seen))?;
            let version = if next == seen.control {
                Some(seen.version)
            } else {
                self.store
                    .change_control(id, seen.version, &next, event.as_ref())
                    .await?
            };
            if let Some(version) = version {
                let standing = Standing {
                    version,
                    control: next,
                    now: seen.now,
                };
                return Ok(self.learn_control(id, &standing));
            }
            let row = self.store.session(id).await?;
            let row = row.ok_or(Error::NotFound("session"))?;
            if row.status != Status::Live {
                return Err(match row.end_reason {
                    Some(reason) => Error::SessionGone { reason },
                    None => Error::SessionNotLive {
                        status: row.status.as_str(),
                    },
                });
            }
        }
        Err(Error::Overloaded)
    }

    /// Learns what a row says, tells whoever watches what is new in it, and gives it by
    /// our own clock.
    fn learn_control(&self, id: SessionId, standing: &Standing) -> Control {
        let skew = standing.now.0 - clock::now().0;
        let control = standing.control.clone().ahead(-skew);
        if let Some(held) = self.registry.find(id)
            && let Some(before) = held.wheel.learn(standing.version, &control)
        {
            announce(&held, &before, &control);
            self.controls.send_modify(|count| *count += 1);
        }
        control
    }

    /// What somebody is to hold control with, on our own clock.
    async fn lease(
        &self,
        session: SessionId,
        person: Person,
        life: Option<Duration>,
    ) -> Result<Lease, Error> {
        let life = life.unwrap_or(HOLD_DEFAULT);
        if !(HOLD_MIN..=HOLD_MAX).contains(&life) {
            let (least, most) = (HOLD_MIN.as_millis(), HOLD_MAX.as_millis());
            let why = format!("has to be {least} to {most}");
            return Err(Error::invalid("expires_in_ms", why));
        }
        let latest = match person {
            Person::Owner => None,
            Person::Share(share) => {
                let share = self.store.share(session, share, clock::now()).await?;
                let share = share.ok_or(Error::NotFound("share"))?;
                if share.right < Right::Drive {
                    return Err(Error::Forbidden("this share may only watch the session"));
                }
                Some(share.expires_at)
            }
        };
        Ok(Lease {
            holder: HolderId::new(),
            person,
            life,
            latest,
        })
    }
}

const CROWDED: Error = Error::ControlHeld {
    by: "too many commands wait for it",
};

/// Why the automation does not drive.
fn parked(control: &Control) -> Result<(), Error> {
    if control.hold.is_some() {
        Err(Error::ControlHeld {
            by: "a person holds the session's control",
        })
    } else if control.open_handoff().is_some() {
        Err(Error::ControlHeld {
            by: "the session waits for a person's answer",
        })
    } else {
        Ok(())
    }
}

impl Held {
    /// Whether a command may be admitted.
    ///
    /// # Errors
    /// [`Error::ControlHeld`], [`Error::ControlNotHeld`]
    pub(super) fn admits(&self, driver: Option<Driver>) -> Result<Admitted, Error> {
        if let Some(driver) = driver {
            let holds = self.wheel.look(|it| it.is_held_by(driver, clock::now()));
            return if holds {
                Ok(Admitted::AtOnce)
            } else {
                Err(Error::ControlNotHeld)
            };
        }
        if self.wheel.is_free() {
            return Ok(Admitted::AtOnce);
        }
        match self.while_controlled {
            // Where the automation drives, others wait here and so does this one.
            WhileControlled::Hold => Ok(Admitted::InTurn),
            WhileControlled::Reject => {
                self.wheel.look(parked)?;
                Ok(Admitted::AtOnce)
            }
        }
    }
}

/// How a command was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It goes.
    AtOnce,
    /// It waits until the automation drives.
    InTurn,
}

/// A row's control as it is now.
pub(super) fn standing_in(control: &Control, ended_at: Option<Timestamp>) -> Control {
    let control = control.clone();
    match ended_at {
        Some(at) => control.over(at),
        None => control.at(clock::now()),
    }
}

fn lease_at(mut lease: Lease, skew: i64) -> Lease {
    if let Some(latest) = &mut lease.latest {
        latest.0 = latest.0.saturating_add(skew);
    }
    lease
}

fn refused(refusal: Refusal, seen: &Standing) -> Error {
    match refusal {
        Refusal::Held => match parked(&seen.control) {
            Err(error) => error,
            Ok(()) => Error::ControlNotHeld,
        },
        Refusal::NotHeld => Error::ControlNotHeld,
        Refusal::HandoffOpen => Error::HandoffOpen,
        Refusal::NoHandoff => Error::HandoffNotOpen,
    }
}

/// Tells whoever watches what is new.
fn announce(held: &Held, before: &Control, after: &Control) {
    let holder = |it: &Control| it.hold.as_ref().map(|hold| hold.holder);
    let parked = before.is_automations() != after.is_automations();
    if holder(before) != holder(after) || parked {
        held.tell("control.changed", &json_of(&ControlView::from(after)));
    }
    let Some(handoff) = &after.handoff else {
        return;
    };
    let known = before.handoff.as_ref().filter(|it| it.id == handoff.id);
    if known.is_none() {
        let mut asked = handoff.clone();
        asked.stage = Stage::Open;
        held.tell("handoff.requested", &json_of(&HandoffView::from(&asked)));
    }
    let was_open = known.is_none_or(|it| it.stage == Stage::Open);
    if was_open && handoff.stage != Stage::Open {
        held.tell("handoff.answered", &json_of(&HandoffView::from(handoff)));
    }
}

fn json_of(view: &impl Serialize) -> Value {
    serde_json::to_value(view).unwrap_or_default()
}
