//! A session's row and its states.
//!
//! ```text
//! queued ──▶ starting ──▶ live ──▶ ending ──▶ ended(reason)
//!    └──────────┴───────────┴────────────────────▲
//! ```
//! There is no way back: a status has a rank, and a row only moves to a higher one.

use std::collections::BTreeMap;
use std::time::Duration;

use browserfleet_proto::action::{BrowserKind, DialogPolicy, SessionOptions, Viewport};
use browserfleet_proto::ids::{InstanceId, SessionId, UserId};
use serde::{Deserialize, Serialize};

use super::control::Control;
use super::time::Timestamp;

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for an instance.
    Queued,
    /// Its browser is being started.
    Starting,
    /// It takes commands.
    Live,
    /// Its browser is being ended.
    Ending,
    /// It is over.
    Ended,
}

impl Status {
    /// All, in order.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Starting,
        Self::Live,
        Self::Ending,
        Self::Ended,
    ];

    /// As callers read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }

    /// From the word that callers read.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// As it is stored: a row only moves to a higher one.
    #[must_use]
    pub fn rank(self) -> i64 {
        match self {
            Self::Queued => 0,
            Self::Starting => 1,
            Self::Live => 2,
            Self::Ending => 3,
            Self::Ended => 4,
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_rank(rank: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.rank() == rank)
    }
}

/// How a session's browser is set up, as the row keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// `shell` or `full`.
    pub browser: Browser,
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels.
    pub height: u32,
    /// Device pixels per CSS pixel.
    pub scale: f64,
    /// Empty: Chrome's own.
    pub user_agent: String,
    /// Empty: Chrome's own.
    pub locale: String,
    /// Empty: the machine's.
    pub timezone: String,
    /// What becomes of dialogs.
    pub dialogs: Dialogs,
    /// A command's time where the caller names none, in milliseconds.
    pub command_timeout_ms: u64,
    /// What becomes of commands while a person drives.
    #[serde(default)]
    pub while_controlled: WhileControlled,
}

/// What becomes of the automation's commands while a person drives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhileControlled {
    /// They wait, until the automation drives again or their own deadline.
    Hold,
    /// They are refused.
    #[default]
    Reject,
}

/// Which browser.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Browser {
    /// `chromium-headless-shell`
    #[default]
    Shell,
    /// Chrome's new headless mode.
    Full,
}

/// What becomes of a dialog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialogs {
    /// Answered with Cancel.
    #[default]
    Dismiss,
    /// Answered with OK.
    Accept,
    /// Left open; the command says `dialog_open`.
    Report,
}

impl From<&SessionSpec> for SessionOptions {
    fn from(spec: &SessionSpec) -> Self {
        Self {
            browser: match spec.browser {
                Browser::Shell => BrowserKind::Shell,
                Browser::Full => BrowserKind::Full,
            },
            viewport: Viewport {
                width: spec.width,
                height: spec.height,
                scale: spec.scale,
            },
            user_agent: spec.user_agent.clone(),
            locale: spec.locale.clone(),
            timezone: spec.timezone.clone(),
            dialogs: match spec.dialogs {
                Dialogs::Dismiss => DialogPolicy::Dismiss,
                Dialogs::Accept => DialogPolicy::Accept,
                Dialogs::Report => DialogPolicy::Report,
            },
        }
    }
}

/// A session's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who holds it.
    pub user: UserId,
    /// Where its browser is, once it is placed.
    pub instance: Option<InstanceId>,
    /// The lease's epoch, once it is placed.
    pub epoch: i64,
    /// How far it is.
    pub status: Status,
    /// Why it ended.
    pub end_reason: Option<String>,
    /// More about it, for its owner.
    pub error_message: Option<String>,
    /// As its owner calls it.
    pub name: Option<String>,
    /// As its owner labels it.
    pub metadata: BTreeMap<String, String>,
    /// How its browser is set up.
    pub spec: SessionSpec,
    /// How long it lives, from its start.
    pub timeout: Duration,
    /// How long it may be without activity.
    pub idle_timeout: Duration,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its browser was there.
    pub started_at: Option<Timestamp>,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// When it was last active.
    pub last_activity_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Where its browser is, or was.
    pub current_url: Option<String>,
    /// The document's title.
    pub current_title: Option<String>,
    /// Why it ends before its time, where that is known.
    pub ending_reason: Option<String>,
    /// Who drives it.
    pub control: Control,
}
