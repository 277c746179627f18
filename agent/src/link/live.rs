//! Live views travel on a connection of their own, one stream for each session that
//! somebody looks at. Pictures go in pieces that are slices of them: nothing is copied.

use std::time::Duration;

use browserfleet_proto::agent::v1::live_down::Body as Down;
use browserfleet_proto::agent::v1::live_up::Body as Up;
use browserfleet_proto::agent::v1::media_service_client::MediaServiceClient;
use browserfleet_proto::agent::v1::{
    CursorChanged, InputAnswered, LiveDown, LiveOpened, LiveUp, LiveWish, OpenLive, PictureFormat,
    PictureHead, PicturePiece,
};
use browserfleet_proto::frame::Format;
use browserfleet_proto::input::Input;
use browserfleet_proto::limits::{INPUT_TEXT_BYTES_MAX, MEDIA_CHUNK_BYTES_MAX};
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::browser::live::{Asked, Ends, Picture, Shown, Wish};

/// How long the control plane may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What is shown and waits for the socket: the pictures that may be under way, and a few
/// cursors and answers.
const SHOWN_MAX: usize = 8;

/// Opens streams while there is a link. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams {
    connection: watch::Receiver<Option<Channel>>,
}

impl Streams {
    /// Opens them over this connection.
    #[must_use]
    pub fn new(connection: watch::Receiver<Option<Channel>>) -> Self {
        Self { connection }
    }

    /// Opens the stream that the control plane asked for. `None`: it could not be opened;
    /// who still wants one asks again.
    pub async fn open(&self, asked: OpenLive) -> Option<Ends> {
        let channel = self.connection.borrow().clone()?;
        let (shown, showing) = mpsc::channel(SHOWN_MAX);
        let opened = up(Up::Opened(LiveOpened {
            live_id: asked.live_id,
            session_id: asked.session_id,
            epoch: asked.epoch,
        }));
        let ups = stream::once(std::future::ready(opened))
            .chain(ReceiverStream::new(showing).flat_map(|it| stream::iter(messages(it)).map(up)));
        let mut client = MediaServiceClient::new(channel);
        let downs = match timeout(ANSWER_WITHIN, client.live(ups)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(%status, "a live view could not be opened");
                return None;
            }
            Err(_) => {
                tracing::debug!("nobody answered to a live view");
                return None;
            }
        };
        let asked_for = downs
            .take_while(|down| std::future::ready(down.is_ok()))
            .filter_map(|down| std::future::ready(down.ok().and_then(asked_of)));
        Some(Ends {
            asked: asked_for.boxed(),
            shown,
            after: asked.after_number,
        })
    }
}

fn up(body: Up) -> LiveUp {
    LiveUp { body: Some(body) }
}

/// What does not make sense is left out: it is a newer control plane's.
fn asked_of(down: LiveDown) -> Option<Asked> {
    match down.body? {
        Down::Wish(wish) => Some(Asked::Wish(wish_of(&wish))),
        Down::Taken(taken) => Some(Asked::Taken(taken.number)),
        Down::Input(it) => {
            let input: Input = serde_json::from_str(&it.json).ok()?;
            input.check().ok()?;
            Some(Asked::Input {
                number: it.number,
                input,
            })
        }
    }
}

fn wish_of(wish: &LiveWish) -> Wish {
    Wish {
        max_fps: wish.max_fps,
        max_width: wish.max_width,
        quality: wish.quality,
        format: match wish.format() {
            PictureFormat::Png => Format::Png,
            PictureFormat::Jpeg | PictureFormat::Unspecified => Format::Jpeg,
        },
    }
}

fn messages(shown: Shown) -> Vec<Up> {
    match shown {
        Shown::Picture(picture) => pieces(picture),
        Shown::Cursor(cursor) => vec![Up::Cursor(CursorChanged {
            cursor: cursor.number().into(),
        })],
        Shown::Answer { number, text } => answer(number, &text),
    }
}

fn pieces(picture: Picture) -> Vec<Up> {
    let Picture { bytes, .. } = &picture;
    let length = bytes.len();
    let starts = (0..length.max(1)).step_by(MEDIA_CHUNK_BYTES_MAX);
    starts
        .map(|start| {
            let end = length.min(start + MEDIA_CHUNK_BYTES_MAX);
            Up::Piece(PicturePiece {
                head: (start == 0).then(|| head(&picture)),
                data: bytes.slice(start..end),
                last: end == length,
            })
        })
        .collect()
}

fn head(picture: &Picture) -> PictureHead {
    PictureHead {
        number: picture.number,
        size_bytes: picture.bytes.len() as u64,
        captured_at_us: picture.captured_at_us,
        format: match picture.format {
            Format::Jpeg => PictureFormat::Jpeg,
            Format::Png => PictureFormat::Png,
        }
        .into(),
        width: picture.width,
        height: picture.height,
        page_scale: picture.page_scale,
        scroll_x: picture.scroll_x,
        scroll_y: picture.scroll_y,
    }
}

fn answer(number: u64, text: &str) -> Vec<Up> {
    let mut answers = Vec::new();
    let mut rest = text;
    loop {
        let (text, after) =
            rest.split_at(rest.floor_char_boundary(INPUT_TEXT_BYTES_MAX.min(rest.len())));
        rest = after;
        answers.push(Up::Answered(InputAnswered {
            number,
            text: text.to_owned(),
            last: rest.is_empty(),
        }));
        if rest.is_empty() {
            return answers;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_picture(length in 0..3 * MEDIA_CHUNK_BYTES_MAX) {
            let picture = Picture {
                number: 7,
                captured_at_us: 1,
                format: Format::Png,
                width: 1.0,
                height: 1.0,
                page_scale: 1.0,
                scroll_x: 0.0,
                scroll_y: 0.0,
                bytes: Bytes::from(vec![7; length]),
            };
            let (mut total, mut heads, mut lasts) = (0, 0, 0);
            let pieces = pieces(picture);
            for piece in &pieces {
                let Up::Piece(piece) = piece else { panic!("{piece:?}") };
                prop_assert!(piece.data.len() <= MEDIA_CHUNK_BYTES_MAX);
                total += piece.data.len();
                heads += usize::from(piece.head.is_some());
                lasts += usize::from(piece.last);
            }
            let ends = matches!(pieces.last(), Some(Up::Piece(it)) if it.last);
            prop_assert_eq!((total, heads, lasts, ends), (length, 1, 1, true));
        }

        #[test]
        fn an_answer_is_whole_whatever_its_characters(text in "\\PC{0,40}", times in 0..3000_usize) {
            let text = text.repeat(times);
            let answers = answer(3, &text);
            let mut whole = String::new();
            for (place, answer) in answers.iter().enumerate() {
                let Up::Answered(it) = answer else { panic!("{answer:?}") };
                prop_assert!(it.text.len() <= INPUT_TEXT_BYTES_MAX);
                prop_assert_eq!(it.last, place + 1 == answers.len());
                whole.push_str(&it.text);
            }
            prop_assert_eq!(whole, text);
        }
    }

    #[test]
    fn what_is_no_input_is_left_out() {
        let down = |json: &str| LiveDown {
            body: Some(Down::Input(browserfleet_proto::agent::v1::LiveInput {
                number: 1,
                json: json.to_owned(),
            })),
        };
        assert!(asked_of(down(r#"{"kind":"copy"}"#)).is_some());
        assert!(
            asked_of(down(
                r#"{"kind":"mouse","type":"mouseMoved","x":1e99,"y":0}"#
            ))
            .is_none()
        );
        assert!(asked_of(down("nonsense")).is_none());
    }
}
