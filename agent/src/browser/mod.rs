//! Browsers: launching Chrome, speaking CDP with it over its debugging pipe, and
//! turning actions into CDP calls. Nothing here knows of sessions or links.

mod actions;
mod cdp;
mod census;
mod chrome;
mod downloads;
mod events;
mod executable;
mod hands;
pub mod launcher;
pub mod live;
mod mux;
mod page;
mod process;
mod residue;
mod running;
mod screencast;
#[cfg(test)]
pub mod scripted;
mod setup;
mod strays;
mod tabs;
mod titles;
pub mod user;

use std::fmt;
use std::sync::Arc;

use browserfleet_proto::action::{Action, BrowserKind, Outcome, Rejection, SessionOptions};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use downloads::{Downloads, Parts};
pub use events::Told;
pub use mux::{Part, Tunnel};

/// What an action gave.
#[derive(Debug)]
pub struct Performed {
    /// The answer, or why there is none.
    pub outcome: Outcome,
    /// The picture of a screenshot.
    pub payload: Option<Bytes>,
}

impl From<Outcome> for Performed {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            payload: None,
        }
    }
}

/// What a browser tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The active page went somewhere. May be lost.
    PageChanged {
        /// Its address.
        url: String,
        /// Its document's title.
        title: String,
    },
    /// The browser is gone. The last notice.
    Ended {
        /// Why.
        reason: EndReason,
        /// For the session's owner.
        message: String,
    },
}

/// Why a browser is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its process ended by itself.
    BrowserCrashed,
    /// It was closed from inside.
    BrowserClosed,
    /// It did not answer and was killed.
    BrowserHung,
}

impl EndReason {
    /// The stable text that callers read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BrowserCrashed => "browser_crashed",
            Self::BrowserClosed => "browser_closed",
            Self::BrowserHung => "browser_hung",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a tunnel is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelEnd {
    /// There is no such browser or page.
    NotFound,
    /// The browser has all the tunnels that it may have.
    TooMany,
    /// The client asked for it.
    Closed,
    /// The page is gone.
    TargetGone,
    /// The browser is gone.
    BrowserGone,
    /// A message is larger than may be.
    TooLarge,
    /// The client does not read.
    Stalled,
}

impl TunnelEnd {
    /// Whether what waits for the client is dropped, so that it holds nothing.
    #[must_use]
    pub fn drops_what_waits(self) -> bool {
        matches!(self, Self::TooLarge | Self::Stalled)
    }
}

/// Which client of CDP wants to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelWish {
    /// Chrome's name for a page; `None`: the browser.
    pub target: Option<String>,
    /// `Browser.close` ends the tunnel and nothing else.
    pub keeps_browser: bool,
}

/// Lets a client of CDP join.
pub type Tunnels = Box<dyn Fn(TunnelWish) -> BoxFuture<'static, Result<Tunnel, TunnelEnd>> + Send>;

/// One running browser. The seam: Chrome, or a scripted one in tests.
pub trait Browser: Send {
    /// For example `Chrome/156.0.8078.73`.
    fn version(&self) -> &str;

    /// Does one action. Dropping the future cancels it; the browser stays usable.
    fn act<'a>(&'a mut self, action: &'a Action, deadline: Instant) -> BoxFuture<'a, Performed>;

    /// What the browser tells without being asked. Taken once.
    fn notices(&mut self) -> mpsc::Receiver<Notice>;

    /// What happens in the browser, for its watchers. Taken once.
    fn events(&mut self) -> mpsc::Receiver<Told>;

    /// Whether what pages write to their console and what of theirs could not be fetched
    /// is among it: that costs the browser something.
    fn watch_pages(&mut self, watched: bool);

    /// What shows the browser, beside its commands.
    fn live(&self) -> Arc<dyn live::Live>;

    /// Lets clients of CDP join, also while an action has the browser.
    fn tunnels(&self) -> Tunnels;

    /// What it downloaded.
    fn downloads(&self) -> Downloads;

    /// Ends the browser and leaves nothing: no process, no folder.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What starts browsers.
pub trait Launcher: Send + Sync {
    /// Starts one.
    fn launch<'a>(
        &'a self,
        options: &'a SessionOptions,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Box<dyn Browser>, Rejection>>;

    /// What it can start.
    fn kinds(&self) -> Vec<BrowserKind>;

    /// Browsers that are launched and have no session yet.
    fn spares(&self) -> usize;

    /// When the first of them was ready, if there was one.
    fn first_spare(&self) -> Option<Instant>;

    /// Ends the spares, removes all that browsers left, says what is left nevertheless,
    /// and begins anew. Only while no session has a browser.
    fn recycle(&self) -> BoxFuture<'_, Vec<String>>;
}
