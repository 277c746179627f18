//! Pictures of one tab, as Chrome's screencast gives them.
//!
//! Chrome takes a picture whenever the page was drawn, and stops at three that nobody has
//! acknowledged. Three things of it are dealt with here: a page that comes to rest
//! meanwhile is left without its last picture, so the cast is begun anew, which gives
//! one; pictures come out of order; and a tab that is being set up gives none at first.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use browserfleet_proto::frame::Format;
use browserfleet_proto::limits::{FRAME_BYTES_MAX, FRAMES_A_SECOND_MAX, IMAGE_SIDE_PIXELS_MAX};
use bytes::Bytes;
use headless_chrome::protocol::cdp::Page;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cdp::{Client, Event};
use super::live::Wish;

/// Pictures that Chrome may have told before they are taken: as many as it takes without
/// an acknowledgement, of two casts.
const SHOTS_MAX: usize = 8;
/// How soon after an acknowledgement the next picture comes, if the page is drawn at all.
const SETTLED_AFTER: Duration = Duration::from_millis(150);
/// How long the first picture of a cast may take.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Where the reader of the pipe leaves pictures.
#[derive(Debug, Default)]
pub(super) struct Screen {
    sink: Mutex<Option<Sink>>,
    /// Of the last picture that was shown: they grow for as long as the browser lives,
    /// whichever control plane asks.
    pub(super) number: AtomicU64,
}

#[derive(Debug)]
struct Sink {
    session: String,
    shots: mpsc::Sender<Shot>,
}

/// One picture, as Chrome told it.
#[derive(Debug)]
pub(super) struct Shot {
    /// Names the cast in the acknowledgement.
    cast: u32,
    /// Seconds since 1970.
    pub(super) captured_at: f64,
    pub(super) width: f32,
    pub(super) height: f32,
    pub(super) page_scale: f32,
    pub(super) scroll_x: f32,
    pub(super) scroll_y: f32,
    /// `None`: it could not be read, or is too large.
    pub(super) picture: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frame<'a> {
    data: &'a str,
    metadata: Metadata,
    session_id: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    page_scale_factor: f32,
    device_width: f32,
    device_height: f32,
    scroll_offset_x: f32,
    scroll_offset_y: f32,
    #[serde(default)]
    timestamp: f64,
}

impl Screen {
    /// On the reader's task: decodes a picture, once, and leaves it. One that finds no
    /// room is lost, and the cast that stops for it is begun anew.
    pub(super) fn hear(&self, event: &Event<'_>) {
        if event.method != "Page.screencastFrame" {
            return;
        }
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sink) = sink
            .as_ref()
            .filter(|it| Some(it.session.as_str()) == event.session)
        else {
            return;
        };
        let Some(frame) = event.params::<Frame<'_>>() else {
            tracing::debug!("a picture that cannot be read");
            return;
        };
        let fits = frame.data.len() <= FRAME_BYTES_MAX / 3 * 4;
        let picture = fits.then(|| STANDARD.decode(frame.data).ok()).flatten();
        let shot = Shot {
            cast: frame.session_id,
            captured_at: frame.metadata.timestamp,
            width: frame.metadata.device_width,
            height: frame.metadata.device_height,
            page_scale: frame.metadata.page_scale_factor,
            scroll_x: frame.metadata.scroll_offset_x,
            scroll_y: frame.metadata.scroll_offset_y,
            picture: picture.map(Bytes::from),
        };
        if sink.shots.try_send(shot).is_err() {
            tracing::debug!("no room for a picture");
        }
    }

    fn aim(&self, session: &str) -> mpsc::Receiver<Shot> {
        let (shots, taken) = mpsc::channel(SHOTS_MAX);
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(Sink {
            session: session.to_owned(),
            shots,
        });
        taken
    }
}

/// A cast of one tab: the newest picture, and what Chrome is owed for those before.
#[derive(Debug)]
pub(super) struct Cast {
    client: Client,
    /// CDP's session with the tab.
    pub(super) session: String,
    wish: Wish,
    shots: mpsc::Receiver<Shot>,
    newest: Option<Shot>,
    pace: Pace,
}

/// When to acknowledge, and when to begin anew. Pure.
#[derive(Debug)]
struct Pace {
    every: Duration,
    /// When the next picture may be given on.
    next_at: Instant,
    /// The cast, and how many of its pictures are not acknowledged.
    owed: (u32, u32),
    /// When the newest picture that was ever seen was taken, in seconds since 1970.
    newest_at: f64,
    /// Chrome may have left a picture out; at this time it is begun anew.
    anew_at: Option<Instant>,
    skipped: bool,
}

impl Pace {
    fn new(wish: &Wish, now: Instant) -> Self {
        let fps = wish.max_fps.clamp(1, FRAMES_A_SECOND_MAX);
        Self {
            every: Duration::from_secs(1) / fps,
            next_at: now,
            owed: (0, 0),
            newest_at: 0.0,
            anew_at: Some(now + FIRST_WITHIN),
            skipped: false,
        }
    }

    /// A picture came. `false`: it is older than one that came before.
    fn came(&mut self, cast: u32, captured_at: f64) -> bool {
        if self.owed.0 != cast {
            self.owed = (cast, 0);
        }
        self.owed.1 += 1;
        self.anew_at = None;
        // While Chrome waits for one acknowledgement it may leave pictures out.
        self.skipped = self.owed.1 > 1;
        let newer = captured_at >= self.newest_at;
        if newer {
            self.newest_at = captured_at;
        }
        newer
    }

    /// The newest picture was given on: how many acknowledgements Chrome gets for which
    /// cast.
    fn gave(&mut self, now: Instant) -> (u32, u32) {
        self.next_at = (self.next_at + self.every).max(now);
        let owed = self.owed;
        self.owed.1 = 0;
        // One that was on its way meanwhile may come yet, or may have been left out.
        self.skipped |= owed.1 > 1;
        if self.skipped {
            self.anew_at = Some(now + SETTLED_AFTER);
        }
        owed
    }
}

impl Cast {
    /// Begins a cast of this tab. What another cast had is forgotten.
    pub(super) fn begin(client: &Client, screen: &Screen, session: &str, wish: Wish) -> Self {
        let shots = screen.aim(session);
        let cast = Self {
            client: client.clone(),
            session: session.to_owned(),
            wish,
            shots,
            newest: None,
            pace: Pace::new(&wish, Instant::now()),
        };
        cast.post_start();
        cast
    }

    fn post_start(&self) {
        let session = Some(self.session.as_str());
        let start = Page::StartScreencast {
            format: Some(match self.wish.format {
                Format::Jpeg => Page::StartScreencastFormatOption::Jpeg,
                Format::Png => Page::StartScreencastFormatOption::Png,
            }),
            quality: Some(self.wish.quality),
            max_width: Some(self.wish.max_width),
            max_height: Some(IMAGE_SIDE_PIXELS_MAX),
            every_nth_frame: None,
        };
        // One that runs already is left as it is, so it is stopped first.
        let posted = self.client.post(session, &Page::StopScreencast(None))
            && self.client.post(session, &start);
        if !posted {
            tracing::debug!("the browser had no room to be told to begin a cast");
        }
    }

    /// Other pictures from now on.
    pub(super) fn change(&mut self, wish: Wish) {
        if std::mem::replace(&mut self.wish, wish) != wish {
            self.pace = Pace::new(&wish, Instant::now());
            self.post_start();
        }
    }

    /// Ends it.
    pub(super) fn end(self) {
        let session = Some(self.session.as_str());
        if !self.client.post(session, &Page::StopScreencast(None)) {
            // Chrome stops by itself at three pictures.
            tracing::debug!("the browser had no room to be told to end a cast");
        }
    }

    /// Takes pictures in, for ever. Cancelling it loses nothing.
    pub(super) async fn take_in(&mut self) {
        loop {
            let anew = async {
                match self.pace.anew_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(shot) = self.shots.recv() => {
                    if self.pace.came(shot.cast, shot.captured_at) && shot.picture.is_some() {
                        self.newest = Some(shot);
                        return;
                    }
                }
                () = anew => {
                    self.pace.anew_at = Some(Instant::now() + FIRST_WITHIN);
                    self.post_start();
                }
            }
        }
    }

    /// When the newest picture may be given on; `None`: there is none.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.newest.as_ref().map(|_| self.pace.next_at)
    }

    /// The newest picture, which is given on now.
    pub(super) fn give(&mut self) -> Option<Shot> {
        let shot = self.newest.take()?;
        let (cast, owed) = self.pace.gave(Instant::now());
        for _ in 0..owed {
            let acknowledge = Page::ScreencastFrameAck { session_id: cast };
            if !self.client.post(Some(&self.session), &acknowledge) {
                self.pace.anew_at = Some(Instant::now() + SETTLED_AFTER);
            }
        }
        Some(shot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            max_fps: 10,
            max_width: 640,
            quality: 60,
            format: Format::Jpeg,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_rests_while_chrome_waited_is_cast_anew() {
        let now = Instant::now();
        let mut pace = Pace::new(&wish(), now);
        for picture in 1..=3 {
            assert!(pace.came(1, f64::from(picture)));
        }
        assert_eq!(pace.gave(now), (1, 3));
        assert_eq!(pace.anew_at, Some(now + SETTLED_AFTER));
        // It goes on: one that came while Chrome waited for nothing is the last word.
        assert!(pace.came(1, 4.0));
        assert_eq!(pace.anew_at, None);
        assert_eq!(pace.gave(now), (1, 1));
        assert_eq!(pace.anew_at, None);
    }

    #[tokio::test(start_paused = true)]
    async fn pictures_are_given_on_at_the_pace_that_is_wished_for() {
        let start = Instant::now();
        let mut pace = Pace::new(&wish(), start);
        let mut now = start;
        for picture in 0..20 {
            pace.came(1, f64::from(picture));
            now = now.max(pace.next_at);
            pace.gave(now);
        }
        assert_eq!(now - start, Duration::from_millis(1_900));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_picture_does_not_come_after_a_newer_one() {
        let mut pace = Pace::new(&wish(), Instant::now());
        assert!(pace.came(1, 2.0));
        assert!(!pace.came(1, 1.0));
        assert_eq!(pace.gave(Instant::now()), (1, 2), "and is acknowledged");
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_cast_is_owed_is_not_paid_to_this_one() {
        let mut pace = Pace::new(&wish(), Instant::now());
        pace.came(1, 1.0);
        pace.came(1, 2.0);
        pace.came(2, 3.0);
        assert_eq!(pace.gave(Instant::now()), (2, 1));
    }
}
