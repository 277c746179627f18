//! The configuration: environment variables, parsed to final types. All faults
//! are reported in one go.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// Everything that whoever starts the agent decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://host:port` of the control plane's port for agents.
    pub control_plane: String,
    /// The control plane's certificate authority, PEM.
    pub ca_file: PathBuf,
    /// Key, certificate, profiles.
    pub data_dir: PathBuf,
    /// A label for the log; the identity is the certificate's.
    pub instance: String,
    /// `None`: one is looked for.
    pub browser_executable: Option<PathBuf>,
    /// Sessions at once.
    pub sessions_max: u32,
    /// Browsers that are launched ahead.
    pub spares: u32,
    /// Silence of the control plane after which the agent ends.
    pub dead_man: Duration,
    /// Directives of the log.
    pub log: String,
    /// Whether the log is JSON.
    pub log_json: bool,
}

/// What is wrong with a configuration, all of it.
#[derive(Debug)]
pub struct Faults(Vec<String>);

impl Faults {
    /// One line for each fault, on standard error.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        for fault in &self.0 {
            eprintln!("browserfleet-agent: {fault}");
        }
        ExitCode::from(2)
    }
}

const PREFIX: &str = "BROWSERFLEET_";

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// All faults at once.
    #[expect(
        clippy::disallowed_methods,
        reason = "this module is the door that the ban leaves open"
    )]
    pub fn from_env() -> Result<Self, Faults> {
        Self::from_lookup(|key| std::env::var(key).ok())
    }

    /// Reads settings from `lookup`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut settings = Settings {
            lookup: &lookup,
            faults: Vec::new(),
        };
        let control_plane = settings.required("CONTROL_PLANE");
        if !control_plane.is_empty() && !control_plane.starts_with("https://") {
            settings.faults.push(format!(
                "{PREFIX}CONTROL_PLANE has to start with `https://`"
            ));
        }
        let config = Self {
            control_plane,
            ca_file: settings.required("CA_FILE").into(),
            data_dir: settings.required("DATA_DIR").into(),
            instance: settings.text("INSTANCE_ID").unwrap_or_default(),
            browser_executable: settings.text("BROWSER_EXECUTABLE").map(PathBuf::from),
            sessions_max: settings.number("SESSIONS_MAX", 8, 1, 1_000),
            spares: settings.number("SPARES", 1, 0, 16),
            dead_man: Duration::from_millis(
                settings
                    .number("DEAD_MAN_MS", 120_000, 1_000, 86_400_000)
                    .into(),
            ),
            log: settings.text("LOG").unwrap_or("info".into()),
            log_json: settings.text("LOG_FORMAT").as_deref() == Some("json"),
        };
        if settings.faults.is_empty() {
            Ok(config)
        } else {
            Err(Faults(settings.faults))
        }
    }
}

struct Settings<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<String>,
}

impl Settings<'_> {
    fn text(&self, key: &str) -> Option<String> {
        (self.lookup)(&format!("{PREFIX}{key}")).filter(|text| !text.is_empty())
    }

    fn required(&mut self, key: &str) -> String {
        self.text(key).unwrap_or_else(|| {
            self.faults.push(format!("{PREFIX}{key} is not set"));
            String::new()
        })
    }

    fn number(&mut self, key: &str, default: u32, least: u32, most: u32) -> u32 {
        let Some(text) = self.text(key) else {
            return default;
        };
        match parse::<u32>(&text) {
            Ok(number) if (least..=most).contains(&number) => number,
            Ok(number) => {
                self.faults.push(format!(
                    "{PREFIX}{key} is {number}; it has to be {least} to {most}"
                ));
                default
            }
            Err(fault) => {
                self.faults
                    .push(format!("{PREFIX}{key} is `{text}`: {fault}"));
                default
            }
        }
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|fault: T::Err| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        let Err(Faults(faults)) =
            Config::from_lookup(|key| (key == "BROWSERFLEET_SPARES").then(|| "many".to_owned()))
        else {
            panic!("it is refused");
        };
        assert_eq!(faults.len(), 4, "{faults:?}");
    }
}
