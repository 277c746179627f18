//! Certificates of ours that end soon: somebody is told, and nothing else changes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use browserfleet_tests::world::Plan;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn lasting(mut params: CertificateParams, days: u32) -> CertificateParams {
    params.not_after = (std::time::SystemTime::now() + DAY * days).into();
    params
}

fn write(folder: &Path, name: &str, pem: &str, key: &KeyPair) {
    let key_file = folder.join(format!("{name}.key.pem"));
    std::fs::write(folder.join(format!("{name}.pem")), pem).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key_file, PermissionsExt::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn a_certificate_that_ends_in_twenty_days_is_told_and_all_is_well() {
    let folder = TempDir::new().unwrap();
    let mut params = lasting(CertificateParams::default(), 20);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write(folder.path(), "agent-ca", &authority.pem(), authority.key());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = lasting(params, 25).signed_by(&key, &authority).unwrap();
    write(folder.path(), "api", &certificate.pem(), &key);
    let file = |name: &str| folder.path().join(name).display().to_string();

    let world = Plan::default()
        .with("AGENT_AUTHORITIES", folder.path().display())
        .with("TLS_CERT", file("api.pem"))
        .with("TLS_KEY", file("api.key.pem"))
        .with("METRICS_LISTEN", "127.0.0.1:0")
        .with("POOL_WARM", 0)
        .start()
        .await
        .unwrap();
    let metrics = world.metrics().await;
    for (certificate, days) in [("agent_authority_1", 20.0), ("api", 25.0)] {
        let series =
            format!("browserfleet_certificate_remaining_days{{certificate=\"{certificate}\"}}");
        let left = metrics.value(&series).unwrap();
        assert!((days - 0.1..=days).contains(&left), "{series} {left}");
        let told = world.log();
        let warning = told
            .lines()
            .find(|it| it.contains(" WARN a certificate ends soon") && it.contains(certificate));
        assert!(warning.is_some(), "{certificate}: {told}");
    }
    let trusting = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([trusting])
        .build()
        .unwrap();
    for health in ["/healthz", "/readyz"] {
        let reply = client.get(format!("{}{health}", world.api)).send().await;
        assert_eq!(reply.unwrap().status(), 200, "{health}");
    }
    world.stop().await;
}
