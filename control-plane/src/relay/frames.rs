//! Live views: one stream of each session that somebody sees or acts on, shared by all
//! who do.
//!
//! ```text
//! agent ─pieces─▶ Line ─▶ the newest picture ─▶ any number of viewers, each at its pace
//! agent ◀─wish, taken, input─ View ◀─ viewers, hands
//! ```
//!
//! There is one slot, and it has the newest picture: who joins finds it there, and who is
//! slow misses those between. A picture is written once, header and all, and shared. The
//! fastest viewer sets the pace of the agent. Pictures may be lost; input keeps its order
//! and is lost only with the stream.

mod line;
mod wish;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use browserfleet_proto::agent::v1::{LiveInput, OpenLive, to_agent::Body};
use browserfleet_proto::frame::{Cursor, Header};
use browserfleet_proto::ids::{InstanceId, LinkId, LiveId, SessionId};
use browserfleet_proto::limits::{INPUTS_BYTES_MAX, INPUTS_MAX};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub use line::{Downs, Line, Strange};
pub use wish::ViewWish;

use super::{NotSent, Relay};
use crate::telemetry::metrics;

/// How many may see one session at once.
pub const VIEWERS_MAX: usize = 256;
/// How long a stream stays for the next input where nobody sees anything.
const STAYS_FOR_INPUT: Duration = Duration::from_secs(30);
/// How long an agent may take until its stream is there, before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long after the end of its stream an agent is asked for another one: one that ends
/// at once would be asked without pause.
const ASK_ANEW_AFTER: Duration = Duration::from_millis(250);
/// Inputs of one session that wait for an answer.
const ANSWERS_MAX: usize = 16;

/// Whose pages, and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The session.
    pub session: SessionId,
    /// Where its browser is.
    pub instance: InstanceId,
    /// The lease's epoch.
    pub epoch: u64,
}

/// A picture, ready to be sent: cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// What is known of it.
    pub header: Header,
    /// The header as bytes, and the picture.
    pub message: Bytes,
}

/// There will be no more pictures: the session is over, or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over;

/// As many see the session as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// All live views.
#[derive(Debug, Default)]
pub(super) struct Views(Mutex<HashMap<SessionId, Arc<View>>>);

/// One session's.
#[derive(Debug)]
struct View {
    place: Place,
    shown: watch::Sender<Shown>,
    wanted: watch::Sender<Wanted>,
    /// The last picture that a viewer has.
    taken: watch::Sender<u64>,
    stream: Mutex<Stream>,
    /// Whether the agent's stream is there.
    up: watch::Sender<bool>,
    answers: Mutex<HashMap<u64, Answer>>,
    numbers: AtomicU64,
    /// Bytes that inputs may have which wait for the stream.
    room: Arc<Semaphore>,
    over: CancellationToken,
}

#[derive(Debug, Default, Clone)]
struct Shown {
    picture: Option<Frame>,
    cursor: Cursor,
    over: bool,
}

#[derive(Debug, Default)]
struct Wanted {
    wishes: BTreeMap<u64, ViewWish>,
    last_input: Option<Instant>,
}

/// The agent's stream, from when it is asked for.
#[derive(Debug)]
struct Stream {
    live: LiveId,
    inputs: mpsc::Sender<Doing>,
    /// Until the stream takes it.
    waiting: Option<mpsc::Receiver<Doing>>,
}

/// An input on its way, and its room.
#[derive(Debug)]
struct Doing {
    input: LiveInput,
    room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Answer {
    text: String,
    reply: oneshot::Sender<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Views {
    /// The session's view; a new one where there is none, which is to be kept.
    fn of(&self, place: Place, use_it: impl FnOnce(&Arc<View>)) -> (Arc<View>, Option<Keeper>) {
        let mut views = locked(&self.0);
        if let Some(view) = views.get(&place.session).filter(|it| it.place == place) {
            use_it(view);
            return (Arc::clone(view), None);
        }
        let view = Arc::new(View::new(place));
        use_it(&view);
        if let Some(before) = views.insert(place.session, Arc::clone(&view)) {
            before.end();
        }
        let keeper = Keeper(Arc::clone(&view));
        (view, Some(keeper))
    }

    /// Forgets a view if nobody wants it now. `false`: somebody does.
    fn forget_unwanted(&self, view: &Arc<View>) -> bool {
        let mut views = locked(&self.0);
        let unwanted = view.unwanted_from().is_some_and(|it| it <= Instant::now());
        if unwanted {
            remove(&mut views, view);
        }
        unwanted
    }

    /// A session is over, or elsewhere.
    pub(super) fn end(&self, session: SessionId) {
        let view = locked(&self.0).remove(&session);
        if let Some(view) = view {
            view.end();
        }
    }

    fn find(&self, session: SessionId) -> Option<Arc<View>> {
        locked(&self.0).get(&session).cloned()
    }

    /// How many see anything.
    pub(super) fn viewers(&self) -> usize {
        let views = locked(&self.0);
        let each = views.values().map(|it| it.wanted.borrow().wishes.len());
        each.sum()
    }
}

fn remove(views: &mut HashMap<SessionId, Arc<View>>, view: &Arc<View>) {
    let session = view.place.session;
    if views.get(&session).is_some_and(|it| Arc::ptr_eq(it, view)) {
        views.remove(&session);
    }
}

impl View {
    fn new(place: Place) -> Self {
        let (inputs, waiting) = mpsc::channel(INPUTS_MAX);
        Self {
            place,
            shown: watch::Sender::default(),
            wanted: watch::Sender::default(),
            taken: watch::Sender::new(0),
            stream: Mutex::new(Stream {
                live: LiveId::new(),
                inputs,
                waiting: Some(waiting),
            }),
            up: watch::Sender::new(false),
            answers: Mutex::default(),
            numbers: AtomicU64::new(1),
            room: Arc::new(Semaphore::new(INPUTS_BYTES_MAX)),
            over: CancellationToken::new(),
        }
    }

    fn end(&self) {
        self.shown.send_modify(|shown| shown.over = true);
        self.over.cancel();
        locked(&self.answers).clear();
    }

    /// When nobody wants it any more; `None`: somebody sees it.
    fn unwanted_from(&self) -> Option<Instant> {
        let wanted = self.wanted.borrow();
        if !wanted.wishes.is_empty() {
            return None;
        }
        let stays = wanted.last_input.map(|at| at + STAYS_FOR_INPUT);
        Some(stays.unwrap_or_else(Instant::now))
    }

    /// Resolves once nobody has wanted it for as long as it stays.
    async fn unwanted(&self) {
        let mut wanted = self.wanted.subscribe();
        loop {
            wanted.mark_unchanged();
            let unwanted = async {
                match self.unwanted_from() {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = unwanted => return,
                // Never closed: it is our own.
                _ = wanted.changed() => {}
            }
        }
    }

    /// What the agent is asked for a new stream with.
    fn asking(&self) -> OpenLive {
        let mut stream = locked(&self.stream);
        stream.live = LiveId::new();
        if stream.waiting.is_none() {
            let (inputs, waiting) = mpsc::channel(INPUTS_MAX);
            stream.inputs = inputs;
            stream.waiting = Some(waiting);
        }
        OpenLive {
            live_id: stream.live.to_string(),
            session_id: self.place.session.to_string(),
            epoch: self.place.epoch,
            after_number: self.last_number(),
        }
    }

    fn last_number(&self) -> u64 {
        let shown = self.shown.borrow();
        let newest = shown.picture.as_ref().map_or(0, |it| it.header.sequence);
        newest.max(*self.taken.borrow())
    }

    fn leave(&self, viewer: u64) {
        metrics::viewers(-1);
        self.wanted.send_modify(|wanted| {
            wanted.wishes.remove(&viewer);
            if wanted.wishes.is_empty() {
                // Nobody keeps it new from now on.
                self.shown.send_modify(|shown| {
                    if let Some(picture) = shown.picture.take() {
                        self.take(picture.header.sequence);
                    }
                });
            }
        });
    }

    /// `false`: there is no room.
    fn send(&self, input: LiveInput) -> bool {
        let bytes = u32::try_from(input.json.len()).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) else {
            return false;
        };
        let stream = locked(&self.stream);
        stream.inputs.try_send(Doing { input, room }).is_ok()
    }

    fn take(&self, number: u64) {
        self.taken.send_if_modified(|taken| {
            let newer = number > *taken;
            *taken = number.max(*taken);
            newer
        });
    }

    fn answered(&self, number: u64, text: &str, last: bool) {
        let mut answers = locked(&self.answers);
        if let Some(answer) = answers.get_mut(&number) {
            answer.text.push_str(text);
        }
        if last && let Some(answer) = answers.remove(&number) {
            // Whoever asked may have left.
            let _left = answer.reply.send(answer.text);
        }
    }
}

impl Relay {
    /// Lets somebody see a session. A view that was not there before is to be kept.
    ///
    /// # Errors
    /// [`Full`]
    pub fn look(&self, place: Place, wish: ViewWish) -> Result<(Viewer, Option<Keeper>), Full> {
        let mut number = None;
        let (view, keeper) = self.views.of(place, |view| {
            view.wanted.send_if_modified(|wanted| {
                let room = wanted.wishes.len() < VIEWERS_MAX;
                if room {
                    let new = view.numbers.fetch_add(1, Ordering::Relaxed);
                    wanted.wishes.insert(new, wish);
                    number = Some(new);
                }
                room
            });
        });
        let Some(number) = number else {
            return Err(Full);
        };
        metrics::viewers(1);
        let viewer = Viewer {
            shown: view.shown.subscribe(),
            view,
            number,
            wish,
            seen: 0,
            cursor: Cursor::default(),
            next_at: Instant::now(),
        };
        Ok((viewer, keeper))
    }

    /// Sends what somebody does, after what was done before. A view that was not there
    /// before is to be kept.
    ///
    /// # Errors
    /// [`NotSent::Busy`] where too much waits already.
    pub fn act(
        &self,
        place: Place,
        input: String,
        answers: bool,
    ) -> Result<(Option<oneshot::Receiver<String>>, Option<Keeper>), NotSent> {
        let (view, keeper) = self.views.of(place, |view| {
            view.wanted
                .send_modify(|wanted| wanted.last_input = Some(Instant::now()));
        });
        let mut number = 0;
        let mut answer = None;
        if answers {
            let (reply, receiver) = oneshot::channel();
            let mut waiting = locked(&view.answers);
            waiting.retain(|_, it| !it.reply.is_closed());
            if waiting.len() >= ANSWERS_MAX {
                return Err(NotSent::Busy);
            }
            number = view.numbers.fetch_add(1, Ordering::Relaxed);
            let text = String::new();
            waiting.insert(number, Answer { text, reply });
            answer = Some(receiver);
        }
        let json = input;
        if view.send(LiveInput { number, json }) {
            return Ok((answer, keeper));
        }
        locked(&view.answers).remove(&number);
        Err(NotSent::Busy)
    }

    /// How many see anything.
    pub fn viewers(&self) -> usize {
        self.views.viewers()
    }

    /// Pictures of a session are elsewhere from now on.
    pub fn end_view(&self, session: SessionId) {
        self.views.end(session);
    }

    fn ask_for(&self, view: &View) -> Option<LinkId> {
        let link = self.links.find(view.place.instance)?;
        match self.say(view.place.instance, Body::OpenLive(view.asking())) {
            Ok(()) => Some(link.id),
            Err(error) => {
                tracing::debug!(session.id = %view.place.session, %error, "could not ask for a live view");
                None
            }
        }
    }
}

/// Sees to it that a view has its agent's stream for as long as somebody wants it.
#[derive(Debug)]
#[must_use = "a view is nothing without its keeper"]
pub struct Keeper(Arc<View>);

impl Keeper {
    /// Whose view it is.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.0.place.session
    }

    /// Keeps it until nobody wants it, or it is over.
    pub async fn run(self, relay: &Relay) {
        let Self(view) = self;
        let mut links = relay.changes();
        let mut up = view.up.subscribe();
        let mut asked: Option<(LinkId, Instant)> = None;
        let mut was_up = false;
        loop {
            links.mark_unchanged();
            let is_up = *up.borrow_and_update();
            if is_up {
                (asked, was_up) = (None, true);
            } else if std::mem::replace(&mut was_up, is_up) {
                sleep(ASK_ANEW_AFTER).await;
                continue;
            } else {
                let link = relay.links.find(view.place.instance).map(|it| it.id);
                let waits =
                    asked.is_some_and(|(over, at)| Some(over) == link && at.elapsed() < ASK_AGAIN);
                if !waits {
                    asked = relay.ask_for(&view).map(|link| (link, Instant::now()));
                }
            }
            tokio::select! {
                () = view.over.cancelled() => return,
                () = view.unwanted() => if relay.views.forget_unwanted(&view) {
                    view.end();
                    return;
                },
                _ = links.changed() => {}
                _ = up.changed() => {}
                () = sleep(ASK_AGAIN) => {}
            }
        }
    }
}

/// Somebody who sees a session.
#[derive(Debug)]
pub struct Viewer {
    view: Arc<View>,
    shown: watch::Receiver<Shown>,
    number: u64,
    wish: ViewWish,
    /// The last picture that they have.
    seen: u64,
    cursor: Cursor,
    next_at: Instant,
}

impl Viewer {
    /// The newest picture, once there is one that they do not have and their pace allows
    /// it; or the newest cursor. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`Over`]
    pub async fn next(&mut self) -> Result<Frame, Over> {
        loop {
            sleep_until(self.next_at).await;
            let shown = self.shown.borrow_and_update().clone();
            if shown.over {
                return Err(Over);
            }
            if let Some(frame) = shown.picture {
                let header = frame.header;
                if header.sequence > self.seen {
                    self.seen = header.sequence;
                    self.cursor = header.cursor;
                    let every = Duration::from_secs(1) / self.wish.max_fps.max(1);
                    self.next_at = (self.next_at + every).max(Instant::now());
                    self.view.take(header.sequence);
                    return Ok(frame);
                }
                if shown.cursor != self.cursor {
                    self.cursor = shown.cursor;
                    let header = Header {
                        format: None,
                        cursor: shown.cursor,
                        ..header
                    };
                    let message = header.begin(0).freeze();
                    return Ok(Frame { header, message });
                }
            }
            if self.shown.changed().await.is_err() {
                return Err(Over);
            }
        }
    }

    /// Other pictures from now on.
    pub fn change(&mut self, wish: ViewWish) {
        self.wish = wish;
        let number = self.number;
        self.view.wanted.send_modify(|wanted| {
            wanted.wishes.insert(number, wish);
        });
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.view.leave(self.number);
    }
}
