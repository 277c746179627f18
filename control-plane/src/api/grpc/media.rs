//! Pictures that come ahead of their outcomes.

use std::time::Duration;

use browserfleet_proto::agent::v1::media_service_server::MediaService;
use browserfleet_proto::agent::v1::{Chunk, Delivered};
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::{ladder, limits};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::caller_of;
use crate::api::Api;
use crate::relay::{Claimed, Oversize, Picture};

/// How long a picture may take to arrive: nobody waits longer for any command.
const DELIVERY_DEADLINE: Duration =
    limits::COMMAND_TIMEOUT_MAX.saturating_add(ladder::SETTLE_GRACE);

pub(super) struct MediaAdapter {
    api: Api,
}

impl MediaAdapter {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl MediaService for MediaAdapter {
    async fn deliver(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Delivered>, Status> {
        let instance = caller_of(&request)?;
        let read = read_whole(request.into_inner());
        let (command, session, picture) = timeout(DELIVERY_DEADLINE, read)
            .await
            .map_err(|_| Status::deadline_exceeded("the picture did not come in time"))??;
        let claimed = Claimed {
            command,
            session,
            instance,
        };
        // Where nobody waits for it, it was read so that the agent can go on.
        self.api
            .sessions
            .park_picture(claimed, picture)
            .map_err(too_large)?;
        Ok(Response::new(Delivered {}))
    }
}

/// The first chunk says whose picture it is.
async fn read_whole(
    mut chunks: Streaming<Chunk>,
) -> Result<(CommandId, SessionId, Picture), Status> {
    let mut named = None;
    let mut picture = Picture::default();
    while let Some(chunk) = chunks.message().await? {
        if named.is_none() {
            let (Ok(command), Ok(session)) = (chunk.command_id.parse(), chunk.session_id.parse())
            else {
                return Err(Status::invalid_argument("no command and session"));
            };
            named = Some((command, session));
        }
        picture.push(chunk.data).map_err(too_large)?;
    }
    let (command, session) = named.ok_or_else(|| Status::invalid_argument("no chunk"))?;
    Ok((command, session, picture))
}

fn too_large(oversize: Oversize) -> Status {
    Status::resource_exhausted(oversize.to_string())
}
