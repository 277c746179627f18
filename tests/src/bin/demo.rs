//! Shows the main job through the public API, step by step with times: a browser
//! is opened, driven and shot. With `--serve` it goes on serving until Ctrl-C.

#![expect(
    clippy::disallowed_methods,
    reason = "the harness is not the product: its tasks end with their test"
)]

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use browserfleet_tests::api::{Caller, Reply};
use browserfleet_tests::site::Site;
use browserfleet_tests::world::{ADMINISTRATOR, program};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// Where the API listens, unless `BROWSERFLEET_LISTEN` says otherwise.
const LISTEN: &str = "127.0.0.1:8080";
/// How long the control plane may take to be ready.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long the first instance may take to be there: an agent and its browser.
const INSTANCE_DEADLINE: Duration = Duration::from_secs(30);
/// The same for the control plane, which says why it gave up.
const INSTANCE_WAIT_MS: u64 = 25_000;
/// How long the control plane may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Where the picture goes.
const PICTURE: &str = "target/demo.png";

#[tokio::main]
async fn main() -> ExitCode {
    let serve = std::env::args().any(|it| it == "--serve");
    match run(serve).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("browserfleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(serve: bool) -> anyhow::Result<()> {
    // It says so at once, and not in the middle of a log.
    drop(TcpListener::bind(LISTEN).await.with_context(|| {
        format!("{LISTEN} is taken; stop what listens there (ss -ltnp shows it) and try again")
    })?);
    let folder = PathBuf::from("target/demo");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("could not remove the last demo's folder")?;
    }
    let password = password();
    let mut child = Command::new(program("browserfleet")?)
        .env("BROWSERFLEET_LISTEN", LISTEN)
        .env("BROWSERFLEET_AGENT_LISTEN", "127.0.0.1:0")
        .env("BROWSERFLEET_DATA_DIR", &folder)
        .env("BROWSERFLEET_ADMIN_PASSWORD", &password)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C is ours, so that the order of the end is too.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let done = tokio::select! {
        done = show(&mut child, &password, serve) => done,
        () = interrupted() => Ok(()),
    };
    let ended = end(child).await;
    done.and(ended)
}

async fn show(child: &mut Child, password: &str, serve: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let stderr = child
        .stderr
        .take()
        .context("the control plane has no standard error")?;
    let log = log_until_ready(stderr);
    timeout(START_DEADLINE, log)
        .await
        .context("the control plane was not ready in time")??;
    step("the control plane is ready", started);

    let nobody = Caller::nobody(&format!("http://{LISTEN}"));
    let site = Site::start().await?;

    let at = Instant::now();
    let user = nobody.sign_in(ADMINISTRATOR, password).await?;
    step(&format!("signed in as {ADMINISTRATOR}"), at);

    let at = Instant::now();
    let session = open(&user).await?;
    let id = session["id"]
        .as_str()
        .context("a session without an id")?
        .to_owned();
    step(&format!("opened the session {id}"), at);

    let command = |kind: &'static str, mut body: Value| {
        let (user, id) = (user.clone(), id.clone());
        async move {
            body["session_id"] = id.into();
            let path = format!("/api/browser/{kind}");
            check(
                user.try_call(reqwest::Method::POST, &path, Some(body), &[])
                    .await?,
            )
        }
    };
    let at = Instant::now();
    let page = command("navigate", json!({ "url": site.url("/") })).await?;
    step(
        &format!(
            "navigated to {} ({}), HTTP {}",
            page["url"], page["title"], page["status"]
        ),
        at,
    );

    let at = Instant::now();
    command("type", json!({ "selector": "#name", "text": "Ada" })).await?;
    step("typed into #name", at);

    let at = Instant::now();
    command(
        "click",
        json!({ "selector": "role=button[name=\"Greet\"]" }),
    )
    .await?;
    step("clicked the button Greet", at);

    let at = Instant::now();
    let greeting = command(
        "execute",
        json!({ "expression": "document.querySelector('#greeting').textContent" }),
    )
    .await?;
    ensure!(
        greeting["value"] == "Hello, Ada",
        "the page says {}",
        greeting["value"]
    );
    step(&format!("the page says {}", greeting["value"]), at);

    let at = Instant::now();
    let path = format!("/api/browser/state?session_id={id}");
    let state = check(
        user.try_call(reqwest::Method::GET, &path, None, &[])
            .await?,
    )?;
    step(
        &format!(
            "read the state: {} x {}, {} tab",
            state["viewport"]["width"],
            state["viewport"]["height"],
            state["tabs"].as_array().map_or(0, Vec::len)
        ),
        at,
    );

    let at = Instant::now();
    let shot = user
        .try_call(
            reqwest::Method::POST,
            "/api/browser/screenshot",
            Some(json!({ "session_id": id })),
            &[("accept", "image/png")],
        )
        .await?;
    ensure!(
        shot.status == 200 && shot.body.starts_with(b"\x89PNG"),
        "no picture: {}",
        shot.text("detail")
    );
    std::fs::write(PICTURE, &shot.body)?;
    step(&format!("saved {PICTURE}, {} bytes", shot.body.len()), at);

    if !serve {
        let at = Instant::now();
        check(
            user.try_call(
                reqwest::Method::DELETE,
                &format!("/api/sessions/{id}"),
                None,
                &[],
            )
            .await?,
        )?;
        step("ended the session", at);
        return Ok(());
    }
    println!(
        "\nIt serves until Ctrl-C.\n\n  API          http://{LISTEN}/openapi.json\n  user         {ADMINISTRATOR}\n  password     {password}\n  page         {}\n\n  TOKEN=$(curl -s http://{LISTEN}/api/auth/login -H 'content-type: application/json' \\\n    -d '{{\"email\":\"{ADMINISTRATOR}\",\"password\":\"{password}\"}}' | sed 's/.*\"access_token\":\"\\([^\"]*\\).*/\\1/')\n  curl -s http://{LISTEN}/api/browser/execute -H \"authorization: Bearer $TOKEN\" -H 'content-type: application/json' \\\n    -d '{{\"expression\":\"document.title\"}}'\n",
        site.url("/")
    );
    let status = child.wait().await?;
    bail!("the control plane ended: {status}")
}

/// Opens a session, and says what the log said where none comes.
async fn open(user: &Caller) -> anyhow::Result<Value> {
    let opened = user.try_call(
        reqwest::Method::POST,
        "/api/sessions",
        // On a busy machine the first instance is not there yet.
        Some(json!({ "name": "demo", "wait_ms": INSTANCE_WAIT_MS })),
        &[],
    );
    let reply = timeout(INSTANCE_DEADLINE, opened)
        .await
        .context("no session in time")??;
    check(reply)
        .context("no browser; is chromium-headless-shell installed? (make installs it on Debian)")
}

fn check(reply: Reply) -> anyhow::Result<Value> {
    ensure!(
        (200..300).contains(&reply.status),
        "{} {}: {}",
        reply.status,
        reply.code(),
        reply.text("detail")
    );
    Ok(reply.json())
}

fn step(what: &str, since: Instant) {
    println!("{:>8.1} ms  {what}", since.elapsed().as_secs_f64() * 1e3);
}

/// Passes the log on once something is wrong; the steps tell the rest.
async fn log_until_ready(stderr: tokio::process::ChildStderr) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stderr).lines();
    let mut said = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if line.contains(" ready api=") {
            tokio::spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.contains(" ERROR ") || line.contains(" WARN ") {
                        eprintln!("{line}");
                    }
                }
            });
            return Ok(());
        }
        said.push(line);
    }
    bail!("the control plane did not start: {}", said.join("\n"))
}

async fn end(mut child: Child) -> anyhow::Result<()> {
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return Ok(());
    };
    browserfleet_tests::processes::signal(id, nix::sys::signal::Signal::SIGTERM);
    let status = timeout(STOP_DEADLINE, child.wait())
        .await
        .context("the control plane did not end in time")??;
    ensure!(status.success(), "the control plane ended with {status}");
    Ok(())
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    println!();
}

/// 100 bits that can be read aloud.
fn password() -> String {
    const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
    let mut random = rand::rng();
    let letters: Vec<char> = (0..20)
        .map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]))
        .collect();
    letters
        .chunks(5)
        .map(String::from_iter)
        .collect::<Vec<_>>()
        .join("-")
}
