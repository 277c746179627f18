//! `/api/auth/*`: registering, signing in, staying signed in, signing out, and
//! new passwords.

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use browserfleet_proto::ids::LoginId;
use cookie::SameSite;
use serde::{Deserialize, Serialize};

use super::body::{Body, OptionalBody};
use super::extract::{Caller, caller_of};
use super::sessions::ListView;
use super::users::UserView;
use super::{Api, cookies, origin};
use crate::accounts::{Client, NewAccount, SignedIn};
use crate::domain::audit::Credential;
use crate::domain::login::Login;
use crate::domain::time::Timestamp;
use crate::error::Error;
use crate::telemetry::metrics;

/// How tokens get to the caller: programs get them in the body, pages as
/// cookies that no script can read, unless the caller says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// In the answer.
    Body,
    /// As cookies.
    Cookie,
}

/// Whether a page asks.
pub struct FromPage(bool);

impl<S: Sync> FromRequestParts<S> for FromPage {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Ok(Self(origin::is_page(parts)))
    }
}

impl FromPage {
    /// How tokens get to it.
    pub fn delivery(&self, wanted: Option<Delivery>) -> Delivery {
        wanted.unwrap_or(if self.0 {
            Delivery::Cookie
        } else {
            Delivery::Body
        })
    }
}

/// A new account.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    email: String,
    password: String,
    first_name: Option<String>,
    last_name: Option<String>,
    invitation: Option<String>,
}

/// Credentials.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    email: String,
    password: String,
    deliver: Option<Delivery>,
}

/// The second factor, after the first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondFactorRequest {
    /// Pages that come from another provider have it in a cookie.
    challenge: Option<String>,
    code: String,
    deliver: Option<Delivery>,
}

/// A refresh token; pages have it in a cookie.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    refresh_token: Option<String>,
}

/// An address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailRequest {
    email: String,
}

/// What a mail carried.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    token: String,
}

/// What a mail carried, and a new password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    token: String,
    new_password: String,
}

/// A user who is signed in. Where the tokens are cookies, they are not here.
#[derive(Serialize)]
pub struct TokenView {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    /// Seconds, as OAuth has it.
    expires_in: u64,
    /// Seconds.
    refresh_expires_in: u64,
    login_session_id: LoginId,
    user: UserView,
}

/// One time of being signed in, as its user sees it.
#[derive(Serialize)]
pub struct LoginView {
    id: LoginId,
    /// The one that asks.
    current: bool,
    address: Option<String>,
    user_agent: Option<String>,
    created_at: Timestamp,
    last_activity_at: Timestamp,
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Pending {
    status: &'static str,
}

/// Renders a login, and has a browser keep it.
pub fn deliver(it: SignedIn, delivery: Delivery) -> Response {
    let in_body = delivery == Delivery::Body;
    let view = TokenView {
        access_token: in_body.then(|| it.access_token.clone()),
        refresh_token: in_body.then(|| it.refresh_token.clone()),
        token_type: in_body.then_some("Bearer"),
        expires_in: it.expires_in.as_secs(),
        refresh_expires_in: it.refresh_expires_in.as_secs(),
        login_session_id: it.login,
        user: it.user.clone().into(),
    };
    let mut response = Json(view).into_response();
    if !in_body {
        keep(&mut response, &it);
    }
    response
}

/// Has a browser keep a login.
pub fn keep(response: &mut Response, it: &SignedIn) {
    let headers = response.headers_mut();
    let strict = SameSite::Strict;
    cookies::set(
        headers,
        cookies::ACCESS,
        &it.access_token,
        it.expires_in,
        strict,
    );
    cookies::set(
        headers,
        cookies::REFRESH,
        &it.refresh_token,
        it.refresh_expires_in,
        strict,
    );
}

fn forget(response: &mut Response) {
    for name in [cookies::ACCESS, cookies::REFRESH] {
        cookies::clear(response.headers_mut(), name, SameSite::Strict);
    }
}

/// The same, whether there is an account or not.
fn mailed() -> Response {
    let pending = Pending {
        status: "check_your_mail",
    };
    (StatusCode::ACCEPTED, Json(pending)).into_response()
}

/// Makes an account; its address is to be proven by mail.
pub async fn register(
    State(api): State<Api>,
    client: Client,
    Body(request): Body<RegisterRequest>,
) -> Result<Response, Error> {
    let invited = request.invitation.is_some();
    let account = NewAccount {
        email: request.email,
        password: request.password,
        first_name: request.first_name,
        last_name: request.last_name,
        invitation: request.invitation,
    };
    api.accounts.register(account, &client).await?;
    Ok(if invited {
        let pending = Pending {
            status: "registered",
        };
        (StatusCode::CREATED, Json(pending)).into_response()
    } else {
        mailed()
    })
}

/// Proves an address.
pub async fn verify_email(
    State(api): State<Api>,
    client: Client,
    Body(request): Body<TokenRequest>,
) -> Result<StatusCode, Error> {
    api.accounts.verify_email(&request.token, &client).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends the mail that proves an address once more.
pub async fn resend_verification(
    State(api): State<Api>,
    client: Client,
    Body(request): Body<EmailRequest>,
) -> Result<Response, Error> {
    api.accounts.resend_verification(&request.email, &client)?;
    Ok(mailed())
}

/// Counts a login that was refused; one that goes on with a second factor was not.
pub fn count_refusal(error: &Error) {
    if !matches!(error, Error::SecondFactorNeeded { .. }) {
        metrics::login_refused(error.code());
    }
}

/// Signs in.
pub async fn login(
    State(api): State<Api>,
    client: Client,
    page: FromPage,
    Body(request): Body<LoginRequest>,
) -> Result<Response, Error> {
    let delivery = page.delivery(request.deliver);
    let signed_in = api
        .accounts
        .login(request.email, request.password, &client)
        .await
        .inspect_err(count_refusal)?;
    Ok(deliver(signed_in, delivery))
}

/// Signs in with the second factor, after the first.
pub async fn login_with_second_factor(
    State(api): State<Api>,
    client: Client,
    page: FromPage,
    kept: KeptChallenge,
    Body(request): Body<SecondFactorRequest>,
) -> Result<Response, Error> {
    let delivery = page.delivery(request.deliver);
    let challenge = request.challenge.or(kept.0);
    let challenge = challenge.ok_or_else(|| Error::invalid("challenge", "is missing"))?;
    let signed_in = api
        .accounts
        .login_with_second_factor(&challenge, &request.code, &client)
        .await
        .inspect_err(count_refusal)?;
    let mut response = deliver(signed_in, delivery);
    cookies::clear(response.headers_mut(), cookies::CHALLENGE, SameSite::Strict);
    Ok(response)
}

/// The challenge of who came from another provider.
pub struct KeptChallenge(Option<String>);

impl<S: Sync> FromRequestParts<S> for KeptChallenge {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let kept = cookies::read(parts, cookies::CHALLENGE).map(str::to_owned);
        if kept.is_some() {
            origin::check_cookie(parts)?;
        }
        Ok(Self(kept))
    }
}

/// A refresh token, and how it came.
pub struct Refresh {
    cookie: Option<String>,
    checked: Result<(), Error>,
}

impl<S: Sync> FromRequestParts<S> for Refresh {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Ok(Self {
            cookie: cookies::read(parts, cookies::REFRESH).map(str::to_owned),
            checked: origin::check_cookie(parts),
        })
    }
}

impl Refresh {
    /// That of the body, else that of the cookie; it goes back as it came.
    fn token(self, body: Option<String>) -> Result<Option<(String, Delivery)>, Error> {
        match (body, self.cookie) {
            (Some(token), _) => Ok(Some((token, Delivery::Body))),
            (None, Some(token)) => {
                self.checked?;
                Ok(Some((token, Delivery::Cookie)))
            }
            (None, None) => Ok(None),
        }
    }
}

/// Goes on being signed in.
pub async fn refresh(
    State(api): State<Api>,
    client: Client,
    refresh: Refresh,
    OptionalBody(request): OptionalBody<RefreshRequest>,
) -> Result<Response, Error> {
    let token = refresh.token(request.refresh_token)?;
    let (token, delivery) = token.ok_or(Error::RefreshTokenInvalid)?;
    match api.accounts.refresh(&token, &client).await {
        Ok(signed_in) => Ok(deliver(signed_in, delivery)),
        Err(error) => {
            let ended = matches!(error, Error::RefreshTokenInvalid);
            let mut response = error.into_response();
            if ended && delivery == Delivery::Cookie {
                forget(&mut response);
            }
            Ok(response)
        }
    }
}

/// Signs out.
pub async fn logout(
    State(api): State<Api>,
    client: Client,
    refresh: Refresh,
    MaybeCaller(caller): MaybeCaller,
    OptionalBody(request): OptionalBody<RefreshRequest>,
) -> Result<Response, Error> {
    let token = refresh.token(request.refresh_token)?.map(|it| it.0);
    let caller = caller.map(|it| it.0);
    api.accounts
        .logout(caller.as_ref(), token.as_deref(), &client)
        .await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    forget(&mut response);
    Ok(response)
}

/// The caller, where they bring something that is still good.
pub struct MaybeCaller(pub Option<Caller>);

impl FromRequestParts<Api> for MaybeCaller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Error> {
        match caller_of(api, parts).await {
            Ok(user) => Ok(Self(user.map(Caller))),
            Err(Error::Unauthenticated) => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }
}

/// Sends a mail to set a new password with, if there is an account.
pub async fn forgot_password(
    State(api): State<Api>,
    client: Client,
    Body(request): Body<EmailRequest>,
) -> Result<Response, Error> {
    api.accounts.forgot_password(&request.email, &client)?;
    Ok(mailed())
}

/// Sets a new password by what was sent.
pub async fn reset_password(
    State(api): State<Api>,
    client: Client,
    Body(request): Body<ResetRequest>,
) -> Result<StatusCode, Error> {
    api.accounts
        .reset_password(&request.token, request.new_password, &client)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where the caller is signed in.
pub async fn logins(
    State(api): State<Api>,
    Caller(user): Caller,
) -> Result<Json<ListView<LoginView>>, Error> {
    let logins = api.accounts.logins(&user).await?;
    let view = |it: Login| LoginView {
        id: it.id,
        current: user.credential == Credential::Login(it.id),
        address: it.address,
        user_agent: it.user_agent,
        created_at: it.created_at,
        last_activity_at: it.last_activity_at,
        expires_at: it.expires_at,
    };
    Ok(Json(ListView::whole(logins.into_iter().map(view))))
}

/// Ends one of the caller's logins.
pub async fn end_login(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    let id = id.parse().map_err(|_| Error::NotFound("login session"))?;
    api.accounts.end_own_login(&user, id, &client).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all of the caller's logins but the one that asks.
pub async fn end_other_logins(
    State(api): State<Api>,
    client: Client,
    Caller(user): Caller,
) -> Result<StatusCode, Error> {
    api.accounts.end_other_logins(&user, &client).await?;
    Ok(StatusCode::NO_CONTENT)
}
