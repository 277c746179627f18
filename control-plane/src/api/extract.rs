//! Who calls, and which session they mean. A handler that takes an
//! [`OwnedSession`] cannot see anybody else's: it is found by id and user
//! together, and is 404 otherwise.

use axum::extract::{FromRef, FromRequestParts, Path, Query, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use browserfleet_proto::ids::SessionId;
use serde::de::DeserializeOwned;

use super::{Api, cookies, origin, policy};
use crate::accounts::{Client, CurrentUser};
use crate::error::Error;
use crate::sessions::OwnedSession;

/// Longest token that is looked at, in bytes. Ours have about 300.
const TOKEN_BYTES_MAX: usize = 4096;

/// The user who calls.
#[derive(Debug, Clone)]
pub struct Caller(pub CurrentUser);

/// Lets only users pass, and only to what is for them.
pub async fn authenticate(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    let (mut parts, body) = request.into_parts();
    admit(&api, &mut parts).await?;
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// Says who calls, as an extension of the request, where they may.
///
/// # Errors
/// Where they may not, or nobody knows who they are.
pub(super) async fn admit(api: &Api, parts: &mut Parts) -> Result<(), Error> {
    let user = caller_of(api, parts).await?;
    let user = user.ok_or(Error::Unauthenticated)?;
    tracing::Span::current().record("user.id", tracing::field::display(user.id));
    if let Err(refusal) = policy::permit(&user, &parts.method, parts.uri.path()) {
        let client = Client::from_request_parts(parts, &()).await?;
        let what = format!("{} {}", parts.method, refusal.code());
        api.accounts.denied(&user, &what, &client).await?;
        return Err(refusal);
    }
    parts.extensions.insert(Caller(user));
    Ok(())
}

/// Who calls, if anybody says so: by the header, else by the cookie.
///
/// # Errors
/// Where what they bring is of no use.
pub async fn caller_of(api: &Api, parts: &Parts) -> Result<Option<CurrentUser>, Error> {
    let said = parts.headers.get(header::AUTHORIZATION);
    let token = match said {
        Some(value) => {
            let token = value.to_str().ok().and_then(bearer);
            Some(token.ok_or(Error::Unauthenticated)?)
        }
        None => cookies::read(parts, cookies::ACCESS),
    };
    let Some(token) = token else { return Ok(None) };
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Error::Unauthenticated);
    }
    if said.is_none() {
        origin::check_cookie(parts)?;
    }
    api.accounts.authenticate(token).await.map(Some)
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or(Error::Unauthenticated)
    }
}

impl<S> FromRequestParts<S> for OwnedSession
where
    Api: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Caller(user) = Caller::from_request_parts(parts, state).await?;
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Error::NotFound("session"))?;
        find(&Api::from_ref(state), &user, &id).await
    }
}

/// The session that a command is for: the one that is named, or the caller's
/// only live one, or a new one where there is none.
///
/// # Errors
/// [`Error::NotFound`], [`Error::SessionAmbiguous`], or what opening one gives.
pub async fn session_for_command(
    api: &Api,
    Caller(user): &Caller,
    id: Option<&str>,
) -> Result<OwnedSession, Error> {
    match id {
        Some(id) => find(api, user, id).await,
        None => api.sessions.only_session(user).await,
    }
}

pub(super) async fn find(api: &Api, user: &CurrentUser, id: &str) -> Result<OwnedSession, Error> {
    let id: SessionId = id.parse().map_err(|_| Error::NotFound("session"))?;
    api.sessions.owned(user, id).await
}

/// The query of a URL, strict in form.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => {
                let message = rejection.body_text();
                Err(Error::Invalid {
                    field: named_in(&message).unwrap_or("query").to_owned(),
                    message,
                })
            }
        }
    }
}

fn named_in(message: &str) -> Option<&str> {
    message.split('`').nth(1)
}
