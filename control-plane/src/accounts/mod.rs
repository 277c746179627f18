//! Users: how they register, how they sign in, how they are known again, and how
//! all of it ends.

mod access;
mod administer;
mod keys;
mod letters;
mod login;
mod mailer;
mod oauth;
mod passwords;
mod profile;
mod register;
mod reset;
mod second_factor;
mod secrets;
mod shares;
mod throttle;
mod tickets;
mod tokens;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use browserfleet_proto::ids::UserId;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock;
use crate::config::{self, Registration};
use crate::domain::audit::{Action, Credential, Event};
use crate::domain::key::Scope;
use crate::domain::login::Lives;
use crate::domain::time::Timestamp;
use crate::domain::user::{Email, Role, User};
use crate::error::Error;
use crate::store::Store;
use crate::store::access::{AccessOf, Good};

pub use administer::Changes;
pub use keys::{NewKey, ShownKey};
pub use login::SignedIn;
pub use mailer::MailSettings;
pub use oauth::{Begun, Failed, Finished};
pub use profile::Profile;
pub use register::NewAccount;
pub use second_factor::{CHALLENGE_LIFE, Enrolment, SecondFactorState};
pub use shares::{NewShare, ShownShare};
pub use tickets::{Pass, TICKET_LIFE};

use access::Access;
use mailer::Mailer;
use oauth::Providers;
use passwords::Passwords;
use secrets::{Seal, hash_of};
use throttle::{Origin, Throttle};
use tokens::Tokens;

/// Longest name, in characters.
const NAME_CHARACTERS_MAX: usize = 100;
/// Longest user agent that is kept, in bytes.
const USER_AGENT_BYTES_MAX: usize = 512;

/// How long a socket's caller is taken for good without a look at the database, where
/// nothing is known to have ended: as long as an access token is.
const GOOD_FOR: Duration = tokens::ACCESS_TOKEN_LIFE;
/// When to look again after the database failed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Who calls, as far as every request has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentUser {
    /// Whose token or key it is.
    pub id: UserId,
    /// What they may do.
    pub role: Role,
    /// How they are known.
    pub credential: Credential,
    /// What a key is for; who signed in may do what their role may.
    pub scopes: Option<Vec<Scope>>,
    /// Whether they have to enrol a second factor before anything else.
    pub has_to_enrol: bool,
    /// The access version that it was given under.
    pub access_version: i64,
    /// When what they showed is good no more; `None`: once somebody ends it.
    pub good_until: Option<Timestamp>,
}

/// Where a request comes from.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address, past the proxies that we trust.
    pub address: IpAddr,
    /// What it calls itself.
    pub user_agent: Option<String>,
}

impl Client {
    pub(crate) fn did(&self, action: Action) -> Event {
        let mut event = Event::new(clock::now(), action);
        event.address = Some(self.address_text());
        event.user_agent = self.user_agent_text();
        event
    }

    fn origin(&self) -> Origin {
        Origin::from(self.address)
    }

    fn address_text(&self) -> String {
        self.address.to_canonical().to_string()
    }

    fn user_agent_text(&self) -> Option<String> {
        let mut text = self.user_agent.clone()?;
        text.truncate(text.floor_char_boundary(USER_AGENT_BYTES_MAX));
        Some(text)
    }
}

/// What an operator decides of accounts.
#[derive(Debug)]
pub struct Settings {
    /// What a password's hash costs.
    pub passwords: config::Passwords,
    /// The keys that sign; without any, one is made.
    pub signing_keys: Vec<PathBuf>,
    /// The key that seals; without it, one is made.
    pub sealing_key: Option<PathBuf>,
    /// Who may make an account.
    pub registration: Registration,
    /// How long a login lasts.
    pub lives: Lives,
    /// What links in mails start with, without a slash at its end.
    pub public_url: String,
    /// How mail is sent.
    pub mail: MailSettings,
    /// Whom else somebody can sign in with.
    pub providers: Vec<config::OauthProvider>,
    /// Origins that somebody may be sent back to.
    pub allowed_origins: Vec<String>,
}

/// The service.
#[derive(Debug)]
pub struct Accounts {
    store: Store,
    passwords: Passwords,
    tokens: Tokens,
    seal: Seal,
    access: Access,
    throttle: Throttle,
    mailer: Mailer,
    providers: Providers,
    registration: Registration,
    lives: Lives,
    public_url: String,
    /// Changes when somebody was barred or left.
    departures: watch::Sender<u64>,
}

impl Accounts {
    /// The service, with the keys of `folder`, which are made at the first start.
    ///
    /// # Errors
    /// Where a key cannot be read or made, or where others can read it.
    pub fn open(store: Store, folder: &Path, settings: Settings) -> anyhow::Result<Self> {
        Ok(Self {
            store,
            passwords: Passwords::new(settings.passwords)?,
            tokens: Tokens::open(folder, &settings.signing_keys)?,
            seal: Seal::open(folder, settings.sealing_key.as_deref())?,
            access: Access::default(),
            throttle: Throttle::new(),
            mailer: Mailer::new(settings.mail)?,
            providers: Providers::new(settings.providers, settings.allowed_origins)?,
            registration: settings.registration,
            lives: settings.lives,
            public_url: settings.public_url,
            departures: watch::Sender::new(0),
        })
    }

    /// Knows a caller by their access token or API key.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]
    pub async fn authenticate(&self, token: &str) -> Result<CurrentUser, Error> {
        let user = if token.starts_with(keys::PREFIX) {
            self.by_key(token).await?
        } else {
            self.tokens.read(token).ok_or(Error::Unauthenticated)?
        };
        if self.access.is_good(&user) {
            Ok(user)
        } else {
            Err(Error::Unauthenticated)
        }
    }

    /// Resolves once what this caller was given is good no more, on whichever replica it
    /// was ended: within 5 s where somebody ended it, at its time where nobody did. What
    /// outlives a request is closed then.
    pub async fn until_over(&self, user: &CurrentUser) {
        let mut endings = self.access.endings();
        loop {
            let look_again = match self.store.good(user.credential).await {
                Ok(Good::NoMore) => return,
                Ok(Good::Forever) => GOOD_FOR,
                Ok(Good::Until(end)) => {
                    let left = end.since(clock::now());
                    if left.is_zero() {
                        return;
                    }
                    left.min(GOOD_FOR)
                }
                Err(error) => {
                    tracing::warn!(%error, "could not look whether a socket's caller may stay");
                    LOOK_AGAIN
                }
            };
            let again = sleep(look_again);
            tokio::pin!(again);
            loop {
                endings.mark_unchanged();
                if !self.access.is_good(user) {
                    return;
                }
                tokio::select! {
                    () = &mut again => break,
                    changed = endings.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        }
    }

    /// A user.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where the account is gone.
    pub async fn user(&self, id: UserId) -> Result<User, Error> {
        self.store.user(id).await?.ok_or(Error::Unauthenticated)
    }

    /// Changes when somebody was barred or left.
    pub fn departures(&self) -> watch::Receiver<u64> {
        self.departures.subscribe()
    }

    /// Learns what ended lately, before the first request is answered. Whoever was
    /// barred is told of by [`Accounts::learn_endings`] nevertheless.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn recall_endings(&self) -> Result<(), Error> {
        let now = clock::now();
        let mut endings = self.store.endings(self.access.look_from(now)).await?;
        for access in endings.users.drain(..) {
            self.access.bar(access);
        }
        self.access.learn(endings, now, false);
        Ok(())
    }

    /// Learns what ended anywhere, and gives the users whose access changed since
    /// the last time.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn learn_endings(&self) -> Result<Vec<AccessOf>, Error> {
        let now = clock::now();
        let endings = self.store.endings(self.access.look_from(now)).await?;
        Ok(self.access.learn(endings, now, true))
    }

    /// Removes what is of no use any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn tidy(&self) -> Result<(), Error> {
        self.throttle.tidy();
        let now = clock::now();
        let before =
            |life: Duration| Timestamp(now.0 - i64::try_from(life.as_micros()).unwrap_or(i64::MAX));
        self.store.purge_mail_tokens(now).await?;
        self.store.purge_tickets().await?;
        self.store.purge_logins(before(login::KEPT)).await?;
        self.store
            .purge_unverified(before(register::UNVERIFIED_LIFE))
            .await?;
        self.store
            .purge_audit(before(administer::AUDIT_LIFE))
            .await?;
        Ok(())
    }
}

fn email_of(text: &str) -> Result<Email, Error> {
    text.parse().map_err(|fault| Error::invalid("email", fault))
}

/// What the throttle knows an account by, whether there is one or not.
fn account_of(email: &str) -> throttle::Account {
    hash_of(&email.trim().to_lowercase())
}

fn name_of(field: &'static str, name: Option<String>) -> Result<Option<String>, Error> {
    let Some(name) = name else { return Ok(None) };
    if name.chars().count() > NAME_CHARACTERS_MAX {
        return Err(Error::invalid(
            field,
            format!("is longer than {NAME_CHARACTERS_MAX} characters"),
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(field, "has a control character"));
    }
    Ok(Some(name))
}
