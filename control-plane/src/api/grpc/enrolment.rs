//! Joining and renewing.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use browserfleet_proto::agent::v1::enrolment_service_server::EnrolmentService;
use browserfleet_proto::agent::v1::{Certificate, JoinRequest, RenewRequest};
use tonic::{Request, Response, Status};

use super::{caller_of, status_of};
use crate::api::Api;
use crate::fleet::{Applicant, Enrolled};

pub(super) struct EnrolmentAdapter {
    api: Api,
}

impl EnrolmentAdapter {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl EnrolmentService for EnrolmentAdapter {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certificate>, Status> {
        let address = address_of(&request);
        let request = request.into_inner();
        let applicant = Applicant {
            token: &request.token,
            machine: &request.machine,
            signing_request: &request.signing_request,
            address,
        };
        let enrolled = self.api.fleet.join(applicant).await;
        let enrolled = enrolled.map_err(|error| status_of(&error))?;
        Ok(Response::new(message_of(enrolled)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let (instance, address) = (caller_of(&request)?, address_of(&request));
        let request = request.into_inner();
        let enrolled = self
            .api
            .fleet
            .renew(instance, &request.signing_request, address)
            .await
            .map_err(|error| status_of(&error))?;
        Ok(Response::new(message_of(enrolled)))
    }
}

fn address_of<T>(request: &Request<T>) -> Option<IpAddr> {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
    from.map(|it| it.0.ip())
}

fn message_of(enrolled: Enrolled) -> Certificate {
    Certificate {
        certificate: enrolled.certificate.to_vec().into(),
        valid_for_ms: u64::try_from(enrolled.valid_for.as_millis()).unwrap_or(u64::MAX),
        instance_id: enrolled.instance.to_string(),
        authorities: enrolled
            .authorities
            .iter()
            .map(|it| it.to_vec().into())
            .collect(),
    }
}
