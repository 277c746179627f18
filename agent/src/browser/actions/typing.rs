//! Types: focuses, clears as a user would, presses keys.

use browserfleet_proto::action::{Rejection, Type, Typed};
use futures_util::future;
use futures_util::{StreamExt, TryStreamExt, stream};
use headless_chrome::protocol::cdp::Input;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use super::engine::{self, Purpose, Reach};
use super::keys::{self, Key, Stroke};
use super::rejection;
use crate::browser::page::{CallError, Page};

/// How many keys may be on their way at once. The pipe keeps their order; more
/// would only fill the page's queue.
const KEYS_IN_FLIGHT_MAX: usize = 64;
/// CDP's bit for Shift.
const SHIFT: u32 = 8;

#[derive(Serialize)]
struct Focused {
    request: &'static str,
    clear: bool,
}

#[derive(Deserialize)]
struct Ready {
    /// Whether there is something selected to delete.
    selected: bool,
}

pub(super) async fn perform(
    page: &Page,
    typing: &Type,
    deadline: Instant,
) -> Result<Typed, Rejection> {
    let clear = typing.clear;
    let ready: Ready = match &typing.selector {
        Some(selector) => {
            let reach = Reach::new(selector, Purpose::Type)?.clearing(clear);
            reach.ask(page, deadline).await?
        }
        None => {
            let request = "focused";
            engine::ask(page, &Focused { request, clear }, deadline).await?
        }
    };
    let mut strokes = Vec::new();
    if ready.selected {
        strokes.push(Stroke::Press(keys::DELETE));
    }
    strokes.extend(keys::strokes(&typing.text));
    if typing.submit {
        strokes.push(Stroke::Press(keys::ENTER));
    }
    let written = if typing.delay_ms == 0 {
        at_once(page, strokes, deadline).await
    } else {
        let delay = Duration::from_millis(typing.delay_ms.into());
        one_by_one(page, strokes, delay, deadline).await
    };
    written.map_err(rejection)?;
    let characters = typing.text.chars().count();
    Ok(Typed {
        characters: u32::try_from(characters).unwrap_or(u32::MAX),
    })
}

async fn at_once(page: &Page, strokes: Vec<Stroke>, deadline: Instant) -> Result<(), CallError> {
    stream::iter(strokes)
        .map(|stroke| write(page, stroke, deadline))
        .buffered(KEYS_IN_FLIGHT_MAX)
        .try_collect()
        .await
}

async fn one_by_one(
    page: &Page,
    strokes: Vec<Stroke>,
    delay: Duration,
    deadline: Instant,
) -> Result<(), CallError> {
    let mut first = true;
    for stroke in strokes {
        if !std::mem::take(&mut first) {
            let next = Instant::now() + delay;
            if next >= deadline {
                return Err(CallError::Deadline);
            }
            tokio::time::sleep_until(next).await;
        }
        write(page, stroke, deadline).await?;
    }
    Ok(())
}

/// A key's press and release leave together, so that no key stays down.
async fn write(page: &Page, stroke: Stroke, deadline: Instant) -> Result<(), CallError> {
    let key = match stroke {
        Stroke::Press(key) => key,
        Stroke::Insert(text) => {
            page.call(Input::InsertText { text }, deadline).await?;
            return Ok(());
        }
    };
    let down = page.call(key_event(&key, true), deadline);
    let up = page.call(key_event(&key, false), deadline);
    future::try_join(down, up).await?;
    Ok(())
}

fn key_event(key: &Key, down: bool) -> Input::DispatchKeyEvent {
    use Input::DispatchKeyEventTypeOption::{KeyDown, KeyUp, RawKeyDown};
    let text = key.writes.filter(|_| down).map(String::from);
    let kind = match (down, &text) {
        (false, _) => KeyUp,
        (true, Some(_)) => KeyDown,
        (true, None) => RawKeyDown,
    };
    let name = key.name.map(str::to_owned);
    Input::DispatchKeyEvent {
        Type: kind,
        modifiers: key.shift.then_some(SHIFT),
        timestamp: None,
        unmodified_text: text.clone(),
        text,
        key_identifier: None,
        code: Some(key.code.to_string()),
        key: name.or_else(|| key.writes.map(String::from)),
        windows_virtual_key_code: Some(key.virtual_code),
        native_virtual_key_code: None,
        auto_repeat: None,
        is_keypad: None,
        is_system_key: None,
        location: None,
        commands: None,
    }
}
