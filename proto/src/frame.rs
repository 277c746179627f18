//! The binary frame of a live view, as `/ws` carries it: a header of 56 bytes, then the
//! picture as it is. All numbers are big-endian, which is what a `DataView` reads.
//!
//! | offset | type | what |
//! | --- | --- | --- |
//! | 0 | u8 | version: 1 |
//! | 1 | u8 | picture: 0 none, 1 JPEG, 2 PNG |
//! | 2 | u8 | cursor: its place in [`CURSORS`] |
//! | 3 | u8 | bytes of this header; the picture begins there |
//! | 4 | f32 | width of the page's view, in CSS pixels |
//! | 8 | f32 | height of the page's view, in CSS pixels |
//! | 12 | f32 | page scale: how far the page is zoomed in by pinching |
//! | 16 | f32 | scroll offset to the right, in CSS pixels |
//! | 20 | f32 | scroll offset down, in CSS pixels |
//! | 24 | u64 | sequence: grows within a session; gaps are frames that were left out |
//! | 32 | u64 | capture time, in µs since 1970 by the clock of the browser's machine |
//! | 40 | 16 bytes | session: the id's UUID |
//! | 56 | … | the picture |
//!
//! Input is reckoned in the view's CSS pixels, whatever the picture's own size is. A
//! frame without a picture says that only the rest of the header is new.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::SessionId;

/// The version that this build writes.
pub const VERSION: u8 = 1;
/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 56;
/// CSS cursors, by the number that stands for them. Others, and those that a page draws
/// itself, are `default`.
pub const CURSORS: [&str; 34] = [
    "default",
    "pointer",
    "text",
    "none",
    "context-menu",
    "help",
    "progress",
    "wait",
    "cell",
    "crosshair",
    "vertical-text",
    "alias",
    "copy",
    "move",
    "no-drop",
    "not-allowed",
    "grab",
    "grabbing",
    "all-scroll",
    "col-resize",
    "row-resize",
    "n-resize",
    "e-resize",
    "s-resize",
    "w-resize",
    "ne-resize",
    "nw-resize",
    "se-resize",
    "sw-resize",
    "ew-resize",
    "ns-resize",
    "nesw-resize",
    "nwse-resize",
    "zoom-in",
];

/// What a picture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// Small and fast.
    #[default]
    Jpeg,
    /// Exact.
    Png,
}

/// A CSS cursor, as a place in [`CURSORS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor(u8);

impl Cursor {
    /// The cursor of this name; `default` where it is none of ours.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let place = CURSORS.iter().position(|it| *it == name).unwrap_or(0);
        Self(u8::try_from(place).unwrap_or(0))
    }

    /// The cursor of this number; `default` where it has none.
    #[must_use]
    pub fn numbered(number: u32) -> Self {
        match u8::try_from(number) {
            Ok(number) if usize::from(number) < CURSORS.len() => Self(number),
            _ => Self(0),
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its name in CSS.
    #[must_use]
    pub fn name(self) -> &'static str {
        CURSORS[usize::from(self.0)]
    }
}

/// What is known of a picture, and of the page when it was taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header {
    /// Whose page.
    pub session: SessionId,
    /// Grows within a session.
    pub sequence: u64,
    /// When it was taken, in µs since 1970 by the clock of the browser's machine.
    pub captured_at_us: u64,
    /// `None`: only the rest of the header is new.
    pub format: Option<Format>,
    /// Of the page's view, in CSS pixels.
    pub width: f32,
    /// Of the page's view, in CSS pixels.
    pub height: f32,
    /// How far the page is zoomed in by pinching.
    pub page_scale: f32,
    /// To the right, in CSS pixels.
    pub scroll_x: f32,
    /// Down, in CSS pixels.
    pub scroll_y: f32,
    /// Under the pointer.
    pub cursor: Cursor,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAFrame {
    /// They end before the header does.
    #[error("the header is cut off")]
    Short,
    /// They are of another version.
    #[error("a frame of version {0}")]
    Version(u8),
    /// The picture is of no known kind.
    #[error("a picture of kind {0}")]
    Picture(u8),
}

impl Header {
    /// Begins a frame that has room for its picture: the pieces are appended.
    #[must_use]
    pub fn begin(&self, picture_bytes: usize) -> BytesMut {
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + picture_bytes);
        frame.put_u8(VERSION);
        frame.put_u8(match self.format {
            None => 0,
            Some(Format::Jpeg) => 1,
            Some(Format::Png) => 2,
        });
        frame.put_u8(self.cursor.number());
        frame.put_u8(HEADER_BYTES as u8);
        frame.put_f32(self.width);
        frame.put_f32(self.height);
        frame.put_f32(self.page_scale);
        frame.put_f32(self.scroll_x);
        frame.put_f32(self.scroll_y);
        frame.put_u64(self.sequence);
        frame.put_u64(self.captured_at_us);
        frame.put_slice(&self.session.bytes());
        frame
    }

    /// Reads a frame: its header, and its picture without copying it.
    ///
    /// # Errors
    /// [`NotAFrame`]
    pub fn read(frame: &Bytes) -> Result<(Self, Bytes), NotAFrame> {
        let version = *frame.first().ok_or(NotAFrame::Short)?;
        if version != VERSION {
            return Err(NotAFrame::Version(version));
        }
        let header: &[u8; HEADER_BYTES] = frame.first_chunk().ok_or(NotAFrame::Short)?;
        let picture_at = usize::from(header[3]);
        if picture_at < HEADER_BYTES || picture_at > frame.len() {
            return Err(NotAFrame::Short);
        }
        let four = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let float = |at| f32::from_be_bytes(four(at));
        let eight = |at: usize| {
            u64::from(u32::from_be_bytes(four(at))) << 32
                | u64::from(u32::from_be_bytes(four(at + 4)))
        };
        let mut session = [0; 16];
        session.copy_from_slice(&header[40..56]);
        let header = Self {
            session: SessionId::from_bytes(session),
            sequence: eight(24),
            captured_at_us: eight(32),
            format: match header[1] {
                0 => None,
                1 => Some(Format::Jpeg),
                2 => Some(Format::Png),
                other => return Err(NotAFrame::Picture(other)),
            },
            width: float(4),
            height: float(8),
            page_scale: float(12),
            scroll_x: float(16),
            scroll_y: float(20),
            cursor: Cursor::numbered(header[2].into()),
        };
        Ok((header, frame.slice(picture_at..)))
    }
}

const _: () = assert!(HEADER_BYTES <= u8::MAX as usize && CURSORS.len() <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(
        sequence: u64,
        captured_at_us: u64,
        format: u8,
        floats: [f32; 5],
        cursor: u32,
    ) -> Header {
        Header {
            session: SessionId::new(),
            sequence,
            captured_at_us,
            format: [None, Some(Format::Jpeg), Some(Format::Png)][usize::from(format % 3)],
            width: floats[0],
            height: floats[1],
            page_scale: floats[2],
            scroll_x: floats[3],
            scroll_y: floats[4],
            cursor: Cursor::numbered(cursor),
        }
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_what_it_wrote(
            sequence: u64, captured_at_us: u64, format: u8, cursor in 0..40_u32,
            floats in prop::array::uniform5(0.0..1e6_f32), picture: Vec<u8>,
        ) {
            let header = header(sequence, captured_at_us, format, floats, cursor);
            let mut frame = header.begin(picture.len());
            prop_assert_eq!(frame.len(), HEADER_BYTES);
            frame.extend_from_slice(&picture);
            let (read, rest) = Header::read(&frame.freeze()).unwrap();
            prop_assert_eq!(read, header);
            prop_assert_eq!(rest, picture);
        }

        #[test]
        fn no_bytes_are_too_strange_to_be_refused(bytes: Vec<u8>) {
            drop(Header::read(&bytes.into()));
        }
    }

    #[test]
    fn every_cursor_has_its_number() {
        for name in CURSORS {
            let cursor = Cursor::named(name);
            assert_eq!(cursor.name(), name);
            assert_eq!(Cursor::numbered(cursor.number().into()), cursor);
        }
        assert_eq!(Cursor::named("url(x.png), auto").name(), "default");
    }
}
