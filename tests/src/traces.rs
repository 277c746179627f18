//! A site that leaves as many traces in a browser as a site can, and looks for them
//! again. Each has a word of its own in it, by which it is found on the disk as well.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What is in every trace.
pub const CANARY: &str = "canary-of-the-former-holder";
/// Leaves them: an expression for a page of this site.
pub const LEAVE: &str = include_str!("traces/leave.js");
/// Names those that are there: an expression for a page of this site.
pub const FIND: &str = include_str!("traces/find.js");

/// The name and password that the site asks for.
const CREDENTIALS: &str = "authorization: basic dxnlcjpwyxnzd29yza==";

/// The running site. Dropping it stops it.
#[derive(Debug)]
pub struct Traces {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Traces {
    /// Starts it on a free port of loopback, which is an origin that browsers trust as
    /// they trust TLS.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket));
            }
        });
        Ok(Self { address, serving })
    }

    /// Its page.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

async fn serve(mut socket: TcpStream) {
    let mut request = Vec::new();
    while !request.windows(4).any(|it| it == b"\r\n\r\n") {
        match socket.read_buf(&mut request).await {
            Ok(1..) if request.len() < 64 * 1024 => {}
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
    let answer = answer(&path, &request.to_ascii_lowercase());
    // Whoever asked may be gone.
    drop(socket.write_all(answer.as_bytes()).await);
    drop(socket.shutdown().await);
}

fn answer(path: &str, request: &str) -> String {
    let script = "content-type: text/javascript\r\ncache-control: no-store";
    match path {
        "/" => reply(
            "200 OK",
            "content-type: text/html\r\ncache-control: no-store",
            "<!doctype html><title>Traces</title><input id=name autocomplete=name><p>",
        ),
        "/cookies" => reply(
            "200 OK",
            &format!(
                "set-cookie: kept={CANARY}; Max-Age=86400\r\n\
                 set-cookie: hidden={CANARY}; Max-Age=86400; HttpOnly\r\n\
                 set-cookie: brief={CANARY}"
            ),
            "",
        ),
        "/echo" => reply("200 OK", "cache-control: no-store", request),
        "/cached" => reply(
            "200 OK",
            "cache-control: public, max-age=86400, immutable",
            CANARY,
        ),
        "/moved" => reply(
            "301 Moved Permanently",
            "location: /cached?moved\r\ncache-control: public, max-age=86400",
            "",
        ),
        "/cached?moved" => reply("200 OK", "cache-control: public, max-age=86400", CANARY),
        "/validated" => {
            let seen = request.contains("if-none-match:");
            let headers =
                format!("etag: \"{CANARY}\"\r\ncache-control: no-cache\r\nx-seen: {seen}");
            reply("200 OK", &headers, "")
        }
        "/login" if request.contains(CREDENTIALS) => {
            reply("200 OK", "cache-control: no-store", "welcome back")
        }
        "/login" => reply(
            "401 Unauthorized",
            "www-authenticate: Basic realm=traces\r\ncache-control: no-store",
            "",
        ),
        "/download" => reply(
            "200 OK",
            "content-type: application/octet-stream\r\n\
             content-disposition: attachment; filename=canary.bin",
            CANARY,
        ),
        "/worker.js" => reply(
            "200 OK",
            script,
            "onactivate = (event) => event.waitUntil(clients.claim()); onfetch = (event) => { if (event.request.url.endsWith('/by-worker')) \
             event.respondWith(new Response('by the worker')); };",
        ),
        "/shared.js" => reply(
            "200 OK",
            script,
            "let visits = 0; onconnect = (event) => event.ports[0].postMessage(++visits);",
        ),
        _ => reply("404 Not Found", "cache-control: no-store", ""),
    }
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
