//! Secrets that we make, keep as hashes, sign with, or seal.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::Error;

/// Bytes of randomness in everything that is guessed at: 256 bits.
pub(super) const SECRET_BYTES: usize = 32;
/// Shortest key that is taken, in bytes (RFC 7518, section 3.2, for HS256).
pub(super) const KEY_BYTES_MIN: usize = 32;
/// A key of random bytes, or their hexadecimal digits, has more of them.
const DIFFERENT_BYTES_MIN: usize = 10;

/// A new secret with this prefix.
pub(super) fn new_secret(prefix: &str) -> String {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What is kept of a secret: SHA-256, in hexadecimal. A secret of 256 random
/// bits needs no salt and no slow hash.
pub(super) fn hash_of(secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a key file, which is made if it is not there.
pub(super) fn read_or_make(file: &Path) -> anyhow::Result<Vec<u8>> {
    if !file.exists() {
        let key: [u8; SECRET_BYTES] = rand::random();
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .and_then(|mut it| it.write_all(&key))
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    read_key(file)
}

/// Reads a key file that is nobody else's, and no example.
pub(super) fn read_key(file: &Path) -> anyhow::Result<Vec<u8>> {
    let unreadable = || format!("could not read {}", file.display());
    let mode = fs::metadata(file)
        .with_context(unreadable)?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} can be read by others (mode {:o}); run: chmod 600 {}",
            file.display(),
            mode & 0o777,
            file.display()
        );
    }
    let key = fs::read(file).with_context(unreadable)?;
    if key.len() < KEY_BYTES_MIN {
        bail!(
            "{} has {} bytes; it has to have at least {KEY_BYTES_MIN}",
            file.display(),
            key.len()
        );
    }
    let mut different = key.clone();
    different.sort_unstable();
    different.dedup();
    let text = String::from_utf8_lossy(&key).to_lowercase();
    if different.len() < DIFFERENT_BYTES_MIN
        || ["change", "example", "secret", "password"]
            .iter()
            .any(|word| text.contains(word))
    {
        bail!(
            "{} holds no random key; make one: head -c 32 /dev/urandom > {}",
            file.display(),
            file.display()
        );
    }
    Ok(key)
}

/// Seals what only this deployment may read again: what is told to a browser to
/// keep, and what the database holds of second factors.
#[derive(Debug)]
pub(super) struct Seal(RandomizedNonceKey);

impl Seal {
    /// With the key of this file; without it, with one of `folder`, which is made
    /// at the first start.
    pub(super) fn open(folder: &Path, file: Option<&Path>) -> anyhow::Result<Self> {
        let key = match file {
            Some(file) => read_key(file).context("BROWSERFLEET_SEALING_KEY")?,
            None => read_or_make(&folder.join("sealing.key"))?,
        };
        Self::new(&Sha256::digest(key))
    }

    fn new(key: &[u8]) -> anyhow::Result<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key)
            .map_err(|_| anyhow::anyhow!("the key for sealing is not usable"))?;
        Ok(Self(key))
    }

    /// Seals a value for one purpose.
    pub(super) fn seal<T: Serialize>(&self, purpose: &str, value: &T) -> Result<String, Error> {
        let mut text = serde_json::to_vec(value).map_err(|it| Error::Internal(it.into()))?;
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(purpose), &mut text)
            .map_err(|_| Error::Internal(anyhow::anyhow!("could not seal")))?;
        let mut whole = nonce.as_ref().to_vec();
        whole.append(&mut text);
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// Opens what was sealed for this purpose.
    pub(super) fn unseal<T: DeserializeOwned>(&self, purpose: &str, sealed: &str) -> Option<T> {
        let mut whole = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = whole.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.0.open_in_place(nonce, Aad::from(purpose), text).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_for_its_purpose_only() {
        let seal = Seal::new(&[7; 32]).expect("usable");
        let sealed = seal.seal("one", &"text").expect("sealed");
        assert_eq!(
            seal.unseal::<String>("one", &sealed).as_deref(),
            Some("text")
        );
        assert_eq!(seal.unseal::<String>("two", &sealed), None);
        let other = Seal::new(&[8; 32]).expect("usable");
        assert_eq!(other.unseal::<String>("one", &sealed), None);
        for odd in ["", "AA", &sealed[1..], &format!("{sealed}AAAA")] {
            assert_eq!(seal.unseal::<String>("one", odd), None, "{odd}");
        }
    }

    #[test]
    fn keys_that_are_no_secret_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.key");
        let good: Vec<u8> = (0..32).collect();
        for (key, mode, word) in [
            (good.clone(), 0o644, "chmod 600"),
            (good[..31].to_vec(), 0o600, "at least 32"),
            (vec![b'x'; 64], 0o600, "no random key"),
            (
                b"change-me-0123456789-abcdefghijklmno".to_vec(),
                0o600,
                "no random key",
            ),
        ] {
            fs::write(&file, key).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            let error = read_key(&file).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
        fs::write(&file, good).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        assert!(read_key(&file).is_ok());
    }
}
