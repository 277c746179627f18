//! `POST /api/auth/register` and `POST /api/auth/login`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::Api;
use super::body::Body;
use super::users::UserView;
use crate::accounts::{NewAccount, SignedIn};
use crate::error::Error;

/// A new account.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    email: String,
    password: String,
    first_name: Option<String>,
    last_name: Option<String>,
}

/// Credentials.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    email: String,
    password: String,
}

/// A user who is signed in.
#[derive(Serialize)]
pub struct TokenView {
    access_token: String,
    token_type: &'static str,
    /// Seconds, as OAuth has it.
    expires_in: u64,
    user: UserView,
}

impl From<SignedIn> for TokenView {
    fn from(it: SignedIn) -> Self {
        Self {
            access_token: it.access_token,
            token_type: "Bearer",
            expires_in: it.expires_in.as_secs(),
            user: it.user.into(),
        }
    }
}

/// Makes an account and signs it in.
pub async fn register(
    State(api): State<Api>,
    Body(request): Body<RegisterRequest>,
) -> Result<(StatusCode, Json<TokenView>), Error> {
    let signed_in = api
        .accounts
        .register(NewAccount {
            email: request.email,
            password: request.password,
            first_name: request.first_name,
            last_name: request.last_name,
        })
        .await?;
    Ok((StatusCode::CREATED, Json(signed_in.into())))
}

/// Signs in.
pub async fn login(
    State(api): State<Api>,
    Body(request): Body<LoginRequest>,
) -> Result<Json<TokenView>, Error> {
    let signed_in = api.accounts.login(request.email, request.password).await?;
    Ok(Json(signed_in.into()))
}
