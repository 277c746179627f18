//! A client of `/ws`. Every message that it hears is held against `/asyncapi.json`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use jsonschema::Validator;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::api::Caller;

/// How long a message is waited for.
const SOON: Duration = Duration::from_secs(20);

/// The messages of a direction, by their names.
type Schemas = BTreeMap<String, Validator>;

/// An open socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard: VecDeque<Value>,
    asked: u64,
    schemas: Arc<Schemas>,
}

/// What the document says is said, and heard.
///
/// # Errors
/// Where it is no such document.
pub fn schemas(document: &Value, operation: &str) -> anyhow::Result<Schemas> {
    let messages = document["operations"][operation]["messages"]
        .as_array()
        .context("an operation has messages")?;
    messages
        .iter()
        .map(|it| {
            let name = it["$ref"].as_str().and_then(|it| it.rsplit('/').next());
            let name = name.context("a message has a name")?;
            let schema = &document["components"]["messages"][name]["payload"];
            let validator =
                jsonschema::validator_for(schema).map_err(jsonschema::ValidationError::to_owned)?;
            Ok((name.to_owned(), validator))
        })
        .collect()
}

impl Socket {
    /// Opens one with the caller's token.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn open(caller: &Caller) -> Self {
        let opened = Self::try_open(caller, "/ws", Some(caller.token()), None).await;
        opened.unwrap_or_else(|status| panic!("the socket was refused: {status}"))
    }

    /// Opens one with a ticket.
    ///
    /// # Errors
    /// The status of the refusal.
    pub async fn with_ticket(caller: &Caller, ticket: &str) -> Result<Self, u16> {
        Self::try_open(caller, &format!("/ws?ticket={ticket}"), None, None).await
    }

    /// Opens one, perhaps from a page of this origin.
    ///
    /// # Errors
    /// The status of the refusal.
    ///
    /// # Panics
    /// Where nobody answers.
    pub async fn try_open(
        caller: &Caller,
        path: &str,
        token: Option<&str>,
        headers: Option<&[(&'static str, &str)]>,
    ) -> Result<Self, u16> {
        let base = caller.base().replacen("http", "ws", 1);
        let mut request = format!("{base}{path}")
            .into_client_request()
            .expect("a URL");
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token");
            request.headers_mut().insert("authorization", value);
        }
        for (name, value) in headers.unwrap_or_default() {
            let value = HeaderValue::from_str(value).expect("a header");
            request.headers_mut().insert(*name, value);
        }
        let stream = match connect_async(request).await {
            Ok((stream, response)) => {
                assert!(!response.headers().contains_key("sec-websocket-extensions"));
                stream
            }
            Err(Error::Http(response)) => return Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        };
        let document = caller.get("/asyncapi.json").await.ok();
        Ok(Self {
            stream,
            heard: VecDeque::new(),
            asked: 0,
            schemas: Arc::new(schemas(&document, "hear").expect("a document")),
        })
    }

    /// Says something, without waiting for anything.
    ///
    /// # Panics
    /// Where the socket is gone.
    pub async fn say(&mut self, message: Value) {
        self.send(Message::text(message.to_string())).await;
    }

    /// Sends what may be nonsense.
    ///
    /// # Panics
    /// Where the socket is gone.
    pub async fn send(&mut self, message: Message) {
        self.stream.send(message).await.expect("the socket is open");
    }

    /// Says something with an id of its own, and gives that.
    pub async fn begin(&mut self, kind: &str, session: Option<&str>, payload: Value) -> String {
        self.asked += 1;
        let id = format!("m{}", self.asked);
        let mut message = json!({ "type": kind, "id": id, "payload": payload });
        if let Some(session) = session {
            message["session_id"] = session.into();
        }
        self.say(message).await;
        id
    }

    /// Says something and waits for its answer.
    pub async fn ask(&mut self, kind: &str, session: Option<&str>, payload: Value) -> Value {
        let id = self.begin(kind, session, payload).await;
        self.hear(|it| it["id"] == id.as_str()).await
    }

    /// The first message that passes, of those that were not taken yet.
    ///
    /// # Panics
    /// Where none comes in time.
    pub async fn hear(&mut self, passes: impl Fn(&Value) -> bool) -> Value {
        if let Some(place) = self.heard.iter().position(&passes) {
            return self.heard.remove(place).expect("it is there");
        }
        let heard = timeout(SOON, async {
            loop {
                let message = self.next().await.unwrap_or_else(|code| {
                    panic!("the socket was closed: {code:?}; heard: {:?}", self.heard)
                });
                if passes(&message) {
                    return message;
                }
                self.heard.push_back(message);
            }
        });
        let heard = heard.await;
        heard.unwrap_or_else(|_| panic!("nothing of the kind came; heard: {:?}", self.heard))
    }

    /// The first message of this type.
    pub async fn hear_type(&mut self, kind: &str) -> Value {
        self.hear(|it| it["type"] == kind).await
    }

    /// What was heard and not taken yet.
    pub fn heard(&self) -> impl Iterator<Item = &Value> {
        self.heard.iter()
    }

    /// The next message; the close code where there is none, if there was one.
    async fn next(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).expect("messages are JSON");
                    let kind = message["type"].as_str().expect("messages have a type");
                    let schema = self.schemas.get(kind);
                    let schema = schema.unwrap_or_else(|| panic!("{kind} is not documented"));
                    if let Err(error) = schema.validate(&message) {
                        panic!("{message} is not as documented: {error}");
                    }
                    return Ok(message);
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|it| it.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The code that the socket is closed with; what comes before is passed over.
    ///
    /// # Panics
    /// Where it is not closed in time.
    pub async fn closed(&mut self) -> Option<u16> {
        let closed = timeout(SOON, async {
            loop {
                if let Err(code) = self.next().await {
                    return code;
                }
            }
        });
        closed.await.expect("the socket is closed in time")
    }

    /// The stream below, for what no client does.
    pub fn into_stream(self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        self.stream
    }
}
