//! How agents get and keep their identity.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::ladder;
use governor::Quota;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::{Fleet, authority};
use crate::clock;
use crate::domain::audit::{Action, Event};
use crate::domain::instance::Status;
use crate::error::Error;
use crate::telemetry::metrics;

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
/// Lines in the audit about agents that were refused: ten at once, as a fleet with a
/// wrong setting has them, and then one a minute, whatever strangers try. All are
/// counted.
pub(super) const REFUSALS_TOLD: Quota =
    Quota::per_minute(NonZeroU32::MIN).allow_burst(REFUSALS_TOLD_AT_ONCE);
const REFUSALS_TOLD_AT_ONCE: NonZeroU32 = NonZeroU32::new(10).expect("more than none");

/// Who wants to be an agent.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// The one-time token.
    pub token: &'a str,
    /// What its machine is called, where machines have names of their own.
    pub machine: &'a str,
    /// PKCS #10, DER.
    pub signing_request: &'a [u8],
    /// From where.
    pub address: Option<IpAddr>,
}

/// What an agent was refused for.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    /// It is unknown, used up, too old, or its instance does not wait for an agent.
    Token,
    /// Another key has used it.
    Key,
    /// It was made for another machine.
    Machine,
    /// It cannot be signed.
    SigningRequest,
    /// It is not to run any more.
    Instance,
}

impl Refusal {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Key => "another_key",
            Self::Machine => "machine",
            Self::SigningRequest => "signing_request",
            Self::Instance => "instance",
        }
    }
}

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
    /// request turns out to be unusable: whoever holds it had their chance. Whoever did
    /// not hear the answer asks again with the same key, and gets another certificate
    /// as long as the token lives and the agent has not said a word.
    ///
    /// # Errors
    /// The same for every reason.
    pub async fn join(&self, applicant: Applicant<'_>) -> Result<Enrolled, Error> {
        let (token, now) = (hash_of(applicant.token), clock::now());
        let key = authority::key_of(applicant.signing_request).ok();
        let key = key.map(|it| hex(&Sha256::digest(it)));
        let known = self.store.use_join_token(&token, key.as_deref(), now);
        let Some(instance) = known.await? else {
            let used = self.store.joined_with(&token, now).await?;
            let refusal = used.map_or(Refusal::Token, |_| Refusal::Key);
            return Err(self.refuse(refusal, used, applicant.address).await?);
        };
        let row = self.store.instance(instance).await?;
        let reference = row.and_then(|it| it.reference);
        // Where machines have names of their own, a token that was carried to another
        // one is of no use there.
        if self.provider.outlives_us() && reference.as_deref() != Some(applicant.machine) {
            tracing::warn!(instance.id = %instance, machine = applicant.machine, reference, "a token was used on another machine");
            self.store.spoil_join_token(&token).await?;
            let refusal = self.refuse(Refusal::Machine, Some(instance), applicant.address);
            return Err(refusal.await?);
        }
        let enrolled = self
            .issue(instance, applicant.signing_request, applicant.address)
            .await?;
        tracing::info!(instance.id = %instance, "an agent joined");
        Ok(enrolled)
    }

    /// Gives an agent its next certificate.
    ///
    /// # Errors
    /// Where the instance is not to run any more, or the request is unusable.
    pub async fn renew(
        &self,
        instance: InstanceId,
        request: &[u8],
        address: Option<IpAddr>,
    ) -> Result<Enrolled, Error> {
        if !self.may_connect(instance).await? {
            let refusal = self.refuse(Refusal::Instance, Some(instance), address);
            return Err(refusal.await?);
        }
        self.issue(instance, request, address).await
    }

    async fn issue(
        &self,
        instance: InstanceId,
        request: &[u8],
        address: Option<IpAddr>,
    ) -> Result<Enrolled, Error> {
        let issued = match self.authorities.issue(request, instance) {
            Ok(issued) => issued,
            Err(cause) => {
                tracing::warn!(instance.id = %instance, %cause, "refused a signing request");
                let refusal = self.refuse(Refusal::SigningRequest, Some(instance), address);
                return Err(refusal.await?);
            }
        };
        self.store
            .enrolled(instance, &issued.serial, clock::now())
            .await?;
        self.wake();
        Ok(Enrolled {
            instance,
            certificate: issued.certificate,
            valid_for: self.authorities.certificate_life(),
            authorities: self.authorities.certificates(),
        })
    }

    /// Counts a refusal, has a line in the audit about it, and gives what is said to
    /// whoever asked: the same for every reason.
    async fn refuse(
        &self,
        refusal: Refusal,
        instance: Option<InstanceId>,
        address: Option<IpAddr>,
    ) -> Result<Error, Error> {
        metrics::join_refused(refusal.as_str());
        if self.refusals_told.check().is_ok() {
            let mut event = Event::new(clock::now(), Action::AgentRefused);
            event.address = address.map(|it| it.to_canonical().to_string());
            let detail = match instance {
                Some(instance) => format!("{}: {instance}", refusal.as_str()),
                None => refusal.as_str().to_owned(),
            };
            self.store.audit(&event.refused(detail)).await?;
        }
        Ok(REFUSED)
    }

    /// Whether an instance's agent may hold a link.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn may_connect(&self, instance: InstanceId) -> Result<bool, Error> {
        let row = self.store.instance(instance).await?;
        // One that ends has said what it had to say, or is heard no more.
        Ok(row.is_some_and(|it| matches!(it.status, Status::Provisioning | Status::Running)))
    }
}

fn hash_of(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
