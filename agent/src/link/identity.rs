//! Who this agent is: a key that never leaves the machine, and a certificate
//! whose name the control plane chose.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use browserfleet_proto::agent::v1::enrolment_service_client::EnrolmentServiceClient;
use browserfleet_proto::agent::v1::{Certificate, JoinRequest, RenewRequest};
use browserfleet_proto::ladder;
use pem::Pem;
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Code;

use super::backoff::Backoff;
use super::connect::Dialer;

/// How long the control plane may take to answer a signing request.
const SIGN_DEADLINE: Duration = Duration::from_secs(15);
/// How long an agent tries to join: as long as its token lives.
const JOIN_DEADLINE: Duration = ladder::JOIN_TOKEN;

/// Key and certificate, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The private key.
    pub key: String,
    /// The certificate.
    pub certificate: String,
    /// The instance that it names.
    pub instance: String,
    /// When it is to be renewed, by the monotonic clock.
    pub renew_at: Instant,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// The control plane will not have this agent.
#[derive(Debug, thiserror::Error)]
#[error("the control plane refused this agent: {0}")]
pub struct Refused(pub String);

/// Where the identity is kept while the process runs. A new process joins anew
/// with a token of its own.
#[derive(Debug)]
pub struct Keeper {
    dialer: Dialer,
    key_file: PathBuf,
    certificate_file: PathBuf,
}

impl Keeper {
    /// Keeps the identity in `folder`.
    ///
    /// # Errors
    /// Where others could read a key that is there.
    pub fn new(dialer: Dialer, folder: &Path) -> anyhow::Result<Self> {
        let keeper = Self {
            dialer,
            key_file: folder.join("agent.key.pem"),
            certificate_file: folder.join("agent.pem"),
        };
        if let Ok(metadata) = fs::metadata(&keeper.key_file)
            && metadata.permissions().mode() & 0o077 != 0
        {
            bail!(
                "{} can be read by others; run: chmod 600 {}",
                keeper.key_file.display(),
                keeper.key_file.display()
            );
        }
        Ok(keeper)
    }

    /// Joins with the one-time token. A control plane that is not there yet is
    /// waited for; a refusal is final.
    ///
    /// # Errors
    /// [`Refused`], or that nobody answered while the token lived.
    pub async fn join(&self, token: &str) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let latest = Instant::now() + JOIN_DEADLINE;
        let mut backoff = Backoff::default();
        loop {
            let reason = match self.try_join(token, &key).await? {
                Ok(certificate) => return self.keep(&key, &certificate),
                Err(reason) => reason,
            };
            let wait = backoff.after(Duration::ZERO, rand::random(), None);
            if Instant::now() + wait > latest {
                bail!("could not join while the token lived: {reason}");
            }
            tracing::warn!(reason, wait_ms = wait.as_millis(), "could not join yet");
            sleep(wait).await;
        }
    }

    /// The inner result is whether it worked this time.
    async fn try_join(
        &self,
        token: &str,
        key: &KeyPair,
    ) -> anyhow::Result<Result<Certificate, String>> {
        let channel = match self.dialer.dial_to_join().await {
            Ok(channel) => channel,
            Err(reason) => return Ok(Err(reason)),
        };
        let request = JoinRequest {
            token: token.to_owned(),
            signing_request: signing_request(key)?.into(),
            machine: String::new(),
        };
        let mut client = EnrolmentServiceClient::new(channel);
        match timeout(SIGN_DEADLINE, client.join(request)).await {
            Ok(Ok(reply)) => Ok(Ok(reply.into_inner())),
            Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                Err(Refused(status.message().to_owned()).into())
            }
            Ok(Err(status)) => Ok(Err(status.to_string())),
            Err(_) => Ok(Err("no answer in time".into())),
        }
    }

    /// Renews the certificate whenever it is due, and tells the link.
    ///
    /// # Errors
    /// [`Refused`], or that the certificate ended before anybody renewed it.
    pub async fn keep_renewed(&self, current: watch::Sender<Identity>) -> anyhow::Result<()> {
        loop {
            let due = current.borrow().renew_at;
            sleep_until(due).await;
            let next = self.renew(&current.borrow().clone()).await?;
            tracing::info!("certificate renewed");
            current.send_replace(next);
        }
    }

    async fn renew(&self, current: &Identity) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let latest = current.renew_at + ladder::CERTIFICATE / 3;
        let mut backoff = Backoff::default();
        loop {
            let reason = match self.try_renew(current, &key).await? {
                Ok(certificate) => return self.keep(&key, &certificate),
                Err(reason) => reason,
            };
            let wait = backoff.after(Duration::ZERO, rand::random(), None);
            if Instant::now() + wait > latest {
                bail!("the certificate ended before it could be renewed: {reason}");
            }
            tracing::warn!(
                reason,
                wait_ms = wait.as_millis(),
                "could not renew the certificate yet"
            );
            sleep(wait).await;
        }
    }

    async fn try_renew(
        &self,
        current: &Identity,
        key: &KeyPair,
    ) -> anyhow::Result<Result<Certificate, String>> {
        let channel = match self.dialer.dial(current).await {
            Ok(channel) => channel,
            Err(reason) => return Ok(Err(reason)),
        };
        let request = RenewRequest {
            signing_request: signing_request(key)?.into(),
        };
        let mut client = EnrolmentServiceClient::new(channel);
        match timeout(SIGN_DEADLINE, client.renew(request)).await {
            Ok(Ok(reply)) => Ok(Ok(reply.into_inner())),
            Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                Err(Refused(status.message().to_owned()).into())
            }
            Ok(Err(status)) => Ok(Err(status.to_string())),
            Err(_) => Ok(Err("no answer in time".into())),
        }
    }

    fn keep(&self, key: &KeyPair, reply: &Certificate) -> anyhow::Result<Identity> {
        let identity = Identity {
            key: key.serialize_pem(),
            certificate: pem::encode(&Pem::new("CERTIFICATE", reply.certificate.as_ref())),
            instance: reply.instance_id.clone(),
            renew_at: Instant::now() + Duration::from_millis(reply.valid_for_ms) * 2 / 3,
        };
        write_private(&self.key_file, identity.key.as_bytes())?;
        write_private(&self.certificate_file, identity.certificate.as_bytes())?;
        Ok(identity)
    }
}

fn signing_request(key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let request = CertificateParams::default().serialize_request(key)?;
    Ok(request.der().to_vec())
}

fn write_private(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut it| it.write_all(bytes))
        .with_context(|| format!("could not write {}", file.display()))
}
