//! Starts Chromes, and keeps some launched ahead: a session that finds one there
//! saves the launch.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use browserfleet_proto::action::{BrowserKind, Code, Rejection, SessionOptions};
use browserfleet_proto::limits::LAUNCH_TIMEOUT;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::chrome::Chrome;
use super::executable::Executable;
use super::process::sweep;
use super::residue::Realm;
use super::running::Running;
use super::user::User;
use super::{Browser, Launcher, strays};
use crate::tasks;

/// Pause after a spare that could not be launched.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// How long a spare may take to become a session's browser, a thousand times what it
/// takes; one that does not is hung, and a launch still fits the session's deadline.
const SPARE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long a stop waits for a spare that is being launched: one that is left to
/// itself half way makes its folder again after it was removed.
const LAST_LAUNCH_TAKES: Duration = Duration::from_secs(3);

/// How browsers are launched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `None`: one is looked for.
    pub executable: Option<PathBuf>,
    /// Below it each browser has a folder of its own.
    pub folder: PathBuf,
    /// How many are launched ahead.
    pub spares: usize,
    /// `None`: they run as the agent's own user.
    pub user: Option<User>,
}

/// Launches Chrome.
pub struct ChromeLauncher {
    pool: Arc<Pool>,
    refill: Mutex<Option<JoinHandle<Option<()>>>>,
    strays: JoinHandle<Option<()>>,
}

struct Pool {
    settings: Settings,
    spares: Mutex<Spares>,
    /// When the first one was.
    first_ready: OnceLock<Instant>,
    /// Held while one is launched, and while none may be.
    launching: tokio::sync::Mutex<()>,
    /// One was taken, or no more are wanted.
    changed: Notify,
}

struct Spares {
    ready: Vec<Running>,
    /// What was asked for last is likely asked for next.
    kind: BrowserKind,
    /// No more are wanted.
    closed: bool,
}

impl ChromeLauncher {
    /// Sweeps what earlier lives left behind and starts to launch spares.
    ///
    /// # Errors
    /// Where the folder cannot be made, or its browsers could not get there.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        // So that what a killed browser leaves behind can be reaped here.
        nix::sys::prctl::set_child_subreaper(true)?;
        let swept = sweep(&settings.folder)?;
        if swept > 0 {
            tracing::info!(folders = swept, "removed what an earlier run left behind");
        }
        match &settings.user {
            Some(user) => open_the_way(user, &settings.folder)?,
            None if nix::unistd::geteuid().is_root() => tracing::warn!(
                "running as root: Chrome runs WITHOUT its sandbox; run the agent as a user of its own, or set BROWSERFLEET_BROWSER_USER"
            ),
            None => {}
        }
        let pool = Arc::new(Pool {
            settings,
            spares: Mutex::new(Spares {
                ready: Vec::new(),
                kind: BrowserKind::Shell,
                closed: false,
            }),
            first_ready: OnceLock::new(),
            launching: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        });
        let refill = tasks::spawn("spare browsers", Arc::clone(&pool).keep_filled());
        Ok(Self {
            pool,
            refill: Mutex::new(Some(refill)),
            strays: tasks::spawn("strays", strays::collect()),
        })
    }

    /// Ends the spares, and launches no more.
    pub async fn stop(&self) {
        self.pool.spares().closed = true;
        self.pool.changed.notify_one();
        let refill = self
            .refill
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut refill) = refill
            && timeout(LAST_LAUNCH_TAKES, &mut refill).await.is_err()
        {
            refill.abort();
        }
        let ready = std::mem::take(&mut self.pool.spares().ready);
        for spare in ready {
            spare.process.end().await;
        }
        self.strays.abort();
    }
}

/// The folder is the agent's; others may pass through to what is theirs, and not look
/// around.
fn open_the_way(user: &User, folder: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o711))?;
    match user.kept_out_of(folder) {
        None => Ok(()),
        Some(closed) => Err(std::io::Error::other(format!(
            "{} cannot enter {closed}; run: chmod o+x {closed}",
            user.name,
            closed = closed.display(),
        ))),
    }
}

impl Launcher for ChromeLauncher {
    fn launch<'a>(
        &'a self,
        options: &'a SessionOptions,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Box<dyn Browser>, Rejection>> {
        async move {
            if let Some(spare) = self.pool.take(options.browser) {
                let soon = deadline.min(Instant::now() + SPARE_ANSWERS_WITHIN);
                match Chrome::new(spare, options, soon).await {
                    Err(rejection) if rejection.code == Code::LaunchFailed => {
                        let reason = rejection.message;
                        tracing::warn!(reason, "a spare browser was of no use; launching another");
                    }
                    other => return other.map(|it| Box::new(it) as Box<dyn Browser>),
                }
            }
            let running = Running::start(options.browser, &self.pool.settings, deadline).await?;
            let chrome = Chrome::new(running, options, deadline).await?;
            Ok(Box::new(chrome) as Box<dyn Browser>)
        }
        .boxed()
    }

    fn kinds(&self) -> Vec<BrowserKind> {
        let configured = self.pool.settings.executable.as_deref();
        [BrowserKind::Shell, BrowserKind::Full]
            .into_iter()
            .filter(|kind| Executable::find(*kind, configured).is_ok())
            .collect()
    }

    fn spares(&self) -> usize {
        self.pool.spares().ready.len()
    }

    fn first_spare(&self) -> Option<Instant> {
        self.pool.first_ready.get().copied()
    }

    fn recycle(&self) -> BoxFuture<'_, Vec<String>> {
        self.pool.recycle().boxed()
    }
}

impl Pool {
    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A spare of this kind that still lives.
    fn take(&self, kind: BrowserKind) -> Option<Running> {
        let mut spares = self.spares();
        spares.kind = kind;
        // A dead one is dropped, which removes what is left of it.
        spares.ready.retain(|it| !it.tabs().borrow().is_closed());
        let index = spares.ready.iter().position(|it| it.kind == kind);
        let taken = index.map(|index| spares.ready.remove(index));
        drop(spares);
        self.changed.notify_one();
        taken
    }

    /// What is missing: the kind to launch next. One of another kind makes room.
    fn missing(&self) -> Option<BrowserKind> {
        let mut spares = self.spares();
        let kind = spares.kind;
        spares.ready.retain(|it| it.kind == kind);
        (spares.ready.len() < self.settings.spares).then_some(kind)
    }

    async fn keep_filled(self: Arc<Self>) {
        while !self.spares().closed {
            match self.launch_missing().await {
                Ok(true) => {}
                Ok(false) => self.changed.notified().await,
                Err(rejection) => {
                    tracing::warn!(
                        reason = rejection.message,
                        "could not launch a spare browser"
                    );
                    // Asking for one meanwhile launches one anyway.
                    timeout(RETRY_AFTER, self.closed()).await.ok();
                }
            }
        }
    }

    /// `false`: none is missing.
    async fn launch_missing(&self) -> Result<bool, Rejection> {
        let _launching = self.launching.lock().await;
        let Some(kind) = self.missing() else {
            return Ok(false);
        };
        let deadline = Instant::now() + LAUNCH_TIMEOUT;
        let running = Running::start(kind, &self.settings, deadline).await?;
        self.first_ready.get_or_init(Instant::now);
        self.spares().ready.push(running);
        Ok(true)
    }

    async fn recycle(&self) -> Vec<String> {
        let launching = self.launching.lock().await;
        let ready = std::mem::take(&mut self.spares().ready);
        join_all(ready.into_iter().map(|it| it.process.end())).await;
        let realm = Realm {
            folder: self.settings.folder.clone(),
            user: self.settings.user.clone(),
        };
        let left = realm.clear().await;
        drop(launching);
        self.changed.notify_one();
        left
    }

    async fn closed(&self) {
        while !self.spares().closed {
            self.changed.notified().await;
        }
    }
}
