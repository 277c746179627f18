//! The only wiring: everything is built here, started in order, and stopped in
//! order.
//!
//! Start: folder and keys, store, relay and services, ports bound, jobs woken,
//! ready. Stop: not ready, jobs and ports end, links cut, what is in flight is
//! answered, instances ended, store closed.

mod measured;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::accounts::{self, Accounts, MailSettings};
use crate::api::serve::{AGENT_CONNECTION_WINDOW_BYTES, CONNECTION_WINDOW_BYTES, Port};
use crate::api::{self, Api, Front, Readiness, idempotency::Answered};
use crate::clock;
use crate::config::{self, Config, Pool};
use crate::domain::certificate::{Certificate, Purpose};
use crate::domain::login::Lives;
use crate::domain::time::Timestamp;
use crate::domain::user::Limits;
use crate::fleet::authorities::Authorities;
use crate::fleet::authority::{self, Authority};
use crate::fleet::{self, Fleet, Replica};
use crate::jobs::Jobs;
use crate::provider::Provider;
use crate::provider::counted::Counted;
use crate::provider::ec2::{self, Ec2};
use crate::provider::local::{Local, Settings};
use crate::provider::user_data::{self, DEAD_MAN, SPARES, Values};
use crate::relay::Relay;
use crate::sessions::Sessions;
use crate::store::Store;
use crate::tasks::Tasks;

use measured::Measured;

/// How long a stop may take, from the first signal.
const STOP_DEADLINE: Duration = Duration::from_secs(25);
/// How long commands that are under way may take at a stop. Those that take longer
/// have an unknown outcome for their callers, and their own in the history.
const COMMANDS_DEADLINE: Duration = Duration::from_secs(10);
/// How long the rest may take once no answer can come any more: it is written, and told.
const REST_DEADLINE: Duration = Duration::from_secs(5);
/// How many agents may be connected.
const AGENT_CONNECTIONS_MAX: usize = 10_000;
const READY_NOTE: &str = "ready.json";

/// The running control plane.
pub struct App {
    api: Api,
    fleet: Arc<Fleet>,
    relay: Arc<Relay>,
    store: Store,
    readiness: Readiness,
    /// Services, connections and links.
    tasks: Tasks,
    /// The machines' own tasks, which outlive all others.
    machines: Tasks,
    ready_note: PathBuf,
}

/// What tells the control plane to stop. Listened for from the first moment on,
/// so that a signal during the start is not lost.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

impl App {
    /// Builds and starts everything. Nothing outside has changed where this fails.
    ///
    /// # Errors
    /// What could not be done, for the operator.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let Config {
            data_dir,
            api: listen,
            agents,
            database_url,
            provider: made_by,
            pool,
            administrator,
            accounts: account_settings,
            telemetry,
        } = config;
        if let config::Provider::Local = made_by {
            programs_exist(&pool)?;
        }
        make_folder(&data_dir)?;
        let data_dir = data_dir.canonicalize()?;
        let replica = Replica::claim(&data_dir)?;
        let authorities =
            Authorities::open(&data_dir, &agents.authorities, agents.certificate_life)?;
        let mut certificates = authorities.ends();
        let tls = match &listen.tls {
            Some((certificate, key)) => {
                let (tls, ends_at) = tls_of(certificate, key)?;
                certificates.push(Certificate {
                    purpose: Purpose::Api,
                    ends_at,
                });
                Some(tls)
            }
            None => None,
        };
        let store = open_store(&database_url).await?;
        let public = bind(listen.address, "BROWSERFLEET_LISTEN").await?;
        let address = public.local_addr()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let public_url = account_settings
            .public_url
            .clone()
            .unwrap_or_else(|| format!("{scheme}://{address}"));
        let front = Front {
            trusted_proxies: account_settings.trusted_proxies.clone().into(),
            allowed_origins: account_settings.allowed_origins.clone().into(),
            public_url: account_settings.public_url.clone(),
            tls: public_url.starts_with("https:"),
        };
        let accounts = open_accounts(store.clone(), &data_dir, account_settings, public_url)?;

        let private = bind(agents.address, "BROWSERFLEET_AGENT_LISTEN").await?;
        let private_address = private.local_addr()?;
        let dialed = agents
            .dialed
            .unwrap_or_else(|| format!("https://{private_address}"));
        let private_tls = authorities.server_config(private_address.ip())?;

        // Before anything that is counted happens.
        let metrics = match telemetry.metrics {
            Some(address) => {
                let listener = bind(address, "BROWSERFLEET_METRICS_LISTEN").await?;
                Some(Measured::start(listener)?)
            }
            None => None,
        };
        let tasks = Tasks::default();
        let machines = Tasks::default();
        let deployment = store.deployment().await?;
        let provider: Arc<dyn Provider> = match made_by {
            config::Provider::Local => Arc::new(Local::new(
                Settings {
                    agent: pool.agent.clone(),
                    folder: data_dir.join("instances"),
                    environment: environment_of(&pool, &authorities, dialed),
                },
                machines.clone(),
            )),
            config::Provider::Ec2(machines) => {
                let user_data = user_data::render(&Values {
                    control_plane: &dialed,
                    authority: authorities.bundle(),
                    deployment: &deployment,
                    sessions_max: pool.sessions_per_instance,
                    spares: SPARES,
                    dead_man: DEAD_MAN,
                    agent_program: machines.agent_program.as_ref(),
                })?;
                let settings = ec2::Settings {
                    pool: *machines,
                    deployment: deployment.clone(),
                    user_data,
                    page: None,
                };
                Arc::new(Ec2::connect(settings).await?)
            }
        };
        let provider: Arc<dyn Provider> = Arc::new(Counted(provider));
        let relay = Arc::new(Relay::default());
        let limits = Limits {
            sessions: pool.sessions_per_user,
            instances: pool.instances_per_user,
            commands_per_minute: pool.commands_per_minute,
        };
        let wanted = fleet::Settings {
            warm: pool.warm,
            stopped: pool.stopped,
            max: pool.max,
            sessions_per_instance: pool.sessions_per_instance,
            idle: pool.idle,
            reuse: pool.reuse,
            instances_per_user: pool.instances_per_user,
            boot: pool.boot,
        };
        let fleet = Fleet::open(
            replica,
            store.clone(),
            Arc::clone(&relay),
            Arc::clone(&provider),
            authorities,
            wanted,
        );
        let fleet = Arc::new(fleet.await.context("could not read the pool")?);
        let sessions = Arc::new(Sessions::new(
            store.clone(),
            Arc::clone(&relay),
            Arc::clone(&fleet),
            tasks.clone(),
            limits,
        ));
        sessions
            .recover()
            .await
            .context("could not take up the sessions")?;
        let generated = accounts
            .first_administrator(&administrator.email, administrator.password.as_deref())
            .await
            .context(
                "could not make the first administrator of BROWSERFLEET_ADMIN_EMAIL and \
                 BROWSERFLEET_ADMIN_PASSWORD",
            )?;
        if let Some(password) = generated {
            show_once(&administrator.email, &password);
        }

        accounts
            .recall_endings()
            .await
            .context("could not read which logins have ended")?;

        let readiness = Readiness::default();
        let accounts = Arc::new(accounts);
        let api = Api {
            accounts: Arc::clone(&accounts),
            sessions: Arc::clone(&sessions),
            fleet: Arc::clone(&fleet),
            answered: Answered::new(store.clone()),
            readiness: readiness.clone(),
            front,
            sockets: crate::api::ws::Sockets::default(),
        };
        let mut ports = vec![
            Port {
                name: "api",
                listener: public,
                tls,
                connections_max: listen.connections_max,
                window_bytes: CONNECTION_WINDOW_BYTES,
                router: api::router(api.clone()),
            },
            Port {
                name: "agents",
                listener: private,
                tls: Some(TlsAcceptor::from(private_tls)),
                connections_max: AGENT_CONNECTIONS_MAX,
                window_bytes: AGENT_CONNECTION_WINDOW_BYTES,
                router: api::agent_router(&api),
            },
        ];
        let metrics_address = match metrics {
            Some(metrics) => {
                metrics.watch(&sessions, &relay, &certificates);
                let address = metrics.listener.local_addr()?;
                ports.push(metrics.port());
                Some(format!("http://{address}/metrics"))
            }
            None => None,
        };
        for port in ports {
            tasks.spawn(port.name, port.serve(tasks.clone()));
        }
        tasks.spawn("mail", Arc::clone(&accounts).run_errands(tasks.clone()));
        Jobs {
            store: store.clone(),
            accounts,
            fleet: Arc::clone(&fleet),
            sessions,
            provider,
            links: relay.changes(),
            certificates,
        }
        .start(&tasks);

        readiness.set(true);
        let ready_note = data_dir.join(READY_NOTE);
        let note = serde_json::json!({
            "api": format!("{scheme}://{address}"),
            "agents": format!("https://{private_address}"),
            "metrics": metrics_address,
            "pid": std::process::id(),
        });
        fs::write(&ready_note, note.to_string())?;
        tracing::info!(api = %format!("{scheme}://{address}"), agents = %private_address, deployment, "ready");
        Ok(Self {
            api,
            fleet,
            relay,
            store,
            readiness,
            tasks,
            machines,
            ready_note,
        })
    }

    /// Serves until the first signal, then stops in order; the second signal, or
    /// the deadline, cuts the rest short.
    pub async fn run_until_signal(self, signals: Signals) -> ExitCode {
        let Signals {
            mut terminate,
            mut interrupt,
        } = signals;
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping: SIGTERM"),
            _ = interrupt.recv() => tracing::info!("stopping: SIGINT"),
        }
        let stopped = tokio::select! {
            stopped = timeout(STOP_DEADLINE, self.stop()) => stopped.is_ok(),
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        if stopped {
            tracing::info!("stopped");
        } else {
            tracing::warn!(
                tasks = self.tasks.count(),
                machines = self.machines.count(),
                "stopped before everything had ended"
            );
        }
        ExitCode::SUCCESS
    }

    async fn stop(&self) {
        self.readiness.set(false);
        self.tasks.stop();
        if let Err(error) = fs::remove_file(&self.ready_note) {
            tracing::debug!(%error, "the note of readiness was gone");
        }
        if self.fleet.outlives_us() {
            // Their agents go to another replica; what they are at is answered here.
            self.commands_answered(COMMANDS_DEADLINE).await;
        }
        // Agents close their browsers and say so while their links still hold.
        let ended = Mutex::new(Vec::new());
        let lost = |instance, reason| {
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.push((instance, reason));
        };
        if let Err(error) = self.fleet.close(&lost).await {
            tracing::warn!(cause = error.cause(), "could not end all instances");
        }
        let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (instance, reason) in ended {
            self.api.sessions.instance_lost(instance, &reason).await;
        }
        self.relay.close();
        self.machines.ended().await;
        self.commands_answered(REST_DEADLINE).await;
        self.api.sessions.close_ledger();
        self.tasks.ended().await;
        self.store.close().await;
    }
}

impl App {
    /// Resolves once no command is under way, or they have had their time.
    async fn commands_answered(&self, within: Duration) {
        let answered = self.api.sessions.commands_answered();
        if timeout(within, answered).await.is_err() {
            tracing::info!("commands go on that will be answered elsewhere");
        }
    }
}

/// Makes this user an administrator, and prints the password.
///
/// # Errors
/// What could not be done, for the operator.
pub async fn rescue_administrator(config: Config, email: &str) -> anyhow::Result<()> {
    make_folder(&config.data_dir)?;
    let store = open_store(&config.database_url).await?;
    let accounts = open_accounts(
        store.clone(),
        &config.data_dir,
        config.accounts,
        String::new(),
    )?;
    let password = accounts.rescue_administrator(email).await?;
    store.close().await;
    println!("{password}");
    Ok(())
}

/// Makes an authority for agents in this folder.
///
/// # Errors
/// Where there is one already, or it cannot be written.
pub fn make_authority(folder: &Path) -> anyhow::Result<()> {
    Authority::create(folder)
}

fn open_accounts(
    store: Store,
    data_dir: &Path,
    settings: config::Accounts,
    public_url: String,
) -> anyhow::Result<Accounts> {
    let settings = accounts::Settings {
        passwords: settings.passwords,
        signing_keys: settings.signing_keys,
        sealing_key: settings.sealing_key,
        registration: settings.registration,
        lives: Lives {
            idle: settings.login_idle,
            longest: settings.login_longest,
        },
        public_url,
        mail: MailSettings {
            smtp: settings.smtp,
            from: settings.mail_from,
            folder: data_dir.join("mail"),
        },
        providers: settings.providers,
        allowed_origins: settings.allowed_origins,
    };
    Accounts::open(store, data_dir, settings)
}

async fn open_store(url: &str) -> anyhow::Result<Store> {
    Store::open(url, clock::now())
        .await
        .context("BROWSERFLEET_DATABASE_URL")
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| {
            format!(
                "could not make the folder {}; choose another with BROWSERFLEET_DATA_DIR",
                folder.display()
            )
        })
}

async fn bind(address: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("could not listen on {address}; choose another address with {key}")
    })
}

/// What the API's port speaks with, and when the first of its certificates ends.
fn tls_of(certificate: &Path, key: &Path) -> anyhow::Result<(TlsAcceptor, Timestamp)> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| unreadable("BROWSERFLEET_TLS_CERT", certificate))?;
    anyhow::ensure!(
        !chain.is_empty(),
        "BROWSERFLEET_TLS_CERT: {} holds no certificate in PEM",
        certificate.display()
    );
    let ends: anyhow::Result<Vec<Timestamp>> = chain.iter().map(authority::end_of).collect();
    let ends = ends.with_context(|| unreadable("BROWSERFLEET_TLS_CERT", certificate))?;
    let first = ends.into_iter().min().unwrap_or(Timestamp(i64::MAX));
    let mode = fs::metadata(key).map_or(0, |it| it.permissions().mode());
    // A group may read it: that is how Debian shares keys with services.
    anyhow::ensure!(
        mode & 0o007 == 0,
        "BROWSERFLEET_TLS_KEY: everybody can read {} (mode {:o}); run: chmod o= {}",
        key.display(),
        mode & 0o777,
        key.display()
    );
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| unreadable("BROWSERFLEET_TLS_KEY", key))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .context("BROWSERFLEET_TLS_CERT and BROWSERFLEET_TLS_KEY do not go together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), first))
}

/// Told at the start instead of with each instance that cannot start.
fn programs_exist(pool: &Pool) -> anyhow::Result<()> {
    let programs = [
        ("BROWSERFLEET_LOCAL_AGENT", Some(&pool.agent)),
        (
            "BROWSERFLEET_BROWSER_EXECUTABLE",
            pool.browser_executable.as_ref(),
        ),
    ];
    for (key, path) in programs {
        if let Some(path) = path {
            anyhow::ensure!(
                path.is_file(),
                "{key}: there is no program {}",
                path.display()
            );
        }
    }
    Ok(())
}

fn unreadable(key: &str, file: &Path) -> String {
    format!("{key}: could not read {}", file.display())
}

fn environment_of(pool: &Pool, authorities: &Authorities, dialed: String) -> Vec<(String, String)> {
    let mut environment = vec![
        ("BROWSERFLEET_CONTROL_PLANE".to_owned(), dialed),
        (
            "BROWSERFLEET_CA_FILE".to_owned(),
            authorities.bundle_file().display().to_string(),
        ),
        (
            "BROWSERFLEET_SESSIONS_MAX".to_owned(),
            pool.sessions_per_instance.to_string(),
        ),
    ];
    if let Some(executable) = &pool.browser_executable {
        environment.push((
            "BROWSERFLEET_BROWSER_EXECUTABLE".to_owned(),
            executable.display().to_string(),
        ));
    }
    environment
}

/// Not through the log, which is kept: a password is shown once.
fn show_once(email: &str, password: &str) {
    eprintln!("The first administrator is {email} with the password {password} (shown once).");
}
