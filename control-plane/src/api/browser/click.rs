//! `POST /api/browser/click`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::{Action, Click, ClickTarget, MouseButton, Point};
use browserfleet_proto::browser::v1;
use serde::Deserialize;

use super::{Asked, chosen, coordinate_of, perform, selector_of};
use crate::api::Api;
use crate::api::body::Body;
use crate::api::extract::Caller;
use crate::error::Error;

/// What to click, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickRequest {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
    selector: Option<String>,
    x: Option<f64>,
    y: Option<f64>,
    #[serde(default)]
    button: Button,
    click_count: Option<u32>,
    #[serde(default)]
    modifiers: Vec<Modifier>,
}

/// A button of the mouse.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Button {
    #[default]
    Left,
    Middle,
    Right,
}

/// A key that is held down meanwhile.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Modifier {
    Alt,
    Control,
    Meta,
    Shift,
}

impl Modifier {
    const ALL: [Self; 4] = [Self::Alt, Self::Control, Self::Meta, Self::Shift];

    /// The bits of CDP's `Input.dispatchMouseEvent`.
    fn bit(self) -> u32 {
        match self {
            Self::Alt => 1,
            Self::Control => 2,
            Self::Meta => 4,
            Self::Shift => 8,
        }
    }
}

/// Clicks an element or a point.
pub async fn click(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<ClickRequest>,
) -> Result<Response, Response> {
    Ok(perform(&api, &caller, request).await?.into_json())
}

impl TryFrom<v1::Click> for ClickRequest {
    type Error = Error;

    fn try_from(it: v1::Click) -> Result<Self, Error> {
        use v1::{MouseButton, click::Target};
        let (selector, point) = match it.target {
            None => (None, None),
            Some(Target::Selector(selector)) => (Some(selector), None),
            Some(Target::Point(point)) => (None, Some(point)),
        };
        let known = Modifier::ALL.iter().fold(0, |bits, it| bits | it.bit());
        if it.modifiers & !known != 0 {
            return Err(Error::invalid("modifiers", "has bits that mean nothing"));
        }
        Ok(Self {
            session_id: None,
            timeout_ms: None,
            selector,
            x: point.map(|it| it.x),
            y: point.map(|it| it.y),
            button: match chosen("button", it.button)? {
                MouseButton::Unspecified => Button::default(),
                MouseButton::Left => Button::Left,
                MouseButton::Middle => Button::Middle,
                MouseButton::Right => Button::Right,
            },
            click_count: (it.click_count > 0).then_some(it.click_count),
            modifiers: Modifier::ALL
                .into_iter()
                .filter(|modifier| it.modifiers & modifier.bit() != 0)
                .collect(),
        })
    }
}

impl TryFrom<ClickRequest> for Asked {
    type Error = Error;

    fn try_from(mut request: ClickRequest) -> Result<Self, Error> {
        Ok(Self {
            session_id: request.session_id.take(),
            timeout_ms: request.timeout_ms,
            action: action_of(&mut request)?,
        })
    }
}

fn action_of(request: &mut ClickRequest) -> Result<Action, Error> {
    let target = match (request.selector.take(), request.x, request.y) {
        (Some(selector), None, None) => ClickTarget::Selector(selector_of(selector)?),
        (None, Some(x), Some(y)) => ClickTarget::Point(Point {
            x: coordinate_of("x", x)?,
            y: coordinate_of("y", y)?,
        }),
        (Some(_), ..) => return Err(Error::invalid("selector", "goes without x and y")),
        (None, None, Some(_)) => return Err(Error::invalid("x", "is missing")),
        (None, Some(_), None) => return Err(Error::invalid("y", "is missing")),
        (None, None, None) => {
            return Err(Error::invalid("selector", "is missing; or give x and y"));
        }
    };
    let click_count = request.click_count.unwrap_or(1);
    if !(1..=3).contains(&click_count) {
        return Err(Error::invalid("click_count", "has to be 1 to 3"));
    }
    Ok(Action::Click(Click {
        target,
        button: match request.button {
            Button::Left => MouseButton::Left,
            Button::Middle => MouseButton::Middle,
            Button::Right => MouseButton::Right,
        },
        click_count,
        modifiers: request.modifiers.iter().fold(0, |bits, it| bits | it.bit()),
    }))
}
