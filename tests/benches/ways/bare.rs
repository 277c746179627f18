//! The least that can be: Chrome's debugging socket, and nothing around it.

use std::process::Stdio;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The browser that all ways use.
pub const EXECUTABLE: &str = "/usr/lib/chromium/chromium-headless-shell";

/// A Chrome with one tab.
pub struct Socket {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    last: u64,
    _chrome: Child,
    _profile: TempDir,
}

impl Socket {
    pub async fn start() -> anyhow::Result<Self> {
        let profile = TempDir::new()?;
        let mut chrome = Command::new(EXECUTABLE)
            .args([
                "--remote-debugging-port=0",
                "--no-sandbox",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--disable-quic",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(chrome.stderr.take().context("no standard error")?).lines();
        let url = loop {
            let line = lines.next_line().await?.context("Chrome did not start")?;
            if let Some((_, url)) = line.split_once("listening on ") {
                break url.to_owned();
            }
        };
        let (socket, _) = tokio_tungstenite::connect_async(url).await?;
        let mut this = Self {
            socket,
            session: String::new(),
            last: 0,
            _chrome: chrome,
            _profile: profile,
        };
        let targets = this.call("Target.getTargets", json!({})).await;
        let page = targets["targetInfos"]
            .as_array()
            .and_then(|all| all.iter().find(|it| it["type"] == "page"));
        let target = page.context("no page")?["targetId"].clone();
        let attached = this
            .call(
                "Target.attachToTarget",
                json!({ "targetId": target, "flatten": true }),
            )
            .await;
        attached["sessionId"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut this.session);
        this.call("Page.enable", json!({})).await;
        this.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": false }),
        )
        .await;
        Ok(this)
    }

    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        loop {
            let message = self.next().await;
            if message["id"] == id {
                return message["result"].clone();
            }
        }
    }

    pub async fn navigate(&mut self, url: &str) {
        self.send("Page.navigate", json!({ "url": url })).await;
        while self.next().await["method"] != "Page.loadEventFired" {}
    }

    pub async fn click(&mut self, x: f64, y: f64) {
        for (kind, count) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 1)] {
            let event =
                json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": count });
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    pub async fn keys(&mut self, text: &str) {
        for letter in text.chars() {
            for kind in ["keyDown", "keyUp"] {
                let text = if kind == "keyDown" {
                    letter.to_string()
                } else {
                    String::new()
                };
                self.call(
                    "Input.dispatchKeyEvent",
                    json!({ "type": kind, "text": text, "key": letter.to_string() }),
                )
                .await;
            }
        }
    }

    async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let mut call = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_empty() {
            call["sessionId"] = self.session.clone().into();
        }
        self.socket
            .send(Message::text(call.to_string()))
            .await
            .expect("Chrome lives");
        self.last
    }

    async fn next(&mut self) -> Value {
        let message = self
            .socket
            .next()
            .await
            .expect("Chrome lives")
            .expect("a message");
        serde_json::from_slice(&message.into_data()).expect("JSON")
    }
}
