//! Our JavaScript in the page: puts it into the document's isolated world and
//! asks it.
//!
//! The world is named, so that making it again gives the same one: two calls a
//! request. When the document goes away under a request, the next one is asked;
//! a request only looks, so asking twice does no harm.

use browserfleet_proto::action::{Code, Rejection};
use headless_chrome::protocol::cdp::{Page as page_domain, Runtime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use super::rejection;
use super::selector::Selector;
use crate::browser::page::{CallError, Page};

/// A function that answers a request. It brings what it needs along: the world
/// keeps it, and Chrome compiles the same text once.
const ANSWER: &str = concat!(
    "(request) => {\n'use strict';\nif (!globalThis.browserfleet) {\n",
    include_str!("find.js"),
    include_str!("reach.js"),
    "}\nreturn globalThis.browserfleet(request);\n}"
);
const WORLD: &str = "browserfleet";

/// How long before the deadline the page gives up by itself, so that its reason
/// still arrives in time.
const ANSWER_RESERVE: Duration = Duration::from_millis(50);

/// How long an answer may take after its document has gone: Chrome does not
/// always say that none will come.
const LAST_WORD: Duration = Duration::from_millis(100);

/// What an element is looked for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    Click,
    Type,
    Look,
    Scroll,
}

/// The request that finds an element and waits until it serves its purpose.
#[derive(Debug, Serialize)]
pub(super) struct Reach {
    request: &'static str,
    selector: Selector,
    purpose: Purpose,
    clear: bool,
    #[serde(skip)]
    written: String,
}

impl Reach {
    pub(super) fn new(selector: &str, purpose: Purpose) -> Result<Self, Rejection> {
        let parsed = Selector::parse(selector)
            .map_err(|fault| Rejection::new(Code::SelectorInvalid, fault))?;
        Ok(Self {
            request: "reach",
            selector: parsed,
            purpose,
            clear: false,
            written: selector.to_owned(),
        })
    }

    /// Selects what the element holds.
    pub(super) fn clearing(self, clear: bool) -> Self {
        Self { clear, ..self }
    }

    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        page: &Page,
        deadline: Instant,
    ) -> Result<T, Rejection> {
        let mut answer = ask(page, self, deadline).await;
        if let Err(rejection) = &mut answer
            && rejection.code == Code::SelectorNotFound
        {
            rejection.message = format!("nothing matches {} before the deadline", self.written);
        }
        answer
    }
}

#[derive(Serialize)]
struct Limited<'a, R> {
    limit_ms: u128,
    #[serde(flatten)]
    request: &'a R,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Reply<T> {
    Fault {
        fault: Fault,
        #[serde(default)]
        reason: String,
    },
    Answer(T),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fault {
    Invalid,
    Missing,
    Unready,
    Superseded,
}

/// Asks the page's document, or the one that takes its place meanwhile.
pub(super) async fn ask<T: DeserializeOwned>(
    page: &Page,
    request: &impl Serialize,
    deadline: Instant,
) -> Result<T, Rejection> {
    let mut changes = page.changes();
    loop {
        let answer = tokio::select! {
            answer = ask_document(page, request, deadline) => answer,
            () = document_changes(page, deadline) => continue,
        };
        let error = match answer {
            Ok(value) => return read(value),
            Err(error) => error,
        };
        if !document_gone(&error) {
            return Err(rejection(error));
        }
        // The next document has come or will come, and that is a change.
        changes.next(deadline).await.map_err(rejection)?;
    }
}

async fn ask_document(
    page: &Page,
    request: &impl Serialize,
    deadline: Instant,
) -> Result<serde_json::Value, CallError> {
    let world = page_domain::CreateIsolatedWorld {
        frame_id: page.target_id().to_owned(),
        world_name: Some(WORLD.into()),
        // Frames of another origin in the same process are part of the page to
        // its user.
        grant_univeral_access: Some(true),
    };
    let context = page.call(world, deadline).await?.execution_context_id;
    call(page, context, request, deadline).await
}

/// Resolves when the tab has had another document for a while.
async fn document_changes(page: &Page, deadline: Instant) {
    let Ok(now) = page.state().map(|tab| tab.documents) else {
        return std::future::pending().await;
    };
    match page.until(deadline, |tab| tab.documents != now).await {
        Ok(_) => tokio::time::sleep(LAST_WORD).await,
        Err(_) => std::future::pending().await,
    }
}

async fn call(
    page: &Page,
    context: Runtime::ExecutionContextId,
    request: &impl Serialize,
    deadline: Instant,
) -> Result<serde_json::Value, CallError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let limited = Limited {
        limit_ms: left.saturating_sub(ANSWER_RESERVE).as_millis(),
        request,
    };
    let argument = serde_json::to_value(limited).expect("requests are plain data");
    let function = Runtime::CallFunctionOn {
        execution_context_id: Some(context),
        arguments: Some(vec![Runtime::CallArgument {
            value: Some(argument),
            unserializable_value: None,
            object_id: None,
        }]),
        await_promise: Some(true),
        return_by_value: Some(true),
        ..function(ANSWER.into())
    };
    let reply = page.call(function, deadline).await?;
    match reply.exception_details {
        None => Ok(reply.result.value.unwrap_or_default()),
        Some(thrown) => Err(CallError::Protocol {
            code: 0,
            message: thrown
                .exception
                .and_then(|it| it.description)
                .unwrap_or(thrown.text),
        }),
    }
}

fn read<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Rejection> {
    match serde_json::from_value(value) {
        Ok(Reply::Answer(answer)) => Ok(answer),
        Ok(Reply::Fault { fault, reason }) => Err(match fault {
            Fault::Invalid => Rejection::new(Code::SelectorInvalid, reason),
            Fault::Missing => Rejection::new(Code::SelectorNotFound, "nothing matches"),
            Fault::Unready => Rejection::new(
                Code::ElementNotActionable,
                format!("the element is there, but {reason}"),
            ),
            Fault::Superseded => Rejection::new(Code::Cancelled, "a newer command took over"),
        }),
        Err(error) => Err(Rejection::new(
            Code::BrowserError,
            format!("could not read the page's answer: {error}"),
        )),
    }
}

fn document_gone(error: &CallError) -> bool {
    const SIGNS: [&str; 4] = [
        "Cannot find context",
        "context was destroyed",
        "navigated or closed",
        "No frame for given id",
    ];
    matches!(error, CallError::Protocol { message, .. } if SIGNS.iter().any(|it| message.contains(it)))
}

/// An evaluation that says no more than its expression.
pub(in crate::browser) fn evaluation(expression: String) -> Runtime::Evaluate {
    Runtime::Evaluate {
        expression,
        object_group: None,
        include_command_line_api: None,
        silent: None,
        context_id: None,
        return_by_value: None,
        generate_preview: None,
        user_gesture: None,
        await_promise: None,
        throw_on_side_effect: None,
        timeout: None,
        disable_breaks: None,
        repl_mode: None,
        allow_unsafe_eval_blocked_by_csp: None,
        unique_context_id: None,
        serialization_options: None,
    }
}

/// A call that says no more than its function.
pub(super) fn function(function_declaration: String) -> Runtime::CallFunctionOn {
    Runtime::CallFunctionOn {
        function_declaration,
        object_id: None,
        arguments: None,
        silent: None,
        return_by_value: None,
        generate_preview: None,
        user_gesture: None,
        await_promise: None,
        execution_context_id: None,
        object_group: None,
        throw_on_side_effect: None,
        unique_context_id: None,
        serialization_options: None,
    }
}
