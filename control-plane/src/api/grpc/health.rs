//! `grpc.health.v1.Health`: what `/readyz` says, for those who ask in gRPC.

use futures_util::stream::{BoxStream, StreamExt, unfold};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::BROWSER_SERVICE_NAME;
use crate::api::Api;

pub(super) struct HealthAdapter {
    api: Api,
}

impl HealthAdapter {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }
}

/// Whether there is a service of this name; the server as a whole has none.
fn is_known(name: &str) -> bool {
    matches!(name, "" | BROWSER_SERVICE_NAME)
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

fn status_of(ready: bool) -> ServingStatus {
    if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

#[tonic::async_trait]
impl Health for HealthAdapter {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service"));
        }
        let ready = *self.api.readiness.follow().borrow();
        Ok(Response::new(answer(status_of(ready))))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// Tells how it is, and then each change, until this process stops.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = is_known(&request.get_ref().service);
        let mut readiness = self.api.readiness.follow();
        readiness.mark_changed();
        let told = unfold(readiness, move |mut readiness| async move {
            readiness.changed().await.ok()?;
            let ready = *readiness.borrow_and_update();
            let status = if known {
                status_of(ready)
            } else {
                ServingStatus::ServiceUnknown
            };
            Some((Ok(answer(status)), readiness))
        });
        let tasks = self.api.sessions.tasks().clone();
        let told = told.take_until(async move { tasks.stopping().await });
        Ok(Response::new(told.boxed()))
    }
}
