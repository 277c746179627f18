//! `POST /api/browser/scroll`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::{Action, Edge, Point, Scroll};
use browserfleet_proto::browser::v1;
use serde::Deserialize;

use super::{Asked, chosen, coordinate_of, perform, selector_of};
use crate::api::Api;
use crate::api::body::Body;
use crate::api::extract::Caller;
use crate::error::Error;

/// Where to.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrollRequest {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
    x: Option<f64>,
    y: Option<f64>,
    delta: Option<Distance>,
    selector: Option<String>,
    to: Option<End>,
}

/// How far, in CSS pixels.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Distance {
    #[serde(default)]
    x: f64,
    #[serde(default)]
    y: f64,
}

/// An end of the document.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Top,
    Bottom,
}

/// Scrolls the page, or to an element.
pub async fn scroll(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<ScrollRequest>,
) -> Result<Response, Response> {
    Ok(perform(&api, &caller, request).await?.into_json())
}

impl TryFrom<v1::Scroll> for ScrollRequest {
    type Error = Error;

    fn try_from(it: v1::Scroll) -> Result<Self, Error> {
        use v1::scroll::To;
        let mut request = Self::default();
        match it.to {
            None => {}
            Some(To::Position(v1::Point { x, y })) => {
                (request.x, request.y) = (Some(x), Some(y));
            }
            Some(To::Delta(v1::Point { x, y })) => request.delta = Some(Distance { x, y }),
            Some(To::Selector(selector)) => request.selector = Some(selector),
            Some(To::Edge(edge)) => {
                request.to = match chosen("edge", edge)? {
                    v1::Edge::Unspecified => None,
                    v1::Edge::Top => Some(End::Top),
                    v1::Edge::Bottom => Some(End::Bottom),
                };
            }
        }
        Ok(request)
    }
}

impl TryFrom<ScrollRequest> for Asked {
    type Error = Error;

    fn try_from(mut request: ScrollRequest) -> Result<Self, Error> {
        Ok(Self {
            session_id: request.session_id.take(),
            timeout_ms: request.timeout_ms,
            action: action_of(&mut request)?,
        })
    }
}

fn action_of(request: &mut ScrollRequest) -> Result<Action, Error> {
    let position = match (request.x, request.y) {
        (None, None) => None,
        (x, y) => Some(Point {
            x: coordinate_of("x", x.unwrap_or(0.0))?,
            y: coordinate_of("y", y.unwrap_or(0.0))?,
        }),
    };
    let scroll = match (position, request.delta, request.selector.take(), request.to) {
        (Some(position), None, None, None) => Scroll::Position(position),
        (None, Some(delta), None, None) => Scroll::Delta(Point {
            x: coordinate_of("delta.x", delta.x)?,
            y: coordinate_of("delta.y", delta.y)?,
        }),
        (None, None, Some(selector), None) => Scroll::Selector(selector_of(selector)?),
        (None, None, None, Some(End::Top)) => Scroll::Edge(Edge::Top),
        (None, None, None, Some(End::Bottom)) => Scroll::Edge(Edge::Bottom),
        _ => {
            return Err(Error::invalid(
                "to",
                "give one of: x and y, delta, selector, to",
            ));
        }
    };
    Ok(Action::Scroll(scroll))
}
