//! `/api/admin/*`: everybody's accounts, and the audit.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::{AuditId, UserId};
use serde::{Deserialize, Serialize};

use super::Api;
use super::body::Body;
use super::extract::Caller;
use super::sessions::{ListView, cursor_of, limit_of, refuse_unknown};
use crate::accounts::{Changes, Client, NewAccount};
use crate::domain::audit::{Action, Line};
use crate::domain::time::Timestamp;
use crate::domain::user::{Quotas, Role, User};
use crate::error::Error;
use crate::store::{audit, users};

/// Longest text that addresses are looked for by, in bytes.
const SEARCH_BYTES_MAX: usize = 254;

/// A user, as administrators see them.
#[derive(Serialize)]
pub struct AdminUserView {
    id: UserId,
    email: String,
    first_name: Option<String>,
    last_name: Option<String>,
    role: Role,
    disabled_at: Option<Timestamp>,
    email_verified_at: Option<Timestamp>,
    second_factor: bool,
    second_factor_required: bool,
    quotas: Quotas,
    created_at: Timestamp,
    updated_at: Timestamp,
    last_login_at: Option<Timestamp>,
    /// Shown once, where one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

impl From<User> for AdminUserView {
    fn from(it: User) -> Self {
        Self {
            id: it.id,
            email: it.email.to_string(),
            first_name: it.first_name,
            last_name: it.last_name,
            role: it.role,
            disabled_at: it.disabled_at,
            email_verified_at: it.email_verified_at,
            second_factor: it.second_factor,
            second_factor_required: it.second_factor_required_at.is_some(),
            quotas: it.quotas,
            created_at: it.created_at,
            updated_at: it.updated_at,
            last_login_at: it.last_login_at,
            password: None,
        }
    }
}

/// An account for somebody else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUserRequest {
    email: String,
    password: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    role: Option<Role>,
}

/// What is to be changed of somebody.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeUserRequest {
    role: Option<Role>,
    disabled: Option<bool>,
    quotas: Option<Quotas>,
    second_factor_required: Option<bool>,
}

/// Who is invited.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    email: String,
}

/// A line of the audit.
#[derive(Serialize)]
pub struct AuditView {
    id: AuditId,
    at: Timestamp,
    action: String,
    result: String,
    actor_user_id: Option<String>,
    actor_credential: Option<String>,
    subject_user_id: Option<String>,
    detail: Option<String>,
    address: Option<String>,
    user_agent: Option<String>,
}

impl From<Line> for AuditView {
    fn from(it: Line) -> Self {
        Self {
            id: it.id,
            at: it.at,
            action: it.action,
            result: it.result,
            actor_user_id: it.actor,
            actor_credential: it.credential,
            subject_user_id: it.subject,
            detail: it.detail,
            address: it.address,
            user_agent: it.user_agent,
        }
    }
}

/// Lists users.
pub async fn users(
    State(api): State<Api>,
    Query(mut parameters): Query<BTreeMap<String, String>>,
) -> Result<Json<ListView<AdminUserView>>, Error> {
    let limit = limit_of(parameters.remove("limit"))?;
    let email = parameters.remove("email");
    if email
        .as_ref()
        .is_some_and(|it| it.len() > SEARCH_BYTES_MAX || it.contains('\0'))
    {
        return Err(Error::invalid("email", "is not part of an address"));
    }
    let role = parameters.remove("role").map(|text| {
        Role::from_text(&text).ok_or_else(|| Error::invalid("role", "has to be `user` or `admin`"))
    });
    let filter = users::Filter {
        email,
        role: role.transpose()?,
        disabled: flag_of("disabled", parameters.remove("disabled"))?,
        after: cursor_of(parameters.remove("cursor"))?,
        limit: limit + 1,
    };
    refuse_unknown(&parameters)?;
    let found = api.accounts.users(&filter).await?;
    Ok(Json(ListView::part(found, limit, |it| it.id.to_string())))
}

/// Makes an account for somebody else.
pub async fn create_user(
    State(api): State<Api>,
    client: Client,
    Caller(caller): Caller,
    Body(request): Body<CreateUserRequest>,
) -> Result<Response, Error> {
    let account = NewAccount {
        email: request.email,
        password: String::new(),
        first_name: request.first_name,
        last_name: request.last_name,
        invitation: None,
    };
    let role = request.role.unwrap_or(Role::User);
    let (user, password) = api
        .accounts
        .create_user(account, request.password, role, &caller, &client)
        .await?;
    let view = AdminUserView {
        password,
        ..user.into()
    };
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Shows somebody's account.
pub async fn user(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<AdminUserView>, Error> {
    let user = api.accounts.somebody(user_id(&id)?).await?;
    Ok(Json(user.into()))
}

/// Changes what somebody may do or have.
pub async fn change_user(
    State(api): State<Api>,
    client: Client,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Body(request): Body<ChangeUserRequest>,
) -> Result<Json<AdminUserView>, Error> {
    let changes = Changes {
        role: request.role,
        disabled: request.disabled,
        quotas: request.quotas,
        second_factor_required: request.second_factor_required,
    };
    let changed = api
        .accounts
        .change_user(user_id(&id)?, changes, &caller, &client)
        .await?;
    Ok(Json(changed.into()))
}

/// Takes somebody's second factor off.
pub async fn reset_second_factor(
    State(api): State<Api>,
    client: Client,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    api.accounts
        .reset_second_factor(user_id(&id)?, &caller, &client)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all of somebody's logins.
pub async fn end_logins(
    State(api): State<Api>,
    client: Client,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    api.accounts
        .end_logins_of(user_id(&id)?, &caller, &client)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Invites somebody to register.
pub async fn invite(
    State(api): State<Api>,
    client: Client,
    Caller(caller): Caller,
    Body(request): Body<InviteRequest>,
) -> Result<StatusCode, Error> {
    api.accounts
        .invite(&request.email, &caller, &client)
        .await?;
    Ok(StatusCode::ACCEPTED)
}

/// Lists the audit, newest first.
pub async fn audit(
    State(api): State<Api>,
    Query(mut parameters): Query<BTreeMap<String, String>>,
) -> Result<Json<ListView<AuditView>>, Error> {
    let limit = limit_of(parameters.remove("limit"))?;
    let user = parameters.remove("user_id");
    let action = parameters.remove("action").map(|text| {
        let known = Action::ALL.iter().find(|it| it.as_str() == text);
        known.map(|it| it.as_str()).ok_or_else(|| {
            let all: Vec<&str> = Action::ALL.iter().map(|it| it.as_str()).collect();
            Error::invalid("action", format!("has to be one of: {}", all.join(", ")))
        })
    });
    let result = parameters.remove("result").map(|text| match text.as_str() {
        "done" => Ok("done"),
        "refused" => Ok("refused"),
        _ => Err(Error::invalid("result", "has to be `done` or `refused`")),
    });
    let user = user.map(|text| {
        let id = text.parse::<UserId>();
        id.map_err(|_| Error::invalid("user_id", "is not a user's id"))
    });
    let filter = audit::Filter {
        user: user.transpose()?,
        action: action.transpose()?,
        result: result.transpose()?,
        before: cursor_of(parameters.remove("cursor"))?,
        limit: limit + 1,
    };
    refuse_unknown(&parameters)?;
    let found = api.accounts.audit(&filter).await?;
    Ok(Json(ListView::part(found, limit, |it| it.id.to_string())))
}

fn user_id(text: &str) -> Result<UserId, Error> {
    text.parse().map_err(|_| Error::NotFound("user"))
}

fn flag_of(field: &'static str, text: Option<String>) -> Result<Option<bool>, Error> {
    let parsed = text.map(|it| {
        it.parse()
            .map_err(|_| Error::invalid(field, "has to be `true` or `false`"))
    });
    parsed.transpose()
}
