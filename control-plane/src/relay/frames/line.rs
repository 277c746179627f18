//! The agent's end of a live view: pieces become pictures, and what the view wants goes
//! down. An agent is believed only about the session that it was asked for, and only
//! within its bounds.

use std::pin::Pin;
use std::sync::Arc;

use browserfleet_proto::agent::v1::live_down::Body as Down;
use browserfleet_proto::agent::v1::live_up::Body as Up;
use browserfleet_proto::agent::v1::{
    LiveDown, LiveOpened, LiveUp, PictureFormat, PictureHead, PicturePiece, PicturesTaken,
};
use browserfleet_proto::frame::{Cursor, Format, HEADER_BYTES, Header};
use browserfleet_proto::ids::{InstanceId, LiveId, SessionId};
use browserfleet_proto::limits::{FRAME_BYTES_MAX, INPUT_TEXT_BYTES_MAX};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;

use super::{Frame, View, locked, wish};
use crate::relay::Relay;

/// Longest side of a page's view that makes sense, in CSS pixels.
const SIDE_MAX: f32 = 65_536.0;
/// Farthest that a page may be scrolled, in CSS pixels: Chrome's own limit is below it.
const SCROLL_MAX: f32 = 1e9;
/// Most that a page may be zoomed in.
const SCALE_MAX: f32 = 100.0;

/// What goes to the agent.
pub type Downs = Pin<Box<dyn Stream<Item = LiveDown> + Send>>;

/// The agent said what it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Strange(&'static str);

/// The agent's stream, while it is there.
#[derive(Debug)]
pub struct Line {
    view: Arc<View>,
    live: LiveId,
    coming: Option<Coming>,
}

/// A picture whose pieces come.
#[derive(Debug)]
struct Coming {
    header: Header,
    /// The header, and the pieces that came.
    frame: BytesMut,
    bytes: usize,
}

impl Relay {
    /// An agent opened the stream that it was asked for. `None`: it was not, or nobody
    /// wants it any more.
    pub fn live_opened(&self, instance: InstanceId, opened: &LiveOpened) -> Option<(Line, Downs)> {
        let session = opened.session_id.parse::<SessionId>().ok()?;
        let live = opened.live_id.parse::<LiveId>().ok()?;
        let view = self.views.find(session)?;
        if view.place.instance != instance || view.place.epoch != opened.epoch {
            return None;
        }
        let inputs = {
            let mut stream = locked(&view.stream);
            if stream.live != live {
                return None;
            }
            stream.waiting.take()?
        };
        let wishes = levels(view.wanted.subscribe(), |wanted| {
            Down::Wish(wish::of_all(wanted.wishes.values()))
        });
        let taken = levels(view.taken.subscribe(), |number| {
            Down::Taken(PicturesTaken { number: *number })
        });
        let inputs = ReceiverStream::new(inputs).map(|doing| {
            drop(doing.room);
            Down::Input(doing.input)
        });
        let downs = stream::select(wishes, stream::select(taken, inputs))
            .map(|body| LiveDown { body: Some(body) })
            .take_until(view.over.clone().cancelled_owned())
            .boxed();
        view.up.send_replace(true);
        let coming = None;
        let line = Line { view, live, coming };
        Some((line, downs))
    }
}

/// A level that is told now and whenever it is another one.
fn levels<T: Send + Sync + 'static>(
    level: watch::Receiver<T>,
    told: impl Fn(&T) -> Down + Send + 'static,
) -> impl Stream<Item = Down> + Send {
    stream::unfold(
        (level, told, None),
        |(mut level, told, mut last)| async move {
            loop {
                let now = told(&level.borrow_and_update());
                if last.as_ref() != Some(&now) {
                    last = Some(now.clone());
                    return Some((now, (level, told, last)));
                }
                level.changed().await.ok()?;
            }
        },
    )
}

impl Line {
    /// Resolves once the stream is to end.
    pub async fn over(&self) {
        self.view.over.cancelled().await;
    }

    /// Takes what the agent says.
    ///
    /// # Errors
    /// [`Strange`]
    pub fn take(&mut self, up: LiveUp) -> Result<(), Strange> {
        match up.body {
            Some(Up::Piece(piece)) => self.piece(piece),
            Some(Up::Cursor(it)) => {
                let cursor = Cursor::numbered(it.cursor);
                self.view.shown.send_modify(|shown| shown.cursor = cursor);
                Ok(())
            }
            Some(Up::Answered(it)) if it.text.len() <= INPUT_TEXT_BYTES_MAX => {
                self.view.answered(it.number, &it.text, it.last);
                Ok(())
            }
            Some(Up::Answered(_)) => Err(Strange("an answer's piece is too long")),
            Some(Up::Opened(_)) => Err(Strange("it was opened already")),
            // A newer agent's kind of message.
            None => Ok(()),
        }
    }

    fn piece(&mut self, piece: PicturePiece) -> Result<(), Strange> {
        let mut coming = match (self.coming.take(), piece.head) {
            (None, Some(head)) => self.begin(&head)?,
            (Some(coming), None) => coming,
            (None, None) => return Err(Strange("a piece of no picture")),
            (Some(_), Some(_)) => return Err(Strange("a picture within another one")),
        };
        coming.frame.extend_from_slice(&piece.data);
        let came = coming.frame.len() - HEADER_BYTES;
        if came > coming.bytes || piece.last != (came == coming.bytes) {
            return Err(Strange("a picture is not as long as it was said to be"));
        }
        if !piece.last {
            self.coming = Some(coming);
            return Ok(());
        }
        let frame = Frame {
            header: coming.header,
            message: coming.frame.freeze(),
        };
        let viewed = !self.view.wanted.borrow().wishes.is_empty();
        if viewed {
            self.view
                .shown
                .send_modify(|shown| shown.picture = Some(frame));
        } else {
            // It was on its way when the last one left.
            self.view.take(coming.header.sequence);
        }
        Ok(())
    }

    fn begin(&self, head: &PictureHead) -> Result<Coming, Strange> {
        let bytes = usize::try_from(head.size_bytes)
            .ok()
            .filter(|bytes| (1..=FRAME_BYTES_MAX).contains(bytes))
            .ok_or(Strange("a picture of a size that none has"))?;
        if head.number <= self.view.last_number() {
            return Err(Strange("a picture with a number from before"));
        }
        let sane = (0.0..=SIDE_MAX).contains(&head.width)
            && (0.0..=SIDE_MAX).contains(&head.height)
            && (0.0..=SCALE_MAX).contains(&head.page_scale)
            && head.scroll_x.abs() <= SCROLL_MAX
            && head.scroll_y.abs() <= SCROLL_MAX;
        if !sane {
            return Err(Strange("a picture of a page that cannot be"));
        }
        let format = match head.format() {
            PictureFormat::Jpeg => Format::Jpeg,
            PictureFormat::Png => Format::Png,
            PictureFormat::Unspecified => return Err(Strange("a picture of no kind")),
        };
        let header = Header {
            session: self.view.place.session,
            sequence: head.number,
            captured_at_us: head.captured_at_us,
            format: Some(format),
            width: head.width,
            height: head.height,
            page_scale: head.page_scale,
            scroll_x: head.scroll_x,
            scroll_y: head.scroll_y,
            cursor: self.view.shown.borrow().cursor,
        };
        let frame = header.begin(bytes);
        Ok(Coming {
            header,
            frame,
            bytes,
        })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let current = locked(&self.view.stream).live == self.live;
        if current {
            // What waited for an answer of this stream gets none.
            locked(&self.view.answers).clear();
            self.view.up.send_replace(false);
        }
    }
}
