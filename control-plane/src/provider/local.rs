//! Instances as child processes of the control plane.
//!
//! Each has a folder of its own, `instances/<id>/`, with the agent's data and a
//! note of its process: id and start time, which together name a process for
//! good. So a control plane that was killed finds its agents again, and never
//! ends a process that is not one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{Answer, Error, Launch, Machine, Provider};
use crate::tasks::Tasks;

/// How many departures may wait to be noticed; each is one process of a pool
/// that has at most a few.
const DEPARTURES_MAX: usize = 64;
/// How long an agent may take to close its browsers before it is killed.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often a process that is not our child is looked at while it ends; there
/// is no event for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the child may take to read its token.
const TOKEN_DEADLINE: Duration = Duration::from_secs(5);
const PROCESS_NOTE: &str = "process.json";

/// How agents are started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's program.
    pub agent: PathBuf,
    /// Under which each instance has its folder.
    pub folder: PathBuf,
    /// What agents are told through their environment, the same for all.
    pub environment: Vec<(String, String)>,
}

/// Starts agents as child processes.
#[derive(Debug)]
pub struct Local {
    settings: Settings,
    tasks: Tasks,
    departed: mpsc::Sender<InstanceId>,
    departures: Mutex<Option<mpsc::Receiver<InstanceId>>>,
}

/// Names one process for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    id: i32,
    /// Clock ticks since the machine started, from `/proc/<id>/stat`.
    started: u64,
}

impl Local {
    /// A provider whose children end up in `tasks`.
    #[must_use]
    pub fn new(settings: Settings, tasks: Tasks) -> Self {
        let (departed, departures) = mpsc::channel(DEPARTURES_MAX);
        Self {
            settings,
            tasks,
            departed,
            departures: Mutex::new(Some(departures)),
        }
    }

    fn folder_of(&self, instance: InstanceId) -> PathBuf {
        self.settings.folder.join(instance.to_string())
    }

    async fn start(&self, launch: Launch) -> Result<Machine, Error> {
        let folder = self.folder_of(launch.instance);
        let started = self.spawn(&launch, &folder).await;
        let (mut child, process) = match started {
            Ok(it) => it,
            Err(error) => {
                remove_folder(&folder);
                return Err(failed("start an agent", error));
            }
        };
        let instance = launch.instance;
        let departed = self.departed.clone();
        self.tasks.spawn("local instance", async move {
            let status = child.wait().await;
            match status {
                Ok(status) => tracing::info!(instance.id = %instance, %status, "an agent's process ended"),
                Err(error) => tracing::warn!(instance.id = %instance, %error, "could not wait for an agent's process"),
            }
            remove_folder(&folder);
            if departed.send(instance).await.is_err() {
                tracing::debug!(instance.id = %instance, "nobody follows departures any more");
            }
        });
        Ok(Machine {
            instance,
            reference: process.id.to_string(),
        })
    }

    async fn spawn(&self, launch: &Launch, folder: &Path) -> anyhow::Result<(Child, Process)> {
        fs::create_dir_all(folder)?;
        let mut child = Command::new(&self.settings.agent)
            .envs(self.settings.environment.iter().cloned())
            .env("BROWSERFLEET_DATA_DIR", folder)
            .env("BROWSERFLEET_INSTANCE_ID", launch.instance.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| anyhow::anyhow!("{}: {error}", self.settings.agent.display()))?;
        let id = i32::try_from(child.id().unwrap_or_default())?;
        let process = Process {
            id,
            started: start_time(id).unwrap_or_default(),
        };
        fs::write(folder.join(PROCESS_NOTE), serde_json::to_vec(&process)?)?;
        let mut input = child
            .stdin
            .take()
            .ok_or_else(|| anyhow::anyhow!("the child has no standard input"))?;
        timeout(TOKEN_DEADLINE, async {
            input.write_all(launch.token.as_bytes()).await?;
            input.write_all(b"\n").await
        })
        .await??;
        Ok((child, process))
    }

    async fn stop(&self, instance: InstanceId) -> Result<(), Error> {
        let folder = self.folder_of(instance);
        let Some(process) = read_note(&folder) else {
            remove_folder(&folder);
            return Ok(());
        };
        if process.is_alive() {
            process.signal(Signal::SIGTERM);
            let latest = Instant::now() + PATIENCE;
            while process.is_alive() && Instant::now() < latest {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        if process.is_alive() {
            tracing::warn!(instance.id = %instance, "the agent did not end by itself; killing it");
            // Its browsers have groups of their own and end with it.
            if let Err(error) = killpg(Pid::from_raw(process.id), Signal::SIGKILL) {
                tracing::debug!(instance.id = %instance, %error, "the group was gone");
            }
        }
        remove_folder(&folder);
        Ok(())
    }

    fn find(&self) -> Result<Vec<Machine>, Error> {
        let entries = match fs::read_dir(&self.settings.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list the instances", error.into())),
        };
        let mut machines = Vec::new();
        for entry in entries.flatten() {
            let Some(instance) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
                continue;
            };
            match read_note(&entry.path()) {
                Some(process) if process.is_alive() => machines.push(Machine {
                    instance,
                    reference: process.id.to_string(),
                }),
                _ => {}
            }
        }
        Ok(machines)
    }
}

impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn launch(&self, launch: Launch) -> Answer<'_, Machine> {
        Box::pin(self.start(launch))
    }

    fn terminate(&self, instance: InstanceId) -> Answer<'_, ()> {
        Box::pin(self.stop(instance))
    }

    fn list(&self) -> Answer<'_, Vec<Machine>> {
        Box::pin(async { self.find() })
    }

    fn departures(&self) -> Option<mpsc::Receiver<InstanceId>> {
        self.departures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Process {
    fn is_alive(self) -> bool {
        start_time(self.id) == Some(self.started)
    }

    fn signal(self, signal: Signal) {
        if let Err(error) = kill(Pid::from_raw(self.id), signal) {
            tracing::debug!(process = self.id, %error, "could not signal an agent");
        }
    }
}

/// When a process started; `None` where there is none, or only its remains.
fn start_time(id: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name is in parentheses and may have any character in it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // Field 22 of proc_pid_stat(5); the state is field 3.
    fields.nth(18)?.parse().ok()
}

fn read_note(folder: &Path) -> Option<Process> {
    serde_json::from_slice(&fs::read(folder.join(PROCESS_NOTE)).ok()?).ok()
}

fn remove_folder(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "could not remove an instance's folder");
    }
}

fn failed(doing: &'static str, error: anyhow::Error) -> Error {
    Error {
        doing,
        reason: error.to_string(),
        left_behind: false,
    }
}
