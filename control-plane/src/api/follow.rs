//! What is waited for is streamed to whoever asks with `Accept: text/event-stream`:
//! a view as it is, and again whenever it has changed, until it is decided.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::error::Error;

/// How long a stream lasts: as long as the access token that it was asked for with.
/// Whoever still wants to know asks again.
const LASTS: Duration = Duration::from_secs(10 * 60);
/// How often is looked although nothing happened here: another replica may have done
/// something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a word that means nothing keeps proxies from closing the stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Whether there is anything more to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It may change.
    Open,
    /// It is decided.
    Decided,
}

/// Whether a stream was asked for.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok());
    accept.is_some_and(|it| it.contains("text/event-stream"))
}

struct Following<R> {
    read: R,
    news: [watch::Receiver<u64>; 2],
    latest: Instant,
    last: String,
    course: Course,
}

/// Streams what `read` gives, looking again when one of `news` changes.
pub fn stream_of<V, R, F>(news: [watch::Receiver<u64>; 2], read: R) -> Response
where
    V: Serialize + Send,
    R: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<(V, Course), Error>> + Send,
{
    let following = Following {
        read,
        news,
        latest: Instant::now() + LASTS,
        last: String::new(),
        course: Course::Open,
    };
    let events = stream::unfold(following, |mut it| async move {
        let event = it.next().await?;
        Some((Ok::<Event, Infallible>(event), it))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

impl<R> Following<R> {
    async fn next<V, F>(&mut self) -> Option<Event>
    where
        V: Serialize,
        R: FnMut() -> F,
        F: Future<Output = Result<(V, Course), Error>>,
    {
        while self.course == Course::Open && Instant::now() < self.latest {
            for news in &mut self.news {
                news.mark_unchanged();
            }
            // What cannot be read any more ends the stream; asking again tells why.
            let (view, course) = (self.read)().await.ok()?;
            self.course = course;
            let text = serde_json::to_string(&view).ok()?;
            if text != self.last {
                self.last.clone_from(&text);
                return Some(Event::default().event("status").data(text));
            }
            let [one, other] = &mut self.news;
            let changed = async {
                tokio::select! {
                    changed = one.changed() => changed,
                    changed = other.changed() => changed,
                }
            };
            if let Ok(Err(_)) = timeout(LOOK_EVERY, changed).await {
                return None;
            }
        }
        None
    }
}
