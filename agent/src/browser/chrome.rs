//! Chrome as the browser of one session: actions one at a time, dialogs by the
//! session's policy, and a ladder for what is stuck.
//!
//! ```text
//! a command timed out ─▶ before the next one: does the page answer?
//!   no ─▶ end its script ─▶ no ─▶ close the tab, open a fresh one ─▶ no ─▶ kill the browser
//! ```

use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::action::{
    Action, Answer, AnswerDialog, Code, Dialog, DialogPolicy, Outcome, Point, Rejection,
    SessionOptions, Size, State,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headless_chrome::protocol::cdp::{Browser as BrowserDomain, Page as PageDomain, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::actions::{self, evaluation};
use super::cdp::{CallError, Client};
use super::live::Live;
use super::mux::Grounds;
use super::page::Page;
use super::process::Process;
use super::running::Running;
use super::tabs::Tabs;
use super::titles;
use super::{Browser, Downloads, EndReason, Notice, Performed, Told, Tunnels};
use crate::tasks;

/// How long a page that is suspected to be stuck may take to answer.
const SIGN_OF_LIFE: Duration = Duration::from_millis(300);
/// How often a silent browser is asked whether it lives.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long a browser may take to say so: a machine at its limit takes seconds.
/// With two heartbeats a hang is found within 13 s.
const HUNG_AFTER: Duration = Duration::from_secs(7);
/// Shortest time between two notices of where the page is.
const PAGE_CHANGED_EVERY: Duration = Duration::from_millis(250);
/// How long Chrome may take to let a client join.
const JOINING_TAKES: Duration = Duration::from_secs(5);
/// Notices that wait to be taken: the last one of each kind.
const NOTICES_MAX: usize = 4;

/// A Chrome with a session.
pub(super) struct Chrome {
    running: Running,
    options: SessionOptions,
    /// The last command timed out: the page may be stuck.
    suspect: bool,
    kill: mpsc::Sender<EndReason>,
    notices: Option<mpsc::Receiver<Notice>>,
    watched: JoinHandle<Option<()>>,
    /// Follows the tabs' titles while somebody watches.
    titles: Option<JoinHandle<Option<()>>>,
}

impl Chrome {
    /// Gives a running Chrome to a session.
    pub(super) async fn new(
        mut running: Running,
        options: &SessionOptions,
        deadline: Instant,
    ) -> Result<Self, Rejection> {
        if let Err(rejection) = running.adopt(options, deadline).await {
            running.process.end().await;
            return Err(rejection);
        }
        let (notify, notices) = mpsc::channel(NOTICES_MAX);
        let (kill, killed) = mpsc::channel(1);
        let watcher = Watcher {
            client: running.client.clone(),
            tabs: running.tabs(),
            ended: running.process.ended().boxed(),
            notify,
            killed,
        };
        Ok(Self {
            watched: tasks::spawn("browser watcher", watcher.run()),
            running,
            options: options.clone(),
            suspect: false,
            kill,
            notices: Some(notices),
            titles: None,
        })
    }

    async fn perform(&mut self, action: &Action, deadline: Instant) -> Performed {
        if let Action::Dialog(answer) = action {
            return self.answer_dialog(answer, deadline).await.into();
        }
        if self.suspect {
            self.recover().await;
        }
        if matches!(action, Action::Navigate(_))
            && let Some(crashed) = self.crashed_tab()
            && let Err(error) = self.running.replace(&crashed).await
        {
            return Outcome::Err(actions::rejection(error)).into();
        }
        if let Some(dialog) = self.dialog() {
            return match action {
                Action::State => Ok(Answer::State(Box::new(self.state_behind(dialog)))).into(),
                _ => dialog_open(&dialog).into(),
            };
        }
        let page = match self.running.page(deadline).await {
            Ok(page) => page,
            Err(error) => return Outcome::Err(actions::rejection(error)).into(),
        };
        let mut performed = tokio::select! {
            biased;
            performed = actions::act(&page, action, deadline) => performed,
            dialog = self.dialog_opens() => dialog_open(&dialog).into(),
        };
        match &mut performed.outcome {
            Ok(Answer::Navigated(it)) => self.running.seen(&it.url, &it.title),
            Ok(Answer::State(state)) => {
                self.running.seen(&state.url, &state.title);
                state.tabs = self.running.tabs().borrow().shown();
            }
            _ => {}
        }
        if let Err(rejection) = &performed.outcome {
            self.suspect |= matches!(
                rejection.code,
                Code::CommandTimeout | Code::NavigationTimeout
            );
        }
        performed
    }

    fn crashed_tab(&self) -> Option<String> {
        let tabs = self.running.tabs();
        let tabs = tabs.borrow();
        let crashed = tabs.active().filter(|tab| tab.crashed);
        crashed.map(|tab| tab.target.clone())
    }

    fn dialog(&self) -> Option<Dialog> {
        self.running.tabs().borrow().dialog().cloned()
    }

    /// Resolves when a dialog waits for the caller.
    async fn dialog_opens(&self) -> Dialog {
        if self.options.dialogs != DialogPolicy::Report {
            return std::future::pending().await;
        }
        let mut tabs = self.running.tabs();
        let opened = tabs.wait_for(|tabs| tabs.dialog().is_some()).await;
        match opened.ok().and_then(|tabs| tabs.dialog().cloned()) {
            Some(dialog) => dialog,
            None => std::future::pending().await,
        }
    }

    async fn answer_dialog(&self, answer: &AnswerDialog, deadline: Instant) -> Outcome {
        let open = {
            let tabs = self.running.tabs();
            let tabs = tabs.borrow();
            tabs.dialog()
                .cloned()
                .zip(tabs.dialog_session().map(str::to_owned))
        };
        let Some((dialog, session)) = open else {
            return Err(Rejection::new(Code::NoDialog, "no dialog is open"));
        };
        let call = PageDomain::HandleJavaScriptDialog {
            accept: answer.accept,
            prompt_text: (dialog.kind == "prompt").then(|| answer.text.clone()),
        };
        let client = &self.running.client;
        match client.call(Some(&session), &call, deadline).await {
            Ok(_) => {}
            Err(CallError::Protocol { .. }) => {
                return Err(Rejection::new(Code::NoDialog, "the dialog is gone"));
            }
            Err(error) => return Err(actions::rejection(error)),
        }
        // The next command must not meet it again.
        let mut tabs = self.running.tabs();
        let closed = tabs.wait_for(|tabs| tabs.dialog() != Some(&dialog));
        if timeout_at(deadline, closed).await.is_err() {
            return Err(actions::rejection(CallError::Deadline));
        }
        Ok(Answer::DialogAnswered(dialog))
    }

    /// What can be known of a page that a dialog holds.
    fn state_behind(&self, dialog: Dialog) -> State {
        let tabs = self.running.tabs();
        let tabs = tabs.borrow();
        let active = tabs.active();
        State {
            url: active.map(|it| it.url.clone()).unwrap_or_default(),
            title: active.map(|it| it.title.clone()).unwrap_or_default(),
            loading: true,
            viewport: self.options.viewport,
            scroll: Point { x: 0.0, y: 0.0 },
            document: Size {
                width: 0.0,
                height: 0.0,
            },
            tabs: tabs.shown(),
            dialog: Some(dialog),
        }
    }

    /// Makes the browser usable again after a command that timed out.
    async fn recover(&mut self) {
        self.suspect = false;
        if self.dialog().is_some() {
            return;
        }
        let Ok(page) = self.running.page(Instant::now() + SIGN_OF_LIFE).await else {
            return;
        };
        if answers(&page).await {
            return;
        }
        page.post(Runtime::TerminateExecution(None));
        if answers(&page).await {
            tracing::info!("ended a script that held its page");
            return;
        }
        match self.running.replace(page.target_id()).await {
            Ok(()) => tracing::warn!("closed a tab that did not answer"),
            Err(error) => {
                tracing::warn!(%error, "killing a browser that did not answer");
                if self.kill.try_send(EndReason::BrowserHung).is_err() {
                    tracing::debug!("it is being killed already");
                }
                self.running.process.kill();
            }
        }
    }
}

impl Browser for Chrome {
    fn version(&self) -> &str {
        &self.running.version
    }

    fn act<'a>(&'a mut self, action: &'a Action, deadline: Instant) -> BoxFuture<'a, Performed> {
        self.perform(action, deadline).boxed()
    }

    fn notices(&mut self) -> mpsc::Receiver<Notice> {
        // A second caller gets none.
        self.notices.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    fn events(&mut self) -> mpsc::Receiver<Told> {
        self.running.events()
    }

    fn watch_pages(&mut self, watched: bool) {
        self.running.watch_pages(watched);
        if let Some(titles) = self.titles.take() {
            titles.abort();
        }
        self.titles =
            watched.then(|| tasks::spawn("tabs' titles", titles::follow(self.running.stage())));
    }

    fn live(&self) -> Arc<dyn Live> {
        Arc::new(self.running.stage())
    }

    fn tunnels(&self) -> Tunnels {
        let grounds = Grounds {
            client: self.running.client.clone(),
            folder: self.running.process.folder.clone(),
            downloads: self.running.process.downloads(),
            kill: self.kill.clone(),
        };
        let mux = self.running.client.mux();
        Box::new(move |wish| {
            let deadline = Instant::now() + JOINING_TAKES;
            let (mux, grounds) = (Arc::clone(&mux), grounds.clone());
            mux.join(grounds, wish, deadline).boxed()
        })
    }

    fn downloads(&self) -> Downloads {
        Downloads::new(self.running.process.downloads())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        let Self {
            running, watched, ..
        } = *self;
        watched.abort();
        close(running.process).boxed()
    }
}

async fn close(process: Process) {
    process.end().await;
}

fn dialog_open(dialog: &Dialog) -> Outcome {
    Err(Rejection {
        code: Code::DialogOpen,
        message: format!("a dialog is open ({}: {})", dialog.kind, dialog.message),
        detail: serde_json::json!({ "dialog": dialog }).to_string(),
    })
}

async fn answers(page: &Page) -> bool {
    let question = evaluation("0".into());
    let answer = page.call(question, Instant::now() + SIGN_OF_LIFE).await;
    // A tab that is gone or crashed is not stuck.
    !matches!(answer, Err(CallError::Deadline))
}

/// Tells what the browser does by itself, and finds out when it hangs.
struct Watcher {
    client: Client,
    tabs: watch::Receiver<Tabs>,
    ended: BoxFuture<'static, String>,
    notify: mpsc::Sender<Notice>,
    killed: mpsc::Receiver<EndReason>,
}

impl Watcher {
    async fn run(mut self) {
        let mut told = (String::new(), String::new());
        let mut reason = EndReason::BrowserCrashed;
        let mut hung = Box::pin(hangs(self.client.clone()));
        let mut changing = true;
        let message = loop {
            tokio::select! {
                message = &mut self.ended => break message,
                Some(why) = self.killed.recv() => reason = why,
                () = &mut hung => {
                    let message = "the browser did not answer and is being killed".to_owned();
                    reason = EndReason::BrowserHung;
                    break message;
                }
                changed = self.tabs.changed(), if changing => {
                    changing = changed.is_ok();
                    self.tell_page(&mut told);
                    sleep(PAGE_CHANGED_EVERY).await;
                }
            }
        };
        let last = Notice::Ended { reason, message };
        if self.notify.send(last).await.is_err() {
            tracing::debug!("nobody waits for the browser's end");
        }
    }

    fn tell_page(&mut self, told: &mut (String, String)) {
        let now = {
            let tabs = self.tabs.borrow_and_update();
            tabs.active()
                .map(|tab| (tab.url.clone(), tab.title.clone()))
        };
        let Some(now) = now.filter(|now| now != told) else {
            return;
        };
        let notice = Notice::PageChanged {
            url: now.0.clone(),
            title: now.1.clone(),
        };
        if self.notify.try_send(notice).is_ok() {
            *told = now;
        }
    }
}

/// Resolves when the browser does not answer any more. It is asked only while it
/// is silent.
async fn hangs(client: Client) {
    let mut seen = client.signs_of_life();
    loop {
        sleep(HEARTBEAT).await;
        let now = client.signs_of_life();
        if now != std::mem::replace(&mut seen, now) {
            continue;
        }
        let question = BrowserDomain::GetVersion(None);
        match client
            .call(None, &question, Instant::now() + HUNG_AFTER)
            .await
        {
            // Its answer may wait behind a large one.
            Err(CallError::Deadline) if client.signs_of_life() == now => return,
            // Its end is told by its process.
            Err(CallError::Closed) => return std::future::pending().await,
            _ => {}
        }
    }
}
