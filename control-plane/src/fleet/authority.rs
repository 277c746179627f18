//! One certificate authority of the agents: a certificate and its key, in a folder.
//! Agents' certificates live a day and have the name that we choose.
//!
//! Of a signing request only the public key counts. What it asks to be called,
//! or to be allowed, is not read.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use browserfleet_proto::ids::InstanceId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::clock;
use crate::domain::time::Timestamp;

/// The name that agents expect the control plane's port to have.
pub const SERVER_NAME: &str = "control-plane.browserfleet";
/// In an authority's folder.
const CERTIFICATE_FILE: &str = "agent-ca.pem";
const KEY_FILE: &str = "agent-ca.key.pem";
/// How far an agent's clock may be off before it distrusts our certificate.
const CLOCK_SKEW: Duration = Duration::days(2);
/// How far an agent's certificate reaches back, for clocks that are behind ours.
const BACKDATED: Duration = Duration::hours(1);
/// Life of an authority and of the server's certificate, which is made at each start.
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Largest signing request, in bytes: a P-384 one has 300.
pub const SIGNING_REQUEST_BYTES_MAX: usize = 8 * 1024;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    ends_at: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("ends_at", &self.ends_at)
            .finish_non_exhaustive()
    }
}

/// A client certificate, fresh.
#[derive(Debug)]
pub struct Issued {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// Hexadecimal.
    pub serial: String,
}

/// A certificate of ours, with its key.
pub struct Own {
    /// DER, the server's first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the first.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Reads the authority of `folder`.
    ///
    /// # Errors
    /// Where there is none, where others can read its key, or where its two files do
    /// not go together.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let key_file = folder.join(KEY_FILE);
        let certificate_file = folder.join(CERTIFICATE_FILE);
        let mode = fs::metadata(&key_file)
            .with_context(|| {
                format!(
                    "there is no authority in {}; make one: browserfleet authority {}",
                    folder.display(),
                    folder.display()
                )
            })?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            bail!(
                "{} can be read by others (mode {:o}); run: chmod 600 {}",
                key_file.display(),
                mode & 0o777,
                key_file.display()
            );
        }
        let unreadable = |file: &Path| format!("could not read {}", file.display());
        let key = KeyPair::from_pem(
            &fs::read_to_string(&key_file).with_context(|| unreadable(&key_file))?,
        )
        .with_context(|| unreadable(&key_file))?;
        let certificate = CertificateDer::from_pem_file(&certificate_file)
            .with_context(|| unreadable(&certificate_file))?;
        let ends_at = certifies(&certificate, &key)
            .with_context(|| format!("{} is of no use", certificate_file.display()))?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            ends_at,
        })
    }

    /// Reads the authority of `folder`; makes it where there is none.
    ///
    /// # Errors
    /// As [`Authority::open`] and [`Authority::create`].
    pub fn open_or_create(folder: &Path) -> anyhow::Result<Self> {
        if !folder.join(KEY_FILE).exists() {
            Self::create(folder)?;
        }
        Self::open(folder)
    }

    /// Makes an authority in `folder`, which is made too.
    ///
    /// # Errors
    /// Where there is one already, or the files cannot be written.
    pub fn create(folder: &Path) -> anyhow::Result<()> {
        let key_file = folder.join(KEY_FILE);
        let certificate_file = folder.join(CERTIFICATE_FILE);
        ensure!(
            !key_file.exists(),
            "there is an authority in {}; agents may trust it: choose another folder",
            folder.display()
        );
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("could not make the folder {}", folder.display()))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Browserfleet agents");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = today()?;
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + AUTHORITY_LIFE;
        let certificate = params.self_signed(&key)?;
        fs::write(&certificate_file, certificate.pem())
            .with_context(|| format!("could not write {}", certificate_file.display()))?;
        // The key last: with it the authority is complete.
        let unfinished = key_file.with_extension("new");
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| {
                file.write_all(key.serialize_pem().as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&unfinished, &key_file))
            .with_context(|| format!("could not write {}", key_file.display()))
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// When it ends.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        self.ends_at
    }

    /// Makes the certificate of one instance.
    ///
    /// # Errors
    /// Where the request cannot be read, is not signed by its own key, or has a
    /// kind of key that we do not take.
    pub fn issue(
        &self,
        request: &[u8],
        instance: InstanceId,
        life: std::time::Duration,
    ) -> anyhow::Result<Issued> {
        let request = read(request)?;
        let mut serial = rand::random::<[u8; 16]>();
        // A serial number is positive: its first bit is 0.
        serial[0] &= 0x7f;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, instance.to_string());
        params.serial_number = Some(SerialNumber::from(serial.to_vec()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let now = today()?;
        params.not_before = now - BACKDATED;
        params.not_after = now + life;
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.der().clone(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Makes our own certificate for the agents' port.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn own(&self, address: IpAddr) -> anyhow::Result<Own> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(address));
        params
            .distinguished_name
            .push(DnType::CommonName, SERVER_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = today()?;
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + AUTHORITY_LIFE;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Own {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?,
        })
    }
}

/// The instance that a verified client certificate names.
///
/// # Errors
/// Where the certificate is not one of an instance.
pub fn instance_of(certificate: &CertificateDer<'_>) -> anyhow::Result<InstanceId> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)?;
    let name = certificate
        .subject()
        .iter_common_name()
        .next()
        .context("the certificate has no common name")?
        .as_str()?;
    Ok(name.parse()?)
}

/// When a certificate ends, which has to be an authority's and this key's.
fn certifies(certificate: &CertificateDer<'_>, key: &KeyPair) -> anyhow::Result<Timestamp> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)?;
    ensure!(parsed.is_ca(), "it is not the certificate of an authority");
    ensure!(
        parsed.public_key().raw == key.subject_public_key_info(),
        "it does not belong to the key beside it"
    );
    end_of(certificate)
}

/// When a certificate ends.
///
/// # Errors
/// Where it cannot be read.
pub fn end_of(certificate: &CertificateDer<'_>) -> anyhow::Result<Timestamp> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)?;
    let seconds = parsed.validity().not_after.timestamp();
    Ok(Timestamp(seconds.saturating_mul(1_000_000)))
}

fn today() -> anyhow::Result<OffsetDateTime> {
    let now = i128::from(clock::wall().0);
    Ok(OffsetDateTime::from_unix_timestamp_nanos(now * 1_000)?)
}

/// The public key of a signing request that can be signed, as a certificate has it.
///
/// # Errors
/// Where it cannot be.
pub fn key_of(request: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(read(request)?.public_key.subject_public_key_info())
}

/// Reads a signing request, and looks whether its key is good and the asker's.
fn read(request: &[u8]) -> anyhow::Result<CertificateSigningRequestParams> {
    ensure!(
        request.len() <= SIGNING_REQUEST_BYTES_MAX,
        "the signing request is larger than {SIGNING_REQUEST_BYTES_MAX} bytes"
    );
    let request = CertificateSigningRequestDer::from(request.to_vec());
    let request = CertificateSigningRequestParams::from_der(&request)
        .context("could not read the signing request")?;
    let algorithm = request.public_key.algorithm();
    ensure!(
        [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519
        ]
        .contains(&algorithm),
        "the key has to be P-256, P-384 or Ed25519"
    );
    Ok(request)
}
