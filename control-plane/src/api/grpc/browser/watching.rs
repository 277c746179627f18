//! What happens in a session, and what it looks like.

use browserfleet_proto::browser::v1::{self, watch_events_reply::Body};
use browserfleet_proto::frame::{Format, HEADER_BYTES};
use futures_util::stream::{Stream, StreamExt, once, unfold};
use serde::Deserialize;
use serde_json::value::RawValue;
use tonic::Status;

use super::refusal::status_of;
use crate::api::{Api, ws};
use crate::error::Error;
use crate::relay::{Event, Followed, Frame, Over, Viewer};
use crate::sessions::OwnedSession;

/// An event's message, as far as it is looked into.
#[derive(Deserialize)]
struct Told<'a> {
    at: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// How a session stands, and then what happens in it, until it is over. Nothing waits
/// here for a client that is slow: it is told that it missed something.
pub(super) fn events(
    api: &Api,
    session: &OwnedSession,
    after: Option<u64>,
) -> impl Stream<Item = Result<v1::WatchEventsReply, Status>> + use<> {
    let following = api.sessions.follow(session, after);
    let control = api.sessions.control_of(session);
    let standing = Body::Standing(v1::Standing {
        payload_json: ws::standing(session, &control).to_string(),
    });
    let happens = unfold(Some(following), |following| async {
        let mut following = following?;
        let said = match following.next().await {
            Ok(Followed::Event(event)) => message_of(&event).map(Body::Event),
            Ok(Followed::Resync { seq }) => Ok(Body::Resync(v1::Resync { seq })),
            Ok(Followed::Over | Followed::Moved) => return None,
            Err(error) => Err(error),
        };
        match said {
            Ok(said) => Some((Ok(said), Some(following))),
            Err(error) => Some((Err(status_of(error)), None)),
        }
    });
    let told = once(async { Ok(standing) }).chain(happens);
    told.map(|said| said.map(|body| v1::WatchEventsReply { body: Some(body) }))
}

fn message_of(event: &Event) -> Result<v1::Event, Error> {
    let told: Told<'_> =
        serde_json::from_slice(&event.text).map_err(|error| Error::Internal(error.into()))?;
    Ok(v1::Event {
        seq: event.seq,
        r#type: event.kind.clone(),
        at: told.at.to_owned(),
        payload_json: told.payload.get().to_owned(),
    })
}

/// The newest picture each time that the client has room for one, until the session is
/// over: none waits and grows old.
pub(super) fn frames(viewer: Viewer) -> impl Stream<Item = Result<v1::Frame, Status>> {
    unfold(viewer, |mut viewer| async {
        match viewer.next().await {
            Ok(frame) => Some((Ok(picture_of(frame)), viewer)),
            Err(Over) => None,
        }
    })
}

fn picture_of(Frame { header, message }: Frame) -> v1::Frame {
    let format = match header.format {
        None => v1::ImageFormat::Unspecified,
        Some(Format::Jpeg) => v1::ImageFormat::Jpeg,
        Some(Format::Png) => v1::ImageFormat::Png,
    };
    v1::Frame {
        sequence: header.sequence,
        captured_at_us: header.captured_at_us,
        format: format.into(),
        width: header.width,
        height: header.height,
        page_scale: header.page_scale,
        scroll_x: header.scroll_x,
        scroll_y: header.scroll_y,
        cursor: header.cursor.name().to_owned(),
        // The picture itself is what all viewers share.
        picture: message.slice(HEADER_BYTES.min(message.len())..),
    }
}
