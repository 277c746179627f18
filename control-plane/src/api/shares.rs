//! `/api/sessions/{id}/shares` and `/api/shares/redeem`: links with which somebody
//! without an account sees or drives a session.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use browserfleet_proto::ids::{SessionId, ShareId};
use serde::{Deserialize, Serialize};

use super::Api;
use super::body::Body;
use super::extract::Caller;
use super::sessions::ListView;
use super::tickets::TicketView;
use crate::accounts::{Client, NewShare};
use crate::domain::access::Right;
use crate::domain::share::Share;
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::sessions::OwnedSession;

/// A new share.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareRequest {
    right: Right,
    name: Option<String>,
    expires_in_ms: Option<u64>,
}

/// A share, as its owner sees it.
#[derive(Serialize)]
pub struct ShareView {
    id: ShareId,
    session_id: SessionId,
    name: Option<String>,
    right: Right,
    created_at: Timestamp,
    expires_at: Timestamp,
    last_used_at: Option<Timestamp>,
    /// Shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl From<Share> for ShareView {
    fn from(it: Share) -> Self {
        Self {
            id: it.id,
            session_id: it.session,
            name: it.name,
            right: it.right,
            created_at: it.created_at,
            expires_at: it.expires_at,
            last_used_at: it.last_used_at,
            token: None,
            url: None,
        }
    }
}

/// What a link has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedeemRequest {
    token: String,
}

/// What it is exchanged for.
#[derive(Serialize)]
pub struct RedeemedView {
    session_id: SessionId,
    share_id: ShareId,
    right: Right,
    expires_at: Timestamp,
    #[serde(flatten)]
    ticket: TicketView,
}

/// Makes a share.
pub async fn create(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    session: OwnedSession,
    Body(request): Body<ShareRequest>,
) -> Result<(StatusCode, Json<ShareView>), Error> {
    let wish = NewShare {
        name: request.name,
        right: request.right,
        life: request.expires_in_ms.map(Duration::from_millis),
    };
    let shown = api
        .accounts
        .create_share(&user, session.id(), wish, &client)
        .await?;
    let view = ShareView {
        token: Some(shown.token),
        url: Some(shown.url),
        ..shown.share.into()
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Lists a session's shares that count.
pub async fn list(
    State(api): State<Api>,
    session: OwnedSession,
) -> Result<Json<ListView<ShareView>>, Error> {
    let shares = api.accounts.shares(session.id()).await?;
    Ok(Json(ListView::whole(shares.into_iter().map(Into::into))))
}

/// Ends a share, and what its holder had.
pub async fn revoke(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Path((session, share)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    let session = super::extract::find(&api, &user, &session).await?.id();
    let share = share.parse().map_err(|_| Error::NotFound("share"))?;
    api.accounts
        .revoke_share(&user, session, share, &client)
        .await?;
    api.sessions.share_over(session, share).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Exchanges a link's token for a ticket.
pub async fn redeem(
    State(api): State<Api>,
    client: Client,
    Body(request): Body<RedeemRequest>,
) -> Result<Json<RedeemedView>, Error> {
    let (share, ticket) = api.accounts.redeem_share(&request.token, &client).await?;
    Ok(Json(RedeemedView {
        session_id: share.session,
        share_id: share.id,
        right: share.right,
        expires_at: share.expires_at,
        ticket: TicketView::of(ticket),
    }))
}
