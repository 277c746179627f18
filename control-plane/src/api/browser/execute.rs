//! `POST /api/browser/execute`

use axum::extract::State;
use axum::response::Response;
use browserfleet_proto::action::{Action, Execute, Script};
use browserfleet_proto::browser::v1;
use browserfleet_proto::limits;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Asked, perform, text_of};
use crate::api::Api;
use crate::api::body::Body;
use crate::api::extract::Caller;
use crate::error::Error;

/// What to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    session_id: Option<String>,
    timeout_ms: Option<u64>,
    expression: Option<String>,
    function: Option<String>,
    args: Option<Vec<Box<RawValue>>>,
    #[serde(default = "yes")]
    await_promise: bool,
}

fn yes() -> bool {
    true
}

/// Runs a script in the page.
pub async fn execute(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<ExecuteRequest>,
) -> Result<Response, Response> {
    Ok(perform(&api, &caller, request).await?.into_json())
}

impl TryFrom<v1::Execute> for ExecuteRequest {
    type Error = Error;

    fn try_from(it: v1::Execute) -> Result<Self, Error> {
        use v1::execute::Source;
        let (expression, function) = match it.source {
            None => (None, None),
            Some(Source::Expression(text)) => (Some(text), None),
            Some(Source::Function(text)) => (None, Some(text)),
        };
        let args = match it.arguments_json.as_str() {
            "" => None,
            json => {
                let args = serde_json::from_str(json);
                Some(args.map_err(|_| Error::invalid("arguments_json", "is no JSON array"))?)
            }
        };
        Ok(Self {
            session_id: None,
            timeout_ms: None,
            expression,
            function,
            args,
            await_promise: it.await_promise.unwrap_or_else(yes),
        })
    }
}

impl TryFrom<ExecuteRequest> for Asked {
    type Error = Error;

    fn try_from(mut request: ExecuteRequest) -> Result<Self, Error> {
        Ok(Self {
            session_id: request.session_id.take(),
            timeout_ms: request.timeout_ms,
            action: action_of(&mut request)?,
        })
    }
}

fn action_of(request: &mut ExecuteRequest) -> Result<Action, Error> {
    let script = match (request.expression.take(), request.function.take()) {
        (Some(_), None) if request.args.is_some() => {
            return Err(Error::invalid("args", "goes with function"));
        }
        (Some(expression), None) => Script::Expression(text_of("expression", expression)?),
        (None, Some(function)) => Script::Function {
            function: text_of("function", function)?,
            args: args_of(request.args.take().unwrap_or_default())?,
        },
        (Some(_), Some(_)) => return Err(Error::invalid("function", "goes without expression")),
        (None, None) => {
            return Err(Error::invalid("expression", "is missing; or give function"));
        }
    };
    Ok(Action::Execute(Execute {
        script,
        await_promise: request.await_promise,
    }))
}

fn args_of(args: Vec<Box<RawValue>>) -> Result<String, Error> {
    let json = serde_json::to_string(&args).map_err(|error| Error::Internal(error.into()))?;
    if json.len() > limits::TEXT_BYTES_MAX {
        return Err(Error::invalid(
            "args",
            format!("longer than {} bytes", limits::TEXT_BYTES_MAX),
        ));
    }
    Ok(json)
}
