//! An instance's row and its states.
//!
//! ```text
//! provisioning ──▶ running ──▶ stopping ──▶ terminated
//!        └────────────┴───────────┴──▶ error ──▶ terminated
//! ```

use browserfleet_proto::ids::{InstanceId, UserId};
use serde::{Deserialize, Serialize};

use super::machine::{Addresses, Offering};
use super::time::Timestamp;

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was asked for; its agent has not said yet that it lives.
    Provisioning,
    /// Its agent said that it lives.
    Running,
    /// It is being ended.
    Stopping,
    /// It is gone.
    Terminated,
    /// It failed. Where a machine may be left behind, that is looked for.
    Error,
}

impl Status {
    /// As it is stored and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Terminated => "terminated",
            Self::Error => "error",
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [
            Self::Provisioning,
            Self::Running,
            Self::Stopping,
            Self::Terminated,
            Self::Error,
        ]
        .into_iter()
        .find(|it| it.as_str() == text)
    }

    /// Whether an instance may go from here to there.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Terminated, _) | (_, Self::Provisioning) => false,
            (Self::Provisioning, Self::Running)
            | (Self::Provisioning | Self::Running | Self::Stopping, Self::Error)
            | (Self::Provisioning | Self::Running | Self::Error, Self::Stopping)
            | (_, Self::Terminated) => true,
            _ => false,
        }
    }
}

/// How far the request for an instance's machine is. The intent is written before
/// each step, so that a crash between any two is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptState {
    /// There is none yet.
    Wanted,
    /// It is written down and was never sent.
    Unsent,
    /// It was sent, and what became of it is not known.
    Sent,
    /// It was refused for sure: it made no machine, and will make none.
    Refused,
    /// It made the machine that the row names.
    Accepted,
}

impl AttemptState {
    /// As it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Unsent => "unsent",
            Self::Sent => "sent",
            Self::Refused => "refused",
            Self::Accepted => "accepted",
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [
            Self::Wanted,
            Self::Unsent,
            Self::Sent,
            Self::Refused,
            Self::Accepted,
        ]
        .into_iter()
        .find(|it| it.as_str() == text)
    }
}

/// The newest request for an instance's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Counts from 1; 0 where there is none yet.
    pub number: i64,
    /// How far it is.
    pub state: AttemptState,
    /// When that was written.
    pub at: Timestamp,
    /// How often it was sent.
    pub sends: i64,
}

/// How far an instance is that is to be stopped after its first start, and started
/// again once it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It boots, and will be stopped once its agent has said a word.
    Wanted,
    /// Its agent has; its machine is told to stop.
    Stopping,
    /// Its machine was seen stopped. It costs a disk only.
    Stopped,
    /// It is needed: its machine is told to start, and it is like any that boots.
    Starting,
}

impl Stage {
    /// As it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Wanted, Self::Stopping, Self::Stopped, Self::Starting]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// That an instance is one of those that are stopped and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parking {
    /// How far it is.
    pub stage: Stage,
    /// Since when.
    pub at: Timestamp,
    /// When its machine was last told so, in this stage.
    pub told_at: Option<Timestamp>,
}

/// Something that is so since some time, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// Why, in a word.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// What is started anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartMode {
    /// The agent's process.
    #[default]
    Agent,
    /// The whole machine.
    Reboot,
}

impl RestartMode {
    /// As it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Reboot => "reboot",
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Agent, Self::Reboot]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// A restart that was asked for and is over once an agent of a new life is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// Of what.
    pub mode: RestartMode,
    /// When it was asked for.
    pub at: Timestamp,
    /// When the machine or its agent was told.
    pub told_at: Option<Timestamp>,
}

/// An instance's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// `local`, `ec2`
    pub provider: String,
    /// Where its provider has it.
    pub region: Option<String>,
    /// The provider's own name for its machine, once there is one.
    pub reference: Option<String>,
    /// How far it is.
    pub status: Status,
    /// Which of the pool's makings it is of.
    pub generation: i64,
    /// The request for its machine.
    pub attempt: Attempt,
    /// How that machine is had, as far as that is decided.
    pub offering: Option<Offering>,
    /// Who holds it.
    pub assigned_to: Option<UserId>,
    /// Whether its holder asked for it by itself, so that it is kept without sessions
    /// until it is idle, and is nobody else's on its way.
    pub asked_for: bool,
    /// Grows with each holder.
    pub epoch: i64,
    /// How many sessions it takes.
    pub sessions_max: i64,
    /// How many it has.
    pub sessions: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its machine was made.
    pub launched_at: Option<Timestamp>,
    /// When the token was made that its agent joins with.
    pub token_at: Option<Timestamp>,
    /// When its agent joined.
    pub enrolled_at: Option<Timestamp>,
    /// When its agent first said that it lives.
    pub ready_at: Option<Timestamp>,
    /// When its agent last did, as any replica heard it and wrote it down.
    pub seen_at: Option<Timestamp>,
    /// When a session was last placed on it or ended there, or a command ran.
    pub last_activity_at: Timestamp,
    /// Why it takes no new sessions.
    pub draining: Option<Since>,
    /// When a draining instance ends, whatever is on it.
    pub drain_until: Option<Timestamp>,
    /// What is wrong with it.
    pub unhealthy: Option<Since>,
    /// Since when the provider does not show its machine.
    pub missing_since: Option<Timestamp>,
    /// When its machine's end was last asked for.
    pub end_asked_at: Option<Timestamp>,
    /// When its status last changed.
    pub status_at: Timestamp,
    /// A restart that is under way.
    pub restart: Option<Restart>,
    /// Whether it is one of those that are stopped and started again; afterwards,
    /// that it was.
    pub parking: Option<Parking>,
    /// Whether it is being made clean for the next holder, since when.
    pub recycling_since: Option<Timestamp>,
    /// How many holders it had.
    pub uses: i64,
    /// Whether a machine may be there although the row has given up.
    pub left_behind: bool,
    /// Why it failed or ended, in a word and in words.
    pub error_code: Option<String>,
    /// More about it, for people.
    pub error_message: Option<String>,
    /// What the provider calls the kind of its machine.
    pub kind: Option<String>,
    /// The provider's zone.
    pub zone: Option<String>,
    /// What it was started from.
    pub image: Option<String>,
    /// Where it is reached.
    pub addresses: Addresses,
}

impl Instance {
    /// Whether a machine is there, or may be: what counts against the maximum.
    #[must_use]
    pub fn counts(&self) -> bool {
        match self.status {
            Status::Provisioning | Status::Running | Status::Stopping => true,
            Status::Error => self.left_behind,
            Status::Terminated => false,
        }
    }

    /// Whether somebody may be given it, or one more session on it, as far as its
    /// row says.
    #[must_use]
    pub fn takes_work(&self) -> bool {
        self.status == Status::Running
            && self.draining.is_none()
            && self.unhealthy.is_none()
            && self.restart.is_none()
            && self.recycling_since.is_none()
    }

    /// Whether it is nobody's and on its way to be somebody's.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        self.is_on_its_way() && self.parking.is_none_or(|it| it.stage == Stage::Starting)
    }

    /// Whether it is stopped, or will be before anybody gets it.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.is_on_its_way() && !self.is_coming()
    }

    /// Whether its machine boots for the first time, and is nobody's.
    #[must_use]
    pub fn is_booting(&self) -> bool {
        self.is_coming() || self.is_parked_at(Stage::Wanted)
    }

    /// Whether it is parked and this far.
    #[must_use]
    pub fn is_parked_at(&self, stage: Stage) -> bool {
        self.is_parked() && self.parking.is_some_and(|it| it.stage == stage)
    }

    /// Whether it was stopped, is nobody's, and is being started.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.is_coming() && self.parking.is_some()
    }

    fn is_on_its_way(&self) -> bool {
        self.status == Status::Provisioning && self.assigned_to.is_none() && self.draining.is_none()
    }
}

#[cfg(test)]
impl Instance {
    /// A row as it is when it has just been written.
    pub(crate) fn fresh(now: Timestamp) -> Self {
        Self {
            id: InstanceId::new(),
            provider: "model".into(),
            region: None,
            reference: None,
            status: Status::Provisioning,
            generation: 1,
            attempt: Attempt {
                number: 0,
                state: AttemptState::Wanted,
                at: now,
                sends: 0,
            },
            offering: None,
            assigned_to: None,
            asked_for: false,
            epoch: 0,
            sessions_max: 2,
            sessions: 0,
            created_at: now,
            launched_at: None,
            token_at: None,
            enrolled_at: None,
            ready_at: None,
            seen_at: None,
            last_activity_at: now,
            draining: None,
            drain_until: None,
            unhealthy: None,
            missing_since: None,
            end_asked_at: None,
            status_at: now,
            restart: None,
            parking: None,
            recycling_since: None,
            uses: 0,
            left_behind: false,
            error_code: None,
            error_message: None,
            kind: None,
            zone: None,
            image: None,
            addresses: Addresses::default(),
        }
    }

    /// The same, once it is ready.
    pub(crate) fn ready(now: Timestamp) -> Self {
        Self {
            reference: Some("m-1".into()),
            status: Status::Running,
            attempt: Attempt {
                number: 1,
                state: AttemptState::Accepted,
                at: now,
                sends: 1,
            },
            launched_at: Some(now),
            enrolled_at: Some(now),
            ready_at: Some(now),
            ..Self::fresh(now)
        }
    }

    /// One that booted then, and is this far on its way to be stopped or back.
    pub(crate) fn parked(stage: Stage, now: Timestamp) -> Self {
        let parking = Parking {
            stage,
            at: now,
            told_at: None,
        };
        Self {
            status: Status::Provisioning,
            ready_at: None,
            parking: Some(parking),
            ..Self::ready(now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_back_from_terminated() {
        for next in [
            Status::Provisioning,
            Status::Running,
            Status::Stopping,
            Status::Terminated,
            Status::Error,
        ] {
            assert!(!Status::Terminated.may_become(next));
        }
    }

    #[test]
    fn an_instance_that_is_stopping_never_runs_again() {
        assert!(!Status::Stopping.may_become(Status::Running));
        assert!(!Status::Error.may_become(Status::Running));
    }
}
