//! What happens in a browser, for those who watch it: CDP's events go in, ours come
//! out. On the reader's task, so nothing here waits; what finds no room is lost, and a
//! gap in the numbers says so.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use browserfleet_proto::action::Tab as Shown;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cdp::Event;
use super::tabs::Tabs;

/// Events that wait to be taken.
const WAITING_MAX: usize = 256;
/// What pages may cause at once: lines of the console, requests that failed.
const BURST: f64 = 200.0;
/// And how many a second after that: more than anybody reads, and nothing to the link.
const A_SECOND: f64 = 100.0;
/// Longest text of a line of the console, in bytes.
const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Longest address in an event, in bytes: `data:` has no end.
const URL_BYTES_MAX: usize = 2 * 1024;
/// Requests under way whose addresses are known, should they fail.
const REQUESTS_MAX: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Counts from 1.
    pub number: u64,
    /// For example `page.navigated`.
    pub kind: &'static str,
    /// A JSON object.
    pub payload: Value,
}

/// Tells whoever watches. A browser without a session has nobody to tell.
#[derive(Debug, Default)]
pub(super) struct Events(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    watcher: Option<mpsc::Sender<Told>>,
    number: u64,
    tabs: Vec<Shown>,
    pace: Pace,
    requests: VecDeque<Request>,
}

#[derive(Debug)]
struct Request {
    id: String,
    url: String,
    method: String,
}

impl Events {
    /// From now on what happens is told.
    pub(super) fn begin(&self, tabs: Vec<Shown>) -> mpsc::Receiver<Told> {
        let (watcher, told) = mpsc::channel(WAITING_MAX);
        self.with(|state| {
            state.watcher = Some(watcher);
            state.tell("tab.updated", json!({ "tabs": tabs }));
            state.tabs = tabs;
        });
        told
    }

    /// Takes in what Chrome told, after the tabs have.
    pub(super) fn hear(&self, event: &Event<'_>, tabs: &Tabs) {
        self.with(|state| {
            if state.watcher.is_some() {
                state.hear(event, tabs);
            }
        });
    }

    /// Takes in that another tab is active.
    pub(super) fn compare(&self, tabs: &Tabs) {
        self.with(|state| state.compare(tabs));
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn tell(&mut self, kind: &'static str, payload: Value) {
        self.number += 1;
        let told = Told {
            number: self.number,
            kind,
            payload,
        };
        if let Some(watcher) = &self.watcher
            && watcher.try_send(told).is_err()
        {
            tracing::debug!(kind, "no room for an event");
        }
    }

    /// What pages cause as often as they like.
    fn tell_at_pace(&mut self, kind: &'static str, payload: Value) {
        if self.pace.allows(Instant::now()) {
            self.tell(kind, payload);
        } else {
            self.number += 1;
        }
    }

    fn hear(&mut self, event: &Event<'_>, tabs: &Tabs) {
        let tab = event.session.and_then(|it| tabs.of_session(it));
        match (event.method, tab) {
            (
                "Target.attachedToTarget"
                | "Target.detachedFromTarget"
                | "Target.targetInfoChanged",
                _,
            ) => self.compare(tabs),
            ("Page.frameNavigated", Some(tab)) if is_of(event, &tab.target) => {
                let url = cut(&tab.url, URL_BYTES_MAX);
                self.tell(
                    "page.navigated",
                    json!({ "tab_id": tab.target, "url": url, "same_document": false }),
                );
                self.compare(tabs);
            }
            ("Page.navigatedWithinDocument", Some(tab)) if is_of(event, &tab.target) => {
                let url = cut(&tab.url, URL_BYTES_MAX);
                self.tell_at_pace(
                    "page.navigated",
                    json!({ "tab_id": tab.target, "url": url, "same_document": true }),
                );
                self.compare(tabs);
            }
            ("Page.lifecycleEvent", Some(tab))
                if is_of(event, &tab.target)
                    && event
                        .params::<Lifecycle<'_>>()
                        .is_some_and(|it| it.name == "load") =>
            {
                let url = cut(&tab.url, URL_BYTES_MAX);
                self.tell("page.loaded", json!({ "tab_id": tab.target, "url": url }));
            }
            ("Page.javascriptDialogOpening", Some(tab)) => {
                if let Some(it) = event.params::<DialogOpening>() {
                    let message = cut(&it.message, TEXT_BYTES_MAX);
                    self.tell_at_pace(
                        "dialog.opened",
                        json!({
                            "tab_id": tab.target,
                            "kind": it.kind,
                            "message": message,
                            "default_text": it.default_prompt,
                            "waits": tabs.dialog_session() == event.session,
                        }),
                    );
                }
            }
            ("Page.javascriptDialogClosed", Some(tab)) => {
                self.tell_at_pace("dialog.closed", json!({ "tab_id": tab.target }));
            }
            ("Inspector.targetCrashed", Some(tab)) => {
                self.tell("page.crashed", json!({ "tab_id": tab.target }));
            }
            ("Runtime.consoleAPICalled", Some(tab)) => {
                if let Some(it) = event.params::<ConsoleCalled<'_>>() {
                    self.tell_at_pace("console", it.line(&tab.target));
                }
            }
            ("Runtime.exceptionThrown", Some(tab)) => {
                if let Some(it) = event.params::<ExceptionThrown<'_>>() {
                    self.tell_at_pace("console", it.details.line(&tab.target));
                }
            }
            ("Network.requestWillBeSent", Some(_)) => {
                if let Some(it) = event.params::<RequestSent<'_>>() {
                    self.sent(&it);
                }
            }
            ("Network.loadingFinished", Some(_)) => {
                if let Some(it) = event.params::<Loaded<'_>>() {
                    self.requests.retain(|known| known.id != it.request_id);
                }
            }
            ("Network.loadingFailed", Some(tab)) => {
                if let Some(it) = event.params::<Loaded<'_>>() {
                    let payload = self.failed(&it, &tab.target);
                    self.tell_at_pace("request.failed", payload);
                }
            }
            _ => {}
        }
    }

    /// Tells what is new of the tabs. Each event has all of them: whoever missed one
    /// needs only the next.
    fn compare(&mut self, tabs: &Tabs) {
        let now = tabs.shown();
        if now == self.tabs {
            return;
        }
        let is_in = |list: &[Shown], id: &str| list.iter().any(|it| it.id == id);
        let opened = now.iter().find(|it| !is_in(&self.tabs, &it.id));
        let closed = self.tabs.iter().find(|it| !is_in(&now, &it.id));
        let (kind, tab) = match (opened, closed) {
            (Some(tab), _) => ("tab.opened", Some(&tab.id)),
            (None, Some(tab)) => ("tab.closed", Some(&tab.id)),
            (None, None) => ("tab.updated", None),
        };
        let payload = match tab {
            Some(id) => json!({ "tab_id": id, "tabs": now }),
            None => json!({ "tabs": now }),
        };
        self.tell(kind, payload);
        self.tabs = now;
    }

    fn sent(&mut self, it: &RequestSent<'_>) {
        let request = Request {
            id: it.request_id.to_owned(),
            url: cut(&it.request.url, URL_BYTES_MAX).into_owned(),
            method: it.request.method.to_owned(),
        };
        // A redirect goes on under the same id.
        match self
            .requests
            .iter_mut()
            .find(|known| known.id == request.id)
        {
            Some(known) => *known = request,
            None => {
                if self.requests.len() >= REQUESTS_MAX {
                    self.requests.pop_front();
                }
                self.requests.push_back(request);
            }
        }
    }

    fn failed(&mut self, it: &Loaded<'_>, tab: &str) -> Value {
        let place = self
            .requests
            .iter()
            .position(|known| known.id == it.request_id);
        let request = place.and_then(|place| self.requests.remove(place));
        json!({
            "tab_id": tab,
            "url": request.as_ref().map(|it| &it.url),
            "method": request.as_ref().map(|it| &it.method),
            "resource": it.resource.map(str::to_lowercase),
            "error": it.error,
            "cancelled": it.canceled,
        })
    }
}

/// So many at once, and so many a second.
#[derive(Debug, Default)]
struct Pace {
    spent: f64,
    at: Option<Instant>,
}

impl Pace {
    fn allows(&mut self, now: Instant) -> bool {
        if let Some(at) = self.at.replace(now) {
            let regained = (now - at).as_secs_f64() * A_SECOND;
            self.spent = (self.spent - regained).max(0.0);
        }
        let allowed = self.spent + 1.0 <= BURST;
        if allowed {
            self.spent += 1.0;
        }
        allowed
    }
}

fn cut(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(bytes)]))
}

/// Whether an event is about this frame: a tab's main frame has its name.
fn is_of(event: &Event<'_>, target: &str) -> bool {
    let frame = event.params::<OfFrame<'_>>();
    frame.is_some_and(|it| it.frame_id.or(it.frame.map(|it| it.id)) == Some(target))
}

#[derive(Deserialize)]
struct OfFrame<'a> {
    #[serde(borrow, default)]
    frame: Option<Frame<'a>>,
    #[serde(borrow, default, rename = "frameId")]
    frame_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    id: &'a str,
}

#[derive(Deserialize)]
struct Lifecycle<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
struct DialogOpening<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default, rename = "defaultPrompt")]
    default_prompt: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ConsoleCalled<'a> {
    #[serde(rename = "type")]
    level: &'a str,
    #[serde(borrow)]
    args: Vec<RemoteObject<'a>>,
    #[serde(borrow, default, rename = "stackTrace")]
    stack: Option<Stack<'a>>,
}

#[derive(Deserialize)]
struct RemoteObject<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    value: Option<Value>,
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "unserializableValue")]
    unserializable: Option<Cow<'a, str>>,
}

impl RemoteObject<'_> {
    fn text(&self) -> String {
        match (&self.value, &self.unserializable, &self.description) {
            (Some(Value::String(text)), ..) => text.clone(),
            (Some(value), ..) => value.to_string(),
            (None, Some(text), _) | (None, None, Some(text)) => text.clone().into_owned(),
            (None, None, None) => self.kind.to_owned(),
        }
    }
}

#[derive(Deserialize)]
struct Stack<'a> {
    #[serde(borrow, rename = "callFrames")]
    frames: Vec<CallFrame<'a>>,
}

#[derive(Deserialize)]
struct CallFrame<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(rename = "lineNumber")]
    line: u32,
}

impl ConsoleCalled<'_> {
    fn line(&self, tab: &str) -> Value {
        let mut text = String::new();
        for arg in &self.args {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&arg.text());
            if text.len() > TEXT_BYTES_MAX {
                break;
            }
        }
        let from = self.stack.as_ref().and_then(|it| it.frames.first());
        json!({
            "tab_id": tab,
            // As the page's author writes it.
            "level": if self.level == "warning" { "warn" } else { self.level },
            "text": cut(&text, TEXT_BYTES_MAX),
            "url": from.map(|it| cut(&it.url, URL_BYTES_MAX)),
            // CDP counts from 0.
            "line": from.map(|it| it.line + 1),
        })
    }
}

#[derive(Deserialize)]
struct ExceptionThrown<'a> {
    #[serde(borrow, rename = "exceptionDetails")]
    details: ExceptionDetails<'a>,
}

#[derive(Deserialize)]
struct ExceptionDetails<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(rename = "lineNumber")]
    line: u32,
    #[serde(borrow, default)]
    url: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    exception: Option<RemoteObject<'a>>,
}

impl ExceptionDetails<'_> {
    fn line(&self, tab: &str) -> Value {
        let text = match &self.exception {
            Some(exception) => format!("{} {}", self.text, exception.text()),
            None => self.text.clone().into_owned(),
        };
        json!({
            "tab_id": tab,
            "level": "exception",
            "text": cut(&text, TEXT_BYTES_MAX),
            "url": self.url.as_ref().map(|it| cut(it, URL_BYTES_MAX)),
            "line": self.line + 1,
        })
    }
}

#[derive(Deserialize)]
struct RequestSent<'a> {
    #[serde(rename = "requestId")]
    request_id: &'a str,
    #[serde(borrow)]
    request: Sent<'a>,
}

#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
    method: &'a str,
}

#[derive(Deserialize)]
struct Loaded<'a> {
    #[serde(rename = "requestId")]
    request_id: &'a str,
    #[serde(borrow, default, rename = "type")]
    resource: Option<&'a str>,
    #[serde(borrow, default, rename = "errorText")]
    error: Option<Cow<'a, str>>,
    #[serde(default)]
    canceled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Played {
        tabs: Tabs,
        events: Events,
        told: mpsc::Receiver<Told>,
    }

    impl Played {
        fn new() -> Self {
            let events = Events::default();
            let told = events.begin(Vec::new());
            let mut played = Self {
                tabs: Tabs::new(),
                events,
                told,
            };
            played.hear(
                r#"{"method":"Target.attachedToTarget","params":{"sessionId":"s","waitingForDebugger":true,"targetInfo":{"targetId":"t","type":"page","title":"","url":"about:blank","attached":true,"canAccessOpener":false}}}"#,
            );
            played
        }

        fn hear(&mut self, frame: &str) {
            let event: Event<'_> = serde_json::from_str(frame).expect("an event");
            self.tabs.apply(&event, Instant::now());
            self.events.hear(&event, &self.tabs);
        }

        fn told(&mut self) -> Vec<Told> {
            std::iter::from_fn(|| self.told.try_recv().ok()).collect()
        }

        fn kinds(&mut self) -> Vec<&'static str> {
            self.told().iter().map(|it| it.kind).collect()
        }
    }

    #[test]
    fn a_page_tells_its_way_and_frames_within_do_not() {
        let mut played = Played::new();
        assert_eq!(played.kinds(), ["tab.updated", "tab.opened"]);
        let navigated = r#"{"method":"Page.frameNavigated","sessionId":"s","params":{"frame":{"id":"t","loaderId":"L","url":"http://a/\u00e9"},"type":"Navigation"}}"#;
        played.hear(navigated);
        let told = played.told();
        assert_eq!(told[0].kind, "page.navigated");
        assert_eq!(told[0].payload["url"], "http://a/é");
        assert_eq!(told[1].payload["tabs"][0]["url"], "http://a/é");
        played.hear(&navigated.replace(r#""id":"t""#, r#""id":"child""#));
        assert_eq!(played.kinds(), [""; 0]);
        played.hear(r#"{"method":"Page.lifecycleEvent","sessionId":"s","params":{"frameId":"t","loaderId":"L","name":"load","timestamp":1}}"#);
        assert_eq!(played.kinds(), ["page.loaded"]);
        played.hear(
            r#"{"method":"Target.detachedFromTarget","params":{"sessionId":"s","targetId":"t"}}"#,
        );
        let told = played.told();
        assert_eq!(
            (told[0].kind, &told[0].payload["tab_id"]),
            ("tab.closed", &json!("t"))
        );
        assert_eq!(told[0].payload["tabs"], json!([]));
    }

    #[test]
    fn a_line_of_the_console_reads_as_its_author_wrote_it() {
        let mut played = Played::new();
        played.told();
        played.hear(r#"{"method":"Runtime.consoleAPICalled","sessionId":"s","params":{"type":"warning","args":[{"type":"string","value":"n is"},{"type":"number","value":1,"description":"1"},{"type":"number","unserializableValue":"NaN","description":"NaN"},{"type":"object","description":"Object"}],"executionContextId":1,"timestamp":1,"stackTrace":{"callFrames":[{"functionName":"","scriptId":"1","url":"http://a/x.js","lineNumber":4,"columnNumber":1}]}}}"#);
        let told = played.told();
        assert_eq!(told[0].payload["text"], "n is 1 NaN Object");
        assert_eq!(told[0].payload["level"], "warn");
        assert_eq!(told[0].payload["line"], 5);
    }

    #[test]
    fn a_failed_request_says_which_it_was() {
        let mut played = Played::new();
        played.told();
        played.hear(r#"{"method":"Network.requestWillBeSent","sessionId":"s","params":{"requestId":"1","loaderId":"L","documentURL":"","request":{"url":"http://a/b","method":"POST","headers":{}},"timestamp":1,"wallTime":1,"type":"Fetch"}}"#);
        played.hear(r#"{"method":"Network.loadingFailed","sessionId":"s","params":{"requestId":"1","timestamp":1,"type":"Fetch","errorText":"net::ERR_FAILED","canceled":false}}"#);
        let told = played.told();
        assert_eq!(told[0].kind, "request.failed");
        assert_eq!(told[0].payload["url"], "http://a/b");
        assert_eq!(told[0].payload["error"], "net::ERR_FAILED");
    }

    #[test]
    fn a_page_that_shouts_is_heard_at_a_pace_and_the_gap_shows() {
        let mut played = Played::new();
        played.told();
        let line = r#"{"method":"Runtime.consoleAPICalled","sessionId":"s","params":{"type":"log","args":[{"type":"string","value":"x"}],"executionContextId":1,"timestamp":1}}"#;
        for _ in 0..10_000 {
            played.hear(line);
        }
        let heard = played.told();
        assert!(heard.len() < WAITING_MAX, "{}", heard.len());
        played.hear(r#"{"method":"Inspector.targetCrashed","sessionId":"s","params":{}}"#);
        let crashed = &played.told()[0];
        assert_eq!((crashed.kind, crashed.number), ("page.crashed", 10_003));
    }
}
