//! Signing in with another provider: authorization code with PKCE, state and
//! nonce. What an attempt needs to be finished is sealed and kept by the browser
//! that began it, so that it can be finished at any replica, and nowhere else.

use std::future::Future;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use browserfleet_proto::ids::{IdentityId, LoginId, UserId};
use oauth2::basic::BasicClient;
use oauth2::{
    AsyncHttpClient, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse, TokenUrl,
};
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreGenderClaim, CoreIdToken, CoreIdTokenClaims,
    CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreUserInfoClaims,
};
use openidconnect::{IssuerUrl, Nonce, StandardClaims, TokenResponse as _};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Accounts, Client, CurrentUser, SignedIn, name_of};
use crate::clock;
use crate::config::{OauthKind, OauthProvider, Registration};
use crate::domain::audit::{Action, Credential};
use crate::domain::identity::{Claimed, Identity};
use crate::domain::time::Timestamp;
use crate::domain::user::{Email, Role, User};
use crate::error::Error;
use crate::store::users::NewUser;

/// How long somebody may take to sign in at the provider.
const ATTEMPT_LIFE: Duration = Duration::from_secs(600);
/// How long what a provider says of itself is taken for true.
const DISCOVERY_LIFE: Duration = Duration::from_secs(600);
/// How long a provider may take to answer.
const HTTP_DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer of a provider, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Longest address to return to, in bytes.
const RETURN_BYTES_MAX: usize = 2048;
const ATTEMPT: &str = "oauth attempt";

/// What the browser keeps while somebody signs in elsewhere.
#[derive(Serialize, Deserialize)]
struct Attempt {
    provider: String,
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
    /// Who wants the identity joined to their account.
    link: Option<Joiner>,
    expires_at: i64,
}

/// Somebody who wants an identity joined, and by which right: it is joined only
/// while that lasts. An attempt lives no longer than an access token does, so what
/// tells of those tells of it, too.
#[derive(Serialize, Deserialize)]
struct Joiner {
    user: UserId,
    login: LoginId,
    access_version: i64,
}

impl Joiner {
    /// Somebody who signed in; a key joins nothing.
    fn of(caller: &CurrentUser) -> Option<Self> {
        match caller.credential {
            Credential::Login(login) => Some(Self {
                user: caller.id,
                login,
                access_version: caller.access_version,
            }),
            Credential::Key(_) | Credential::Share(_) => None,
        }
    }
}

/// An attempt that has begun.
#[derive(Debug)]
pub struct Begun {
    /// Where the browser is to go.
    pub url: Url,
    /// What it is to keep and bring back.
    pub attempt: String,
    /// For how long.
    pub life: Duration,
}

/// An attempt that was finished.
#[derive(Debug)]
pub struct Finished {
    /// Where the browser is to go.
    pub return_to: String,
    /// The login; `None`: the identity was joined to the account that asked.
    pub signed_in: Option<SignedIn>,
}

/// Where somebody could not be signed in, they may have to go on nevertheless.
#[derive(Debug)]
pub struct Failed {
    /// Where the browser is to go.
    pub return_to: Option<String>,
    /// Why.
    pub error: Error,
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self {
            return_to: None,
            error: error.into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Providers {
    all: Vec<Provider>,
    http: Http,
    allowed_origins: Vec<String>,
}

#[derive(Debug)]
struct Provider {
    settings: OauthProvider,
    discovered: RwLock<Option<(CoreProviderMetadata, Timestamp)>>,
}

impl Providers {
    pub(super) fn new(
        settings: Vec<OauthProvider>,
        allowed_origins: Vec<String>,
    ) -> anyhow::Result<Self> {
        let all = settings.into_iter().map(|settings| Provider {
            settings,
            discovered: RwLock::new(None),
        });
        let http = reqwest::Client::builder()
            .timeout(HTTP_DEADLINE)
            // A token request that is sent on elsewhere takes its secret along.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("browserfleet/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            all: all.collect(),
            http: Http(http),
            allowed_origins,
        })
    }

    fn find(&self, name: &str) -> Result<&Provider, Error> {
        let found = self.all.iter().find(|it| it.settings.name == name);
        found.ok_or(Error::NotFound("provider"))
    }

    /// A path of ours, or an address of an origin that may call.
    fn may_return_to(&self, to: &str) -> bool {
        let ours = to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/\\");
        let origin = to
            .parse::<Url>()
            .map(|it| it.origin().ascii_serialization());
        let allowed = origin.is_ok_and(|it| self.allowed_origins.contains(&it));
        to.len() <= RETURN_BYTES_MAX && !to.chars().any(char::is_control) && (ours || allowed)
    }

    /// What the provider says of itself; `anew`: as it is now.
    async fn discover(
        &self,
        provider: &Provider,
        issuer: &str,
        anew: bool,
    ) -> Result<CoreProviderMetadata, Error> {
        let now = clock::now();
        let known = {
            let discovered = provider
                .discovered
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            discovered.clone()
        };
        if let Some((metadata, at)) = known
            && !anew
            && now.since(at) < DISCOVERY_LIFE
        {
            return Ok(metadata);
        }
        let issuer = IssuerUrl::new(issuer.to_owned()).map_err(failed)?;
        let metadata = CoreProviderMetadata::discover_async(issuer, &self.http)
            .await
            .map_err(failed)?;
        let mut discovered = provider
            .discovered
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *discovered = Some((metadata.clone(), now));
        Ok(metadata)
    }

    /// A JSON document of a provider's API.
    async fn get(&self, url: &str, token: &str) -> Result<serde_json::Value, Error> {
        let request = self
            .http
            .0
            .get(url)
            .bearer_auth(token)
            .header("accept", "application/json");
        let response = request.send().await.map_err(failed)?;
        let response = response.error_for_status().map_err(failed)?;
        response.json().await.map_err(failed)
    }
}

/// Asks providers. Cheap to clone.
#[derive(Debug, Clone)]
struct Http(reqwest::Client);

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Fault>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let mut response = self.0.execute(request.try_into()?).await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                    return Err(Fault::TooLarge);
                }
                body.extend_from_slice(&chunk);
            }
            let mut answer = HttpResponse::new(body);
            *answer.status_mut() = response.status();
            *answer.headers_mut() = response.headers().clone();
            Ok(answer)
        })
    }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
}

/// Whether somebody was not let in who wanted to be. What is only half done, or
/// was noted where it was decided, is none.
fn is_a_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::AttemptInvalid
            | Error::ProviderFailed
            | Error::ProviderEmailUnverified
            | Error::IdentityTaken
            | Error::LinkNeeded
            | Error::InvitationNeeded
            | Error::RegistrationClosed
            | Error::Unauthenticated
    )
}

/// What an ID token tells of somebody.
fn told_in(token: &CoreIdTokenClaims) -> StandardClaims<CoreGenderClaim> {
    StandardClaims::new(token.subject().clone())
        .set_email(token.email().cloned())
        .set_email_verified(token.email_verified())
        .set_given_name(token.given_name().cloned())
        .set_family_name(token.family_name().cloned())
}

fn claimed_by(provider: &str, told: &StandardClaims<CoreGenderClaim>) -> Claimed {
    let verified = told.email().filter(|_| told.email_verified() == Some(true));
    let first_name = told.given_name().and_then(|it| it.get(None));
    let last_name = told.family_name().and_then(|it| it.get(None));
    Claimed {
        provider: provider.to_owned(),
        subject: told.subject().as_str().to_owned(),
        verified_email: verified.and_then(|it| it.as_str().parse().ok()),
        first_name: first_name.map(|it| it.as_str().to_owned()),
        last_name: last_name.map(|it| it.as_str().to_owned()),
    }
}

/// The whole reason is for the log: it is the provider's or the operator's fault.
fn failed(error: impl std::error::Error) -> Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    tracing::warn!(error = text, "a provider could not be used");
    Error::ProviderFailed
}

impl Accounts {
    /// The names of the providers that somebody can sign in with.
    #[must_use]
    pub fn providers(&self) -> Vec<String> {
        let names = self.providers.all.iter().map(|it| it.settings.name.clone());
        names.collect()
    }

    /// Sends somebody to a provider. With `link`, to join who they are there to
    /// their account here.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ProviderFailed`]; names the field that is refused.
    pub async fn begin_oauth(
        &self,
        provider: &str,
        return_to: Option<String>,
        link: Option<&CurrentUser>,
        client: &Client,
    ) -> Result<Begun, Error> {
        self.throttle.address(client.origin())?;
        let provider = self.providers.find(provider)?;
        let return_to = return_to.unwrap_or_else(|| "/".to_owned());
        if !self.providers.may_return_to(&return_to) {
            let why = "has to be a path of ours, or an address of an allowed origin";
            return Err(Error::invalid("return_to", why));
        }
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = Nonce::new_random();
        let settings = &provider.settings;
        let (url, state) = match &settings.kind {
            OauthKind::Oidc { issuer } => {
                let metadata = self.providers.discover(provider, issuer, false).await?;
                let asked = nonce.clone();
                let (url, state, _) = CoreClient::from_provider_metadata(
                    metadata,
                    ClientId::new(settings.client_id.clone()),
                    Some(ClientSecret::new(settings.client_secret.clone())),
                )
                .set_redirect_uri(self.redirect_url(settings)?)
                .authorize_url(
                    CoreAuthenticationFlow::AuthorizationCode,
                    CsrfToken::new_random,
                    move || asked,
                )
                .add_scope(Scope::new("email".into()))
                .add_scope(Scope::new("profile".into()))
                .set_pkce_challenge(challenge)
                .url();
                (url, state)
            }
            OauthKind::GitHub { site, .. } => {
                let authorize = format!("{site}/login/oauth/authorize");
                BasicClient::new(ClientId::new(settings.client_id.clone()))
                    .set_auth_uri(AuthUrl::new(authorize).map_err(failed)?)
                    .set_redirect_uri(self.redirect_url(settings)?)
                    .authorize_url(CsrfToken::new_random)
                    .add_scope(Scope::new("read:user".into()))
                    .add_scope(Scope::new("user:email".into()))
                    .set_pkce_challenge(challenge)
                    .url()
            }
        };
        let attempt = Attempt {
            provider: settings.name.clone(),
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: verifier.secret().clone(),
            return_to,
            link: link.and_then(Joiner::of),
            expires_at: clock::wall().plus(ATTEMPT_LIFE).0,
        };
        Ok(Begun {
            url,
            attempt: self.seal.seal(ATTEMPT, &attempt)?,
            life: ATTEMPT_LIFE,
        })
    }

    /// Finishes what [`Accounts::begin_oauth`] began, by what the provider sent the
    /// browser back with; and notes where that is refused.
    ///
    /// # Errors
    /// [`Error::AttemptInvalid`], [`Error::ProviderFailed`],
    /// [`Error::IdentityTaken`], [`Error::LinkNeeded`],
    /// [`Error::ProviderEmailUnverified`], [`Error::SecondFactorNeeded`], or why
    /// no account is made.
    pub async fn finish_oauth(
        &self,
        provider: &str,
        attempt: &str,
        state: &str,
        code: &str,
        client: &Client,
    ) -> Result<Finished, Failed> {
        let finished = self
            .finish_attempt(provider, attempt, state, code, client)
            .await;
        if let Err(Failed { error, .. }) = &finished
            && is_a_refusal(error)
        {
            let why = format!("another provider: {}", error.code());
            self.store
                .audit(&client.did(Action::Login).refused(why))
                .await?;
        }
        finished
    }

    /// What of it there is to note is noted by [`Accounts::finish_oauth`].
    async fn finish_attempt(
        &self,
        provider: &str,
        attempt: &str,
        state: &str,
        code: &str,
        client: &Client,
    ) -> Result<Finished, Failed> {
        self.throttle.address(client.origin())?;
        let provider = self.providers.find(provider)?;
        let attempt: Attempt = self
            .seal
            .unseal(ATTEMPT, attempt)
            .ok_or(Error::AttemptInvalid)?;
        let late = Timestamp(attempt.expires_at) <= clock::wall();
        if late || attempt.provider != provider.settings.name || attempt.state != state {
            return Err(Error::AttemptInvalid.into());
        }
        let claimed = match &provider.settings.kind {
            OauthKind::Oidc { issuer } => self.ask_oidc(provider, issuer, &attempt, code).await?,
            OauthKind::GitHub { site, api } => {
                self.ask_github(provider, site, api, &attempt, code).await?
            }
        };
        if let Some(joiner) = attempt.link {
            let credential = Credential::Login(joiner.login);
            if !self
                .access
                .holds(joiner.user, credential, joiner.access_version)
            {
                return Err(Error::Unauthenticated.into());
            }
            self.link(joiner.user, Some(credential), &claimed, client)
                .await?;
            return Ok(Finished {
                return_to: attempt.return_to,
                signed_in: None,
            });
        }
        match self.sign_in_as(&claimed, client).await {
            Ok(signed_in) => Ok(Finished {
                return_to: attempt.return_to,
                signed_in: Some(signed_in),
            }),
            Err(error) => Err(Failed {
                return_to: Some(attempt.return_to),
                error,
            }),
        }
    }

    fn redirect_url(&self, settings: &OauthProvider) -> Result<RedirectUrl, Error> {
        let url = format!(
            "{}/api/auth/oauth/{}/callback",
            self.public_url, settings.name
        );
        RedirectUrl::new(url).map_err(failed)
    }

    async fn ask_oidc(
        &self,
        provider: &Provider,
        issuer: &str,
        attempt: &Attempt,
        code: &str,
    ) -> Result<Claimed, Error> {
        let settings = &provider.settings;
        let metadata = self.providers.discover(provider, issuer, false).await?;
        let client = CoreClient::from_provider_metadata(
            metadata,
            ClientId::new(settings.client_id.clone()),
            Some(ClientSecret::new(settings.client_secret.clone())),
        )
        .set_redirect_uri(self.redirect_url(settings)?);
        let answer = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(failed)?
            .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()))
            .request_async(&self.providers.http)
            .await
            .map_err(failed)?;
        let token: &CoreIdToken = answer.id_token().ok_or(Error::ProviderFailed)?;
        let nonce = Nonce::new(attempt.nonce.clone());
        // Asymmetric ones alone: an HMAC would make our client secret a signing key.
        let algorithms = [
            CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
            CoreJwsSigningAlgorithm::EcdsaP256Sha256,
        ];
        let verifier = client
            .id_token_verifier()
            .set_allowed_algs(algorithms.clone());
        let claims = match token.claims(&verifier, &nonce) {
            Ok(claims) => claims.clone(),
            // The provider may have changed its keys since they were read.
            Err(_) => {
                let metadata = self.providers.discover(provider, issuer, true).await?;
                let client = CoreClient::from_provider_metadata(
                    metadata,
                    ClientId::new(settings.client_id.clone()),
                    Some(ClientSecret::new(settings.client_secret.clone())),
                );
                let verifier = client.id_token_verifier().set_allowed_algs(algorithms);
                token.claims(&verifier, &nonce).map_err(failed)?.clone()
            }
        };
        let mut told = told_in(&claims);
        // Many tell it only where they are asked with the access token (OpenID
        // Connect Core 1.0, section 5.4).
        if told.email().is_none()
            && let Ok(question) = client.user_info(
                answer.access_token().clone(),
                Some(claims.subject().clone()),
            )
        {
            let said: CoreUserInfoClaims = question
                .request_async(&self.providers.http)
                .await
                .map_err(failed)?;
            told = said.standard_claims().clone();
        }
        Ok(claimed_by(&settings.name, &told))
    }

    async fn ask_github(
        &self,
        provider: &Provider,
        site: &str,
        api: &str,
        attempt: &Attempt,
        code: &str,
    ) -> Result<Claimed, Error> {
        let settings = &provider.settings;
        let exchange = TokenUrl::new(format!("{site}/login/oauth/access_token"));
        let answer = BasicClient::new(ClientId::new(settings.client_id.clone()))
            .set_client_secret(ClientSecret::new(settings.client_secret.clone()))
            .set_token_uri(exchange.map_err(failed)?)
            .set_redirect_uri(self.redirect_url(settings)?)
            .set_auth_type(oauth2::AuthType::RequestBody)
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()))
            .request_async(&self.providers.http)
            .await
            .map_err(failed)?;
        let token = answer.access_token().secret();
        let who = self.providers.get(&format!("{api}/user"), token).await?;
        let emails = self
            .providers
            .get(&format!("{api}/user/emails"), token)
            .await?;
        let primary = emails.as_array().into_iter().flatten().find(|it| {
            it["primary"].as_bool() == Some(true) && it["verified"].as_bool() == Some(true)
        });
        Ok(Claimed {
            provider: settings.name.clone(),
            subject: who["id"].as_i64().ok_or(Error::ProviderFailed)?.to_string(),
            verified_email: primary
                .and_then(|it| it["email"].as_str())
                .and_then(|it| it.parse().ok()),
            first_name: who["name"].as_str().map(str::to_owned),
            last_name: None,
        })
    }

    async fn link(
        &self,
        user: UserId,
        by: Option<Credential>,
        claimed: &Claimed,
        client: &Client,
    ) -> Result<(), Error> {
        let known = self.store.user(user).await?.filter(User::may_sign_in);
        known.ok_or(Error::Unauthenticated)?;
        let event = client
            .did(Action::IdentityLinked)
            .on(user)
            .by(user, by)
            .detail(&claimed.provider);
        if self.store.link_identity(user, claimed, &event).await? {
            Ok(())
        } else {
            Err(Error::IdentityTaken)
        }
    }

    /// Signs in whom a provider knows: the account that the identity is joined
    /// to, the one of the same proven address, or a new one.
    async fn sign_in_as(&self, claimed: &Claimed, client: &Client) -> Result<SignedIn, Error> {
        let now = clock::now();
        let known = self
            .store
            .user_of_identity(&claimed.provider, &claimed.subject, now)
            .await?;
        let id = match (known, &claimed.verified_email) {
            (Some(user), _) => user,
            (None, Some(email)) => self.adopt(claimed, email, client).await?,
            (None, None) => return Err(Error::ProviderEmailUnverified),
        };
        let user = self.store.user(id).await?.filter(User::may_sign_in);
        let Some(user) = user else {
            let event = client.did(Action::Login).on(id).refused("disabled");
            self.store.audit(&event).await?;
            return Err(Error::BadCredentials);
        };
        self.after_first_factor(user, "another provider", client)
            .await
    }

    async fn adopt(
        &self,
        claimed: &Claimed,
        email: &Email,
        client: &Client,
    ) -> Result<UserId, Error> {
        if let Some((user, _)) = self.store.credentials(email).await?
            && user.email_verified_at.is_some()
        {
            self.link(user.id, None, claimed, client).await?;
            return Ok(user.id);
        }
        let now = clock::now();
        match self.registration {
            Registration::Open => {}
            Registration::Invitation if self.store.is_invited(email, now).await? => {}
            Registration::Invitation => return Err(Error::InvitationNeeded),
            Registration::Closed => return Err(Error::RegistrationClosed),
        }
        let user = NewUser {
            id: UserId::new(),
            email: email.clone(),
            password_hash: String::new(),
            first_name: name_of("first_name", claimed.first_name.clone()).unwrap_or_default(),
            last_name: name_of("last_name", claimed.last_name.clone()).unwrap_or_default(),
            role: Role::User,
            at: now,
            verified: true,
        };
        let event = |id| {
            let event = client.did(Action::AccountRegistered).on(id).by(id, None);
            event.detail(&claimed.provider)
        };
        let made = self
            .store
            .create_user_of_identity(&user, claimed, event)
            .await?;
        // Somebody was faster by a moment, with the address or with the identity.
        made.ok_or(Error::LinkNeeded)
    }

    /// The caller's identities.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn identities(&self, caller: &CurrentUser) -> Result<Vec<Identity>, Error> {
        Ok(self.store.identities_of(caller.id).await?)
    }

    /// Takes an identity off the caller's account.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is the last way to sign in.
    pub async fn unlink(
        &self,
        caller: &CurrentUser,
        id: IdentityId,
        client: &Client,
    ) -> Result<(), Error> {
        let event = client
            .did(Action::IdentityUnlinked)
            .on(caller.id)
            .by(caller.id, Some(caller.credential));
        if self.store.unlink_identity(caller.id, id, &event).await? {
            return Ok(());
        }
        let theirs = self.store.identities_of(caller.id).await?;
        Err(if theirs.iter().any(|it| it.id == id) {
            Error::LastWayIn
        } else {
            Error::NotFound("identity")
        })
    }

    /// Whether this caller may join an identity: with a login, not with a key.
    pub fn may_link(&self, caller: &CurrentUser) -> bool {
        matches!(caller.credential, Credential::Login(_)) && !caller.has_to_enrol
    }
}
