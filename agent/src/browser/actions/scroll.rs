//! Scrolls the page, or to an element.

use browserfleet_proto::action::{Edge, Point, Rejection, Scroll};
use serde::Serialize;
use tokio::time::Instant;

use super::click::Spot;
use super::engine::{self, Purpose, Reach};
use crate::browser::page::Page;

#[derive(Serialize)]
struct Request {
    request: &'static str,
    position: Option<Point>,
    delta: Option<Point>,
    edge: Option<Edge>,
}

pub(super) async fn perform(
    page: &Page,
    scroll: &Scroll,
    deadline: Instant,
) -> Result<Point, Rejection> {
    let mut request = Request {
        request: "scroll",
        position: None,
        delta: None,
        edge: None,
    };
    match scroll {
        Scroll::Position(point) => request.position = Some(*point),
        Scroll::Delta(point) => request.delta = Some(*point),
        Scroll::Edge(edge) => request.edge = Some(*edge),
        Scroll::Selector(selector) => {
            let reach = Reach::new(selector, Purpose::Scroll)?;
            return Ok(reach.ask::<Spot>(page, deadline).await?.into());
        }
    }
    let spot: Spot = engine::ask(page, &request, deadline).await?;
    Ok(spot.into())
}
