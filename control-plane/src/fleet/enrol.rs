//! How agents get and keep their identity.

use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::ladder;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::Fleet;
use crate::clock;
use crate::domain::instance::Status;
use crate::error::Error;

/// An agent's certificate.
#[derive(Debug)]
pub struct Enrolled {
    /// Which instance it is.
    pub instance: InstanceId,
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// From now.
    pub valid_for: Duration,
    /// What it trusts from now on, DER.
    pub authorities: Vec<CertificateDer<'static>>,
}

const REFUSED: Error = Error::Forbidden("the token is not valid");

impl Fleet {
    /// Makes the token with which one instance's agent joins, once.
    pub(super) async fn join_token(&self, instance: InstanceId) -> Result<String, Error> {
        let token = format!(
            "{:032x}{:032x}",
            rand::random::<u128>(),
            rand::random::<u128>()
        );
        let expires_at = clock::now().plus(ladder::JOIN_TOKEN);
        self.store
            .create_join_token(instance, &hash_of(&token), expires_at)
            .await?;
        Ok(token)
    }

    /// Gives an agent its first certificate. The token is used up even where the
    /// request turns out to be unusable: whoever holds it had their chance.
    ///
    /// # Errors
    /// The same for every reason.
    pub async fn join(&self, token: &str, request: &[u8]) -> Result<Enrolled, Error> {
        let instance = self
            .store
            .use_join_token(&hash_of(token), clock::now())
            .await?
            .ok_or(REFUSED)?;
        let enrolled = self.issue(instance, request).await?;
        tracing::info!(instance.id = %instance, "an agent joined");
        Ok(enrolled)
    }

    /// Gives an agent its next certificate.
    ///
    /// # Errors
    /// Where the instance is not to run any more, or the request is unusable.
    pub async fn renew(&self, instance: InstanceId, request: &[u8]) -> Result<Enrolled, Error> {
        if !self.may_connect(instance).await? {
            return Err(REFUSED);
        }
        self.issue(instance, request).await
    }

    async fn issue(&self, instance: InstanceId, request: &[u8]) -> Result<Enrolled, Error> {
        let issued = self.authorities.issue(request, instance).map_err(|cause| {
            tracing::warn!(instance.id = %instance, %cause, "refused a signing request");
            REFUSED
        })?;
        self.store.enrolled(instance, &issued.serial).await?;
        Ok(Enrolled {
            instance,
            certificate: issued.certificate,
            valid_for: self.authorities.certificate_life(),
            authorities: self.authorities.certificates(),
        })
    }

    /// Whether an instance's agent may hold a link.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn may_connect(&self, instance: InstanceId) -> Result<bool, Error> {
        let row = self.store.instance(instance).await?;
        Ok(row.is_some_and(|it| {
            matches!(
                it.status,
                Status::Provisioning | Status::Running | Status::Stopping
            )
        }))
    }

    /// Notes that an instance's agent is there.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn arrived(&self, instance: InstanceId) -> Result<(), Error> {
        let running = self
            .store
            .move_instance(instance, Status::Running, None, clock::now())
            .await?;
        if running {
            tracing::info!(instance.id = %instance, "instance running");
        }
        self.wake();
        Ok(())
    }
}

fn hash_of(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
