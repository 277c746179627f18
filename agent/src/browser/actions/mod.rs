//! Turns an [`Action`] into calls on one page.
//!
//! ```text
//! navigate ── network        click, type ─┐
//! execute ─── serialize.js   scroll, state├─ engine ── find.js, reach.js
//! screenshot ─ picture       screenshot ──┘            (isolated world)
//! ```
//!
//! Nothing here asks twice: what must be waited for is waited for in the page or
//! by listening to its events, up to the command's deadline. Dropping a future
//! leaves the page usable. Tabs, dialogs and stuck pages are not dealt with here.

mod click;
mod engine;
mod execute;
mod keys;
mod navigate;
mod network;
mod picture;
mod screenshot;
mod scroll;
mod selector;
pub mod state;
mod typing;

use browserfleet_proto::action::{Action, Answer, Code, Rejection};
use tokio::time::Instant;

pub(super) use engine::evaluation;
pub(super) use network::may_open;

use super::Performed;
use super::page::{CallError, Page};

/// Performs one action. [`Action::State`] lacks the tabs and the dialog, and
/// [`Action::Dialog`] finds none: the caller knows those.
pub async fn act(page: &Page, action: &Action, deadline: Instant) -> Performed {
    let mut payload = None;
    let outcome = match action {
        Action::Navigate(it) => navigate::perform(page, it, deadline)
            .await
            .map(Answer::Navigated),
        Action::Click(it) => click::perform(page, it, deadline)
            .await
            .map(Answer::Clicked),
        Action::Type(it) => typing::perform(page, it, deadline).await.map(Answer::Typed),
        Action::Screenshot(it) => {
            screenshot::perform(page, it, deadline)
                .await
                .map(|(captured, image)| {
                    payload = Some(image);
                    Answer::Captured(captured)
                })
        }
        Action::Execute(it) => execute::perform(page, it, deadline)
            .await
            .map(Answer::Evaluated),
        Action::Scroll(it) => scroll::perform(page, it, deadline)
            .await
            .map(Answer::Scrolled),
        Action::State => state::read(page, deadline)
            .await
            .map(|it| Answer::State(Box::new(it))),
        Action::Dialog(_) => Err(Rejection::new(Code::NoDialog, "no dialog is open")),
    };
    Performed { outcome, payload }
}

/// What a failed call means to the caller of an action.
pub(super) fn rejection(error: CallError) -> Rejection {
    match error {
        CallError::Deadline => Rejection::new(Code::CommandTimeout, "the deadline passed"),
        CallError::Closed => Rejection::new(Code::BrowserCrashed, "the browser or its tab is gone"),
        CallError::Crashed => Rejection::new(
            Code::PageCrashed,
            "the page's process crashed, or its tab was closed",
        ),
        CallError::Protocol { message, .. } => Rejection::new(Code::BrowserError, message),
    }
}
