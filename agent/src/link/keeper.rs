//! Gets the identity and keeps it: joins with a one-time token, goes on with what an
//! earlier process left, and renews before the certificate ends.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use browserfleet_proto::agent::v1::enrolment_service_client::EnrolmentServiceClient;
use browserfleet_proto::agent::v1::{Certificate, JoinRequest, RenewRequest};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::authorities::Authorities;
use super::backoff::Backoff;
use super::connect::Dialer;
use super::identity::{Earlier, Identity};
use super::stored::Stored;

/// How long the control plane may take to answer a signing request.
const SIGN_DEADLINE: Duration = Duration::from_secs(15);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane will not have this agent.
    #[error("{0}")]
    Refused(String),
    /// Nobody gave one while there was time.
    #[error("{0}")]
    Late(String),
    /// Something failed here.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// What an agent joins with.
pub struct Joining {
    /// Good once.
    pub token: String,
    /// What the metadata service calls this machine; empty where there is none.
    pub machine: String,
}

/// Keeps the identity.
#[derive(Debug)]
pub struct Keeper {
    dialer: Dialer,
    stored: Stored,
}

impl Keeper {
    /// Asks over this dialer, and keeps what it is given there.
    #[must_use]
    pub fn new(dialer: Dialer, stored: Stored) -> Self {
        Self { dialer, stored }
    }

    /// The identity of an earlier process, if it is still good. One that is over is
    /// forgotten.
    ///
    /// # Errors
    /// Where the files cannot be read.
    pub fn earlier(&self) -> anyhow::Result<Option<Identity>> {
        match self.stored.identity()? {
            Some(Earlier::Usable(identity)) => Ok(Some(identity)),
            Some(Earlier::Over { instance }) => {
                tracing::warn!(instance.id = instance, "the certificate has ended");
                self.stored.forget()?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Joins with the one-time token, at the latest until then. A control plane that
    /// is not there yet is waited for; a refusal is final.
    ///
    /// # Errors
    /// Where it is refused, or nobody answers in time.
    pub async fn join(&self, joining: &Joining, latest: Instant) -> Result<Identity, Error> {
        let key = new_key()?;
        let mut backoff = Backoff::default();
        loop {
            let reason = match self.try_join(joining, &key).await? {
                Ok(certificate) => return self.keep(&key, &certificate),
                Err(reason) => reason,
            };
            let wait = backoff.after(Duration::ZERO, rand::random(), None);
            if Instant::now() + wait > latest {
                return Err(Error::Late(format!("could not join in time: {reason}")));
            }
            tracing::warn!(reason, wait_ms = wait.as_millis(), "could not join yet");
            sleep(wait).await;
        }
    }

    async fn try_join(&self, joining: &Joining, key: &KeyPair) -> Result<Tried, Error> {
        let request = JoinRequest {
            token: joining.token.clone(),
            signing_request: signing_request(key)?.into(),
            machine: joining.machine.clone(),
        };
        let join = async |channel| EnrolmentServiceClient::new(channel).join(request).await;
        ask(self.dialer.dial_to_join().await, join).await
    }

    /// Renews the certificate whenever it is due, and tells the link.
    ///
    /// # Errors
    /// Where it is refused, or the certificate ends before anybody renews it.
    pub async fn keep_renewed(
        &self,
        current: watch::Sender<Identity>,
    ) -> Result<Infallible, Error> {
        loop {
            let due = current.borrow().renew_at;
            sleep_until(due).await;
            let next = self.renew(&current.borrow().clone()).await?;
            tracing::info!("certificate renewed");
            current.send_replace(next);
        }
    }

    async fn renew(&self, current: &Identity) -> Result<Identity, Error> {
        let key = new_key()?;
        let mut backoff = Backoff::default();
        loop {
            let reason = match self.try_renew(current, &key).await? {
                Ok(certificate) => return self.keep(&key, &certificate),
                Err(reason) => reason,
            };
            let wait = backoff.after(Duration::ZERO, rand::random(), None);
            if Instant::now() + wait > current.ends_at {
                return Err(Error::Late(format!(
                    "the certificate ended before it could be renewed: {reason}"
                )));
            }
            tracing::warn!(
                reason,
                wait_ms = wait.as_millis(),
                "could not renew the certificate yet"
            );
            sleep(wait).await;
        }
    }

    async fn try_renew(&self, current: &Identity, key: &KeyPair) -> Result<Tried, Error> {
        let request = RenewRequest {
            signing_request: signing_request(key)?.into(),
        };
        let renew = async |channel| EnrolmentServiceClient::new(channel).renew(request).await;
        ask(self.dialer.dial(current).await, renew).await
    }

    fn keep(&self, key: &KeyPair, reply: &Certificate) -> Result<Identity, Error> {
        if !reply.authorities.is_empty() {
            self.trust(reply);
        }
        let valid_for = Duration::from_millis(reply.valid_for_ms);
        let identity = Identity::fresh(key, &reply.certificate, &reply.instance_id, valid_for);
        self.stored.keep(&identity)?;
        Ok(identity)
    }

    /// Takes the authorities that came with a certificate. Where that fails the
    /// former stay: the certificate is good in any case.
    fn trust(&self, reply: &Certificate) {
        let told = Authorities::from_der(&reply.authorities)
            .and_then(|told| self.stored.keep_authorities(&told).map(|()| told));
        match told {
            Ok(told) => self.dialer.trust(&told),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "could not take the control plane's authorities; the former are trusted on"
            ),
        }
    }
}

/// A certificate, or why there is none this time.
type Tried = Result<Certificate, String>;

/// Asks for a certificate once, over a connection if there is one.
async fn ask(
    dialed: Result<Channel, String>,
    question: impl AsyncFnOnce(Channel) -> Result<Response<Certificate>, Status>,
) -> Result<Tried, Error> {
    let channel = match dialed {
        Ok(channel) => channel,
        Err(reason) => return Ok(Err(reason)),
    };
    match timeout(SIGN_DEADLINE, question(channel)).await {
        Ok(Ok(reply)) => Ok(Ok(reply.into_inner())),
        Ok(Err(status)) if status.code() == Code::PermissionDenied => {
            Err(Error::Refused(status.message().to_owned()))
        }
        Ok(Err(status)) => Ok(Err(status.to_string())),
        Err(_) => Ok(Err("no answer in time".into())),
    }
}

fn new_key() -> anyhow::Result<KeyPair> {
    KeyPair::generate().context("could not make a key")
}

fn signing_request(key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let request = CertificateParams::default().serialize_request(key)?;
    Ok(request.der().to_vec())
}
