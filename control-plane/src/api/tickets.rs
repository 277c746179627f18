//! `/api/ws-ticket`: what a page opens a socket with.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Api;
use super::body::OptionalBody;
use super::extract::{self, Caller};
use crate::accounts::TICKET_LIFE;
use crate::domain::access::Right;
use crate::error::Error;

/// What a ticket is to be good for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketRequest {
    session_id: Option<String>,
    right: Option<Right>,
}

/// A ticket.
#[derive(Serialize)]
pub struct TicketView {
    /// Good once.
    pub(super) ticket: String,
    pub(super) expires_in_ms: u64,
}

impl TicketView {
    pub(super) fn of(ticket: String) -> Self {
        Self {
            ticket,
            expires_in_ms: u64::try_from(TICKET_LIFE.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Gives a ticket.
pub async fn issue(
    State(api): State<Api>,
    Caller(user): Caller,
    OptionalBody(request): OptionalBody<TicketRequest>,
) -> Result<(StatusCode, Json<TicketView>), Error> {
    let session = match request.session_id {
        Some(id) => Some(extract::find(&api, &user, &id).await?.id()),
        None => None,
    };
    let ticket = api
        .accounts
        .issue_ticket(&user, session, request.right)
        .await?;
    Ok((StatusCode::CREATED, Json(TicketView::of(ticket))))
}
