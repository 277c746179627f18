//! Pictures of a live view: how many a second come to each viewer, and how old they are
//! when they come, for 1, 10 and 100 viewers of one session, in one run on one machine.
//! The viewers are in this process, on the same cores. Prints a table with ratios
//! against one viewer. Timings never fail.
//!
//! ```text
//! cargo build --release --workspace && cargo bench -p browserfleet-tests --bench views
//! ```

#![expect(clippy::unwrap_used, reason = "a bench stops where it cannot measure")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use browserfleet_tests::api::Session;
use browserfleet_tests::screen::{Came, Screen};
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How many see it at once.
const VIEWERS: [usize; 3] = [1, 10, 100];
/// Until the screencast has its pace.
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);

/// Of all viewers together.
struct Views {
    /// Pictures a second of each.
    rate: f64,
    /// From the capture to the viewer, in milliseconds.
    median: f64,
    worst: f64,
    /// Of a picture, in kilobytes.
    size: f64,
}

#[expect(
    clippy::disallowed_methods,
    reason = "how old a picture is, is told by the clock that its header has"
)]
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

async fn read(mut screen: Screen, from: Instant, until: Instant) -> Vec<(f64, usize)> {
    let mut seen = Vec::new();
    while let Ok(Some(came)) = timeout_at(until, screen.try_next()).await {
        if let Came::Frame(header, picture) = came
            && header.format.is_some()
            && Instant::now() >= from
        {
            let age = now_us().saturating_sub(header.captured_at_us);
            seen.push((age as f64 / 1e3, picture.len()));
        }
    }
    seen
}

async fn measure(session: &Session, viewers: usize) -> Views {
    let wish = json!({ "max_fps": 30, "max_width": 800 });
    let screens = (0..viewers).map(|_| Screen::open(session, wish.clone()));
    let screens = join_all(screens).await;
    let from = Instant::now() + WARM_UP;
    let mut reading = JoinSet::new();
    for screen in screens {
        reading.spawn(read(screen, from, from + MEASURED));
    }
    let all: Vec<(f64, usize)> = reading.join_all().await.into_iter().flatten().collect();
    let mut ages: Vec<f64> = all.iter().map(|it| it.0).collect();
    ages.sort_by(f64::total_cmp);
    let bytes: usize = all.iter().map(|it| it.1).sum();
    Views {
        rate: all.len() as f64 / viewers as f64 / MEASURED.as_secs_f64(),
        median: ages[ages.len() / 2],
        worst: ages[ages.len() * 99 / 100],
        size: bytes as f64 / all.len() as f64 / 1e3,
    }
}

#[tokio::main]
async fn main() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let session = world.administrator().await.open(json!({})).await;
    session.navigate(&site.url("/moving")).await.ok();
    println!(
        "| viewers | pictures a second, each | ratio | capture to viewer, ms | ratio | p99, ms | KB each |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut one: Option<Views> = None;
    for viewers in VIEWERS {
        let views = measure(&session, viewers).await;
        let first = one.as_ref().unwrap_or(&views);
        println!(
            "| {viewers} | {:.1} | {:.2}x | {:.1} | {:.2}x | {:.1} | {:.0} |",
            views.rate,
            views.rate / first.rate,
            views.median,
            views.median / first.median,
            views.worst,
            views.size,
        );
        one.get_or_insert(views);
    }
    world.stop().await;
}
