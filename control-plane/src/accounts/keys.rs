//! API keys: shown once, kept as a hash.

use std::time::Duration;

use browserfleet_proto::ids::ApiKeyId;

use super::secrets::{hash_of, new_secret};
use super::{Accounts, Client, CurrentUser};
use crate::clock;
use crate::domain::audit::{Action, Credential};
use crate::domain::key::{ApiKey, Scope};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::Error;
use crate::store::access::Endings;

/// What every key starts with, so that scanners for secrets find one.
pub(super) const PREFIX: &str = "bf_";
/// How much of a key is shown again.
const HINT_LENGTH: usize = PREFIX.len() + 6;
/// Keys of one user.
const KEYS_MAX: u32 = 100;
/// Longest name, in characters.
const NAME_CHARACTERS_MAX: usize = 100;
/// Longest life: a year, after which somebody should think of it again; without
/// a life, a key lives until it is revoked.
const LIFE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// How exactly it is known when a key was last used.
const USE_PRECISION: Duration = Duration::from_secs(60);

/// What a new key is to be.
#[derive(Debug)]
pub struct NewKey {
    /// As its owner calls it.
    pub name: String,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// How long it lives.
    pub life: Option<Duration>,
}

/// A new key, and for this once what is secret of it.
#[derive(Debug)]
pub struct ShownKey {
    /// The key.
    pub key: ApiKey,
    /// For `Authorization: Bearer`.
    pub secret: String,
}

impl Accounts {
    /// Makes a key.
    ///
    /// # Errors
    /// Names the field that is refused; [`Error::QuotaReached`].
    pub async fn create_key(
        &self,
        caller: &CurrentUser,
        wish: NewKey,
        client: &Client,
    ) -> Result<ShownKey, Error> {
        let length = wish.name.chars().count();
        if !(1..=NAME_CHARACTERS_MAX).contains(&length) {
            let why = format!("has to have 1 to {NAME_CHARACTERS_MAX} characters");
            return Err(Error::invalid("name", why));
        }
        if wish.name.chars().any(char::is_control) {
            return Err(Error::invalid("name", "has a control character"));
        }
        if wish.scopes.is_empty() {
            return Err(Error::invalid("scopes", "has to name at least one"));
        }
        if let Some(scope) = wish.scopes.iter().find(|it| !it.is_for(caller.role)) {
            let why = format!("`{}` is for administrators", scope.as_str());
            return Err(Error::invalid("scopes", why));
        }
        if wish.life.is_some_and(|it| it > LIFE_MAX) {
            let why = format!("has to be at most {}", LIFE_MAX.as_secs());
            return Err(Error::invalid("expires_in", why));
        }
        let secret = new_secret(PREFIX);
        let mut scopes = wish.scopes;
        scopes.sort_unstable_by_key(|it| it.as_str());
        scopes.dedup();
        let now = clock::now();
        let key = ApiKey {
            id: ApiKeyId::new(),
            user: caller.id,
            name: wish.name,
            hint: secret[..HINT_LENGTH].to_owned(),
            scopes,
            created_at: now,
            expires_at: wish.life.map(|life| now.plus(life)),
            last_used_at: None,
        };
        let event = client
            .did(Action::KeyCreated)
            .on(caller.id)
            .by(caller.id, Some(caller.credential))
            .detail(key.id.to_string());
        let made = self
            .store
            .create_key(&key, &hash_of(&secret), KEYS_MAX, &event)
            .await?;
        if made {
            Ok(ShownKey { key, secret })
        } else {
            Err(Error::QuotaReached {
                name: "api_keys",
                limit: KEYS_MAX,
                retry_after: None,
            })
        }
    }

    /// The caller's keys, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn keys(&self, caller: &CurrentUser) -> Result<Vec<ApiKey>, Error> {
        Ok(self.store.keys_of(caller.id).await?)
    }

    /// Ends one of the caller's keys.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is somebody else's.
    pub async fn revoke_key(
        &self,
        caller: &CurrentUser,
        id: ApiKeyId,
        client: &Client,
    ) -> Result<(), Error> {
        let event = client
            .did(Action::KeyRevoked)
            .on(caller.id)
            .by(caller.id, Some(caller.credential))
            .detail(id.to_string());
        if !self.store.revoke_key(caller.id, id, &event).await? {
            return Err(Error::NotFound("API key"));
        }
        let endings = Endings {
            keys: vec![id],
            ..Endings::default()
        };
        self.access.learn(endings, clock::now(), false);
        Ok(())
    }

    /// Knows a caller by a key.
    pub(super) async fn by_key(&self, secret: &str) -> Result<CurrentUser, Error> {
        let hash = hash_of(secret);
        let now = clock::now();
        if let Some(user) = self.access.key(&hash, now) {
            return Ok(user);
        }
        let found = self.store.key_by_hash(&hash).await?;
        let key = found
            .filter(|it| it.expires_at.is_none_or(|at| at > now))
            .ok_or(Error::Unauthenticated)?;
        let user = self.store.user(key.user).await?;
        let user = user
            .filter(User::may_sign_in)
            .ok_or(Error::Unauthenticated)?;
        self.note_use(&key, now).await?;
        let current = CurrentUser {
            id: user.id,
            role: user.role,
            credential: Credential::Key(key.id),
            // What its owner may no longer do, it may not either.
            scopes: Some(
                key.scopes
                    .iter()
                    .copied()
                    .filter(|it| it.is_for(user.role))
                    .collect(),
            ),
            has_to_enrol: false,
            access_version: user.access_version,
            good_until: key.expires_at,
        };
        self.access
            .remember_key(hash, key.id, current.clone(), key.expires_at, now);
        Ok(current)
    }

    async fn note_use(&self, key: &ApiKey, now: Timestamp) -> Result<(), Error> {
        let noted = key
            .last_used_at
            .is_some_and(|at| now.since(at) < USE_PRECISION);
        if !noted {
            self.store.key_used(key.id, now).await?;
        }
        Ok(())
    }
}
