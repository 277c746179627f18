//! What a machine does when it starts for the first time: `deploy/user-data.yaml`
//! with the files of `deploy/machine` and the names of this deployment in it. It
//! holds no secret, and is the same for every machine: a launch that is sent again
//! has to have the same bytes.

use std::time::Duration;

use crate::config::AgentProgram;

/// Bytes that EC2 takes.
pub const USER_DATA_MAX: usize = 16_384;
/// How long a machine of EC2 goes on without its control plane: an update or a
/// restart of it is shorter, a bill for nothing is longer.
pub const DEAD_MAN: Duration = Duration::from_secs(15 * 60);
const TEMPLATE: &str = include_str!("../../../deploy/user-data.yaml");

macro_rules! machine_files {
    ($($place:literal: $file:literal,)*) => {
        /// What the template calls a file, and what is in it.
        const FILES: &[(&str, &str)] = &[
            $(($place, include_str!(concat!("../../../deploy/machine/", $file))),)*
        ];
    };
}

machine_files! {
    "FILE_AGENT_SERVICE": "browserfleet-agent.service",
    "FILE_BROWSERS_NFT": "browsers.nft",
    "FILE_CHROME_POLICY": "chrome-policy.json",
    "FILE_DEAD_MAN": "browserfleet-dead-man",
    "FILE_DEAD_MAN_SERVICE": "browserfleet-dead-man.service",
    "FILE_DEAD_MAN_TIMER": "browserfleet-dead-man.timer",
    "FILE_FIREWALL": "browserfleet-firewall",
    "FILE_INSTALL": "browserfleet-install",
    "FILE_POWER_OFF": "browserfleet-power-off",
}

/// Browsers that a machine starts before anybody asks: as many as an agent does
/// where nobody says otherwise.
pub const SPARES: u32 = 1;

/// What is put into the template.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    /// `https://host:port` that agents dial.
    pub control_plane: &'a str,
    /// Whom they believe that it is; certificates in PEM.
    pub authority: &'a str,
    /// The database's own id; their tokens lie under it.
    pub deployment: &'a str,
    /// Sessions of one machine.
    pub sessions_max: u32,
    /// Browsers that are started before anybody asks.
    pub spares: u32,
    /// How long they go on without a control plane.
    pub dead_man: Duration,
    /// Where the agent's program is; `None`: on the image.
    pub agent_program: Option<&'a AgentProgram>,
}

/// User-data that EC2 takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserData(String);

impl UserData {
    /// As a machine reads it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Why there is no user-data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// EC2 would refuse every launch.
    #[error("user-data has {0} bytes; EC2 takes {USER_DATA_MAX}")]
    TooLong(usize),
    /// The template asks for what nobody knows.
    #[error("user-data has a place for `{0}`, which nobody fills")]
    Unfilled(String),
}

/// Where the tokens of a deployment's machines are; a machine's name comes after.
#[must_use]
pub fn token_folder(deployment: &str) -> String {
    format!("/browserfleet/{deployment}/enrol/")
}

/// Fills the template in.
///
/// # Errors
/// [`Fault`]
pub fn render(values: &Values<'_>) -> Result<UserData, Fault> {
    fill(TEMPLATE, values)
}

fn fill(template: &str, values: &Values<'_>) -> Result<UserData, Fault> {
    let mut text = String::with_capacity(template.len() + values.authority.len());
    // From left to right and once: what was put in is not looked at again.
    let mut rest = template;
    while let Some((before, name, after)) = next_place(rest) {
        text.push_str(before);
        let value = value_of(name, values).ok_or_else(|| Fault::Unfilled(name.to_owned()))?;
        text.push_str(&quoted(&value));
        rest = after;
    }
    text.push_str(rest);
    if text.len() > USER_DATA_MAX {
        return Err(Fault::TooLong(text.len()));
    }
    Ok(UserData(text))
}

/// What is before the first `@NAME@`, the name, and what is after it.
fn next_place(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(start) = text[from..].find('@').map(|it| from + it) {
        let inside = &text[start + 1..];
        let length = inside
            .find(|it: char| !it.is_ascii_uppercase() && !it.is_ascii_digit() && it != '_')
            .unwrap_or(inside.len());
        if length > 0 && inside[length..].starts_with('@') {
            return Some((&text[..start], &inside[..length], &inside[length + 1..]));
        }
        from = start + 1;
    }
    None
}

fn value_of(name: &str, values: &Values<'_>) -> Option<String> {
    let program = values.agent_program;
    Some(match name {
        "CONTROL_PLANE" => values.control_plane.to_owned(),
        "AUTHORITY" => values.authority.to_owned(),
        "TOKEN_PARAMETERS" => token_folder(values.deployment),
        "SESSIONS_MAX" => values.sessions_max.to_string(),
        "SPARES" => values.spares.to_string(),
        "DEAD_MAN_MS" => values.dead_man.as_millis().to_string(),
        "AGENT_URL" => program.map(|it| it.url.clone()).unwrap_or_default(),
        "AGENT_SHA256" => program.map(|it| it.sha256.clone()).unwrap_or_default(),
        file => FILES.iter().find(|it| it.0 == file)?.1.to_owned(),
    })
}

/// As JSON writes a text, which YAML reads.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB+/=\n-----END CERTIFICATE-----\n";

    fn values() -> Values<'static> {
        Values {
            control_plane: "https://fleet.example.com:8081",
            authority: PEM,
            deployment: "dep",
            sessions_max: 8,
            spares: SPARES,
            dead_man: DEAD_MAN,
            agent_program: None,
        }
    }

    fn filled(template: &str, values: &Values<'_>) -> String {
        fill(template, values).expect("it fits").0
    }

    #[test]
    fn a_place_becomes_a_quoted_text() {
        assert_eq!(
            filled(
                "a: @CONTROL_PLANE@\nb: @SESSIONS_MAX@\nc: @DEAD_MAN_MS@\n",
                &values()
            ),
            "a: \"https://fleet.example.com:8081\"\nb: \"8\"\nc: \"900000\"\n"
        );
        assert_eq!(
            filled("@AUTHORITY@", &values()),
            format!("\"{}\"", PEM.replace('\n', "\\n"))
        );
        assert_eq!(filled("@AGENT_URL@@AGENT_SHA256@", &values()), "\"\"\"\"");
        assert_eq!(
            filled("@TOKEN_PARAMETERS@", &values()),
            "\"/browserfleet/dep/enrol/\""
        );
    }

    #[test]
    fn what_is_put_in_breaks_out_of_nothing() {
        let mut values = values();
        values.control_plane = "\"\nruncmd: [reboot] # @AUTHORITY@ ' \\ \u{1}";
        let text = filled("a: @CONTROL_PLANE@\n", &values);
        assert_eq!(text.lines().count(), 1);
        let value = text.strip_prefix("a: ").expect("the key stays");
        let read: String = serde_json::from_str(value).expect("it is one text");
        assert_eq!(read, values.control_plane);
    }

    #[test]
    fn an_at_sign_that_is_no_place_stays() {
        let text = "mail@example.com @@ @a@ user@HOST @";
        assert_eq!(filled(text, &values()), text);
        assert_eq!(filled("é@@SPARES@", &values()), "é@\"1\"");
    }

    #[test]
    fn a_place_that_nobody_fills_is_a_fault() {
        let fault = fill("a: @PASSWORD@", &values());
        assert_eq!(fault, Err(Fault::Unfilled("PASSWORD".into())));
    }

    #[test]
    fn the_template_is_filled_in_and_far_from_too_long() {
        let mut values = values();
        // Two authorities, while one takes the other's place.
        let authority = PEM.replace("MIIB+/=", &"A".repeat(900)).repeat(2);
        values.authority = &authority;
        let program = AgentProgram {
            url: format!("https://example.com/{}", "a".repeat(200)),
            sha256: "ab".repeat(32),
        };
        values.agent_program = Some(&program);
        let data = render(&values).expect("it fits");
        assert!(data.0.starts_with("#cloud-config\n"));
        assert_eq!(render(&values), Ok(data));
    }

    #[test]
    fn every_file_of_a_machine_has_its_place() {
        for (place, text) in FILES {
            assert!(TEMPLATE.contains(&format!("@{place}@")), "{place}");
            assert!(!text.is_empty(), "{place}");
        }
    }

    #[test]
    fn what_ec2_would_refuse_is_told_at_the_start() {
        let long = "a".repeat(USER_DATA_MAX + 1);
        assert_eq!(
            fill(&long, &values()),
            Err(Fault::TooLong(USER_DATA_MAX + 1))
        );
        fill(&long[1..], &values()).expect("that is the most");
    }
}
