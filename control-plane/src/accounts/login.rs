//! Signing in, staying signed in, and signing out.

use std::time::Duration;

use browserfleet_proto::ids::LoginId;

use super::passwords::Verified;
use super::secrets::{hash_of, new_secret};
use super::tokens::{ACCESS_TOKEN_LIFE, REFRESH_PREFIX};
use super::{Accounts, Client, CurrentUser, account_of};
use crate::clock;
use crate::domain::audit::{Action, Credential};
use crate::domain::login::{Login, Presented, judge};
use crate::domain::time::Timestamp;
use crate::domain::user::{Email, User};
use crate::error::Error;
use crate::store::access::Endings;

/// How long an address counts as one that its account is used from, and how
/// long a login that is over is kept.
pub(super) const KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How often a refresh is tried against others of the same token: each loss
/// means that another one won.
const REFRESH_ATTEMPTS: u32 = 4;

/// A user who is signed in, and what they go on with.
#[derive(Debug)]
pub struct SignedIn {
    /// Who.
    pub user: User,
    /// The login.
    pub login: LoginId,
    /// For `Authorization: Bearer`.
    pub access_token: String,
    /// The access token's life.
    pub expires_in: Duration,
    /// For the next access token, once.
    pub refresh_token: String,
    /// The refresh token's life.
    pub refresh_expires_in: Duration,
}

impl Accounts {
    /// Signs in. The same work is done, and the same answer given, for accounts
    /// that there are not, that are disabled, and whose address nobody proved.
    ///
    /// # Errors
    /// [`Error::BadCredentials`], whatever of them is wrong;
    /// [`Error::SecondFactorNeeded`], with what to answer it with;
    /// [`Error::TooManyAttempts`].
    pub async fn login(
        &self,
        email: String,
        password: String,
        client: &Client,
    ) -> Result<SignedIn, Error> {
        let account = account_of(&email);
        let held_up = self.throttle.guess(client.origin(), &account);
        self.note_throttling(held_up, client).await?;
        let known = match email.parse::<Email>() {
            Ok(email) => self.store.credentials(&email).await?,
            Err(_) => None,
        };
        let held_up = self.throttle.account(&account);
        if held_up.is_err()
            && !self
                .is_known_from(known.as_ref().map(|it| &it.0), client)
                .await?
        {
            self.note_throttling(held_up, client).await?;
        }
        let (user, hash) = known.map_or((None, None), |(user, hash)| (Some(user), Some(hash)));
        let former = hash.filter(|hash| !hash.is_empty());
        let verified = self.passwords.verify(password, former.clone()).await?;
        let failed = client.did(Action::Login);
        match (user, verified) {
            (Some(user), Verified::Right { rehashed }) if user.may_sign_in() => {
                if let (Some(former), Some(hash)) = (former, rehashed) {
                    self.store.rehash(user.id, &former, &hash).await?;
                }
                self.after_first_factor(user, "password", client).await
            }
            (Some(user), verified) => {
                let why = match verified {
                    Verified::Wrong => "wrong password",
                    Verified::Right { .. } if user.disabled_at.is_some() => "disabled",
                    Verified::Right { .. } => "address not verified",
                };
                self.store.audit(&failed.on(user.id).refused(why)).await?;
                Err(Error::BadCredentials)
            }
            (None, _) => {
                self.store.audit(&failed.refused("no such account")).await?;
                Err(Error::BadCredentials)
            }
        }
    }

    async fn is_known_from(&self, user: Option<&User>, client: &Client) -> Result<bool, Error> {
        let Some(user) = user else { return Ok(false) };
        let since = Timestamp(clock::now().0 - i64::try_from(KEPT.as_micros()).unwrap_or(0));
        let address = client.address_text();
        Ok(self.store.signed_in_from(user.id, &address, since).await?)
    }

    /// Passes a refusal of the throttle on, with a line in the audit now and then.
    async fn note_throttling(
        &self,
        held_up: Result<(), Error>,
        client: &Client,
    ) -> Result<(), Error> {
        if held_up.is_err() && self.throttle.is_news(client.origin()) {
            let event = client.did(Action::LoginThrottled);
            self.store
                .audit(&event.refused("too many attempts"))
                .await?;
        }
        held_up
    }

    /// Asks for the second factor, or signs in where there is none.
    pub(super) async fn after_first_factor(
        &self,
        user: User,
        first: &'static str,
        client: &Client,
    ) -> Result<SignedIn, Error> {
        if user.second_factor {
            return Err(Error::SecondFactorNeeded {
                challenge: self.challenge(&user, first)?,
            });
        }
        self.sign_in(user, first, client).await
    }

    /// Begins a login.
    pub(super) async fn sign_in(
        &self,
        user: User,
        how: &str,
        client: &Client,
    ) -> Result<SignedIn, Error> {
        let (login, refresh_token) = self.new_login(&user, client);
        let credential = Credential::Login(login.id);
        let event = client
            .did(Action::Login)
            .on(user.id)
            .by(user.id, Some(credential))
            .detail(how);
        let hash = hash_of(&refresh_token);
        if !self.store.begin_login(&login, &hash, &event).await? {
            return Err(Error::BadCredentials);
        }
        tracing::info!(user.id = %user.id, login.id = %login.id, how, "signed in");
        let user = self.user(user.id).await?;
        self.signed_in(user, &login, refresh_token)
    }

    /// A login that is still to be written, and its first refresh token.
    pub(super) fn new_login(&self, user: &User, client: &Client) -> (Login, String) {
        let now = clock::now();
        let login = Login {
            id: LoginId::new(),
            user: user.id,
            generation: 0,
            repeated: false,
            created_at: now,
            last_activity_at: now,
            expires_at: self.lives.end(now, now),
            address: Some(client.address_text()),
            user_agent: client.user_agent_text(),
            ended_at: None,
        };
        (login, new_secret(REFRESH_PREFIX))
    }

    pub(super) fn signed_in(
        &self,
        user: User,
        login: &Login,
        refresh_token: String,
    ) -> Result<SignedIn, Error> {
        Ok(SignedIn {
            access_token: self.tokens.issue(&user, login.id)?,
            user,
            login: login.id,
            expires_in: ACCESS_TOKEN_LIFE,
            refresh_token,
            refresh_expires_in: login.expires_at.since(clock::now()),
        })
    }

    /// Goes on being signed in: a new access token, and the refresh token's
    /// successor. See [`judge`] for tokens that are not the newest.
    ///
    /// # Errors
    /// [`Error::RefreshTokenInvalid`]
    pub async fn refresh(&self, token: &str, client: &Client) -> Result<SignedIn, Error> {
        let hash = hash_of(token);
        for _ in 0..REFRESH_ATTEMPTS {
            let found = self.store.refresh_family(&hash).await?;
            let family = found.ok_or(Error::RefreshTokenInvalid)?;
            let mut login = family.login;
            let now = clock::now();
            if login.ended_at.is_some() || login.expires_at <= now {
                return Err(Error::RefreshTokenInvalid);
            }
            let user = self.store.user(login.user).await?;
            let user = user
                .filter(User::may_sign_in)
                .ok_or(Error::RefreshTokenInvalid)?;
            let next = match judge(family.presented, login.generation, login.repeated) {
                Presented::Rotate => {
                    let next = self.tokens.successor(token).unwrap_or_default();
                    login.expires_at = self.lives.end(login.created_at, now);
                    let rotated = self
                        .store
                        .rotate_refresh(
                            login.id,
                            login.generation,
                            &hash_of(&next),
                            now,
                            login.expires_at,
                        )
                        .await?;
                    rotated.then_some(next)
                }
                Presented::Repeat => {
                    let next = self
                        .tokens
                        .successor_of_hash(token, &family.newest)
                        .ok_or(Error::RefreshTokenInvalid)?;
                    let repeated = self
                        .store
                        .repeat_refresh(login.id, login.generation, now)
                        .await?;
                    repeated.then_some(next)
                }
                Presented::Refuse => return Err(Error::RefreshTokenInvalid),
                Presented::Replay => {
                    self.end_family(&login, client).await?;
                    return Err(Error::RefreshTokenInvalid);
                }
            };
            if let Some(next) = next {
                return self.signed_in(user, &login, next);
            }
        }
        Err(Error::RefreshTokenInvalid)
    }

    /// Two have the tokens of one login: it ends for both.
    async fn end_family(&self, login: &Login, client: &Client) -> Result<(), Error> {
        let event = client
            .did(Action::LoginReplayed)
            .on(login.user)
            .by(login.user, Some(Credential::Login(login.id)))
            .refused("a refresh token was used again; its login has ended");
        self.store.end_login(login.id, "replayed", &event).await?;
        self.logins_ended(vec![login.id]);
        tracing::warn!(user.id = %login.user, login.id = %login.id, "a refresh token was used again");
        Ok(())
    }

    /// Signs out, by whichever of the two is there. What has ended stays ended.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where neither is ours.
    pub async fn logout(
        &self,
        caller: Option<&CurrentUser>,
        refresh_token: Option<&str>,
        client: &Client,
    ) -> Result<(), Error> {
        let by_token = match refresh_token {
            Some(token) => self.store.refresh_family(&hash_of(token)).await?,
            None => None,
        };
        let by_token = by_token.map(|family| (family.login.user, family.login.id));
        let by_caller = caller.and_then(|it| match it.credential {
            Credential::Login(login) => Some((it.id, login)),
            Credential::Key(_) | Credential::Share(_) => None,
        });
        let logins: Vec<_> = by_token.into_iter().chain(by_caller).collect();
        if logins.is_empty() {
            return Err(Error::Unauthenticated);
        }
        for (user, login) in logins {
            self.end_login(user, login, "logout", client).await?;
        }
        Ok(())
    }

    async fn end_login(
        &self,
        user: browserfleet_proto::ids::UserId,
        login: LoginId,
        reason: &'static str,
        client: &Client,
    ) -> Result<(), Error> {
        let event = client
            .did(Action::LoginEnded)
            .on(user)
            .by(user, Some(Credential::Login(login)))
            .detail(reason);
        self.store.end_login(login, reason, &event).await?;
        self.logins_ended(vec![login]);
        Ok(())
    }

    /// A user's logins, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn logins(&self, user: &CurrentUser) -> Result<Vec<Login>, Error> {
        Ok(self.store.logins_of(user.id, clock::now()).await?)
    }

    /// Ends one of the caller's logins.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is somebody else's.
    pub async fn end_own_login(
        &self,
        user: &CurrentUser,
        login: LoginId,
        client: &Client,
    ) -> Result<(), Error> {
        let theirs = self.store.logins_of(user.id, clock::now()).await?;
        if !theirs.iter().any(|it| it.id == login) {
            return Err(Error::NotFound("login session"));
        }
        self.end_login(user.id, login, "ended by its user", client)
            .await
    }

    /// Ends all of the caller's logins but this one.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end_other_logins(&self, user: &CurrentUser, client: &Client) -> Result<(), Error> {
        let keep = match user.credential {
            Credential::Login(login) => Some(login),
            Credential::Key(_) | Credential::Share(_) => None,
        };
        let event = client
            .did(Action::LoginEnded)
            .on(user.id)
            .by(user.id, Some(user.credential))
            .detail("all others");
        let ended = self
            .store
            .end_logins(user.id, keep, "ended by its user", &event)
            .await?;
        self.logins_ended(ended);
        Ok(())
    }

    /// Tokens of these logins are refused from now on.
    pub(super) fn logins_ended(&self, logins: Vec<LoginId>) {
        let endings = Endings {
            logins,
            ..Endings::default()
        };
        self.access.learn(endings, clock::now(), false);
    }
}
