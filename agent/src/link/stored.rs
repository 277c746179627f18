//! What the agent keeps of who it is, across its processes. A file is replaced as a
//! whole: whoever looks after a crash finds the former or the next, never half.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::authorities::Authorities;
use super::identity::{Earlier, Identity};
use crate::clock;

/// What only the agent's own user may do with its files.
const PRIVATE: u32 = 0o600;

/// The files.
#[derive(Debug)]
pub struct Stored {
    identity: PathBuf,
    authorities: PathBuf,
}

impl Stored {
    /// In `folder`.
    ///
    /// # Errors
    /// Where others could read a key that is there.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let identity = folder.join("identity.pem");
        if let Ok(metadata) = fs::metadata(&identity)
            && metadata.permissions().mode() & 0o077 != 0
        {
            bail!(
                "{} can be read by others; run: chmod 600 {}",
                identity.display(),
                identity.display()
            );
        }
        Ok(Self {
            identity,
            authorities: folder.join("authorities.pem"),
        })
    }

    /// Whom to take for the control plane: the authorities of `ca_file`, and those
    /// that it named itself in an earlier process. Damaged ones of these are left
    /// out, and the log says so.
    ///
    /// # Errors
    /// Where `ca_file` has none.
    pub fn authorities(&self, ca_file: &Path) -> anyhow::Result<Authorities> {
        let given = fs::read_to_string(ca_file)
            .with_context(|| format!("could not read {}", ca_file.display()))?;
        let told = read(&self.authorities)?.filter(|text| {
            let read = Authorities::read([text.as_str()]);
            if let Err(error) = &read {
                let file = self.authorities.display();
                tracing::warn!(%file, %error, "the authorities that were told are damaged");
            }
            read.is_ok()
        });
        Authorities::read(
            [Some(given.as_str()), told.as_deref()]
                .into_iter()
                .flatten(),
        )
        .with_context(|| format!("no authority in {}", ca_file.display()))
    }

    /// Keeps the authorities that the control plane named.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn keep_authorities(&self, told: &Authorities) -> anyhow::Result<()> {
        replace(&self.authorities, &told.pem())
    }

    /// The identity that an earlier process left. A damaged one counts as none, and
    /// the log says so.
    ///
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn identity(&self) -> anyhow::Result<Option<Earlier>> {
        let Some(text) = read(&self.identity)? else {
            return Ok(None);
        };
        match Identity::from_pem(&text, clock::wall()) {
            Ok(earlier) => Ok(Some(earlier)),
            Err(error) => {
                let file = self.identity.display();
                tracing::warn!(%file, error = format!("{error:#}"), "the identity is damaged");
                Ok(None)
            }
        }
    }

    /// Keeps an identity in the place of the former.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep(&self, identity: &Identity) -> anyhow::Result<()> {
        replace(&self.identity, &identity.to_pem())
    }

    /// Forgets the identity.
    ///
    /// # Errors
    /// Where it is there and cannot be removed.
    pub fn forget(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.identity) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("could not remove {}", self.identity.display()))
            }
            _ => Ok(()),
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", file.display())),
    }
}

/// Durable once it returns: a machine that loses its power finds it again.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let next = file.with_extension("next");
    let written = || {
        // One that an earlier process left may have the wrong mode.
        if next.exists() {
            fs::remove_file(&next)?;
        }
        let mut writer = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(PRIVATE)
            .open(&next)?;
        writer.write_all(text.as_bytes())?;
        writer.sync_all()?;
        fs::rename(&next, file)?;
        fs::File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    written().with_context(|| format!("could not write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use browserfleet_proto::ladder;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use tempfile::TempDir;

    use super::*;

    fn identity() -> Identity {
        let key = KeyPair::generate().unwrap();
        let now = std::time::UNIX_EPOCH + clock::wall();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ins_1");
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + ladder::CERTIFICATE).into();
        let certificate = params.self_signed(&key).unwrap();
        Identity::fresh(&key, certificate.der(), "ins_1", ladder::CERTIFICATE)
    }

    #[test]
    fn an_identity_is_found_by_the_next_process_and_forgotten_once() {
        let folder = TempDir::new().unwrap();
        let stored = Stored::open(folder.path()).unwrap();
        assert!(stored.identity().unwrap().is_none());
        let (former, next) = (identity(), identity());
        for kept in [&former, &next] {
            stored.keep(kept).unwrap();
            let found = Stored::open(folder.path()).unwrap().identity().unwrap();
            assert!(matches!(found, Some(Earlier::Usable(it)) if it.to_pem() == kept.to_pem()));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        stored.forget().unwrap();
        stored.forget().unwrap();
        assert!(stored.identity().unwrap().is_none());
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        let folder = TempDir::new().unwrap();
        let stored = Stored::open(folder.path()).unwrap();
        stored.keep(&identity()).unwrap();
        let file = folder.path().join("identity.pem");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        let refused = Stored::open(folder.path()).expect_err("others can read it");
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }

    #[test]
    fn authorities_that_were_told_are_trusted_beside_those_that_were_given() {
        let folder = TempDir::new().unwrap();
        let stored = Stored::open(folder.path()).unwrap();
        let authority = || pem::parse(identity().certificate).unwrap().into_contents();
        let (given, told) = (authority(), authority());
        let (given, told) = (
            Authorities::from_der(&[given]).unwrap(),
            Authorities::from_der(&[told]).unwrap(),
        );
        let ca_file = folder.path().join("ca.pem");
        fs::write(&ca_file, given.pem()).unwrap();

        assert_eq!(stored.authorities(&ca_file).unwrap().pem(), given.pem());
        stored.keep_authorities(&told).unwrap();
        let both = format!("{}{}", given.pem(), told.pem());
        assert_eq!(stored.authorities(&ca_file).unwrap().pem(), both);
        replace(&folder.path().join("authorities.pem"), "half").unwrap();
        assert_eq!(stored.authorities(&ca_file).unwrap().pem(), given.pem());
    }

    #[test]
    fn a_damaged_identity_is_none() {
        let folder = TempDir::new().unwrap();
        let stored = Stored::open(folder.path()).unwrap();
        replace(&folder.path().join("identity.pem"), "half").unwrap();
        assert!(stored.identity().unwrap().is_none());
    }
}
