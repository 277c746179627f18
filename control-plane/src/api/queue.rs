//! `/api/queue/{ticket}`: where a session stands that waits for an instance. Its
//! ticket is its id.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::SessionId;
use serde::Serialize;

use super::Api;
use super::follow::{self, Course};
use crate::domain::session::Status;
use crate::error::Error;
use crate::sessions::{ASK_AGAIN, OwnedSession, Ticket};

/// Where a session stands.
#[derive(Debug, Serialize)]
pub struct TicketView {
    ticket: SessionId,
    session_id: SessionId,
    status: Status,
    position: usize,
    estimate_ms: Option<u64>,
    reason: &'static str,
    boot_phase: Option<&'static str>,
    end_reason: Option<String>,
}

impl From<Ticket> for TicketView {
    fn from(it: Ticket) -> Self {
        let milliseconds = |it: std::time::Duration| u64::try_from(it.as_millis());
        Self {
            ticket: it.session,
            session_id: it.session,
            status: it.status,
            position: it.position,
            estimate_ms: it.estimate.and_then(|it| milliseconds(it).ok()),
            reason: it.reason,
            boot_phase: it.boot_phase,
            end_reason: it.end_reason,
        }
    }
}

/// The answer to who has to wait: where to ask, and how soon.
pub fn accepted(ticket: Ticket) -> (StatusCode, HeaderMap, Json<TicketView>) {
    let mut headers = HeaderMap::new();
    let place = format!("/api/queue/{}", ticket.session);
    if let Ok(place) = HeaderValue::from_str(&place) {
        headers.insert(header::LOCATION, place);
    }
    headers.insert(
        header::RETRY_AFTER,
        HeaderValue::from(ASK_AGAIN.as_secs().max(1)),
    );
    (StatusCode::ACCEPTED, headers, Json(ticket.into()))
}

/// Shows where a session stands; asking keeps it in the queue.
pub async fn show(
    State(api): State<Api>,
    headers: HeaderMap,
    session: OwnedSession,
) -> Result<Response, Error> {
    if !follow::is_wanted(&headers) {
        let ticket = api.sessions.ticket(&session).await?;
        return Ok(Json(TicketView::from(ticket)).into_response());
    }
    let news = [api.sessions.queued(), api.fleet.woken()];
    Ok(follow::stream_of(news, move || {
        let (api, id) = (api.clone(), session.id());
        async move {
            let ticket = api.sessions.ticket_of(id).await?;
            let waits = matches!(ticket.status, Status::Queued | Status::Starting);
            let course = if waits { Course::Open } else { Course::Decided };
            Ok((TicketView::from(ticket), course))
        }
    }))
}
