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
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use browserfleet_proto::action::{Action, Answer};
use browserfleet_proto::browser::v1::{self, action::Kind};
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::limits;
use browserfleet_proto::wire::outcome_to_wire;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use click::click;
pub use dialog::dialog;
pub use execute::execute;
pub use navigate::navigate;
pub use screenshot::screenshot;
pub use scroll::scroll;
pub use state::state;
pub use type_text::type_text;

use click::ClickRequest;
use dialog::DialogRequest;
use execute::ExecuteRequest;
use navigate::NavigateRequest;
use screenshot::ScreenshotRequest;
use scroll::ScrollRequest;
use state::StateParameters;
use type_text::TypeRequest;

use super::Api;
use super::body::parse;
use super::extract::Caller;
use crate::error::{CommandError, Error};
use crate::relay::Picture;
use crate::sessions::{Performed, Request};

/// What a command that did what it was asked replies.
#[derive(Serialize)]
struct Reply {
    command_id: CommandId,
    session_id: SessionId,
    #[serde(flatten)]
    answer: Answer,
}

/// A command that was performed.
pub(super) struct Done {
    command: CommandId,
    session: SessionId,
    answer: Answer,
    picture: Option<Picture>,
}

/// What a request asks for, whichever door it came through.
pub(super) struct Asked {
    /// Which session; `None`: the caller's only one.
    pub(super) session_id: Option<String>,
    /// How long the caller waits; `None`: as the session says.
    pub(super) timeout_ms: Option<u64>,
    /// What.
    pub(super) action: Action,
}

impl Asked {
    /// What a service is asked for.
    ///
    /// # Errors
    /// Where the time makes no sense.
    pub(super) fn request(self) -> Result<Request, Error> {
        Ok(Request {
            timeout: timeout_of(self.timeout_ms)?,
            action: self.action,
            driver: None,
            cancelled: None,
        })
    }
}

/// Reads what a message of this kind asks for; `None`: no command is called that.
///
/// # Errors
/// The field at fault.
pub(super) fn asked(kind: &str, json: &[u8]) -> Option<Result<Asked, Error>> {
    fn read<R: DeserializeOwned + TryInto<Asked, Error = Error>>(
        json: &[u8],
    ) -> Result<Asked, Error> {
        parse::<R>(json)?.try_into()
    }
    Some(match kind {
        "navigate" => read::<NavigateRequest>(json),
        "click" => read::<ClickRequest>(json),
        "type" => read::<TypeRequest>(json),
        "screenshot" => read::<ScreenshotRequest>(json),
        "execute" => read::<ExecuteRequest>(json),
        "scroll" => read::<ScrollRequest>(json),
        "dialog" => read::<DialogRequest>(json),
        "state" => read::<StateParameters>(json),
        _ => return None,
    })
}

/// What a message of the API for services asks for: the same requests, with the same
/// defaults and limits, written in other letters.
///
/// # Errors
/// The field at fault.
pub(super) fn asked_by(request: v1::PerformRequest) -> Result<Asked, Error> {
    let kind = request.action.and_then(|it| it.kind);
    let mut asked: Asked = match kind.ok_or_else(|| Error::invalid("action", "is missing"))? {
        Kind::Navigate(it) => NavigateRequest::try_from(it)?.try_into(),
        Kind::Click(it) => ClickRequest::try_from(it)?.try_into(),
        Kind::Type(it) => TypeRequest::from(it).try_into(),
        Kind::Screenshot(it) => ScreenshotRequest::try_from(it)?.try_into(),
        Kind::Execute(it) => ExecuteRequest::try_from(it)?.try_into(),
        Kind::Scroll(it) => ScrollRequest::try_from(it)?.try_into(),
        Kind::State(v1::ReadState {}) => StateParameters::default().try_into(),
        Kind::Dialog(it) => DialogRequest::from(it).try_into(),
    }?;
    asked.session_id = said(request.session_id);
    asked.timeout_ms = (request.timeout_ms > 0).then_some(request.timeout_ms.into());
    Ok(asked)
}

/// A text of a message; what is empty is not said.
pub(super) fn said(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A choice of a message.
pub(super) fn chosen<T: TryFrom<i32>>(field: &str, number: i32) -> Result<T, Error> {
    T::try_from(number).map_err(|_| Error::invalid(field, "is none of those that there are"))
}

/// Runs what a request asks for, to its final outcome.
async fn perform(
    api: &Api,
    caller: &Caller,
    request: impl TryInto<Asked, Error = Error>,
) -> Result<Done, Response> {
    let asked = request.try_into().map_err(IntoResponse::into_response)?;
    let named = asked.session_id.clone();
    let request = asked.request().map_err(IntoResponse::into_response)?;
    let session = super::extract::session_for_command(api, caller, named.as_deref())
        .await
        .map_err(IntoResponse::into_response)?;
    let session_id = session.id();
    match api.sessions.perform(session, request).await {
        Ok(performed) => Ok(Done::new(session_id, performed)),
        Err(error) => Err(CommandError::into_response(error)),
    }
}

impl Done {
    pub(super) fn new(session: SessionId, performed: Performed) -> Self {
        Self {
            command: performed.command,
            session,
            answer: performed.answer,
            picture: performed.picture,
        }
    }

    /// As JSON, with the picture in base64 as `data` where there is one: it is written
    /// into the buffer that is sent.
    ///
    /// # Errors
    /// Where the answer cannot be written.
    pub(super) fn into_text(self) -> Result<String, Error> {
        let picture = whole(self.picture.unwrap_or_default());
        let reply = Reply {
            command_id: self.command,
            session_id: self.session,
            answer: self.answer,
        };
        let mut text =
            serde_json::to_string(&reply).map_err(|error| Error::Internal(error.into()))?;
        if picture.is_empty() {
            return Ok(text);
        }
        text.pop();
        text.push_str(",\"data\":\"");
        text.reserve(picture.len() / 3 * 4 + 8);
        STANDARD.encode_string(&picture, &mut text);
        text.push_str("\"}");
        Ok(text)
    }

    /// As the API for services has it.
    pub(super) fn into_message(self) -> v1::PerformReply {
        v1::PerformReply {
            command_id: self.command.to_string(),
            session_id: self.session.to_string(),
            outcome: Some(outcome_to_wire(&Ok(self.answer))),
            payload: whole(self.picture.unwrap_or_default()),
        }
    }

    fn into_json(self) -> Response {
        axum::Json(Reply {
            command_id: self.command,
            session_id: self.session,
            answer: self.answer,
        })
        .into_response()
    }
}

/// A picture in one piece: that which came in one is not copied.
fn whole(picture: Picture) -> Bytes {
    match <[Bytes; 1]>::try_from(picture.into_chunks()) {
        Ok([only]) => only,
        Err(many) => many.concat().into(),
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
