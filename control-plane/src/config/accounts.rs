//! Users and how they sign in.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::{PREFIX, Settings};

/// A key that comes and a key that goes.
const SIGNING_KEYS_MAX: usize = 2;

/// Users and how they sign in.
#[derive(Debug)]
pub struct Accounts {
    /// Where people reach the API, without a slash at its end; `None`: where it
    /// listens.
    pub public_url: Option<String>,
    /// Origins whose pages may call.
    pub allowed_origins: Vec<String>,
    /// Proxies whose word about addresses counts.
    pub trusted_proxies: Vec<IpNet>,
    /// The keys that sign access tokens; the first signs, both verify.
    pub signing_keys: Vec<PathBuf>,
    /// The key that seals what the database holds of second factors; `None`: one
    /// of the data folder.
    pub sealing_key: Option<PathBuf>,
    /// Who may make an account: `open`, `invitation` or `closed`.
    pub registration: Registration,
    /// How long a login lasts that nobody uses.
    pub login_idle: Duration,
    /// How long a login lasts.
    pub login_longest: Duration,
    /// What a password's hash costs.
    pub passwords: Passwords,
    /// The mail server; `None`: mail goes to a folder.
    pub smtp: Option<Url>,
    /// Who mail is from.
    pub mail_from: String,
    /// Whom else somebody can sign in with.
    pub providers: Vec<OauthProvider>,
}

/// Somebody else who knows our users.
#[derive(Clone)]
pub struct OauthProvider {
    /// In our addresses.
    pub name: String,
    /// As we are known there.
    pub client_id: String,
    /// Ours.
    pub client_secret: String,
    /// How it is spoken to.
    pub kind: OauthKind,
}

impl std::fmt::Debug for OauthProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.name, self.kind)
    }
}

/// How a provider is spoken to.
#[derive(Debug, Clone)]
pub enum OauthKind {
    /// OpenID Connect, by discovery.
    Oidc {
        /// Its address.
        issuer: String,
    },
    /// GitHub's own way, or that of a GitHub Enterprise Server.
    GitHub {
        /// Where people sign in.
        site: String,
        /// Where its API is.
        api: String,
    },
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Everybody.
    Open,
    /// Whoever an administrator invited.
    Invitation,
    /// Nobody; administrators make accounts.
    Closed,
}

impl FromStr for Registration {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "open" => Ok(Self::Open),
            "invitation" => Ok(Self::Invitation),
            "closed" => Ok(Self::Closed),
            _ => Err("`open`, `invitation` or `closed`"),
        }
    }
}

/// What a password's hash costs. The least, and the default, are OWASP's for
/// Argon2id.
#[derive(Debug, Clone, Copy)]
pub struct Passwords {
    /// KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// How many hashes at once.
    pub at_once: usize,
}

impl Settings<'_> {
    pub(super) fn accounts(&mut self) -> Accounts {
        let idle = self.number("LOGIN_IDLE_DAYS", 14, 1, 365);
        let longest = self.number("LOGIN_MAX_DAYS", 90, 1, 365);
        if idle > longest {
            self.faults.push(format!(
                "{PREFIX}LOGIN_IDLE_DAYS is {idle}, which is more than {PREFIX}LOGIN_MAX_DAYS, {longest}"
            ));
        }
        let signing_keys: Vec<PathBuf> = self.list("SIGNING_KEYS");
        if signing_keys.len() > SIGNING_KEYS_MAX {
            self.faults.push(format!(
                "{PREFIX}SIGNING_KEYS names {} files; at most {SIGNING_KEYS_MAX} overlap",
                signing_keys.len()
            ));
        }
        Accounts {
            public_url: self.public_url(),
            allowed_origins: self.origins(),
            trusted_proxies: self
                .list::<Network>("TRUSTED_PROXIES")
                .into_iter()
                .map(|it| it.0)
                .collect(),
            signing_keys,
            sealing_key: self.text("SEALING_KEY").map(PathBuf::from),
            registration: self.or("REGISTRATION", Registration::Open),
            login_idle: days(idle),
            login_longest: days(longest),
            passwords: Passwords {
                memory_kib: self.number(
                    "PASSWORD_MEMORY_KIB",
                    19 * 1024,
                    19 * 1024,
                    4 * 1024 * 1024,
                ),
                passes: self.number("PASSWORD_PASSES", 2, 2, 100),
                lanes: self.number("PASSWORD_LANES", 1, 1, 16),
                at_once: self.number("PASSWORD_HASHES_AT_ONCE", 4, 1, 1_000) as usize,
            },
            providers: self.providers(),
            smtp: self.smtp(),
            mail_from: self
                .text("MAIL_FROM")
                .unwrap_or("Browserfleet <no-reply@browserfleet.localhost>".into()),
        }
    }

    fn public_url(&mut self) -> Option<String> {
        let text = self.text("PUBLIC_URL")?;
        match text.parse::<Url>() {
            Ok(url) if is_web(&url) && url.query().is_none() && url.fragment().is_none() => {
                Some(text.trim_end_matches('/').to_owned())
            }
            _ => {
                self.faults.push(format!(
                    "{PREFIX}PUBLIC_URL is `{text}`; it has to be an http or https address"
                ));
                None
            }
        }
    }

    fn origins(&mut self) -> Vec<String> {
        let origins: Vec<String> = self.list("ALLOWED_ORIGINS");
        for origin in &origins {
            let exact = origin
                .parse::<Url>()
                .is_ok_and(|url| is_web(&url) && url.origin().ascii_serialization() == *origin);
            if !exact {
                self.faults.push(format!(
                    "{PREFIX}ALLOWED_ORIGINS has `{origin}`; an origin is like https://app.example.com"
                ));
            }
        }
        origins
    }

    fn providers(&mut self) -> Vec<OauthProvider> {
        let names: Vec<String> = self.list("OIDC_PROVIDERS");
        let mut providers = Vec::new();
        for name in names {
            let clean = name
                .chars()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit());
            if !clean || name == "github" {
                self.faults.push(format!(
                    "{PREFIX}OIDC_PROVIDERS has `{name}`; a name is of a-z and 0-9, and not `github`"
                ));
                continue;
            }
            let key = format!("OIDC_{}", name.to_uppercase());
            let issuer = self.web_address(&format!("{key}_ISSUER"), None);
            let (client_id, client_secret) = self.credentials(&key);
            providers.push(OauthProvider {
                name,
                client_id,
                client_secret,
                kind: OauthKind::Oidc { issuer },
            });
        }
        let github = ["GITHUB_CLIENT_ID", "GITHUB_CLIENT_SECRET"]
            .iter()
            .any(|key| self.text(key).is_some());
        if github {
            let (client_id, client_secret) = self.credentials("GITHUB");
            providers.push(OauthProvider {
                name: "github".into(),
                client_id,
                client_secret,
                kind: OauthKind::GitHub {
                    site: self.web_address("GITHUB_URL", Some("https://github.com")),
                    api: self.web_address("GITHUB_API_URL", Some("https://api.github.com")),
                },
            });
        }
        providers
    }

    fn credentials(&mut self, key: &str) -> (String, String) {
        let mut needed = |key: String| {
            let text = self.text(&key);
            if text.is_none() {
                self.faults.push(format!("{PREFIX}{key} is missing"));
            }
            text.unwrap_or_default()
        };
        let client_id = needed(format!("{key}_CLIENT_ID"));
        (client_id, needed(format!("{key}_CLIENT_SECRET")))
    }

    /// An address that secrets are sent to: over TLS, unless it is this machine.
    pub(super) fn web_address(&mut self, key: &str, default: Option<&str>) -> String {
        let text = self.text(key).or_else(|| default.map(str::to_owned));
        let text = text.unwrap_or_default();
        let fine = text.parse::<Url>().is_ok_and(|url| {
            let here = ["127.0.0.1", "localhost", "[::1]"];
            let local = url.host_str().is_some_and(|it| here.contains(&it));
            url.scheme() == "https" || (url.scheme() == "http" && local)
        });
        if !fine {
            self.faults.push(format!(
                "{PREFIX}{key} is `{text}`; it has to be an https address"
            ));
        }
        text
    }

    /// Its faults name no value: it has a password in it.
    fn smtp(&mut self) -> Option<Url> {
        let text = self.text("SMTP_URL")?;
        match text.parse::<Url>() {
            Ok(url) if matches!(url.scheme(), "smtp" | "smtps") && url.host_str().is_some() => {
                Some(url)
            }
            _ => {
                self.faults.push(format!(
                    "{PREFIX}SMTP_URL has to be like smtp://user:password@host:587 (STARTTLS) or \
                     smtps://user:password@host:465 (TLS)"
                ));
                None
            }
        }
    }
}

/// A network, or one address of it.
struct Network(IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address
            .or_else(|_| text.parse())
            .map(Self)
            .map_err(|_| "an address, or a network like 10.0.0.0/8")
    }
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.host_str().is_some()
}

fn days(number: u32) -> Duration {
    Duration::from_secs(u64::from(number) * 24 * 60 * 60)
}
