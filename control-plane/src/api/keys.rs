//! `/api/keys`: what programs sign in with.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use browserfleet_proto::ids::ApiKeyId;
use serde::{Deserialize, Serialize};

use super::Api;
use super::body::Body;
use super::extract::Caller;
use super::sessions::ListView;
use crate::accounts::{Client, NewKey};
use crate::domain::key::{ApiKey, Scope};
use crate::domain::time::Timestamp;
use crate::error::Error;

/// A new key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKeyRequest {
    name: String,
    scopes: Vec<Scope>,
    /// Seconds.
    expires_in: Option<u64>,
}

/// A key, as its owner sees it.
#[derive(Serialize)]
pub struct KeyView {
    id: ApiKeyId,
    name: String,
    hint: String,
    scopes: Vec<Scope>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    /// Shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl From<ApiKey> for KeyView {
    fn from(it: ApiKey) -> Self {
        Self {
            id: it.id,
            name: it.name,
            hint: it.hint,
            scopes: it.scopes,
            created_at: it.created_at,
            expires_at: it.expires_at,
            last_used_at: it.last_used_at,
            key: None,
        }
    }
}

/// Makes a key.
pub async fn create(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Body(request): Body<NewKeyRequest>,
) -> Result<(StatusCode, Json<KeyView>), Error> {
    let wish = NewKey {
        name: request.name,
        scopes: request.scopes,
        life: request.expires_in.map(Duration::from_secs),
    };
    let shown = api.accounts.create_key(&user, wish, &client).await?;
    let view = KeyView {
        key: Some(shown.secret),
        ..shown.key.into()
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Lists the caller's keys.
pub async fn list(
    State(api): State<Api>,
    Caller(user): Caller,
) -> Result<Json<ListView<KeyView>>, Error> {
    let keys = api.accounts.keys(&user).await?;
    Ok(Json(ListView::whole(keys.into_iter().map(Into::into))))
}

/// Ends a key.
pub async fn revoke(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    let id = id.parse().map_err(|_| Error::NotFound("API key"))?;
    api.accounts.revoke_key(&user, id, &client).await?;
    Ok(StatusCode::NO_CONTENT)
}
