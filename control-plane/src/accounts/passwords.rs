//! Passwords: Argon2id, away from the runtime's threads, a bounded number at once.
//!
//! One hash takes 19 MiB and some 20 ms of a core. The permit that bounds them
//! moves into the blocking task, so that a caller who leaves frees nothing that
//! is still in use.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;
use tokio::time::timeout;

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

/// What one hash costs. The least are OWASP's for Argon2id.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// How many hashes at once.
    pub at_once: usize,
}

impl Parameters {
    /// OWASP's first choice of 2025: 19 MiB, 2 passes, 1 lane.
    pub const RECOMMENDED: Self = Self {
        memory_kib: 19 * 1024,
        passes: 2,
        lanes: 1,
        at_once: 4,
    };
}

#[derive(Debug)]
pub(super) struct Passwords {
    argon2: Argon2<'static>,
    permits: Arc<Semaphore>,
    /// What is verified where there is no account, so that it takes as long.
    nobody: String,
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
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobody = hash(&argon2, b"nobody has this password").context("could not hash")?;
        Ok(Self {
            argon2,
            permits: Arc::new(Semaphore::new(parameters.at_once)),
            nobody,
        })
    }

    /// Hashes a new password, if it is one that we take.
    pub(super) async fn hash_new(&self, password: String) -> Result<String, Error> {
        let length = password.chars().count();
        if !(CHARACTERS_MIN..=CHARACTERS_MAX).contains(&length) {
            return Err(Error::invalid(
                "password",
                format!(
                    "has {length} characters; it has to have {CHARACTERS_MIN} to {CHARACTERS_MAX}"
                ),
            ));
        }
        let argon2 = self.argon2.clone();
        self.blocking(move || {
            if zxcvbn::zxcvbn(&password, &["browserfleet"]).score() < zxcvbn::Score::Two {
                return Err(Error::PasswordTooCommon);
            }
            hash(&argon2, password.as_bytes()).map_err(Error::Internal)
        })
        .await?
    }

    /// Whether the password is the one of the hash; without a hash, never.
    pub(super) async fn verify(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, Error> {
        if password.chars().count() > CHARACTERS_MAX {
            return Ok(false);
        }
        let argon2 = self.argon2.clone();
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let right = self
            .blocking(move || {
                let parsed = PasswordHash::new(&hash).map_err(|error| {
                    Error::Internal(anyhow::anyhow!("unreadable hash: {error}"))
                })?;
                Ok::<bool, Error>(argon2.verify_password(password.as_bytes(), &parsed).is_ok())
            })
            .await??;
        Ok(right && known)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = timeout(PERMIT_DEADLINE, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_| Error::Overloaded)?
            .map_err(|error| Error::Internal(error.into()))?;
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        })
        .await
        .map_err(|error| Error::Internal(error.into()))
    }
}

fn hash(argon2: &Argon2<'_>, password: &[u8]) -> anyhow::Result<String> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let salt = SaltString::encode_b64(&salt).map_err(|error| anyhow::anyhow!("salt: {error}"))?;
    let hash = argon2
        .hash_password(password, &salt)
        .map_err(|error| anyhow::anyhow!("Argon2: {error}"))?;
    Ok(hash.to_string())
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
            .hash_new(" pass phrase 🔑 ".into())
            .await
            .expect("taken");
        let right = passwords
            .verify(" pass phrase 🔑 ".into(), Some(hash.clone()))
            .await;
        assert!(right.expect("verified"));
        let wrong = passwords.verify("pass phrase 🔑".into(), Some(hash)).await;
        assert!(!wrong.expect("verified"));
    }

    #[tokio::test]
    async fn nobody_signs_in_without_an_account() {
        let passwords = Passwords::new(CHEAP).expect("usable");
        let right = passwords
            .verify("nobody has this password".into(), None)
            .await;
        assert!(!right.expect("verified"));
    }

    #[tokio::test]
    async fn short_long_and_common_passwords_are_refused() {
        let passwords = Passwords::new(CHEAP).expect("usable");
        for password in [
            "seven77".to_owned(),
            "x".repeat(129),
            "password1234".to_owned(),
        ] {
            let error = passwords.hash_new(password).await.expect_err("refused");
            assert_eq!(error.status(), 422);
        }
    }
}
