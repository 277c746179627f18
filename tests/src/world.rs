//! A whole Browserfleet: a control plane as a real process, its agents and their
//! browsers, and a folder that holds all that it writes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::Caller;
use crate::eventually;
use crate::mail;
use crate::metrics::Metrics;
use crate::processes::{self, Process};

/// How long a start may take: the database and two listeners.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long a stop may take, as promised.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// The administrator of every world.
pub const ADMINISTRATOR: &str = "admin@browserfleet.localhost";
/// Its password, where nothing else was set.
pub const PASSWORD: &str = "four words and 1 number";

/// What a world is started with.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

impl Plan {
    /// One setting of the control plane, without its prefix.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.insert(key.to_owned(), value.to_string());
        self
    }

    /// A variable of its environment that is no setting. Its agents inherit it, its
    /// browsers do not.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// What the control plane said instead.
    pub async fn start(self) -> anyhow::Result<World> {
        World::start(self).await
    }
}

/// A running Browserfleet.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    plan: Plan,
    control_plane: Option<Child>,
    log: Log,
    /// Where the API is.
    pub api: String,
    /// Where agents dial.
    pub agents: SocketAddr,
    metrics: Option<String>,
}

/// The log of the control plane and its agents.
#[derive(Debug, Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

/// The program of this name, built along with this one.
///
/// # Errors
/// Where it was not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .with_context(|| format!("{name} is not built; run: cargo build --workspace"))
}

/// Makes an authority of agents in this folder, as an operator does.
///
/// # Errors
/// What the program said instead.
pub async fn make_authority(folder: &Path) -> anyhow::Result<()> {
    let made = Command::new(program("browserfleet")?)
        .env_clear()
        .arg("authority")
        .arg(folder)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&made.stderr);
    anyhow::ensure!(made.status.success(), "{said}");
    Ok(())
}

impl World {
    /// A world with nothing special.
    ///
    /// # Errors
    /// What the control plane said instead.
    pub async fn new() -> anyhow::Result<Self> {
        Plan::default().start().await
    }

    async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut world = Self {
            folder: TempDir::new()?,
            plan,
            control_plane: None,
            log: Log::default(),
            api: String::new(),
            agents: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics: None,
        };
        world.launch().await?;
        Ok(world)
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let mut settings: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |key: &str, value: String| drop(settings.insert(key.to_owned(), value));
        set("DATA_DIR", self.data_dir().display().to_string());
        set(
            "LISTEN",
            self.api
                .strip_prefix("http://")
                .unwrap_or("127.0.0.1:0")
                .to_owned(),
        );
        set("AGENT_LISTEN", self.agents.to_string());
        set("ADMIN_PASSWORD", PASSWORD.to_owned());
        settings.extend(self.plan.settings.clone());
        let mut child = Command::new(program("browserfleet")?)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .envs(&self.plan.environment)
            .envs(
                settings
                    .iter()
                    .map(|(key, value)| (format!("BROWSERFLEET_{key}"), value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().context("no standard error")?;
        let (ready, mut is_ready) = watch::channel(None);
        tokio::spawn(self.log.clone().follow(stderr, ready));
        self.control_plane = Some(child);
        let came = timeout(START_DEADLINE, is_ready.wait_for(Option::is_some)).await;
        anyhow::ensure!(matches!(came, Ok(Ok(_))), "{}", self.log());
        let note = std::fs::read(self.data_dir().join("ready.json"))?;
        let note: Value = serde_json::from_slice(&note)?;
        note["api"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut self.api);
        self.metrics = note["metrics"].as_str().map(str::to_owned);
        let agents = note["agents"].as_str().unwrap_or_default();
        self.agents = agents.trim_start_matches("https://").parse()?;
        Ok(())
    }

    /// Where the control plane keeps its things.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder for the test's own things.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All that was logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    /// Which database this is, by the line with which it said that it is ready.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn deployment(&self) -> String {
        let lines = self.log.lock();
        let of_line = |line: &String| {
            let (_, rest) = line.split_once(" ready api=")?;
            let (_, id) = rest.split_once("deployment=")?;
            let id = id.split_whitespace().next()?;
            Some(id.trim_matches('"').to_owned())
        };
        let found = lines.iter().find_map(of_line);
        found.expect("it said so once it was ready")
    }

    /// How many lines were logged so far.
    #[must_use]
    pub fn lines_logged(&self) -> usize {
        self.log.lock().len()
    }

    /// Whether a line with `marker` was logged after the first `lines`.
    #[must_use]
    pub fn was_logged_after(&self, lines: usize, marker: &str) -> bool {
        let log = self.log.lock();
        log.iter().skip(lines).any(|it| it.contains(marker))
    }

    /// Somebody who has not signed in.
    #[must_use]
    pub fn nobody(&self) -> Caller {
        Caller::nobody(&self.api)
    }

    /// The first administrator.
    ///
    /// # Panics
    /// Where it cannot sign in.
    pub async fn administrator(&self) -> Caller {
        let signed_in = self.nobody().sign_in(ADMINISTRATOR, PASSWORD).await;
        signed_in.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A new user, who registered, proved their address and signed in.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub async fn user(&self, name: &str) -> Caller {
        let email = format!("{name}@example.com");
        self.register(&email, PASSWORD).await;
        let signed_in = self.nobody().sign_in(&email, PASSWORD).await;
        signed_in.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Registers, and proves the address by the mail that comes.
    ///
    /// # Panics
    /// Where either is refused.
    pub async fn register(&self, email: &str, password: &str) {
        let account = json!({ "email": email, "password": password });
        let before = self.mails(email).len();
        let made = self.nobody().post("/api/auth/register", account).await;
        assert_eq!(made.status, 202, "{made:?}");
        eventually("a mail came", Duration::from_secs(5), || async {
            self.mails(email).len() > before
        })
        .await;
        let token = self.mailed_token(email, "verify-email").await;
        let verified = self
            .nobody()
            .post("/api/auth/verify-email", json!({ "token": token }))
            .await;
        assert_eq!(verified.status, 204, "{verified:?}");
    }

    /// The mails that were written to this address so far, oldest first.
    #[must_use]
    pub fn mails(&self, email: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.data_dir().join("mail"));
        let mut files: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|it| it.path())
            .collect();
        files.sort();
        let mails = files.iter().filter_map(|it| std::fs::read(it).ok());
        mails
            .map(|it| mail::readable(&it))
            .filter(|it| it.contains(&format!("To: {email}\r\n")))
            .collect()
    }

    /// The token of the newest mail to this address with a link to `page`.
    ///
    /// # Panics
    /// Where none comes.
    pub async fn mailed_token(&self, email: &str, page: &str) -> String {
        let newest = || {
            let mails = self.mails(email);
            mails.iter().rev().find_map(|it| mail::token(it, page))
        };
        eventually("the mail came", Duration::from_secs(5), || async {
            newest().is_some()
        })
        .await;
        newest().expect("it came")
    }

    /// What is measured now; `METRICS_LISTEN` has to be set.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub async fn metrics(&self) -> Metrics {
        let url = self.metrics.as_ref().expect("METRICS_LISTEN is set");
        let read = Metrics::read(url).await;
        read.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The main processes of all browsers, spares too.
    #[must_use]
    pub fn browsers(&self) -> Vec<Process> {
        processes::browsers_below(self.folder.path())
    }

    /// The process of the control plane.
    #[must_use]
    pub fn process(&self) -> i32 {
        let id = self.control_plane.as_ref().and_then(Child::id);
        id.and_then(|id| i32::try_from(id).ok()).unwrap_or_default()
    }

    /// The processes of its agents.
    #[must_use]
    pub fn agents(&self) -> Vec<i32> {
        let entries = std::fs::read_dir(self.data_dir().join("instances"));
        let notes = entries.into_iter().flatten().flatten();
        notes
            .filter_map(|it| std::fs::read(it.path().join("process.json")).ok())
            .filter_map(|it| serde_json::from_slice::<Value>(&it).ok())
            .filter_map(|it| it["id"].as_i64().and_then(|id| i32::try_from(id).ok()))
            .collect()
    }

    /// Kills the control plane, as a power cut would. Its agents live on.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.control_plane.take()
            && let Err(error) = child.kill().await
        {
            eprintln!("could not kill the control plane: {error}");
        }
    }

    /// Has a setting from its next start on.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.plan.settings.insert(key.to_owned(), value.to_string());
    }

    /// Starts the control plane again, at the same addresses.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_again(&mut self) {
        if let Err(error) = self.launch().await {
            panic!("{error}");
        }
    }

    /// Tells it to stop and waits for its end.
    ///
    /// # Panics
    /// Where it does not end in time.
    pub async fn terminate(&mut self) -> ExitStatus {
        processes::signal(self.process(), Signal::SIGTERM);
        let mut child = self.control_plane.take().expect("it runs");
        let ended = timeout(STOP_DEADLINE, child.wait()).await;
        ended
            .expect("it ends in time")
            .expect("it can be waited for")
    }

    /// Stops it and looks at what is left: nothing may be.
    ///
    /// # Panics
    /// On a process, a folder, an error or a panic that was left.
    pub async fn stop(mut self) {
        if self.control_plane.is_some() {
            let status = self.terminate().await;
            assert!(status.success(), "{status}: {}", self.log());
        }
        let folder = self.folder.path().to_string_lossy().into_owned();
        eventually("no process is left", Duration::from_secs(5), || async {
            !processes::all()
                .iter()
                .any(|it| it.command.contains(&folder))
        })
        .await;
        let left = below(&self.data_dir().join("instances"));
        assert!(left.is_empty(), "instances' folders are left: {left:?}");
        self.assert_quiet();
    }

    /// # Panics
    /// On an error or a panic in the log.
    pub fn assert_quiet(&self) {
        let lines = self.log.lines();
        let loud = lines
            .iter()
            .find(|it| it.contains(" ERROR ") || it.contains("panicked at"));
        assert_eq!(loud, None, "{}", lines.join("\n"));
    }
}

/// All files and folders below this one.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for path in entries.map(|it| it.path()) {
        found.extend(below(&path));
        found.push(path);
    }
    found
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    async fn follow(self, stderr: tokio::process::ChildStderr, ready: watch::Sender<Option<()>>) {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let is_ready = line.contains(" ready api=");
            self.lock().push(line);
            if is_ready {
                ready.send_replace(Some(()));
            }
        }
    }
}

impl Drop for World {
    /// For tests that failed: nothing may run on.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let agents = self.agents();
        if self.control_plane.is_some() {
            processes::signal(self.process(), Signal::SIGKILL);
        }
        for agent in agents {
            if processes::all()
                .iter()
                .any(|it| it.id == agent && it.command.contains("browserfleet-agent"))
            {
                processes::signal(agent, Signal::SIGKILL);
            }
        }
    }
}
