//! A command's line in the history, and how commands end.

use browserfleet_proto::ids::{CommandId, SessionId};
use serde::Serialize;

use super::time::Timestamp;

/// A place in the history's order. It is durable once the writer has passed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How a command ended, as far as can be known. Written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is under way.
    Pending,
    /// It did what it was asked.
    Ok,
    /// It could not, and says why.
    Error,
    /// Its deadline passed.
    Timeout,
    /// Its caller took it back.
    Cancelled,
    /// It did not reach the agent.
    NotSent,
    /// It may have run; its answer is lost.
    Unknown,
}

impl Status {
    /// As it is stored and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::NotSent => "not_sent",
            Self::Unknown => "unknown",
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Ok,
            Self::Error,
            Self::Timeout,
            Self::Cancelled,
            Self::NotSent,
            Self::Unknown,
        ]
        .into_iter()
        .find(|it| it.as_str() == text)
    }
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Its id.
    pub id: CommandId,
    /// On which session.
    pub session: SessionId,
    /// `navigate`, `click`, …
    pub kind: String,
    /// JSON.
    pub params: String,
    /// How it ended.
    pub status: Status,
    /// JSON.
    pub result: Option<String>,
    /// The public code.
    pub error_code: Option<String>,
    /// For the caller.
    pub error_message: Option<String>,
    /// When it was admitted.
    pub started_at: Timestamp,
    /// When its outcome was known.
    pub ended_at: Option<Timestamp>,
}
