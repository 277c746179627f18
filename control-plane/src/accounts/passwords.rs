//! Passwords: Argon2id, away from the runtime's threads, a bounded number at once.
//!
//! One hash takes 19 MiB and some 20 ms of a core. The permit that bounds them
//! is the memory itself: blocks are lent to a hash and come back from it, so that
//! what a flood of logins takes is what was set and no more, however the
//! allocator deals with blocks of such a size.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use argon2::password_hash::{Output, ParamsString, PasswordHash, Salt, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Passwords as Parameters;
use crate::error::Error;

/// Shortest password, in characters (NIST SP 800-63B-4 with a second factor; the
/// refusal of common ones is what makes 8 enough).
const CHARACTERS_MIN: usize = 8;
/// Longest password, in characters. Longer ones only cost time.
const CHARACTERS_MAX: usize = 128;
/// How long a caller waits for a permit.
const PERMIT_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of randomness in a salt.
const SALT_BYTES: usize = 16;

/// What a password was found to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// Not the one of the account.
    Wrong,
    /// The one.
    Right {
        /// A hash that costs as much as one should by now, where the stored one
        /// does not.
        rehashed: Option<String>,
    },
}

/// What hashes are made in, one at a time in each.
type Memory = Vec<Block>;

pub(super) struct Passwords {
    params: Params,
    permits: Arc<Semaphore>,
    /// The memory that no hash has at the moment; the one used last goes first, so
    /// that one login after the other needs no second.
    idle: Arc<Mutex<Vec<Memory>>>,
    /// What is verified where there is no account, so that it takes as long.
    nobody: String,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords")
    }
}

impl Passwords {
    pub(super) fn new(parameters: Parameters) -> anyhow::Result<Self> {
        let params = Params::new(
            parameters.memory_kib,
            parameters.passes,
            parameters.lanes,
            None,
        )
        .map_err(|error| anyhow::anyhow!("the parameters of Argon2 are not usable: {error}"))?;
        let mut memory = Memory::new();
        let nobody =
            hash(&params, b"nobody has this password", &mut memory).context("could not hash")?;
        Ok(Self {
            params,
            idle: Arc::new(Mutex::new(vec![memory])),
            permits: Arc::new(Semaphore::new(parameters.at_once)),
            nobody,
        })
    }

    /// Hashes a new password, if it is one that we take. `theirs` is what others know of its owner. `field` is named where it is
    /// refused.
    pub(super) async fn hash_new(
        &self,
        field: &'static str,
        password: String,
        theirs: &[&str],
    ) -> Result<String, Error> {
        let length = password.chars().count();
        if !(CHARACTERS_MIN..=CHARACTERS_MAX).contains(&length) {
            return Err(Error::invalid(
                field,
                format!(
                    "has {length} characters; it has to have {CHARACTERS_MIN} to {CHARACTERS_MAX}"
                ),
            ));
        }
        let params = self.params.clone();
        let mut known: Vec<String> = vec!["browserfleet".to_owned()];
        known.extend(theirs.iter().map(|it| (*it).to_owned()));
        self.blocking(move |memory| {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            if zxcvbn::zxcvbn(&password, &known).score() < zxcvbn::Score::Two {
                return Err(Error::PasswordTooCommon { field });
            }
            hash(&params, password.as_bytes(), memory).map_err(Error::Internal)
        })
        .await?
    }

    /// Whether the password is the one of the hash; without a hash, never. Where
    /// it is, and the hash cost less than one does now, a new one is made.
    pub(super) async fn verify(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<Verified, Error> {
        if password.chars().count() > CHARACTERS_MAX {
            return Ok(Verified::Wrong);
        }
        let params = self.params.clone();
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        self.blocking(move |memory| {
            let parsed = PasswordHash::new(&hash)
                .map_err(|error| Error::Internal(anyhow::anyhow!("unreadable hash: {error}")))?;
            let right = is_right(&parsed, password.as_bytes(), memory).map_err(Error::Internal)?;
            if !(right && known) {
                return Ok(Verified::Wrong);
            }
            if !is_weaker(&parsed, &params) {
                return Ok(Verified::Right { rehashed: None });
            }
            let rehashed = self::hash(&params, password.as_bytes(), memory);
            let rehashed = rehashed.map_err(Error::Internal)?;
            Ok(Verified::Right {
                rehashed: Some(rehashed),
            })
        })
        .await?
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = timeout(PERMIT_DEADLINE, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_| Error::Overloaded)?
            .map_err(|error| Error::Internal(error.into()))?;
        let idle = Arc::clone(&self.idle);
        tokio::task::spawn_blocking(move || {
            let lent = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut memory = lent.unwrap_or_default();
            let done = work(&mut memory);
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(memory);
            // Here, and not where the caller waits: one who leaves frees nothing
            // that is still in use.
            drop(permit);
            done
        })
        .await
        .map_err(|error| Error::Internal(error.into()))
    }
}

/// Whether a hash was made with less than this. What cannot be read was.
fn is_weaker(hash: &PasswordHash<'_>, wanted: &Params) -> bool {
    let Ok(was) = Params::try_from(hash) else {
        return true;
    };
    hash.algorithm != argon2::ARGON2ID_IDENT
        || was.m_cost() < wanted.m_cost()
        || was.t_cost() < wanted.t_cost()
}

/// Whether this is the password of the hash, made as the hash was made.
fn is_right(hash: &PasswordHash<'_>, password: &[u8], memory: &mut Memory) -> anyhow::Result<bool> {
    let fault = |error| anyhow::anyhow!("unreadable hash: {error}");
    let algorithm = Algorithm::try_from(hash.algorithm).map_err(fault)?;
    let params = Params::try_from(hash).map_err(fault)?;
    let (Some(salt), Some(kept)) = (hash.salt, hash.hash) else {
        anyhow::bail!("unreadable hash: it has no salt or no output");
    };
    let made = output(algorithm, &params, salt, password, memory)?;
    // Takes as long whether they differ early or late.
    Ok(made == kept)
}

fn hash(params: &Params, password: &[u8], memory: &mut Memory) -> anyhow::Result<String> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let salt = SaltString::encode_b64(&salt).map_err(|error| anyhow::anyhow!("salt: {error}"))?;
    let algorithm = Algorithm::Argon2id;
    let made = output(algorithm, params, salt.as_salt(), password, memory)?;
    let described = ParamsString::try_from(params);
    let hash = PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(Version::V0x13.into()),
        params: described.map_err(|error| anyhow::anyhow!("parameters: {error}"))?,
        salt: Some(salt.as_salt()),
        hash: Some(made),
    };
    Ok(hash.to_string())
}

fn output(
    algorithm: Algorithm,
    params: &Params,
    salt: Salt<'_>,
    password: &[u8],
    memory: &mut Memory,
) -> anyhow::Result<Output> {
    let fault = |error| anyhow::anyhow!("salt: {error}");
    let mut buffer = [0; Salt::MAX_LENGTH];
    let salt = salt.decode_b64(&mut buffer).map_err(fault)?;
    let blocks = params.block_count();
    if memory.len() < blocks {
        *memory = vec![Block::default(); blocks];
    }
    let argon2 = Argon2::new(algorithm, Version::V0x13, params.clone());
    let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    Output::init_with(length, |out| {
        let made =
            argon2.hash_password_into_with_memory(password, salt, out, &mut memory[..blocks]);
        Ok(made?)
    })
    .map_err(|error| anyhow::anyhow!("Argon2: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Parameters = Parameters {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
        at_once: 2,
    };

    #[tokio::test]
    async fn the_exact_bytes_count() {
        let passwords = Passwords::new(CHEAP).expect("usable");
        let hash = passwords
            .hash_new("password", " pass phrase 🔑 ".into(), &[])
            .await
            .expect("taken");
        let right = passwords
            .verify(" pass phrase 🔑 ".into(), Some(hash.clone()))
            .await;
        assert_eq!(right.expect("verified"), Verified::Right { rehashed: None });
        let wrong = passwords.verify("pass phrase 🔑".into(), Some(hash)).await;
        assert_eq!(wrong.expect("verified"), Verified::Wrong);
    }

    #[tokio::test]
    async fn nobody_signs_in_without_an_account() {
        let passwords = Passwords::new(CHEAP).expect("usable");
        let right = passwords
            .verify("nobody has this password".into(), None)
            .await;
        assert_eq!(right.expect("verified"), Verified::Wrong);
    }

    #[tokio::test]
    async fn a_hash_that_cost_less_is_made_anew() {
        let cheap = Passwords::new(CHEAP).expect("usable");
        let dearer = Passwords::new(Parameters {
            memory_kib: 16,
            ..CHEAP
        })
        .expect("usable");
        let password = || "four words and 1 number".to_owned();
        let hash = cheap.hash_new("password", password(), &[]).await;
        let verified = dearer
            .verify(password(), hash.ok())
            .await
            .expect("verified");
        let Verified::Right {
            rehashed: Some(rehashed),
        } = verified
        else {
            panic!("not made anew: {verified:?}");
        };
        assert!(rehashed.starts_with("$argon2id$v=19$m=16,t=1,p=1$"));
        let again = dearer.verify(password(), Some(rehashed.clone())).await;
        assert_eq!(again.expect("verified"), Verified::Right { rehashed: None });
        let never_weaker = cheap.verify(password(), Some(rehashed)).await;
        assert_eq!(
            never_weaker.expect("verified"),
            Verified::Right { rehashed: None }
        );
    }

    #[tokio::test]
    async fn short_long_and_common_passwords_are_refused() {
        let passwords = Passwords::new(CHEAP).expect("usable");
        for password in [
            "seven77".to_owned(),
            "x".repeat(129),
            "password1234".to_owned(),
            "browserfleet".to_owned(),
            "ada@example.org".to_owned(),
        ] {
            let error = passwords
                .hash_new("password", password, &["ada@example.org"])
                .await
                .expect_err("refused");
            assert_eq!(error.status(), 422);
        }
    }
}
