//! `browserfleet.browser.v1.BrowserService`: the same sessions and commands as over REST
//! and `/ws`, by the same services, for programs that speak gRPC.
//!
//! It is served on the public port beside REST, by its path: one address and one
//! certificate for all who call, one place where callers are known and counted, and
//! nothing more to open in a firewall. A port of its own was refused for that; the
//! agents' port too, for who comes there is known by a certificate, and is no user.

mod commands;
mod deadline;
mod lasting;
mod refusal;
mod tunnel;
mod watching;

use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use browserfleet_proto::browser::v1::{self, browser_service_server::BrowserService};

use crate::api::extract::{Caller, find, session_for_command};
use crate::api::sessions::{OpenRequest, filter_by, message_of};
use crate::api::{Api, ws};
use crate::domain::session::Status as Course;
use crate::error::Error;
use crate::sessions::{Opened, OwnedSession};

use deadline::Deadline;
use refusal::Refusal;

pub(super) use refusal::status_of;

pub(super) struct BrowserAdapter {
    api: Api,
}

/// Who calls, and until when they wait.
#[derive(Clone)]
struct Call {
    api: Api,
    caller: Caller,
    deadline: Deadline,
}

type Streamed<T> = BoxStream<'static, Result<T, Status>>;

impl BrowserAdapter {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }

    fn call<T>(&self, request: &Request<T>) -> Result<Call, Refusal> {
        let caller = request.extensions().get::<Caller>().cloned();
        Ok(Call {
            api: self.api.clone(),
            caller: caller.ok_or(Error::Unauthenticated)?,
            deadline: Deadline::of(request.metadata())?,
        })
    }
}

impl Call {
    async fn find(&self, id: &str) -> Result<OwnedSession, Error> {
        find(&self.api, &self.caller.0, id).await
    }

    async fn open(&self, request: v1::OpenSessionRequest) -> Result<v1::Session, Error> {
        let (wish, wait) = OpenRequest::try_from(request)?.wish()?;
        match self.api.sessions.open(&self.caller.0, wish, wait).await? {
            Opened::Live(session) => Ok(message_of(*session, None)),
            Opened::Queued(ticket) => self.show(&ticket.session.to_string()).await,
        }
    }

    async fn show(&self, id: &str) -> Result<v1::Session, Error> {
        let session = self.find(id).await?;
        let shown = self.api.sessions.show(&session).await?;
        let waits = match shown.status {
            Course::Queued => Some(self.api.sessions.ticket(&session).await?),
            _ => None,
        };
        Ok(message_of(shown, waits.as_ref()))
    }

    async fn list(&self, request: v1::ListSessionsRequest) -> Result<v1::ListSessionsReply, Error> {
        let filter = filter_by(request)?;
        let page = self.api.sessions.list(&self.caller.0, filter).await?;
        let sessions = page.data.into_iter();
        Ok(v1::ListSessionsReply {
            sessions: sessions.map(|it| message_of(it, None)).collect(),
            next_cursor: page.next.map(|id| id.to_string()).unwrap_or_default(),
        })
    }

    async fn end(&self, request: v1::EndSessionRequest) -> Result<v1::Session, Error> {
        let session = self.find(&request.session_id).await?;
        let ended = self.api.sessions.end(&session, "ended").await?;
        Ok(message_of(ended, None))
    }
}

#[tonic::async_trait]
impl BrowserService for BrowserAdapter {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let call = self.call(&request)?;
        call.deadline.hold(call.open(request.into_inner())).await
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let call = self.call(&request)?;
        let id = request.into_inner().session_id;
        call.deadline.hold(call.show(&id)).await
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsReply>, Status> {
        let call = self.call(&request)?;
        call.deadline.hold(call.list(request.into_inner())).await
    }

    async fn end_session(
        &self,
        request: Request<v1::EndSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let call = self.call(&request)?;
        call.deadline.hold(call.end(request.into_inner())).await
    }

    async fn perform(
        &self,
        request: Request<v1::PerformRequest>,
    ) -> Result<Response<v1::PerformReply>, Status> {
        let call = self.call(&request)?;
        // Who leaves, or waits no longer, drops this: then it is taken back.
        let cancelled = CancellationToken::new();
        let _leaving = cancelled.clone().drop_guard();
        let performed = commands::perform(&call, request.into_inner(), cancelled);
        call.deadline.hold(performed).await
    }

    type PerformStreamStream = Streamed<v1::PerformStreamReply>;

    async fn perform_stream(
        &self,
        request: Request<Streaming<v1::PerformStreamRequest>>,
    ) -> Result<Response<Self::PerformStreamStream>, Status> {
        let call = self.call(&request)?;
        let counted = call.counted()?;
        let replies = commands::stream(&call, request.into_inner());
        Ok(Response::new(call.lasting(counted, replies)))
    }

    type WatchEventsStream = Streamed<v1::WatchEventsReply>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let call = self.call(&request)?;
        let request = request.into_inner();
        let session = call.find(&request.session_id);
        let session = session.await.map_err(Refusal::from)?;
        let counted = call.counted()?;
        let events = watching::events(&call.api, &session, request.after_seq);
        Ok(Response::new(call.lasting(counted, events)))
    }

    type TunnelStream = Streamed<v1::MessagePiece>;

    async fn tunnel(
        &self,
        request: Request<Streaming<v1::TunnelRequest>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let call = self.call(&request)?;
        let counted = call.counted()?;
        let mut said = request.into_inner();
        let joined = tunnel::join(&call, &mut said);
        let joined = joined.await?;
        let heard = tunnel::carry(&call, joined, said);
        Ok(Response::new(call.lasting(counted, heard)))
    }

    type WatchFramesStream = Streamed<v1::Frame>;

    async fn watch_frames(
        &self,
        request: Request<v1::WatchFramesRequest>,
    ) -> Result<Response<Self::WatchFramesStream>, Status> {
        let call = self.call(&request)?;
        let request = request.into_inner();
        let session = call.find(&request.session_id);
        let session = session.await.map_err(Refusal::from)?;
        let counted = call.counted()?;
        let wish = ws::Subscription::try_from(request).and_then(|it| it.wish());
        let viewer = wish.and_then(|wish| call.api.sessions.view(&session, wish));
        let frames = watching::frames(viewer.map_err(Refusal::from)?);
        Ok(Response::new(call.lasting(counted, frames)))
    }
}
