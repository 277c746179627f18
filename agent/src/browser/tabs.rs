//! What is known of a browser's tabs and dialogs: events go in, reactions come
//! out. Pure.
//!
//! Only the pages of the browser's own context are tabs here. A client of CDP that
//! makes a context of its own (Playwright does, for each test) sets its pages up
//! itself, answers their dialogs itself, and is not disturbed by ours; and what it does
//! there is not what commands act on. A page that it opens in the browser's own
//! context is a tab like any other, and the active one.
//!
//! It holds levels, not edges: whoever waits for something looks at the state,
//! so that no event can be missed, and none has to be queued.

use std::collections::VecDeque;
use std::time::Duration;

use browserfleet_proto::action::{Dialog, DialogPolicy, Tab as Shown, WaitUntil};
use headless_chrome::protocol::cdp::{Page, Target};
use tokio::time::Instant;

use super::cdp::Event;

/// Tabs that one browser may have; what a page opens beyond is closed at once.
pub(super) const TABS_MAX: usize = 32;
/// Dialogs in a row that are answered before their tab is closed: on an endless
/// loop of them nothing else helps.
const DIALOGS_IN_A_ROW_MAX: u32 = 5;
/// How soon a dialog has to follow the one before to be in a row with it.
const ROW_GAP: Duration = Duration::from_secs(1);
/// Documents that a tab remembers by name: a page that refreshes itself without
/// pause has a few between two looks.
const LOADERS_MAX: usize = 32;

/// One tab.
#[derive(Debug, Clone)]
pub(super) struct Tab {
    pub(super) target: String,
    /// CDP's session with it.
    pub(super) session: String,
    pub(super) url: String,
    pub(super) title: String,
    /// Names of the documents that it has had, the newest last.
    loaders: VecDeque<String>,
    /// How many documents it has had.
    pub(super) documents: u64,
    /// How far the document is.
    reached: WaitUntil,
    /// For each moment, the number of the last document that got there. It only
    /// grows: who looks late has missed nothing.
    got_there: [u64; 4],
    pub(super) committed_at: Instant,
    pub(super) crashed: bool,
    /// It is set up.
    pub(super) ready: bool,
    /// Counts the times that a tab became the active one: the latest is it.
    fronted: u64,
}

impl Tab {
    /// Whether the document of this name got there, or one after it: a page that
    /// goes on by itself has arrived where it went on to.
    pub(super) fn got_there(&self, loader: &str, moment: WaitUntil) -> bool {
        let newer = self.loaders.iter().rev().position(|it| it == loader);
        let number = newer.and_then(|newer| self.documents.checked_sub(u64::try_from(newer).ok()?));
        number.is_some_and(|number| self.got_there[usize::from(rank(moment))] >= number)
    }

    fn reaches(&mut self, moment: WaitUntil) {
        self.reached = moment;
        for got_there in &mut self.got_there[..=usize::from(rank(moment))] {
            *got_there = self.documents;
        }
    }
}

/// All tabs, oldest first. The one that was opened or chosen last is the active one, as
/// it is to a user.
#[derive(Debug)]
pub(super) struct Tabs {
    tabs: Vec<Tab>,
    fronted: u64,
    dialog: Option<Open>,
    policy: DialogPolicy,
    in_a_row: u32,
    last_dialog: Option<Instant>,
    /// The browser's own context. Those that clients make are theirs alone.
    context: Option<String>,
    /// The pipe has ended.
    closed: bool,
}

#[derive(Debug, Clone)]
struct Open {
    session: String,
    dialog: Dialog,
}

/// What an event asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// A tab is there and waits to be set up.
    SetUp { session: String },
    /// One tab too many. It waits to be set up, and its opener waits for it.
    Refuse { session: String, target: String },
    /// A page of a client's own context: it is let run, and left alone.
    Leave { session: String },
    /// A tab that cannot be kept.
    Close { target: String },
    /// The last tab is gone.
    OpenBlank,
    /// A dialog that the session's policy answers.
    Answer { session: String, accept: bool },
}

impl Tabs {
    pub(super) fn new() -> Self {
        Self {
            tabs: Vec::new(),
            fronted: 0,
            dialog: None,
            policy: DialogPolicy::Dismiss,
            in_a_row: 0,
            last_dialog: None,
            context: None,
            closed: false,
        }
    }

    pub(super) fn set_policy(&mut self, policy: DialogPolicy) {
        self.policy = policy;
    }

    /// A tab is set up.
    pub(super) fn set_ready(&mut self, session: &str) {
        if let Some(tab) = self.tab(session) {
            tab.ready = true;
        }
    }

    /// What a command has read of the active tab: Chrome does not tell when a
    /// document changes its title. `false`: nothing new.
    pub(super) fn seen(&mut self, url: &str, title: &str) -> bool {
        let Some(tab) = self.tabs.iter_mut().max_by_key(|it| it.fronted) else {
            return false;
        };
        if tab.url == url && tab.title == title {
            return false;
        }
        url.clone_into(&mut tab.url);
        title.clone_into(&mut tab.title);
        true
    }

    /// The tab that commands act on.
    pub(super) fn active(&self) -> Option<&Tab> {
        self.tabs.iter().max_by_key(|it| it.fronted)
    }

    /// Makes a tab the active one. `false`: it is, or it is gone.
    pub(super) fn activate(&mut self, target: &str) -> bool {
        if self.active().is_none_or(|it| it.target == target) {
            return false;
        }
        let fronted = self.fronted + 1;
        let Some(tab) = self.tabs.iter_mut().find(|it| it.target == target) else {
            return false;
        };
        tab.fronted = fronted;
        self.fronted = fronted;
        true
    }

    /// Whether there is a tab of this name.
    pub(super) fn has(&self, target: &str) -> bool {
        self.tabs.iter().any(|it| it.target == target)
    }

    pub(super) fn of_session(&self, session: &str) -> Option<&Tab> {
        self.tabs.iter().find(|it| it.session == session)
    }

    /// CDP's sessions with all tabs.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &str> {
        self.tabs.iter().map(|it| it.session.as_str())
    }

    /// The dialog that waits for the caller.
    pub(super) fn dialog(&self) -> Option<&Dialog> {
        self.dialog.as_ref().map(|it| &it.dialog)
    }

    /// The tab whose dialog waits for the caller.
    pub(super) fn dialog_session(&self) -> Option<&str> {
        self.dialog.as_ref().map(|it| it.session.as_str())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// As callers see them.
    pub(super) fn shown(&self) -> Vec<Shown> {
        let active = self.active().map(|it| it.fronted);
        let show = |tab: &Tab| Shown {
            id: tab.target.clone(),
            url: tab.url.clone(),
            title: tab.title.clone(),
            active: Some(tab.fronted) == active,
        };
        self.tabs.iter().map(show).collect()
    }

    /// The pipe has ended.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.tabs.clear();
        self.dialog = None;
    }

    /// Takes in an event; `None`: it changed nothing.
    pub(super) fn apply(&mut self, event: &Event<'_>, now: Instant) -> Option<Vec<Reaction>> {
        use Page::events as page;
        use Target::events as target;
        match (event.method, event.session) {
            // On the browser's own session. What a client's session still hears of once the
            // client has gone is nobody's.
            ("Target.attachedToTarget", None) => {
                let it: target::AttachedToTargetEventParams = event.params()?;
                self.attached(it.session_id, it.target_info, now)
            }
            ("Target.detachedFromTarget", _) => {
                let it: target::DetachedFromTargetEventParams = event.params()?;
                self.detached(&it.session_id)
            }
            ("Target.targetInfoChanged", _) => {
                let it: target::TargetInfoChangedEventParams = event.params()?;
                self.told(it.target_info)
            }
            ("Page.frameNavigated", Some(session)) => {
                let it: FrameNavigated<'_> = event.params()?;
                self.navigated(session, &it.frame, now)
            }
            ("Page.navigatedWithinDocument", Some(session)) => {
                let it: page::NavigatedWithinDocumentEventParams = event.params()?;
                let tab = self.tab(session).filter(|tab| tab.target == it.frame_id)?;
                tab.url = it.url;
                Some(Vec::new())
            }
            ("Page.lifecycleEvent", Some(session)) => {
                let it: page::LifecycleEventEventParams = event.params()?;
                self.lifecycle(session, &it)
            }
            ("Page.javascriptDialogOpening", Some(session)) => {
                self.of_session(session)?;
                let it: page::JavascriptDialogOpeningEventParams = event.params()?;
                Some(self.dialog_opened(session, it, now))
            }
            ("Page.javascriptDialogClosed", Some(session)) => {
                self.dialog.take_if(|it| it.session == session)?;
                Some(Vec::new())
            }
            ("Inspector.targetCrashed", Some(session)) => {
                self.tab(session)?.crashed = true;
                self.dialog.take_if(|it| it.session == session);
                Some(Vec::new())
            }
            _ => None,
        }
    }

    fn tab(&mut self, session: &str) -> Option<&mut Tab> {
        self.tabs.iter_mut().find(|it| it.session == session)
    }

    fn attached(
        &mut self,
        session: String,
        info: Target::TargetInfo,
        now: Instant,
    ) -> Option<Vec<Reaction>> {
        if info.Type != "page" {
            return None;
        }
        let context = info.browser_context_id.clone().unwrap_or_default();
        // The first page of a browser, long before any client, is in its own context.
        let own = self.context.get_or_insert_with(|| context.clone());
        if *own != context {
            return Some(vec![Reaction::Leave { session }]);
        }
        if self.tabs.len() >= TABS_MAX {
            let target = info.target_id;
            return Some(vec![Reaction::Refuse { session, target }]);
        }
        self.fronted += 1;
        self.tabs.push(Tab {
            target: info.target_id,
            session: session.clone(),
            url: info.url,
            title: info.title,
            loaders: VecDeque::new(),
            documents: 0,
            reached: WaitUntil::Commit,
            got_there: [0; 4],
            committed_at: now,
            crashed: false,
            ready: false,
            fronted: self.fronted,
        });
        Some(vec![Reaction::SetUp { session }])
    }

    fn detached(&mut self, session: &str) -> Option<Vec<Reaction>> {
        let index = self.tabs.iter().position(|it| it.session == session)?;
        self.tabs.remove(index);
        self.dialog.take_if(|it| it.session == session);
        Some(if self.tabs.is_empty() {
            vec![Reaction::OpenBlank]
        } else {
            Vec::new()
        })
    }

    /// What Chrome says of a tab; `None`: nothing new.
    pub(super) fn told(&mut self, info: Target::TargetInfo) -> Option<Vec<Reaction>> {
        let tab = self
            .tabs
            .iter_mut()
            .find(|it| it.target == info.target_id)?;
        if tab.url == info.url && tab.title == info.title {
            return None;
        }
        tab.url = info.url;
        tab.title = info.title;
        Some(Vec::new())
    }

    fn navigated(
        &mut self,
        session: &str,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Option<Vec<Reaction>> {
        let tab = self.tab(session).filter(|tab| tab.target == frame.id)?;
        tab.url = [&*frame.url, frame.fragment.as_deref().unwrap_or("")].concat();
        tab.documents += 1;
        tab.loaders.push_back(frame.loader.to_owned());
        if tab.loaders.len() > LOADERS_MAX {
            tab.loaders.pop_front();
        }
        tab.reaches(WaitUntil::Commit);
        tab.committed_at = now;
        tab.crashed = false;
        Some(Vec::new())
    }

    fn lifecycle(
        &mut self,
        session: &str,
        it: &Page::events::LifecycleEventEventParams,
    ) -> Option<Vec<Reaction>> {
        let reached = match it.name.as_str() {
            "DOMContentLoaded" => WaitUntil::DomContentLoaded,
            "load" => WaitUntil::Load,
            "networkIdle" => WaitUntil::NetworkIdle,
            _ => return None,
        };
        let tab = self.tab(session)?;
        let current = tab.loaders.back() == Some(&it.loader_id);
        if tab.target != it.frame_id || !current || rank(tab.reached) >= rank(reached) {
            return None;
        }
        // The network may have been idle before the document was loaded.
        if reached == WaitUntil::NetworkIdle && tab.reached != WaitUntil::Load {
            return None;
        }
        tab.reaches(reached);
        Some(Vec::new())
    }

    fn dialog_opened(
        &mut self,
        session: &str,
        it: Page::events::JavascriptDialogOpeningEventParams,
        now: Instant,
    ) -> Vec<Reaction> {
        let follows = self.last_dialog.is_some_and(|last| now - last < ROW_GAP);
        self.last_dialog = Some(now);
        self.in_a_row = if follows { self.in_a_row + 1 } else { 1 };
        let leaving = matches!(it.Type, Page::DialogType::Beforeunload);
        let accept = match self.policy {
            // Whoever navigates means to leave.
            DialogPolicy::Dismiss => leaving,
            DialogPolicy::Accept => true,
            DialogPolicy::Report => {
                let dialog = Dialog {
                    kind: kind(&it.Type).to_owned(),
                    message: it.message,
                    default_text: it.default_prompt.unwrap_or_default(),
                    url: it.url,
                };
                let session = session.to_owned();
                self.dialog = Some(Open { session, dialog });
                return Vec::new();
            }
        };
        if self.in_a_row > DIALOGS_IN_A_ROW_MAX
            && let Some(tab) = self.of_session(session)
        {
            tracing::warn!(
                url = tab.url,
                "closing a tab that opens dialogs without end"
            );
            let target = tab.target.clone();
            return vec![Reaction::Close { target }];
        }
        let session = session.to_owned();
        vec![Reaction::Answer { session, accept }]
    }
}

/// A navigated frame, as far as it matters.
#[derive(serde::Deserialize)]
struct FrameNavigated<'a> {
    #[serde(borrow)]
    frame: Frame<'a>,
}

#[derive(serde::Deserialize)]
struct Frame<'a> {
    id: &'a str,
    #[serde(rename = "loaderId")]
    loader: &'a str,
    #[serde(borrow)]
    url: std::borrow::Cow<'a, str>,
    #[serde(borrow, default, rename = "urlFragment")]
    fragment: Option<std::borrow::Cow<'a, str>>,
}

fn kind(kind: &Page::DialogType) -> &'static str {
    match kind {
        Page::DialogType::Alert => "alert",
        Page::DialogType::Confirm => "confirm",
        Page::DialogType::Prompt => "prompt",
        Page::DialogType::Beforeunload => "beforeunload",
    }
}

/// The order in which a document gets there.
fn rank(reached: WaitUntil) -> u8 {
    match reached {
        WaitUntil::Commit => 0,
        WaitUntil::DomContentLoaded => 1,
        WaitUntil::Load => 2,
        WaitUntil::NetworkIdle => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(tabs: &mut Tabs, now: Instant, frame: &str) -> Option<Vec<Reaction>> {
        tabs.apply(&serde_json::from_str(frame).expect("an event"), now)
    }

    fn attach(tabs: &mut Tabs, name: &str) -> Option<Vec<Reaction>> {
        let frame = format!(
            r#"{{"method":"Target.attachedToTarget","params":{{"sessionId":"s{name}","waitingForDebugger":true,"targetInfo":{{"targetId":"t{name}","type":"page","title":"","url":"about:blank","attached":true,"canAccessOpener":false}}}}}}"#
        );
        apply(tabs, Instant::now(), &frame)
    }

    fn alert(tabs: &mut Tabs, now: Instant) -> Option<Vec<Reaction>> {
        apply(
            tabs,
            now,
            r#"{"method":"Page.javascriptDialogOpening","sessionId":"s1","params":{"url":"http://a/","message":"hi","type":"alert","hasBrowserHandler":false,"frameId":"t1"}}"#,
        )
    }

    #[test]
    fn a_new_tab_is_set_up_and_becomes_the_active_one() {
        let mut tabs = Tabs::new();
        for name in ["1", "2"] {
            let session = format!("s{name}");
            assert_eq!(
                attach(&mut tabs, name),
                Some(vec![Reaction::SetUp { session }])
            );
        }
        assert_eq!(tabs.active().map(|it| it.target.as_str()), Some("t2"));
        let gone =
            r#"{"method":"Target.detachedFromTarget","params":{"sessionId":"s2","targetId":"t2"}}"#;
        assert_eq!(apply(&mut tabs, Instant::now(), gone), Some(Vec::new()));
        assert_eq!(tabs.active().map(|it| it.target.as_str()), Some("t1"));
        let last =
            r#"{"method":"Target.detachedFromTarget","params":{"sessionId":"s1","targetId":"t1"}}"#;
        assert_eq!(
            apply(&mut tabs, Instant::now(), last),
            Some(vec![Reaction::OpenBlank])
        );
    }

    #[test]
    fn what_is_told_on_a_clients_session_is_none_of_ours() {
        let mut tabs = Tabs::new();
        attach(&mut tabs, "1");
        let elsewhere = r#"{"method":"Target.attachedToTarget","sessionId":"gone","params":{"sessionId":"s2","waitingForDebugger":true,"targetInfo":{"targetId":"t1","type":"page","title":"","url":"about:blank","attached":true,"canAccessOpener":false}}}"#;
        assert_eq!(apply(&mut tabs, Instant::now(), elsewhere), None);
        assert_eq!(tabs.shown().len(), 1);
        tabs.detached("s1");
        assert_eq!(alert(&mut tabs, Instant::now()), None, "it has no tab");
    }

    #[test]
    fn one_tab_too_many_is_closed() {
        let mut tabs = Tabs::new();
        for name in 0..TABS_MAX {
            attach(&mut tabs, &name.to_string());
        }
        let (session, target) = ("sx".to_owned(), "tx".to_owned());
        assert_eq!(
            attach(&mut tabs, "x"),
            Some(vec![Reaction::Refuse { session, target }])
        );
        assert_eq!(tabs.shown().len(), TABS_MAX);
    }

    #[test]
    fn a_document_gets_further_and_a_new_one_starts_over() {
        let mut tabs = Tabs::new();
        attach(&mut tabs, "1");
        let navigated = r#"{"method":"Page.frameNavigated","sessionId":"s1","params":{"type":"Navigation","frame":{"id":"t1","loaderId":"L1","url":"http://a/\u00e9","urlFragment":"\u0023b"}}}"#;
        let lifecycle = |name: &str, loader: &str| {
            format!(
                r#"{{"method":"Page.lifecycleEvent","sessionId":"s1","params":{{"frameId":"t1","loaderId":"{loader}","name":"{name}","timestamp":1.5}}}}"#
            )
        };
        let now = Instant::now();
        apply(&mut tabs, now, navigated);
        assert!(apply(&mut tabs, now, &lifecycle("networkIdle", "L1")).is_none());
        assert!(apply(&mut tabs, now, &lifecycle("load", "L0")).is_none());
        for name in ["DOMContentLoaded", "load", "networkIdle"] {
            assert!(
                apply(&mut tabs, now, &lifecycle(name, "L1")).is_some(),
                "{name}"
            );
        }
        let tab = tabs.active().expect("it is there");
        assert_eq!(
            (tab.reached, tab.url.as_str()),
            (WaitUntil::NetworkIdle, "http://a/é#b")
        );
        apply(&mut tabs, now, &navigated.replace("L1", "L2"));
        let tab = tabs.active().expect("it is there");
        assert_eq!((tab.reached, tab.documents), (WaitUntil::Commit, 2));
        assert!(
            tab.got_there("L1", WaitUntil::NetworkIdle),
            "who looks late has missed nothing"
        );
        assert!(tab.got_there("L2", WaitUntil::Commit));
        assert!(!tab.got_there("L2", WaitUntil::Load) && !tab.got_there("L3", WaitUntil::Commit));
    }

    #[test]
    fn dialogs_are_answered_until_there_are_too_many_in_a_row() {
        let mut tabs = Tabs::new();
        attach(&mut tabs, "1");
        let mut now = Instant::now();
        for _ in 0..2 {
            for _ in 0..DIALOGS_IN_A_ROW_MAX {
                let session = "s1".to_owned();
                let answer = Reaction::Answer {
                    session,
                    accept: false,
                };
                assert_eq!(alert(&mut tabs, now), Some(vec![answer]));
            }
            now += ROW_GAP;
        }
        now -= ROW_GAP;
        let target = "t1".to_owned();
        assert_eq!(
            alert(&mut tabs, now),
            Some(vec![Reaction::Close { target }])
        );
    }

    #[test]
    fn a_reported_dialog_waits_for_the_caller() {
        let mut tabs = Tabs::new();
        tabs.set_policy(DialogPolicy::Report);
        attach(&mut tabs, "1");
        assert_eq!(alert(&mut tabs, Instant::now()), Some(Vec::new()));
        assert_eq!(tabs.dialog().map(|it| it.message.as_str()), Some("hi"));
        let closed = r#"{"method":"Page.javascriptDialogClosed","sessionId":"s1","params":{"result":true,"userInput":""}}"#;
        apply(&mut tabs, Instant::now(), closed);
        assert!(tabs.dialog().is_none());
    }
}
