//! Commands: one for a call, or many on a stream.

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::browser::v1::{self, perform_stream_reply, perform_stream_request::Body};
use futures_util::stream::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::lasting::End;
use super::refusal::Refusal;
use super::{Call, session_for_command};
use crate::api::browser::{Done, asked_by};
use crate::api::under_way::{UnderWay, check_id};
use crate::error::Error;
use crate::sessions::{OwnedSession, Request};

/// Commands of one stream that are under way at once. More are refused: whoever has more
/// sessions than that opens another stream.
const COMMANDS_MAX: usize = 64;
/// Answers that wait for the client to read them. What is beyond keeps its place among
/// the commands, so that who does not read is asked for no more.
const REPLIES_MAX: usize = 4;
/// When to try again where there are too many: about a quick command's time.
const TRY_AGAIN: Duration = Duration::from_secs(1);

type Replies = mpsc::Sender<Result<v1::PerformStreamReply, Status>>;

/// Reads what is asked for, and finds the session that it is for.
async fn prepare(
    call: &Call,
    request: v1::PerformRequest,
    cancelled: CancellationToken,
) -> Result<(OwnedSession, Request), Error> {
    let asked = asked_by(request)?;
    let named = asked.session_id.clone();
    let mut request = asked.request()?;
    // Nobody waits for longer than the call lasts.
    request.timeout = match (request.timeout, call.deadline.left()) {
        (Some(timeout), Some(left)) => Some(timeout.min(left)),
        (timeout, left) => timeout.or(left),
    };
    request.cancelled = Some(cancelled);
    let session = session_for_command(&call.api, &call.caller, named.as_deref()).await?;
    Ok((session, request))
}

/// Runs one command to its final outcome.
///
/// # Errors
/// Why it did not do what it was asked.
pub(super) async fn perform(
    call: &Call,
    request: v1::PerformRequest,
    cancelled: CancellationToken,
) -> Result<v1::PerformReply, Refusal> {
    let (session, request) = prepare(call, request, cancelled).await?;
    let id = session.id();
    let performed = call.api.sessions.perform(session, request).await?;
    Ok(Done::new(id, performed).into_message())
}

/// Runs the commands of a stream. What is under way when nobody hears its answers any
/// more is taken back.
pub(super) fn stream(
    call: &Call,
    asked: Streaming<v1::PerformStreamRequest>,
) -> impl Stream<Item = Result<v1::PerformStreamReply, Status>> + use<> {
    let (replies, answers) = mpsc::channel(REPLIES_MAX);
    let commands = Commands {
        call: call.clone(),
        replies,
        under_way: UnderWay::default(),
        room: Arc::new(Semaphore::new(COMMANDS_MAX)),
    };
    let leaving = commands.under_way.leaving();
    let reading = commands.read(asked, call.until_over());
    call.api.sessions.tasks().spawn("gRPC commands", reading);
    ReceiverStream::new(answers).map(move |reply| {
        let _until_nobody_hears = &leaving;
        reply
    })
}

struct Commands {
    call: Call,
    replies: Replies,
    under_way: UnderWay,
    room: Arc<Semaphore>,
}

impl Commands {
    /// Reads until the client has said all, or is not heard any more.
    async fn read(self, mut asked: Streaming<v1::PerformStreamRequest>, end: End) {
        let read = async {
            loop {
                match asked.message().await {
                    Ok(Some(message)) => self.take(message).await,
                    Ok(None) => return,
                    Err(status) => {
                        let _nobody_hears = self.replies.send(Err(status)).await;
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = self.under_way.left() => {}
            _ = end => {}
        }
    }

    async fn take(&self, message: v1::PerformStreamRequest) {
        let v1::PerformStreamRequest { id, body } = message;
        let begun = match body {
            Some(Body::Cancel(v1::Cancel {})) => {
                // What was done meanwhile has its answer.
                self.under_way.cancel(&id);
                return;
            }
            Some(Body::Perform(request)) => self.begin(&id, request).await,
            None => Err(Error::invalid("body", "is missing")),
        };
        if let Err(error) = begun {
            answer(&self.replies, id, Err(error.into())).await;
        }
    }

    /// Begins one command; its answer comes when it is done.
    async fn begin(&self, id: &str, request: v1::PerformRequest) -> Result<(), Error> {
        if id.is_empty() {
            return Err(Error::invalid("id", "is missing"));
        }
        check_id(id)?;
        let permit = self.permit()?;
        let cancelled = self.under_way.begin(Some(id));
        let cancelled =
            cancelled.ok_or_else(|| Error::invalid("id", "a command with this id is under way"))?;
        let prepared = prepare(&self.call, request, cancelled).await;
        let (session, request) = prepared.inspect_err(|_| self.under_way.finish(Some(id)))?;
        let (replies, under_way) = (self.replies.clone(), self.under_way.clone());
        let (id, session_id) = (id.to_owned(), session.id());
        let sessions = &self.call.api.sessions;
        // Here, so that they begin in the order in which they were read.
        let begun = sessions.begin(session, request);
        sessions.tasks().spawn("gRPC command", async move {
            let performed = match begun {
                Ok(begun) => begun.run().await,
                Err(error) => Err(error),
            };
            under_way.finish(Some(&id));
            let done = performed.map(|it| Done::new(session_id, it).into_message());
            answer(&replies, id, done.map_err(Refusal::from)).await;
            drop(permit);
        });
        Ok(())
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = Arc::clone(&self.room).try_acquire_owned();
        permit.map_err(|_| Error::QuotaReached {
            name: "commands under way",
            limit: u32::try_from(COMMANDS_MAX).unwrap_or(u32::MAX),
            retry_after: Some(TRY_AGAIN),
        })
    }
}

async fn answer(replies: &Replies, id: String, done: Result<v1::PerformReply, Refusal>) {
    use perform_stream_reply::Body;
    let body = match done {
        Ok(reply) => Body::Done(reply),
        Err(refusal) => Body::Problem(refusal.problem()),
    };
    let body = Some(body);
    let reply = v1::PerformStreamReply { id, body };
    if replies.send(Ok(reply)).await.is_err() {
        tracing::debug!("nobody is there for a command's answer");
    }
}
