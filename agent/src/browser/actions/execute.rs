//! Runs a script in the page's own world and brings its value back as JSON.
//!
//! A plain value comes with the first answer; only an object takes a second call.

use browserfleet_proto::action::{Code, Evaluated, Execute, Rejection, Script};
use browserfleet_proto::limits::TEXT_BYTES_MAX;
use headless_chrome::protocol::cdp::Runtime;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::engine::{evaluation, function};
use super::rejection;
use crate::browser::page::{CallError, Page};

const SERIALIZE: &str = include_str!("serialize.js");
/// How deep a value is followed: `JSON.parse` of most languages takes no more
/// than a few hundred.
const DEPTH_MAX: u32 = 100;
/// How long before the deadline the script is ended, so that its end still
/// arrives in time.
const ANSWER_RESERVE: Duration = Duration::from_millis(50);

pub(super) async fn perform(
    page: &Page,
    execute: &Execute,
    deadline: Instant,
) -> Result<Evaluated, Rejection> {
    let source = source(&execute.script)?;
    let answer = evaluate(page, &source, execute.await_promise, deadline).await?;
    if let Some(details) = answer.exception_details {
        return Err(thrown(details));
    }
    let object = answer.result;
    match object.object_id.clone() {
        Some(id) => serialize(page, id, deadline).await,
        None => plain(object),
    }
}

async fn evaluate(
    page: &Page,
    source: &str,
    await_promise: bool,
    deadline: Instant,
) -> Result<Runtime::EvaluateReturnObject, Rejection> {
    let mut changes = page.changes();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let call = Runtime::Evaluate {
            user_gesture: Some(true),
            await_promise: Some(await_promise),
            allow_unsafe_eval_blocked_by_csp: Some(true),
            // Whole milliseconds; 0 would be none.
            timeout: Some((left.saturating_sub(ANSWER_RESERVE).as_secs_f64() * 1e3).max(1.0)),
            ..evaluation(source.to_owned())
        };
        match page.call(call, deadline).await {
            Ok(answer) => return Ok(answer),
            // Between two documents; nothing has run.
            Err(CallError::Protocol { message, .. }) if message.starts_with("Cannot find") => {
                changes.next(deadline).await.map_err(rejection)?;
            }
            // Chrome ends a script whose time is up with an internal error.
            Err(CallError::Protocol { .. }) if Instant::now() + ANSWER_RESERVE >= deadline => {
                return Err(rejection(CallError::Deadline));
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

fn source(script: &Script) -> Result<String, Rejection> {
    match script {
        Script::Expression(expression) => Ok(expression.clone()),
        Script::Function { function, args } => {
            // As a string, since JSON and JavaScript read `__proto__` differently.
            let args = serde_json::to_string(args)
                .map_err(|error| Rejection::new(Code::BrowserError, error.to_string()))?;
            // The line break ends a comment that the function may end with.
            Ok(format!("({function}\n)(...JSON.parse({args}))"))
        }
    }
}

fn plain(object: Runtime::RemoteObject) -> Result<Evaluated, Rejection> {
    use Runtime::RemoteObjectType as Type;
    let (kind, value) = match (object.Type, object.unserializable_value) {
        (Type::Undefined, _) => ("undefined", Value::Null),
        (Type::Bigint, Some(text)) => ("bigint", json!({ "$bigint": text.trim_end_matches('n') })),
        (Type::Number, Some(text)) => ("number", json!({ "$number": text })),
        (Type::Number, None) => ("number", object.value.unwrap_or_default()),
        (Type::String, _) => ("string", object.value.unwrap_or_default()),
        (Type::Boolean, _) => ("boolean", object.value.unwrap_or_default()),
        (Type::Symbol, _) => (
            "symbol",
            json!({ "$symbol": object.description.unwrap_or_default() }),
        ),
        _ => ("null", Value::Null),
    };
    evaluated(kind.to_owned(), value.to_string())
}

#[derive(Deserialize)]
struct Serialized {
    kind: String,
    /// `None`: it is too large.
    json: Option<String>,
}

async fn serialize(
    page: &Page,
    id: Runtime::RemoteObjectId,
    deadline: Instant,
) -> Result<Evaluated, Rejection> {
    let release = Release {
        page,
        id: id.clone(),
    };
    let argument = |value: Value| Runtime::CallArgument {
        value: Some(value),
        unserializable_value: None,
        object_id: None,
    };
    let call = Runtime::CallFunctionOn {
        object_id: Some(id),
        arguments: Some(vec![
            argument(TEXT_BYTES_MAX.into()),
            argument(DEPTH_MAX.into()),
        ]),
        return_by_value: Some(true),
        ..function(SERIALIZE.into())
    };
    let answer = page.call(call, deadline).await.map_err(failed)?;
    drop(release);
    if let Some(details) = answer.exception_details {
        return Err(thrown(details));
    }
    let value = answer.result.value.unwrap_or_default();
    let read: Serialized = serde_json::from_value(value)
        .map_err(|error| Rejection::new(Code::BrowserError, error.to_string()))?;
    match read.json {
        Some(json) => evaluated(read.kind, json),
        None => Err(too_large()),
    }
}

/// Lets the page forget the object.
struct Release<'a> {
    page: &'a Page,
    id: Runtime::RemoteObjectId,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.page.post(Runtime::ReleaseObject {
            object_id: self.id.clone(),
        });
    }
}

fn evaluated(kind: String, json: String) -> Result<Evaluated, Rejection> {
    if json.len() > TEXT_BYTES_MAX {
        return Err(too_large());
    }
    let value = RawValue::from_string(json)
        .map_err(|error| Rejection::new(Code::BrowserError, error.to_string()))?;
    Ok(Evaluated { kind, value })
}

fn too_large() -> Rejection {
    Rejection::new(
        Code::ResultTooLarge,
        format!("the value is larger than {TEXT_BYTES_MAX} bytes of JSON"),
    )
}

fn failed(error: CallError) -> Rejection {
    match error {
        // It went on to another page under the script.
        CallError::Protocol { message, .. }
            if message.contains("navigated or closed")
                || message.contains("context was destroyed") =>
        {
            Rejection::new(
                Code::ScriptError,
                "the page went to another document before the script had ended",
            )
        }
        error => rejection(error),
    }
}

fn thrown(details: Runtime::ExceptionDetails) -> Rejection {
    let exception = details.exception.as_ref();
    let described = exception.and_then(|it| {
        it.description.clone().or_else(|| match &it.value {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value) => Some(value.to_string()),
            None => it.unserializable_value.clone(),
        })
    });
    let stack = described.unwrap_or(details.text);
    // A description is the message and then the stack's lines.
    let message = stack
        .split("\n    at ")
        .next()
        .unwrap_or_default()
        .to_owned();
    let name = exception.and_then(|it| it.class_name.clone());
    let detail = json!({
        "name": name,
        "message": message,
        "stack": stack,
        "line": details.line_number + 1,
        "column": details.column_number + 1,
    });
    Rejection {
        code: Code::ScriptError,
        message: format!("the script threw: {message}"),
        detail: detail.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_values_and_never_code() {
        let args = r#"["\"), alert(1), (\"", {"__proto__": 1}]"#;
        let script = Script::Function {
            function: "(a) => a // last".into(),
            args: args.into(),
        };
        let source = source(&script).expect("it can be written");
        let literal = source
            .strip_prefix("((a) => a // last\n)(...JSON.parse(")
            .and_then(|it| it.strip_suffix("))"));
        let read: String = serde_json::from_str(literal.expect("one call")).expect("one string");
        assert_eq!(read, args);
    }
}
