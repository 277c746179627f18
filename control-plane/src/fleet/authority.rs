//! The certificate authority of the agents: one self-made root, kept in an
//! owner-only file; a certificate for the control plane's own port, made anew at
//! each start; and 24-hour client certificates with names that we choose.
//!
//! Of a signing request only the public key counts. What it asks to be called,
//! or to be allowed, is not read.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::ladder;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

/// The name that agents expect the control plane's port to have.
pub const SERVER_NAME: &str = "control-plane.browserfleet";
/// How far an agent's clock may be off before it distrusts our certificate.
const CLOCK_SKEW: Duration = Duration::days(2);
/// Life of the root and of the server's certificate, which is made at each start.
const ROOT_LIFE: Duration = Duration::days(3650);
/// Largest signing request, in bytes: a P-384 one has 300.
const SIGNING_REQUEST_BYTES_MAX: usize = 8 * 1024;

/// The certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_file: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("root_file", &self.root_file)
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

impl Authority {
    /// Reads the authority's key from `folder`, or makes it at the first start.
    ///
    /// # Errors
    /// Where the files cannot be read or made, or where others can read the key.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let key_file = folder.join("agent-ca.key.pem");
        let root_file = folder.join("agent-ca.pem");
        if !key_file.exists() {
            create(&key_file, &root_file)?;
        }
        let mode = fs::metadata(&key_file)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!(
                "{} can be read by others (mode {:o}); run: chmod 600 {}",
                key_file.display(),
                mode & 0o777,
                key_file.display()
            );
        }
        let key = KeyPair::from_pem(&fs::read_to_string(&key_file)?)
            .with_context(|| format!("could not read {}", key_file.display()))?;
        let pem = fs::read_to_string(&root_file)
            .with_context(|| format!("could not read {}", root_file.display()))?;
        let root = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes())
            .with_context(|| format!("could not read {}", root_file.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        Ok(Self {
            issuer,
            root,
            root_file,
        })
    }

    /// The root certificate as a PEM file, for agents.
    #[must_use]
    pub fn root_file(&self) -> &Path {
        &self.root_file
    }

    /// Makes the certificate of one instance.
    ///
    /// # Errors
    /// Where the request cannot be read, is not signed by its own key, or has a
    /// kind of key that we do not take.
    pub fn issue(&self, request: &[u8], instance: InstanceId) -> anyhow::Result<Issued> {
        ensure!(
            request.len() <= SIGNING_REQUEST_BYTES_MAX,
            "the signing request is larger than {SIGNING_REQUEST_BYTES_MAX} bytes"
        );
        let request = CertificateSigningRequestParams::from_der(
            &CertificateSigningRequestDer::from(request.to_vec()),
        )
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
        let now =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(crate::clock::wall().0) * 1_000)?;
        params.not_before = now - Duration::hours(1);
        params.not_after = now + ladder::CERTIFICATE;
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.der().clone(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// TLS for the agents' port: our certificate, and a client certificate of
    /// ours where the client has one (it has none yet when it joins).
    ///
    /// # Errors
    /// Where the certificate cannot be made.
    pub fn server_config(&self, address: IpAddr) -> anyhow::Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(address));
        params
            .distinguished_name
            .push(DnType::CommonName, SERVER_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = root_validity()?;
        let certificate = params.signed_by(&key, &self.issuer)?;

        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone())?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone(), self.root.clone()],
                PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?,
            )?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
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

fn root_validity() -> anyhow::Result<(OffsetDateTime, OffsetDateTime)> {
    let now =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(crate::clock::wall().0) * 1_000)?;
    Ok((now - CLOCK_SKEW, now + ROOT_LIFE))
}

fn create(key_file: &Path, root_file: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Browserfleet agents");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = root_validity()?;
    let root = params.self_signed(&key)?;
    fs::write(root_file, root.pem())
        .with_context(|| format!("could not write {}", root_file.display()))?;
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
        .and_then(|()| fs::rename(&unfinished, key_file))
        .with_context(|| format!("could not write {}", key_file.display()))
}
