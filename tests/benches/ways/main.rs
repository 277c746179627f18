//! How long the same work takes over four ways, in one run on one machine: a bare
//! CDP socket, the `headless_chrome` crate's own tab, our agent's browser in
//! process, and our REST API. Prints a table of medians with ratios against the
//! bare socket. Timings never fail.
//!
//! ```text
//! cargo build --release --workspace && cargo bench -p browserfleet-tests
//! ```
//!
//! With `-- doors` only the doors of the control plane are measured: REST, `/ws`, gRPC.

#![expect(clippy::unwrap_used, reason = "a bench stops where it cannot measure")]

mod bare;
mod doors;

use std::future::Future;
use std::time::{Duration, Instant};

use browserfleet_agent::browser::launcher::{ChromeLauncher, Settings};
use browserfleet_agent::browser::{Browser, Launcher};
use browserfleet_proto::action::{
    Action, Area, BrowserKind, Click, ClickTarget, DialogPolicy, Execute, ImageFormat, MouseButton,
    Navigate, Point, Screenshot, Script, SessionOptions, Type, Viewport, WaitUntil,
};
use browserfleet_tests::api::Session;
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use browserfleet_tests::{eventually, processes};
use headless_chrome::protocol::cdp::Page::CaptureScreenshotFormatOption;
use serde_json::json;
use tempfile::TempDir;

/// How often each is measured, after a tenth that is thrown away.
const ROUNDS: usize = 100;
/// The crate polls; a few rounds are enough to see it.
const ROUNDS_OF_THE_CRATE: usize = 8;
/// Sessions that are opened, shot and closed one after another.
const CYCLES: usize = 20;
const LETTERS: &str = "abcdefghijklmnopqrst";
const WORK: [&str; 5] = [
    "execute 1+1",
    "click",
    "type 20 letters",
    "navigate to load",
    "PNG 1280 x 720",
];
/// The least that a caller of ours has to be better than, from the budgets; of
/// click and typing there is none.
const BUDGETS: [&str; 5] = ["2.0x", "", "", "1.1x", "0.6x"];

/// Median and 99th percentile, in milliseconds.
#[derive(Clone, Copy)]
struct Times {
    median: f64,
    worst: f64,
}

async fn measure<F: Future<Output = ()>>(rounds: usize, mut work: impl FnMut() -> F) -> Times {
    let mut times = Vec::new();
    for round in 0..rounds + rounds / 10 {
        let started = Instant::now();
        work().await;
        if round >= rounds / 10 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    summary(times)
}

fn summary(mut times: Vec<f64>) -> Times {
    times.sort_by(f64::total_cmp);
    Times {
        median: times[times.len() / 2],
        worst: times[(times.len() * 99 / 100).min(times.len() - 1)],
    }
}

fn options() -> SessionOptions {
    SessionOptions {
        browser: BrowserKind::Shell,
        viewport: Viewport {
            width: 1280,
            height: 720,
            scale: 1.0,
        },
        user_agent: String::new(),
        locale: String::new(),
        timezone: String::new(),
        dialogs: DialogPolicy::Dismiss,
    }
}

/// The same five things, as actions.
fn actions(url: &str) -> [Action; 5] {
    [
        Action::Execute(Execute {
            script: Script::Expression("1+1".into()),
            await_promise: true,
        }),
        Action::Click(Click {
            target: ClickTarget::Point(Point { x: 5.0, y: 5.0 }),
            button: MouseButton::Left,
            click_count: 1,
            modifiers: 0,
        }),
        Action::Type(Type {
            selector: Some("#name".into()),
            text: LETTERS.into(),
            clear: false,
            delay_ms: 0,
            submit: false,
        }),
        Action::Navigate(Navigate {
            url: url.into(),
            wait_until: WaitUntil::Load,
            referer: String::new(),
        }),
        Action::Screenshot(Screenshot {
            format: ImageFormat::Png,
            quality: None,
            area: Area::Viewport,
            scale: 1.0,
            omit_background: false,
        }),
    ]
}

async fn of_bare_socket(url: &str) -> Vec<Times> {
    let mut socket = bare::Socket::start().await.unwrap();
    socket.navigate(url).await;
    socket
        .call(
            "Runtime.evaluate",
            json!({ "expression": "document.querySelector('#name').focus()" }),
        )
        .await;
    let mut times = Vec::new();
    for work in 0..WORK.len() {
        let mut samples = Vec::new();
        for round in 0..ROUNDS + ROUNDS / 10 {
            let started = Instant::now();
            match work {
                0 => drop(
                    socket
                        .call(
                            "Runtime.evaluate",
                            json!({ "expression": "1+1", "returnByValue": true }),
                        )
                        .await,
                ),
                1 => socket.click(5.0, 5.0).await,
                2 => socket.keys(LETTERS).await,
                3 => socket.navigate(url).await,
                _ => drop(
                    socket
                        .call("Page.captureScreenshot", json!({ "format": "png" }))
                        .await,
                ),
            }
            if round >= ROUNDS / 10 {
                samples.push(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.push(summary(samples));
    }
    times
}

fn of_the_crate(url: &str) -> Vec<Times> {
    let options = headless_chrome::LaunchOptions::default_builder()
        .path(Some(bare::EXECUTABLE.into()))
        .sandbox(false)
        .window_size(Some((1280, 720)))
        .idle_browser_timeout(Duration::from_secs(300))
        .build()
        .unwrap();
    let browser = headless_chrome::Browser::new(options).unwrap();
    let tab = browser.new_tab().unwrap();
    let go = || {
        tab.navigate_to(url)
            .unwrap()
            .wait_until_navigated()
            .unwrap();
    };
    go();
    tab.find_element("#name").unwrap().focus().unwrap();
    let jobs: [&dyn Fn(); 5] = [
        &|| drop(tab.evaluate("1+1", true).unwrap()),
        &|| {
            tab.click_point(headless_chrome::browser::tab::point::Point { x: 5.0, y: 5.0 })
                .unwrap();
        },
        &|| {
            tab.type_str(LETTERS).unwrap();
        },
        &go,
        &|| {
            tab.capture_screenshot(CaptureScreenshotFormatOption::Png, None, None, true)
                .unwrap();
        },
    ];
    jobs.iter()
        .map(|job| {
            let samples = (0..ROUNDS_OF_THE_CRATE).map(|_| {
                let started = Instant::now();
                job();
                started.elapsed().as_secs_f64() * 1e3
            });
            summary(samples.collect())
        })
        .collect()
}

async fn of_our_agent(browser: &mut dyn Browser, url: &str) -> Vec<Times> {
    let deadline = || tokio::time::Instant::now() + Duration::from_secs(30);
    let all = actions(url);
    browser.act(&all[3], deadline()).await.outcome.unwrap();
    let mut times = Vec::new();
    for action in &all {
        let mut samples = Vec::new();
        for round in 0..ROUNDS + ROUNDS / 10 {
            let started = Instant::now();
            browser.act(action, deadline()).await.outcome.unwrap();
            if round >= ROUNDS / 10 {
                samples.push(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.push(summary(samples));
    }
    times
}

async fn of_rest(session: &Session, url: &str) -> Vec<Times> {
    session.navigate(url).await.ok();
    let commands = [
        ("execute", json!({ "expression": "1+1" })),
        ("click", json!({ "x": 5, "y": 5 })),
        ("type", json!({ "selector": "#name", "text": LETTERS })),
        ("navigate", json!({ "url": url })),
        ("screenshot", json!({})),
    ];
    let mut times = Vec::new();
    for (kind, parameters) in commands {
        let work = || async {
            session.command(kind, parameters.clone()).await.ok();
        };
        times.push(measure(ROUNDS, work).await);
    }
    times
}

async fn launch_cold() -> (Box<dyn Browser>, TempDir, f64) {
    let folder = TempDir::new().unwrap();
    let launcher = ChromeLauncher::start(Settings {
        executable: None,
        folder: folder.path().to_owned(),
        spares: 0,
        user: None,
    })
    .unwrap();
    let started = Instant::now();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    let mut browser = launcher.launch(&options(), deadline).await.unwrap();
    browser
        .act(&actions("")[0], deadline)
        .await
        .outcome
        .unwrap();
    (browser, folder, started.elapsed().as_secs_f64() * 1e3)
}

/// From the request to open until the first answered command, a spare being there.
async fn start_warm(world: &World) -> Times {
    let alice = world.administrator().await;
    let mut samples = Vec::new();
    for _ in 0..CYCLES {
        eventually("a spare is there", Duration::from_secs(10), || async {
            !world.browsers().is_empty()
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let started = Instant::now();
        let session = alice.open(json!({})).await;
        session.value("1").await;
        samples.push(started.elapsed().as_secs_f64() * 1e3);
        session.end().await.ok();
    }
    summary(samples)
}

async fn sessions_a_second(world: &World) -> f64 {
    let alice = world.administrator().await;
    let started = Instant::now();
    for _ in 0..CYCLES {
        let session = alice.open(json!({})).await;
        session.command("screenshot", json!({})).await.ok();
        session.end().await.ok();
    }
    CYCLES as f64 / started.elapsed().as_secs_f64()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[tokio::main]
async fn main() {
    if std::env::args().any(|it| it == "doors") {
        let world = World::new().await.unwrap();
        doors::measure(&world.administrator().await.open(json!({})).await).await;
        return world.stop().await;
    }
    let site = Site::start().await.unwrap();
    let url = site.url("/");
    let socket = of_bare_socket(&url).await;
    let for_the_crate = url.clone();
    let of_crate = tokio::task::spawn_blocking(move || of_the_crate(&for_the_crate))
        .await
        .unwrap();
    let (mut browser, _folder, cold) = launch_cold().await;
    let agent = of_our_agent(&mut *browser, &url).await;
    browser.close().await;
    let world = World::new().await.unwrap();
    let session = world.administrator().await.open(json!({})).await;
    let rest = of_rest(&session, &url).await;
    doors::measure(&session).await;
    let agents: Vec<u64> = world.agents().into_iter().map(processes::memory).collect();
    let own = processes::memory(world.process());
    session.end().await.ok();
    let warm = start_warm(&world).await;
    let rate = sessions_a_second(&world).await;

    println!(
        "| median, ms | bare socket | headless_chrome | our agent | our REST | REST / bare | p99 / p99 | budget |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (index, work) in WORK.iter().enumerate() {
        println!(
            "| {work} | {:.2} | {:.1} | {:.2} | {:.2} | {:.2}x | {:.2}x | {} |",
            socket[index].median,
            of_crate[index].median,
            agent[index].median,
            rest[index].median,
            rest[index].median / socket[index].median,
            rest[index].worst / socket[index].worst,
            BUDGETS[index],
        );
    }
    println!("\n| what | measured | budget |\n| --- | --- | --- |");
    println!(
        "| session start with a spare, to the first answer | {:.0} ms (p99 {:.0}) | 60 ms |",
        warm.median, warm.worst
    );
    println!("| session start without one, agent only | {cold:.0} ms | |");
    println!("| sessions opened, shot and closed a second | {rate:.1} | 8 |");
    println!(
        "| memory of the control plane | {:.0} MiB | 60 MiB idle |",
        megabytes(own)
    );
    println!(
        "| memory of an agent with one session | {:.0} MiB | 25 MiB |",
        megabytes(agents.into_iter().max().unwrap_or(0))
    );
    world.stop().await;
}
