//! Making accounts: by their owners, by invitation, by administrators. What is
//! answered does not tell whether an address has an account; its mail does.

use std::time::Duration;

use browserfleet_proto::ids::UserId;

use super::mailer::Errand;
use super::secrets::{hash_of, new_secret};
use super::{Accounts, Client, CurrentUser, email_of, name_of};
use crate::clock;
use crate::config::Registration;
use crate::domain::audit::{Action, Event};
use crate::domain::user::{Email, Role, User};
use crate::error::Error;
use crate::store::mail_tokens::{NewMailToken, Purpose};
use crate::store::users::NewUser;

/// How long an account waits for its address to be proven.
pub(super) const UNVERIFIED_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long an invitation counts.
const INVITATION_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Bytes of randomness in a password that we make.
const GENERATED_PASSWORD_BYTES: usize = 18;

/// Why none is made.
const TAKEN: &str = "the address has an account";

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
    /// What an administrator sent them.
    pub invitation: Option<String>,
}

impl Accounts {
    /// Makes an account whose address is still to be proven, if there is none;
    /// the address is written to either way. With an invitation, which proves the
    /// address, it can be used at once.
    ///
    /// # Errors
    /// Names the field that is refused.
    pub async fn register(&self, account: NewAccount, client: &Client) -> Result<(), Error> {
        self.throttle.address(client.origin())?;
        match (self.registration, &account.invitation) {
            (Registration::Closed, _) => return Err(Error::RegistrationClosed),
            (Registration::Invitation, None) => return Err(Error::InvitationNeeded),
            _ => {}
        }
        let email = email_of(&account.email)?;
        let invitation = account.invitation.as_deref().map(hash_of);
        if let Some(hash) = &invitation {
            let invited = self
                .store
                .mail_token(hash, Purpose::Invitation, clock::now())
                .await?;
            if invited.as_ref() != Some(&email) {
                return Err(self.link_refused(Action::AccountRegistered, client).await?);
            }
        }
        let first_name = name_of("first_name", account.first_name)?;
        let last_name = name_of("last_name", account.last_name)?;
        let theirs = [
            email.as_str(),
            first_name.as_deref().unwrap_or_default(),
            last_name.as_deref().unwrap_or_default(),
        ];
        let user = NewUser {
            id: UserId::new(),
            email: email.clone(),
            password_hash: self
                .passwords
                .hash_new("password", account.password, &theirs)
                .await?,
            first_name,
            last_name,
            role: Role::User,
            at: clock::now(),
            verified: invitation.is_some(),
        };
        let event = |id| client.did(Action::AccountRegistered).on(id).by(id, None);
        match invitation {
            Some(hash) => {
                let made = self.store.create_invited_user(&user, &hash, event).await?;
                match made {
                    Some(_) => Ok(()),
                    None => Err(self.link_refused(Action::AccountRegistered, client).await?),
                }
            }
            None => {
                let event = |made: Option<UserId>| match made {
                    Some(id) => event(id),
                    None => client.did(Action::AccountRegistered).refused(TAKEN),
                };
                let made = self.store.create_user(&user, event).await?;
                self.mailer.ask(match made {
                    Some(user) => Errand::Verify { user, email },
                    None => Errand::AlreadyRegistered { email },
                });
                Ok(())
            }
        }
    }

    /// Sends the mail that proves an address once more, if it is to be proven.
    ///
    /// # Errors
    /// Names the field that is refused.
    pub fn resend_verification(&self, email: &str, client: &Client) -> Result<(), Error> {
        self.throttle.address(client.origin())?;
        let email = email_of(email)?;
        self.mailer.ask(Errand::VerifyAgain { email });
        Ok(())
    }

    /// Notes that an address is its account's, by what was sent to it.
    ///
    /// # Errors
    /// [`Error::MailTokenInvalid`]
    pub async fn verify_email(&self, token: &str, client: &Client) -> Result<(), Error> {
        self.throttle.address(client.origin())?;
        let event = |purpose, user| {
            let action = match purpose {
                Purpose::EmailChange => Action::EmailChanged,
                _ => Action::AccountVerified,
            };
            client.did(action).on(user).by(user, None)
        };
        let verified = self.store.verify_address(&hash_of(token), event).await?;
        match verified {
            Some(_) => Ok(()),
            None => Err(self.link_refused(Action::AccountVerified, client).await?),
        }
    }

    /// Makes an account for somebody else. Gives the password that was made, if
    /// none was chosen.
    ///
    /// # Errors
    /// Names the field that is refused; [`Error::EmailTaken`].
    pub async fn create_user(
        &self,
        account: NewAccount,
        password: Option<String>,
        role: Role,
        by: &CurrentUser,
        client: &Client,
    ) -> Result<(User, Option<String>), Error> {
        let email = email_of(&account.email)?;
        let generated = password.is_none().then(generate_password);
        let chosen = password.or_else(|| generated.clone()).unwrap_or_default();
        let user = NewUser {
            id: UserId::new(),
            password_hash: self
                .passwords
                .hash_new("password", chosen, &[email.as_str()])
                .await?,
            email,
            first_name: name_of("first_name", account.first_name)?,
            last_name: name_of("last_name", account.last_name)?,
            role,
            at: clock::now(),
            verified: true,
        };
        let event = |made: Option<UserId>| {
            let event = client.did(Action::AccountRegistered);
            let event = event.by(by.id, Some(by.credential));
            match made {
                Some(id) => event.on(id).detail(role.as_str()),
                None => event.refused(TAKEN),
            }
        };
        let made = self.store.create_user(&user, event).await?;
        let id = made.ok_or(Error::EmailTaken)?;
        Ok((self.user(id).await?, generated))
    }

    /// Invites somebody to register, by mail.
    ///
    /// # Errors
    /// Names the field that is refused.
    pub async fn invite(
        &self,
        email: &str,
        by: &CurrentUser,
        client: &Client,
    ) -> Result<(), Error> {
        let email = email_of(email)?;
        let token = new_secret("");
        let now = clock::now();
        let event = client
            .did(Action::InvitationSent)
            .by(by.id, Some(by.credential));
        self.store
            .issue_mail_token(
                &NewMailToken {
                    hash: &hash_of(&token),
                    purpose: Purpose::Invitation,
                    user: None,
                    email: &email,
                    at: now,
                    expires_at: now.plus(INVITATION_LIFE),
                },
                Some(&event),
            )
            .await?;
        self.mailer.ask(Errand::Invite { email, token });
        Ok(())
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
        let chosen = password.map(str::to_owned).or_else(|| generated.clone());
        let user = self
            .new_administrator(email_of(email)?, chosen.unwrap_or_default())
            .await?;
        let at = user.at;
        let event = |id| {
            Event::new(at, Action::AccountRegistered)
                .on(id)
                .detail("admin")
        };
        let first = self.store.create_first_administrator(&user, event).await?;
        Ok(generated.filter(|_| first))
    }

    /// Makes this user an administrator with a new password, which is returned,
    /// and without a second factor. For whoever has a shell on the control plane.
    ///
    /// # Errors
    /// Names the field that is refused.
    pub async fn rescue_administrator(&self, email: &str) -> Result<String, Error> {
        let password = generate_password();
        let email = email_of(email)?;
        let user = self
            .new_administrator(email.clone(), password.clone())
            .await?;
        let event = |id| Event::new(user.at, Action::AdministratorRescued).on(id);
        if let Some((known, _)) = self.store.credentials(&email).await? {
            self.store
                .rescue(known.id, &user.password_hash, &event(known.id))
                .await?;
            return Ok(password);
        }
        let another = |made: Option<UserId>| match made {
            Some(id) => event(id),
            None => Event::new(user.at, Action::AdministratorRescued).refused(TAKEN),
        };
        let made = self.store.create_first_administrator(&user, event).await?
            || self.store.create_user(&user, another).await?.is_some();
        if made {
            Ok(password)
        } else {
            Err(Error::EmailTaken)
        }
    }

    async fn new_administrator(&self, email: Email, password: String) -> Result<NewUser, Error> {
        Ok(NewUser {
            id: UserId::new(),
            password_hash: self
                .passwords
                .hash_new("password", password, &[email.as_str()])
                .await?,
            email,
            first_name: None,
            last_name: None,
            role: Role::Admin,
            at: clock::now(),
            verified: true,
        })
    }
}

fn generate_password() -> String {
    use base64::Engine;
    let bytes: [u8; GENERATED_PASSWORD_BYTES] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
