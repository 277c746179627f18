//! gRPC: the agents' port, and the API for services on the public one. Adapters only:
//! messages are parsed, services called.

mod browser;
mod enrolment;
mod health;
mod link;
mod media;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request as HttpRequest, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response as HttpResponse;
use browserfleet_proto::agent::v1::enrolment_service_server::EnrolmentServiceServer;
use browserfleet_proto::agent::v1::link_service_server::LinkServiceServer;
use browserfleet_proto::agent::v1::media_service_server::MediaServiceServer;
use browserfleet_proto::browser as files;
use browserfleet_proto::browser::v1::browser_service_server::{
    BrowserServiceServer, SERVICE_NAME as BROWSER_SERVICE_NAME,
};
use browserfleet_proto::ids::InstanceId;
use browserfleet_proto::limits;
use futures_util::StreamExt;
use http_body_util::{BodyStream, StreamBody};
use tonic::{Request, Status};
use tonic_health::pb::health_server::HealthServer;

use super::serve::PeerCertificate;
use super::{Api, extract};
use crate::error::Error;
use crate::fleet::authority;
use crate::tasks::Tasks;

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

/// Bytes of a question of somebody who has proved nothing yet: a name.
const QUESTION_BYTES_MAX: usize = 16 * 1024;

/// What programs reach on the public port, beside REST. The API for services is for
/// users; what it is, and whether it is ready, is for everybody, as `/openapi.json` and
/// `/readyz` are.
pub(super) fn services(api: &Api) -> Router<Api> {
    let service = BrowserServiceServer::new(browser::BrowserAdapter::new(api.clone()))
        .max_decoding_message_size(limits::LINK_MESSAGE_BYTES_MAX);
    let known = Router::new()
        .route_service("/browserfleet.browser.v1.BrowserService/{call}", service)
        .layer(from_fn_with_state(api.clone(), authenticate));
    let health = HealthServer::new(health::HealthAdapter::new(api.clone()))
        .max_decoding_message_size(QUESTION_BYTES_MAX);
    known
        .route_service("/grpc.health.v1.Health/{call}", health)
        .merge(reflection(api))
}

/// What there is to call, told by itself.
fn reflection(api: &Api) -> Router<Api> {
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(files::FILES)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The older one is what many clients still ask for.
    let built = described().build_v1().and_then(|newer| {
        let older = described().build_v1alpha()?;
        Ok((newer, older))
    });
    let (newer, older) = match built {
        Ok(both) => both,
        Err(error) => {
            tracing::error!(%error, "gRPC reflection is off: its files cannot be read");
            return Router::new();
        }
    };
    let newer = newer.max_decoding_message_size(QUESTION_BYTES_MAX);
    let older = older.max_decoding_message_size(QUESTION_BYTES_MAX);
    Router::new()
        .route_service("/grpc.reflection.v1.ServerReflection/{call}", newer)
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{call}", older)
        .layer(from_fn_with_state(api.clone(), until_stopping))
}

/// Lets only users pass, and only to what is for them.
async fn authenticate(State(api): State<Api>, request: HttpRequest, next: Next) -> HttpResponse {
    let (mut parts, body) = request.into_parts();
    match extract::admit(&api, &mut parts).await {
        Ok(()) => next.run(HttpRequest::from_parts(parts, body)).await,
        Err(error) => browser::status_of(error).into_http(),
    }
}

/// Ends a call when this process is to stop, in both directions: the one of reflection
/// goes on for as long as its client likes, and the task that answers it for as long as
/// there may be another question.
async fn until_stopping(State(api): State<Api>, request: HttpRequest, next: Next) -> HttpResponse {
    let tasks = api.sessions.tasks();
    let response = next.run(request.map(|body| cut_at_stop(body, tasks))).await;
    // A refusal is all in its headers, and has to stay so.
    if response.body().is_end_stream() {
        return response;
    }
    response.map(|body| cut_at_stop(body, tasks))
}

fn cut_at_stop(body: Body, tasks: &Tasks) -> Body {
    let tasks = tasks.clone();
    let stopping = async move { tasks.stopping().await };
    Body::new(StreamBody::new(BodyStream::new(body).take_until(stopping)))
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
