//! All sessions of this agent: who is here, and how to reach it. Each has a task
//! of its own, see [`crate::session`]; nothing here waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use browserfleet_proto::action::{Action, BrowserKind, Code, Outcome, Rejection, SessionOptions};
use browserfleet_proto::agent::v1::from_agent::Body;
use browserfleet_proto::agent::v1::{
    Cancel, Command, EndSession, FetchDownload, FromAgent, HeldSession, OpenLive, OpenSession,
    OpenTunnel, Recycle, Recycled, SessionEnded, SessionOpened, Watch,
};
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::limits::{COMMAND_TIMEOUT_MAX, LAUNCH_TIMEOUT, SESSION_QUEUE_MAX};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::browser::{Launcher, TunnelEnd, TunnelWish};
use crate::fence::{Standing, standing};
use crate::link::deliver::Deliverer;
use crate::link::live::Streams;
use crate::link::outbox::Outbox;
use crate::link::tunnel::Tunneler;
use crate::session::{self, Asked, Joining, Order, settled};
use crate::tasks;

/// How long all traces of a lease may take to be gone: browsers end within
/// [`ladder::KILL_TAKES`](browserfleet_proto::ladder::KILL_TAKES), and a spare that is
/// being launched is waited for.
const RECYCLE_DEADLINE: Duration = Duration::from_secs(45);

/// Orders that a session may have before it has looked at them. A part of that is for
/// commands alone; the rest is room to take back each of those, and of those that wait
/// already, and to say who watches: who must not wait finds room.
const INBOX_MAX: usize = 4 * SESSION_QUEUE_MAX;

/// Why a session ends, for [`SessionEnded`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The control plane said so.
    Ended,
    /// The control plane does not know it any more.
    NotKept,
    /// Too long without a renewal of the lease.
    LeaseExpired,
    /// The agent ends.
    Shutdown,
    /// The agent ends and is started anew.
    Restart,
    /// The instance is made clean for its next holder.
    Recycled,
}

impl Stop {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::NotKept => "not_kept",
            Self::LeaseExpired => "lease_expired",
            Self::Shutdown => "shutdown",
            Self::Restart => "agent_restarted",
            Self::Recycled => "recycled",
        }
    }
}

/// What sessions need of the agent.
pub struct Surroundings {
    /// Starts browsers.
    pub launcher: Arc<dyn Launcher>,
    /// Takes what may not be lost.
    pub outbox: Arc<Outbox>,
    /// Takes what may.
    pub may_be_lost: mpsc::Sender<FromAgent>,
    /// Takes large pictures.
    pub deliverer: Deliverer,
    /// Opens live views.
    pub streams: Streams,
    /// Carries clients of CDP.
    pub tunneler: Tunneler,
    /// When the lease was renewed.
    pub renewed: watch::Receiver<Instant>,
    /// How many sessions there may be.
    pub sessions_max: usize,
}

/// Reaches the sessions. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    around: Arc<Surroundings>,
    state: Arc<Mutex<State>>,
    /// How many there are.
    count: Arc<watch::Sender<usize>>,
}

#[derive(Default)]
struct State {
    held: HashMap<SessionId, Held>,
    draining: bool,
    /// The epoch whose traces are being removed.
    recycling: Option<u64>,
}

struct Held {
    epoch: u64,
    inbox: mpsc::Sender<Order>,
    stop: watch::Sender<Option<Stop>>,
}

impl Handle {
    /// An agent without sessions.
    #[must_use]
    pub fn new(around: Surroundings) -> Self {
        Self {
            around: Arc::new(around),
            state: Arc::default(),
            count: Arc::new(watch::Sender::new(0)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions that are here, also those that are being opened.
    #[must_use]
    pub fn held(&self) -> Vec<HeldSession> {
        let held = |(id, it): (&SessionId, &Held)| HeldSession {
            session_id: id.to_string(),
            epoch: it.epoch,
        };
        self.state().held.iter().map(held).collect()
    }

    /// The browsers that run: those of sessions, and the spares.
    #[must_use]
    pub fn browsers(&self) -> usize {
        self.state().held.len() + self.around.launcher.spares()
    }

    /// When the first spare was ready.
    #[must_use]
    pub fn first_spare(&self) -> Option<Instant> {
        self.around.launcher.first_spare()
    }

    /// What this agent can do, as its Hello names it.
    #[must_use]
    pub fn capabilities(&self) -> Vec<String> {
        let name = |kind: &BrowserKind| match kind {
            BrowserKind::Shell => "browser.shell".to_owned(),
            BrowserKind::Full => "browser.full".to_owned(),
        };
        self.around.launcher.kinds().iter().map(name).collect()
    }

    /// Ends every session that the control plane does not name.
    pub fn keep_only(&self, kept: &[String]) {
        for (id, held) in &self.state().held {
            if !kept.contains(&id.to_string()) {
                held.stop(Stop::NotKept);
            }
        }
    }

    /// Opens a session; the answer goes to the outbox. One that is here already
    /// stays as it is.
    pub fn open(&self, open: OpenSession) {
        let Ok(id) = open.session_id.parse::<SessionId>() else {
            tracing::warn!(session.id = open.session_id, "a session id that is none");
            return;
        };
        let options = match open.options.map(SessionOptions::try_from) {
            Some(Ok(options)) => options,
            Some(Err(error)) => {
                return self.refuse(id, open.epoch, Code::LaunchFailed, error.to_string());
            }
            None => return self.refuse(id, open.epoch, Code::LaunchFailed, "no options".into()),
        };
        let mut state = self.state();
        if state.held.contains_key(&id) {
            return;
        }
        let full = state.held.len() >= self.around.sessions_max;
        let closed = state.draining || state.recycling.is_some();
        if closed || full || self.around.outbox.is_full() {
            drop(state);
            let reason = if full {
                "this instance has all the sessions it takes"
            } else {
                "this instance takes no new sessions"
            };
            return self.refuse(id, open.epoch, Code::AgentBusy, reason.into());
        }
        let (inbox, orders) = mpsc::channel(INBOX_MAX);
        let (stop, stopped) = watch::channel(None);
        let epoch = open.epoch;
        state.held.insert(id, Held { epoch, inbox, stop });
        self.count.send_replace(state.held.len());
        drop(state);
        let time = Duration::from_millis(open.timeout_ms.into()).min(LAUNCH_TIMEOUT);
        let session = session::Session {
            id,
            epoch,
            around: Arc::clone(&self.around),
            orders,
            stopped,
        };
        self.look_after(id, epoch, session.run(options, Instant::now() + time));
    }

    fn look_after(
        &self,
        id: SessionId,
        epoch: u64,
        session: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.clone();
        let session = tasks::spawn("session", session);
        tasks::spawn("session's end", async move {
            // A panic took the browser with it, and nothing else.
            if matches!(session.await, Ok(None) | Err(_)) {
                handle.around.outbox.keep(Body::SessionEnded(SessionEnded {
                    session_id: id.to_string(),
                    epoch,
                    reason: "agent_error".to_owned(),
                    message: "the agent failed; its log says where".to_owned(),
                }));
            }
            let mut state = handle.state();
            state.held.remove(&id);
            handle.count.send_replace(state.held.len());
        });
    }

    fn refuse(&self, id: SessionId, epoch: u64, code: Code, reason: String) {
        self.around.outbox.keep(Body::SessionOpened(SessionOpened {
            session_id: id.to_string(),
            epoch,
            rejection: Some((&Rejection::new(code, reason)).into()),
            browser_version: String::new(),
        }));
    }

    /// Ends a session. One that is gone has said so, or says so when the control
    /// plane asks for what is held.
    pub fn end(&self, end: &EndSession) {
        let found = end.session_id.parse().ok().map(|id: SessionId| {
            let state = self.state();
            let held = state.held.get(&id).filter(|held| held.epoch <= end.epoch);
            held.map(|held| held.stop(Stop::Ended)).is_some()
        });
        if found != Some(true) {
            self.around.outbox.keep(Body::SessionEnded(SessionEnded {
                session_id: end.session_id.clone(),
                epoch: end.epoch,
                reason: Stop::Ended.as_str().to_owned(),
                message: "it was not here any more".to_owned(),
            }));
        }
    }

    /// Gives a command to its session.
    pub fn submit(&self, command: Command) {
        let (Ok(id), Ok(session)) = (
            command.command_id.parse::<CommandId>(),
            command.session_id.parse::<SessionId>(),
        ) else {
            tracing::warn!(
                command.id = command.command_id,
                "a command with an id that is none"
            );
            return;
        };
        let epoch = command.epoch;
        let reject = |code, reason: &str| {
            let outcome: Outcome = Err(Rejection::new(code, reason));
            let body = Body::Settled(settled(id, session, epoch, outcome));
            self.around.outbox.keep(body);
        };
        let action = match command.action.map(Action::try_from) {
            Some(Ok(action)) => action,
            Some(Err(error)) => return reject(Code::BrowserError, &error.to_string()),
            None => return reject(Code::BrowserError, "a command without an action"),
        };
        if standing(self.around.renewed.borrow().elapsed()) > Standing::Working {
            return reject(Code::NotLeased, "the agent's lease is over");
        }
        if self.around.outbox.is_full() {
            return reject(
                Code::AgentBusy,
                "too many outcomes wait for the control plane",
            );
        }
        let time = Duration::from_millis(command.time_left_ms.into()).min(COMMAND_TIMEOUT_MAX);
        let asked = Asked {
            id,
            epoch,
            action,
            deadline: Instant::now() + time,
        };
        let state = self.state();
        match state.held.get(&session) {
            None => reject(Code::SessionGone, "the session is not on this instance"),
            Some(held) if held.epoch != epoch => {
                reject(Code::NotLeased, "the command is of another lease");
            }
            Some(held) => {
                let command = Order::Command(Box::new(asked));
                let has_room = held.inbox.capacity() > INBOX_MAX - SESSION_QUEUE_MAX;
                if !has_room || held.inbox.try_send(command).is_err() {
                    reject(Code::AgentBusy, "too many commands wait for this session");
                }
            }
        }
    }

    /// Gives up a command. One that has been settled stays settled.
    pub fn cancel(&self, cancel: &Cancel) {
        let (Ok(id), Ok(session)) = (cancel.command_id.parse(), cancel.session_id.parse()) else {
            return;
        };
        if let Some(held) = self.state().held.get(&session)
            && held.inbox.try_send(Order::Cancel(id)).is_err()
        {
            tracing::debug!(command.id = %id, "no room to cancel a command; its deadline will");
        }
    }

    /// Tells more of a session, or less.
    pub fn watch(&self, watch: &Watch) {
        let Ok(id) = watch.session_id.parse::<SessionId>() else {
            return;
        };
        let state = self.state();
        let held = state.held.get(&id).filter(|it| it.epoch == watch.epoch);
        if let Some(held) = held
            && held.inbox.try_send(Order::WatchPages(watch.pages)).is_err()
        {
            tracing::debug!(session.id = %id, "no room to say who watches");
        }
    }

    /// Somebody wants to see a session. Where it is not here any more, the stream does not
    /// come, and whoever asked for it hears of the session's end.
    pub fn show(&self, open: OpenLive) {
        let Ok(id) = open.session_id.parse::<SessionId>() else {
            return;
        };
        let state = self.state();
        let held = state.held.get(&id).filter(|it| it.epoch == open.epoch);
        if let Some(held) = held
            && held.inbox.try_send(Order::Show(Box::new(open))).is_err()
        {
            tracing::debug!(session.id = %id, "no room to say who looks");
        }
    }

    /// `false`: it is not here, or hears nothing.
    fn order(&self, session: SessionId, epoch: u64, order: Order) -> bool {
        let state = self.state();
        let held = state.held.get(&session).filter(|it| it.epoch == epoch);
        held.is_some_and(|it| it.inbox.try_send(order).is_ok())
    }

    /// Hands over a file that a session downloaded.
    pub fn fetch(&self, fetch: &FetchDownload) {
        let (Ok(id), Ok(session)) = (fetch.tunnel_id.parse(), fetch.session_id.parse()) else {
            tracing::warn!(
                tunnel.id = fetch.tunnel_id,
                "a file with an id that is none"
            );
            return;
        };
        let name = Some(fetch.name.clone()).filter(|it| !it.is_empty());
        if !self.order(session, fetch.epoch, Order::Fetch(id, name)) {
            let gone = async { Err(std::io::ErrorKind::NotFound.into()) };
            let refused = self.around.tunneler.clone().hand_over(id, session, gone);
            tasks::spawn("refused download", refused);
        }
    }

    /// Lets a client of CDP join a session. Who hears nothing of it has not joined.
    pub fn join(&self, open: &OpenTunnel) {
        let (Ok(id), Ok(session)) = (open.tunnel_id.parse(), open.session_id.parse()) else {
            tracing::warn!(
                tunnel.id = open.tunnel_id,
                "a tunnel with an id that is none"
            );
            return;
        };
        let target = Some(open.target_id.clone()).filter(|it| !it.is_empty());
        let joining = Joining {
            id,
            wish: TunnelWish {
                target,
                keeps_browser: open.keeps_browser,
            },
        };
        if !self.order(session, open.epoch, Order::Tunnel(Box::new(joining))) {
            let gone = async { Err(TunnelEnd::NotFound) };
            let carried = self.around.tunneler.clone().carry(id, session, gone);
            tasks::spawn("refused tunnel", carried);
        }
    }

    /// Takes no new sessions from now on.
    pub fn drain(&self, reason: &str) {
        tracing::info!(reason, "taking no new sessions");
        self.state().draining = true;
    }

    /// Ends the sessions of a lease that is over, removes what they left, and tells
    /// what is left nevertheless. Takes no sessions meanwhile.
    pub fn recycle(&self, recycle: &Recycle) {
        let epoch = recycle.epoch;
        let mut state = self.state();
        if state.recycling == Some(epoch) {
            // Asked again over a new link; the answer comes.
            return;
        }
        let newer = state.held.values().filter(|it| it.epoch > epoch).count();
        if newer > 0 || state.recycling.is_some() {
            drop(state);
            let reason = if newer > 0 {
                format!("not begun: {newer} sessions of a newer lease are here")
            } else {
                "not begun: the traces of another lease are being removed".into()
            };
            return self.say_recycled(epoch, vec![reason]);
        }
        state.recycling = Some(epoch);
        drop(state);
        tracing::info!(epoch, "removing all traces of a lease");
        self.stop_all(Stop::Recycled);
        tasks::spawn("recycling", self.clone().finish_recycling(epoch));
    }

    async fn finish_recycling(self, epoch: u64) {
        let clean = async {
            self.gone().await;
            self.around.launcher.recycle().await
        };
        let residue = match timeout(RECYCLE_DEADLINE, clean).await {
            Ok(residue) => residue,
            Err(_) => vec![format!("not done within {} s", RECYCLE_DEADLINE.as_secs())],
        };
        self.state().recycling = None;
        self.say_recycled(epoch, residue);
    }

    fn say_recycled(&self, epoch: u64, residue: Vec<String>) {
        if residue.is_empty() {
            tracing::info!(epoch, "nothing of the lease is left");
        } else {
            tracing::error!(
                epoch,
                residue = residue.join("; "),
                "something of a lease is left"
            );
        }
        let recycled = Recycled { epoch, residue };
        self.around.outbox.keep(Body::Recycled(recycled));
    }

    /// Ends all sessions, without waiting.
    pub fn stop_all(&self, why: Stop) {
        for held in self.state().held.values() {
            held.stop(why);
        }
    }

    /// Resolves when no session is left.
    pub async fn gone(&self) {
        let mut count = self.count.subscribe();
        if count.wait_for(|count| *count == 0).await.is_err() {
            tracing::debug!("nobody counts sessions any more");
        }
    }
}

impl Held {
    /// The first reason counts.
    fn stop(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(why);
            first
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use browserfleet_proto::action::{Answer, DialogPolicy, Execute, Script, Viewport};
    use browserfleet_proto::ladder;
    use browserfleet_proto::wire::outcome_from_wire;

    use super::*;
    use crate::browser::scripted::Scripted;

    const EPOCH: u64 = 7;

    /// An agent with scripted browsers, and what its link would carry.
    struct Agent {
        handle: Handle,
        browsers: Scripted,
        outbox: Arc<Outbox>,
        _renewed: watch::Sender<Instant>,
    }

    impl Agent {
        fn new() -> Self {
            let browsers = Scripted::default();
            let outbox = Arc::new(Outbox::default());
            let (renewed, renewals) = watch::channel(Instant::now());
            let handle = Handle::new(Surroundings {
                launcher: Arc::new(browsers.clone()),
                outbox: Arc::clone(&outbox),
                may_be_lost: mpsc::channel(1).0,
                deliverer: Deliverer::new(watch::channel(None).1),
                streams: Streams::new(watch::channel(None).1),
                tunneler: Tunneler::new(watch::channel(None).1),
                renewed: renewals,
                sessions_max: 2,
            });
            Self {
                handle,
                browsers,
                outbox,
                _renewed: renewed,
            }
        }

        /// The next thing that the agent keeps for the control plane.
        async fn says(&self) -> Body {
            loop {
                if let Some(first) = self.outbox.after(0, 1).into_iter().next() {
                    self.outbox.acknowledge(first.sequence);
                    return first.body.expect("it says something");
                }
                self.outbox.more().await;
            }
        }

        async fn open(&self) -> SessionId {
            let id = SessionId::new();
            self.ask_to_open(id);
            match self.says().await {
                Body::SessionOpened(report) => {
                    assert_eq!(report.rejection.map(|it| it.code), None);
                    assert_eq!(report.session_id, id.to_string());
                }
                other => panic!("{other:?}"),
            }
            id
        }

        fn ask_to_open(&self, id: SessionId) -> String {
            let options = SessionOptions {
                browser: BrowserKind::Shell,
                viewport: Viewport {
                    width: 1,
                    height: 1,
                    scale: 1.0,
                },
                user_agent: String::new(),
                locale: String::new(),
                timezone: String::new(),
                dialogs: DialogPolicy::Dismiss,
            };
            self.handle.open(OpenSession {
                session_id: id.to_string(),
                epoch: EPOCH,
                options: Some((&options).into()),
                timeout_ms: 1_000,
            });
            id.to_string()
        }

        fn submit(&self, id: CommandId, session: SessionId, epoch: u64, script: &str) {
            let action = Action::Execute(Execute {
                script: Script::Expression(script.to_owned()),
                await_promise: true,
            });
            self.handle.submit(Command {
                command_id: id.to_string(),
                session_id: session.to_string(),
                epoch,
                time_left_ms: 1_000,
                action: Some((&action).into()),
            });
        }

        /// The next outcome: how many actions were begun by then, or the rejection.
        async fn outcome(&self) -> (CommandId, Result<usize, Code>) {
            let Body::Settled(report) = self.says().await else {
                panic!("not an outcome");
            };
            let outcome = report.outcome.expect("an outcome");
            let value = match outcome_from_wire(outcome).expect("it can be read") {
                Ok(Answer::Scrolled(to)) => Ok(to.x as usize),
                Ok(other) => panic!("{other:?}"),
                Err(rejection) => Err(rejection.code),
            };
            (report.command_id.parse().expect("an id"), value)
        }

        async fn asked(&self, session: SessionId, script: &str) -> Result<usize, Code> {
            let id = CommandId::new();
            self.submit(id, session, EPOCH, script);
            let (settled, outcome) = self.outcome().await;
            assert_eq!(settled, id);
            outcome
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_command_is_told_again_and_not_run_again() {
        let agent = Agent::new();
        let session = agent.open().await;
        let id = CommandId::new();
        for _ in 0..3 {
            agent.submit(id, session, EPOCH, "1");
            assert_eq!(agent.outcome().await, (id, Ok(1)));
        }
        assert_eq!(agent.browsers.begun.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_its_own_session_only() {
        let agent = Agent::new();
        let (unlucky, other) = (agent.open().await, agent.open().await);
        agent.submit(CommandId::new(), unlucky, EPOCH, "panic");
        match agent.says().await {
            Body::SessionEnded(report) => {
                assert_eq!(report.session_id, unlucky.to_string());
                assert_eq!(report.reason, "agent_error");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(agent.asked(other, "1").await, Ok(2));
        assert_eq!(agent.asked(unlucky, "1").await, Err(Code::SessionGone));
        agent.open().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_a_command_and_not_its_session() {
        let agent = Agent::new();
        let session = agent.open().await;
        let started = Instant::now();
        assert_eq!(
            agent.asked(session, "wait").await,
            Err(Code::CommandTimeout)
        );
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        assert_eq!(agent.asked(session, "1").await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_can_be_taken_back() {
        let agent = Agent::new();
        let session = agent.open().await;
        let running = CommandId::new();
        agent.submit(running, session, EPOCH, "wait");
        tokio::task::yield_now().await;
        let waiting = CommandId::new();
        agent.submit(waiting, session, EPOCH, "1");
        for id in [waiting, running] {
            agent.handle.cancel(&Cancel {
                command_id: id.to_string(),
                session_id: session.to_string(),
            });
            assert_eq!(agent.outcome().await, (id, Err(Code::Cancelled)));
        }
        agent.submit(running, session, EPOCH, "wait");
        assert_eq!(agent.outcome().await, (running, Err(Code::Cancelled)));

        let many = 3 * SESSION_QUEUE_MAX;
        for _ in 0..many {
            agent.submit(CommandId::new(), session, EPOCH, "wait");
        }
        let mut busy = 0;
        for _ in 0..many {
            busy += usize::from(agent.outcome().await.1 == Err(Code::AgentBusy));
        }
        assert!(busy >= many - 2 * SESSION_QUEUE_MAX - 1, "{busy} of {many}");
    }

    /// All before the session has looked at one of them.
    #[tokio::test(start_paused = true)]
    async fn as_many_as_are_taken_can_be_taken_back() {
        let agent = Agent::new();
        let session = agent.open().await;
        let asked: Vec<_> = (0..SESSION_QUEUE_MAX).map(|_| CommandId::new()).collect();
        for id in &asked {
            agent.submit(*id, session, EPOCH, "wait");
        }
        for id in &asked {
            agent.handle.cancel(&Cancel {
                command_id: id.to_string(),
                session_id: session.to_string(),
            });
        }
        for _ in &asked {
            assert_eq!(agent.outcome().await.1, Err(Code::Cancelled));
        }
    }

    async fn recycled(agent: &Agent) -> Recycled {
        match agent.says().await {
            Body::Recycled(recycled) => recycled,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_over_leaves_no_session_and_says_what_is_left() {
        let agent = Agent::new();
        agent.open().await;
        let recycle = Recycle { epoch: EPOCH };
        agent.handle.recycle(&recycle);
        // Asked twice, answered once.
        agent.handle.recycle(&recycle);
        agent.handle.recycle(&Recycle { epoch: EPOCH + 1 });
        assert!(recycled(&agent).await.residue[0].starts_with("not begun"));
        assert!(matches!(agent.says().await, Body::SessionEnded(it) if it.reason == "recycled"));
        // Nobody moves in meanwhile.
        let early = agent.ask_to_open(SessionId::new());
        assert!(
            matches!(agent.says().await, Body::SessionOpened(it) if it.session_id == early && it.rejection.is_some())
        );
        let answer = recycled(&agent).await;
        assert_eq!((answer.epoch, answer.residue.len()), (EPOCH, 0));
        assert_eq!(agent.browsers.closed.load(Ordering::SeqCst), 1);

        agent.open().await;
        agent.browsers.left.lock().unwrap().push("a cookie".into());
        agent.handle.recycle(&recycle);
        assert!(matches!(agent.says().await, Body::SessionEnded(_)));
        assert_eq!(recycled(&agent).await.residue, ["a cookie"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_of_a_newer_lease_is_not_ended_for_an_older_one() {
        let agent = Agent::new();
        let session = agent.open().await;
        agent.handle.recycle(&Recycle { epoch: EPOCH - 1 });
        let answer = recycled(&agent).await;
        assert!(answer.residue[0].contains("newer lease"), "{answer:?}");
        assert_eq!(agent.asked(session, "1").await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn another_lease_or_none_runs_nothing() {
        let agent = Agent::new();
        let session = agent.open().await;
        let former = CommandId::new();
        agent.submit(former, session, EPOCH - 1, "1");
        assert_eq!(agent.outcome().await, (former, Err(Code::NotLeased)));
        tokio::time::advance(ladder::STOP_WORK).await;
        assert_eq!(agent.asked(session, "1").await, Err(Code::NotLeased));
        assert_eq!(agent.browsers.begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_session_settles_what_waits_and_closes_its_browser() {
        let agent = Agent::new();
        let session = agent.open().await;
        let (running, waiting) = (CommandId::new(), CommandId::new());
        agent.submit(running, session, EPOCH, "wait");
        agent.submit(waiting, session, EPOCH, "1");
        tokio::task::yield_now().await;
        agent.handle.end(&EndSession {
            session_id: session.to_string(),
            epoch: EPOCH,
        });
        for id in [running, waiting] {
            assert_eq!(agent.outcome().await, (id, Err(Code::SessionGone)));
        }
        assert!(matches!(agent.says().await, Body::SessionEnded(it) if it.reason == "ended"));
        agent.handle.gone().await;
        assert_eq!(agent.browsers.closed.load(Ordering::SeqCst), 1);
    }
}
