//! Pictures, which come ahead of their outcomes. A picture is a list of the chunks
//! that arrived: nothing is copied between the agent's stream and the caller's
//! response.

use browserfleet_proto::limits;
use bytes::Bytes;

/// Bytes that all pictures may have together that wait for their outcome: four of
/// the largest.
pub(super) const PARKED_BYTES_MAX: usize = 4 * limits::PAYLOAD_BYTES_MAX;

/// A picture, in the pieces that it came in.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    chunks: Vec<Bytes>,
    bytes: usize,
}

/// The picture is larger than may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the picture is larger than may be held")]
pub struct Oversize;

impl Picture {
    /// Adds a piece.
    ///
    /// # Errors
    /// [`Oversize`] beyond [`limits::PAYLOAD_BYTES_MAX`].
    pub fn push(&mut self, chunk: Bytes) -> Result<(), Oversize> {
        self.bytes += chunk.len();
        if self.bytes > limits::PAYLOAD_BYTES_MAX {
            return Err(Oversize);
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The pieces, in order.
    #[must_use]
    pub fn into_chunks(self) -> Vec<Bytes> {
        self.chunks
    }
}

impl From<Bytes> for Picture {
    fn from(chunk: Bytes) -> Self {
        Self {
            bytes: chunk.len(),
            chunks: vec![chunk],
        }
    }
}
