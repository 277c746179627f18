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
    /// The user without login that Chrome runs as; `None`: the agent's own.
    pub browser_user: Option<String>,
    /// Whether it is tried that browsers cannot reach the metadata service.
    pub isolation: Isolation,
    /// Silence of the control plane after which the agent ends.
    pub dead_man: Duration,
    /// Ends the machine where it has no use any more; `None`: only the agent ends.
    pub power_off: Option<PathBuf>,
    /// Where the agent runs.
    pub machine: Machine,
    /// Where the metadata service is, in the AWS SDK's own variable; `None`: where it
    /// is on every EC2 machine.
    pub metadata: Option<String>,
    /// Directives of the log.
    pub log: String,
    /// Whether the log is JSON.
    pub log_json: bool,
}

/// Where the agent runs, and so how it gets its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// Beside the control plane, which writes the token to standard input.
    Local,
    /// On an EC2 instance, whose own parameter holds the token.
    Ec2(Ec2),
}

/// What there is to know of an EC2 instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2 {
    /// What the instance's id is appended to, for the name of its parameter.
    pub token_parameters: String,
    /// `None`: the metadata service says.
    pub region: Option<String>,
    /// `None`: the region's own.
    pub endpoint: Option<String>,
}

/// Whether it is tried that browsers cannot reach the metadata service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Yes; the agent does not go on where they can.
    Required,
    /// No, because somebody said so.
    Off,
    /// No: browsers are of the agent's own user, who needs it.
    Absent,
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
/// Agents beside a control plane are of use to nobody without it.
const DEAD_MAN_MS_LOCAL: u32 = 120_000;
/// A control plane elsewhere may be away for as long as it takes to mend it, and its
/// machines take minutes to make.
const DEAD_MAN_MS_EC2: u32 = 900_000;

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
        let machine = settings.machine();
        let silence_ms = match machine {
            Machine::Local => DEAD_MAN_MS_LOCAL,
            Machine::Ec2(_) => DEAD_MAN_MS_EC2,
        };
        let config = Self {
            control_plane,
            ca_file: settings.required("CA_FILE").into(),
            data_dir: settings.required("DATA_DIR").into(),
            instance: settings.text("INSTANCE_ID").unwrap_or_default(),
            browser_executable: settings.text("BROWSER_EXECUTABLE").map(PathBuf::from),
            sessions_max: settings.number("SESSIONS_MAX", 8, 1, 1_000),
            spares: settings.number("SPARES", 1, 0, 16),
            isolation: settings.isolation(),
            browser_user: settings.text("BROWSER_USER"),
            dead_man: Duration::from_millis(
                settings
                    .number("DEAD_MAN_MS", silence_ms, 1_000, 86_400_000)
                    .into(),
            ),
            power_off: settings.text("POWER_OFF").map(PathBuf::from),
            machine,
            metadata: settings.of_aws("EC2_METADATA_SERVICE_ENDPOINT"),
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

    fn of_aws(&self, key: &str) -> Option<String> {
        (self.lookup)(&format!("AWS_{key}")).filter(|text| !text.is_empty())
    }

    fn machine(&mut self) -> Machine {
        match self.text("MACHINE").as_deref() {
            None | Some("local") => Machine::Local,
            Some("ec2") => {
                let token_parameters = self.required("TOKEN_PARAMETERS");
                let is_path = token_parameters.starts_with('/') && token_parameters.ends_with('/');
                if !token_parameters.is_empty() && !is_path {
                    self.faults.push(format!(
                        "{PREFIX}TOKEN_PARAMETERS has to start and end with `/`"
                    ));
                }
                Machine::Ec2(Ec2 {
                    token_parameters,
                    region: self.of_aws("REGION"),
                    endpoint: self
                        .of_aws("ENDPOINT_URL_SSM")
                        .or(self.of_aws("ENDPOINT_URL")),
                })
            }
            Some(other) => {
                self.faults.push(format!(
                    "{PREFIX}MACHINE is `{other}`; it has to be local or ec2"
                ));
                Machine::Local
            }
        }
    }

    fn isolation(&mut self) -> Isolation {
        let has_user = self.text("BROWSER_USER").is_some();
        match self.text("ISOLATION").as_deref() {
            None if has_user => Isolation::Required,
            None => Isolation::Absent,
            Some("off") => Isolation::Off,
            Some("required") if has_user => Isolation::Required,
            Some("required") => {
                self.faults.push(format!(
                    "{PREFIX}ISOLATION is required; that needs {PREFIX}BROWSER_USER"
                ));
                Isolation::Absent
            }
            Some(other) => {
                self.faults.push(format!(
                    "{PREFIX}ISOLATION is `{other}`; it has to be required or off"
                ));
                Isolation::Absent
            }
        }
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

    const LEAST: [(&str, &str); 3] = [
        ("BROWSERFLEET_CONTROL_PLANE", "https://[::1]:1"),
        ("BROWSERFLEET_CA_FILE", "ca.pem"),
        ("BROWSERFLEET_DATA_DIR", "data"),
    ];

    fn read(more: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let all: std::collections::HashMap<_, _> = LEAST.iter().chain(more).copied().collect();
        Config::from_lookup(|key| all.get(key).map(|it| (*it).to_owned()))
            .map_err(|Faults(faults)| faults)
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let Err(Faults(faults)) =
            Config::from_lookup(|key| (key == "BROWSERFLEET_SPARES").then(|| "many".to_owned()))
        else {
            panic!("it is refused");
        };
        assert_eq!(faults.len(), 4, "{faults:?}");
        let faults = read(&[
            ("BROWSERFLEET_MACHINE", "ec2"),
            ("BROWSERFLEET_ISOLATION", "required"),
            ("BROWSERFLEET_SPARES", "17"),
        ]);
        assert_eq!(faults.unwrap_err().len(), 3);
        for wrong in [
            ("BROWSERFLEET_MACHINE", "gce"),
            ("BROWSERFLEET_ISOLATION", "no"),
        ] {
            assert_eq!(read(&[wrong]).unwrap_err().len(), 1);
        }
    }

    #[test]
    fn a_machine_of_the_cloud_is_patient_and_found_by_the_sdks_own_variables() {
        let local = read(&[]).unwrap();
        assert_eq!(local.machine, Machine::Local);
        assert_eq!(local.dead_man.as_secs(), 120);
        assert_eq!(local.isolation, Isolation::Absent);
        let ec2 = read(&[
            ("BROWSERFLEET_MACHINE", "ec2"),
            ("BROWSERFLEET_TOKEN_PARAMETERS", "/fleet/enrol/"),
            ("BROWSERFLEET_BROWSER_USER", "chrome"),
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_ENDPOINT_URL_SSM", "http://ssm"),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://metadata"),
        ])
        .unwrap();
        assert_eq!(ec2.dead_man.as_secs(), 900);
        assert_eq!(ec2.isolation, Isolation::Required);
        assert_eq!(ec2.metadata.as_deref(), Some("http://metadata"));
        let expected = Ec2 {
            token_parameters: "/fleet/enrol/".into(),
            region: None,
            endpoint: Some("http://ssm".into()),
        };
        assert_eq!(ec2.machine, Machine::Ec2(expected));
    }
}
