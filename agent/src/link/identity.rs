//! Who this agent is: a key that never leaves the machine, and a certificate whose
//! name the control plane chose. Pure: the clocks come in.

use std::time::Duration;

use anyhow::{Context, ensure};
use pem::Pem;
use rcgen::{KeyPair, PublicKeyData};
use tokio::time::Instant;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// How much has to be left of a certificate that a new process begins with: clocks
/// of machines that keep time differ by less, and a few tries to renew fit.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// What PEM calls them.
const KEY: &str = "PRIVATE KEY";
const CERTIFICATE: &str = "CERTIFICATE";

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
    /// When it ends, by the monotonic clock.
    pub ends_at: Instant,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// An identity that an earlier process left.
#[derive(Debug)]
pub enum Earlier {
    /// It can be used.
    Usable(Identity),
    /// Its certificate has ended, or is about to.
    Over {
        /// The instance that it named.
        instance: String,
    },
}

impl Identity {
    /// An identity that was just given; its times count from now.
    #[must_use]
    pub fn fresh(key: &KeyPair, certificate: &[u8], instance: &str, valid_for: Duration) -> Self {
        let now = Instant::now();
        Self {
            key: key.serialize_pem(),
            certificate: pem::encode(&Pem::new(CERTIFICATE, certificate)),
            instance: instance.to_owned(),
            renew_at: now + valid_for * 2 / 3,
            ends_at: now + valid_for,
        }
    }

    /// As it is kept: the key, then the certificate.
    #[must_use]
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.key, self.certificate)
    }

    /// Reads what [`Identity::to_pem`] wrote, at this time of day.
    ///
    /// # Errors
    /// Where it is damaged.
    pub fn from_pem(text: &str, wall: Duration) -> anyhow::Result<Earlier> {
        let parts = pem::parse_many(text)?;
        let [key, certificate] = parts.as_slice() else {
            anyhow::bail!("it does not hold a key and a certificate");
        };
        ensure!(key.tag() == KEY && certificate.tag() == CERTIFICATE);
        let key = KeyPair::from_pem(&pem::encode(key)).context("the key cannot be read")?;
        let (_, parsed) = X509Certificate::from_der(certificate.contents())
            .context("the certificate cannot be read")?;
        ensure!(
            parsed.public_key().raw == key.subject_public_key_info(),
            "the certificate is of another key"
        );
        let name = parsed.subject().iter_common_name().next();
        let instance = name.context("the certificate has no name")?.as_str()?;
        let validity = Validity {
            begins: since_1970(parsed.validity().not_before.timestamp()),
            ends: since_1970(parsed.validity().not_after.timestamp()),
        };
        let instance = instance.to_owned();
        let Some(left) = validity.left(wall) else {
            return Ok(Earlier::Over { instance });
        };
        let now = Instant::now();
        Ok(Earlier::Usable(Self {
            key: key.serialize_pem(),
            certificate: pem::encode(certificate),
            instance,
            renew_at: now + left.until_renewal,
            ends_at: now + left.until_end,
        }))
    }
}

fn since_1970(seconds: i64) -> Duration {
    Duration::from_secs(seconds.try_into().unwrap_or(0))
}

/// From when to when a certificate counts, since 1970.
#[derive(Debug, Clone, Copy)]
struct Validity {
    begins: Duration,
    ends: Duration,
}

/// What is left of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    until_renewal: Duration,
    until_end: Duration,
}

impl Validity {
    /// `None`: nothing, or too little to begin with. A clock that is behind the
    /// certificate's beginning is wrong, and nobody knows by how much: the
    /// certificate is renewed at once, by whose clock counts, the control plane's.
    fn left(self, wall: Duration) -> Option<Left> {
        let life = self.ends.saturating_sub(self.begins);
        let until_end = self.ends.saturating_sub(wall).min(life);
        let until_renewal = if wall < self.begins {
            Duration::ZERO
        } else {
            (self.begins + life * 2 / 3).saturating_sub(wall)
        };
        (until_end > MARGIN).then_some(Left {
            until_renewal,
            until_end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use browserfleet_proto::ladder;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType};

    const HOUR: Duration = Duration::from_secs(3600);
    /// Some day.
    const BEGINS: Duration = Duration::from_secs(1_800_000_000);

    fn identity(begins: Duration, life: Duration) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "ins_0123");
        params.not_before = std::time::SystemTime::UNIX_EPOCH
            .checked_add(begins)
            .unwrap()
            .into();
        params.not_after = params.not_before + life;
        let certificate = params.self_signed(&key).unwrap();
        Identity::fresh(&key, certificate.der(), "ins_0123", life).to_pem()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_is_found_with_the_times_of_its_certificate() {
        let text = identity(BEGINS, ladder::CERTIFICATE);
        let Ok(Earlier::Usable(found)) = Identity::from_pem(&text, BEGINS + HOUR) else {
            panic!("it can be used");
        };
        assert_eq!(found.instance, "ins_0123");
        assert_eq!(found.to_pem(), text);
        let now = Instant::now();
        assert_eq!(found.renew_at - now, HOUR * 15);
        assert_eq!(found.ends_at - now, HOUR * 23);
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_has_ended_or_is_about_to_names_its_instance_only() {
        let text = identity(BEGINS, HOUR);
        for wall in [BEGINS + HOUR * 2, BEGINS + HOUR - MARGIN] {
            let found = Identity::from_pem(&text, wall);
            assert!(matches!(found, Ok(Earlier::Over { instance }) if instance == "ins_0123"));
        }
    }

    #[test]
    fn a_key_of_another_certificate_and_half_a_file_are_refused() {
        let (one, other) = (identity(BEGINS, HOUR), identity(BEGINS, HOUR));
        let certificate_at = one.find("-----BEGIN CERTIFICATE").unwrap();
        let mixed = format!(
            "{}{}",
            &one[..certificate_at],
            &other[other.find("-----BEGIN CERTIFICATE").unwrap()..]
        );
        for text in [&mixed, &one[..certificate_at], &one[..one.len() / 3], ""] {
            assert!(Identity::from_pem(text, BEGINS).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_certificate_is_renewed_before_it_ends_and_what_is_over_stays_over(
            life in 1..200_000u64, early in 0..400_000u64, later in 0..400_000u64,
        ) {
            let validity = Validity { begins: BEGINS, ends: BEGINS + Duration::from_secs(life) };
            // From well before its beginning to well after its end.
            let wall = (BEGINS - HOUR * 24) + Duration::from_secs(early);
            let first = validity.left(wall);
            let second = validity.left(wall + Duration::from_secs(later));
            if let Some(left) = first {
                prop_assert!(left.until_renewal < left.until_end);
                prop_assert!(left.until_end <= Duration::from_secs(life));
                prop_assert!(left.until_end > MARGIN);
            }
            match (first, second) {
                (None, Some(_)) => prop_assert!(false, "it came back"),
                (Some(first), Some(second)) => prop_assert!(second.until_end <= first.until_end),
                _ => {}
            }
        }
    }
}
