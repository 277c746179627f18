//! `/api/sessions/{id}/control` and `/handoff`: who drives a session, and what it asks a
//! person for.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use browserfleet_proto::ids::ShareId;
use serde::Deserialize;

use super::Api;
use super::body::Body;
use super::extract::{Caller, Parameters};
use super::sessions::WAIT_MS_MAX;
use crate::accounts::{Client, Pass};
use crate::domain::control::{Answer, Person, Recipient};
use crate::error::Error;
use crate::sessions::{Actor, Asked, ControlView, HandoffView, OwnedSession, Steer};

/// What is to become of control.
#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// The caller takes it.
    Take {
        expires_in_ms: Option<u64>,
        #[serde(default)]
        force: bool,
    },
    /// Another gets it.
    Give {
        /// `automation`, `owner`, or a share's id.
        to: String,
        expires_in_ms: Option<u64>,
    },
    /// The automation goes on.
    Release {},
}

impl TryFrom<ControlRequest> for Steer {
    type Error = Error;

    fn try_from(request: ControlRequest) -> Result<Self, Error> {
        Ok(match request {
            ControlRequest::Take {
                expires_in_ms,
                force,
            } => Self::Take {
                life: expires_in_ms.map(Duration::from_millis),
                force,
            },
            ControlRequest::Give { to, expires_in_ms } => Self::Give {
                to: recipient_of(&to)?,
                life: expires_in_ms.map(Duration::from_millis),
            },
            ControlRequest::Release {} => Self::Release,
        })
    }
}

fn recipient_of(text: &str) -> Result<Recipient, Error> {
    match text {
        "automation" => Ok(Recipient::Automation),
        "owner" => Ok(Recipient::Person(Person::Owner)),
        share => share
            .parse::<ShareId>()
            .map(|it| Recipient::Person(Person::Share(it)))
            .map_err(|_| Error::invalid("to", "has to be `automation`, `owner` or a share's id")),
    }
}

/// Shows who drives.
pub async fn show(State(api): State<Api>, session: OwnedSession) -> Json<ControlView> {
    Json(ControlView::from(&api.sessions.control_of(&session)))
}

/// Takes, gives or lets go of control.
pub async fn steer(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    session: OwnedSession,
    Body(request): Body<ControlRequest>,
) -> Result<Json<ControlView>, Error> {
    let actor = Actor {
        pass: &Pass::of(user),
        client: &client,
    };
    let control = api
        .sessions
        .steer(&session, actor, request.try_into()?)
        .await?;
    Ok(Json(ControlView::from(&control)))
}

/// What a person is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoffRequest {
    reason: String,
    #[serde(default)]
    instructions: String,
    timeout_ms: Option<u64>,
    #[serde(default)]
    wait_ms: u64,
}

/// How long to wait for an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoffParameters {
    #[serde(default)]
    wait_ms: u64,
}

/// A person's answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRequest {
    pub(super) outcome: Answer,
    pub(super) note: Option<String>,
}

fn wait_of(wait_ms: u64) -> Result<Duration, Error> {
    if wait_ms > WAIT_MS_MAX {
        let why = format!("has to be 0 to {WAIT_MS_MAX}");
        return Err(Error::invalid("wait_ms", why));
    }
    Ok(Duration::from_millis(wait_ms))
}

/// Asks a person, parks the automation, and waits for the answer if the caller wishes.
pub async fn ask(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    session: OwnedSession,
    Body(request): Body<HandoffRequest>,
) -> Result<(StatusCode, Json<HandoffView>), Error> {
    let wait = wait_of(request.wait_ms)?;
    let actor = Actor {
        pass: &Pass::of(user),
        client: &client,
    };
    let asked = Asked {
        reason: request.reason,
        instructions: request.instructions,
        timeout: request.timeout_ms.map(Duration::from_millis),
    };
    let handoff = api.sessions.ask(&session, actor, asked).await?;
    let handoff = api
        .sessions
        .wait_for_answer(&session, handoff.id, wait)
        .await?;
    let view = HandoffView::from(&handoff);
    let status = if view.is_open() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(view)))
}

/// Shows what was last asked for, and waits for the answer if the caller wishes.
pub async fn handoff(
    State(api): State<Api>,
    session: OwnedSession,
    Parameters(parameters): Parameters<HandoffParameters>,
) -> Result<Json<HandoffView>, Error> {
    let wait = wait_of(parameters.wait_ms)?;
    let handoff = api.sessions.handoff_of(&session)?;
    let handoff = api
        .sessions
        .wait_for_answer(&session, handoff.id, wait)
        .await?;
    Ok(Json(HandoffView::from(&handoff)))
}

/// A person answers.
pub async fn answer(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    session: OwnedSession,
    Body(request): Body<AnswerRequest>,
) -> Result<Json<HandoffView>, Error> {
    let actor = Actor {
        pass: &Pass::of(user),
        client: &client,
    };
    let handoff = api
        .sessions
        .answer(&session, actor, request.outcome, request.note)
        .await?;
    Ok(Json(HandoffView::from(&handoff)))
}
