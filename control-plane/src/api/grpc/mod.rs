//! gRPC: the agents' port. Adapters only: messages are parsed, services called.

mod enrolment;
mod link;
mod media;

use axum::Router;
use browserfleet_proto::agent::v1::enrolment_service_server::EnrolmentServiceServer;
use browserfleet_proto::agent::v1::link_service_server::LinkServiceServer;
use browserfleet_proto::agent::v1::media_service_server::MediaServiceServer;
use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::limits;
use tonic::{Request, Status};

use super::Api;
use super::serve::PeerCertificate;
use crate::error::Error;
use crate::fleet::authority;

/// Bytes around a chunk's data.
const CHUNK_FRAME_BYTES: usize = 4096;

/// Bytes of a request to join or to renew: a signing request, a token and a machine's
/// name. Whoever asks has proved nothing yet.
const ENROLMENT_BYTES_MAX: usize = 2 * authority::SIGNING_REQUEST_BYTES_MAX;

/// What agents reach.
pub(super) fn router(api: &Api) -> Router {
    let link = LinkServiceServer::new(link::LinkAdapter::new(api.clone()))
        .max_decoding_message_size(limits::LINK_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::LINK_MESSAGE_BYTES_MAX);
    let media = MediaServiceServer::new(media::MediaAdapter::new(api.clone()))
        .max_decoding_message_size(limits::MEDIA_CHUNK_BYTES_MAX + CHUNK_FRAME_BYTES);
    let enrolment = EnrolmentServiceServer::new(enrolment::EnrolmentAdapter::new(api.clone()))
        .max_decoding_message_size(ENROLMENT_BYTES_MAX);
    tonic::service::Routes::new(link)
        .add_service(media)
        .add_service(enrolment)
        .prepare()
        .into_axum_router()
}

/// The instance that calls, as its certificate says.
fn caller_of<T>(request: &Request<T>) -> Result<InstanceId, Status> {
    let certificate = request
        .extensions()
        .get::<PeerCertificate>()
        .ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
    authority::instance_of(&certificate.0)
        .map_err(|_| Status::unauthenticated("the client certificate is not one of an instance"))
}

/// The status for one of our errors.
fn status_of(error: &Error) -> Status {
    let text = error.to_string();
    match error {
        Error::Forbidden(_) => Status::permission_denied(text),
        Error::StoreUnavailable | Error::Overloaded => Status::unavailable(text),
        Error::Internal(cause) => {
            tracing::error!(?cause, "an agent's call failed on our side");
            Status::internal(text)
        }
        _ => Status::failed_precondition(text),
    }
}
