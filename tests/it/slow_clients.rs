//! Clients that are slow, or send too much, cost nobody else anything.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use browserfleet_tests::world::{Plan, World};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const MANY: usize = 300;
/// The header deadline, with room for a busy machine.
const CUT_WITHIN: Duration = Duration::from_secs(15);

async fn answer(world: &World, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(world.api.trim_start_matches("http://"))
        .await
        .unwrap();
    // It may answer before all of it is sent.
    drop(socket.write_all(request).await);
    let mut reply = Vec::new();
    let read = timeout(Duration::from_secs(10), socket.read_buf(&mut reply)).await;
    assert!(read.is_ok(), "no answer");
    String::from_utf8_lossy(&reply)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// What a slow client is told before it is cut, which is by then.
async fn cut_by(mut socket: TcpStream, latest: Instant) -> String {
    let mut rest = Vec::new();
    let patience = latest.saturating_duration_since(Instant::now());
    let cut = timeout(patience, socket.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "a slow client was not cut");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn headers_that_never_end_are_cut_and_others_are_served() {
    let world = World::new().await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..MANY {
        let mut socket = TcpStream::connect(world.api.trim_start_matches("http://"))
            .await
            .unwrap();
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n")
            .await
            .unwrap();
        slow.push(socket);
    }
    let started = Instant::now();
    assert_eq!(world.nobody().get("/healthz").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(1));
    for socket in slow {
        cut_by(socket, started + CUT_WITHIN).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn too_much_is_refused_before_it_is_read() {
    let world = World::new().await.unwrap();
    let large = format!(
        "GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(1024 * 1024)
    );
    assert!(answer(&world, large.as_bytes()).await.contains("431"));
    let many = format!(
        "GET /healthz HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: y\r\n".repeat(1000)
    );
    assert!(answer(&world, many.as_bytes()).await.contains("431"));
    let url = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70 * 1024));
    let refused = answer(&world, url.as_bytes()).await;
    assert!(
        refused.contains("414") || refused.contains("431"),
        "{refused}"
    );
    let huge = b"POST /api/auth/login HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1073741824\r\n\r\n{";
    assert!(answer(&world, huge).await.contains("413"));
    world.stop().await;
}

/// The body deadline, with room for a busy machine.
const BODY_CUT_WITHIN: Duration = Duration::from_secs(35);

#[tokio::test]
async fn bodies_that_never_end_are_cut_and_others_are_served() {
    let world = World::new().await.unwrap();
    let started = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..MANY {
        let mut socket = TcpStream::connect(world.api.trim_start_matches("http://"))
            .await
            .unwrap();
        socket
            .write_all(
                b"POST /api/auth/login HTTP/1.1\r\nhost: a\r\n\
                  content-type: application/json\r\ncontent-length: 100\r\n\r\n{",
            )
            .await
            .unwrap();
        slow.push(socket);
    }
    let asked = Instant::now();
    world.administrator().await;
    assert!(asked.elapsed() < Duration::from_secs(2));
    for socket in slow {
        let said = cut_by(socket, started + BODY_CUT_WITHIN).await;
        assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    }
    world.stop().await;
}

#[tokio::test]
async fn handshakes_that_never_end_are_cut_and_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let world = Plan::default()
        .with("TLS_CERT", certificate.display())
        .with("TLS_KEY", key.display())
        .start()
        .await
        .unwrap();
    let address = world.api.trim_start_matches("https://").to_owned();
    // The port for agents has the same accept loop and the same promise.
    for address in [address.clone(), world.agents.to_string()] {
        let started = Instant::now();
        let mut slow = Vec::new();
        for index in 0..MANY {
            let mut socket = TcpStream::connect(&address).await.unwrap();
            let begun: &[u8] = match index % 3 {
                0 => b"",
                // The first bytes of a handshake.
                1 => &[0x16, 0x03, 0x01, 0x02, 0x00],
                _ => b"GET / HTTP/1.1\r\n\r\n",
            };
            drop(socket.write_all(begun).await);
            slow.push(socket);
        }
        let asked = Instant::now();
        assert_eq!(status_over_tls(&world, made.cert.der().clone()).await, 200);
        assert!(asked.elapsed() < Duration::from_secs(1));
        for socket in slow {
            cut_by(socket, started + CUT_WITHIN).await;
        }
    }
    world.stop().await;
}

async fn status_over_tls(world: &World, trusted: CertificateDer<'static>) -> u16 {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(world.api.trim_start_matches("https://"))
        .await
        .unwrap();
    let mut socket = TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), socket)
        .await
        .unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.unwrap();
    reply[9..12].parse().unwrap()
}
