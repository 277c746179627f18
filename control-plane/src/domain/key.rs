//! API keys, and what they are for.

use browserfleet_proto::ids::{ApiKeyId, UserId};
use serde::{Deserialize, Serialize};

use super::time::Timestamp;
use super::user::Role;

/// What a key is for. Credentials are never managed with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// See sessions, their history and what their pages show.
    #[serde(rename = "sessions:read")]
    SessionsRead,
    /// Open, drive and end sessions.
    #[serde(rename = "sessions:write")]
    SessionsWrite,
    /// See one's own account and settings.
    #[serde(rename = "account:read")]
    AccountRead,
    /// See everybody's accounts and the audit.
    #[serde(rename = "admin:read")]
    AdminRead,
    /// Change everybody's accounts.
    #[serde(rename = "admin:write")]
    AdminWrite,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::SessionsRead,
        Self::SessionsWrite,
        Self::AccountRead,
        Self::AdminRead,
        Self::AdminWrite,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionsRead => "sessions:read",
            Self::SessionsWrite => "sessions:write",
            Self::AccountRead => "account:read",
            Self::AdminRead => "admin:read",
            Self::AdminWrite => "admin:write",
        }
    }

    /// As it was written.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// Whether somebody of this role may have it.
    #[must_use]
    pub fn is_for(self, role: Role) -> bool {
        role == Role::Admin || !matches!(self, Self::AdminRead | Self::AdminWrite)
    }
}

/// A key, without what is secret of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose.
    pub user: UserId,
    /// As its owner calls it.
    pub name: String,
    /// Its first characters.
    pub hint: String,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}
