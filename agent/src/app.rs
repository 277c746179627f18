//! The only wiring of the agent: joins, starts in order, stops in order.
//!
//! It ends by itself when the control plane refuses it, and when it has heard
//! nothing from it for too long: a machine that nobody knows must not go on.

use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use browserfleet_proto::ids::BootId;
use browserfleet_proto::{ladder, limits};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::browser::Launcher;
use crate::browser::launcher::{ChromeLauncher, Settings};
use crate::config::Config;
use crate::fence::{self, Standing};
use crate::link::connect::Dialer;
use crate::link::deliver::Deliverer;
use crate::link::identity::Identity;
use crate::link::keeper::{Keeper, Refused};
use crate::link::outbox::Outbox;
use crate::link::stored::Stored;
use crate::link::{self, Shared};
use crate::sessions::{Handle, Stop, Surroundings};
use crate::tasks;

/// Messages that may be lost and wait for the link.
const MAY_BE_LOST_MAX: usize = 64;
/// How long whoever started the agent may take to give the token.
const TOKEN_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last outcomes may take to be acknowledged.
const FAREWELL: Duration = Duration::from_secs(2);
/// The exit code of an agent that the control plane will not have.
const REFUSED: u8 = 3;

/// Why the agent ends.
enum End {
    Signal,
    Refused(String),
    DeadMan,
}

/// Runs the agent with Chrome until it is told to end.
pub async fn run(config: Config) -> ExitCode {
    let settings = Settings {
        executable: config.browser_executable.clone(),
        folder: config.data_dir.join("browsers"),
        spares: usize::try_from(config.spares).unwrap_or(0),
        user: None,
    };
    let launcher = match ChromeLauncher::start(settings) {
        Ok(launcher) => Arc::new(launcher),
        Err(error) => {
            tracing::error!(%error, folder = %config.data_dir.display(), "could not make the folder for browsers");
            return ExitCode::FAILURE;
        }
    };
    let done = serve(config, Arc::clone(&launcher) as Arc<dyn Launcher>).await;
    launcher.stop().await;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the agent ends");
            if error.downcast_ref::<Refused>().is_some() {
                ExitCode::from(REFUSED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Joins and serves with these browsers until there is a reason to end.
///
/// # Errors
/// That it could not join, was refused, or heard nothing for too long.
pub async fn serve(config: Config, launcher: Arc<dyn Launcher>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("could not make {}", config.data_dir.display()))?;
    let stored = Stored::open(&config.data_dir)?;
    let authorities = stored.authorities(&config.ca_file)?;
    let dialer = Dialer::new(&config.control_plane, authorities);
    let keeper = Keeper::new(dialer.clone(), stored);
    let identity = tokio::select! {
        identity = identify(&keeper) => identity?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };

    let outbox = Arc::new(Outbox::default());
    let (may_be_lost, lossy) = mpsc::channel(MAY_BE_LOST_MAX);
    let (media, has_media) = watch::channel(None);
    let (renewed, renewals) = watch::channel(Instant::now());
    let sessions = Handle::new(Surroundings {
        launcher,
        outbox: Arc::clone(&outbox),
        may_be_lost,
        deliverer: Deliverer::new(has_media),
        renewed: renewals.clone(),
        sessions_max: usize::try_from(config.sessions_max).unwrap_or(usize::MAX),
    });
    let shared = Arc::new(Shared {
        outbox: Arc::clone(&outbox),
        sessions: sessions.clone(),
        renewed,
        media,
        boot: BootId::new(),
        sessions_max: config.sessions_max,
    });
    let (current, identities) = watch::channel(identity);
    let link = tasks::spawn("link", link::run(dialer, shared, lossy, identities));
    tasks::spawn("fence", keep_fenced(renewals.clone(), sessions.clone()));

    let end = tokio::select! {
        _ = terminate.recv() => End::Signal,
        _ = interrupt.recv() => End::Signal,
        reason = link => End::Refused(match reason {
            Ok(Some(reason)) => reason,
            _ => "the link's task failed".to_owned(),
        }),
        renewing = keeper.keep_renewed(current) => match renewing {
            Err(error) => End::Refused(format!("{error:#}")),
            Ok(()) => End::Signal,
        },
        () = unheard(renewals, config.dead_man) => End::DeadMan,
    };
    sessions.stop_all(Stop::Shutdown);
    if timeout(ladder::KILL_TAKES, sessions.gone()).await.is_err() {
        tracing::warn!("some browsers did not end in time");
    }
    match end {
        End::Signal => {
            if timeout(FAREWELL, outbox.emptied()).await.is_err() {
                tracing::info!("the control plane did not hear the last outcomes");
            }
            Ok(())
        }
        End::Refused(reason) => Err(Refused(reason).into()),
        End::DeadMan => anyhow::bail!(
            "no control plane for {} s; a machine that nobody knows must not go on",
            config.dead_man.as_secs()
        ),
    }
}

/// Goes on as who an earlier process was, or joins.
async fn identify(keeper: &Keeper) -> anyhow::Result<Identity> {
    if let Some(identity) = keeper.earlier()? {
        tracing::info!(
            instance.id = identity.instance,
            "goes on with the certificate of an earlier process"
        );
        return Ok(identity);
    }
    let latest = Instant::now() + ladder::JOIN_TOKEN;
    let token = read_token().await?;
    let identity = keeper.join(&token, latest).await?;
    tracing::info!(instance.id = identity.instance, "joined");
    Ok(identity)
}

/// The token comes as the first line of standard input: not by an argument or an
/// environment variable, which others on the machine could read.
async fn read_token() -> anyhow::Result<String> {
    let mut line = String::new();
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let input = Receiver::from_owned_fd(input).context("standard input has to be a pipe")?;
    let mut input = BufReader::new(input);
    let read = timeout(TOKEN_DEADLINE, input.read_line(&mut line)).await;
    read.context("nobody wrote the join token to standard input")??;
    let token = line.trim().to_owned();
    anyhow::ensure!(
        !token.is_empty(),
        "the first line of standard input has to be the join token"
    );
    Ok(token)
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

/// Resolves when the control plane was silent for this long.
async fn unheard(mut renewals: watch::Receiver<Instant>, dead_man: Duration) {
    loop {
        let latest = *renewals.borrow_and_update() + dead_man;
        tokio::select! {
            changed = renewals.changed() => if changed.is_err() { return },
            () = sleep_until(latest) => return,
        }
    }
}

const _: () = assert!(limits::LAUNCH_TIMEOUT.as_secs() < ladder::STOP_WORK.as_secs());
