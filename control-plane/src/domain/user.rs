//! Users and their settings.

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
}

/// What a user prefers. New sessions take their defaults from here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserSettings {
    /// For the frontend.
    pub theme: Theme,
    /// For new sessions.
    pub browser_preferences: BrowserPreferences,
    /// For the pool.
    pub ec2_preferences: Ec2Preferences,
}

/// The frontend's colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Theme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
    /// As the system has it.
    #[default]
    System,
}

/// Defaults of new sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrowserPreferences {
    /// The `User-Agent` header.
    pub default_user_agent: Option<String>,
    /// CSS pixels.
    pub default_viewport: Option<ViewportSize>,
    /// A command's time, in milliseconds.
    pub default_timeout_ms: Option<u64>,
}

/// CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewportSize {
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels.
    pub height: u32,
}

/// What a user prefers of the instances that they get.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ec2Preferences {
    /// An AWS region.
    pub preferred_region: Option<String>,
    /// An EC2 instance type.
    pub instance_type: Option<String>,
    /// Whether an idle instance is ended.
    pub terminate_when_idle: Option<bool>,
    /// How long it may be idle.
    pub idle_timeout_minutes: Option<u32>,
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
