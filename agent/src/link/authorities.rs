//! Whom the agent takes for the control plane: the authorities that its certificate
//! may come from. The control plane replaces them when it changes its own.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use pem::Pem;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// How many the control plane may name: a change has two or three.
const AUTHORITIES_MAX: usize = 16;

/// The trusted ones, as PEM. Cheap to clone; all clones change together.
#[derive(Debug, Clone)]
pub struct Authorities(Arc<Mutex<String>>);

impl Authorities {
    /// Those of all these PEM texts.
    ///
    /// # Errors
    /// Where there is none, or one that cannot be read.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for text in texts {
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                all.push(certificate?.to_vec());
            }
        }
        let trusted = checked(&all)?;
        Ok(Self(Arc::new(Mutex::new(trusted))))
    }

    /// Those that came with a certificate, DER.
    ///
    /// # Errors
    /// Where there is none, too many, or one that cannot be an authority: whoever
    /// trusts nothing but garbage never finds the control plane again.
    pub fn from_der<T: AsRef<[u8]>>(certificates: &[T]) -> anyhow::Result<Self> {
        ensure!(
            certificates.len() <= AUTHORITIES_MAX,
            "there are more than {AUTHORITIES_MAX} certificates"
        );
        let trusted = checked(certificates)?;
        Ok(Self(Arc::new(Mutex::new(trusted))))
    }

    /// As a dialer needs them.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Trusts these alone from now on.
    pub fn replace(&self, others: &Self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = others.pem();
    }
}

fn checked<T: AsRef<[u8]>>(certificates: &[T]) -> anyhow::Result<String> {
    ensure!(!certificates.is_empty(), "there is no certificate");
    let mut roots = RootCertStore::empty();
    let mut text = String::new();
    for certificate in certificates {
        let certificate = certificate.as_ref();
        roots.add(CertificateDer::from(certificate))?;
        text.push_str(&pem::encode(&Pem::new("CERTIFICATE", certificate)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::default();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn new_ones_replace_the_former_for_all_who_dial() {
        let former = Authorities::from_der(&[certificate()]).unwrap();
        let dialer = former.clone();
        let next = Authorities::from_der(&[certificate(), certificate()]).unwrap();
        former.replace(&next);
        assert_eq!(dialer.pem(), next.pem());
        let both = Authorities::read([next.pem().as_str(), former.pem().as_str()]).unwrap();
        assert_eq!(both.pem(), next.pem().repeat(2));
    }

    #[test]
    fn none_garbage_and_too_many_are_refused() {
        assert!(Authorities::from_der::<Vec<u8>>(&[]).is_err());
        assert!(Authorities::from_der(&[certificate(), b"garbage".to_vec()]).is_err());
        assert!(Authorities::from_der(&vec![certificate(); AUTHORITIES_MAX + 1]).is_err());
        assert!(Authorities::read(["", "no certificate"]).is_err());
    }
}
