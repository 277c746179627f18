//! Pictures go ahead of their outcomes, on a connection of their own, in chunks
//! that are slices of the picture: nothing is copied.

use browserfleet_proto::agent::v1::Chunk;
use browserfleet_proto::agent::v1::media_service_client::MediaServiceClient;
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::limits::MEDIA_CHUNK_BYTES_MAX;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

/// Sends pictures while there is a link. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Deliverer {
    media: watch::Receiver<Option<Channel>>,
}

impl Deliverer {
    /// Sends over the connection that `media` has.
    #[must_use]
    pub fn new(media: watch::Receiver<Option<Channel>>) -> Self {
        Self { media }
    }

    /// Delivers a picture; across lost links, until `latest`, after which nobody
    /// waits for it. `false`: it was not delivered.
    pub async fn deliver(
        &self,
        session: SessionId,
        command: CommandId,
        picture: &Bytes,
        latest: Instant,
    ) -> bool {
        let mut media = self.media.clone();
        loop {
            let channel = match timeout_at(latest, media.wait_for(Option::is_some)).await {
                Ok(Ok(channel)) => channel.clone(),
                Ok(Err(_)) | Err(_) => return false,
            };
            let Some(channel) = channel else { continue };
            let chunks = chunks(session, command, picture);
            let mut client = MediaServiceClient::new(channel);
            let sent = client.deliver(tokio_stream::iter(chunks));
            match timeout_at(latest, sent).await {
                Ok(Ok(_)) => return true,
                Ok(Err(status)) => {
                    tracing::warn!(command.id = %command, %status, "could not deliver a picture");
                    // The same link would give the same answer: wait for another.
                    if !matches!(timeout_at(latest, media.changed()).await, Ok(Ok(()))) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }
}

fn chunks(session: SessionId, command: CommandId, picture: &Bytes) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = (0..picture.len())
        .step_by(MEDIA_CHUNK_BYTES_MAX)
        .map(|start| Chunk {
            data: picture.slice(start..picture.len().min(start + MEDIA_CHUNK_BYTES_MAX)),
            ..Chunk::default()
        })
        .collect();
    if let Some(first) = chunks.first_mut() {
        first.session_id = session.to_string();
        first.command_id = command.to_string();
        first.size_bytes = picture.len() as u64;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_are_the_picture(length in 1..3 * MEDIA_CHUNK_BYTES_MAX) {
            let picture = Bytes::from(vec![7; length]);
            let chunks = chunks(SessionId::new(), CommandId::new(), &picture);
            let total: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
            prop_assert_eq!(total, length);
            prop_assert!(chunks.iter().all(|chunk| chunk.data.len() <= MEDIA_CHUNK_BYTES_MAX));
            prop_assert_eq!(chunks[0].size_bytes, length as u64);
        }
    }
}
