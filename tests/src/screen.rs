//! A viewer of one session: what comes on a socket of its own, pictures apart from
//! messages.

use std::time::Duration;

use browserfleet_proto::frame::Header;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::api::{Caller, Session};
use crate::socket::Socket;

/// How long something is waited for.
const SOON: Duration = Duration::from_secs(20);
/// As long as nothing comes from a page that rests.
const QUIET: Duration = Duration::from_millis(700);

/// Something that came.
#[derive(Debug)]
pub enum Came {
    /// A picture, or that only its header is new.
    Frame(Header, Bytes),
    /// A message.
    Said(Value),
}

/// An open one.
pub struct Screen {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    asked: u64,
}

impl Screen {
    /// Sees a session of this caller.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn open(session: &Session, wish: Value) -> Self {
        let mut screen = Self::not_subscribed(&session.caller, &session.id).await;
        let answer = screen.ask("subscribe_frames", wish).await;
        assert_eq!(answer["type"], "subscribed_frames", "{answer}");
        screen
    }

    /// A socket that sees nothing yet.
    pub async fn not_subscribed(caller: &Caller, session: &str) -> Self {
        Self::of(Socket::open(caller).await, session)
    }

    /// A socket that was opened in another way.
    #[must_use]
    pub fn of(socket: Socket, session: &str) -> Self {
        Self {
            stream: socket.into_stream(),
            session: session.to_owned(),
            asked: 0,
        }
    }

    /// Says something and waits for its answer. Pictures that come before are passed over.
    pub async fn ask(&mut self, kind: &str, payload: Value) -> Value {
        let id = self.say(kind, payload).await;
        loop {
            if let Came::Said(message) = self.next().await
                && message["id"] == id.as_str()
            {
                return message;
            }
        }
    }

    /// Says something.
    ///
    /// # Panics
    /// Where the socket is gone.
    pub async fn say(&mut self, kind: &str, payload: Value) -> String {
        self.asked += 1;
        let id = format!("s{}", self.asked);
        let message = json!({
            "type": kind, "id": id, "session_id": self.session, "payload": payload,
        });
        let said = self.stream.send(Message::text(message.to_string())).await;
        said.expect("the socket is open");
        id
    }

    /// Takes control: what is done on this socket counts from now on.
    ///
    /// # Panics
    /// Where somebody else has it.
    pub async fn take(&mut self) {
        let answer = self.ask("control", json!({ "action": "take" })).await;
        assert_eq!(answer["type"], "controlled", "{answer}");
    }

    /// Runs a command as whoever drives, and gives what REST would answer.
    ///
    /// # Panics
    /// Where it fails.
    pub async fn command(&mut self, kind: &str, payload: Value) -> Value {
        let mut answer = self.ask(kind, payload).await;
        assert_eq!(answer["type"], "reply", "{answer}");
        answer["payload"].take()
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        let payload = json!({ "expression": expression });
        self.command("execute", payload).await["value"].take()
    }

    /// Does something.
    pub async fn act(&mut self, input: Value) {
        self.say("input", input).await;
    }

    /// Presses and releases the left button.
    pub async fn click(&mut self, x: f64, y: f64) {
        let mouse = |what: &str, buttons: u8| {
            json!({
                "kind": "mouse", "type": what, "x": x, "y": y, "button": "left",
                "buttons": buttons, "clickCount": 1,
            })
        };
        self.act(json!({ "kind": "mouse", "type": "mouseMoved", "x": x, "y": y }))
            .await;
        self.act(mouse("mousePressed", 1)).await;
        self.act(mouse("mouseReleased", 0)).await;
    }

    /// Presses and releases a key that writes this.
    pub async fn press(&mut self, character: char) {
        let text = character.to_string();
        let number = u32::from(character.to_ascii_uppercase());
        let key = |what: &str, writes: &str| {
            json!({
                "kind": "key", "type": what, "key": text, "text": writes,
                "windowsVirtualKeyCode": number & 0xff,
            })
        };
        self.act(key("keyDown", &text)).await;
        self.act(key("keyUp", "")).await;
    }

    /// Presses and releases a key that writes nothing, with CDP's modifiers.
    pub async fn stroke(&mut self, name: &str, code: &str, number: u32, modifiers: u32) {
        let text = if name == "Enter" { "\r" } else { "" };
        let key = |what: &str, text: &str| {
            json!({
                "kind": "key", "type": what, "key": name, "code": code, "text": text,
                "windowsVirtualKeyCode": number, "modifiers": modifiers,
            })
        };
        self.act(key("keyDown", text)).await;
        self.act(key("keyUp", "")).await;
    }

    /// What comes next.
    ///
    /// # Panics
    /// Where nothing comes.
    pub async fn next(&mut self) -> Came {
        let came = timeout(SOON, self.try_next()).await;
        came.expect("something comes").expect("the socket is open")
    }

    /// What comes next; `None` at the end of the socket.
    pub async fn try_next(&mut self) -> Option<Came> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    let (header, picture) = Header::read(&bytes).expect("a frame");
                    return Some(Came::Frame(header, picture));
                }
                Some(Ok(Message::Text(text))) => {
                    let message = serde_json::from_str(&text).expect("messages are JSON");
                    return Some(Came::Said(message));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next picture.
    pub async fn picture(&mut self) -> (Header, Bytes) {
        loop {
            if let Came::Frame(header, picture) = self.next().await
                && header.format.is_some()
            {
                return (header, picture);
            }
        }
    }

    /// The last picture before nothing comes any more.
    pub async fn at_rest(&mut self) -> Option<(Header, Bytes)> {
        let mut last = None;
        while let Ok(came) = timeout(QUIET, self.try_next()).await {
            match came {
                Some(Came::Frame(header, picture)) if header.format.is_some() => {
                    last = Some((header, picture));
                }
                Some(_) => {}
                None => break,
            }
        }
        last
    }

    /// The stream below.
    #[must_use]
    pub fn into_stream(self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        self.stream
    }
}
