//! Users: how they register, how they sign in, how they are known again.

mod passwords;
mod tokens;

use std::path::Path;
use std::time::Duration;

use browserfleet_proto::ids::UserId;

use crate::clock;
use crate::domain::user::{Email, Role, User, UserSettings};
use crate::error::Error;
use crate::store::Store;
use crate::store::users::NewUser;

pub use passwords::Parameters;

use passwords::Passwords;
use tokens::Tokens;

/// Longest name, in characters.
const NAME_CHARACTERS_MAX: usize = 100;
/// Bytes of randomness in a password that we make.
const GENERATED_PASSWORD_BYTES: usize = 18;

/// Who calls, as far as every request has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentUser {
    /// Whose token it is.
    pub id: UserId,
    /// What they may do.
    pub role: Role,
}

/// What a new account is made from.
#[derive(Debug)]
pub struct NewAccount {
    /// Becomes unique.
    pub email: String,
    /// Its exact bytes count.
    pub password: String,
    /// As they write it.
    pub first_name: Option<String>,
    /// As they write it.
    pub last_name: Option<String>,
}

/// A user who has just signed in.
#[derive(Debug)]
pub struct SignedIn {
    /// Who.
    pub user: User,
    /// For `Authorization: Bearer`.
    pub access_token: String,
    /// The token's life.
    pub expires_in: Duration,
}

/// The service.
#[derive(Debug)]
pub struct Accounts {
    store: Store,
    passwords: Passwords,
    tokens: Tokens,
}

impl Accounts {
    /// The service, with the signing key of `folder`, which is made at the first
    /// start.
    ///
    /// # Errors
    /// Where the key cannot be read or made, or where others can read it.
    pub fn open(store: Store, folder: &Path, parameters: Parameters) -> anyhow::Result<Self> {
        Ok(Self {
            store,
            passwords: Passwords::new(parameters)?,
            tokens: Tokens::open(&folder.join("access-token.key"))?,
        })
    }

    /// Makes an account and signs it in.
    ///
    /// # Errors
    /// Names the field that is refused; [`Error::EmailTaken`].
    pub async fn register(&self, account: NewAccount) -> Result<SignedIn, Error> {
        let email = email_of(&account.email)?;
        let first_name = name_of("first_name", account.first_name)?;
        let last_name = name_of("last_name", account.last_name)?;
        let now = clock::now();
        let user = NewUser {
            id: UserId::new(),
            email,
            password_hash: self.passwords.hash_new(account.password).await?,
            first_name,
            last_name,
            role: Role::User,
            at: now,
        };
        if !self.store.create_user(&user).await? {
            return Err(Error::EmailTaken);
        }
        self.sign_in(user.id).await
    }

    /// Signs in. The same work is done for accounts that there are not.
    ///
    /// # Errors
    /// [`Error::BadCredentials`], whatever of them is wrong.
    pub async fn login(&self, email: String, password: String) -> Result<SignedIn, Error> {
        let known = match email.parse::<Email>() {
            Ok(email) => self.store.credentials(&email).await?,
            Err(_) => None,
        };
        let (user, hash) = known.map_or((None, None), |(user, hash)| (Some(user), Some(hash)));
        let right = self.passwords.verify(password, hash).await?;
        match user {
            Some(user) if right && user.disabled_at.is_none() => self.sign_in(user.id).await,
            _ => Err(Error::BadCredentials),
        }
    }

    async fn sign_in(&self, id: UserId) -> Result<SignedIn, Error> {
        self.store.signed_in(id, clock::now()).await?;
        let user = self.user(id).await?;
        let access_token = self.tokens.issue(&user)?;
        tracing::info!(user.id = %user.id, "signed in");
        Ok(SignedIn {
            user,
            access_token,
            expires_in: tokens::ACCESS_TOKEN_LIFE,
        })
    }

    /// Knows a user by their token.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]
    pub fn authenticate(&self, token: &str) -> Result<CurrentUser, Error> {
        self.tokens.read(token).ok_or(Error::Unauthenticated)
    }

    /// A user.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where the account is gone.
    pub async fn user(&self, id: UserId) -> Result<User, Error> {
        self.store.user(id).await?.ok_or(Error::Unauthenticated)
    }

    /// A user's settings.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where the account is gone.
    pub async fn settings(&self, id: UserId) -> Result<UserSettings, Error> {
        self.store.settings(id).await?.ok_or(Error::Unauthenticated)
    }

    /// Replaces a user's settings.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn replace_settings(
        &self,
        id: UserId,
        settings: UserSettings,
    ) -> Result<UserSettings, Error> {
        self.store
            .replace_settings(id, &settings, clock::now())
            .await?;
        Ok(settings)
    }

    /// Makes the first administrator, if there never was one. Gives the password
    /// that was made, if one was.
    ///
    /// # Errors
    /// Names the field that is refused.
    pub async fn first_administrator(
        &self,
        email: &str,
        password: Option<&str>,
    ) -> Result<Option<String>, Error> {
        if self.store.has_administrator().await? {
            return Ok(None);
        }
        let generated = password.is_none().then(generate_password);
        let password = password.map(str::to_owned).or_else(|| generated.clone());
        let user = NewUser {
            id: UserId::new(),
            email: email_of(email)?,
            password_hash: self
                .passwords
                .hash_new(password.unwrap_or_default())
                .await?,
            first_name: None,
            last_name: None,
            role: Role::Admin,
            at: clock::now(),
        };
        let first = self.store.create_first_administrator(&user).await?;
        Ok(generated.filter(|_| first))
    }

    /// Makes this user an administrator with a new password, which is returned.
    /// For whoever has a shell on the control plane.
    ///
    /// # Errors
    /// Names the field that is refused.
    pub async fn rescue_administrator(&self, email: &str) -> Result<String, Error> {
        let password = generate_password();
        let address = email_of(email)?;
        if let Some((user, _)) = self.store.credentials(&address).await? {
            let hash = self.passwords.hash_new(password.clone()).await?;
            self.store
                .replace_credentials(user.id, &hash, Role::Admin, clock::now())
                .await?;
            return Ok(password);
        }
        let user = NewUser {
            id: UserId::new(),
            email: address,
            password_hash: self.passwords.hash_new(password.clone()).await?,
            first_name: None,
            last_name: None,
            role: Role::Admin,
            at: clock::now(),
        };
        let made = self.store.create_first_administrator(&user).await?
            || self.store.create_user(&user).await?;
        if made {
            Ok(password)
        } else {
            Err(Error::EmailTaken)
        }
    }
}

fn email_of(text: &str) -> Result<Email, Error> {
    text.parse().map_err(|fault| Error::invalid("email", fault))
}

fn name_of(field: &'static str, name: Option<String>) -> Result<Option<String>, Error> {
    let Some(name) = name else { return Ok(None) };
    if name.chars().count() > NAME_CHARACTERS_MAX {
        return Err(Error::invalid(
            field,
            format!("is longer than {NAME_CHARACTERS_MAX} characters"),
        ));
    }
    if name.contains('\0') {
        return Err(Error::invalid(field, "has a NUL character"));
    }
    Ok(Some(name))
}

fn generate_password() -> String {
    use base64::Engine;
    let bytes: [u8; GENERATED_PASSWORD_BYTES] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
