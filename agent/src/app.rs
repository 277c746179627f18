//! The only wiring of the agent: joins, starts in order, stops in order.
//!
//! It ends by itself when the control plane refuses it, and when it has heard
//! nothing from it for too long: a machine that nobody knows must not go on.

use std::env::current_exe;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use browserfleet_proto::ids::BootId;
use browserfleet_proto::{ladder, limits};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::browser::Launcher;
use crate::browser::launcher::{ChromeLauncher, Settings};
use crate::browser::user::User;
use crate::config::{Config, Isolation, Machine};
use crate::end::End;
use crate::fence::{self, Standing};
use crate::host::isolation::Service;
use crate::host::metadata::Metadata;
use crate::host::start::Start;
use crate::host::{power, spot};
use crate::link::connect::Dialer;
use crate::link::deliver::Deliverer;
use crate::link::keeper::Keeper;
use crate::link::live::Streams;
use crate::link::outbox::Outbox;
use crate::link::stored::Stored;
use crate::link::tunnel::Tunneler;
use crate::link::{self, Shared};
use crate::sessions::{Handle, Stop, Surroundings};
use crate::{dead_man, enrol, tasks};

/// Messages that may be lost and wait for the link: events of a busy page come in bursts.
const MAY_BE_LOST_MAX: usize = 256;
/// How long the last outcomes may take to be acknowledged.
const FAREWELL: Duration = Duration::from_secs(2);
/// Runs the agent with Chrome until there is a reason to end.
pub async fn run(config: Config) -> ExitCode {
    let end = live(&config).await;
    let code = end.tell();
    if end.is_the_machines()
        && let Some(program) = &config.power_off
    {
        power::off(program).await;
    }
    code
}

async fn live(config: &Config) -> End {
    let start = Arc::new(match config.machine {
        Machine::Local => Start::of_the_agent(),
        Machine::Ec2(_) => Start::of_the_machine(),
    });
    let user = match config.browser_user.as_deref().map(User::find).transpose() {
        Ok(user) => user,
        Err(error) => {
            return End::Misconfigured(error.context("the browsers' user is of no use"));
        }
    };
    if let Err(error) = make_data_dir(&config.data_dir, user.as_ref()) {
        return End::Failed(error);
    }
    if let Err(error) = keep_apart(config, user.as_ref(), start.began()).await {
        return End::Failed(error.context("pages would not be isolated"));
    }
    let settings = Settings {
        executable: config.browser_executable.clone(),
        folder: config.data_dir.join("browsers"),
        spares: usize::try_from(config.spares).unwrap_or(0),
        user,
    };
    let launcher = match ChromeLauncher::start(settings) {
        Ok(launcher) => Arc::new(launcher),
        Err(error) => {
            return End::Failed(
                anyhow::Error::new(error).context("could not prepare for browsers"),
            );
        }
    };
    let end = serve(config, Arc::clone(&launcher) as Arc<dyn Launcher>, start).await;
    launcher.stop().await;
    end.unwrap_or_else(|end| end)
}

/// Makes it, if it is not there. Nobody else can look into it then; the browsers' user
/// can pass through, to its profiles.
fn make_data_dir(folder: &Path, user: Option<&User>) -> anyhow::Result<()> {
    let mode = if user.is_some() { 0o711 } else { 0o700 };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)
        .with_context(|| format!("could not make {}", folder.display()))
}

/// Sees to it that browsers cannot reach the metadata service, where that is asked for.
async fn keep_apart(config: &Config, user: Option<&User>, began: Instant) -> anyhow::Result<()> {
    match (config.isolation, user) {
        (Isolation::Required, Some(user)) => {
            let there_by = match config.machine {
                Machine::Local => None,
                Machine::Ec2(_) => Some(began + ladder::JOIN_TOKEN),
            };
            let service = Service::at(config.metadata.as_deref(), there_by)?;
            service.is_closed_to(user, &current_exe()?).await?;
        }
        (Isolation::Off, _) => tracing::warn!(
            "nobody tried whether pages can reach the metadata service, and with it what the machine may do"
        ),
        (Isolation::Required, None) | (Isolation::Absent, _) => {
            if let Machine::Ec2(_) = config.machine {
                tracing::warn!(
                    "browsers run as the agent's own user: pages can reach the metadata service, and with it what the machine may do; set BROWSERFLEET_BROWSER_USER"
                );
            }
        }
    }
    Ok(())
}

/// Joins and serves with these browsers until there is a reason to end.
async fn serve(
    config: &Config,
    launcher: Arc<dyn Launcher>,
    start: Arc<Start>,
) -> Result<End, End> {
    let mut signals = Signals::listen()?;
    let patience = match config.machine {
        Machine::Local => config.dead_man,
        Machine::Ec2(_) => dead_man::patience(config.dead_man, rand::random()),
    };
    let stored = Stored::open(&config.data_dir)?;
    let authorities = stored.authorities(&config.ca_file)?;
    let dialer = Dialer::new(&config.control_plane, authorities);
    let keeper = Keeper::new(dialer.clone(), stored);
    let identity = tokio::select! {
        identity = enrol::identity(config, &keeper, &start) => identity?,
        () = signals.told_to_end() => return Ok(End::Told),
        () = sleep_until(start.began() + patience) => return Ok(End::DeadMan(patience)),
    };

    let outbox = Arc::new(Outbox::default());
    let (may_be_lost, lossy) = mpsc::channel(MAY_BE_LOST_MAX);
    let (media, has_media) = watch::channel(None);
    let (live, has_live) = watch::channel(None);
    let (tunnels, has_tunnels) = watch::channel(None);
    let (renewed, renewals) = watch::channel(Instant::now());
    let (restart, mut restarts) = watch::channel(None);
    let sessions = Handle::new(Surroundings {
        launcher,
        outbox: Arc::clone(&outbox),
        may_be_lost,
        deliverer: Deliverer::new(has_media),
        streams: Streams::new(has_live),
        tunneler: Tunneler::new(has_tunnels),
        renewed: renewals.clone(),
        sessions_max: usize::try_from(config.sessions_max).unwrap_or(usize::MAX),
    });
    let shared = Arc::new(Shared {
        outbox: Arc::clone(&outbox),
        sessions: sessions.clone(),
        renewed,
        media,
        live,
        tunnels,
        restart,
        boot: BootId::new(),
        start,
        sessions_max: config.sessions_max,
    });
    let (current, identities) = watch::channel(identity);
    let link = tasks::spawn("link", link::run(dialer, shared, lossy, identities));
    tasks::spawn("fence", keep_fenced(renewals.clone(), sessions.clone()));
    if let Machine::Ec2(_) = config.machine {
        let metadata = Metadata::at(config.metadata.as_deref())?;
        tasks::spawn("notices of EC2", spot::watch(metadata, Arc::clone(&outbox)));
        let sign = config.data_dir.join("heard");
        tasks::spawn("sign of life", dead_man::keep_sign(renewals.clone(), sign));
    }

    let end = tokio::select! {
        () = signals.told_to_end() => End::Told,
        reason = link => match reason {
            Ok(Some(reason)) => End::Refused(reason),
            _ => End::Failed(anyhow::anyhow!("the link's task failed")),
        },
        renewing = keeper.keep_renewed(current) => match renewing {
            Err(error) => error.into(),
        },
        reason = told_to_restart(&mut restarts) => End::Restart(reason),
        () = dead_man::unheard(renewals, patience) => End::DeadMan(patience),
    };
    sessions.drain("the agent ends");
    sessions.stop_all(match end {
        End::Restart(_) => Stop::Restart,
        _ => Stop::Shutdown,
    });
    if timeout(ladder::KILL_TAKES, sessions.gone()).await.is_err() {
        tracing::warn!("some browsers did not end in time");
    }
    // In all other cases there is nobody who would hear them.
    if matches!(end, End::Told | End::Restart(_))
        && timeout(FAREWELL, outbox.emptied()).await.is_err()
    {
        tracing::info!("the control plane did not hear the last outcomes");
    }
    Ok(end)
}

/// What others tell this process by.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn told_to_end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn told_to_restart(restarts: &mut watch::Receiver<Option<String>>) -> String {
    match restarts.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        // The link is gone, and says why itself.
        Err(_) => std::future::pending().await,
    }
}

/// Kills the browsers when the lease is over, by this machine's own clock.
async fn keep_fenced(mut renewals: watch::Receiver<Instant>, sessions: Handle) {
    loop {
        let age = renewals.borrow_and_update().elapsed();
        let changes_in = fence::changes_in(age);
        match fence::standing(age) {
            Standing::Working => {}
            Standing::NoNewWork => tracing::warn!("the lease was not renewed; taking no new work"),
            Standing::Kill => {
                tracing::error!("the lease is over; killing the browsers");
                sessions.stop_all(Stop::LeaseExpired);
            }
        }
        let renewed = tokio::select! {
            renewed = renewals.changed() => renewed,
            () = sleep(changes_in.unwrap_or(Duration::MAX)) => Ok(()),
        };
        if renewed.is_err() {
            return;
        }
    }
}

const _: () = assert!(limits::LAUNCH_TIMEOUT.as_secs() < ladder::STOP_WORK.as_secs());
