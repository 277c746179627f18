//! Pictures that come ahead of their outcomes, those of live views, and clients of CDP.

use std::time::Duration;

use browserfleet_proto::agent::v1::live_up::Body as Up;
use browserfleet_proto::agent::v1::media_service_server::MediaService;
use browserfleet_proto::agent::v1::tunnel_up::Body as TunnelBody;
use browserfleet_proto::agent::v1::{Chunk, Delivered, LiveDown, LiveUp, Piece, TunnelUp};
use browserfleet_proto::ids::{CommandId, SessionId};
use browserfleet_proto::{ladder, limits};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::caller_of;
use crate::api::Api;
use crate::relay::{Claimed, Line, Oversize, Picture};

/// How long a picture may take to arrive: nobody waits longer for any command.
const DELIVERY_DEADLINE: Duration =
    limits::COMMAND_TIMEOUT_MAX.saturating_add(ladder::SETTLE_GRACE);

/// How long an agent may take to say whose view it opens.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

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

    type LiveStream = BoxStream<'static, Result<LiveDown, Status>>;

    async fn live(
        &self,
        request: Request<Streaming<LiveUp>>,
    ) -> Result<Response<Self::LiveStream>, Status> {
        let instance = caller_of(&request)?;
        let mut said = request.into_inner();
        let first = timeout(OPENED_WITHIN, said.message())
            .await
            .map_err(|_| Status::deadline_exceeded("say first whose view it is"))??;
        let Some(Up::Opened(opened)) = first.and_then(|it| it.body) else {
            return Err(Status::failed_precondition("say first whose view it is"));
        };
        let (line, downs) = self
            .api
            .sessions
            .live_opened(instance, &opened)
            .ok_or_else(|| Status::not_found("nobody wants this view"))?;
        self.api
            .sessions
            .tasks()
            .spawn("agent's live view", show(line, said));
        Ok(Response::new(downs.map(Ok).boxed()))
    }

    type TunnelStream = BoxStream<'static, Result<Piece, Status>>;

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelUp>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let instance = caller_of(&request)?;
        let mut said = request.into_inner();
        let first = timeout(OPENED_WITHIN, said.message())
            .await
            .map_err(|_| Status::deadline_exceeded("say first which tunnel it is"))??;
        let Some(TunnelBody::Joined(joined)) = first.and_then(|it| it.body) else {
            return Err(Status::failed_precondition("say first which tunnel it is"));
        };
        // Read by whoever writes to the client: there is no queue in between.
        let ups = said
            .take_while(|up| std::future::ready(up.is_ok()))
            .filter_map(|up| std::future::ready(up.ok()))
            .boxed();
        let pieces = self
            .api
            .sessions
            .tunnel_joined(instance, &joined, ups)
            .ok_or_else(|| Status::not_found("nobody wants this tunnel"))?;
        Ok(Response::new(pieces.map(Ok).boxed()))
    }
}

/// Shows what an agent sends, until it is over.
async fn show(mut line: Line, mut said: Streaming<LiveUp>) {
    loop {
        let up = tokio::select! {
            up = said.message() => up,
            () = line.over() => return,
        };
        match up {
            Ok(Some(up)) => {
                if let Err(strange) = line.take(up) {
                    tracing::warn!(%strange, "ended a live view that is not as it should be");
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "an agent's live view ended");
                return;
            }
        }
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
