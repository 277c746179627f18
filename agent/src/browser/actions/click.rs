//! Clicks: finds the place, then moves, presses and releases as a mouse does.

use browserfleet_proto::action::{Click, ClickTarget, MouseButton, Point, Rejection};
use futures_util::future;
use headless_chrome::protocol::cdp::Input;
use serde::Deserialize;
use tokio::time::Instant;

use super::engine::{Purpose, Reach};
use super::rejection;
use crate::browser::page::{CallError, Page};

/// A point as the page tells it.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Spot {
    x: f64,
    y: f64,
}

impl From<Spot> for Point {
    fn from(spot: Spot) -> Self {
        Self {
            x: spot.x,
            y: spot.y,
        }
    }
}

pub(super) async fn perform(
    page: &Page,
    click: &Click,
    deadline: Instant,
) -> Result<Point, Rejection> {
    let point = match &click.target {
        ClickTarget::Point(point) => *point,
        ClickTarget::Selector(selector) => {
            let reach = Reach::new(selector, Purpose::Click)?;
            reach.ask::<Spot>(page, deadline).await?.into()
        }
    };
    // All events go out at once: the pipe keeps their order, nothing of the page
    // gets between them, and no button stays down if the command is given up.
    let events = mouse_events(click, point)
        .into_iter()
        .map(|event| page.call(event, deadline));
    let mut pressed = false;
    for result in future::join_all(events).await {
        match result {
            Ok(_) => pressed = true,
            // The page that was pressed is gone, and the release with it.
            Err(CallError::Protocol { .. }) if pressed => {}
            Err(error) => return Err(rejection(error)),
        }
    }
    Ok(point)
}

fn mouse_events(click: &Click, point: Point) -> Vec<Input::DispatchMouseEvent> {
    use Input::DispatchMouseEventTypeOption::{MouseMoved, MousePressed, MouseReleased};
    let (button, held) = match click.button {
        MouseButton::Left => (Input::MouseButton::Left, 1),
        MouseButton::Right => (Input::MouseButton::Right, 2),
        MouseButton::Middle => (Input::MouseButton::Middle, 4),
    };
    let event = |kind, button, held, count| Input::DispatchMouseEvent {
        Type: kind,
        x: point.x,
        y: point.y,
        modifiers: Some(click.modifiers),
        timestamp: None,
        button: Some(button),
        buttons: Some(held),
        click_count: Some(count),
        force: None,
        tangential_pressure: None,
        tilt_x: None,
        tilt_y: None,
        twist: None,
        delta_x: None,
        delta_y: None,
        pointer_Type: None,
    };
    let mut events = vec![event(MouseMoved, Input::MouseButton::None, 0, 0)];
    for count in 1..=click.click_count.max(1) {
        events.push(event(MousePressed, button.clone(), held, count));
        events.push(event(MouseReleased, button.clone(), 0, count));
    }
    events
}
