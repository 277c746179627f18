//! Reads where a page is, in one request.

use browserfleet_proto::action::{Rejection, Size, State, Viewport};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::click::Spot;
use super::engine;
use crate::browser::page::Page;

#[derive(Serialize)]
struct Request {
    request: &'static str,
}

/// What the document says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) url: String,
    pub(super) title: String,
    /// 0: it did not come over HTTP.
    pub(super) status: u32,
    loading: bool,
    pub(super) viewport: View,
    pub(super) scroll: Spot,
    pub(super) document: Extent,
}

impl Document {
    /// Its scroll position, in CSS pixels.
    pub(super) fn scrolled_to(&self) -> (f64, f64) {
        let point = browserfleet_proto::action::Point::from(self.scroll);
        (point.x, point.y)
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct View {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) scale: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Extent {
    pub(super) width: f64,
    pub(super) height: f64,
}

pub(super) async fn document(page: &Page, deadline: Instant) -> Result<Document, Rejection> {
    engine::ask(page, &Request { request: "page" }, deadline).await
}

/// The page's part of the state; the tabs and the dialog are the caller's to add.
pub async fn read(page: &Page, deadline: Instant) -> Result<State, Rejection> {
    let document = document(page, deadline).await?;
    let view = document.viewport;
    Ok(State {
        url: document.url,
        title: document.title,
        loading: document.loading,
        viewport: Viewport {
            width: view.width as u32,
            height: view.height as u32,
            scale: view.scale,
        },
        scroll: document.scroll.into(),
        document: Size {
            width: document.document.width,
            height: document.document.height,
        },
        tabs: Vec::new(),
        dialog: None,
    })
}
