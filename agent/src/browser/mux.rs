//! Clients of CDP on the browser's one pipe. Each has a browser-level session of its
//! own (`Target.attachToBrowserTarget`), so that contexts, auto-attaching and all that
//! it switches on are its own and go with it; the pages that it attaches to are
//! followed, and nobody sees another's.
//!
//! ```text
//! client ─▶ Request::read ─▶ policy ─▶ id, session ─▶ writer ─▶ pipe
//! client ◀─ Queue ◀──────── id, session ◀───────────── reader ◀─ pipe
//! ```
//!
//! Frames from Chrome are told apart by their first bytes (the id of an answer) or
//! their last (the session of an event) and are not parsed, except the few that tell
//! of sessions.

mod message;
mod policy;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use browserfleet_proto::limits::TUNNELS_MAX;
use bytes::Bytes;
use headless_chrome::protocol::cdp::{Browser as BrowserDomain, Target};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cdp::{CallError, Client};
use super::{EndReason, TunnelEnd, TunnelWish};
use crate::tasks;
pub(super) use message::Pieces;
use message::Request;
use policy::{Folders, Rule};
pub use queue::Part;
use queue::Queue;

/// Ids from here on are of clients' calls. Below 2^31: Chrome counts with a sign.
pub(super) const TUNNELED: u32 = 1 << 30;
/// Calls of one client that wait for their answers. Playwright has some ten for each
/// page that it opens.
const CALLS_MAX: usize = 16 * 1024;
/// How long the browser may take to let a client go.
const LEAVES_WITHIN: Duration = Duration::from_secs(10);
/// From this size on a message is read aside: it takes milliseconds, and the agent has
/// one thread.
const READ_ASIDE_BYTES: usize = 1024 * 1024;
/// Where the session of a frame is looked for, from its end. Chrome writes it last.
const TAIL_BYTES: usize = 128;

/// All clients of one browser.
#[derive(Debug)]
pub(super) struct Mux {
    state: Mutex<State>,
    writer: mpsc::Sender<Pieces>,
    /// Bytes of large messages that wait for any of its clients.
    large: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    last_tunnel: u64,
    last_id: u32,
    joined: HashMap<u64, Joined>,
    /// Whose each of Chrome's sessions is.
    sessions: HashMap<String, u64>,
    calls: HashMap<u32, Call>,
    closed: bool,
}

#[derive(Debug)]
struct Joined {
    /// The browser-level session that it has.
    base: String,
    /// The session that its socket is: that one, or one of a page.
    root: String,
    queue: Arc<Queue>,
    calls: usize,
}

#[derive(Debug)]
struct Call {
    tunnel: u64,
    /// The client's own.
    id: i32,
    /// As the client named it; `None`: the one that its socket is.
    session: Option<String>,
}

/// A client that is joined. Dropping it lets it go, and all that was its own.
#[derive(Debug)]
pub struct Tunnel {
    _joined: Joining,
    side: Arc<Side>,
}

/// A client's side of the mux.
#[derive(Debug)]
struct Side {
    number: u64,
    root: String,
    mux: Arc<Mux>,
    queue: Arc<Queue>,
    folders: Folders,
    keeps_browser: bool,
    client: Client,
    kill: mpsc::Sender<EndReason>,
}

/// What a browser lets its clients use.
#[derive(Debug, Clone)]
pub(super) struct Grounds {
    pub(super) client: Client,
    pub(super) folder: PathBuf,
    /// Where its downloads go.
    pub(super) downloads: PathBuf,
    /// Takes the reason of an end that a client asks for.
    pub(super) kill: mpsc::Sender<EndReason>,
}

impl State {
    /// Chrome answers no call on a session that has ended.
    fn give_up_calls(&mut self, tunnel: u64, session: &str) {
        let before = self.calls.len();
        self.calls
            .retain(|_, it| it.tunnel != tunnel || it.session.as_deref() != Some(session));
        let given_up = before - self.calls.len();
        if let Some(joined) = self.joined.get_mut(&tunnel) {
            joined.calls = joined.calls.saturating_sub(given_up);
        }
    }
}

impl Mux {
    pub(super) fn new(writer: mpsc::Sender<Pieces>) -> Self {
        Self {
            state: Mutex::default(),
            writer,
            large: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer to a client's call.
    pub(super) fn answer(&self, id: u32, frame: Vec<u8>) {
        let mut state = self.state();
        // Whoever asked may be gone.
        let Some(call) = state.calls.remove(&id) else {
            return;
        };
        let Some(joined) = state.joined.get_mut(&call.tunnel) else {
            return;
        };
        joined.calls -= 1;
        let queue = Arc::clone(&joined.queue);
        let digits = br#"{"id":"#.len();
        let rest = frame[digits..]
            .iter()
            .position(|it| !it.is_ascii_digit())
            .map_or(frame.len(), |it| it + digits);
        // A session that is told in an answer alone is the client's too.
        if let Some(session) = session_in_answer(&frame[rest..]) {
            state.sessions.insert(session.to_owned(), call.tunnel);
        }
        drop(state);
        let frame = Bytes::from(frame);
        let id = Bytes::from(format!("{{\"id\":{}", call.id));
        queue.push(match tail_of(&frame).filter(|_| call.session.is_none()) {
            Some(tail) => Pieces::of([id, frame.slice(rest..tail.starts), BRACE]),
            None => Pieces::of([id, frame.slice(rest..)]),
        });
    }

    /// Something that Chrome tells. Given back where it is told to nobody here.
    pub(super) fn hear(&self, frame: Vec<u8>) -> Option<Vec<u8>> {
        let Some(tail) = tail_of(&frame) else {
            self.hear_of_roots(&frame);
            return Some(frame);
        };
        let session = &frame[tail.session.clone()];
        let mut state = self.state();
        let Some(tunnel) = std::str::from_utf8(session)
            .ok()
            .and_then(|it| state.sessions.get(it).copied())
        else {
            return Some(frame);
        };
        let joined = state.joined.get(&tunnel)?;
        let queue = Arc::clone(&joined.queue);
        let on_root = joined.root.as_bytes() == session;
        // What its base hears of the page that its socket is, is not for the client.
        let is_hidden = !on_root && joined.base.as_bytes() == session;
        match Change::read(&frame) {
            Some(Change::Attached(session)) => drop(state.sessions.insert(session, tunnel)),
            Some(Change::Detached(session)) => {
                let is_root = joined.root == session;
                state.sessions.remove(&session);
                state.give_up_calls(tunnel, &session);
                if is_root {
                    queue.end(TunnelEnd::TargetGone);
                    return None;
                }
            }
            None => {}
        }
        drop(state);
        if is_hidden {
            return None;
        }
        let frame = Bytes::from(frame);
        queue.push(if on_root {
            Pieces::of([frame.slice(..tail.starts), BRACE])
        } else {
            Pieces(vec![frame])
        });
        None
    }

    /// A client's own session may end without its will: with the browser's.
    fn hear_of_roots(&self, frame: &[u8]) {
        if let Some(Change::Detached(session)) = Change::read(frame) {
            let mut state = self.state();
            if let Some(tunnel) = state.sessions.remove(&session)
                && let Some(joined) = state.joined.get(&tunnel)
            {
                joined.queue.end(TunnelEnd::TargetGone);
            }
        }
    }

    /// A frame that is larger than any may be; these are its ends.
    pub(super) fn too_large(&self, id: Option<u32>, tail: &[u8]) {
        let mut state = self.state();
        let tunnel = match id {
            Some(id) => state.calls.remove(&id).map(|it| it.tunnel),
            None => tail_of(tail).and_then(|it| {
                let session = std::str::from_utf8(&tail[it.session]).ok()?;
                state.sessions.get(session).copied()
            }),
        };
        if let Some(joined) = tunnel.and_then(|it| state.joined.get(&it)) {
            joined.queue.cut(TunnelEnd::TooLarge);
        }
    }

    /// The browser is gone.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for joined in state.joined.values() {
            joined.queue.end(TunnelEnd::BrowserGone);
        }
    }

    /// Lets a client join.
    pub(super) async fn join(
        self: Arc<Self>,
        grounds: Grounds,
        wish: TunnelWish,
        deadline: Instant,
    ) -> Result<Tunnel, TunnelEnd> {
        let queue = Arc::new(Queue::new(Arc::clone(&self.large)));
        let number = {
            let mut state = self.state();
            if state.closed {
                return Err(TunnelEnd::BrowserGone);
            }
            if state.joined.len() >= TUNNELS_MAX {
                return Err(TunnelEnd::TooMany);
            }
            state.last_tunnel += 1;
            let number = state.last_tunnel;
            let joined = Joined {
                base: String::new(),
                root: String::new(),
                queue: Arc::clone(&queue),
                calls: 0,
            };
            state.joined.insert(number, joined);
            number
        };
        // From here on, to be dropped takes it back.
        let mut joining = Joining {
            number,
            base: String::new(),
            mux: Arc::clone(&self),
            client: grounds.client.clone(),
        };
        let attach = Target::AttachToBrowserTarget(None);
        let attached = grounds.client.call(None, &attach, deadline).await;
        let base = attached.map_err(|error| why_not(&error))?.session_id;
        joining.base.clone_from(&base);
        let has_base = |joined: &mut Joined| {
            joined.base.clone_from(&base);
            // Until there is another, so that nothing of the base is for the client's ears
            // where its socket is a page's.
            if wish.target.is_none() {
                joined.root.clone_from(&base);
            }
        };
        self.own(number, &base, has_base);
        let mut root = base.clone();
        if let Some(target_id) = wish.target {
            let attach = Target::AttachToTarget {
                target_id,
                flatten: Some(true),
            };
            let attached = grounds.client.call(Some(&base), &attach, deadline).await;
            root = attached.map_err(|error| why_not(&error))?.session_id;
            self.own(number, &root, |joined| joined.root.clone_from(&root));
        }
        Ok(Tunnel {
            side: Arc::new(Side {
                number,
                root,
                mux: self,
                queue,
                folders: Folders {
                    own: grounds.folder,
                    downloads: grounds.downloads,
                },
                keeps_browser: wish.keeps_browser,
                client: grounds.client,
                kill: grounds.kill,
            }),
            _joined: joining,
        })
    }

    /// A session is a client's from now on, for this.
    fn own(&self, tunnel: u64, session: &str, purpose: impl FnOnce(&mut Joined)) {
        let mut state = self.state();
        state.sessions.insert(session.to_owned(), tunnel);
        if let Some(joined) = state.joined.get_mut(&tunnel) {
            purpose(joined);
        }
    }

    /// Whether a client may speak on this session: it is its own, and not the one that
    /// it has for a page's sake alone.
    fn is_open_to(&self, tunnel: u64, session: &str) -> bool {
        let state = self.state();
        let is_own = state.sessions.get(session) == Some(&tunnel);
        let joined = state.joined.get(&tunnel);
        is_own && joined.is_some_and(|it| it.base == it.root || it.base != session)
    }
}

fn why_not(error: &CallError) -> TunnelEnd {
    match error {
        CallError::Protocol { .. } | CallError::Crashed => TunnelEnd::NotFound,
        CallError::Closed | CallError::Deadline => TunnelEnd::BrowserGone,
    }
}

/// What a client has of the browser, from the moment that it asks. Dropped: no more.
#[derive(Debug)]
struct Joining {
    number: u64,
    base: String,
    mux: Arc<Mux>,
    client: Client,
}

impl Drop for Joining {
    fn drop(&mut self) {
        let mut state = self.mux.state();
        state.joined.remove(&self.number);
        state.sessions.retain(|_, tunnel| *tunnel != self.number);
        // Answers that are still to come are nobody's.
        state.calls.retain(|_, call| call.tunnel != self.number);
        let closed = state.closed;
        drop(state);
        if closed || self.base.is_empty() {
            return;
        }
        let detach = Target::DetachFromTarget {
            session_id: Some(std::mem::take(&mut self.base)),
            target_id: None,
        };
        // Where it waits for a debugger, every page that comes would wait for this one.
        let client = self.client.clone();
        tasks::spawn("leave the browser", async move {
            let latest = Instant::now() + LEAVES_WITHIN;
            if let Err(error) = client.call(None, &detach, latest).await {
                tracing::debug!(%error, "the browser was not told that a client is gone");
            }
        });
    }
}

impl Tunnel {
    /// The next part of what is said to the client.
    ///
    /// # Errors
    /// Why there is no more.
    pub async fn next(&self) -> Result<Part, TunnelEnd> {
        self.side.queue.next().await
    }

    /// Resolves if what waits was dropped: nobody need finish sending it.
    pub async fn is_cut(&self) -> TunnelEnd {
        self.side.queue.is_cut().await
    }

    /// Takes a message of the client. Returns once it is on its way, or answered.
    pub async fn say(&self, text: Bytes) {
        self.side.queue.has_room().await;
        let frame = if text.len() < READ_ASIDE_BYTES {
            self.side.frame(&text)
        } else {
            let side = Arc::clone(&self.side);
            let read = tokio::task::spawn_blocking(move || side.frame(&text));
            read.await.unwrap_or(None)
        };
        if let Some(frame) = frame
            && self.side.mux.writer.send(frame).await.is_err()
        {
            self.side.queue.end(TunnelEnd::BrowserGone);
        }
    }
}

impl Side {
    /// The frame that Chrome is to get. `None`: the client has its answer already.
    fn frame(&self, text: &Bytes) -> Option<Pieces> {
        let request = match Request::read(text) {
            Ok(request) => request,
            Err(fault) => {
                self.answer(fault.answer(None));
                return None;
            }
        };
        let session = request.session.as_deref();
        if let Some(session) = session
            && !self.mux.is_open_to(self.number, session)
        {
            self.answer(request.unknown_session().answer(Some(session)));
            return None;
        }
        let params = match self.folders.rule(&request.method, request.params) {
            Rule::Pass => None,
            Rule::Change(params) => Some(params),
            Rule::Refuse(why) => {
                self.answer(request.refused(why).answer(session));
                return None;
            }
            Rule::Close => {
                self.answer(request.done());
                self.queue.end(TunnelEnd::Closed);
                if !self.keeps_browser {
                    self.close_browser();
                }
                return None;
            }
        };
        let Some(id) = self.expect(&request) else {
            let why = format!("{CALLS_MAX} calls wait for their answers already");
            self.answer(request.refused(why).answer(session));
            return None;
        };
        Some(request.frame(text, id, &self.root, params))
    }

    /// Chrome ends by itself, and whoever looks after it knows why.
    fn close_browser(&self) {
        let told = self.kill.try_send(EndReason::BrowserClosed).is_ok();
        let close = BrowserDomain::Close(None);
        if !told || !self.client.post(None, &close) {
            tracing::debug!("the browser is being ended already");
        }
    }

    fn answer(&self, answer: Bytes) {
        self.queue.push(Pieces(vec![answer]));
    }

    /// An id for a call, under which its answer will come.
    fn expect(&self, request: &Request<'_>) -> Option<u32> {
        let mut state = self.mux.state();
        let joined = state.joined.get_mut(&self.number)?;
        if joined.calls >= CALLS_MAX {
            return None;
        }
        joined.calls += 1;
        state.last_id = (state.last_id + 1) % TUNNELED;
        let id = TUNNELED + state.last_id;
        state.calls.insert(
            id,
            Call {
                tunnel: self.number,
                id: request.id,
                session: request.session.as_deref().map(str::to_owned),
            },
        );
        Some(id)
    }
}

const BRACE: Bytes = Bytes::from_static(b"}");

/// The end of a frame that names its session.
struct Tail {
    /// Where the name is.
    session: Range<usize>,
    /// Where what names it begins.
    starts: usize,
}

/// A quote in a text of a page is escaped, so that none looks like this.
fn tail_of(frame: &[u8]) -> Option<Tail> {
    const BEFORE: &[u8] = br#","sessionId":""#;
    let end = frame.strip_suffix(br#""}"#)?.len();
    let from = end.saturating_sub(TAIL_BYTES);
    let last = frame[from..end]
        .windows(BEFORE.len())
        .rposition(|it| it == BEFORE)?;
    let starts = from + last;
    let session = starts + BEFORE.len()..end;
    let plain = |it: &u8| it.is_ascii_alphanumeric() || *it == b'-';
    frame[session.clone()]
        .iter()
        .all(plain)
        .then_some(Tail { session, starts })
}

/// The session that an answer tells of, if it is one that does.
fn session_in_answer(rest: &[u8]) -> Option<&str> {
    let rest = rest.strip_prefix(br#","result":{"sessionId":""#)?;
    let end = rest.iter().position(|it| *it == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// An event that tells of a session.
enum Change {
    Attached(String),
    Detached(String),
}

#[derive(Deserialize)]
struct Telling {
    params: Told,
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "sessionId")]
    session: String,
}

impl Change {
    fn read(frame: &[u8]) -> Option<Self> {
        let rest = frame.strip_prefix(br#"{"method":"Target."#)?;
        let change = if rest.starts_with(br#"attachedToTarget""#) {
            Self::Attached
        } else if rest.starts_with(br#"detachedFromTarget""#) {
            Self::Detached
        } else {
            return None;
        };
        let telling: Telling = serde_json::from_slice(frame).ok()?;
        Some(change(telling.params.session))
    }
}
