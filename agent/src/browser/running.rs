//! A Chrome that runs: its process, the client that speaks with it, and what is
//! known of its tabs. It has no session yet; see [`super::chrome`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use browserfleet_proto::action::{BrowserKind, Rejection, SessionOptions};
use headless_chrome::protocol::cdp::{Browser, Page as PageDomain, Runtime, Target};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::cdp::{CallError, Client, Event};
use super::events::{Events, Told};
use super::executable::{Executable, failed};
use super::launcher::Settings;
use super::live::Stage;
use super::page::Page;
use super::process::{Pipes, Process};
use super::screencast::Screen;
use super::setup::Setup;
use super::tabs::{Reaction, Tab, Tabs};
use crate::tasks;

/// How long the set-up of a tab may take.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a fresh tab may take.
const NEW_TAB_DEADLINE: Duration = Duration::from_secs(2);

/// A running Chrome.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) kind: BrowserKind,
    pub(super) client: Client,
    pub(super) process: Process,
    pub(super) version: String,
    tabs: Arc<watch::Sender<Tabs>>,
    setup: Arc<Mutex<Setup>>,
    events: Arc<Events>,
    screen: Arc<Screen>,
    own_agent: String,
    scale: f64,
}

impl Running {
    /// Starts Chrome and waits until it has a tab.
    pub(super) async fn start(
        kind: BrowserKind,
        settings: &Settings,
        deadline: Instant,
    ) -> Result<Self, Rejection> {
        let executable = Executable::find(kind, settings.executable.as_deref())?;
        let (process, pipes) =
            Process::start(&executable, &settings.folder, settings.user.as_ref()).await?;
        let mut running = Self::speak(kind, process, pipes);
        let name = executable.path.display();
        match running.greet(deadline).await {
            Ok(()) => Ok(running),
            Err(error) => {
                let complaints = running.process.complaints();
                // What it died of is known once it is dead.
                let ended = timeout_at(
                    Instant::now() + Duration::from_millis(200),
                    running.process.ended(),
                )
                .await;
                running.process.end().await;
                let why = match (ended, error) {
                    (Ok(reason), _) => reason,
                    (Err(_), CallError::Deadline) => "it did not answer in time".to_owned(),
                    (Err(_), error) => error.to_string(),
                };
                Err(failed(format!(
                    "the browser {name} did not start: {why}; it said: {complaints}"
                )))
            }
        }
    }

    fn speak(kind: BrowserKind, process: Process, pipes: Pipes) -> Self {
        let tabs = Arc::new(watch::Sender::new(Tabs::new()));
        let setup = Arc::new(Mutex::new(Setup::default()));
        let events = Arc::new(Events::default());
        let screen = Arc::new(Screen::default());
        let listen = {
            let (tabs, setup, events) =
                (Arc::clone(&tabs), Arc::clone(&setup), Arc::clone(&events));
            let screen = Arc::clone(&screen);
            move |client: &Client, event: Event<'_>| {
                take_in(&tabs, &setup, client, &event);
                events.hear(&event, &tabs.borrow());
                screen.hear(&event);
            }
        };
        let closed = {
            let tabs = Arc::clone(&tabs);
            move || tabs.send_modify(Tabs::close)
        };
        Self {
            kind,
            client: Client::start(pipes.commands, pipes.answers, listen, closed),
            process,
            version: String::new(),
            tabs,
            setup,
            events,
            screen,
            own_agent: String::new(),
            scale: 1.0,
        }
    }

    async fn greet(&mut self, deadline: Instant) -> Result<(), CallError> {
        let pages_only = Some(vec![Target::FilterEntry {
            exclude: None,
            Type: Some("page".into()),
        }]);
        let attach = Target::SetAutoAttach {
            auto_attach: true,
            wait_for_debugger_on_start: true,
            flatten: Some(true),
            filter: pages_only.clone(),
        };
        let discover = Target::SetDiscoverTargets {
            discover: true,
            filter: pages_only,
        };
        let get_version = Browser::GetVersion(None);
        let (version, _, _) = tokio::try_join!(
            self.client.call(None, &get_version, deadline),
            self.client.call(None, &attach, deadline),
            self.client.call(None, &discover, deadline),
        )?;
        self.version = version.product.replace("HeadlessChrome/", "Chrome/");
        self.own_agent = version.user_agent;
        self.tab(deadline).await.map(drop)
    }

    /// Makes it the browser of a session with these options.
    pub(super) async fn adopt(
        &mut self,
        options: &SessionOptions,
        deadline: Instant,
    ) -> Result<(), Rejection> {
        let setup = Setup::new(options, &self.own_agent);
        *self.setup.lock().unwrap_or_else(PoisonError::into_inner) = setup.clone();
        self.scale = options.viewport.scale;
        self.tabs
            .send_modify(|tabs| tabs.set_policy(options.dialogs));
        let tab = self
            .tab(deadline)
            .await
            .map_err(|error| failed(error.to_string()))?;
        setup.apply(&self.client, &tab.session, deadline).await
    }

    /// What a view of it needs.
    pub(super) fn stage(&self) -> Stage {
        Stage {
            client: self.client.clone(),
            tabs: Arc::clone(&self.tabs),
            events: Arc::clone(&self.events),
            screen: Arc::clone(&self.screen),
        }
    }

    /// From now on what happens is told.
    pub(super) fn events(&self) -> mpsc::Receiver<Told> {
        self.events.begin(self.tabs.borrow().shown())
    }

    /// Whether every tab tells of its console and of its requests.
    pub(super) fn watch_pages(&self, watched: bool) {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        setup.watch_pages(watched);
        for session in self.tabs.borrow().sessions() {
            setup.post_watching(&self.client, session);
        }
    }

    /// The active tab; waits until there is one that is set up.
    async fn tab(&self, deadline: Instant) -> Result<Tab, CallError> {
        let mut tabs = self.tabs.subscribe();
        let there =
            tabs.wait_for(|tabs| tabs.is_closed() || tabs.active().is_some_and(|tab| tab.ready));
        match timeout_at(deadline, there).await {
            Ok(Ok(tabs)) => tabs.active().cloned().ok_or(CallError::Closed),
            Ok(Err(_)) => Err(CallError::Closed),
            Err(_) => Err(CallError::Deadline),
        }
    }

    /// The page that commands act on.
    pub(super) async fn page(&self, deadline: Instant) -> Result<Page, CallError> {
        let tab = self.tab(deadline).await?;
        Ok(Page::new(
            self.client.clone(),
            self.tabs.subscribe(),
            &tab,
            self.scale,
        ))
    }

    pub(super) fn tabs(&self) -> watch::Receiver<Tabs> {
        self.tabs.subscribe()
    }

    /// A command has read this of the active tab.
    pub(super) fn seen(&self, url: &str, title: &str) {
        if self.tabs.send_if_modified(|tabs| tabs.seen(url, title)) {
            self.events.compare(&self.tabs.borrow());
        }
    }

    /// Opens a fresh tab in place of one that cannot be used any more.
    pub(super) async fn replace(&self, stuck: &str) -> Result<(), CallError> {
        let deadline = Instant::now() + NEW_TAB_DEADLINE;
        self.client.call(None, &blank(), deadline).await?;
        self.client.call(None, &close(stuck), deadline).await?;
        let mut tabs = self.tabs.subscribe();
        let gone = tabs.wait_for(|tabs| {
            tabs.is_closed() || tabs.active().is_some_and(|tab| tab.target != stuck)
        });
        match timeout_at(deadline, gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(CallError::Deadline),
        }
    }
}

fn detach(session: &str) -> Target::DetachFromTarget {
    Target::DetachFromTarget {
        session_id: Some(session.to_owned()),
        target_id: None,
    }
}

/// The call that closes a tab.
pub(super) fn close(target: &str) -> Target::CloseTarget {
    Target::CloseTarget {
        target_id: target.to_owned(),
    }
}

fn blank() -> Target::CreateTarget {
    open("about:blank".into())
}

/// The call that opens a tab.
pub(super) fn open(url: String) -> Target::CreateTarget {
    Target::CreateTarget {
        url,
        left: None,
        top: None,
        width: None,
        height: None,
        window_state: None,
        browser_context_id: None,
        enable_begin_frame_control: None,
        new_window: None,
        background: None,
        for_tab: None,
        hidden: None,
    }
}

/// On the reader's task: notes an event and reacts to it, without waiting.
fn take_in(
    tabs: &Arc<watch::Sender<Tabs>>,
    setup: &Mutex<Setup>,
    client: &Client,
    event: &Event<'_>,
) {
    let mut reactions = Vec::new();
    tabs.send_if_modified(|tabs| match tabs.apply(event, Instant::now()) {
        Some(asked) => {
            reactions = asked;
            true
        }
        None => false,
    });
    for reaction in reactions {
        let posted = match &reaction {
            Reaction::SetUp { session } => {
                let setup = setup.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tasks::spawn(
                    "tab set-up",
                    set_up(setup, client.clone(), session.clone(), Arc::clone(tabs)),
                );
                true
            }
            Reaction::Refuse { session, target } => {
                client.post(Some(session), &Runtime::RunIfWaitingForDebugger(None))
                    && client.post(None, &close(target))
            }
            Reaction::Leave { session } => {
                client.post(Some(session), &Runtime::RunIfWaitingForDebugger(None))
                    && client.post(None, &detach(session))
            }
            Reaction::Close { target } => client.post(None, &close(target)),
            Reaction::OpenBlank => client.post(None, &blank()),
            Reaction::Answer { session, accept } => client.post(
                Some(session),
                &PageDomain::HandleJavaScriptDialog {
                    accept: *accept,
                    prompt_text: None,
                },
            ),
        };
        if !posted {
            // It will be found hung.
            tracing::warn!(?reaction, "the browser does not read what it is told");
        }
    }
}

/// At most one for each tab.
async fn set_up(setup: Setup, client: Client, session: String, tabs: Arc<watch::Sender<Tabs>>) {
    setup
        .start(&client, &session, Instant::now() + SETUP_DEADLINE)
        .await;
    tabs.send_modify(|tabs| tabs.set_ready(&session));
}
