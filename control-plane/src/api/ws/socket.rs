//! One socket: what its client says is read in order and answered as it is done.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use browserfleet_proto::ids::{HolderId, SessionId};
use browserfleet_proto::input::Input;
use bytes::Bytes;
use futures_util::StreamExt;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::message::{About, Incoming, within_payload};
use super::outbox::{Closing, Gone, Outbox, outbox};
use super::{frames, instances, sessions};
use crate::accounts::{Client, Pass};
use crate::api::Api;
use crate::api::browser::{Done, asked};
use crate::api::under_way::UnderWay;
use crate::clock;
use crate::domain::access::Right;
use crate::error::{CommandError, Error};
use crate::sessions::OwnedSession;
use crate::telemetry::metrics;

/// How often the peer is asked whether it lives: proxies close what is silent for 30 s.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Silence after which the peer is gone: the ping before was not answered.
const SILENCE_MAX: Duration = Duration::from_secs(35);
/// Commands of one socket that are under way at once. More are refused: whoever has
/// more sessions than that opens another socket.
const COMMANDS_MAX: usize = 64;
/// Sessions that one socket watches at once.
const WATCHED_MAX: usize = 100;
/// Sessions that one socket sees at once: a wall of them.
const SEEN_MAX: usize = 32;
/// How long a peer may go on that was told to close. What is unread when a connection ends
/// makes the peer's system throw away what it was told.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);
/// Messages a second: twice what a client can send that waits for each answer.
const MESSAGES_A_SECOND: NonZeroU32 = NonZeroU32::new(5_000).expect("it is not zero");
/// Pings a second, and how many at once: one is enough.
const PINGS_A_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");
const PINGS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).expect("it is not zero");
/// Refusals a second, and at once, that a client is given before its socket is closed:
/// one that hears them slows down.
const REFUSALS_A_SECOND: NonZeroU32 = NonZeroU32::new(50).expect("it is not zero");
const REFUSALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(500).expect("it is not zero");
/// How much later than its token's end a socket is closed: time for the next token.
const RENEWAL_GRACE: Duration = Duration::from_secs(4);

const SIGNED_OUT: Closing = Closing::new(4401, "what this socket was opened with has ended");
const EXPIRED: Closing = Closing::new(4401, "the access token has expired; authenticate in time");
const RESTARTING: Closing = Closing::new(1012, "the server restarts; connect again");
const NO_BINARY: Closing = Closing::new(1003, "only text is taken");
const TOO_MANY: Closing = Closing::new(1008, "too many messages");

/// One socket.
pub(super) struct Socket {
    pub(super) api: Api,
    pub(super) pass: Pass,
    pub(super) client: Client,
    /// What was taken here.
    pub(super) holders: HashMap<SessionId, HolderId>,
    under_way: UnderWay,
    commands: Arc<Semaphore>,
    watched: HashMap<SessionId, AbortOnDropHandle<Option<()>>>,
    /// The sessions that it sees.
    seen: HashMap<SessionId, AbortOnDropHandle<Option<()>>>,
    instances: Option<AbortOnDropHandle<Option<()>>>,
    messages: DefaultDirectRateLimiter,
    pings: DefaultDirectRateLimiter,
    refusals: DefaultDirectRateLimiter,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    after_seq: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authenticate {
    token: String,
}

/// Why a socket is over; `None`: the peer has gone, or closed it.
type Over = Option<Closing>;

fn limiter(a_second: NonZeroU32, at_once: NonZeroU32) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(a_second).allow_burst(at_once))
}

impl Socket {
    pub(super) fn new(api: Api, pass: Pass, client: Client) -> Self {
        Self {
            api,
            pass,
            client,
            holders: HashMap::new(),
            under_way: UnderWay::default(),
            commands: Arc::new(Semaphore::new(COMMANDS_MAX)),
            watched: HashMap::new(),
            seen: HashMap::new(),
            instances: None,
            messages: limiter(MESSAGES_A_SECOND, MESSAGES_A_SECOND),
            pings: limiter(PINGS_A_SECOND, PINGS_AT_ONCE),
            refusals: limiter(REFUSALS_A_SECOND, REFUSALS_AT_ONCE),
        }
    }

    /// Holds the socket until it is over, and says why.
    pub(super) async fn hold(mut self, websocket: WebSocket) {
        let (sink, mut stream) = websocket.split();
        let (outbox, writer) = outbox();
        let mut writing = self
            .api
            .sessions
            .tasks()
            .spawn("socket writer", writer.run(sink));
        let over = tokio::select! {
            over = self.read(&mut stream, &outbox) => over,
            // The peer has gone, or did not read.
            _ = &mut writing => return,
        };
        if let Some(closing) = over {
            tracing::debug!(user.id = %self.pass.user.id, code = closing.code, reason = closing.reason, "closing a socket");
            let told = outbox.send(closing.message());
            let told = tokio::time::timeout(super::outbox::WRITE_DEADLINE, told);
            if !matches!(told.await, Ok(Ok(()))) {
                tracing::debug!("a socket's peer could not be told why it is closed");
            }
        }
        // What else wants to say something finds the writer gone.
        drop(self);
        drop(outbox);
        if tokio::time::timeout(super::outbox::WRITE_DEADLINE, &mut writing)
            .await
            .is_err()
        {
            writing.abort();
            return;
        }
        let rest = async { while let Some(Ok(_)) = stream.next().await {} };
        if tokio::time::timeout(CLOSES_WITHIN, rest).await.is_err() {
            tracing::debug!("a socket's peer goes on after it was told to close");
        }
    }

    async fn read(
        &mut self,
        stream: &mut (impl StreamExt<Item = Result<Message, axum::Error>> + Unpin),
        outbox: &Outbox,
    ) -> Over {
        let tasks = self.api.sessions.tasks().clone();
        let mut over = self.until_over();
        let mut heard = Instant::now();
        let mut ping = interval_at(heard + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => {
                    heard = Instant::now();
                    let message = match message {
                        Some(Ok(message)) => message,
                        Some(Err(error)) => return closing_of(error),
                        None => return None,
                    };
                    match self.take(message, outbox).await {
                        Ok(Taken::Renewed) => over = self.until_over(),
                        Ok(Taken::Done) => {}
                        Err(over) => return over,
                    }
                }
                closing = &mut over => return Some(closing),
                () = tasks.stopping() => return Some(RESTARTING),
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return None;
                    }
                    if outbox.send(Message::Ping(Bytes::new())).await == Err(Gone) {
                        return None;
                    }
                }
            }
        }
    }

    /// Resolves once what the socket was opened with is good no more.
    fn until_over(&self) -> Pin<Box<dyn Future<Output = Closing> + Send>> {
        let accounts = Arc::clone(&self.api.accounts);
        let user = self.pass.user.clone();
        Box::pin(async move {
            let expires = async {
                match user.good_until {
                    Some(at) => {
                        sleep_until(Instant::now() + at.since(clock::now()) + RENEWAL_GRACE).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = accounts.until_over(&user) => SIGNED_OUT,
                () = expires => EXPIRED,
            }
        })
    }

    async fn take(&mut self, message: Message, outbox: &Outbox) -> Result<Taken, Over> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Some(NO_BINARY)),
            // They are answered by the library, and only counted here.
            Message::Ping(_) | Message::Pong(_) => {
                return match self.pings.check() {
                    Ok(()) => Ok(Taken::Done),
                    Err(_) => Err(Some(TOO_MANY)),
                };
            }
            Message::Close(_) => return Err(None),
        };
        if self.messages.check().is_err() {
            return self
                .refuse(&About::default(), Error::Overloaded, outbox)
                .await;
        }
        let message = match Incoming::read(text.as_bytes()) {
            Ok(message) => message,
            Err(error) => return self.refuse(&About::default(), error, outbox).await,
        };
        let about = message.about();
        match self.answer(message, outbox).await {
            Ok(Some(answer)) => {
                outbox.say(answer).await.map_err(|Gone| None)?;
                Ok(Taken::Done)
            }
            Ok(None) => Ok(Taken::Done),
            Err(Answered::Renewed) => {
                let answer = about.message("authenticated", json!({}));
                outbox.say(answer).await.map_err(|Gone| None)?;
                Ok(Taken::Renewed)
            }
            Err(Answered::Refused(error)) => self.refuse(&about, error, outbox).await,
        }
    }

    /// Tells the client what is wrong with its message. One that does not listen is
    /// closed.
    async fn refuse(&self, about: &About, error: Error, outbox: &Outbox) -> Result<Taken, Over> {
        metrics::socket_message_refused(error.code());
        if self.refusals.check().is_err() {
            return Err(Some(TOO_MANY));
        }
        outbox
            .say(about.error(&error, None))
            .await
            .map_err(|Gone| None)?;
        Ok(Taken::Done)
    }

    /// Acts on a message. `None`: its answer comes by itself.
    async fn answer(
        &mut self,
        message: Incoming,
        outbox: &Outbox,
    ) -> Result<Option<String>, Answered> {
        let about = message.about();
        match message.r#type.as_str() {
            "ping" => Ok(Some(about.message("pong", json!({})))),
            "authenticate" => {
                let Authenticate { token } = message.payload()?;
                self.renew(&token).await?;
                Err(Answered::Renewed)
            }
            "cancel" => {
                let Cancel { id } = message.payload()?;
                if !self.under_way.cancel(&id) {
                    return Err(Error::NotFound("message under way").into());
                }
                Ok(Some(about.message("cancelling", json!({ "id": id }))))
            }
            "subscribe" => {
                let Subscribe { after_seq } = message.payload()?;
                let session = self.session_of(&message, Right::View).await?;
                let id = session.id();
                self.watched.retain(|_, it| !it.is_finished());
                if self.watched.len() >= WATCHED_MAX && !self.watched.contains_key(&id) {
                    return Err(Answered::Refused(too_many("watched sessions", WATCHED_MAX)));
                }
                let answer = about.session(id).message(
                    "subscribed",
                    sessions::standing(&session, &self.api.sessions.control_of(&session)),
                );
                // The answer goes before the first event.
                outbox.say(answer).await.map_err(|Gone| Error::Overloaded)?;
                let following = self.api.sessions.follow(&session, after_seq);
                let forward = sessions::forward(id, following, outbox.clone());
                self.watched
                    .insert(id, self.spawn("socket's session", forward));
                Ok(None)
            }
            "unsubscribe" => {
                let session = self.session_of(&message, Right::View).await?.id();
                self.watched.remove(&session);
                Ok(Some(
                    about.session(session).message("unsubscribed", json!({})),
                ))
            }
            "subscribe_frames" => {
                let wish = message.payload::<frames::Subscription>()?;
                let wish = wish.wish().map_err(within_payload)?;
                let session = self.session_of(&message, Right::View).await?;
                let id = session.id();
                self.seen.retain(|_, it| !it.is_finished());
                if self.seen.len() >= SEEN_MAX && !self.seen.contains_key(&id) {
                    return Err(Answered::Refused(too_many("sessions seen", SEEN_MAX)));
                }
                let viewer = self.api.sessions.view(&session, wish)?;
                let answer = about.session(id).message("subscribed_frames", json!({}));
                outbox.say(answer).await.map_err(|Gone| Error::Overloaded)?;
                let forward = frames::forward(id, viewer, outbox.clone());
                self.seen
                    .insert(id, self.spawn("socket's live view", forward));
                Ok(None)
            }
            "unsubscribe_frames" => {
                let session = self.session_of(&message, Right::View).await?.id();
                self.seen.remove(&session);
                let answer = about
                    .session(session)
                    .message("unsubscribed_frames", json!({}));
                Ok(Some(answer))
            }
            "input" => {
                self.act(&message, outbox).await?;
                Ok(None)
            }
            "subscribe_instances" => {
                self.for_the_whole_account()?;
                let answer = about.message("subscribed_instances", json!({}));
                outbox.say(answer).await.map_err(|Gone| Error::Overloaded)?;
                let forward =
                    instances::forward(self.api.clone(), self.pass.user.clone(), outbox.clone());
                self.instances = Some(self.spawn("socket's instances", forward));
                Ok(None)
            }
            "unsubscribe_instances" => {
                self.instances = None;
                Ok(Some(about.message("unsubscribed_instances", json!({}))))
            }
            "control" => Ok(Some(self.steer(&message).await?)),
            "answer_handoff" => Ok(Some(self.answer_handoff(&message).await?)),
            kind => {
                let kind = kind.to_owned();
                match asked(&kind, message.json()) {
                    Some(asked) => {
                        let asked = asked.map_err(within_payload)?;
                        if asked.session_id.is_some() {
                            return Err(Error::invalid(
                                "payload.session_id",
                                "goes beside the payload",
                            )
                            .into());
                        }
                        self.begin_command(&message, asked.request()?, outbox)
                            .await?;
                        Ok(None)
                    }
                    None => Err(Error::invalid("type", "there is no such message").into()),
                }
            }
        }
    }

    /// Runs a command; its answer comes when it is done.
    async fn begin_command(
        &self,
        message: &Incoming,
        mut request: crate::sessions::Request,
        outbox: &Outbox,
    ) -> Result<(), Error> {
        let permit = Arc::clone(&self.commands).try_acquire_owned();
        let Ok(permit) = permit else {
            return Err(too_many("commands under way", COMMANDS_MAX));
        };
        let (session, driver) = self.session_to_drive(message).await?;
        request.driver = driver;
        let Some(cancelled) = self.under_way.begin(message.id.as_deref()) else {
            return Err(Error::invalid("id", "a message with this id is under way"));
        };
        request.cancelled = Some(cancelled);
        let (id, about) = (session.id(), message.about().session(session.id()));
        let (outbox, under_way) = (outbox.clone(), self.under_way.clone());
        let name = message.id.clone();
        // Here, so that they begin in the order in which they were read.
        let begun = self.api.sessions.begin(session, request);
        // It goes on where the client leaves: what became of it is in the history.
        self.api
            .sessions
            .tasks()
            .spawn("socket's command", async move {
                let performed = match begun {
                    Ok(begun) => begun.run().await,
                    Err(error) => Err(error),
                };
                under_way.finish(name.as_deref());
                let answer = match performed {
                    Ok(performed) => match Done::new(id, performed).into_text() {
                        Ok(text) => about.message_of_json("reply", text),
                        Err(error) => about.error(&error, None),
                    },
                    Err(CommandError { command, error }) => about.error(&error, Some(command)),
                };
                drop(permit);
                if outbox.say(answer).await == Err(Gone) {
                    tracing::debug!(session.id = %id, "nobody is there for a command's answer");
                }
            });
        Ok(())
    }

    /// Does what a person does; an answer comes only where one is asked for, or where it
    /// could not be done.
    async fn act(&self, message: &Incoming, outbox: &Outbox) -> Result<(), Error> {
        let input = message.payload::<Input>()?;
        let session = self.session_of(message, Right::Drive).await?;
        let driver = self.driver_of(&session).ok_or(Error::ControlNotHeld)?;
        if let Some(answering) = self
            .api
            .sessions
            .input(&session, driver, input)
            .map_err(within_payload)?
        {
            // As many wait for one as the session lets: it bounds them.
            let about = message.about().session(session.id());
            let answer = frames::answer(about, answering, outbox.clone());
            self.api.sessions.tasks().spawn("input's answer", answer);
        }
        Ok(())
    }

    /// The session that a message is for, if its sender may go that far with it.
    pub(super) async fn session_of(
        &self,
        message: &Incoming,
        right: Right,
    ) -> Result<OwnedSession, Error> {
        let sessions = &self.api.sessions;
        let session = match (&message.session_id, self.pass.session) {
            (Some(id), _) => {
                let id = id.parse().map_err(|_| Error::NotFound("session"))?;
                self.pass.permit(id, right)?;
                sessions.owned(&self.pass.user, id).await?
            }
            (None, Some(only)) => {
                self.pass.permit(only, right)?;
                sessions.owned(&self.pass.user, only).await?
            }
            (None, None) => {
                self.for_the_whole_account()?;
                if right < Right::Own {
                    return Err(Error::invalid("session_id", "is missing"));
                }
                sessions.only_session(&self.pass.user).await?
            }
        };
        Ok(session)
    }

    fn for_the_whole_account(&self) -> Result<(), Error> {
        if self.pass.session.is_some() || self.pass.right < Right::Own {
            return Err(Error::Forbidden("this socket is for less than that"));
        }
        Ok(())
    }

    /// Goes on with a newer token of the same user.
    async fn renew(&mut self, token: &str) -> Result<(), Error> {
        if self.pass.share.is_some() {
            return Err(Error::Forbidden("a share cannot be renewed"));
        }
        let user = self.api.accounts.authenticate(token).await?;
        if user.id != self.pass.user.id {
            return Err(Error::Forbidden("this socket is somebody else's"));
        }
        self.pass.user = user;
        Ok(())
    }

    fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortOnDropHandle<Option<()>> {
        AbortOnDropHandle::new(self.api.sessions.tasks().spawn(name, task))
    }
}

enum Taken {
    Done,
    /// The socket has a newer token.
    Renewed,
}

/// Why a message has no answer of its own.
enum Answered {
    Renewed,
    Refused(Error),
}

impl From<Error> for Answered {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

fn too_many(name: &'static str, limit: usize) -> Error {
    Error::QuotaReached {
        name,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        retry_after: Some(Duration::from_secs(1)),
    }
}

/// What the peer is told of what it did wrong.
fn closing_of(error: axum::Error) -> Over {
    use tungstenite::Error as Wire;
    let error = error.into_inner().downcast::<Wire>().ok()?;
    match *error {
        Wire::Capacity(_) => Some(Closing::new(1009, "a message is larger than 1 MiB")),
        Wire::Utf8(_) => Some(Closing::new(1007, "a text is not UTF-8")),
        Wire::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => None,
        Wire::Protocol(_) => Some(Closing::new(1002, "this is not the WebSocket protocol")),
        _ => None,
    }
}
