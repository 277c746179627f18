//! `/api/users/*`

use axum::Json;
use axum::extract::State;
use browserfleet_proto::ids::UserId;
use serde::Serialize;

use super::Api;
use super::body::Body;
use super::extract::Caller;
use crate::domain::time::Timestamp;
use crate::domain::user::{Role, User, UserSettings};
use crate::error::Error;

/// A user, as they see themselves.
#[derive(Serialize)]
pub struct UserView {
    id: UserId,
    email: String,
    first_name: Option<String>,
    last_name: Option<String>,
    role: Role,
    created_at: Timestamp,
    updated_at: Timestamp,
    last_login_at: Option<Timestamp>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            email: user.email.to_string(),
            first_name: user.first_name,
            last_name: user.last_name,
            role: user.role,
            created_at: user.created_at,
            updated_at: user.updated_at,
            last_login_at: user.last_login_at,
        }
    }
}

/// Who calls.
pub async fn me(State(api): State<Api>, Caller(user): Caller) -> Result<Json<UserView>, Error> {
    Ok(Json(api.accounts.user(user.id).await?.into()))
}

/// The caller's settings.
pub async fn settings(
    State(api): State<Api>,
    Caller(user): Caller,
) -> Result<Json<UserSettings>, Error> {
    Ok(Json(api.accounts.settings(user.id).await?))
}

/// Replaces the caller's settings.
pub async fn replace_settings(
    State(api): State<Api>,
    Caller(user): Caller,
    Body(settings): Body<UserSettings>,
) -> Result<Json<UserSettings>, Error> {
    Ok(Json(
        api.accounts.replace_settings(user.id, settings).await?,
    ))
}
