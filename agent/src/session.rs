//! One session: one task that owns its browser, runs its commands one at a time,
//! and remembers which it has run.
//!
//! ```text
//! orders ─▶ waiting ─▶ running ─▶ remembered, outbox
//!             │ cancel, deadline ─────▲
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use browserfleet_proto::action::{Action, Code, Outcome, Rejection, SessionOptions};
use browserfleet_proto::agent::v1::from_agent::Body;
use browserfleet_proto::agent::v1::{
    Event, FromAgent, OpenLive, PageChanged, SessionEnded, SessionOpened, Settled,
};
use browserfleet_proto::ids::{CommandId, SessionId, TunnelId};
use browserfleet_proto::limits::{LINK_PAYLOAD_BYTES_MAX, SESSION_QUEUE_MAX};
use browserfleet_proto::{ladder, wire};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::browser::live::Live;
use crate::browser::{Browser, Downloads, EndReason, Notice, Performed, Told, TunnelWish, Tunnels};
use crate::remembered::{Known, Remembered};
use crate::sessions::{Stop, Surroundings};
use crate::tasks;

/// A command with its deadline by this machine's clock.
pub struct Asked {
    pub id: CommandId,
    pub epoch: u64,
    pub action: Action,
    pub deadline: Instant,
}

/// What a session is told.
pub enum Order {
    Command(Box<Asked>),
    Cancel(CommandId),
    /// Whether what happens in pages is watched.
    WatchPages(bool),
    /// Somebody looks at the session, or acts on it.
    Show(Box<OpenLive>),
    /// A client of CDP joins.
    Tunnel(Box<Joining>),
    /// A file is wanted that was downloaded, or the list of all.
    Fetch(TunnelId, Option<String>),
}

/// A client of CDP that is to join.
pub struct Joining {
    pub id: TunnelId,
    pub wish: TunnelWish,
}

/// A session before it has a browser.
pub struct Session {
    pub id: SessionId,
    pub epoch: u64,
    pub around: Arc<Surroundings>,
    pub orders: mpsc::Receiver<Order>,
    pub stopped: watch::Receiver<Option<Stop>>,
}

/// Why a session is over.
struct Over {
    reason: String,
    message: String,
    /// What the commands that are under way are told.
    code: Code,
}

impl From<Stop> for Over {
    fn from(stop: Stop) -> Self {
        Self {
            reason: stop.as_str().to_owned(),
            message: String::new(),
            code: match stop {
                Stop::LeaseExpired => Code::NotLeased,
                Stop::Ended | Stop::NotKept | Stop::Shutdown | Stop::Restart | Stop::Recycled => {
                    Code::SessionGone
                }
            },
        }
    }
}

impl Over {
    fn of_browser(reason: EndReason, message: String) -> Self {
        Self {
            reason: reason.as_str().to_owned(),
            message,
            code: Code::BrowserCrashed,
        }
    }
}

/// An outcome as the link carries it.
pub fn settled(id: CommandId, session: SessionId, epoch: u64, outcome: Outcome) -> Settled {
    Settled {
        command_id: id.to_string(),
        session_id: session.to_string(),
        epoch,
        outcome: Some(wire::outcome_to_wire(&outcome)),
        payload: Bytes::new(),
        payload_delivered: false,
    }
}

async fn told_to_stop(stopped: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stopped.wait_for(Option::is_some).await {
        Ok(stop) => stop.unwrap_or(Stop::Shutdown),
        Err(_) => Stop::Shutdown,
    }
}

impl Session {
    /// Launches the browser, then runs commands until the session is over. What
    /// is left of it is the outbox's.
    pub async fn run(mut self, options: SessionOptions, deadline: Instant) {
        let started = Instant::now();
        let launcher = Arc::clone(&self.around.launcher);
        let launched = tokio::select! {
            launched = timeout_at(deadline, launcher.launch(&options, deadline)) => launched,
            stop = told_to_stop(&mut self.stopped) => return self.say_ended(stop.into()),
        };
        let mut browser = match launched {
            Ok(Ok(browser)) => browser,
            Ok(Err(rejection)) => return self.say_not_opened(rejection),
            Err(_) => {
                let late = Rejection::new(Code::LaunchFailed, "the browser did not start in time");
                return self.say_not_opened(late);
            }
        };
        tracing::info!(
            session.id = %self.id,
            browser = browser.version(),
            took_ms = started.elapsed().as_millis(),
            "session open"
        );
        self.around.outbox.keep(Body::SessionOpened(SessionOpened {
            session_id: self.id.to_string(),
            epoch: self.epoch,
            rejection: None,
            browser_version: browser.version().to_owned(),
        }));
        let mut work = Work {
            session: self,
            notices: browser.notices(),
            events: browser.events(),
            live: browser.live(),
            view: None,
            tunnels: browser.tunnels(),
            downloads: browser.downloads(),
            waiting: VecDeque::new(),
            watch_next: None,
            remembered: Remembered::default(),
        };
        let over = work.until_over(&mut *browser).await;
        if let Some(view) = work.view.take() {
            view.abort();
        }
        browser.close().await;
        work.give_up_waiting(&over);
        work.session.say_ended(over);
    }

    fn say_not_opened(&self, rejection: Rejection) {
        tracing::warn!(session.id = %self.id, reason = rejection.message, "session could not be opened");
        self.around.outbox.keep(Body::SessionOpened(SessionOpened {
            session_id: self.id.to_string(),
            epoch: self.epoch,
            rejection: Some((&rejection).into()),
            browser_version: String::new(),
        }));
    }

    fn say_ended(&self, over: Over) {
        tracing::info!(session.id = %self.id, reason = over.reason, message = over.message, "session ended");
        self.around.outbox.keep(Body::SessionEnded(SessionEnded {
            session_id: self.id.to_string(),
            epoch: self.epoch,
            reason: over.reason,
            message: over.message,
        }));
    }
}

/// A session at work.
struct Work {
    session: Session,
    notices: mpsc::Receiver<Notice>,
    events: mpsc::Receiver<Told>,
    live: Arc<dyn Live>,
    /// The task of the last view that was asked for.
    view: Option<JoinHandle<Option<()>>>,
    waiting: VecDeque<Asked>,
    /// What was asked for while a command had the browser.
    watch_next: Option<bool>,
    tunnels: Tunnels,
    downloads: Downloads,
    /// Outcomes without their pictures: who asks twice has had the picture.
    remembered: Remembered<Settled>,
}

/// What happened beside the running command.
enum Happened {
    Over(Over),
    Ordered(Order),
    Nothing,
}

impl Work {
    async fn until_over(&mut self, browser: &mut dyn Browser) -> Over {
        loop {
            while let Some(asked) = self.waiting.pop_front() {
                if let Some(over) = self.perform(browser, asked).await {
                    return over;
                }
            }
            match self.next().await {
                Happened::Over(over) => return over,
                Happened::Ordered(Order::Command(asked)) => self.take(*asked),
                // What is not waiting and not running is settled; who joins has joined.
                Happened::Ordered(Order::Cancel(_) | Order::Tunnel(_) | Order::Fetch(..))
                | Happened::Nothing => {}
                Happened::Ordered(Order::WatchPages(watched)) => browser.watch_pages(watched),
                Happened::Ordered(Order::Show(open)) => self.show(*open),
            }
            if let Some(watched) = self.watch_next.take() {
                browser.watch_pages(watched);
            }
        }
    }

    /// Lets a client join, beside all that goes on.
    fn join(&self, joining: Joining) {
        let tunneler = self.session.around.tunneler.clone();
        let joined = (self.tunnels)(joining.wish);
        let carried = tunneler.carry(joining.id, self.session.id, joined);
        tasks::spawn("tunnel", carried);
    }

    fn fetch(&self, id: TunnelId, name: Option<String>) {
        let tunneler = self.session.around.tunneler.clone();
        let read = self.downloads.clone().read(name);
        let handed = tunneler.hand_over(id, self.session.id, read);
        tasks::spawn("download", handed);
    }

    /// Runs one command to its outcome, and hears what else happens meanwhile.
    async fn perform(&mut self, browser: &mut dyn Browser, asked: Asked) -> Option<Over> {
        if asked.deadline <= Instant::now() {
            self.settle(&asked, late("the deadline passed before its turn").into());
            return None;
        }
        let mut acting = Box::pin(timeout_at(
            asked.deadline,
            browser.act(&asked.action, asked.deadline),
        ));
        let (performed, over) = loop {
            let happened = tokio::select! {
                biased;
                performed = &mut acting => {
                    break (performed.unwrap_or_else(|_| late("the deadline passed").into()), None);
                }
                happened = self.next() => happened,
            };
            match happened {
                Happened::Over(over) => {
                    let rejection =
                        Rejection::new(over.code, format!("the session is over: {}", over.reason));
                    break (Outcome::Err(rejection).into(), Some(over));
                }
                Happened::Ordered(Order::Cancel(id)) if id == asked.id => {
                    let cancelled = Rejection::new(Code::Cancelled, "the command was cancelled");
                    break (Outcome::Err(cancelled).into(), None);
                }
                Happened::Ordered(Order::Cancel(id)) => self.cancel_waiting(id),
                Happened::Ordered(Order::Command(asked)) => self.take(*asked),
                Happened::Ordered(Order::WatchPages(watched)) => self.watch_next = Some(watched),
                Happened::Ordered(Order::Show(open)) => self.show(*open),
                Happened::Ordered(Order::Tunnel(_) | Order::Fetch(..)) | Happened::Nothing => {}
            }
        };
        drop(acting);
        self.settle(&asked, performed);
        over
    }

    async fn next(&mut self) -> Happened {
        tokio::select! {
            biased;
            stop = told_to_stop(&mut self.session.stopped) => Happened::Over(stop.into()),
            notice = self.notices.recv() => match notice {
                Some(Notice::Ended { reason, message }) => Happened::Over(Over::of_browser(reason, message)),
                Some(Notice::PageChanged { url, title }) => {
                    self.page_changed(url, title);
                    Happened::Nothing
                }
                None => Happened::Over(Over::of_browser(
                    EndReason::BrowserCrashed,
                    "the browser is gone".to_owned(),
                )),
            },
            Some(told) = self.events.recv() => {
                self.tell(told);
                Happened::Nothing
            },
            order = self.session.orders.recv() => match order {
                Some(Order::Tunnel(joining)) => {
                    self.join(*joining);
                    Happened::Nothing
                }
                Some(Order::Fetch(id, name)) => {
                    self.fetch(id, name);
                    Happened::Nothing
                }
                Some(order) => Happened::Ordered(order),
                None => Happened::Over(Stop::Shutdown.into()),
            },
        }
    }

    /// Queues a command, unless it is known.
    fn take(&mut self, asked: Asked) {
        match self.remembered.look_up(asked.id) {
            Known::UnderWay => {}
            Known::Done(outcome) => {
                let again = outcome.clone();
                self.session.around.outbox.keep(Body::Settled(again));
            }
            Known::New if self.waiting.len() >= SESSION_QUEUE_MAX => {
                let busy =
                    Rejection::new(Code::AgentBusy, "too many commands wait for this session");
                self.settle(&asked, Outcome::Err(busy).into());
            }
            Known::New => {
                self.remembered.begin(asked.id);
                self.waiting.push_back(asked);
            }
        }
    }

    fn cancel_waiting(&mut self, id: CommandId) {
        let Some(index) = self.waiting.iter().position(|it| it.id == id) else {
            return;
        };
        if let Some(asked) = self.waiting.remove(index) {
            let cancelled =
                Rejection::new(Code::Cancelled, "the command was cancelled before its turn");
            self.settle(&asked, Outcome::Err(cancelled).into());
        }
    }

    fn give_up_waiting(&mut self, over: &Over) {
        self.session.orders.close();
        while let Ok(order) = self.session.orders.try_recv() {
            if let Order::Command(asked) = order {
                self.take(*asked);
            }
        }
        while let Some(asked) = self.waiting.pop_front() {
            let rejection =
                Rejection::new(over.code, format!("the session is over: {}", over.reason));
            self.settle(&asked, Outcome::Err(rejection).into());
        }
    }

    /// The one place where a command gets its outcome.
    fn settle(&mut self, asked: &Asked, performed: Performed) {
        let Performed { outcome, payload } = performed;
        let mut message = settled(asked.id, self.session.id, asked.epoch, outcome);
        self.remembered.finish(asked.id, message.clone());
        let around = &self.session.around;
        match payload {
            Some(picture) if picture.len() > LINK_PAYLOAD_BYTES_MAX => {
                self.deliver(asked, message, picture);
            }
            payload => {
                message.payload = payload.unwrap_or_default();
                around.outbox.keep(Body::Settled(message));
            }
        }
    }

    /// The picture goes first, by a way of its own; the next command need not
    /// wait for it.
    fn deliver(&self, asked: &Asked, mut message: Settled, picture: Bytes) {
        let around = Arc::clone(&self.session.around);
        let (session, command) = (self.session.id, asked.id);
        let latest = asked.deadline + ladder::ANSWER_GRACE;
        tasks::spawn("picture", async move {
            if around
                .deliverer
                .deliver(session, command, &picture, latest)
                .await
            {
                message.payload_delivered = true;
            } else {
                let lost = late("the picture could not be delivered in time");
                message.outcome = Some(wire::outcome_to_wire(&lost));
            }
            around.outbox.keep(Body::Settled(message));
        });
    }

    /// Shows the browser beside its commands. The control plane asks again only where it
    /// has lost the view before.
    fn show(&mut self, open: OpenLive) {
        let (streams, live) = (self.session.around.streams.clone(), Arc::clone(&self.live));
        let view = tasks::spawn("live view", async move {
            if let Some(ends) = streams.open(open).await {
                live.show(ends).await;
            }
        });
        if let Some(before) = self.view.replace(view) {
            before.abort();
        }
    }

    fn page_changed(&self, url: String, title: String) {
        self.say(Body::PageChanged(PageChanged {
            session_id: self.session.id.to_string(),
            epoch: self.session.epoch,
            url,
            title,
        }));
    }

    fn tell(&self, told: Told) {
        self.say(Body::Event(Event {
            session_id: self.session.id.to_string(),
            epoch: self.session.epoch,
            number: told.number,
            kind: told.kind.to_owned(),
            payload_json: told.payload.to_string(),
        }));
    }

    /// Says what may be lost.
    fn say(&self, body: Body) {
        let message = FromAgent {
            sequence: 0,
            body: Some(body),
        };
        if self.session.around.may_be_lost.try_send(message).is_err() {
            tracing::debug!(session.id = %self.session.id, "no room to say what happened");
        }
    }
}

fn late(message: &str) -> Outcome {
    Err(Rejection::new(Code::CommandTimeout, message))
}
