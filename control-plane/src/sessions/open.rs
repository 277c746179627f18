//! Opening, extending and ending sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use browserfleet_proto::action::Code;
use browserfleet_proto::agent::v1::{self, to_agent::Body};
use browserfleet_proto::ids::{SessionId, UserId};
use browserfleet_proto::{ladder, limits};
use tokio::time::timeout;

use super::registry::{Held, Holding, Phase};
use super::{OwnedSession, Sessions};
use crate::accounts::CurrentUser;
use crate::clock;
use crate::domain::session::{Browser, Dialogs, Session, SessionSpec, Status};
use crate::domain::settings::UserSettings;
use crate::error::Error;

/// A session's life where nobody says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// Longest life of a session.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a session may be without activity where nobody says otherwise.
const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);
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
    /// How long it lives.
    pub timeout: Option<Duration>,
    /// How long it may be without activity.
    pub idle_timeout: Option<Duration>,
    /// As its owner calls it.
    pub name: Option<String>,
    /// As its owner labels it.
    pub metadata: BTreeMap<String, String>,
}

impl Sessions {
    /// Opens a session: it is live when this returns. Goes on if the caller leaves.
    ///
    /// # Errors
    /// [`Error::QuotaReached`], [`Error::NoCapacity`], or why its browser could
    /// not be started.
    pub async fn open(self: &Arc<Self>, user: &CurrentUser, wish: Wish) -> Result<Session, Error> {
        let settings = self.store.settings(user.id).await?;
        let settings = settings.map(|it| it.0).unwrap_or_default();
        let theirs = self.store.user(user.id).await?;
        let theirs = theirs.ok_or(Error::Unauthenticated)?;
        let limits = theirs.quotas.or(self.limits);
        let session = new_session(user, wish, &settings);
        if !self.store.admit_session(&session, limits.sessions).await? {
            return Err(Error::QuotaReached {
                name: "live_sessions",
                limit: limits.sessions,
                retry_after: None,
            });
        }
        let id = session.id;
        let this = Arc::clone(self);
        let work = self.tasks.spawn("open session", async move {
            let started = this.start(session, limits.instances).await;
            if let Err(error) = &started {
                this.finish(id, error.code(), &error.to_string()).await;
            }
            started
        });
        match work.await {
            Ok(Some(started)) => started?,
            Ok(None) | Err(_) => {
                return Err(Error::Internal(anyhow::anyhow!(
                    "the session's task ended before the session was open"
                )));
            }
        }
        self.store
            .session(id)
            .await?
            .ok_or(Error::NotFound("session"))
    }

    async fn start(&self, session: Session, instances_max: u32) -> Result<(), Error> {
        let lease = self.fleet.acquire(session.user, instances_max).await?;
        let now = clock::now();
        let placed = self
            .store
            .place_session(session.id, lease.instance, lease.epoch, now)
            .await?;
        if !placed {
            return Err(Error::NoCapacity {
                reason: "the instance was lost while the session was placed on it".into(),
                retry_after: Duration::from_secs(1),
            });
        }
        let held = self.registry.insert(Held::new(
            Holding {
                id: session.id,
                user: session.user,
                instance: lease.instance,
                epoch: lease.epoch,
                command_timeout: Duration::from_millis(session.spec.command_timeout_ms),
                idle_timeout: session.idle_timeout,
                expires_at: now.plus(session.timeout),
                last_activity_at: now,
            },
            Phase::Starting,
        ));
        // Who was barred while an instance was sought had no session here to be ended.
        let user = self.store.user(session.user).await?;
        if !user.is_some_and(|it| it.may_sign_in()) {
            return Err(Error::Unauthenticated);
        }
        self.relay
            .say(lease.instance, open_message(&session, lease.epoch))
            .map_err(|_| Error::NotSent)?;
        self.wait_until_live(&held).await
    }

    async fn wait_until_live(&self, held: &Held) -> Result<(), Error> {
        let mut phase = held.follow();
        let patience = limits::LAUNCH_TIMEOUT + ladder::SETTLE_GRACE;
        let decided = timeout(patience, phase.wait_for(|it| *it != Phase::Starting)).await;
        match decided.map(|it| it.map(|phase| phase.clone())) {
            Ok(Ok(Phase::Live)) => Ok(()),
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
        if let OwnedSession::Held(held) = session {
            let this = Arc::clone(self);
            let held = Arc::clone(held);
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
    }

    /// Ends all sessions, for the end of the process.
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
        if let Some(held) = self.registry.remove(id) {
            held.enter(Phase::Ended {
                reason: reason.to_owned(),
                message: message.to_owned(),
            });
        }
        self.relay.lose_session(id);
        self.fleet.wake();
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
    }
}
