//! `/api/users/*`: one's own account.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::UserId;
use serde::{Deserialize, Serialize};

use super::Api;
use super::auth::{self, Delivery, FromPage};
use super::body::{Body, OptionalBody};
use super::etag::{etag_of, expected_of, with_etag};
use super::extract::Caller;
use crate::accounts::{Client, Profile};
use crate::domain::settings::UserSettings;
use crate::domain::time::Timestamp;
use crate::domain::user::{Role, User};
use crate::error::Error;

/// A user, as they see themselves.
#[derive(Serialize)]
pub struct UserView {
    id: UserId,
    email: String,
    first_name: Option<String>,
    last_name: Option<String>,
    role: Role,
    second_factor: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    last_login_at: Option<Timestamp>,
}

/// What a user says of themselves.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileRequest {
    first_name: Option<String>,
    last_name: Option<String>,
    email: Option<String>,
    current_password: Option<String>,
}

/// A new password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordRequest {
    current_password: String,
    new_password: String,
    deliver: Option<Delivery>,
}

/// The password, where there is one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofRequest {
    current_password: Option<String>,
}

/// A code of the second factor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRequest {
    code: String,
}

#[derive(Serialize)]
struct SecondFactorView {
    enabled: bool,
    required: bool,
    recovery_codes_left: i64,
}

#[derive(Serialize)]
struct EnrolmentView {
    secret: String,
    otpauth_url: String,
    /// A PNG as a `data:` URL.
    qr_code: String,
}

/// Shown once.
#[derive(Serialize)]
struct RecoveryCodesView {
    recovery_codes: Vec<String>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            email: user.email.to_string(),
            first_name: user.first_name,
            last_name: user.last_name,
            role: user.role,
            second_factor: user.second_factor,
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

/// Changes what the caller says of themselves.
pub async fn update_me(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Body(request): Body<ProfileRequest>,
) -> Result<Json<UserView>, Error> {
    let profile = Profile {
        first_name: request.first_name,
        last_name: request.last_name,
        email: request.email,
        current_password: request.current_password,
    };
    let changed = api.accounts.update_profile(&user, profile, &client).await?;
    Ok(Json(changed.into()))
}

/// Deletes the caller's account.
pub async fn delete_me(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    OptionalBody(request): OptionalBody<ProofRequest>,
) -> Result<StatusCode, Error> {
    api.accounts
        .delete_account(&user, request.current_password, &client)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the caller's password.
pub async fn change_password(
    State(api): State<Api>,
    client: Client,
    page: FromPage,
    Caller(user): Caller,
    Body(request): Body<PasswordRequest>,
) -> Result<Response, Error> {
    let delivery = page.delivery(request.deliver);
    let signed_in = api
        .accounts
        .change_password(
            &user,
            request.current_password,
            request.new_password,
            &client,
        )
        .await?;
    Ok(auth::deliver(signed_in, delivery))
}

/// The caller's settings.
pub async fn settings(
    State(api): State<Api>,
    headers: HeaderMap,
    Caller(user): Caller,
) -> Result<Response, Error> {
    let (settings, version) = api.accounts.settings(&user).await?;
    let etag = etag_of(version);
    let unchanged = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|it| it == etag.as_str());
    Ok(if unchanged {
        with_etag(StatusCode::NOT_MODIFIED.into_response(), &etag)
    } else {
        with_etag(Json(settings).into_response(), &etag)
    })
}

/// Replaces the caller's settings.
pub async fn replace_settings(
    State(api): State<Api>,
    headers: HeaderMap,
    Caller(user): Caller,
    Body(settings): Body<UserSettings>,
) -> Result<Response, Error> {
    let expected = expected_of(&headers)?;
    let version = api
        .accounts
        .replace_settings(&user, &settings, expected)
        .await?;
    Ok(with_etag(Json(settings).into_response(), &etag_of(version)))
}

/// Where the caller's second factor stands.
pub async fn second_factor(
    State(api): State<Api>,
    Caller(user): Caller,
) -> Result<Response, Error> {
    let state = api.accounts.second_factor_state(&user).await?;
    Ok(Json(SecondFactorView {
        enabled: state.enabled,
        required: state.required,
        recovery_codes_left: state.recovery_codes_left,
    })
    .into_response())
}

/// Proposes a second factor.
pub async fn propose_second_factor(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    OptionalBody(request): OptionalBody<ProofRequest>,
) -> Result<Response, Error> {
    let enrolment = api
        .accounts
        .propose_second_factor(&user, request.current_password, &client)
        .await?;
    Ok(Json(EnrolmentView {
        secret: enrolment.secret,
        otpauth_url: enrolment.url,
        qr_code: enrolment.qr_code,
    })
    .into_response())
}

/// Confirms the proposed second factor.
pub async fn confirm_second_factor(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Body(request): Body<CodeRequest>,
) -> Result<Response, Error> {
    let recovery_codes = api
        .accounts
        .confirm_second_factor(&user, &request.code, &client)
        .await?;
    Ok(Json(RecoveryCodesView { recovery_codes }).into_response())
}

/// Turns the second factor off.
pub async fn disable_second_factor(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Body(request): Body<CodeRequest>,
) -> Result<StatusCode, Error> {
    api.accounts
        .disable_second_factor(&user, &request.code, &client)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes new recovery codes.
pub async fn new_recovery_codes(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Body(request): Body<CodeRequest>,
) -> Result<Response, Error> {
    let recovery_codes = api
        .accounts
        .new_recovery_codes(&user, &request.code, &client)
        .await?;
    Ok(Json(RecoveryCodesView { recovery_codes }).into_response())
}
