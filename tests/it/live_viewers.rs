//! Many who see one session, some of whom do not read: what they cost, and whom.

use std::time::Duration;

use browserfleet_tests::api::Session;
use browserfleet_tests::processes;
use browserfleet_tests::screen::{Came, Screen};
use browserfleet_tests::site::Site;
use browserfleet_tests::world::World;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

/// Half of the viewers, who read, and the other half, who do not.
const HALF: usize = 50;
/// How long those do not read. One that takes nothing is cut after a while; another one
/// comes in its place.
const STALLED_FOR: Duration = Duration::from_secs(60);
const STALLED_TIMES: u32 = 3;
/// How much more memory they may cost, in bytes.
const MEMORY_MAX: u64 = 64 * 1024 * 1024;
/// How many of the pictures the others may lose for it, in a hundred.
const LOST_MAX: f64 = 5.0;
/// Pictures a second: as many as a busy machine brings to a hundred.
const FPS: u32 = 5;

fn wish() -> Value {
    json!({ "max_fps": FPS, "max_width": 640, "quality": 90 })
}

/// What came to somebody who reads: how many pictures, and how many there were.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    came: u64,
    were: u64,
    /// How many viewers were cut.
    cut: usize,
}

impl Seen {
    fn lost(self) -> f64 {
        100.0 * (self.were - self.came) as f64 / self.were as f64
    }
}

/// Reads until then.
async fn read(screen: &mut Screen, until: Instant) -> Seen {
    let (mut numbers, mut cut) = (Vec::new(), 0);
    while let Ok(came) = timeout_at(until, screen.try_next()).await {
        match came {
            Some(Came::Frame(header, _)) if header.format.is_some() => {
                numbers.push(header.sequence);
            }
            Some(_) => {}
            None => {
                cut = 1;
                break;
            }
        }
    }
    let were = match (numbers.first(), numbers.last()) {
        (Some(first), Some(last)) => last - first + 1,
        _ => 0,
    };
    let came = numbers.len() as u64;
    Seen { came, were, cut }
}

async fn read_all(screens: &mut [Screen], time: Duration) -> Seen {
    let until = Instant::now() + time;
    let each = join_all(screens.iter_mut().map(|it| read(it, until))).await;
    each.into_iter().fold(Seen::default(), |all, it| Seen {
        came: all.came + it.came,
        were: all.were + it.were,
        cut: all.cut + it.cut,
    })
}

async fn viewers(session: &Session) -> Vec<Screen> {
    join_all((0..HALF).map(|_| Screen::open(session, wish()))).await
}

#[tokio::test]
async fn half_of_a_hundred_viewers_do_not_read_and_cost_nobody_anything() {
    let world = World::new().await.unwrap();
    let site = Site::start().await.unwrap();
    let session = world.administrator().await.open(json!({})).await;
    session.navigate(&site.url("/moving")).await.ok();
    let mut good = viewers(&session).await;
    let before = read_all(&mut good, Duration::from_secs(5)).await;
    let memory = processes::memory(world.process());
    let until = Instant::now() + STALLED_FOR;
    let stalled = async {
        for _ in 0..STALLED_TIMES {
            let mut bad = viewers(&session).await;
            sleep(STALLED_FOR / STALLED_TIMES).await;
            let had = read(&mut bad[0], Instant::now() + Duration::from_secs(1)).await;
            assert!(
                had.cut > 0 || had.came < had.were,
                "{had:?}: it did not stall"
            );
        }
    };
    let largest = async {
        let mut largest = 0;
        while Instant::now() < until {
            largest = processes::memory(world.process()).max(largest);
            sleep(Duration::from_millis(500)).await;
        }
        largest
    };
    let (during, largest, ()) = tokio::join!(read_all(&mut good, STALLED_FOR), largest, stalled);
    let more = largest.saturating_sub(memory);
    println!(
        "before {before:?}, during {during:?}, {} KiB more",
        more / 1024
    );
    assert_eq!(during.cut, 0, "viewers who read were cut");
    assert!(more <= MEMORY_MAX, "{more} bytes more");
    assert!(
        during.lost() <= LOST_MAX,
        "{during:?}: {:.1} % lost",
        during.lost()
    );
    let wished = u64::from(FPS) * STALLED_FOR.as_secs() * HALF as u64;
    assert!(
        during.came > wished / 2,
        "{during:?} of {wished}: pictures go on"
    );
    world.stop().await;
}
