//! A person's hands in a browser: what they do goes to the active tab, in its order,
//! without waiting for the session's commands and without making them wait.
//!
//! Of the same sort several are under way at once; another sort waits until they are
//! done, because Chrome brings keys to a page by another way than clicks. Moves that are
//! overtaken while they wait are left out. What a stuck page does not take is given up
//! after a while, or once another tab is active; what helps against a stuck page waits
//! for nothing.

mod calls;

use std::collections::VecDeque;
use std::time::Duration;

use browserfleet_proto::frame::Cursor;
use browserfleet_proto::input::Input;
use browserfleet_proto::limits::{INPUTS_BYTES_MAX, INPUTS_MAX, TEXT_BYTES_MAX};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use headless_chrome::protocol::cdp::types::Method;
use headless_chrome::protocol::cdp::{Page, Runtime, Target};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::actions::{evaluation, may_open};
use super::live::{Shown, Stage};

/// How long a page may take for one input.
const INPUT_WITHIN: Duration = Duration::from_secs(5);
/// Inputs of the same sort that are under way at once: the pages' process takes them in
/// their order, so that waiting for each answer would only add up.
const UNDER_WAY_MAX: usize = 16;
/// Shortest time between two looks at the cursor.
const CURSOR_EVERY: Duration = Duration::from_millis(100);
/// How long a look at the cursor may take. A page that is busy has none.
const CURSOR_WITHIN: Duration = Duration::from_millis(500);
/// Longest text that is copied, in UTF-16 units: at most [`TEXT_BYTES_MAX`] bytes.
const COPIED_UNITS_MAX: usize = TEXT_BYTES_MAX / 3;

const CURSOR: &str = include_str!("hands/cursor.js");
const SELECTION: &str = include_str!("hands/selection.js");

type Doing = FuturesUnordered<BoxFuture<'static, Option<Shown>>>;

/// Does what it is told to.
pub(super) struct Hands {
    stage: Stage,
    /// CDP's session with the tab that it is in.
    tab: Option<String>,
    waiting: Waiting,
    doing: Doing,
    /// Of what is being done.
    sort: Sort,
    /// What waits for nothing.
    urgent: Doing,
    pointer: Pointer,
}

/// Inputs that may be under way together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Pointer,
    Keys,
    Browser,
    /// Waits for nothing.
    Urgent,
}

impl Sort {
    fn of(input: &Input) -> Self {
        match input {
            Input::Mouse(_) | Input::Touch(_) => Self::Pointer,
            Input::Key(_) | Input::Composition(_) | Input::InsertText(_) => Self::Keys,
            Input::Copy {}
            | Input::Navigate { .. }
            | Input::Back {}
            | Input::Forward {}
            | Input::Reload { .. }
            | Input::NewTab { .. } => Self::Browser,
            Input::Stop {}
            | Input::ActivateTab { .. }
            | Input::CloseTab { .. }
            | Input::AnswerDialog { .. } => Self::Urgent,
        }
    }
}

/// Inputs that wait for their turn. Pure.
#[derive(Debug, Default)]
struct Waiting {
    inputs: VecDeque<(u64, Input)>,
    bytes: usize,
}

/// What an input takes of the room, in bytes: its text counts.
fn weight(input: &Input) -> usize {
    match input {
        Input::InsertText(it) => it.text.len(),
        Input::Composition(it) => it.text.len(),
        Input::Navigate { url } | Input::NewTab { url: Some(url) } => url.len(),
        _ => 0,
    }
}

impl Waiting {
    /// `false`: there is no room.
    fn push(&mut self, number: u64, input: Input) -> bool {
        if let Some(last) = self.inputs.back_mut()
            && last.1.is_overtaken_by(&input)
        {
            *last = (number, input);
            return true;
        }
        let bytes = self.bytes + weight(&input);
        let room = self.inputs.len() < INPUTS_MAX && bytes <= INPUTS_BYTES_MAX;
        if room {
            self.bytes = bytes;
            self.inputs.push_back((number, input));
        }
        room
    }

    /// The next one that may be done beside these.
    fn next(&mut self, doing: usize, sort: Sort) -> Option<(u64, Input)> {
        let (_, input) = self.inputs.front()?;
        let fits = doing == 0 || (doing < UNDER_WAY_MAX && Sort::of(input) == sort);
        let next = fits.then(|| self.inputs.pop_front())??;
        self.bytes -= weight(&next.1);
        Some(next)
    }
}

impl Hands {
    pub(super) fn new(stage: Stage) -> Self {
        Self {
            stage,
            tab: None,
            waiting: Waiting::default(),
            doing: Doing::new(),
            sort: Sort::Browser,
            urgent: Doing::new(),
            pointer: Pointer::new(),
        }
    }

    /// Takes an input. One that finds no room is lost: its page has been stuck for long.
    pub(super) fn push(&mut self, number: u64, input: Input) {
        if Sort::of(&input) == Sort::Urgent {
            let doing = self.begin(number, input);
            self.urgent.push(doing);
        } else if !self.waiting.push(number, input) {
            tracing::debug!("no room for an input");
        }
    }

    /// Another tab is active: what was meant for the one before is not done in this one.
    pub(super) fn turn_to(&mut self, tab: Option<&str>) {
        if self.tab.as_deref() != tab {
            self.tab = tab.map(str::to_owned);
            self.waiting = Waiting::default();
            self.doing = Doing::new();
        }
    }

    /// Works until there is something to show. Cancelling it loses nothing.
    pub(super) async fn work(&mut self) -> Shown {
        loop {
            while let Some((number, input)) = self.waiting.next(self.doing.len(), self.sort) {
                self.sort = Sort::of(&input);
                let doing = self.begin(number, input);
                self.doing.push(doing);
            }
            let done = tokio::select! {
                Some(done) = self.doing.next() => done,
                Some(done) = self.urgent.next() => done,
                cursor = self.pointer.look(&self.stage) => Some(Shown::Cursor(cursor)),
            };
            if let Some(shown) = done {
                return shown;
            }
        }
    }

    /// Begins to do something in the tab that is active now.
    fn begin(&mut self, number: u64, input: Input) -> BoxFuture<'static, Option<Shown>> {
        let session = {
            let tabs = self.stage.tabs.borrow();
            match &input {
                Input::AnswerDialog { .. } => tabs.dialog_session().map(str::to_owned),
                _ => tabs.active().map(|it| it.session.clone()),
            }
        };
        let Some(session) = session else {
            return nothing();
        };
        let tab = Tab {
            stage: self.stage.clone(),
            session,
        };
        match input {
            Input::Mouse(it) => {
                self.pointer.moved(it.x, it.y);
                tab.call(calls::mouse(it))
            }
            Input::Touch(it) => tab.call(calls::touch(it)),
            Input::Key(it) => tab.call(calls::key(it)),
            Input::Composition(it) => tab.call(calls::composition(it)),
            Input::InsertText(it) => tab.call(calls::text(it)),
            Input::Copy {} => tab.copy(number).boxed(),
            Input::Navigate { url } if may_open(&url) => tab.post(calls::navigate(url)),
            Input::NewTab { url } => {
                let url = url.unwrap_or_else(|| "about:blank".to_owned());
                if may_open(&url) {
                    tab.browser(super::running::open(url))
                } else {
                    nothing()
                }
            }
            Input::Navigate { .. } => nothing(),
            Input::Back {} => tab.travel(-1).boxed(),
            Input::Forward {} => tab.travel(1).boxed(),
            Input::Reload { ignore_cache } => tab.post(calls::reload(ignore_cache)),
            Input::Stop {} => tab.post(Page::StopLoading(None)),
            Input::ActivateTab { tab_id } => {
                if self.stage.activate(&tab_id) {
                    tab.browser(Target::ActivateTarget { target_id: tab_id })
                } else {
                    nothing()
                }
            }
            Input::CloseTab { tab_id } => {
                if self.stage.tabs.borrow().has(&tab_id) {
                    tab.browser(super::running::close(&tab_id))
                } else {
                    nothing()
                }
            }
            Input::AnswerDialog { accept, text } => tab.call(Page::HandleJavaScriptDialog {
                accept,
                prompt_text: Some(text),
            }),
        }
    }
}

fn nothing() -> BoxFuture<'static, Option<Shown>> {
    std::future::ready(None).boxed()
}

/// A tab that something is done in.
struct Tab {
    stage: Stage,
    session: String,
}

impl Tab {
    /// Calls the tab and waits until it has taken the call.
    fn call<M>(self, method: M) -> BoxFuture<'static, Option<Shown>>
    where
        M: Method + Serialize + Send + Sync + 'static,
        M::ReturnObject: Send,
    {
        async move {
            let (client, session) = (&self.stage.client, Some(self.session.as_str()));
            let latest = Instant::now() + INPUT_WITHIN;
            if let Err(error) = client.call(session, &method, latest).await {
                tracing::debug!(%error, method = M::NAME, "an input was not taken");
            }
            None
        }
        .boxed()
    }

    /// Tells the tab something whose end is not waited for.
    fn post<M: Method + Serialize>(self, method: M) -> BoxFuture<'static, Option<Shown>> {
        if !self.stage.client.post(Some(&self.session), &method) {
            tracing::debug!(method = M::NAME, "the browser takes no more calls");
        }
        nothing()
    }

    /// Tells the browser something.
    fn browser<M: Method + Serialize>(self, method: M) -> BoxFuture<'static, Option<Shown>> {
        if !self.stage.client.post(None, &method) {
            tracing::debug!(method = M::NAME, "the browser takes no more calls");
        }
        nothing()
    }

    /// Goes so many entries on in the history.
    async fn travel(self, by: i64) -> Option<Shown> {
        let (client, session) = (&self.stage.client, Some(self.session.as_str()));
        let latest = Instant::now() + INPUT_WITHIN;
        let asked = Page::GetNavigationHistory(None);
        let history = client.call(session, &asked, latest).await.ok()?;
        let place = i64::from(history.current_index) + by;
        let entry = history.entries.get(usize::try_from(place).ok()?)?;
        let go = Page::NavigateToHistoryEntry { entry_id: entry.id };
        self.post(go).await
    }

    /// An answer comes even where there is nothing to copy.
    async fn copy(self, number: u64) -> Option<Shown> {
        let latest = Instant::now() + INPUT_WITHIN;
        let asked = format!("({SELECTION})({COPIED_UNITS_MAX})");
        let text = self.read(asked, latest).await.unwrap_or_default();
        Some(Shown::Answer { number, text })
    }

    /// The text that a script gives.
    async fn read(&self, script: String, latest: Instant) -> Option<String> {
        let mut asked: Runtime::Evaluate = evaluation(script);
        asked.return_by_value = Some(true);
        asked.silent = Some(true);
        let (client, session) = (&self.stage.client, Some(self.session.as_str()));
        let answer = client.call(session, &asked, latest).await.ok()?;
        Some(answer.result.value?.as_str()?.to_owned())
    }
}

/// Where the pointer is, and what it looks like there.
struct Pointer {
    /// Where it was since the last look.
    at: Option<(f64, f64)>,
    next_look: Instant,
    looking: Option<BoxFuture<'static, Option<Cursor>>>,
    shown: Cursor,
}

impl Pointer {
    fn new() -> Self {
        Self {
            at: None,
            next_look: Instant::now(),
            looking: None,
            shown: Cursor::default(),
        }
    }

    fn moved(&mut self, x: f64, y: f64) {
        self.at = Some((x, y));
    }

    /// Looks as often as it may where the pointer goes, until the cursor is another one.
    async fn look(&mut self, stage: &Stage) -> Cursor {
        loop {
            if self.looking.is_none() {
                if self.at.is_none() {
                    return std::future::pending().await;
                }
                sleep_until(self.next_look).await;
                self.next_look = Instant::now() + CURSOR_EVERY;
                self.looking = self.at.take().and_then(|at| cursor_at(stage, at));
            }
            let Some(looking) = &mut self.looking else {
                continue;
            };
            let seen = looking.await;
            self.looking = None;
            if let Some(cursor) = seen
                && cursor != self.shown
            {
                self.shown = cursor;
                return cursor;
            }
        }
    }
}

fn cursor_at(stage: &Stage, (x, y): (f64, f64)) -> Option<BoxFuture<'static, Option<Cursor>>> {
    let session = stage.tabs.borrow().active()?.session.clone();
    let tab = Tab {
        stage: stage.clone(),
        session,
    };
    let asked = format!("({CURSOR})({x}, {y})");
    let looking = async move {
        let name = tab.read(asked, Instant::now() + CURSOR_WITHIN).await?;
        Some(Cursor::named(&name))
    };
    Some(looking.boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Input {
        serde_json::from_str(text).expect("an input")
    }

    fn moved(x: u32) -> Input {
        input(&format!(
            r#"{{"kind":"mouse","type":"mouseMoved","x":{x},"y":0}}"#
        ))
    }

    fn key(name: &str) -> Input {
        input(&format!(
            r#"{{"kind":"key","type":"keyDown","key":"{name}"}}"#
        ))
    }

    fn drain(waiting: &mut Waiting) -> Vec<u64> {
        std::iter::from_fn(|| waiting.next(0, Sort::Browser))
            .map(|it| it.0)
            .collect()
    }

    #[test]
    fn only_moves_that_follow_each_other_are_left_out() {
        let mut waiting = Waiting::default();
        let pressed = input(r#"{"kind":"mouse","type":"mousePressed","x":1,"y":1}"#);
        for (number, input) in [moved(1), moved(2), pressed, moved(3), key("a"), moved(4)]
            .into_iter()
            .enumerate()
        {
            assert!(waiting.push(number as u64, input));
        }
        assert_eq!(drain(&mut waiting), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_a_page_does_not_take_is_bounded_and_moves_need_no_room() {
        let mut waiting = Waiting::default();
        for number in 0..INPUTS_MAX {
            let taken = if number + 1 < INPUTS_MAX {
                waiting.push(number as u64, key("a"))
            } else {
                waiting.push(number as u64, moved(1))
            };
            assert!(taken);
        }
        assert!(!waiting.push(1_000, key("b")));
        assert!(waiting.push(1_001, moved(2)));
        assert_eq!(drain(&mut waiting).last(), Some(&1_001));
    }

    #[test]
    fn another_sort_waits_until_nothing_is_under_way() {
        let mut waiting = Waiting::default();
        waiting.push(1, key("a"));
        waiting.push(2, moved(1));
        assert!(waiting.next(1, Sort::Pointer).is_none());
        assert_eq!(waiting.next(1, Sort::Keys).map(|it| it.0), Some(1));
        assert!(waiting.next(1, Sort::Keys).is_none());
        assert_eq!(waiting.next(0, Sort::Keys).map(|it| it.0), Some(2));
        waiting.push(3, key("b"));
        assert!(waiting.next(UNDER_WAY_MAX, Sort::Keys).is_none());
    }
}
