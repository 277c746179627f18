//! One Chrome process: started in a group and a folder of its own, and gone
//! without a trace when its [`Process`] is.
//!
//! Chrome reads commands from descriptor 3 and writes answers to descriptor 4. A
//! shell moves its own input and output there and turns into `setpriv`, which
//! asks the kernel to kill Chrome when this process dies and turns into Chrome.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use browserfleet_proto::action::Rejection;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, geteuid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

use super::executable::{Executable, failed};
use super::user::User;
use crate::tasks;

/// Moves the pipes to where Chrome looks for them.
const MOVE_PIPES: &str = r#"exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#;
/// How much of what Chrome says on standard error is kept for a failed launch.
const COMPLAINTS_MAX: usize = 5;
/// Longest line of it, in characters.
const COMPLAINT_CHARACTERS_MAX: usize = 200;
/// How long the kernel may take to end what was killed.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// A running Chrome. Dropping it kills it; [`Process::end`] waits for the end.
#[derive(Debug)]
pub(super) struct Process {
    /// Its own folder, which goes with it.
    pub(super) folder: PathBuf,
    /// Dropped: kill.
    kill: Option<oneshot::Sender<()>>,
    ended: watch::Receiver<Option<String>>,
    /// What it said on standard error, last lines.
    complaints: watch::Receiver<Vec<String>>,
}

/// Both ends of Chrome's debugging pipe.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) commands: ChildStdin,
    pub(super) answers: ChildStdout,
}

impl Process {
    /// Starts Chrome with a new folder below `folder`, as `user` or as the agent.
    pub(super) async fn start(
        executable: &Executable,
        folder: &Path,
        user: Option<&User>,
    ) -> Result<(Self, Pipes), Rejection> {
        let own = folder.join(Uuid::now_v7().simple().to_string());
        if let Err(error) = make_folders(&own, user).await {
            remove(&own).await;
            return Err(failed(format!("could not make {}: {error}", own.display())));
        }
        let started = command(executable, &own, user).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                remove(&own).await;
                return Err(failed(format!("could not start /bin/sh: {error}")));
            }
        };
        let (Some(commands), Some(answers), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            remove(&own).await;
            return Err(failed("the process has no pipes"));
        };
        let (kill, killed) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let (complain, complaints) = watch::channel(Vec::new());
        tasks::spawn("browser complaints", listen(stderr, complain));
        let folder = own.clone();
        tasks::spawn("browser process", async move {
            let reason = keep(child, killed).await;
            remove(&own).await;
            end.send_replace(Some(reason));
        });
        let process = Self {
            folder,
            kill: Some(kill),
            ended,
            complaints,
        };
        Ok((process, Pipes { commands, answers }))
    }

    /// Resolves with how it ended, once nothing of it is left.
    pub(super) fn ended(&self) -> impl Future<Output = String> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_default(),
                // Only where its task panicked.
                Err(_) => "its keeper is gone".to_owned(),
            }
        }
    }

    /// Where its downloads are, once there are some.
    pub(super) fn downloads(&self) -> PathBuf {
        self.folder.join("downloads")
    }

    /// Kills it without waiting.
    pub(super) fn kill(&mut self) {
        self.kill = None;
    }

    /// Kills it, and returns once no process and no folder is left.
    pub(super) async fn end(mut self) {
        self.kill();
        self.ended().await;
    }

    /// The last lines that it wrote on standard error.
    pub(super) fn complaints(&self) -> String {
        self.complaints.borrow().join("; ")
    }
}

fn command(executable: &Executable, own: &Path, user: Option<&User>) -> Command {
    let as_root = user.is_none() && geteuid().is_root();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", MOVE_PIPES, "sh", "setpriv"])
        .args(user.iter().flat_map(|it| it.privileges()))
        // The kernel forgets the signal when a process changes its user; `setpriv`
        // asks for it after that.
        .args(["--pdeathsig", "KILL", "--"])
        .arg(&executable.path)
        .args(executable.arguments(own, as_root))
        // Nothing of the agent's environment is the page's business.
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", own.join("home"))
        // Its own folder, by a path that is short enough for a socket's name.
        .env("TMPDIR", "/proc/self/cwd/tmp")
        .env("LANG", "C.UTF-8")
        // No desktop to talk to.
        .env("DBUS_SESSION_BUS_ADDRESS", "disabled:")
        .current_dir(own)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

async fn make_folders(own: &Path, user: Option<&User>) -> std::io::Result<()> {
    let mut private = tokio::fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for name in ["profile", "home", "tmp", "downloads", ""] {
        let folder = own.join(name);
        private.create(&folder).await?;
        if let Some(user) = user {
            user.give(&folder)?;
        }
    }
    Ok(())
}

/// Waits for the end, or brings it about; then nothing of its group is left.
async fn keep(mut child: Child, killed: oneshot::Receiver<()>) -> String {
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    let status = tokio::select! {
        status = child.wait() => status,
        _ = killed => {
            kill_group(group);
            child.wait().await
        }
    };
    kill_group(group);
    if let Some(group) = group {
        reap(group).await;
    }
    match status {
        Ok(status) => describe(status),
        Err(error) => error.to_string(),
    }
}

fn kill_group(group: Option<Pid>) {
    let Some(group) = group else { return };
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(%group, %error, "could not kill a browser"),
    }
}

/// Chrome's own children became ours when it died; collects what is left of them.
async fn reap(group: Pid) {
    let collected = tokio::task::spawn_blocking(move || {
        loop {
            match waitpid(Pid::from_raw(-group.as_raw()), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    });
    if timeout(REAP_DEADLINE, collected).await.is_err() {
        tracing::error!(%group, "processes of a browser do not end");
    }
}

fn describe(status: ExitStatus) -> String {
    format!("the browser's process ended with {status}")
}

async fn listen(stderr: ChildStderr, complain: watch::Sender<Vec<String>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line: String = line.chars().take(COMPLAINT_CHARACTERS_MAX).collect();
        tracing::debug!(line, "the browser says");
        complain.send_modify(|kept| {
            if kept.len() == COMPLAINTS_MAX {
                kept.remove(0);
            }
            kept.push(line);
        });
    }
}

async fn remove(folder: &Path) {
    if let Err(error) = tokio::fs::remove_dir_all(folder).await
        && error.kind() != ErrorKind::NotFound
    {
        tracing::error!(folder = %folder.display(), %error, "could not remove a browser's folder");
    }
}

/// Removes what earlier lives of this agent left behind.
///
/// # Errors
/// Where the folder cannot be made.
pub(super) fn sweep(folder: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    let left: Vec<PathBuf> = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    for path in &left {
        if let Err(error) = std::fs::remove_dir_all(path) {
            tracing::warn!(folder = %path.display(), %error, "could not sweep a browser's folder");
        }
    }
    Ok(left.len())
}
