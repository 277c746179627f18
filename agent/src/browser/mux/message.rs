//! One message of a client of CDP: read once, and changed in place. What is not an id
//! stays as the client wrote it, byte for byte.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Up to here a message is copied into one piece: a write costs more than a copy.
const COPIED_BYTES_MAX: usize = 64 * 1024;
/// How deep a message may be nested: Chrome reads some more, and says of the rest that
/// it is no JSON, to nobody.
const DEPTH_MAX: usize = 290;
/// JSON-RPC's and Chrome's own codes.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const NO_SUCH_SESSION: i32 = -32001;
/// Chrome's code for a command that it did not do.
const SERVER_ERROR: i32 = -32000;

/// Some bytes in a few pieces, which are not copied where they are many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pieces(pub(crate) Vec<Bytes>);

impl Pieces {
    pub(crate) fn of(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: Vec<Bytes> = pieces.into_iter().filter(|it| !it.is_empty()).collect();
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        if pieces.len() <= 1 || bytes > COPIED_BYTES_MAX {
            return Self(pieces);
        }
        let mut whole = BytesMut::with_capacity(bytes);
        for piece in pieces {
            whole.put(piece);
        }
        Self(vec![whole.freeze()])
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}

/// A message that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) id: i32,
    pub(super) method: std::borrow::Cow<'a, str>,
    /// One of the client's own sessions; `None`: the one that its socket is.
    pub(super) session: Option<std::borrow::Cow<'a, str>>,
    /// Its JSON.
    pub(super) params: Option<&'a str>,
    id_at: Range<usize>,
    params_at: Option<Range<usize>>,
    /// Where its last brace is.
    end: usize,
}

/// What a message gets that makes none, as Chrome would say it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    id: Option<i32>,
    code: i32,
    text: String,
}

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", rename = "sessionId")]
    session: Option<&'a RawValue>,
}

/// `null` is there too.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Request<'a> {
    pub(super) fn read(text: &'a [u8]) -> Result<Self, Fault> {
        let fault = |id, code, text: &str| Fault {
            id,
            code,
            text: text.to_owned(),
        };
        let outline: Outline<'a> = match serde_json::from_slice(text) {
            Ok(outline) => outline,
            Err(error) if error.is_data() => {
                return Err(fault(None, INVALID_REQUEST, &error.to_string()));
            }
            Err(error) => return Err(fault(None, PARSE_ERROR, &format!("JSON: {error}"))),
        };
        if is_too_deep(text) {
            return Err(fault(None, PARSE_ERROR, "JSON: stack limit exceeded"));
        }
        // A structure may be read from a list too.
        let is_object = text.trim_ascii_start().first() == Some(&b'{');
        if !is_object {
            return Err(fault(None, INVALID_REQUEST, "Message must be an object"));
        }
        let id = outline.id.and_then(|it| it.get().parse::<i32>().ok());
        let Some((id, id_at)) = id.zip(outline.id.map(|it| place(text, it))) else {
            let words = "Message must have integer 'id' property";
            return Err(fault(None, INVALID_REQUEST, words));
        };
        let string = |it: &'a RawValue| serde_json::from_str::<Text<'a>>(it.get()).ok();
        let Some(Text(method)) = outline.method.and_then(string) else {
            let words = "Message must have string 'method' property";
            return Err(fault(Some(id), INVALID_REQUEST, words));
        };
        let session = match outline.session.map(string) {
            None => None,
            Some(Some(Text(session))) => Some(session),
            Some(None) => {
                let words = "Message may have string 'sessionId' property";
                return Err(fault(Some(id), INVALID_REQUEST, words));
            }
        };
        let end = text.iter().rposition(|it| *it == b'}').unwrap_or_default();
        Ok(Self {
            id,
            method,
            session,
            params: outline.params.map(RawValue::get),
            id_at,
            params_at: outline.params.map(|it| place(text, it)),
            end,
        })
    }

    /// The frame for Chrome: another id, the socket's session where the client names
    /// none, and other parameters where they have to be.
    pub(super) fn frame(
        &self,
        text: &Bytes,
        id: u32,
        root: &str,
        params: Option<String>,
    ) -> Pieces {
        let mut changes = vec![(self.id_at.clone(), id.to_string())];
        if let Some((params, at)) = params.zip(self.params_at.clone()) {
            changes.push((at, params));
        }
        let last = match self.session {
            Some(_) => "}\0".to_owned(),
            None => format!(",\"sessionId\":\"{root}\"}}\0"),
        };
        changes.push((self.end..text.len(), last));
        changes.sort_by_key(|(at, _)| at.start);
        let mut pieces = Vec::with_capacity(2 * changes.len());
        let mut from = 0;
        for (at, new) in changes {
            pieces.push(text.slice(from..at.start));
            pieces.push(Bytes::from(new));
            from = at.end;
        }
        Pieces::of(pieces)
    }

    /// The same message with other parameters, where it has some.
    pub(super) fn with_params(&self, text: &str, params: &str) -> String {
        let mut text = text.to_owned();
        if let Some(at) = self.params_at.clone() {
            text.replace_range(at, params);
        }
        text
    }

    /// What Chrome says of a session that is not there; also of one that is not the
    /// client's.
    pub(super) fn unknown_session(&self) -> Fault {
        Fault {
            id: Some(self.id),
            code: NO_SUCH_SESSION,
            text: "Session with given id not found.".to_owned(),
        }
    }

    pub(super) fn refused(&self, why: impl Into<String>) -> Fault {
        Fault {
            id: Some(self.id),
            code: SERVER_ERROR,
            text: why.into(),
        }
    }

    /// An answer that says nothing but that it was done.
    pub(super) fn done(&self) -> Bytes {
        let session = self.session.as_deref().map_or(String::new(), |it| {
            format!(",\"sessionId\":{}", serde_json::Value::from(it))
        });
        format!("{{\"id\":{},\"result\":{{}}{session}}}", self.id).into()
    }
}

/// A string that borrows where it can.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

impl Fault {
    /// As an answer, on the client's session where it named one.
    pub(super) fn answer(&self, session: Option<&str>) -> Bytes {
        let mut answer = serde_json::Map::new();
        if let Some(id) = self.id {
            answer.insert("id".into(), id.into());
        }
        let error = serde_json::json!({ "code": self.code, "message": self.text });
        answer.insert("error".into(), error);
        // Chrome knows no session that it could answer on.
        if let Some(session) = session.filter(|_| self.code != NO_SUCH_SESSION) {
            answer.insert("sessionId".into(), session.into());
        }
        serde_json::Value::Object(answer).to_string().into()
    }
}

/// Of a text that is JSON.
fn is_too_deep(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn place(text: &[u8], part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + part.get().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static str) -> String {
        let bytes = Bytes::from_static(text.as_bytes());
        let request = Request::read(&bytes).expect("it makes sense");
        let pieces = request.frame(&bytes, 99, "ROOT", None);
        String::from_utf8(pieces.0.concat()).expect("UTF-8")
    }

    #[test]
    fn only_ids_are_changed_wherever_they_are() {
        assert_eq!(
            frame(r#"{"id":1,"method":"A.b","params":{"id":2}}"#),
            "{\"id\":99,\"method\":\"A.b\",\"params\":{\"id\":2},\"sessionId\":\"ROOT\"}\0"
        );
        assert_eq!(
            frame(r#"{ "method":"A.b", "params":{"x":[ 1 ]}, "sessionId":"S", "id": 7 } "#),
            "{ \"method\":\"A.b\", \"params\":{\"x\":[ 1 ]}, \"sessionId\":\"S\", \"id\": 99 }\0"
        );
    }

    fn code(text: &str) -> (Option<i32>, i32) {
        let fault = Request::read(text.as_bytes()).expect_err("it makes none");
        (fault.id, fault.code)
    }

    #[test]
    fn what_makes_no_sense_gets_what_chrome_says_of_it() {
        assert_eq!(code("{bad"), (None, PARSE_ERROR));
        assert_eq!(code(""), (None, PARSE_ERROR));
        assert_eq!(code("[1]"), (None, INVALID_REQUEST));
        assert_eq!(code(r#"{"method":"a"}"#), (None, INVALID_REQUEST));
        assert_eq!(
            code(r#"{"id":9007199254740992,"method":"a"}"#),
            (None, INVALID_REQUEST)
        );
        assert_eq!(code(r#"{"id":7}"#), (Some(7), INVALID_REQUEST));
        assert_eq!(
            code(r#"{"id":8,"method":"a","sessionId":null}"#),
            (Some(8), INVALID_REQUEST)
        );
        // Which of the two would count is nobody's to guess.
        assert_eq!(
            code(r#"{"id":8,"\u0069d":9,"method":"a"}"#),
            (None, INVALID_REQUEST)
        );
        assert_eq!(code("{\"id\":8,\"method\":\"a\0\"}"), (None, PARSE_ERROR));
    }

    #[test]
    fn what_chrome_would_say_nothing_of_is_answered() {
        let deep = |depth| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"id":1,"method":"a","params":{{"x":{open}"\"[{{"{close}}}}}"#)
        };
        assert_eq!(code(&deep(100_000)), (None, PARSE_ERROR));
        assert_eq!(code(&deep(DEPTH_MAX - 1)), (None, PARSE_ERROR));
        assert!(Request::read(deep(DEPTH_MAX - 2).as_bytes()).is_ok());
    }
}
