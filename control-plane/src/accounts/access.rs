//! What ended: kept in memory, so that every request is checked against it, and
//! learned from the database within seconds on every replica. A login that ended
//! is remembered for as long as a token of it could live.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use browserfleet_proto::ids::{ApiKeyId, LoginId, ShareId, UserId};
use tokio::sync::watch;

use super::CurrentUser;
use super::tokens::ACCESS_TOKEN_LIFE;
use crate::domain::audit::Credential;
use crate::domain::time::Timestamp;
use crate::store::access::{AccessOf, Endings};

/// How long an ending is remembered: a token's life, and the time by which
/// clocks and statements may be late.
const MEMORY: Duration = Duration::from_secs(ACCESS_TOKEN_LIFE.as_secs() + 120);
/// How far back a look at the database goes behind the one before it: what was
/// written late, or by a clock that is behind, is not missed.
const OVERLAP: Duration = Duration::from_secs(120);
/// How many keys are remembered as good.
const KEYS_MAX: usize = 10_000;
/// How long a key is taken for good without looking.
const KEY_LIFE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct KnownKey {
    user: CurrentUser,
    key: ApiKeyId,
    expires_at: Option<Timestamp>,
    read_at: Timestamp,
}

#[derive(Debug, Default)]
struct Known {
    logins: HashMap<LoginId, Timestamp>,
    users: HashMap<UserId, (AccessOf, Timestamp)>,
    /// Changed here, and not yet found in the database again.
    urgent: HashMap<UserId, AccessOf>,
    keys: HashMap<String, KnownKey>,
    revoked_keys: HashMap<ApiKeyId, Timestamp>,
    revoked_shares: HashMap<ShareId, Timestamp>,
    looked_at: Option<Timestamp>,
}

impl Known {
    /// How many are known to have ended.
    fn ended(&self) -> usize {
        self.logins.len() + self.revoked_keys.len() + self.revoked_shares.len()
    }
}

#[derive(Debug, Default)]
pub(super) struct Access {
    known: RwLock<Known>,
    /// Changes when something ended.
    endings: watch::Sender<u64>,
}

impl Access {
    /// Changes when something ended: whoever has a socket looks again then.
    pub(super) fn endings(&self) -> watch::Receiver<u64> {
        self.endings.subscribe()
    }

    /// Whether what this caller was given is still good.
    pub(super) fn is_good(&self, user: &CurrentUser) -> bool {
        self.holds(user.id, user.credential, user.access_version)
    }

    /// Whether what this user was given under this version still holds.
    pub(super) fn holds(&self, user: UserId, credential: Credential, version: i64) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let ended = match credential {
            Credential::Login(login) => known.logins.contains_key(&login),
            Credential::Key(key) => known.revoked_keys.contains_key(&key),
            Credential::Share(share) => known.revoked_shares.contains_key(&share),
        };
        let learned = known.users.get(&user).map(|(access, _)| access);
        let former = learned
            .into_iter()
            .chain(known.urgent.get(&user))
            .any(|it| it.barred || it.version > version);
        !ended && !former
    }

    /// The caller of a key that was looked up lately.
    pub(super) fn key(&self, hash: &str, now: Timestamp) -> Option<CurrentUser> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let key = known.keys.get(hash)?;
        let fresh = now.since(key.read_at) < KEY_LIFE;
        let living = key.expires_at.is_none_or(|at| at > now);
        (fresh && living).then(|| key.user.clone())
    }

    /// Remembers a key that was looked up.
    pub(super) fn remember_key(
        &self,
        hash: String,
        key: ApiKeyId,
        user: CurrentUser,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.keys.len() >= KEYS_MAX {
            known.keys.clear();
        }
        let read_at = now;
        known.keys.insert(
            hash,
            KnownKey {
                user,
                key,
                expires_at,
                read_at,
            },
        );
    }

    /// Refuses what somebody was given before, at once. What they hold is ended
    /// once [`Access::learn`] tells of it.
    pub(super) fn bar(&self, access: AccessOf) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.keys.retain(|_, it| it.user.id != access.user);
        known.urgent.insert(access.user, access);
        drop(known);
        self.endings.send_modify(|count| *count += 1);
    }

    /// From when on endings are to be looked for.
    pub(super) fn look_from(&self, now: Timestamp) -> Timestamp {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let back = |from: Timestamp, by: Duration| {
            Timestamp(from.0 - i64::try_from(by.as_micros()).unwrap_or(0))
        };
        match known.looked_at {
            Some(at) => back(at, OVERLAP),
            None => back(now, MEMORY),
        }
    }

    /// Learns what ended, and gives the users whose access changed since.
    pub(super) fn learn(&self, endings: Endings, now: Timestamp, looked: bool) -> Vec<AccessOf> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.ended();
        for login in endings.logins {
            known.logins.entry(login).or_insert(now);
        }
        known.keys.retain(|_, it| !endings.keys.contains(&it.key));
        for key in endings.keys {
            known.revoked_keys.entry(key).or_insert(now);
        }
        for share in endings.shares {
            known.revoked_shares.entry(share).or_insert(now);
        }
        let mut news = before != known.ended();
        let mut changed = Vec::new();
        for access in endings.users {
            let changes = known
                .users
                .get(&access.user)
                .is_none_or(|(before, _)| before.version < access.version);
            if !changes {
                continue;
            }
            news = true;
            known.keys.retain(|_, it| it.user.id != access.user);
            known.urgent.remove(&access.user);
            known.users.insert(access.user, (access, now));
            changed.push(access);
        }
        if looked {
            known.looked_at = Some(now);
            let late = |at: &Timestamp| now.since(*at) < MEMORY;
            known.logins.retain(|_, at| late(at));
            known.revoked_keys.retain(|_, at| late(at));
            known.revoked_shares.retain(|_, at| late(at));
            known.users.retain(|_, (_, at)| late(at));
        }
        drop(known);
        if news {
            self.endings.send_modify(|count| *count += 1);
        }
        changed
    }
}
