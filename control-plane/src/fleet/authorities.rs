//! The authorities of the agents, which may be several while one takes the place of
//! another.
//!
//! The first signs agents' certificates. The last signs our own, since agents that
//! have not renewed yet know the old ones alone. All are trusted, and all are told
//! with each certificate. So one changes another without a moment at which anybody
//! distrusts anybody:
//!
//! ```text
//!  old                 agents know: old         our certificate: old    theirs: old
//!  new, old            as they renew: new, old  old                     old, then new
//!  new                 as they renew: new       new                     new
//! ```
//!
//! Between the last two steps every agent has to renew, which it does within the
//! life of its certificate.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use browserfleet_proto::ids::InstanceId;
use pem::{EncodeConfig, LineEnding, Pem};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;

use super::authority::{Authority, Issued};
use super::client_certificates::ForClients;
use crate::domain::certificate::{Certificate, Purpose};

/// What agents trust when they join, in the data folder.
const BUNDLE_FILE: &str = "agent-authorities.pem";

/// All of them, in the order of the setting.
#[derive(Debug)]
pub struct Authorities {
    first: Authority,
    others: Vec<Authority>,
    bundle: String,
    bundle_file: PathBuf,
    certificate_life: Duration,
}

impl Authorities {
    /// Reads those of `folders`. Without any, the one of `data_dir`, which is made at
    /// the first start.
    ///
    /// # Errors
    /// Where one of them is of no use, or the file for agents cannot be written.
    pub fn open(
        data_dir: &Path,
        folders: &[PathBuf],
        certificate_life: Duration,
    ) -> anyhow::Result<Self> {
        let (first, others) = match folders {
            [] => (Authority::open_or_create(data_dir)?, Vec::new()),
            [first, others @ ..] => {
                let open = |folder: &PathBuf| {
                    Authority::open(folder).context("BROWSERFLEET_AGENT_AUTHORITIES")
                };
                let others: anyhow::Result<_> = others.iter().map(open).collect();
                (open(first)?, others?)
            }
        };
        let mut authorities = Self {
            first,
            others,
            bundle: String::new(),
            bundle_file: data_dir.join(BUNDLE_FILE),
            certificate_life,
        };
        authorities.bundle = authorities.all().map(pem_of).collect();
        authorities.write_bundle()?;
        Ok(authorities)
    }

    fn all(&self) -> impl Iterator<Item = &Authority> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Agents read it whenever they are started: it is there whole, or as it was.
    fn write_bundle(&self) -> anyhow::Result<()> {
        let unfinished = self.bundle_file.with_extension("new");
        fs::write(&unfinished, &self.bundle)
            .and_then(|()| fs::rename(&unfinished, &self.bundle_file))
            .with_context(|| format!("could not write {}", self.bundle_file.display()))
    }

    /// The certificates of all, PEM: what an agent has to know to join.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// The same as a file.
    #[must_use]
    pub fn bundle_file(&self) -> &Path {
        &self.bundle_file
    }

    /// The certificates of all, DER: what an agent has to know from now on.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.all().map(|it| it.certificate().clone()).collect()
    }

    /// Their ends.
    #[must_use]
    pub fn ends(&self) -> Vec<Certificate> {
        self.all()
            .zip(1..)
            .map(|(authority, place)| Certificate {
                purpose: Purpose::Authority(place),
                ends_at: authority.ends_at(),
            })
            .collect()
    }

    /// How long an agent's certificate lives.
    #[must_use]
    pub fn certificate_life(&self) -> Duration {
        self.certificate_life
    }

    /// Makes the certificate of one instance.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue(&self, request: &[u8], instance: InstanceId) -> anyhow::Result<Issued> {
        self.first.issue(request, instance, self.certificate_life)
    }

    /// TLS for the agents' port: our certificate, and a client certificate of one of
    /// the authorities where the client has one (it has none yet when it joins).
    ///
    /// # Errors
    /// Where the certificate cannot be made.
    pub fn server_config(&self, address: IpAddr) -> anyhow::Result<Arc<ServerConfig>> {
        let own = self.others.last().unwrap_or(&self.first).own(address)?;
        let mut roots = RootCertStore::empty();
        for authority in self.all() {
            roots.add(authority.certificate().clone())?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(Arc::new(ForClients(verifier)))
            .with_single_cert(own.chain, own.key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn pem_of(authority: &Authority) -> String {
    let unix = EncodeConfig::new().set_line_ending(LineEnding::LF);
    let certificate = Pem::new("CERTIFICATE", authority.certificate().as_ref());
    pem::encode_config(&certificate, unix)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn opened(folder: &Path, of: &[PathBuf]) -> anyhow::Result<Authorities> {
        Authorities::open(folder, of, LIFE)
    }

    #[test]
    fn without_the_setting_there_is_one_and_it_stays() {
        let folder = TempDir::new().expect("a folder");
        let first = opened(folder.path(), &[]).expect("made");
        let again = opened(folder.path(), &[]).expect("read");
        assert_eq!(first.certificates(), again.certificates());
        assert_eq!(first.ends().len(), 1);
        let bundle = fs::read_to_string(again.bundle_file()).expect("written");
        assert_eq!(bundle, again.bundle());
    }

    #[test]
    fn all_are_told_in_their_order() {
        let folder = TempDir::new().expect("a folder");
        let folders = ["new", "old"].map(|it| folder.path().join(it));
        for it in &folders {
            Authority::create(it).expect("made");
            assert!(Authority::create(it).is_err(), "an authority is not lost");
        }
        let both = opened(folder.path(), &folders).expect("read");
        let each = folders.each_ref().map(|it| {
            let one = opened(folder.path(), std::slice::from_ref(it)).expect("read");
            (one.certificates().remove(0), one.bundle().to_owned())
        });
        assert_eq!(both.certificates(), [each[0].0.clone(), each[1].0.clone()]);
        assert_eq!(both.bundle(), format!("{}{}", each[0].1, each[1].1));
    }

    #[test]
    fn what_is_of_no_use_is_named() {
        let folder = TempDir::new().expect("a folder");
        let [one, two, none] = ["one", "two", "none"].map(|it| folder.path().join(it));
        for it in [&one, &two] {
            Authority::create(it).expect("made");
        }
        let refused = |of: &PathBuf| {
            let error = opened(folder.path(), std::slice::from_ref(of)).expect_err("refused");
            format!("{error:#}")
        };
        assert!(refused(&none).contains("browserfleet authority"));
        fs::copy(two.join("agent-ca.pem"), one.join("agent-ca.pem")).expect("copied");
        let mixed = refused(&one);
        assert!(mixed.contains("does not belong to the key"), "{mixed}");
        let key = two.join("agent-ca.key.pem");
        fs::set_permissions(key, fs::Permissions::from_mode(0o644)).expect("set");
        assert!(refused(&two).contains("chmod 600"));
    }
}
