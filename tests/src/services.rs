//! What is not ours and as real as it can be: an OpenID provider, something that
//! speaks as GitHub does, a mail server, and clients of CDP. Processes of Node that end with the
//! value that stands for them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::mail::readable;

/// How long a service may take to start.
const START_DEADLINE: Duration = Duration::from_secs(15);

/// The Python that `.ci/install` made for this purpose.
///
/// # Errors
/// Where it did not.
pub fn python_of(purpose: &str) -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|it| PathBuf::from(it).join(".cache"));
    let cache = cache.or(home).context("there is no home")?;
    let python = cache.join(format!("browserfleet/{purpose}/bin/python"));
    anyhow::ensure!(
        python.exists(),
        "the Python for {purpose} is not installed; run: .ci/install {purpose}"
    );
    Ok(python)
}

/// How long a client of CDP may take for all that it does.
const CLIENT_DEADLINE: Duration = Duration::from_secs(90);

/// Runs a client of CDP from npm, and gives the last line that it prints.
///
/// # Errors
/// What it says instead, and where its packages are not installed.
pub async fn run_client(script: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let running = client(script, arguments)?.wait_with_output();
    let output = timeout(CLIENT_DEADLINE, running)
        .await
        .with_context(|| format!("{script} {arguments:?} takes too long"))??;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{script}: {said}{complained}");
    let last = said.lines().last().context("it said nothing")?;
    Ok(serde_json::from_str(last)?)
}

/// Starts a client of CDP from npm that runs until it is killed.
///
/// # Errors
/// Where its packages are not installed.
pub fn client(script: &str, arguments: &[&str]) -> anyhow::Result<Child> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("services");
    anyhow::ensure!(
        folder.join("node_modules").exists(),
        "the services are not installed; run: .ci/install services"
    );
    Ok(Command::new("node")
        .arg(folder.join("clients").join(script))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?)
}

#[derive(Debug)]
struct Service {
    _child: Child,
    /// Its end is the service's.
    _stdin: ChildStdin,
}

async fn start(
    script: &str,
    arguments: &[&str],
) -> anyhow::Result<(Service, String, Lines<BufReader<ChildStdout>>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("services");
    anyhow::ensure!(
        folder.join("node_modules").exists(),
        "the services are not installed; run: .ci/install services"
    );
    let mut child = Command::new("node")
        .arg(folder.join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("could not start node")?;
    let stdin = child.stdin.take().context("no standard input")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let first = timeout(START_DEADLINE, lines.next_line()).await??;
    let service = Service {
        _child: child,
        _stdin: stdin,
    };
    Ok((service, first.context("it said nothing")?, lines))
}

/// Where an OpenID provider tells of names and addresses.
#[derive(Debug, Clone, Copy)]
pub enum Tells {
    /// In the ID token.
    InTheToken,
    /// At its UserInfo endpoint (OpenID Connect Core 1.0, section 5.4).
    WhereAsked,
}

/// An OpenID provider.
#[derive(Debug)]
pub struct OpenIdProvider {
    _service: Service,
    /// It ends where nobody hears what it says.
    _lines: Lines<BufReader<ChildStdout>>,
    /// Its address.
    pub issuer: String,
}

impl OpenIdProvider {
    /// Starts one that signs with `algorithm` and knows us by `callback`.
    ///
    /// # Errors
    /// Where Node or its packages are not installed.
    pub async fn start(algorithm: &str, tells: Tells, callback: &str) -> anyhow::Result<Self> {
        let tells = match tells {
            Tells::InTheToken => "in-the-token",
            Tells::WhereAsked => "where-asked",
        };
        let arguments = [algorithm, tells, callback];
        let (service, issuer, lines) = start("openid-provider.js", &arguments).await?;
        Ok(Self {
            _service: service,
            _lines: lines,
            issuer,
        })
    }
}

/// Something that speaks as GitHub does.
#[derive(Debug)]
pub struct GitHub {
    _service: Service,
    /// Its address.
    pub address: String,
}

impl GitHub {
    /// Starts one.
    ///
    /// # Errors
    /// Where Node is not installed.
    pub async fn start() -> anyhow::Result<Self> {
        let (service, address, _) = start("github.js", &[]).await?;
        Ok(Self {
            _service: service,
            address,
        })
    }
}

/// A mail server that takes mail over STARTTLS from whom it knows.
#[derive(Debug)]
pub struct MailServer {
    _service: Service,
    folder: TempDir,
    mails: Arc<Mutex<Vec<Value>>>,
    /// For `BROWSERFLEET_SMTP_URL`.
    pub url: String,
}

impl MailServer {
    /// Starts one, with a certificate of its own.
    ///
    /// # Errors
    /// Where Node or its packages are not installed.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        std::fs::write(&certificate, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        let arguments = [certificate.to_string_lossy(), key.to_string_lossy()];
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let (service, port, mut lines) = start("mail-server.js", &arguments).await?;
        let mails: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&mails);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mail = serde_json::from_str(&line).unwrap_or_default();
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(mail);
            }
        });
        Ok(Self {
            _service: service,
            folder,
            mails,
            url: format!("smtp://fleet:p%40ss%2Fword@localhost:{port}"),
        })
    }

    /// The certificate that its certificate is trusted by.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("a.pem")
    }

    /// What came so far: `secure`, `user`, `to`, and `text` as one reads it.
    #[must_use]
    pub fn mails(&self) -> Vec<Value> {
        let mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mails = mails.clone();
        for mail in &mut mails {
            let raw = mail["raw"].as_str().unwrap_or_default();
            mail["text"] = readable(raw.as_bytes()).into();
        }
        mails
    }
}
