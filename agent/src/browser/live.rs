//! The live view of a browser: its active tab as pictures, and a person's hands in it.
//! One task for each view, beside the session's commands; it ends with its viewers or
//! with the browser.
//!
//! ```text
//! Chrome ─▶ screencast ─▶ newest ─▶ at most two under way ─▶ viewers
//! viewers ─▶ hands ─▶ Chrome          ▲ taken
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use browserfleet_proto::frame::{Cursor, Format};
use browserfleet_proto::input::Input;
use browserfleet_proto::limits::FRAMES_UNDER_WAY_MAX;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use headless_chrome::protocol::cdp::Page;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::cdp::Client;
use super::events::Events;
use super::hands::Hands;
use super::screencast::{Cast, Screen, Shot};
use super::tabs::Tabs;

/// What the viewers want of the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// 0: none.
    pub max_fps: u32,
    /// In pixels of the picture.
    pub max_width: u32,
    /// From 1 to 100; of a JPEG.
    pub quality: u32,
    /// What they are.
    pub format: Format,
}

/// What comes from the viewers.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// They want other pictures.
    Wish(Wish),
    /// One of them has this picture, or a newer one.
    Taken(u64),
    /// Somebody does something.
    Input {
        /// What an answer names.
        number: u64,
        /// What.
        input: Input,
    },
}

/// What goes to the viewers.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// The page has changed.
    Picture(Picture),
    /// The cursor under the pointer has changed.
    Cursor(Cursor),
    /// The answer to an input.
    Answer {
        /// Of which.
        number: u64,
        /// What it is.
        text: String,
    },
}

/// One picture of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Grows by one.
    pub number: u64,
    /// In µs since 1970.
    pub captured_at_us: u64,
    /// What it is.
    pub format: Format,
    /// Of the page's view, in CSS pixels.
    pub width: f32,
    /// Of the page's view, in CSS pixels.
    pub height: f32,
    /// How far the page is zoomed in by pinching.
    pub page_scale: f32,
    /// In CSS pixels.
    pub scroll_x: f32,
    /// In CSS pixels.
    pub scroll_y: f32,
    /// The picture itself.
    pub bytes: Bytes,
}

/// The two ends of a view that are the viewers'.
pub struct Ends {
    /// Ends with the viewers.
    pub asked: BoxStream<'static, Asked>,
    /// Where to show.
    pub shown: mpsc::Sender<Shown>,
    /// The last number that a picture had.
    pub after: u64,
}

/// Shows a browser.
pub trait Live: Send + Sync {
    /// Shows it until the viewers or the browser are gone.
    fn show(&self, ends: Ends) -> BoxFuture<'static, ()>;
}

/// What a view needs of a running Chrome. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) client: Client,
    pub(super) tabs: Arc<watch::Sender<Tabs>>,
    pub(super) events: Arc<Events>,
    pub(super) screen: Arc<Screen>,
}

impl Live for Stage {
    fn show(&self, ends: Ends) -> BoxFuture<'static, ()> {
        View::new(self.clone(), ends).run().boxed()
    }
}

impl Stage {
    /// Makes a tab the active one. `false`: it is gone.
    pub(super) fn activate(&self, target: &str) -> bool {
        let activated = self.tabs.send_if_modified(|tabs| tabs.activate(target));
        if activated {
            self.events.compare(&self.tabs.borrow());
        }
        activated
    }
}

struct View {
    stage: Stage,
    tabs: watch::Receiver<Tabs>,
    asked: BoxStream<'static, Asked>,
    shown: mpsc::Sender<Shown>,
    hands: Hands,
    wish: Option<Wish>,
    cast: Option<Cast>,
    /// Of the last picture that was shown.
    number: u64,
    /// The last picture that a viewer has.
    taken: u64,
}

impl View {
    fn new(stage: Stage, ends: Ends) -> Self {
        let before = stage.screen.number.load(Ordering::Relaxed).max(ends.after);
        Self {
            tabs: stage.tabs.subscribe(),
            hands: Hands::new(stage.clone()),
            stage,
            asked: ends.asked,
            shown: ends.shown,
            wish: None,
            cast: None,
            number: before,
            taken: before,
        }
    }

    async fn run(mut self) {
        self.show_until_over().await;
        if let Some(cast) = self.cast.take() {
            cast.end();
        }
    }

    async fn show_until_over(&mut self) {
        loop {
            self.follow_active_tab();
            let active = self.tabs.borrow().active().map(|it| it.session.clone());
            self.hands.turn_to(active.as_deref());
            let due = self.due();
            tokio::select! {
                biased;
                asked = self.asked.next() => match asked {
                    Some(asked) => self.take(asked),
                    None => return,
                },
                changed = self.tabs.changed() => {
                    if changed.is_err() || self.tabs.borrow_and_update().is_closed() {
                        return;
                    }
                }
                shown = self.hands.work() => {
                    if self.shown.send(shown).await.is_err() {
                        return;
                    }
                }
                room = room_at(due, self.shown.clone()) => match room {
                    Some(room) => {
                        if let Some(shot) = self.cast.as_mut().and_then(Cast::give) {
                            self.number += 1;
                            self.stage.screen.number.store(self.number, Ordering::Relaxed);
                            room.send(Shown::Picture(picture(shot, self.number)));
                        }
                    }
                    None => return,
                },
                () = take_in(self.cast.as_mut()) => {}
            }
        }
    }

    fn take(&mut self, asked: Asked) {
        match asked {
            Asked::Wish(wish) => {
                self.wish = (wish.max_fps > 0).then_some(wish);
                match (self.wish, &mut self.cast) {
                    (Some(wish), Some(cast)) => cast.change(wish),
                    (None, cast) => {
                        if let Some(cast) = cast.take() {
                            cast.end();
                        }
                    }
                    (Some(_), None) => {}
                }
            }
            Asked::Taken(number) => self.taken = self.taken.max(number.min(self.number)),
            Asked::Input { number, input } => self.hands.push(number, input),
        }
    }

    /// When the newest picture may go; `None`: there is none, or enough are under way.
    fn due(&self) -> Option<tokio::time::Instant> {
        let room = self.number - self.taken < FRAMES_UNDER_WAY_MAX;
        self.cast.as_ref().filter(|_| room)?.due_at()
    }

    /// The cast is of the tab that is active and can be seen.
    fn follow_active_tab(&mut self) {
        let Some(wish) = self.wish else { return };
        let (active, several) = {
            let tabs = self.tabs.borrow();
            let seen = tabs.active().filter(|it| it.ready && !it.crashed);
            let several = tabs.sessions().nth(1).is_some();
            (seen.map(|it| it.session.clone()), several)
        };
        if self.cast.as_ref().map(|it| &it.session) == active.as_ref() {
            return;
        }
        if let Some(cast) = self.cast.take() {
            cast.end();
        }
        let Some(active) = active else { return };
        // What is behind another tab is not drawn.
        if several
            && !self
                .stage
                .client
                .post(Some(&active), &Page::BringToFront(None))
        {
            tracing::debug!("the browser had no room to be told which tab is in front");
        }
        self.cast = Some(Cast::begin(
            &self.stage.client,
            &self.stage.screen,
            &active,
            wish,
        ));
    }
}

/// Room for a picture, at this time. Resolves with `None` where the viewers are gone.
async fn room_at(
    due: Option<tokio::time::Instant>,
    shown: mpsc::Sender<Shown>,
) -> Option<mpsc::OwnedPermit<Shown>> {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
    shown.reserve_owned().await.ok()
}

async fn take_in(cast: Option<&mut Cast>) {
    match cast {
        Some(cast) => cast.take_in().await,
        None => std::future::pending().await,
    }
}

fn picture(shot: Shot, number: u64) -> Picture {
    let bytes = shot.picture.unwrap_or_default();
    let captured_at = Duration::try_from_secs_f64(shot.captured_at).unwrap_or_default();
    Picture {
        number,
        captured_at_us: u64::try_from(captured_at.as_micros()).unwrap_or(u64::MAX),
        // The last one of a cast may be of the wish before.
        format: if bytes.starts_with(b"\x89PNG") {
            Format::Png
        } else {
            Format::Jpeg
        },
        width: shot.width,
        height: shot.height,
        page_scale: shot.page_scale,
        scroll_x: shot.scroll_x,
        scroll_y: shot.scroll_y,
        bytes,
    }
}
