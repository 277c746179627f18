//! What a session's browser downloaded. It is there for as long as the session lives.

use std::io;

use browserfleet_proto::limits::TUNNEL_OPENS_WITHIN;
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{OwnedSession, Sessions};
use crate::clock;
use crate::error::Error;
use crate::relay::{self, Refused};

/// A file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Download {
    /// As Chrome calls it: the `guid` of `Browser.downloadWillBegin`, where a client of
    /// CDP asked for downloads.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
}

impl Sessions {
    /// Lists them; those that are still being fetched are not among them.
    ///
    /// # Errors
    /// Where the session takes no commands either.
    pub async fn downloads(&self, session: &OwnedSession) -> Result<Vec<Download>, Error> {
        let mut said = self.fetch(session, None).await?;
        let list = timeout(TUNNEL_OPENS_WITHIN, said.hearing.next()).await;
        let list = list
            .map_err(|_| Error::NotSent)?
            .map_err(|_| Error::NotSent)?;
        serde_json::from_slice(&list).map_err(|error| Error::Internal(error.into()))
    }

    /// One of them, as it is read.
    ///
    /// # Errors
    /// [`Error::NotFound`], and where the session takes no commands either.
    pub async fn download(
        &self,
        session: &OwnedSession,
        name: &str,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Error> {
        let said = self.fetch(session, Some(name.to_owned())).await?;
        Ok(stream::unfold(Some(said), |said| async move {
            let mut said = said?;
            match said.hearing.next_piece().await {
                Ok(piece) if piece.last && piece.data.is_empty() => None,
                Ok(piece) => {
                    let said = Some(said).filter(|_| !piece.last);
                    Some((Ok(piece.data), said))
                }
                // The caller has to know that it is not whole.
                Err(ended) => {
                    let cut = io::Error::other(format!("the download was cut: {ended:?}"));
                    Some((Err(cut), None))
                }
            }
        }))
    }

    async fn fetch(
        &self,
        session: &OwnedSession,
        name: Option<String>,
    ) -> Result<relay::Tunnel, Error> {
        let held = session.held()?;
        held.touch(clock::now());
        let asked = self.relay.ask_for_download(held.place(), name)?;
        match timeout(TUNNEL_OPENS_WITHIN, asked.joined()).await {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(Refused::NotFound)) => Err(Error::NotFound("download")),
            Ok(Err(_)) | Err(_) => Err(Error::NotSent),
        }
    }
}
