//! The site that the browsers of tests visit, with pages that behave and pages
//! that do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A form, buttons, a dialog, a popup, a shadow root and a frame.
const HOME: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A small page</title>
<style>body { font: 16px sans-serif; margin: 3em } .below { margin-top: 3000px }</style></head>
<body>
<h1>Hello</h1>
<form onsubmit="event.preventDefault(); say_hello()">
<label>Name <input id="name" autocomplete="off"></label>
<button id="greet">Greet</button>
</form>
<p id="greeting"></p>
<p><button id="count" type="button">Count</button> <output id="total">0</output></p>
<p><button id="alert" type="button" onclick="alert('Boo'); document.title = 'After'">Alert</button>
<a href="/second" target="_blank">Second page</a>
<textarea id="area"></textarea>
<div id="editable" contenteditable></div>
<button id="disabled" disabled>Disabled</button>
<div style="position: relative; width: 9em; height: 2em"><button id="covered">Covered</button><div id="cover" style="position: absolute; inset: 0"></div></div>
<div id="host"></div>
<iframe srcdoc="<button onclick='parent.document.title = `Framed`'>In a frame</button>"></iframe>
<p class="below"><button id="far" type="button" onclick="document.title = 'Far'">Far below</button></p>
<script>
const say_hello = () => { document.querySelector('#greeting').textContent = 'Hello, ' + document.querySelector('#name').value; };
let total = 0;
document.querySelector('#count').onclick = (event) => {
  if (!event.isTrusted) return;
  document.querySelector('#total').value = ++total;
  fetch('/counted');
};
document.querySelector('#host').attachShadow({ mode: 'open' }).innerHTML =
  '<button onclick="document.title = `Shadowed`">In a shadow root</button>';
</script>
</body></html>"#;

/// All of it changes with each frame, and none of it is like what is beside it.
const MOVING: &str = r#"<style>body { margin: 0 } canvas { width: 100vw; height: 100vh; display: block }</style>
<canvas width="320" height="180"></canvas>
<script>
const context = document.querySelector('canvas').getContext('2d');
const noise = context.createImageData(640, 360);
for (let at = 0; at < noise.data.length; at++) noise.data[at] = at % 4 === 3 ? 255 : Math.random() * 256;
const draw = () => {
  context.putImageData(noise, -Math.random() * 320, -Math.random() * 180);
  requestAnimationFrame(draw);
};
draw();
</script>"#;

/// How a browser begins that believes in TLS.
const TLS_RECORD: u8 = 0x16;

/// A running site. Dropping it stops it.
#[derive(Debug)]
pub struct Site {
    address: SocketAddr,
    counted: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Site {
    /// Starts one on a free port of loopback.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counted = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&counted);
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&counting)));
            }
        });
        Ok(Self {
            address,
            counted,
            serving,
        })
    }

    /// The URL of a page.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often the button `#count` was clicked, by all browsers.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::SeqCst)
    }
}

async fn serve(mut socket: TcpStream, counted: Arc<AtomicU64>) {
    let mut request = Vec::new();
    while request.first() != Some(&TLS_RECORD) && !request.windows(4).any(|it| it == b"\r\n\r\n") {
        match socket.read_buf(&mut request).await {
            Ok(1..) if request.len() < 64 * 1024 => {}
            _ => return,
        }
    }
    if request.first() == Some(&TLS_RECORD) {
        drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        return;
    }
    let line = String::from_utf8_lossy(&request);
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let page = |title: &str, body: &str| {
        html(
            "200 OK",
            &format!("<!doctype html><title>{title}</title>{body}"),
        )
    };
    let answer = match path.as_str() {
        "/" => html("200 OK", HOME),
        "/second" => page("Second", "<p>The second page"),
        "/counted" => {
            counted.fetch_add(1, Ordering::SeqCst);
            page("Counted", "")
        }
        "/missing" => html("404 Not Found", "<title>Missing</title>"),
        "/moving" => page("Moving", MOVING),
        "/busy" => page("Busy", "<script>while (1);</script>"),
        "/noisy" => page("Noisy", "<script>setInterval(() => { for (let i = 0; i < 1000; i++) console.log(i); }, 100)</script>"),
        "/restless" => page("Restless", "<script>setInterval(() => history.pushState(0, '', '/' + Math.random()), 1)</script>"),
        "/refreshing" => page("Refreshing", "<meta http-equiv=refresh content=0>"),
        "/loop" => "HTTP/1.1 302 Found\r\nlocation: /loop\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        "/redirected" => "HTTP/1.1 302 Found\r\nlocation: /second\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        "/download" => attachment("a.bin", "abc"),
        "/tall" => page("Tall", "<div style='height: 1000000px'></div>"),
        "/silent" => return std::future::pending().await,
        "/password" => "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        "/worker.js" => "HTTP/1.1 200 OK\r\ncontent-type: text/javascript\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        path => match path.strip_prefix("/download/") {
            // Each file has its own name, and that is all that it holds.
            Some(name) => attachment(name, name),
            None => html("404 Not Found", "<title>Nothing</title>"),
        },
    };
    // Whoever asked may be gone.
    drop(socket.write_all(answer.as_bytes()).await);
    drop(socket.shutdown().await);
}

fn attachment(name: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-disposition: attachment; filename={name}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn html(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
