//! Who becomes an agent, and who does not.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use browserfleet_proto::agent::v1::Certificate;
use browserfleet_tests::eventually;
use browserfleet_tests::postgres::Postgres;
use browserfleet_tests::scripted_agent::{Invitation, Machines, ScriptedAgent, new_key};
use browserfleet_tests::world::{Plan, World};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::{Code, Status};
use x509_parser::extensions::GeneralName;

/// How long a connection may take to be refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take until a round comes, whatever happens: its period, and a little.
const AT_THE_LATEST: Duration = Duration::from_secs(35);
/// A request for a key of RSA with 1024 bits, which no library of ours makes.
const RSA_1024: &str = "MIIBSzCBtQIBADAMMQowCAYDVQQDDAF4MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDI\
    9N2EX6wzq9jE09Z9Uob18FzmrTylrVeXo/3Y6niIZSJ5erXmPI16E9YDsut0HM56Tux5AYYPvpAqKcqmtYegl+n64g1H\
    gazYb0xvPKNxFFXR/eLm7CD2TQr7oc/HoL8AzpzutyT4cuxzGSf0jO+7eifTicIOELomUO/VdbwztQIDAQABoAAwDQYJ\
    KoZIhvcNAQELBQADgYEAjFLPvizyN5DRtq1wg1LCl073klkVB8+Z/amDFjUplJadYkXg1QnRX1bn+OCUmSWJpPKWN10T\
    dGxujvi1qgd22ICNmYJrlMtT13v1x+wMx2/+Os+LlXZ+AQqgdSpH5JnmP8js0RZ+5a4tndjcNDJEu0CcqYI6zDPZrPYo\
    s4aBTF8=";

struct Door {
    world: World,
    kit: Machines,
    postgres: Postgres,
}

impl Door {
    /// A control plane whose rows the test may change.
    async fn open(machines: u32) -> Self {
        let (postgres, kit) = (Postgres::start().unwrap(), Machines::new().unwrap());
        let world = Plan::default()
            .with("DATABASE_URL", postgres.database("fleet").unwrap())
            .with("LOCAL_AGENT", kit.program().display())
            .with("METRICS_LISTEN", "127.0.0.1:0")
            .with("POOL_WARM", machines)
            .with("POOL_MAX", machines)
            .start()
            .await
            .unwrap();
        Self {
            world,
            kit,
            postgres,
        }
    }

    fn change(&self, statement: &str) {
        self.postgres.query("fleet", statement).unwrap();
    }

    /// One more token of the invited machine: each is good once.
    fn another_token(&self, invited: &Invitation) -> String {
        let token = format!("{:032x}", rand::random::<u128>());
        self.change(&format!(
            "insert into join_tokens (hash, instance_id, expires_at) \
             select {}, instance_id, expires_at from join_tokens where hash = {}",
            hashed(&token),
            hashed(&invited.token)
        ));
        token
    }

    async fn refusals(&self, reason: &str) -> f64 {
        let series = format!("browserfleet_agent_joins_refused_total{{reason=\"{reason}\"}}");
        self.world
            .metrics()
            .await
            .value(&series)
            .unwrap_or_default()
    }
}

fn hashed(token: &str) -> String {
    format!("encode(sha256('{token}'::bytea), 'hex')")
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_and_nobody_learns_why() {
    let mut door = Door::open(3).await;
    let mut invited = Vec::new();
    for _ in 0..3 {
        invited.push(door.kit.invitation().await.unwrap());
    }
    let (_, request) = new_key().unwrap();
    let [used, expired, revoked] = &invited[..] else {
        panic!("three machines")
    };
    used.join(&used.token, &request).await.unwrap();
    door.change(&format!(
        "update join_tokens set expires_at = 1 where hash = {}",
        hashed(&expired.token)
    ));
    door.change(&format!(
        "update instances set status = 'stopping' where id = \
         (select instance_id from join_tokens where hash = {})",
        hashed(&revoked.token)
    ));
    let unknown = "f".repeat(64);
    let huge = "f".repeat(100 * 1024);
    let tokens = [&used.token, &expired.token, &revoked.token, &unknown, ""];
    let mut told = Vec::new();
    let (_, another) = new_key().unwrap();
    for token in tokens {
        let refused = used.join(token, &another).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        told.push(refused.message().to_owned());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    let refused = used.join(&huge, &request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    let count = tokens.len();
    assert_eq!(door.refusals("token").await, (count - 1) as f64);
    assert_eq!(door.refusals("another_key").await, 1.0);
    let administrator = door.world.administrator().await;
    let lines = administrator
        .get("/api/admin/audit?action=agent.refused&result=refused")
        .await
        .ok();
    let lines = lines["data"].as_array().unwrap();
    assert_eq!(lines.len(), count);
    for line in lines {
        assert_eq!(line["address"], "127.0.0.1", "{line}");
    }
    // Whatever strangers try, the audit has room for what else happens.
    for _ in 0..50 {
        used.join(&unknown, &request).await.unwrap_err();
    }
    let told = "select count(*) from audit_events where action = 'agent.refused'";
    let told: usize = door
        .postgres
        .query("fleet", told)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!((10..=11).contains(&told), "{told}");
    assert_eq!(door.refusals("token").await, (count - 1 + 50) as f64);
    door.world.stop().await;
}

#[tokio::test]
async fn the_key_that_a_token_was_used_with_may_ask_again_and_no_other() {
    let mut door = Door::open(1).await;
    let invited = door.kit.invitation().await.unwrap();
    let (_, request) = new_key().unwrap();
    let first = invited.join(&invited.token, &request).await.unwrap();
    let again = invited.join(&invited.token, &request).await.unwrap();
    assert_ours(&again);
    assert_eq!(again.instance_id, first.instance_id);
    assert_ne!(again.certificate, first.certificate);

    let (_, another) = new_key().unwrap();
    let refused = invited.join(&invited.token, &another).await.unwrap_err();
    assert_refused(&refused);
    assert_eq!(door.refusals("another_key").await, 1.0);
    let administrator = door.world.administrator().await;
    let lines = "/api/admin/audit?action=agent.refused&result=refused";
    let lines = administrator.get(lines).await.ok();
    let line = lines["data"][0].to_string();
    assert!(
        line.contains("another_key") && line.contains(&first.instance_id),
        "{line}"
    );

    // No longer than the token lives, nor once the agent has said a word.
    for change in [
        "update instances set status = 'running'",
        "update join_tokens set expires_at = 1",
    ] {
        door.change(change);
        let late = invited.join(&invited.token, &request).await.unwrap_err();
        assert_refused(&late);
        door.change("update instances set status = 'provisioning'");
    }
    door.world.stop().await;
}

#[tokio::test]
async fn a_machine_whose_instance_was_deleted_comes_back_as_another_and_only_if_invited() {
    let mut door = Door::open(1).await;
    let invited = door.kit.invitation().await.unwrap();
    let (key, request) = new_key().unwrap();
    let first = invited.join(&invited.token, &request).await.unwrap();
    let administrator = door.world.administrator().await;
    let path = format!("/api/ec2/instances/{}", first.instance_id);
    administrator.delete(&path).await.ok();
    // What it was told is of no use any more, not even with the key that it used.
    let refused = invited.join(&invited.token, &request).await.unwrap_err();
    assert_refused(&refused);
    let before = ScriptedAgent::told(&key, &first, invited.address.clone()).unwrap();
    before.link().await.unwrap_err();
    // Whoever invites it again has forgotten it: it is an instance like any other.
    let invited = door.kit.invitation().await.unwrap();
    let second = invited.join(&invited.token, &request).await.unwrap();
    assert_ours(&second);
    assert_ne!(second.instance_id, first.instance_id);
    let again = ScriptedAgent::told(&key, &second, invited.address.clone()).unwrap();
    let _link = again.link().await.unwrap();
    let status = format!("/api/ec2/instances/{}/status", second.instance_id);
    eventually("it runs", PATIENCE, || async {
        administrator.get(&status).await.ok()["status"] == "running"
    })
    .await;
    before.link().await.unwrap_err();
    door.world.stop().await;
}

#[tokio::test]
async fn a_link_of_an_instance_that_is_over_is_cut_and_counted() {
    let mut door = Door::open(1).await;
    let agent = door.kit.next().await.unwrap();
    let mut link = agent.link().await.unwrap();
    let orphans = async || {
        let series = "browserfleet_orphans_total{kind=\"link\"}";
        door.world.metrics().await.value(series).unwrap_or_default()
    };
    assert_eq!(orphans().await, 0.0);
    // As a replica that leads does it, and dies before it is known here.
    door.change(&format!(
        "update instances set status = 'terminated' where id = '{}'",
        agent.instance
    ));
    let ended = timeout(AT_THE_LATEST, link.end()).await;
    ended.expect("it is cut").unwrap();
    eventually("it is counted", PATIENCE, || async {
        orphans().await == 1.0
    })
    .await;
    door.world.stop().await;
}

/// What is asked for, and by whom it is signed.
fn asking(params: CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

/// A certificate that has nothing that was asked for.
fn assert_ours(certificate: &Certificate) {
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.certificate).unwrap();
    let subject = parsed.subject().to_string();
    assert_eq!(subject, format!("CN={}", certificate.instance_id));
    assert!(!parsed.is_ca());
    let names = parsed.subject_alternative_name().unwrap();
    let names: &[GeneralName<'_>] = names.as_ref().map_or(&[], |it| &it.value.general_names);
    assert!(names.is_empty(), "{names:?}");
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let life = parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
    assert!(life <= 25 * 60 * 60, "{life}");
}

#[tokio::test]
async fn of_a_signing_request_only_the_key_counts() {
    let mut door = Door::open(1).await;
    let invited = door.kit.invitation().await.unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut another = CertificateParams::new(vec!["control-plane.browserfleet".into()]).unwrap();
    let somebody = browserfleet_proto::ids::InstanceId::new().to_string();
    another
        .distinguished_name
        .push(DnType::CommonName, somebody);
    another.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let wildcard = CertificateParams::new(vec!["*.example.com".into()]).unwrap();
    for params in [CertificateParams::default(), authority, another, wildcard] {
        let token = door.another_token(&invited);
        let certificate = invited.join(&token, &asking(params)).await;
        assert_ours(&certificate.unwrap());
    }
    door.world.stop().await;
}

fn assert_refused(refused: &Status) {
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(refused.message(), "the token is not valid");
}

#[tokio::test]
async fn a_key_that_is_weak_or_not_the_askers_is_not_signed() {
    let mut door = Door::open(1).await;
    let invited = door.kit.invitation().await.unwrap();
    let good = asking(CertificateParams::default());
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let rsa = CertificateParams::default()
        .serialize_request(&rsa)
        .unwrap();
    let requests = [
        ("its signature", forged),
        ("1024 bits", STANDARD.decode(RSA_1024).unwrap()),
        ("RSA", rsa.der().to_vec()),
        ("nothing", Vec::new()),
        (
            "no request",
            b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(),
        ),
        ("cut", good[..good.len() / 2].to_vec()),
    ];
    for (what, request) in &requests {
        let token = door.another_token(&invited);
        let refused = invited.join(&token, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{what}");
        assert_refused(&refused);
        // Whoever held the token had their chance.
        let again = invited.join(&token, &good).await.unwrap_err();
        assert_refused(&again);
    }
    assert_eq!(
        door.refusals("signing_request").await,
        requests.len() as f64
    );
    // A mebibyte is not even read.
    let token = door.another_token(&invited);
    let refused = invited.join(&token, &vec![0x30; 1024 * 1024]).await;
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
    invited.join(&token, &good).await.unwrap();
    door.world.stop().await;
}

/// A client of the agents' port with a certificate of the test's own.
struct Stranger<'a> {
    world: &'a World,
    authority: String,
}

impl Stranger<'_> {
    /// Whether the port speaks HTTP/2 with it.
    async fn is_heard(&self, certificate: &str, key: &KeyPair) -> bool {
        let mut roots = RootCertStore::empty();
        let trusted = CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap();
        roots.add(trusted).unwrap();
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect(self.world.agents).await.unwrap();
        let name = ServerName::try_from("control-plane.browserfleet").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let spoken = async {
            // With TLS 1.3 a client is refused after its own part of the handshake.
            let mut stream = connector.connect(name, socket).await?;
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await?;
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
            stream.read_u8().await
        };
        let spoken = tokio::time::timeout(PATIENCE, spoken).await;
        spoken.expect("an answer or a refusal").is_ok()
    }
}

/// As ours are, for this instance.
fn usual(instance: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, instance);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

#[tokio::test]
async fn a_certificate_that_is_not_an_agents_ends_the_handshake() {
    let mut kit = Machines::new().unwrap();
    let world = Plan::default()
        .with("LOCAL_AGENT", kit.program().display())
        .with("METRICS_LISTEN", "127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let instance = kit.next().await.unwrap().instance;
    let file = |name: &str| std::fs::read_to_string(world.data_dir().join(name)).unwrap();
    let authority = file("agent-ca.pem");
    let ours = KeyPair::from_pem(&file("agent-ca.key.pem")).unwrap();
    let ours = Issuer::from_ca_cert_pem(&authority, ours).unwrap();
    let stranger = Stranger {
        world: &world,
        authority,
    };
    let key = KeyPair::generate().unwrap();
    let signed = |params: CertificateParams| params.signed_by(&key, &ours).unwrap().pem();

    assert!(stranger.is_heard(&signed(usual(&instance)), &key).await);

    // Of the same name as ours, which anybody can have.
    let mut other = CertificateParams::default();
    other
        .distinguished_name
        .push(DnType::CommonName, "Browserfleet agents");
    other.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let other = Issuer::new(other, KeyPair::generate().unwrap());
    let mut expired = usual(&instance);
    let now = std::time::SystemTime::now();
    expired.not_before = (now - Duration::from_secs(3_600)).into();
    expired.not_after = (now - Duration::from_secs(60)).into();
    let mut for_servers = usual(&instance);
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut for_anything = usual(&instance);
    for_anything.extended_key_usages = Vec::new();
    let mut server = CertificateParams::new(vec!["control-plane.browserfleet".into()]).unwrap();
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cases = [
        (
            "self-signed",
            usual(&instance).self_signed(&key).unwrap().pem(),
        ),
        (
            "another authority's",
            usual(&instance).signed_by(&key, &other).unwrap().pem(),
        ),
        ("expired", signed(expired)),
        ("for servers", signed(for_servers)),
        ("for anything", signed(for_anything)),
        ("the server's own", signed(server)),
    ];
    for (what, certificate) in &cases {
        assert!(!stranger.is_heard(certificate, &key).await, "{what}");
    }
    let failed = r#"browserfleet_tls_handshakes_failed_total{port="agents"}"#;
    let failed = world.metrics().await.value(failed);
    assert_eq!(failed, Some(cases.len() as f64));
    world.stop().await;
}
