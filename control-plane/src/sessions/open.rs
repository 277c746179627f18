//! Opening, extending and ending sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::action::Code;
use browserfleet_proto::agent::v1::{self, to_agent::Body};
use browserfleet_proto::ids::{InstanceId, SessionId, UserId};
use browserfleet_proto::{ladder, limits};
use tokio::time::{Instant, timeout, timeout_at};

use super::queue::{Opening, QUEUE_MAX, Stage, TICKET_LIFE, Ticket};
use super::registry::{Held, Holding, Phase};
use super::{OwnedSession, Sessions};
use crate::accounts::CurrentUser;
use crate::clock;
use crate::domain::control::Control;
use crate::domain::placement::{self, Outlook, Waiting};
use crate::domain::session::{Browser, Dialogs, Session, SessionSpec, Status, WhileControlled};
use crate::domain::settings::UserSettings;
use crate::error::Error;

/// A session's life where nobody says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// Longest life of a session.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a session may be without activity where nobody says otherwise.
const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// How long a session may take to be placed where an instance is free.
const PLACING_GRACE: Duration = Duration::from_secs(2);
/// How often the row of a session is looked at that is waited for: another replica
/// may have placed it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When to ask again where all instances are taken.
const FULL_RETRY: Duration = Duration::from_secs(10);
/// How long the browser's end is waited for before the session is ended without it.
const END_DEADLINE: Duration = Duration::from_secs(10);
const VIEWPORT_DEFAULT: (u32, u32) = (1280, 720);

/// What a caller wishes of a new session; what is left out comes from the user's
/// settings, then from the defaults.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Which browser.
    pub browser: Browser,
    /// CSS pixels.
    pub viewport: Option<(u32, u32)>,
    /// Device pixels per CSS pixel.
    pub scale: Option<f64>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// BCP 47.
    pub locale: String,
    /// IANA name.
    pub timezone: String,
    /// What becomes of dialogs.
    pub dialogs: Dialogs,
    /// What becomes of commands while a person drives.
    pub while_controlled: WhileControlled,
    /// How long it lives.
    pub timeout: Option<Duration>,
    /// How long it may be without activity.
    pub idle_timeout: Option<Duration>,
    /// As its owner calls it.
    pub name: Option<String>,
    /// As its owner labels it.
    pub metadata: BTreeMap<String, String>,
}

/// What became of the wish for a session.
#[derive(Debug)]
pub enum Opened {
    /// It takes commands.
    Live(Box<Session>),
    /// It waits for an instance.
    Queued(Ticket),
}

impl Sessions {
    /// Opens a session: where an instance is free, it is live when this returns.
    /// Where none is, this waits for up to `wait`; then the session goes on waiting
    /// for as long as somebody asks after it. Ends if the caller leaves before the
    /// answer: nobody would know of it.
    ///
    /// # Errors
    /// [`Error::QuotaReached`], [`Error::NoCapacity`], or why its browser could
    /// not be started.
    pub async fn open(
        self: &Arc<Self>,
        user: &CurrentUser,
        wish: Wish,
        wait: Duration,
    ) -> Result<Opened, Error> {
        let settings = self.store.settings(user.id).await?;
        let settings = settings.map(|it| it.0).unwrap_or_default();
        let theirs = self.store.user(user.id).await?;
        let theirs = theirs.ok_or(Error::Unauthenticated)?;
        let limits = theirs.quotas.or(self.limits);
        let session = new_session(user, wish, &settings);
        let outlook = self.outlook_of(&session, limits.instances, wait).await?;
        let wait_until = session.created_at.plus(wait.max(TICKET_LIFE));
        let mut caller = Caller {
            sessions: Arc::clone(self),
            session: session.id,
            is_answered: false,
        };
        let admitted = self
            .store
            .admit_session(&session, wait_until, limits.sessions);
        if !admitted.await? {
            caller.is_answered = true;
            return Err(Error::QuotaReached {
                name: "live_sessions",
                limit: limits.sessions,
                retry_after: None,
            });
        }
        let id = session.id;
        let opening = self.openings.expect(id);
        self.queued.send_modify(|count| *count += 1);
        let grace = if outlook == Outlook::Now {
            PLACING_GRACE
        } else {
            Duration::ZERO
        };
        let live = self.wait_for(id, &opening, wait, grace).await;
        self.openings.forget(id);
        if live? {
            let session = self.store.session(id).await?;
            let session = session.ok_or(Error::NotFound("session"))?;
            caller.is_answered = true;
            return Ok(Opened::Live(Box::new(session)));
        }
        let session = self.store.session(id).await?;
        let session = session.ok_or(Error::NotFound("session"))?;
        let ticket = self.ticket(&OwnedSession::Row(Box::new(session))).await?;
        if outlook == Outlook::Full && ticket.status == Status::Queued {
            // They waited for as long as they wanted, and nothing is on its way.
            self.finish(id, "no_capacity", "all instances are in use")
                .await;
            return Err(self.full());
        }
        caller.is_answered = true;
        Ok(Opened::Queued(ticket))
    }

    /// Ends a session whose caller left before they were told of it.
    async fn abandon(&self, id: SessionId) {
        let reason = "caller_left";
        let Some(held) = self.registry.find(id) else {
            return self.finish(id, reason, "").await;
        };
        if let Err(error) = self.wind_down(&held, reason).await {
            tracing::warn!(session.id = %id, %error, "could not end a session whose caller left");
        }
    }

    /// What a session can hope for.
    ///
    /// # Errors
    /// [`Error::QuotaReached`] where its user holds as many instances as they may, and
    /// all are full; [`Error::NoCapacity`] where nothing is on its way.
    async fn outlook_of(
        &self,
        session: &Session,
        instances_max: u32,
        wait: Duration,
    ) -> Result<Outlook, Error> {
        let rows = self.fleet.rows().await?;
        let queue = self.store.queue().await?;
        if queue.len() >= QUEUE_MAX {
            return Err(Error::Overloaded);
        }
        let waiting = self.fleet.waiting(&queue).await?;
        let newcomer = Waiting {
            session: session.id,
            user: session.user,
            since: session.created_at,
            served_at: None,
            instances_max,
            kind: None,
        };
        let max = self.fleet.pool().max;
        let reachable = |id| self.fleet.is_reachable(id);
        let outlook = placement::outlook(&newcomer, &waiting, &rows, reachable, max);
        match outlook {
            Outlook::Now | Outlook::Coming => Ok(outlook),
            Outlook::Enough if wait.is_zero() => Err(Error::QuotaReached {
                name: "instances",
                limit: instances_max,
                retry_after: None,
            }),
            Outlook::Full if wait.is_zero() => {
                // An idle instance of another user may be taken back for this one.
                let others: Vec<_> = rows
                    .into_iter()
                    .filter(|it| it.assigned_to != Some(session.user))
                    .collect();
                if self.fleet.reclaim_one(&others).await? {
                    Ok(Outlook::Coming)
                } else {
                    Err(self.full())
                }
            }
            Outlook::Enough | Outlook::Full => Ok(Outlook::Full),
        }
    }

    fn full(&self) -> Error {
        Error::NoCapacity {
            reason: format!("all {} instances are in use", self.fleet.pool().max),
            retry_after: FULL_RETRY,
        }
    }

    /// Waits until a session is live (`true`), or has waited for `wait` without an
    /// instance (`false`): for `grace` at the least, unless another has got its place.
    async fn wait_for(
        &self,
        id: SessionId,
        opening: &Opening,
        wait: Duration,
        grace: Duration,
    ) -> Result<bool, Error> {
        let mut stage = opening.follow();
        let began = Instant::now();
        let mut latest = began + wait.max(grace);
        let mut placed_at = None;
        loop {
            let now_at = *stage.borrow_and_update();
            match now_at {
                Stage::Decided => return opening.failure().map_or(Ok(true), Err),
                Stage::Placed => {
                    placed_at.get_or_insert_with(Instant::now);
                }
                Stage::PassedOver => latest = began + wait,
                Stage::Queued => {}
            }
            let until = match placed_at {
                Some(at) => at + limits::LAUNCH_TIMEOUT + 2 * ladder::SETTLE_GRACE,
                None => latest,
            };
            let news = timeout_at(until.min(Instant::now() + LOOK_EVERY), stage.changed()).await;
            if news.is_ok() {
                continue;
            }
            // Another replica may have placed it: it is the row that tells.
            let row = self.store.session(id).await?;
            let row = row.ok_or(Error::NotFound("session"))?;
            match row.status {
                Status::Live => return Ok(true),
                Status::Ended | Status::Ending => {
                    if let Some(failure) = opening.failure() {
                        return Err(failure);
                    }
                    return Err(not_started(
                        row.end_reason.as_deref().unwrap_or_default(),
                        row.error_message.unwrap_or_default(),
                    ));
                }
                Status::Starting => {
                    placed_at.get_or_insert_with(Instant::now);
                }
                Status::Queued => {}
            }
            if Instant::now() >= until {
                return match placed_at {
                    Some(_) => Err(Error::NoCapacity {
                        reason: "the browser was not there in time".into(),
                        retry_after: Duration::from_secs(5),
                    }),
                    None => Ok(false),
                };
            }
        }
    }

    pub(super) async fn start(
        &self,
        session: Session,
        instance: InstanceId,
        epoch: i64,
    ) -> Result<(), Error> {
        let now = clock::now();
        let held = self.registry.insert(Held::new(
            Holding {
                id: session.id,
                user: session.user,
                instance,
                epoch,
                command_timeout: Duration::from_millis(session.spec.command_timeout_ms),
                idle_timeout: session.idle_timeout,
                while_controlled: session.spec.while_controlled,
                expires_at: now.plus(session.timeout),
                last_activity_at: now,
            },
            Phase::Starting,
        ));
        // Who was barred, or ended it, while an instance was sought found no session
        // here to be ended.
        let user = self.store.user(session.user).await?;
        if !user.is_some_and(|it| it.may_sign_in()) {
            return Err(Error::Unauthenticated);
        }
        let row = self.store.session(session.id).await?;
        if let Some(reason) = row.and_then(|it| it.end_reason) {
            return Err(Error::SessionGone { reason });
        }
        self.relay
            .say(instance, open_message(&session, epoch))
            .map_err(|_| Error::NotSent)?;
        self.wait_until_live(&held).await
    }

    async fn wait_until_live(&self, held: &Held) -> Result<(), Error> {
        let mut phase = held.follow();
        let patience = limits::LAUNCH_TIMEOUT + ladder::SETTLE_GRACE;
        let decided = timeout(patience, phase.wait_for(|it| *it != Phase::Starting)).await;
        match decided.map(|it| it.map(|phase| phase.clone())) {
            Ok(Ok(Phase::Live)) => Ok(()),
            Ok(Ok(Phase::Ending { reason })) => {
                // Whoever ends it writes that down, and for which reason.
                let over = phase.wait_for(|it| matches!(it, Phase::Ended { .. }));
                let in_time = timeout(END_DEADLINE + ladder::SETTLE_GRACE, over).await;
                if in_time.is_err() {
                    tracing::warn!(session.id = %held.id, "a session's end took too long");
                }
                let reason = reason.to_owned();
                Err(Error::SessionGone { reason })
            }
            Ok(Ok(Phase::Ended { reason, message })) => Err(not_started(&reason, message)),
            Ok(_) => Err(Error::SessionGone {
                reason: "ended".into(),
            }),
            Err(_) => Err(Error::NoCapacity {
                reason: "the agent did not start the browser in time".into(),
                retry_after: Duration::from_secs(5),
            }),
        }
    }

    /// Moves a session's end this much further, to at most [`TIMEOUT_MAX`] from now.
    ///
    /// # Errors
    /// [`Error::SessionGone`] where it is over.
    pub async fn extend(&self, session: &OwnedSession, by: Duration) -> Result<Session, Error> {
        let held = session.held()?;
        let latest = clock::now().plus(TIMEOUT_MAX);
        let expires_at = held.expires_at().plus(by).min(latest);
        if !self.store.extend_session(held.id, expires_at).await? {
            return Err(Error::SessionGone {
                reason: "ended".into(),
            });
        }
        held.extend(expires_at);
        self.ends.send_modify(|count| *count += 1);
        self.show(session).await
    }

    /// Ends a session, and waits until its browser is gone. Ending one that is
    /// over changes nothing.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end(
        self: &Arc<Self>,
        session: &OwnedSession,
        reason: &'static str,
    ) -> Result<Session, Error> {
        // One that waited when it was looked up may have begun since.
        let held = match session {
            OwnedSession::Held(held) => Some(Arc::clone(held)),
            OwnedSession::Row(row) => self.registry.find(row.id),
        };
        if let Some(held) = held {
            let this = Arc::clone(self);
            let work =
                self.tasks.spawn(
                    "end session",
                    async move { this.wind_down(&held, reason).await },
                );
            if let Ok(Some(ended)) = work.await {
                ended?;
            }
        } else if let OwnedSession::Row(row) = session
            && row.status != Status::Ended
        {
            self.finish(row.id, reason, "").await;
        }
        self.store
            .session(session.id())
            .await?
            .ok_or(Error::NotFound("session"))
    }

    /// Ends the sessions of somebody who is barred, and waits until they are over.
    pub async fn end_all_of(self: &Arc<Self>, user: UserId) {
        let theirs = self.registry.select(|held| held.user == user);
        let ends = theirs.iter().map(|held| async {
            if let Err(error) = self.wind_down(held, "user_barred").await {
                tracing::warn!(session.id = %held.id, %error, "could not end a session");
            }
        });
        futures_util::future::join_all(ends).await;
        match self.store.queue().await {
            Ok(queue) => {
                for queued in queue.iter().filter(|it| it.user == user) {
                    self.finish(queued.session, "user_barred", "").await;
                }
            }
            Err(error) => tracing::warn!(user.id = %user, %error, "could not read the queue"),
        }
    }

    /// Ends all sessions, for the end of the process and of the instances with it.
    pub async fn shut_down(&self) {
        for held in self.registry.select(|_| true) {
            self.finish(held.id, "shutdown", "the control plane was stopped")
                .await;
        }
    }

    /// Lets the history's writer end once it has written all it has.
    pub fn close_ledger(&self) {
        self.ledger.close();
    }

    /// Ends a session whose browser may run.
    pub(crate) async fn wind_down(&self, held: &Held, reason: &'static str) -> Result<(), Error> {
        let mut phase = held.follow();
        if held.enter(Phase::Ending { reason }) {
            self.store.session_ending(held.id).await?;
            let body = Body::EndSession(v1::EndSession {
                session_id: held.id.to_string(),
                epoch: held.epoch.unsigned_abs(),
            });
            if self.relay.say(held.instance, body).is_err() {
                self.finish(held.id, reason, "").await;
                return Ok(());
            }
        }
        let over = phase.wait_for(|it| matches!(it, Phase::Ended { .. }));
        if timeout(END_DEADLINE, over).await.is_err() {
            tracing::warn!(session.id = %held.id, "the agent did not say that the browser is gone");
            self.finish(held.id, reason, "").await;
        }
        Ok(())
    }

    /// Writes a session's end, tells all who follow it, and settles what was
    /// under way on it. The first one counts.
    pub(crate) async fn finish(&self, id: SessionId, reason: &str, message: &str) {
        let text = Some(message).filter(|it| !it.is_empty());
        match self.store.end_session(id, reason, text, clock::now()).await {
            Ok(true) => tracing::info!(session.id = %id, reason, message, "session ended"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(session.id = %id, %error, "could not write a session's end");
                return;
            }
        }
        match self.registry.remove(id) {
            // Whoever starts it follows it, and tells who waits.
            Some(held) => {
                held.enter(Phase::Ended {
                    reason: reason.to_owned(),
                    message: message.to_owned(),
                });
            }
            None => self.openings.decide(
                id,
                Some(Error::SessionGone {
                    reason: reason.to_owned(),
                }),
            ),
        }
        self.relay.lose_session(id);
        self.fleet.wake();
        self.queued.send_modify(|count| *count += 1);
    }
}

/// Who waits for the answer to their wish. Dropped before it is there: they have left,
/// or are told of an error and no session.
struct Caller {
    sessions: Arc<Sessions>,
    session: SessionId,
    is_answered: bool,
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let (sessions, session) = (Arc::clone(&self.sessions), self.session);
        self.sessions
            .tasks
            .spawn("end an abandoned session", async move {
                sessions.abandon(session).await;
            });
    }
}

/// Why a session did not become live: an option that only Chrome can judge is the
/// caller's to mend, anything else is ours.
fn not_started(reason: &str, message: String) -> Error {
    let field = match Code::from_text(reason) {
        Code::ViewportRefused => "viewport",
        Code::UserAgentRefused => "user_agent",
        Code::TimezoneRefused => "timezone",
        Code::LocaleRefused => "locale",
        _ => {
            return Error::NoCapacity {
                reason: message,
                retry_after: Duration::from_secs(5),
            };
        }
    };
    Error::invalid(field, format!("the browser does not take it: {message}"))
}

fn open_message(session: &Session, epoch: i64) -> Body {
    let options = browserfleet_proto::action::SessionOptions::from(&session.spec);
    Body::OpenSession(v1::OpenSession {
        session_id: session.id.to_string(),
        epoch: epoch.unsigned_abs(),
        options: Some((&options).into()),
        timeout_ms: u32::try_from(limits::LAUNCH_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
    })
}

fn new_session(user: &CurrentUser, wish: Wish, settings: &UserSettings) -> Session {
    let preferences = &settings.browser_preferences;
    let (width, height) = wish
        .viewport
        .or_else(|| preferences.default_viewport.map(|it| (it.width, it.height)))
        .unwrap_or(VIEWPORT_DEFAULT);
    let default_timeout = u64::try_from(limits::COMMAND_TIMEOUT_DEFAULT.as_millis());
    let now = clock::now();
    let timeout = wish.timeout.unwrap_or(TIMEOUT_DEFAULT);
    Session {
        id: SessionId::new(),
        user: user.id,
        instance: None,
        epoch: 0,
        status: Status::Queued,
        end_reason: None,
        error_message: None,
        name: wish.name,
        metadata: wish.metadata,
        spec: SessionSpec {
            browser: wish.browser,
            width,
            height,
            scale: wish.scale.unwrap_or(1.0),
            user_agent: wish
                .user_agent
                .or_else(|| preferences.default_user_agent.clone())
                .unwrap_or_default(),
            locale: wish.locale,
            timezone: wish.timezone,
            dialogs: wish.dialogs,
            command_timeout_ms: preferences
                .default_timeout_ms
                .unwrap_or(default_timeout.unwrap_or(u64::MAX)),
            while_controlled: wish.while_controlled,
        },
        timeout,
        idle_timeout: wish
            .idle_timeout
            .unwrap_or(IDLE_TIMEOUT_DEFAULT)
            .min(timeout),
        created_at: now,
        started_at: None,
        expires_at: now.plus(timeout),
        last_activity_at: now,
        ended_at: None,
        current_url: None,
        current_title: None,
        ending_reason: None,
        control: Control::default(),
    }
}
