//! What a user prefers, and what of it makes no sense.

use std::time::Duration;

use browserfleet_proto::limits;
use serde::{Deserialize, Serialize};

/// Longest user agent, in bytes.
const USER_AGENT_BYTES_MAX: usize = 1024;
/// Longest region and instance type, in bytes. EC2's have less than half of it.
const NAME_BYTES_MAX: usize = 64;
/// Longest idle time, in minutes: a day, as for a session.
const IDLE_MINUTES_MAX: u32 = 24 * 60;

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

impl UserSettings {
    /// What of them makes no sense: the field, and why.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let browser = &self.browser_preferences;
        let ec2 = &self.ec2_preferences;
        if let Some(user_agent) = &browser.default_user_agent {
            let field = "browser_preferences.default_user_agent";
            if user_agent.len() > USER_AGENT_BYTES_MAX {
                return Some((
                    field,
                    format!("is longer than {USER_AGENT_BYTES_MAX} bytes"),
                ));
            }
            if user_agent.chars().any(char::is_control) {
                return Some((field, "has a control character".into()));
            }
        }
        if let Some(viewport) = browser.default_viewport {
            let sides = [
                ("browser_preferences.default_viewport.width", viewport.width),
                (
                    "browser_preferences.default_viewport.height",
                    viewport.height,
                ),
            ];
            for (field, side) in sides {
                if !(1..=limits::VIEWPORT_SIDE_MAX).contains(&side) {
                    return Some((
                        field,
                        format!("has to be 1 to {}", limits::VIEWPORT_SIDE_MAX),
                    ));
                }
            }
        }
        let most = u64::try_from(limits::COMMAND_TIMEOUT_MAX.as_millis()).unwrap_or(u64::MAX);
        if browser
            .default_timeout_ms
            .is_some_and(|it| !(1..=most).contains(&it))
        {
            let field = "browser_preferences.default_timeout_ms";
            return Some((field, format!("has to be 1 to {most}")));
        }
        let names = [
            (
                "ec2_preferences.preferred_region",
                &ec2.preferred_region,
                '-',
            ),
            ("ec2_preferences.instance_type", &ec2.instance_type, '.'),
        ];
        for (field, name, joint) in names {
            if name.as_ref().is_some_and(|it| !is_aws_name(it, joint)) {
                return Some((
                    field,
                    format!("is not a name such as AWS has them, with a `{joint}`"),
                ));
            }
        }
        if ec2
            .idle_timeout_minutes
            .is_some_and(|it| !(1..=IDLE_MINUTES_MAX).contains(&it))
        {
            let field = "ec2_preferences.idle_timeout_minutes";
            return Some((field, format!("has to be 1 to {IDLE_MINUTES_MAX}")));
        }
        None
    }
}

impl Ec2Preferences {
    /// How long an instance may be idle that the fleet lets be idle for `longest`:
    /// its holder may want it ended sooner, never kept longer.
    #[must_use]
    pub fn patience(&self, longest: Duration) -> Duration {
        let minutes = self
            .idle_timeout_minutes
            .filter(|_| self.terminate_when_idle == Some(true));
        let wanted = minutes.map(|it| Duration::from_secs(u64::from(it) * 60));
        wanted.map_or(longest, |it| it.min(longest))
    }
}

/// `eu-central-1`, `m7i.large`: lower case, digits and hyphens around a joint.
fn is_aws_name(name: &str, joint: char) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.contains(joint)
        && !name.starts_with(joint)
        && !name.ends_with(joint)
        && name
            .chars()
            .all(|it| it == joint || it == '-' || it.is_ascii_lowercase() || it.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(json: serde_json::Value) -> Option<&'static str> {
        let settings: UserSettings = serde_json::from_value(json).expect("settings");
        settings.fault().map(|(field, _)| field)
    }

    #[test]
    fn all_fields_of_use_are_taken() {
        let fault = fault_of(serde_json::json!({
            "theme": "dark",
            "browser_preferences": {
                "default_user_agent": "Mozilla/5.0 (a test)",
                "default_viewport": { "width": 800, "height": 600 },
                "default_timeout_ms": 5000,
            },
            "ec2_preferences": {
                "preferred_region": "eu-central-1", "instance_type": "m7i-flex.large",
                "terminate_when_idle": true, "idle_timeout_minutes": 5,
            },
        }));
        assert_eq!(fault, None);
    }

    #[test]
    fn an_idle_instance_ends_sooner_where_its_holder_wants_it() {
        let minutes = |number: u64| Duration::from_secs(number * 60);
        for (terminate, wanted, patience) in [
            (Some(true), Some(2), 2),
            (Some(true), Some(9), 5),
            (Some(true), None, 5),
            (Some(false), Some(2), 5),
            (None, Some(2), 5),
        ] {
            let preferences = Ec2Preferences {
                terminate_when_idle: terminate,
                idle_timeout_minutes: wanted,
                ..Ec2Preferences::default()
            };
            assert_eq!(preferences.patience(minutes(5)), minutes(patience));
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (json, field) in [
            (
                serde_json::json!({ "browser_preferences": { "default_user_agent": "a\nb" } }),
                "browser_preferences.default_user_agent",
            ),
            (
                serde_json::json!({ "browser_preferences": { "default_viewport": { "width": 0, "height": 1 } } }),
                "browser_preferences.default_viewport.width",
            ),
            (
                serde_json::json!({ "browser_preferences": { "default_timeout_ms": 0 } }),
                "browser_preferences.default_timeout_ms",
            ),
            (
                serde_json::json!({ "ec2_preferences": { "preferred_region": "Frankfurt" } }),
                "ec2_preferences.preferred_region",
            ),
            (
                serde_json::json!({ "ec2_preferences": { "instance_type": "large" } }),
                "ec2_preferences.instance_type",
            ),
            (
                serde_json::json!({ "ec2_preferences": { "idle_timeout_minutes": 0 } }),
                "ec2_preferences.idle_timeout_minutes",
            ),
        ] {
            assert_eq!(fault_of(json), Some(field));
        }
    }
}
