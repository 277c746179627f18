//! What is said on a socket, both ways: `{type, id?, session_id?, seq?, payload?}`.

use browserfleet_proto::ids::{CommandId, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::body::parse;
use crate::api::problem;
use crate::api::under_way::check_id;
use crate::error::Error;

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Incoming {
    /// What kind of thing.
    pub(super) r#type: String,
    /// The client's name for it, which its answer has too.
    pub(super) id: Option<String>,
    /// Which session it is for.
    pub(super) session_id: Option<String>,
    /// What it says, by its kind.
    payload: Option<Box<RawValue>>,
}

impl Incoming {
    /// Reads a message.
    ///
    /// # Errors
    /// The field at fault.
    pub(super) fn read(text: &[u8]) -> Result<Self, Error> {
        let message: Self = parse(text)?;
        if let Some(id) = &message.id {
            check_id(id)?;
        }
        Ok(message)
    }

    /// The JSON of its payload; `{}` where it has none.
    pub(super) fn json(&self) -> &[u8] {
        self.payload
            .as_ref()
            .map_or(b"{}".as_slice(), |it| it.get().as_bytes())
    }

    /// Its payload.
    ///
    /// # Errors
    /// The field at fault, as `payload.…`.
    pub(super) fn payload<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        parse(self.json()).map_err(within_payload)
    }

    /// What its answers begin with.
    pub(super) fn about(&self) -> About {
        About {
            id: self.id.clone(),
            session_id: self.session_id.clone(),
        }
    }
}

/// A field of the payload, as the client sees it.
pub(super) fn within_payload(error: Error) -> Error {
    match error {
        Error::Invalid { field, message } if field == "body" => Error::Invalid {
            field: "payload".into(),
            message,
        },
        Error::Invalid { field, message } => Error::Invalid {
            field: format!("payload.{field}"),
            message,
        },
        other => other,
    }
}

/// What an answer is about.
#[derive(Debug, Default, Clone)]
pub(super) struct About {
    id: Option<String>,
    session_id: Option<String>,
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    payload: T,
}

impl About {
    /// About a session that the client did not name itself.
    pub(super) fn session(mut self, session: SessionId) -> Self {
        self.session_id = Some(session.to_string());
        self
    }

    /// A message about it.
    pub(super) fn message(&self, kind: &str, payload: impl Serialize) -> String {
        let message = Outgoing {
            r#type: kind,
            id: self.id.as_deref(),
            session_id: self.session_id.as_deref(),
            payload,
        };
        match serde_json::to_string(&message) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(kind, %error, "could not write a message");
                r#"{"type":"error","payload":{"code":"internal","status":500}}"#.to_owned()
            }
        }
    }

    /// A message about it whose payload is JSON already.
    pub(super) fn message_of_json(&self, kind: &str, payload: String) -> String {
        match RawValue::from_string(payload) {
            Ok(payload) => self.message(kind, payload),
            Err(error) => self.error(&Error::Internal(error.into()), None),
        }
    }

    /// What went wrong with it: the problem that REST would answer.
    pub(super) fn error(&self, error: &Error, command: Option<CommandId>) -> String {
        if let Error::Internal(cause) = error {
            tracing::error!(cause = format!("{cause:?}"), "a message failed");
        }
        self.message("error", problem::problem_of(error, command))
    }
}

/// A message that answers nothing.
pub(super) fn unasked(kind: &str, session: Option<SessionId>, payload: Value) -> String {
    let about = About {
        id: None,
        session_id: session.map(|it| it.to_string()),
    };
    about.message(kind, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_at_fault_is_named_where_the_client_wrote_it() {
        let field = |text: &str| Incoming::read(text.as_bytes()).map(drop).unwrap_err();
        assert_eq!(field(r#"{"type":"a","what":1}"#).field(), Some("what"));
        assert_eq!(field(r#"{"type":1}"#).field(), Some("type"));
        assert_eq!(field("nonsense").code(), "bad_request");
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Payload {
            #[expect(dead_code, reason = "it is read to see what is refused")]
            number: u32,
        }
        let message = Incoming::read(br#"{"type":"a","payload":{"number":-1}}"#).unwrap();
        let refused = message.payload::<Payload>().unwrap_err();
        assert_eq!(refused.field(), Some("payload.number"));
    }
}
