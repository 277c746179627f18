//! `/api/auth/oauth/*`: signing in with another provider, in a browser.

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::IdentityId;
use cookie::SameSite;
use serde::{Deserialize, Serialize};

use super::auth::{MaybeCaller, count_refusal, keep};
use super::extract::{Caller, Parameters};
use super::sessions::ListView;
use super::{Api, cookies};
use crate::accounts::{Client, Failed};
use crate::domain::identity::Identity;
use crate::domain::time::Timestamp;
use crate::error::Error;

/// How a sign-in begins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginQuery {
    return_to: Option<String>,
    #[serde(default)]
    link: bool,
}

/// What a provider sends a browser back with. It may say more than we ask for.
#[derive(Deserialize)]
pub struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

/// A provider that somebody can sign in with.
#[derive(Serialize)]
pub struct ProviderView {
    name: String,
}

/// Where the browser is to go.
#[derive(Serialize)]
struct BegunView {
    authorization_url: String,
}

/// An identity that is joined to an account.
#[derive(Serialize)]
pub struct IdentityView {
    id: IdentityId,
    provider: String,
    email: Option<String>,
    created_at: Timestamp,
    last_login_at: Option<Timestamp>,
}

impl From<Identity> for IdentityView {
    fn from(it: Identity) -> Self {
        Self {
            id: it.id,
            provider: it.provider,
            email: it.email,
            created_at: it.created_at,
            last_login_at: it.last_login_at,
        }
    }
}

/// Whether the answer is for a script, which sends the browser on by itself.
pub struct ForScript(bool);

impl<S: Sync> FromRequestParts<S> for ForScript {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let accept = parts.headers.get(header::ACCEPT);
        let json = accept.and_then(|it| it.to_str().ok());
        Ok(Self(json.is_some_and(|it| it.contains("application/json"))))
    }
}

/// What this browser began.
pub struct Attempt(Option<String>);

impl<S: Sync> FromRequestParts<S> for Attempt {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Ok(Self(
            cookies::read(parts, cookies::ATTEMPT).map(str::to_owned),
        ))
    }
}

/// Lists the providers.
pub async fn providers(State(api): State<Api>) -> Json<ListView<ProviderView>> {
    let names = api.accounts.providers().into_iter();
    Json(ListView::whole(names.map(|name| ProviderView { name })))
}

/// Sends the browser to a provider.
pub async fn begin(
    State(api): State<Api>,
    client: Client,
    ForScript(script): ForScript,
    MaybeCaller(caller): MaybeCaller,
    Path(provider): Path<String>,
    Parameters(query): Parameters<BeginQuery>,
) -> Result<Response, Error> {
    let caller = caller.map(|it| it.0).filter(|_| query.link);
    if query.link && !caller.as_ref().is_some_and(|it| api.accounts.may_link(it)) {
        return Err(Error::Unauthenticated);
    }
    let begun = api
        .accounts
        .begin_oauth(&provider, query.return_to, caller.as_ref(), &client)
        .await?;
    let mut response = if script {
        let authorization_url = begun.url.to_string();
        Json(BegunView { authorization_url }).into_response()
    } else {
        to(begun.url.as_str())
    };
    // Lax: it has to come along when the provider sends the browser back.
    cookies::set(
        response.headers_mut(),
        cookies::ATTEMPT,
        &begun.attempt,
        begun.life,
        SameSite::Lax,
    );
    Ok(response)
}

/// Takes a browser back from a provider.
pub async fn callback(
    State(api): State<Api>,
    client: Client,
    Attempt(attempt): Attempt,
    Path(provider): Path<String>,
    Parameters(query): Parameters<CallbackQuery>,
) -> Response {
    let finished = match (attempt, query.state, query.code, query.error) {
        (Some(attempt), Some(state), Some(code), None) => {
            api.accounts
                .finish_oauth(&provider, &attempt, &state, &code, &client)
                .await
        }
        (Some(_), Some(_), _, Some(_)) => Err(Error::ProviderDenied.into()),
        _ => Err(Error::AttemptInvalid.into()),
    };
    let finished = finished.inspect_err(|failed: &Failed| count_refusal(&failed.error));
    let mut response = match finished {
        Ok(finished) => {
            let mut response = to(&finished.return_to);
            if let Some(signed_in) = &finished.signed_in {
                keep(&mut response, signed_in);
            }
            response
        }
        Err(Failed {
            return_to: Some(return_to),
            error: Error::SecondFactorNeeded { challenge },
        }) => {
            // The page there asks for the code; what it answers with is in a cookie.
            let joint = if return_to.contains('?') { '&' } else { '?' };
            let mut response = to(&format!("{return_to}{joint}second-factor"));
            cookies::set(
                response.headers_mut(),
                cookies::CHALLENGE,
                &challenge,
                crate::accounts::CHALLENGE_LIFE,
                SameSite::Strict,
            );
            response
        }
        Err(failed) => failed.error.into_response(),
    };
    cookies::clear(response.headers_mut(), cookies::ATTEMPT, SameSite::Lax);
    response
}

fn to(address: &str) -> Response {
    match HeaderValue::from_str(address) {
        Ok(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        Err(error) => Error::Internal(error.into()).into_response(),
    }
}

/// Lists the caller's identities.
pub async fn identities(
    State(api): State<Api>,
    Caller(user): Caller,
) -> Result<Json<ListView<IdentityView>>, Error> {
    let identities = api.accounts.identities(&user).await?;
    Ok(Json(ListView::whole(
        identities.into_iter().map(Into::into),
    )))
}

/// Takes an identity off the caller's account.
pub async fn unlink(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    let id = id.parse().map_err(|_| Error::NotFound("identity"))?;
    api.accounts.unlink(&user, id, &client).await?;
    Ok(StatusCode::NO_CONTENT)
}
