//! What happened in one session, in order, for as many watchers as there are. The last
//! of it is kept, so that who comes back goes on where they were; who was away for too
//! long is told to look at everything again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use browserfleet_proto::ids::SessionId;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::clock;
use crate::domain::time::Timestamp;

/// Events of one session that are kept: a busy page makes some ten a second, and a
/// client that lost its connection is back within a minute.
const KEPT_MAX: usize = 1_000;
/// Bytes that they may have together.
const KEPT_BYTES_MAX: usize = 512 * 1024;

/// Something that happened.
#[derive(Debug)]
pub struct Event {
    /// Grows with each event of a session, also from one replica to the next.
    pub seq: u64,
    /// For example `page.navigated`.
    pub kind: String,
    /// Its message, written once for all who get it.
    pub text: Bytes,
}

/// An event as it is sent.
#[derive(Serialize)]
struct Message<'a> {
    r#type: &'a str,
    session_id: SessionId,
    seq: u64,
    at: Timestamp,
    payload: &'a Value,
}

/// What comes next for a follower.
#[derive(Debug, Clone)]
pub enum Followed {
    /// An event.
    Event(Arc<Event>),
    /// Some events are gone; these words say where it goes on. Look at everything again.
    Resync {
        /// The next event's number is greater than this.
        seq: u64,
    },
    /// The session is over; there will be no more.
    Over,
    /// It is looked after elsewhere now, and goes on there.
    Moved,
}

/// One session's events.
#[derive(Debug)]
pub struct Log {
    session: SessionId,
    kept: Mutex<Kept>,
    /// The newest event's number.
    newest: watch::Sender<u64>,
    followers: watch::Sender<usize>,
}

#[derive(Debug)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The first event's number is greater than this.
    start: u64,
    last: u64,
    /// The number of the agent's last event.
    heard: Option<u64>,
    tabs: Option<Value>,
    /// The dialog that waits for an answer.
    dialog: Option<Value>,
    /// What followers get once they have everything.
    closed: Option<Followed>,
}

impl Log {
    /// An empty one. Its numbers go on after those of any earlier one.
    #[must_use]
    pub fn new(session: SessionId) -> Self {
        // Nothing makes a million events a second, so time is always ahead.
        let last = u64::try_from(clock::now().0).unwrap_or(0);
        Self {
            session,
            kept: Mutex::new(Kept {
                events: VecDeque::new(),
                bytes: 0,
                start: last,
                last,
                heard: None,
                tabs: None,
                dialog: None,
                closed: None,
            }),
            newest: watch::Sender::new(last),
            followers: watch::Sender::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something that happened.
    pub fn tell(&self, kind: &str, payload: &Value) {
        let mut kept = self.kept();
        if kind.starts_with("tab.")
            && let Some(tabs) = payload.get("tabs")
        {
            kept.tabs = Some(tabs.clone());
            let there = |it: &Value| {
                tabs.as_array()
                    .is_some_and(|all| all.iter().any(|tab| tab["id"] == it["tab_id"]))
            };
            kept.dialog.take_if(|it| !there(it));
        }
        match kind {
            "dialog.opened" if payload["waits"] == true => kept.dialog = Some(payload.clone()),
            // What was lost may have been its end.
            "dialog.closed" | "lost" => kept.dialog = None,
            _ => {}
        }
        kept.last += 1;
        let message = Message {
            r#type: kind,
            session_id: self.session,
            seq: kept.last,
            at: clock::now(),
            payload,
        };
        let text = match serde_json::to_vec(&message) {
            Ok(text) => Bytes::from(text),
            Err(error) => {
                tracing::error!(session.id = %self.session, kind, %error, "could not write an event");
                return;
            }
        };
        kept.bytes += text.len();
        let event = Event {
            seq: kept.last,
            kind: kind.to_owned(),
            text,
        };
        kept.events.push_back(Arc::new(event));
        while kept.events.len() > KEPT_MAX || kept.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = kept.events.pop_front() else {
                break;
            };
            kept.bytes -= oldest.text.len();
        }
        let last = kept.last;
        drop(kept);
        self.newest.send_replace(last);
    }

    /// Adds what an agent told. A gap in its numbers is told before it.
    pub fn tell_of_agent(&self, number: u64, kind: &str, payload: &Value) {
        let before = self.kept().heard.replace(number);
        // A smaller one is of another life of the browser.
        if let Some(before) = before
            && number > before + 1
        {
            self.tell(
                "lost",
                &serde_json::json!({ "events": number - before - 1 }),
            );
        }
        self.tell(kind, payload);
    }

    /// The session is over: followers get what is left, and no more.
    pub fn end(&self) {
        self.close(Followed::Over);
    }

    /// The session is looked after elsewhere from now on.
    pub fn moved(&self) {
        self.close(Followed::Moved);
    }

    fn close(&self, last: Followed) {
        self.kept().closed.get_or_insert(last);
        self.newest.send_modify(|_| {});
    }

    /// The tabs, as the agent last told them.
    pub fn tabs(&self) -> Option<Value> {
        self.kept().tabs.clone()
    }

    /// The dialog that waits for an answer, as the agent told it.
    pub fn dialog(&self) -> Option<Value> {
        self.kept().dialog.clone()
    }

    /// Follows what happens after this number; `None`: from now on.
    pub fn follow(self: &Arc<Self>, after: Option<u64>) -> Follower {
        let last = self.kept().last;
        self.followers.send_modify(|count| *count += 1);
        Follower {
            log: Arc::clone(self),
            newest: self.newest.subscribe(),
            // One that has not been here yet is of nowhere.
            at: after.map_or(last, |after| if after > last { 0 } else { after }),
        }
    }

    /// Follows all that has happened since there is this log, and what happens then.
    pub fn follow_all(self: &Arc<Self>) -> Follower {
        let start = self.kept().start;
        self.follow(Some(start))
    }

    /// How many follow.
    pub fn followers(&self) -> watch::Receiver<usize> {
        self.followers.subscribe()
    }

    fn next_after(&self, at: u64) -> Option<Followed> {
        let kept = self.kept();
        let first = kept.events.front().map_or(kept.last + 1, |it| it.seq);
        if at + 1 < first {
            // Nothing is left of what came between.
            let seq = first - 1;
            return Some(Followed::Resync { seq });
        }
        let index = usize::try_from(at + 1 - first).unwrap_or(usize::MAX);
        if let Some(event) = kept.events.get(index) {
            return Some(Followed::Event(Arc::clone(event)));
        }
        kept.closed.clone()
    }
}

/// Somebody who follows a session.
#[derive(Debug)]
pub struct Follower {
    log: Arc<Log>,
    newest: watch::Receiver<u64>,
    at: u64,
}

impl Follower {
    /// The number of the last event that was followed.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What comes next. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Followed {
        loop {
            self.newest.mark_unchanged();
            if let Some(followed) = self.log.next_after(self.at) {
                match &followed {
                    Followed::Event(event) => self.at = event.seq,
                    Followed::Resync { seq } => self.at = *seq,
                    Followed::Over | Followed::Moved => {}
                }
                return followed;
            }
            if self.newest.changed().await.is_err() {
                return Followed::Over;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.log.followers.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use serde_json::json;

    fn log() -> Arc<Log> {
        Arc::new(Log::new(SessionId::new()))
    }

    fn now(follower: &mut Follower) -> Option<Followed> {
        follower.next().now_or_never()
    }

    #[test]
    fn who_comes_late_gets_what_is_kept_or_is_told_that_it_is_not() {
        let log = log();
        let mut first = log.follow(None);
        let start = first.at();
        for number in 0..KEPT_MAX + 10 {
            log.tell("a", &json!({ "number": number }));
        }
        let Some(Followed::Resync { seq }) = now(&mut first) else {
            panic!("ten are gone");
        };
        assert_eq!(seq, start + 10);
        let mut second = log.follow(Some(start + 10));
        for expected in 11..=KEPT_MAX as u64 + 10 {
            match now(&mut second) {
                Some(Followed::Event(event)) => assert_eq!(event.seq, start + expected),
                other => panic!("{other:?}"),
            }
        }
        assert!(now(&mut second).is_none());
        log.end();
        assert!(matches!(now(&mut second), Some(Followed::Over)));
    }

    #[test]
    fn who_follows_all_of_it_gets_what_came_before() {
        let log = log();
        log.tell("a", &json!({}));
        let mut all = log.follow_all();
        log.tell("b", &json!({}));
        for kind in ["a", "b"] {
            let Some(Followed::Event(event)) = now(&mut all) else {
                panic!("{kind} is kept");
            };
            assert_eq!(event.kind, kind);
        }
        assert!(now(&mut all).is_none());
    }

    #[test]
    fn a_number_of_another_log_is_of_no_use() {
        let earlier = log();
        let later = log();
        later.tell("a", &json!({}));
        let after_restart = later.follow(Some(earlier.follow(None).at().saturating_sub(1_000)));
        let mut after_restart = after_restart;
        assert!(matches!(
            now(&mut after_restart),
            Some(Followed::Resync { .. })
        ));
        let mut from_the_future = later.follow(Some(u64::MAX - 1));
        assert!(matches!(
            now(&mut from_the_future),
            Some(Followed::Resync { .. })
        ));
    }

    #[test]
    fn what_was_lost_on_the_way_is_said() {
        let log = log();
        let mut follower = log.follow(None);
        log.tell_of_agent(7, "a", &json!({}));
        log.tell_of_agent(10, "b", &json!({}));
        log.tell_of_agent(1, "c", &json!({}));
        let mut kinds = Vec::new();
        while let Some(Followed::Event(event)) = now(&mut follower) {
            kinds.push(event.kind.clone());
        }
        assert_eq!(kinds, ["a", "lost", "b", "c"]);
    }

    proptest! {
        #[test]
        fn nobody_misses_anything_unsaid(sizes in prop::collection::vec(0_usize..40_000, 1..200), reads in prop::collection::vec(any::<bool>(), 200)) {
            let log = log();
            let mut follower = log.follow(None);
            let mut at = follower.at();
            for (size, reads) in sizes.iter().zip(reads) {
                log.tell("a", &json!({ "text": "x".repeat(*size) }));
                while reads && let Some(followed) = now(&mut follower) {
                    match followed {
                        Followed::Event(event) => { prop_assert_eq!(event.seq, at + 1); at = event.seq; }
                        Followed::Resync { seq } => { prop_assert!(seq > at); at = seq; }
                        Followed::Over | Followed::Moved => prop_assert!(false),
                    }
                }
                prop_assert!(log.kept().bytes <= KEPT_BYTES_MAX);
            }
        }
    }
}
