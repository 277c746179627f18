//! The configuration: environment variables, parsed to final types. All faults
//! are reported in one go, each with the key and what was expected, never with
//! the value of a secret.

mod accounts;
mod ec2;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use url::Url;

pub use accounts::{Accounts, OauthKind, OauthProvider, Passwords, Registration};
use browserfleet_proto::ladder;
pub use ec2::{AgentProgram, Ec2, LaunchTemplate, MarketOrder, PublicAddress};

use crate::domain::pool::Reuse;

/// Everything that an operator decides.
#[derive(Debug)]
pub struct Config {
    /// Where keys, the embedded database and the local agents' folders are.
    pub data_dir: PathBuf,
    /// The public API.
    pub api: Listener,
    /// Where agents join and hold their links.
    pub agents: Agents,
    /// `sqlite:` or `postgres:`.
    pub database_url: String,
    /// What makes instances.
    pub provider: Provider,
    /// The instances.
    pub pool: Pool,
    /// The first administrator.
    pub administrator: Administrator,
    /// Users and how they sign in.
    pub accounts: Accounts,
    /// The log and the metrics.
    pub telemetry: Telemetry,
}

/// The public API's listener.
#[derive(Debug)]
pub struct Listener {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Certificate chain and key, PEM files; `None`: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How many connections at once.
    pub connections_max: usize,
}

/// The agents' listener, and what proves them and us to each other.
#[derive(Debug)]
pub struct Agents {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What they dial, `https://host:port`; `None`: where it listens.
    pub dialed: Option<String>,
    /// Folders of certificate authorities: the first signs agents' certificates, the
    /// last ours, all are trusted. Without any, the one of the data folder.
    pub authorities: Vec<PathBuf>,
    /// How long an agent's certificate lives.
    pub certificate_life: Duration,
}

/// What makes instances.
#[derive(Debug)]
pub enum Provider {
    /// Processes of this machine.
    Local,
    /// Machines of Amazon's.
    Ec2(Box<Ec2>),
}

/// The pool that is wanted.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The agent's program, for the `local` provider.
    pub agent: PathBuf,
    /// Handed to agents; `None`: they look for one.
    pub browser_executable: Option<PathBuf>,
    /// How many instances are kept ready and unassigned.
    pub warm: u32,
    /// How many are kept stopped, to be started again.
    pub stopped: u32,
    /// How many instances there may be.
    pub max: u32,
    /// How many sessions one instance holds.
    pub sessions_per_instance: u32,
    /// How long a user keeps an instance without a session.
    pub idle: Duration,
    /// What becomes of an instance that somebody held.
    pub reuse: Reuse,
    /// How long a machine may take until its agent says that it lives.
    pub boot: Duration,
    /// How many live sessions one user may have.
    pub sessions_per_user: u32,
    /// How many instances one user may have.
    pub instances_per_user: u32,
    /// How many commands one user may give in a minute; 0: without limit.
    pub commands_per_minute: u32,
}

/// Who the first administrator is.
#[derive(Debug)]
pub struct Administrator {
    /// Used at the first start only.
    pub email: String,
    /// `None`: one is made and shown once.
    pub password: Option<String>,
}

/// How the log is written, and where metrics are read.
#[derive(Debug)]
pub struct Telemetry {
    /// `info`, or directives such as `browserfleet=debug`.
    pub filter: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// Where `/metrics` is; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
}

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("`text` or `json`"),
        }
    }
}

/// What is wrong with a configuration, all of it.
#[derive(Debug)]
pub struct Faults(Vec<String>);

impl Faults {
    /// One line for each fault, on standard error.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        for fault in &self.0 {
            eprintln!("browserfleet: {fault}");
        }
        ExitCode::from(2)
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

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
        let unknown = std::env::vars_os()
            .filter_map(|(key, _)| key.into_string().ok())
            .filter(|key| key.strip_prefix(PREFIX).is_some_and(|it| !is_setting(it)));
        let mut faults: Vec<String> = unknown
            .map(|key| format!("{key} is not a setting; see deploy/env.example for those that are"))
            .collect();
        match Self::from_lookup(|key| std::env::var(key).ok()) {
            Ok(config) if faults.is_empty() => Ok(config),
            Ok(_) => Err(Faults(faults)),
            Err(Faults(more)) => {
                faults.extend(more);
                Err(Faults(faults))
            }
        }
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
        let config = settings.config();
        if settings.faults.is_empty() {
            Ok(config)
        } else {
            Err(Faults(settings.faults))
        }
    }
}

/// Postgres reports at `info` what our own start asks of it.
const LOG_DEFAULT: &str = "info,sqlx=warn";

/// One that comes, one that goes, and one that was to come and is given up.
const AUTHORITIES_MAX: usize = 3;
/// Life of an agent's certificate, in milliseconds: what both ends reckon with.
const CERTIFICATE_MS: u32 = ladder::CERTIFICATE.as_millis() as u32;
/// The shortest, in milliseconds: renewed at two thirds, it leaves 3 s for the renewal.
const CERTIFICATE_MS_MIN: u32 = 10_000;

/// How long a process may take until its agent is there, in milliseconds.
const BOOT_MS: u32 = 60 * 1_000;
/// The same for a machine of EC2: a system's start, cloud-init, the agent's download,
/// and one lost call to the token's store.
const EC2_BOOT_MS: u32 = 10 * 60 * 1_000;
/// Longest such time, in milliseconds: an hour of nothing is paid for.
const BOOT_MS_MAX: u32 = 60 * 60 * 1_000;

const PREFIX: &str = "BROWSERFLEET_";

/// Every setting there is, without the prefix. `NAME` stands for the name of a
/// provider, in capitals.
pub const KEYS: &[&str] = &[
    "DATA_DIR",
    "LISTEN",
    "TLS_CERT",
    "TLS_KEY",
    "CONNECTIONS_MAX",
    "AGENT_LISTEN",
    "AGENT_ADDRESS",
    "AGENT_AUTHORITIES",
    "AGENT_CERTIFICATE_MS",
    "DATABASE_URL",
    "PROVIDER",
    "EC2_REGION",
    "EC2_IMAGE",
    "EC2_INSTANCE_TYPES",
    "EC2_SUBNETS",
    "EC2_SECURITY_GROUPS",
    "EC2_INSTANCE_PROFILE",
    "EC2_MARKET",
    "EC2_PUBLIC_ADDRESS",
    "EC2_VOLUME_GIB",
    "EC2_TAGS",
    "EC2_LAUNCH_TEMPLATE",
    "EC2_RESCUE_DOCUMENT",
    "EC2_AGENT_URL",
    "EC2_AGENT_SHA256",
    "LOCAL_AGENT",
    "BROWSER_EXECUTABLE",
    "POOL_WARM",
    "POOL_STOPPED",
    "POOL_MAX",
    "SESSIONS_PER_INSTANCE",
    "SESSIONS_PER_USER",
    "INSTANCES_PER_USER",
    "COMMANDS_PER_MINUTE",
    "POOL_IDLE_MS",
    "POOL_REUSE",
    "POOL_BOOT_MS",
    "PUBLIC_URL",
    "ALLOWED_ORIGINS",
    "TRUSTED_PROXIES",
    "SIGNING_KEYS",
    "SEALING_KEY",
    "REGISTRATION",
    "LOGIN_IDLE_DAYS",
    "LOGIN_MAX_DAYS",
    "PASSWORD_MEMORY_KIB",
    "PASSWORD_PASSES",
    "PASSWORD_LANES",
    "PASSWORD_HASHES_AT_ONCE",
    "GITHUB_CLIENT_ID",
    "GITHUB_CLIENT_SECRET",
    "GITHUB_URL",
    "GITHUB_API_URL",
    "OIDC_PROVIDERS",
    "OIDC_NAME_ISSUER",
    "OIDC_NAME_CLIENT_ID",
    "OIDC_NAME_CLIENT_SECRET",
    "SMTP_URL",
    "MAIL_FROM",
    "ADMIN_EMAIL",
    "ADMIN_PASSWORD",
    "LOG",
    "LOG_FORMAT",
    "METRICS_LISTEN",
];

fn is_setting(key: &str) -> bool {
    let of_a_provider = ["_ISSUER", "_CLIENT_ID", "_CLIENT_SECRET"]
        .iter()
        .any(|end| key.starts_with("OIDC_") && key.ends_with(end));
    KEYS.contains(&key) || of_a_provider
}

struct Settings<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<String>,
}

impl Settings<'_> {
    fn config(&mut self) -> Config {
        let data_dir = PathBuf::from(self.text("DATA_DIR").unwrap_or(".browserfleet".into()));
        let database_url = self
            .text("DATABASE_URL")
            .unwrap_or_else(|| format!("sqlite:{}", data_dir.join("browserfleet.db").display()));
        if !["sqlite:", "postgres:", "postgresql:"]
            .iter()
            .any(|scheme| database_url.starts_with(scheme))
        {
            self.faults.push(format!(
                "{PREFIX}DATABASE_URL has to start with `sqlite:` or `postgres:`"
            ));
        }
        let pool = self.pool();
        let agents = self.agents();
        let provider = self.provider();
        if pool.stopped > 0 {
            self.can_stop(&provider);
        }
        if matches!(provider, Provider::Ec2(_)) && self.text("AGENT_ADDRESS").is_none() {
            self.can_be_dialed(agents.address);
        }
        Config {
            api: self.api(),
            agents,
            database_url,
            provider,
            pool,
            administrator: self.administrator(),
            accounts: self.accounts(),
            telemetry: Telemetry {
                filter: self.filter(),
                format: self.or("LOG_FORMAT", LogFormat::Text),
                metrics: self.maybe("METRICS_LISTEN"),
            },
            data_dir,
        }
    }

    fn provider(&mut self) -> Provider {
        match self.text("PROVIDER").as_deref() {
            None | Some("local") => Provider::Local,
            Some("ec2") => Provider::Ec2(Box::new(self.ec2())),
            Some(other) => {
                self.faults.push(format!(
                    "{PREFIX}PROVIDER is `{other}`; it has to be `local` or `ec2`"
                ));
                Provider::Local
            }
        }
    }

    /// Machines of the pool are to be stopped and started again.
    fn can_stop(&mut self, provider: &Provider) {
        let cannot = match provider {
            Provider::Local => "processes are",
            Provider::Ec2(it) if it.market == MarketOrder::Spot => "spot machines are",
            Provider::Ec2(_) => return,
        };
        self.faults.push(format!(
            "{PREFIX}POOL_STOPPED has to be 0: {cannot} not stopped and started again"
        ));
    }

    /// What agents dial.
    fn dialed(&mut self) -> Option<String> {
        let text = self.text("AGENT_ADDRESS")?;
        let address = text.parse::<Url>().ok().filter(|url| {
            url.scheme() == "https"
                && url.host_str().is_some()
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
        });
        if address.is_none() {
            self.faults.push(format!(
                "{PREFIX}AGENT_ADDRESS is `{text}`; it has to be like https://fleet.example.com:8081"
            ));
        }
        address.map(|it| it.as_str().trim_end_matches('/').to_owned())
    }

    /// Machines elsewhere dial this one by the address where it listens.
    fn can_be_dialed(&mut self, listen: SocketAddr) {
        if listen.ip().is_loopback() || listen.ip().is_unspecified() {
            self.faults.push(format!(
                "{PREFIX}AGENT_ADDRESS is missing: machines of EC2 cannot dial {listen}; it has to \
                 be like https://fleet.example.com:8081"
            ));
        }
    }

    fn api(&mut self) -> Listener {
        let tls = match (self.text("TLS_CERT"), self.text("TLS_KEY")) {
            (Some(certificate), Some(key)) => {
                Some((PathBuf::from(certificate), PathBuf::from(key)))
            }
            (None, None) => None,
            _ => {
                self.faults.push(format!(
                    "{PREFIX}TLS_CERT and {PREFIX}TLS_KEY go together; one of them is missing"
                ));
                None
            }
        };
        Listener {
            address: self.or("LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080))),
            tls,
            connections_max: self.number("CONNECTIONS_MAX", 10_000, 1, 1_000_000) as usize,
        }
    }

    fn agents(&mut self) -> Agents {
        let authorities: Vec<PathBuf> = self.list("AGENT_AUTHORITIES");
        if authorities.len() > AUTHORITIES_MAX {
            self.faults.push(format!(
                "{PREFIX}AGENT_AUTHORITIES names {} folders; at most {AUTHORITIES_MAX} overlap",
                authorities.len()
            ));
        }
        let life = self.number(
            "AGENT_CERTIFICATE_MS",
            CERTIFICATE_MS,
            CERTIFICATE_MS_MIN,
            CERTIFICATE_MS,
        );
        Agents {
            address: self.or("AGENT_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8081))),
            dialed: self.dialed(),
            authorities,
            certificate_life: Duration::from_millis(life.into()),
        }
    }

    fn pool(&mut self) -> Pool {
        let warm = self.number("POOL_WARM", 1, 0, 1_000);
        let max = self.number("POOL_MAX", 4, 1, 10_000);
        let boot = match self.text("PROVIDER").as_deref() {
            Some("ec2") => EC2_BOOT_MS,
            _ => BOOT_MS,
        };
        if warm > max {
            self.faults.push(format!(
                "{PREFIX}POOL_WARM is {warm}, which is more than {PREFIX}POOL_MAX, {max}"
            ));
        }
        let stopped = self.number("POOL_STOPPED", 0, 0, 1_000);
        if stopped > max {
            self.faults.push(format!(
                "{PREFIX}POOL_STOPPED is {stopped}, which is more than {PREFIX}POOL_MAX, {max}"
            ));
        }
        Pool {
            agent: self
                .text("LOCAL_AGENT")
                .map_or_else(agent_beside_us, PathBuf::from),
            browser_executable: self.text("BROWSER_EXECUTABLE").map(PathBuf::from),
            warm,
            stopped,
            max,
            sessions_per_instance: self.number("SESSIONS_PER_INSTANCE", 8, 1, 1_000),
            sessions_per_user: self.number("SESSIONS_PER_USER", 100, 1, 100_000),
            instances_per_user: self.number("INSTANCES_PER_USER", max, 1, 10_000),
            commands_per_minute: self.number("COMMANDS_PER_MINUTE", 0, 0, 10_000_000),
            idle: Duration::from_millis(self.number("POOL_IDLE_MS", 300_000, 0, 86_400_000).into()),
            reuse: self.or("POOL_REUSE", Reuse::Terminate),
            boot: Duration::from_millis(
                self.number("POOL_BOOT_MS", boot, 1_000, BOOT_MS_MAX).into(),
            ),
        }
    }

    /// What is between commas.
    fn list<T>(&mut self, key: &str) -> Vec<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.text(key).unwrap_or_default();
        let mut parsed = Vec::new();
        for item in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            match item.parse() {
                Ok(item) => parsed.push(item),
                Err(fault) => self
                    .faults
                    .push(format!("{PREFIX}{key} has `{item}`: {fault}")),
            }
        }
        parsed
    }

    fn administrator(&mut self) -> Administrator {
        Administrator {
            email: self
                .text("ADMIN_EMAIL")
                .unwrap_or("admin@browserfleet.localhost".into()),
            password: self.text("ADMIN_PASSWORD"),
        }
    }

    fn filter(&mut self) -> String {
        let filter = self.text("LOG").unwrap_or(LOG_DEFAULT.into());
        if let Err(fault) = tracing_subscriber::EnvFilter::builder().parse(&filter) {
            self.faults.push(format!("{PREFIX}LOG: {fault}"));
        }
        filter
    }

    fn text(&self, key: &str) -> Option<String> {
        (self.lookup)(&format!("{PREFIX}{key}")).filter(|text| !text.is_empty())
    }

    fn or<T>(&mut self, key: &str, default: T) -> T
    where
        T: FromStr<Err: Display>,
    {
        self.maybe(key).unwrap_or(default)
    }

    fn maybe<T>(&mut self, key: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.text(key)?;
        text.parse()
            .inspect_err(|fault: &T::Err| {
                self.faults
                    .push(format!("{PREFIX}{key} is `{text}`: {fault}"));
            })
            .ok()
    }

    fn number(&mut self, key: &str, default: u32, least: u32, most: u32) -> u32 {
        let number = self.or(key, default);
        if !(least..=most).contains(&number) {
            self.faults.push(format!(
                "{PREFIX}{key} is {number}; it has to be {least} to {most}"
            ));
        }
        number
    }
}

/// The agent's program is installed beside the control plane's.
fn agent_beside_us() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|it| it.parent().map(|folder| folder.join("browserfleet-agent")))
        .unwrap_or_else(|| PathBuf::from("browserfleet-agent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, Faults> {
        Config::from_lookup(|key| {
            pairs
                .iter()
                .find(|(name, _)| key == format!("{PREFIX}{name}"))
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_is_a_working_configuration() {
        let config = read(&[]).expect("defaults are in order");
        assert_eq!(config.api.address.port(), 8080);
        assert_eq!(config.database_url, "sqlite:.browserfleet/browserfleet.db");
    }

    #[test]
    fn the_example_has_every_setting_with_its_default() {
        let example = include_str!("../../../deploy/env.example");
        let lines: Vec<(&str, &str)> = example
            .lines()
            .filter_map(|line| line.strip_prefix("#BROWSERFLEET_")?.split_once('='))
            .collect();
        let keys: Vec<&str> = lines.iter().map(|(key, _)| *key).collect();
        let mut expected = KEYS.to_vec();
        let mut named = keys.clone();
        expected.sort_unstable();
        named.sort_unstable();
        assert_eq!(named, expected);
        let of_example = Config::from_lookup(|key| {
            let key = key.strip_prefix(PREFIX)?;
            let line = lines.iter().find(|(named, _)| *named == key)?;
            Some(line.1.to_owned())
        });
        let of_nothing = Config::from_lookup(|_| None);
        assert_eq!(
            format!("{:?}", of_example.expect("the example is sound")),
            format!("{:?}", of_nothing.expect("nothing is required"))
        );
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_keys() {
        let faults = read(&[
            ("LISTEN", "nonsense"),
            ("POOL_WARM", "9"),
            ("LOG_FORMAT", "xml"),
            ("TLS_CERT", "a.pem"),
            ("DATABASE_URL", "mysql://root:hunter2@db"),
        ])
        .expect_err("five faults");
        let text = faults.lines().join("\n");
        for key in [
            "LISTEN",
            "POOL_WARM",
            "LOG_FORMAT",
            "TLS_KEY",
            "DATABASE_URL",
        ] {
            assert!(text.contains(key), "{key} is missing in {text}");
        }
        assert!(!text.contains("hunter2"));
    }
}
