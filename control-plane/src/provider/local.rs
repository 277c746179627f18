//! Instances as child processes of the control plane.
//!
//! Each has a folder of its own, `instances/<id>/`, with the agent's data and a
//! note of its process: id and start time, which together name a process for
//! good. So a control plane that was killed finds its agents again, and never
//! ends a process that is not one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use browserfleet_proto::ids::InstanceId;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{Answer, Error, Fault, LaunchError, Provider};
use crate::clock;
use crate::domain::machine::{Addresses, Draft, Machine, MachineState, Market, Offering, Trouble};
use crate::domain::offering::Shortage;
use crate::domain::time::Timestamp;
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
/// How many processes are remembered for how they ended: more than start in one round,
/// so that each is still known when somebody asks why it is gone.
const ENDS_MAX: usize = 64;
const PROCESS_NOTE: &str = "process.json";
/// The one kind and the one place that there are.
const KIND: &str = "process";
const PLACE: &str = "here";

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
    departed: mpsc::Sender<String>,
    departures: Mutex<Option<mpsc::Receiver<String>>>,
    /// Children that have not been handed their tokens.
    tokenless: Mutex<HashMap<String, ChildStdin>>,
    /// Those whose end is only half of a restart.
    restarting: Arc<Mutex<HashSet<String>>>,
    /// How the last ones ended, by reference.
    ends: Arc<Mutex<VecDeque<(String, String)>>>,
}

/// What is asked for, as the row keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    instance: InstanceId,
    attempt: i64,
}

/// Names one process for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    id: i32,
    /// Clock ticks since the machine started, from `/proc/<id>/stat`.
    started: u64,
    /// Of the request that it was started by.
    attempt: i64,
    /// Microseconds since 1970.
    launched_at: i64,
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
            tokenless: Mutex::default(),
            restarting: Arc::default(),
            ends: Arc::default(),
        }
    }

    fn folder_of(&self, reference: &str) -> Result<PathBuf, Error> {
        // A reference is a row's id, and nothing that leads out of the folder.
        let id: Result<InstanceId, _> = reference.parse();
        let id =
            id.map_err(|fault| failed("find an instance's folder", Fault::NotFound, &fault))?;
        Ok(self.settings.folder.join(id.to_string()))
    }

    /// The folder is the request's token: a process that lives in it is the machine
    /// that the request made before.
    fn start(&self, request: &str) -> Result<Machine, LaunchError> {
        let refused = |message: String| LaunchError::Refused {
            shortage: Shortage::Request,
            code: "spawn_failed".into(),
            message,
        };
        let request: Request =
            serde_json::from_str(request).map_err(|fault| refused(fault.to_string()))?;
        let reference = request.instance.to_string();
        let folder = self
            .folder_of(&reference)
            .map_err(|fault| refused(fault.to_string()))?;
        if let Some(process) = read_note(&folder).filter(|it| it.is_alive()) {
            return Ok(machine_of(request.instance, process));
        }
        match self.spawn(&reference, request.attempt, Stdio::piped()) {
            Ok(process) => Ok(machine_of(request.instance, process)),
            Err(fault) => {
                remove_folder(&folder);
                Err(refused(fault.to_string()))
            }
        }
    }

    fn spawn(&self, reference: &str, attempt: i64, input: Stdio) -> anyhow::Result<Process> {
        let folder = self.folder_of(reference)?;
        fs::create_dir_all(&folder)?;
        let mut child = Command::new(&self.settings.agent)
            .envs(self.settings.environment.iter().cloned())
            .env("BROWSERFLEET_DATA_DIR", &folder)
            .env("BROWSERFLEET_INSTANCE_ID", reference)
            .stdin(input)
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| anyhow::anyhow!("{}: {error}", self.settings.agent.display()))?;
        let id = i32::try_from(child.id().unwrap_or_default())?;
        let process = Process {
            id,
            started: start_time(id).unwrap_or_default(),
            attempt,
            launched_at: clock::now().0,
        };
        fs::write(folder.join(PROCESS_NOTE), serde_json::to_vec(&process)?)?;
        if let Some(input) = child.stdin.take() {
            locked(&self.tokenless).insert(reference.to_owned(), input);
        }
        self.follow(reference.to_owned(), folder, process, child);
        Ok(process)
    }

    /// Notices a child's end.
    fn follow(&self, reference: String, folder: PathBuf, process: Process, mut child: Child) {
        let departed = self.departed.clone();
        let restarting = Arc::clone(&self.restarting);
        let ends = Arc::clone(&self.ends);
        self.tasks.spawn("local instance", async move {
            match child.wait().await {
                Ok(status) => {
                    tracing::info!(instance.id = reference, %status, "an agent's process ended");
                    let mut ends = locked(&ends);
                    if ends.len() == ENDS_MAX {
                        ends.pop_front();
                    }
                    ends.push_back((reference.clone(), status.to_string()));
                }
                Err(error) => {
                    tracing::warn!(instance.id = reference, %error, "could not wait for an agent's process");
                }
            }
            let replaced = read_note(&folder).is_some_and(|it| it != process);
            if replaced || locked(&restarting).contains(&reference) {
                return;
            }
            remove_folder(&folder);
            if departed.send(reference).await.is_err() {
                tracing::debug!("nobody follows departures any more");
            }
        });
    }

    async fn hand(&self, reference: &str, token: &str) -> Result<(), Error> {
        let waiting = locked(&self.tokenless).remove(reference);
        let Some(mut input) = waiting else {
            let fault = "its agent was started by a process that is gone";
            return Err(failed("hand a token over", Fault::NotFound, &fault));
        };
        let write = async {
            input.write_all(token.as_bytes()).await?;
            input.write_all(b"\n").await
        };
        match timeout(TOKEN_DEADLINE, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(failed("hand a token over", Fault::Unknown, &fault)),
            Err(fault) => Err(failed("hand a token over", Fault::Unknown, &fault)),
        }
    }

    /// Ends a process, by force where it does not go by itself.
    async fn end_process(&self, reference: &str, process: Process, first: Signal) {
        if process.is_alive() {
            process.signal(first);
            let latest = Instant::now() + PATIENCE;
            while process.is_alive() && Instant::now() < latest {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        if process.is_alive() {
            tracing::warn!(
                instance.id = reference,
                "the agent did not end by itself; killing it"
            );
            // Its browsers have groups of their own and end with it.
            if let Err(error) = killpg(Pid::from_raw(process.id), Signal::SIGKILL) {
                tracing::debug!(instance.id = reference, %error, "the group was gone");
            }
        }
    }

    async fn end(&self, reference: &str) -> Result<(), Error> {
        let folder = self.folder_of(reference)?;
        if let Some(process) = read_note(&folder) {
            self.end_process(reference, process, Signal::SIGTERM).await;
        }
        // Not before: an agent whose input ends without a token complains of it.
        locked(&self.tokenless).remove(reference);
        remove_folder(&folder);
        Ok(())
    }

    /// Ends a process and starts another in its folder, which has its identity.
    async fn start_anew(&self, reference: &str, first: Signal) -> Result<(), Error> {
        let doing = "start an agent anew";
        let folder = self.folder_of(reference)?;
        let gone = "its process is not there";
        let process = read_note(&folder).ok_or_else(|| failed(doing, Fault::NotFound, &gone))?;
        if !locked(&self.restarting).insert(reference.to_owned()) {
            return Ok(());
        }
        self.end_process(reference, process, first).await;
        let started = self.spawn(reference, process.attempt, Stdio::null());
        // From now on the note tells whoever notices the end that another is there.
        locked(&self.restarting).remove(reference);
        started
            .map(drop)
            .map_err(|fault| failed(doing, Fault::Refused, &fault))
    }

    fn find_all(&self) -> Result<Vec<Machine>, Error> {
        let entries = match fs::read_dir(&self.settings.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list the instances", Fault::Unknown, &error)),
        };
        let mut machines = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(instance) = name.to_str().and_then(|it| it.parse().ok()) else {
                continue;
            };
            if let Some(process) = read_note(&entry.path()).filter(|it| it.is_alive()) {
                machines.push(machine_of(instance, process));
            }
        }
        Ok(machines)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn machine_of(instance: InstanceId, process: Process) -> Machine {
    Machine {
        reference: instance.to_string(),
        instance: Some(instance),
        attempt: process.attempt,
        state: MachineState::Running,
        launched_at: Timestamp(process.launched_at),
        reason: None,
        addresses: Addresses::default(),
        kind: KIND.into(),
        zone: PLACE.into(),
    }
}

impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn region(&self) -> &str {
        "local"
    }

    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    fn outlives_us(&self) -> bool {
        false
    }

    fn offerings(&self) -> Vec<Offering> {
        vec![Offering {
            kind: KIND.into(),
            place: PLACE.into(),
            market: Market::OnDemand,
        }]
    }

    fn image(&self) -> Answer<'_, String> {
        Box::pin(async { Ok(self.settings.agent.display().to_string()) })
    }

    fn draft(&self, draft: &Draft<'_>) -> Result<String, Error> {
        let request = Request {
            instance: draft.instance,
            attempt: draft.attempt,
        };
        serde_json::to_string(&request)
            .map_err(|fault| failed("write a request", Fault::Refused, &fault))
    }

    fn launch<'a>(&'a self, request: &'a str) -> Answer<'a, Machine, LaunchError> {
        Box::pin(async { self.start(request) })
    }

    fn list<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<Machine>> {
        Box::pin(async { self.find_all() })
    }

    /// A list is exact: what it does not show is gone.
    fn find<'a>(&'a self, _: &'a [String]) -> Answer<'a, Vec<Machine>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn troubles<'a>(&'a self, _: &'a [String]) -> Answer<'a, Vec<Trouble>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn terminate<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.end(reference))
    }

    fn stop<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        let fault = "a process cannot be stopped and started again";
        Box::pin(async move { Err(failed("stop a process", Fault::Refused, &fault)) })
    }

    fn start<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        let fault = "a process cannot be stopped and started again";
        Box::pin(async move { Err(failed("start a process", Fault::Refused, &fault)) })
    }

    fn reboot<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.start_anew(reference, Signal::SIGKILL))
    }

    fn restart_agent<'a>(&'a self, reference: &'a str) -> Answer<'a, ()> {
        Box::pin(self.start_anew(reference, Signal::SIGTERM))
    }

    /// Agents write to this process's own log; how one ended is all that is known here.
    fn journal<'a>(&'a self, reference: &'a str) -> Answer<'a, String> {
        let ends = locked(&self.ends);
        let end = ends.iter().rfind(|(it, _)| it == reference);
        let words = end.map(|(_, status)| format!("the agent's process ended: {status}"));
        let fault = "agents write to the log of the control plane";
        let answer = words.ok_or_else(|| failed("read a journal", Fault::NotFound, &fault));
        Box::pin(async move { answer })
    }

    fn hand_token<'a>(&'a self, reference: &'a str, token: &'a str) -> Answer<'a, ()> {
        Box::pin(self.hand(reference, token))
    }

    fn take_token<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn tokens(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn departures(&self) -> Option<mpsc::Receiver<String>> {
        locked(&self.departures).take()
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

fn failed(doing: &'static str, fault: Fault, reason: &dyn std::fmt::Display) -> Error {
    Error {
        doing,
        fault,
        reason: reason.to_string(),
    }
}
