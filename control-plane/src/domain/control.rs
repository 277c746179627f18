//! Who drives a session: its automation, or one person.
//!
//! ```text
//!  hold      automation ──take──▶ person ──give──▶ another person
//!                 ▲──── release, give back, answer, expiry ───┘
//!  handoff   none ──ask──▶ open ──▶ completed | declined | expired
//! ```
//!
//! The automation drives while nobody holds control and no handoff is open. Holding is
//! a lease: it ends by itself unless its holder's input renews it. Who may only watch
//! is refused before this is asked.

use std::time::Duration;

use browserfleet_proto::ids::{HandoffId, HolderId, ShareId};
use serde::{Deserialize, Serialize};

use super::time::{Timestamp, microseconds, microseconds_or_null};

/// A holder's input renews the hold once it has used this part of its life: often
/// enough that somebody who works keeps it, and rarely enough to be written each time.
const RENEWED_AFTER: u32 = 4;

/// Somebody who can hold control: the owner, however they came in, or whoever has a
/// share's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Person {
    /// The session's owner.
    Owner,
    /// Whoever has this share's link.
    Share(ShareId),
}

/// Who may drive next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// The session's commands.
    Automation,
    /// Somebody.
    Person(Person),
}

/// One time of holding control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Input counts with this name alone.
    pub holder: HolderId,
    /// Who.
    pub person: Person,
    /// Since when.
    #[serde(with = "microseconds")]
    pub since: Timestamp,
    /// Until when, unless it is renewed.
    #[serde(with = "microseconds")]
    pub until: Timestamp,
    /// By how much it is renewed.
    pub life: Duration,
    /// When it ends at the latest: a share's hold ends with the share.
    #[serde(with = "microseconds_or_null")]
    pub latest: Option<Timestamp>,
}

impl Hold {
    fn new(lease: Lease, now: Timestamp) -> Self {
        let mut hold = Self {
            holder: lease.holder,
            person: lease.person,
            since: now,
            until: now,
            life: lease.life,
            latest: lease.latest,
        };
        hold.renew(now);
        hold
    }

    fn renew(&mut self, now: Timestamp) {
        let until = now.plus(self.life);
        self.until = self.latest.map_or(until, |latest| until.min(latest));
    }
}

/// What somebody holds control with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// A name that nobody had before.
    pub holder: HolderId,
    /// Who.
    pub person: Person,
    /// How long it lasts without input.
    pub life: Duration,
    /// When it ends at the latest.
    pub latest: Option<Timestamp>,
}

/// Who drives, as they say of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    /// Who they came in as.
    pub person: Person,
    /// The hold that they took.
    pub holder: HolderId,
}

/// How far a handoff is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The automation is parked until a person answers.
    Open,
    /// A person did what was asked.
    Completed,
    /// A person did not.
    Declined,
    /// Nobody answered in time, or before the session ended.
    Expired,
}

impl Stage {
    /// As callers read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completed => "completed",
            Self::Declined => "declined",
            Self::Expired => "expired",
        }
    }
}

/// What a person may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// They did it.
    Completed,
    /// They did not.
    Declined,
}

/// What the automation asks a person for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub id: HandoffId,
    /// Why, in the automation's words.
    pub reason: String,
    /// What is to be done.
    pub instructions: String,
    /// How long the automation is parked for an answer.
    pub timeout: Duration,
}

/// One time that the automation asked for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// Its name.
    pub id: HandoffId,
    /// Why.
    pub reason: String,
    /// What is to be done.
    pub instructions: String,
    /// When it was asked for.
    #[serde(with = "microseconds")]
    pub requested_at: Timestamp,
    /// When it ends without an answer.
    #[serde(with = "microseconds")]
    pub expires_at: Timestamp,
    /// How far it is.
    pub stage: Stage,
    /// What the person said to it.
    pub note: Option<String>,
    /// Who answered.
    pub answered_by: Option<Person>,
    /// When it ended.
    #[serde(with = "microseconds_or_null")]
    pub ended_at: Option<Timestamp>,
}

/// Why something is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else holds control.
    Held,
    /// They do not hold control.
    NotHeld,
    /// The automation asked already, and has no answer yet.
    HandoffOpen,
    /// Nobody is asked for anything.
    NoHandoff,
}

/// Who drives a session, and what it last asked a person for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The person who holds it; `None`: nobody does.
    pub hold: Option<Hold>,
    /// The last one.
    pub handoff: Option<Handoff>,
}

impl Control {
    /// As it is at this time: what has run out is over.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        if self.hold.as_ref().is_some_and(|it| it.until <= now) {
            self.hold = None;
        }
        if let Some(handoff) = &mut self.handoff
            && handoff.stage == Stage::Open
            && handoff.expires_at <= now
        {
            handoff.stage = Stage::Expired;
            handoff.ended_at = Some(handoff.expires_at);
        }
        self
    }

    /// As it is once its session has ended: nobody drives, nobody will answer.
    #[must_use]
    pub fn over(mut self, at: Timestamp) -> Self {
        self.hold = None;
        if let Some(handoff) = &mut self.handoff
            && handoff.stage == Stage::Open
        {
            handoff.stage = Stage::Expired;
            handoff.ended_at = Some(at);
        }
        self
    }

    /// Whether the automation drives. Time is not asked: what runs out is over once it
    /// was told to be.
    #[must_use]
    pub fn is_automations(&self) -> bool {
        self.hold.is_none() && self.open_handoff().is_none()
    }

    /// The handoff that waits for an answer.
    #[must_use]
    pub fn open_handoff(&self) -> Option<&Handoff> {
        self.handoff.as_ref().filter(|it| it.stage == Stage::Open)
    }

    /// When something of it runs out next.
    #[must_use]
    pub fn runs_out_at(&self) -> Option<Timestamp> {
        let hold = self.hold.as_ref().map(|it| it.until);
        let handoff = self.open_handoff().map(|it| it.expires_at);
        hold.into_iter().chain(handoff).min()
    }

    /// Whether this one drives now.
    #[must_use]
    pub fn is_held_by(&self, driver: Driver, now: Timestamp) -> bool {
        self.hold.as_ref().is_some_and(|hold| {
            hold.holder == driver.holder && hold.person == driver.person && hold.until > now
        })
    }

    /// Whether input at this time should renew the hold.
    #[must_use]
    pub fn is_to_be_renewed(&self, now: Timestamp) -> bool {
        self.hold.as_ref().is_some_and(|hold| {
            let fresh = hold.life - hold.life / RENEWED_AFTER;
            let more = hold.latest.is_none_or(|latest| hold.until < latest);
            more && hold.until.since(now) < fresh
        })
    }

    /// Somebody takes control. Who holds it goes on under the same name. Another one's
    /// is taken by the owner alone; with `anew`, the owner's own too, so that whoever
    /// held it as the owner holds it no more.
    ///
    /// # Errors
    /// [`Refusal::Held`]
    pub fn take(mut self, lease: Lease, anew: bool, now: Timestamp) -> Result<Self, Refusal> {
        let owner = lease.person == Person::Owner;
        match &mut self.hold {
            Some(hold) if hold.person == lease.person && !(anew && owner) => {
                hold.life = lease.life;
                hold.latest = lease.latest;
                hold.renew(now);
            }
            Some(_) if !owner => return Err(Refusal::Held),
            Some(_) | None => self.hold = Some(Hold::new(lease, now)),
        }
        Ok(self)
    }

    /// Whoever holds control gives it to another; the owner gives it whoever has it.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`]
    pub fn give(mut self, by: Person, to: Option<Lease>, now: Timestamp) -> Result<Self, Refusal> {
        self.check_may_dispose(by)?;
        self.hold = to.map(|lease| Hold::new(lease, now));
        Ok(self)
    }

    /// Whoever holds control lets go of it; the owner lets go for anybody. Where nobody
    /// holds it, this is done already.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`] where another one holds it.
    pub fn release(mut self, by: Person) -> Result<Self, Refusal> {
        if self.hold.is_some() {
            self.check_may_dispose(by)?;
        }
        self.hold = None;
        Ok(self)
    }

    /// What a share's holder had is over: the share is.
    #[must_use]
    pub fn without(mut self, share: ShareId) -> Self {
        self.hold = self.hold.filter(|it| it.person != Person::Share(share));
        self
    }

    /// The holder's input renews the hold.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`]
    pub fn renew(mut self, driver: Driver, now: Timestamp) -> Result<Self, Refusal> {
        let held = self.is_held_by(driver, now);
        match &mut self.hold {
            Some(hold) if held => hold.renew(now),
            _ => return Err(Refusal::NotHeld),
        }
        Ok(self)
    }

    /// The automation asks for a person, and is parked.
    ///
    /// # Errors
    /// [`Refusal::HandoffOpen`]
    pub fn ask(mut self, request: Request, now: Timestamp) -> Result<Self, Refusal> {
        if self.open_handoff().is_some() {
            return Err(Refusal::HandoffOpen);
        }
        self.handoff = Some(Handoff {
            id: request.id,
            reason: request.reason,
            instructions: request.instructions,
            requested_at: now,
            expires_at: now.plus(request.timeout),
            stage: Stage::Open,
            note: None,
            answered_by: None,
            ended_at: None,
        });
        Ok(self)
    }

    /// A person answers; control goes back to the automation. While somebody holds it,
    /// only they or the owner answer.
    ///
    /// # Errors
    /// [`Refusal::NoHandoff`], [`Refusal::Held`]
    pub fn answer(
        mut self,
        by: Person,
        answer: Answer,
        note: Option<String>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let others = self.hold.as_ref().is_some_and(|it| it.person != by);
        let Some(handoff) = self.handoff.as_mut().filter(|it| it.stage == Stage::Open) else {
            return Err(Refusal::NoHandoff);
        };
        if others && by != Person::Owner {
            return Err(Refusal::Held);
        }
        handoff.stage = match answer {
            Answer::Completed => Stage::Completed,
            Answer::Declined => Stage::Declined,
        };
        handoff.note = note;
        handoff.answered_by = Some(by);
        handoff.ended_at = Some(now);
        self.hold = None;
        Ok(self)
    }

    /// The same, by a clock that is this many microseconds ahead.
    #[must_use]
    pub fn ahead(mut self, by: i64) -> Self {
        let shift = |it: &mut Timestamp| it.0 = it.0.saturating_add(by);
        if let Some(hold) = &mut self.hold {
            shift(&mut hold.since);
            shift(&mut hold.until);
            hold.latest.iter_mut().for_each(shift);
        }
        if let Some(handoff) = &mut self.handoff {
            shift(&mut handoff.requested_at);
            shift(&mut handoff.expires_at);
            handoff.ended_at.iter_mut().for_each(shift);
        }
        self
    }

    fn check_may_dispose(&self, by: Person) -> Result<(), Refusal> {
        let theirs = self.hold.as_ref().is_some_and(|it| it.person == by);
        if theirs || by == Person::Owner {
            Ok(())
        } else {
            Err(Refusal::NotHeld)
        }
    }
}

#[cfg(test)]
mod tests;
