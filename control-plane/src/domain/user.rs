//! Users.

use std::fmt;
use std::str::FromStr;

use browserfleet_proto::ids::UserId;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// An e-mail address, lower-cased: one account for each spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

/// RFC 5321, section 4.5.3.1.3, without the angle brackets.
const EMAIL_BYTES_MAX: usize = 254;

impl FromStr for Email {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > EMAIL_BYTES_MAX {
            return Err("is longer than 254 bytes");
        }
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err("has no @");
        };
        let clean = |part: &str| {
            !part.is_empty() && !part.chars().any(|it| it.is_whitespace() || it.is_control())
        };
        if !clean(local) || !clean(domain) || local.contains('@') {
            return Err("is not an e-mail address");
        }
        Ok(Self(text.to_lowercase()))
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Email {
    /// As it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Their own sessions.
    User,
    /// The fleet, and everybody's accounts.
    Admin,
}

impl Role {
    /// As it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::User, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Unique.
    pub email: Email,
    /// As they wrote it.
    pub first_name: Option<String>,
    /// As they wrote it.
    pub last_name: Option<String>,
    /// What they may do.
    pub role: Role,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When they last signed in.
    pub last_login_at: Option<Timestamp>,
    /// Since when they may not sign in.
    pub disabled_at: Option<Timestamp>,
    /// Since when the address is known to be theirs; without it nobody signs in.
    pub email_verified_at: Option<Timestamp>,
    /// Whether there is a password; without it there are identities only.
    pub has_password: bool,
    /// Whether a second factor is asked for at login.
    pub second_factor: bool,
    /// Since when an administrator requires one.
    pub second_factor_required_at: Option<Timestamp>,
    /// Grows when what they may do changes; what was given before is refused.
    pub access_version: i64,
    /// Where it is not as the deployment has it.
    pub quotas: Quotas,
}

impl User {
    /// Whether they may sign in at all.
    #[must_use]
    pub fn may_sign_in(&self) -> bool {
        self.disabled_at.is_none() && self.email_verified_at.is_some()
    }

    /// Whether a second factor has to be enrolled before anything else.
    #[must_use]
    pub fn has_to_enrol(&self) -> bool {
        self.second_factor_required_at.is_some() && !self.second_factor
    }
}

/// How much a user may have where nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions.
    pub sessions: u32,
    /// Instances.
    pub instances: u32,
    /// Commands in a minute; 0: without limit.
    pub commands_per_minute: u32,
}

impl Quotas {
    /// What counts for the user who has these.
    #[must_use]
    pub fn or(self, limits: Limits) -> Limits {
        Limits {
            sessions: self.sessions.unwrap_or(limits.sessions),
            instances: self.instances.unwrap_or(limits.instances),
            commands_per_minute: self
                .commands_per_minute
                .unwrap_or(limits.commands_per_minute),
        }
    }
}

/// How much a user may have; `None`: as the deployment has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Live sessions.
    pub sessions: Option<u32>,
    /// Instances.
    pub instances: Option<u32>,
    /// Commands in a minute.
    pub commands_per_minute: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_is_trimmed_and_lower_cased() {
        let email: Email = " Ada@Example.ORG ".parse().expect("an address");
        assert_eq!(email.as_str(), "ada@example.org");
    }

    #[test]
    fn what_is_no_email_is_refused() {
        for text in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "a b@example.org",
            "a@b@c",
            "a\n@b.c",
        ] {
            assert!(text.parse::<Email>().is_err(), "{text}");
        }
    }
}
