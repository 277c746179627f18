//! A client of the API for services, and what its refusals say.

use std::time::Duration;

use anyhow::Context;
use browserfleet_proto::browser::v1::browser_service_client::BrowserServiceClient;
use browserfleet_proto::browser::v1::{
    Action, Execute, PerformReply, PerformRequest, action, execute, outcome,
};
use browserfleet_proto::limits;
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long a connection may take.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);

/// A client with a credential.
pub type Client = BrowserServiceClient<InterceptedService<Channel, Bearer>>;

/// Adds a credential to each call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Connects to the address of the API, with this credential.
///
/// # Errors
/// Where nobody answers.
pub async fn connect(base: &str, credential: Option<&str>) -> anyhow::Result<Client> {
    let channel = Endpoint::from_shared(base.to_owned())?
        .connect_timeout(CONNECTED_WITHIN)
        .connect()
        .await
        .context("nobody answers")?;
    let bearer = credential.map(|it| format!("Bearer {it}").parse());
    let bearer = Bearer(bearer.transpose()?);
    let client = BrowserServiceClient::with_interceptor(channel, bearer);
    Ok(client.max_decoding_message_size(2 * limits::PAYLOAD_BYTES_MAX))
}

/// A request to run one action.
#[must_use]
pub fn perform(session: &str, kind: action::Kind) -> PerformRequest {
    PerformRequest {
        session_id: session.to_owned(),
        timeout_ms: 0,
        action: Some(Action { kind: Some(kind) }),
    }
}

/// A script as an action.
#[must_use]
pub fn script(expression: &str) -> action::Kind {
    action::Kind::Execute(Execute {
        source: Some(execute::Source::Expression(expression.to_owned())),
        ..Execute::default()
    })
}

/// What a script gave.
///
/// # Panics
/// Where it gave nothing.
#[must_use]
pub fn value_of(reply: &PerformReply) -> Value {
    let outcome = reply.outcome.as_ref().and_then(|it| it.result.as_ref());
    let Some(outcome::Result::Evaluated(evaluated)) = outcome else {
        panic!("no value: {reply:?}");
    };
    serde_json::from_str(&evaluated.value_json).unwrap_or_default()
}
