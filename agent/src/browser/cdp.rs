//! The Chrome DevTools Protocol over Chrome's debugging pipe: frames that end
//! with a NUL byte, calls with a deadline each, events as they come.
//!
//! One task reads, one writes. The reader only finds out whom a frame is for;
//! whoever made the call decodes it. A late answer is counted and thrown away.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use browserfleet_proto::limits::TUNNEL_MESSAGE_OUT_BYTES_MAX;
use headless_chrome::protocol::cdp::types::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::mux::{Mux, Pieces, TUNNELED};
use crate::tasks;

/// Frames that wait for Chrome to read them. One command has at most
/// 64 keys on their way, each with two frames.
const OUTGOING_MAX: usize = 256;
/// What is read from the pipe or written to it at once: all that the kernel keeps of one.
const PIPE_BYTES: usize = 64 * 1024;
/// Largest frame that Chrome may send, in bytes: what a client may get, with room for
/// what is ours in it. The rest of a larger one is read and dropped.
const FRAME_BYTES_MAX: usize = TUNNEL_MESSAGE_OUT_BYTES_MAX + 64 * 1024;
/// Ids from here on are of frames whose answers nobody reads. Those of clients' calls
/// come after them.
const POSTED: u32 = TUNNELED / 2;
/// Frames of clients that wait for Chrome to read them. Each client has one here at
/// most, and waits for its turn with the next.
const TUNNELED_MAX: usize = 16;
/// How much of both ends of a frame is kept that is too large to be.
const ENDS_BYTES: usize = 256;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// It did not come in time.
    Deadline,
    /// The browser, or the tab, is gone.
    Closed,
    /// The tab's process crashed.
    Crashed,
    /// Chrome said no.
    Protocol {
        /// JSON-RPC's.
        code: i64,
        /// Chrome's.
        message: String,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("no answer in time"),
            Self::Closed => f.write_str("the browser or its tab is gone"),
            Self::Crashed => f.write_str("the page's process crashed"),
            Self::Protocol { code, message } => write!(f, "{message} ({code})"),
        }
    }
}

/// Something that Chrome tells.
#[derive(Debug, Deserialize)]
pub(super) struct Event<'a> {
    pub(super) method: &'a str,
    #[serde(borrow, rename = "sessionId")]
    pub(super) session: Option<&'a str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    /// Its parameters, as this type; `None` where they are something else.
    pub(super) fn params<T: Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_str(self.params?.get()).ok()
    }
}

/// Calls Chrome. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    outgoing: mpsc::Sender<Vec<u8>>,
    calls: Arc<Calls>,
    mux: Arc<Mux>,
}

#[derive(Debug, Default)]
struct Calls {
    last: AtomicU32,
    late: AtomicU64,
    signs: AtomicU64,
    /// `None`: the pipe has ended.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Vec<u8>>>>>,
}

#[derive(Serialize)]
struct Call<'a, M> {
    id: u32,
    method: &'static str,
    #[serde(rename = "sessionId", skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    params: &'a M,
}

#[derive(Deserialize)]
struct Answer<T> {
    result: Option<T>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    code: i64,
    message: String,
}

impl Client {
    /// Speaks over these pipes. `listen` gets each event on the reader's task, so
    /// it must not take long; `closed` is called when the pipe has ended.
    pub(super) fn start(
        commands: impl AsyncWrite + Send + Unpin + 'static,
        answers: impl AsyncRead + Send + Unpin + 'static,
        listen: impl FnMut(&Client, Event<'_>) + Send + 'static,
        closed: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (outgoing, frames) = mpsc::channel(OUTGOING_MAX);
        let (tunneled, of_tunnels) = mpsc::channel(TUNNELED_MAX);
        let calls = Arc::new(Calls {
            waiting: Mutex::new(Some(HashMap::new())),
            ..Calls::default()
        });
        let client = Self {
            outgoing,
            calls,
            mux: Arc::new(Mux::new(tunneled)),
        };
        let writing = write(Arc::clone(&client.calls), commands, frames, of_tunnels);
        tasks::spawn("browser writer", writing);
        let reader = client.clone();
        tasks::spawn("browser reader", async move {
            read(&reader, answers, listen).await;
            reader.calls.waiting().take();
            reader.mux.close();
            closed();
        });
        client
    }

    /// Makes one call and reads its answer.
    pub(super) async fn call<M: Method + Serialize>(
        &self,
        session: Option<&str>,
        method: &M,
        deadline: Instant,
    ) -> Result<M::ReturnObject, CallError> {
        let frame = self.exchange(session, method, deadline).await?;
        decode(&frame)
    }

    /// Makes one call and gives the answer's frame, for [`decode`].
    pub(super) async fn exchange<M: Method + Serialize>(
        &self,
        session: Option<&str>,
        method: &M,
        deadline: Instant,
    ) -> Result<Vec<u8>, CallError> {
        let id = self.calls.next_id();
        let (sender, answer) = oneshot::channel();
        match self.calls.waiting().as_mut() {
            Some(waiting) => drop(waiting.insert(id, sender)),
            None => return Err(CallError::Closed),
        }
        // Whoever gives up is forgotten, so that nothing adds up.
        let _forget = Forget {
            calls: &self.calls,
            id,
        };
        let frame = encode(id, session, method);
        let exchange = async {
            self.outgoing
                .send(frame)
                .await
                .map_err(|_| CallError::Closed)?;
            answer.await.map_err(|_| CallError::Closed)
        };
        match timeout_at(deadline, exchange).await {
            Ok(frame) => frame,
            Err(_) => Err(CallError::Deadline),
        }
    }

    /// Makes a call whose answer nobody needs. Does not wait: `false` if there
    /// was no room for it.
    pub(super) fn post<M: Method + Serialize>(&self, session: Option<&str>, method: &M) -> bool {
        let id = self.calls.next_id() + POSTED;
        self.outgoing.try_send(encode(id, session, method)).is_ok()
    }

    /// The clients that share the pipe.
    pub(super) fn mux(&self) -> Arc<Mux> {
        Arc::clone(&self.mux)
    }

    /// Grows with whatever Chrome reads and writes, also within one large frame: it
    /// lives.
    pub(super) fn signs_of_life(&self) -> u64 {
        self.calls.signs.load(Ordering::Relaxed)
    }
}

impl Calls {
    fn live(&self) {
        self.signs.fetch_add(1, Ordering::Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u32, oneshot::Sender<Vec<u8>>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Below [`POSTED`]. Chrome takes none twice while it answers the first.
    fn next_id(&self) -> u32 {
        self.last.fetch_add(1, Ordering::Relaxed) % (POSTED - 1) + 1
    }

    fn settle(&self, id: u32, frame: Vec<u8>) {
        if id >= POSTED {
            if let Err(error) = decode::<serde::de::IgnoredAny>(&frame) {
                tracing::debug!(%error, "the browser refused what it was told");
            }
            return;
        }
        let waiting = self.waiting().as_mut().and_then(|it| it.remove(&id));
        if waiting.is_none_or(|it| it.send(frame).is_err()) {
            let late = self.late.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(late, "an answer came after its deadline");
        }
    }
}

struct Forget<'a> {
    calls: &'a Calls,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.calls.waiting().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

fn encode<M: Method + Serialize>(id: u32, session: Option<&str>, params: &M) -> Vec<u8> {
    let call = Call {
        id,
        method: M::NAME,
        session,
        params,
    };
    let mut frame = serde_json::to_vec(&call).expect("the protocol's types have JSON");
    frame.push(0);
    frame
}

/// Reads an answer's frame. What `T` borrows, it borrows from the frame.
pub(super) fn decode<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, CallError> {
    let unreadable = |message: String| CallError::Protocol { code: 0, message };
    let answer: Answer<T> =
        serde_json::from_slice(frame).map_err(|error| unreadable(error.to_string()))?;
    match (answer.error, answer.result) {
        (Some(fault), _) => Err(CallError::Protocol {
            code: fault.code,
            message: fault.message,
        }),
        (None, Some(result)) => Ok(result),
        (None, None) => Err(unreadable("the answer has no result".into())),
    }
}

/// Commands first: a client's frame that is being written is finished, and then they
/// go before the next.
async fn write(
    calls: Arc<Calls>,
    mut commands: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Vec<u8>>,
    mut of_tunnels: mpsc::Receiver<Pieces>,
) {
    loop {
        let written = tokio::select! {
            biased;
            frame = frames.recv() => match frame {
                Some(frame) => commands.write_all(&frame).await,
                None => return,
            },
            Some(frame) = of_tunnels.recv() => write_pieces(&calls, &mut commands, frame).await,
        };
        if written.is_err() || commands.flush().await.is_err() {
            return;
        }
    }
}

async fn write_pieces(
    calls: &Calls,
    commands: &mut (impl AsyncWrite + Unpin),
    frame: Pieces,
) -> io::Result<()> {
    for piece in frame.0 {
        for part in piece.chunks(PIPE_BYTES) {
            commands.write_all(part).await?;
            // Chrome takes what fits the pipe even while it hangs.
            if piece.len() > PIPE_BYTES {
                calls.live();
            }
        }
    }
    Ok(())
}

async fn read(
    client: &Client,
    answers: impl AsyncRead + Unpin,
    mut listen: impl FnMut(&Client, Event<'_>),
) {
    let mut answers = BufReader::with_capacity(PIPE_BYTES, answers);
    let mut frame = Vec::new();
    loop {
        let got = match read_frame(&client.calls, &mut answers, &mut frame).await {
            Ok(got) => got,
            Err(error) => {
                tracing::warn!(%error, "could not read from the browser");
                return;
            }
        };
        match got {
            Got::Frame => client.take(std::mem::take(&mut frame), &mut listen),
            Got::TooLarge(tail) => {
                let head = std::mem::take(&mut frame);
                client.take_too_large(&head, &tail);
            }
            Got::End => return,
        }
    }
}

impl Client {
    fn take(&self, frame: Vec<u8>, listen: &mut impl FnMut(&Client, Event<'_>)) {
        match id_of(&frame) {
            Some(id) if id >= TUNNELED => self.mux.answer(id, frame),
            Some(id) => self.calls.settle(id, frame),
            None => {
                let Some(frame) = self.mux.hear(frame) else {
                    return;
                };
                match serde_json::from_slice(&frame) {
                    Ok(event) => listen(self, event),
                    Err(error) => tracing::debug!(%error, "a frame that cannot be read"),
                }
            }
        }
    }

    /// Whoever asked for it is told; nobody else is hurt.
    fn take_too_large(&self, head: &[u8], tail: &[u8]) {
        tracing::warn!(
            limit_bytes = FRAME_BYTES_MAX,
            "dropped a frame that is too large"
        );
        match id_of(head) {
            Some(id) if id < TUNNELED => {
                let words = "the answer is larger than may be";
                let error = serde_json::json!({ "code": -32000, "message": words });
                let answer = serde_json::json!({ "id": id, "error": error });
                self.calls.settle(id, answer.to_string().into_bytes());
            }
            id => self.mux.too_large(id, tail),
        }
    }
}

/// What was read.
enum Got {
    Frame,
    /// The frame has its beginning; this is its end.
    TooLarge(Vec<u8>),
    /// There are no more.
    End,
}

async fn read_frame(
    calls: &Calls,
    answers: &mut (impl tokio::io::AsyncBufRead + Unpin),
    frame: &mut Vec<u8>,
) -> io::Result<Got> {
    frame.clear();
    let mut tail = None;
    loop {
        let chunk = answers.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(Got::End);
        }
        calls.live();
        let end = chunk.iter().position(|byte| *byte == 0);
        let taken = end.unwrap_or(chunk.len());
        let into = tail.as_mut().unwrap_or(frame);
        into.extend_from_slice(&chunk[..taken]);
        answers.consume(taken + usize::from(end.is_some()));
        if let Some(tail) = &mut tail {
            tail.drain(..tail.len().saturating_sub(ENDS_BYTES));
        } else if frame.len() > FRAME_BYTES_MAX {
            tail = Some(frame[frame.len() - ENDS_BYTES..].to_vec());
            frame.truncate(ENDS_BYTES);
            frame.shrink_to_fit();
        }
        if end.is_some() {
            return Ok(tail.map_or(Got::Frame, Got::TooLarge));
        }
    }
}

/// The id of an answer. Chrome writes it first; so nothing else of a large frame
/// is looked at.
fn id_of(frame: &[u8]) -> Option<u32> {
    let rest = frame.strip_prefix(br#"{"id":"#)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use headless_chrome::protocol::cdp::Target;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, duplex};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn close(target: &str) -> Target::CloseTarget {
        Target::CloseTarget {
            target_id: target.into(),
        }
    }

    #[test]
    fn the_id_comes_first() {
        assert_eq!(id_of(br#"{"id":12,"result":{}}"#), Some(12));
        assert_eq!(id_of(br#"{"method":"a.b","params":{"id":1}}"#), None);
        assert_eq!(id_of(br#"{"id":"#), None);
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order_and_late_ones_are_counted() {
        let (commands, mut chrome_in) = duplex(4096);
        let (mut chrome_out, answers) = duplex(4096);
        let client = Client::start(commands, answers, |_, _| {}, || {});
        let early = client
            .call(None, &close("a"), Instant::now() + Duration::from_millis(1))
            .await;
        assert_eq!(early.err(), Some(CallError::Deadline));

        let (target_b, target_c) = (close("b"), close("c"));
        let both = async {
            tokio::join!(
                client.call(None, &target_b, soon()),
                client.call(Some("s"), &target_c, soon())
            )
        };
        let chrome = async {
            let mut said = Vec::new();
            while said.iter().filter(|it| **it == 0).count() < 3 {
                chrome_in.read_buf(&mut said).await.expect("a frame");
            }
            chrome_out
                .write_all(b"{\"id\":3,\"result\":{\"success\":true}}\0{\"id\":1,\"result\":{\"success\":true}}\0{\"id\":2,\"error\":{\"code\":-32000,\"message\":\"no\"}}\0")
                .await
                .expect("room");
        };
        let ((b, c), ()) = tokio::join!(both, chrome);
        assert!(c.is_ok(), "{c:?}");
        let refused = CallError::Protocol {
            code: -32000,
            message: "no".into(),
        };
        assert_eq!(b.err(), Some(refused));
        assert_eq!(client.calls.late.load(Ordering::Relaxed), 1);
        assert_eq!(client.calls.waiting().as_ref().map(HashMap::len), Some(0));

        drop(chrome_out);
        let after = client.call(None, &close("d"), soon()).await;
        assert_eq!(after.err(), Some(CallError::Closed));
    }

    #[tokio::test]
    async fn events_come_in_order_whatever_their_size() {
        let (commands, _chrome_in) = duplex(4096);
        let (mut chrome_out, answers) = duplex(16);
        let (told, mut events) = mpsc::channel(8);
        Client::start(
            commands,
            answers,
            move |_, event| {
                let size = event.params::<String>().map_or(0, |it| it.len());
                told.try_send((event.method.to_owned(), size))
                    .expect("room");
            },
            || {},
        );
        let long = "x".repeat(100_000);
        let frames = format!(
            "{{\"method\":\"a\",\"params\":\"{long}\"}}\0nonsense\0{{\"method\":\"b\",\"params\":\"\"}}\0"
        );
        chrome_out.write_all(frames.as_bytes()).await.expect("read");
        assert_eq!(events.recv().await, Some(("a".into(), 100_000)));
        assert_eq!(events.recv().await, Some(("b".into(), 0)));
    }
}
