//! How long what Playwright and Puppeteer do takes through a tunnel, and against the same
//! Chrome with the same switches directly, in one run on one machine. Prints a table of
//! medians. Timings never fail.
//!
//! ```text
//! cargo build --release --workspace && cargo bench -p browserfleet-tests --bench tunnels
//! ```

#![expect(clippy::unwrap_used, reason = "a bench stops where it cannot measure")]

use std::process::Stdio;

use browserfleet_tests::processes::Process;
use browserfleet_tests::services::run_client;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const WORK: [&str; 5] = ["evaluate", "click", "goto", "screenshot", "evaluate 5 MB"];
const CLIENTS: [&str; 2] = ["playwright", "puppeteer"];

/// A Chrome that listens itself.
struct Direct {
    address: String,
    _chrome: Child,
    _profile: TempDir,
}

impl Direct {
    /// Starts one as that one was started, but for its pipe.
    async fn like(other: &Process) -> Self {
        // Chrome writes its arguments anew, apart by spaces; none of ours has one.
        let words = other.command.split(['\0', ' ']);
        let mut words = words.filter(|it| !it.is_empty());
        let program = words.next().unwrap();
        let own = |it: &&str| !it.starts_with("--remote-") && !it.starts_with("--user-data-dir");
        let profile = TempDir::new().unwrap();
        let mut chrome = Command::new(program)
            .args(words.filter(own))
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(chrome.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("Chrome started");
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.to_owned();
            }
        };
        Self {
            address,
            _chrome: chrome,
            _profile: profile,
        }
    }
}

async fn measured(client: &str, address: &str, site: &Site) -> Value {
    let arguments = [client, address, &site.url("")];
    run_client("bench.js", &arguments).await.unwrap()
}

#[tokio::main]
async fn main() {
    let (world, site) = (World::new().await.unwrap(), Site::start().await.unwrap());
    let alice = world.user("alice").await;
    let session = alice.open(json!({})).await;
    let direct = Direct::like(&world.browsers()[0]).await;
    let base = world.api.replacen("http", "ws", 1);
    let tunnel = format!(
        "{base}/devtools/browser/{}?token={}",
        session.id,
        alice.token()
    );
    println!("| median, ms | directly | through a tunnel | ratio |");
    println!("| --- | --- | --- | --- |");
    for client in CLIENTS {
        let straight = measured(client, &direct.address, &site).await;
        let through = measured(client, &tunnel, &site).await;
        for work in WORK {
            let (straight, through) = (
                straight[work].as_f64().unwrap(),
                through[work].as_f64().unwrap(),
            );
            let ratio = through / straight;
            println!("| {client}: {work} | {straight:.2} | {through:.2} | {ratio:.2}x |");
        }
    }
    world.stop().await;
}
