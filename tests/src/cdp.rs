//! A client of CDP that says what it is told to, sense or nonsense.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use socket2::{SockFilter, SockRef};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::api::Caller;

/// How long anything is waited for.
const SOON: Duration = Duration::from_secs(60);
/// A filter of packets that lets nothing in: `BPF_RET | BPF_K`, which returns that none
/// of a packet's bytes are kept.
const NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// A client on a socket of its own.
pub struct Cdp {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u32,
    /// The session that it has joined, as it was told.
    pub session: String,
}

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// `None`: without a word.
    pub code: Option<u16>,
    /// What was said of it.
    pub reason: String,
}

impl Cdp {
    /// Connects to the browser of a session.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn browser(caller: &Caller, session: &str) -> Self {
        let path = format!("/devtools/browser/{session}");
        let joined = Self::open(caller, &path).await;
        joined.unwrap_or_else(|status| panic!("{path} was refused: {status}"))
    }

    /// Connects to what is at this path.
    ///
    /// # Errors
    /// The status of the refusal.
    ///
    /// # Panics
    /// Where nobody answers.
    pub async fn open(caller: &Caller, path: &str) -> Result<Self, u16> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let base = caller.base().replacen("http", "ws", 1);
        Self::dial(&format!("{base}{path}{mark}token={}", caller.token())).await
    }

    /// Connects to an address as it is.
    ///
    /// # Errors
    /// The status of the refusal.
    ///
    /// # Panics
    /// Where nobody answers.
    pub async fn dial(address: &str) -> Result<Self, u16> {
        let request = address.into_client_request().expect("a URL");
        let all = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        match connect_async_with_config(request, Some(all), true).await {
            Ok((stream, response)) => Ok(Self {
                stream,
                asked: 0,
                session: response.headers()["x-browserfleet-session"]
                    .to_str()
                    .expect("a text")
                    .to_owned(),
            }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Says something as it is. `false`: the socket is gone.
    pub async fn say(&mut self, text: impl Into<String>) -> bool {
        self.send(Message::text(text.into())).await
    }

    /// Sends what may be nonsense. `false`: the socket is gone.
    pub async fn send(&mut self, message: Message) -> bool {
        self.stream.send(message).await.is_ok()
    }

    /// The next message.
    ///
    /// # Errors
    /// Where there is none.
    ///
    /// # Panics
    /// Where none comes in time.
    pub async fn next(&mut self) -> Result<Value, Closed> {
        let next = timeout(SOON, async {
            loop {
                let Some(Ok(said)) = self.stream.next().await else {
                    return Err(Closed {
                        code: None,
                        reason: String::new(),
                    });
                };
                match said {
                    Message::Text(text) => return Ok(serde_json::from_str(&text).expect("JSON")),
                    Message::Close(frame) => {
                        return Err(Closed {
                            code: frame.as_ref().map(|it| it.code.into()),
                            reason: frame.map_or_else(String::new, |it| it.reason.to_string()),
                        });
                    }
                    _ => {}
                }
            }
        });
        next.await.expect("something comes in time")
    }

    /// Asks something; what else is said meanwhile is passed over.
    ///
    /// # Errors
    /// Where the socket ends instead.
    pub async fn try_ask(
        &mut self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value, Closed> {
        self.asked += 1;
        let id = self.asked;
        let mut question = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            question["sessionId"] = session.into();
        }
        self.say(question.to_string()).await;
        loop {
            let said = self.next().await?;
            if said["id"] == id {
                return Ok(said);
            }
        }
    }

    /// Asks something that has to be answered.
    ///
    /// # Panics
    /// Where it is not.
    pub async fn ask(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        let answer = self.try_ask(session, method, params).await;
        answer.unwrap_or_else(|closed| panic!("{method} was not answered: {closed:?}"))
    }

    /// Attaches to the first page, and gives its session.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn attach(&mut self) -> String {
        let told = self.ask(None, "Target.getTargets", json!({})).await;
        let infos = told["result"]["targetInfos"].as_array().cloned();
        let infos = infos.unwrap_or_default();
        let page = infos.iter().find(|it| it["type"] == "page");
        let target = &page.expect("there is a page")["targetId"];
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = self.ask(None, "Target.attachToTarget", attach).await;
        let session = attached["result"]["sessionId"].as_str();
        session.expect("it attached").to_owned()
    }

    /// How it ends; what comes before is passed over.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }

    /// Its machine is as one whose network is gone from now on: it takes nothing,
    /// acknowledges nothing and closes nothing.
    ///
    /// # Panics
    /// Where the system does not let us.
    pub fn lose_network(&self) {
        let MaybeTlsStream::Plain(stream) = self.stream.get_ref() else {
            panic!("it is plain");
        };
        let lost = SockRef::from(stream).attach_filter(&[NOTHING]);
        lost.expect("packets can be dropped");
    }

    /// Leaves as clients do that have manners.
    pub async fn leave(mut self) {
        // It may be closed already.
        drop(self.stream.close(None).await);
    }
}
