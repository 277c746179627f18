//! An instance's row and its states.
//!
//! ```text
//! provisioning ──▶ running ──▶ stopping ──▶ terminated
//!        └────────────┴───────────┴──▶ error ──▶ terminated
//! ```

use browserfleet_proto::ids::{InstanceId, UserId};
use serde::Serialize;

use super::time::Timestamp;

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was asked for; its agent has not joined yet.
    Provisioning,
    /// Its agent joined.
    Running,
    /// It is being ended.
    Stopping,
    /// It is gone.
    Terminated,
    /// It failed, and is to be ended.
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

/// An instance's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// `local`, `ec2`
    pub provider: String,
    /// The provider's own name for it.
    pub reference: Option<String>,
    /// How far it is.
    pub status: Status,
    /// Who holds it.
    pub assigned_to: Option<UserId>,
    /// Grows with each holder.
    pub epoch: i64,
    /// How many sessions it takes.
    pub sessions_max: i64,
    /// How many it has.
    pub sessions: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a session was last placed on it or ended there.
    pub last_activity_at: Timestamp,
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
