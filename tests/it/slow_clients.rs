//! Clients that are slow, or send too much, cost nobody else anything.

use std::time::{Duration, Instant};

use browserfleet_tests::world::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
    for mut socket in slow {
        let mut rest = Vec::new();
        let cut = timeout(
            CUT_WITHIN.saturating_sub(started.elapsed()),
            socket.read_to_end(&mut rest),
        )
        .await;
        assert!(cut.is_ok(), "a slow client was not cut");
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
