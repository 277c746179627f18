//! The commands: `POST /api/browser/*` and `GET /api/browser/state`. Each file
//! parses one kind of request into an [`Action`]; all go the same way from here.

mod click;
mod dialog;
mod execute;
mod navigate;
mod screenshot;
mod scroll;
mod state;
mod type_text;

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use browserfleet_proto::action::{Action, Answer};
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::limits;
use serde::Serialize;

pub use click::click;
pub use dialog::dialog;
pub use execute::execute;
pub use navigate::navigate;
pub use screenshot::screenshot;
pub use scroll::scroll;
pub use state::state;
pub use type_text::type_text;

use super::Api;
use super::extract::Caller;
use crate::error::{CommandError, Error};
use crate::relay::Picture;
use crate::sessions::Request;

/// What a command that did what it was asked replies.
#[derive(Serialize)]
struct Reply {
    command_id: CommandId,
    session_id: SessionId,
    #[serde(flatten)]
    answer: Answer,
}

/// A command that was performed.
struct Done {
    command: CommandId,
    session: SessionId,
    answer: Answer,
    picture: Option<Picture>,
}

/// The part that all requests share.
struct Envelope<'a> {
    session_id: Option<&'a str>,
    timeout_ms: Option<u64>,
}

/// Runs one action for the caller, to its final outcome.
async fn perform(
    api: &Api,
    caller: &Caller,
    envelope: Envelope<'_>,
    action: Action,
) -> Result<Done, Response> {
    let request = Request {
        timeout: timeout_of(envelope.timeout_ms).map_err(IntoResponse::into_response)?,
        action,
    };
    let session = super::extract::session_for_command(api, caller, envelope.session_id)
        .await
        .map_err(IntoResponse::into_response)?;
    let session_id = session.id();
    match api.sessions.perform(session, request).await {
        Ok(performed) => Ok(Done {
            command: performed.command,
            session: session_id,
            answer: performed.answer,
            picture: performed.picture,
        }),
        Err(error) => Err(CommandError::into_response(error)),
    }
}

impl Done {
    fn into_json(self) -> Response {
        axum::Json(Reply {
            command_id: self.command,
            session_id: self.session,
            answer: self.answer,
        })
        .into_response()
    }
}

fn timeout_of(timeout_ms: Option<u64>) -> Result<Option<Duration>, Error> {
    let Some(timeout_ms) = timeout_ms else {
        return Ok(None);
    };
    let timeout = Duration::from_millis(timeout_ms);
    if timeout.is_zero() || timeout > limits::COMMAND_TIMEOUT_MAX {
        return Err(Error::invalid(
            "timeout_ms",
            format!("has to be 1 to {}", limits::COMMAND_TIMEOUT_MAX.as_millis()),
        ));
    }
    Ok(Some(timeout))
}

/// A selector that can be handed to an agent.
fn selector_of(selector: String) -> Result<String, Error> {
    if selector.trim().is_empty() {
        return Err(Error::invalid("selector", "is empty"));
    }
    if selector.len() > limits::SELECTOR_BYTES_MAX {
        return Err(Error::invalid(
            "selector",
            format!("longer than {} bytes", limits::SELECTOR_BYTES_MAX),
        ));
    }
    if selector.contains('\0') {
        return Err(Error::invalid("selector", "has a NUL character"));
    }
    Ok(selector)
}

/// A text that can be handed to an agent.
fn text_of(field: &'static str, text: String) -> Result<String, Error> {
    if text.len() > limits::TEXT_BYTES_MAX {
        return Err(Error::invalid(
            field,
            format!("longer than {} bytes", limits::TEXT_BYTES_MAX),
        ));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "has a NUL character"));
    }
    Ok(text)
}

/// A coordinate that Chrome takes.
fn coordinate_of(field: &'static str, value: f64) -> Result<f64, Error> {
    /// Chrome's layout counts in 1/64 of a pixel in 32 bits.
    const MOST: f64 = 33_554_431.0;
    if value.is_finite() && value.abs() <= MOST {
        Ok(value)
    } else {
        Err(Error::invalid(field, "is out of range"))
    }
}
