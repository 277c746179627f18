//! New passwords: by mail where the old one is lost, and by who has it.

use browserfleet_proto::ids::UserId;

use super::mailer::Errand;
use super::passwords::Verified;
use super::secrets::hash_of;
use super::{Accounts, Client, CurrentUser, SignedIn, email_of};
use crate::clock;
use crate::domain::audit::Action;
use crate::error::Error;
use crate::store::mail_tokens::Purpose;

impl Accounts {
    /// Sends a mail with which a new password can be set, if the address has an
    /// account. Everything happens later, so that nothing can be told from how
    /// long this takes.
    ///
    /// # Errors
    /// Names the field that is refused.
    pub fn forgot_password(&self, email: &str, client: &Client) -> Result<(), Error> {
        self.throttle.address(client.origin())?;
        let email = email_of(email)?;
        let event = client.did(Action::PasswordResetRequested);
        self.mailer.ask(Errand::Reset { email, event });
        Ok(())
    }

    /// Sets a new password by what was sent. All logins end; nobody is signed in.
    ///
    /// # Errors
    /// [`Error::MailTokenInvalid`]; names the field that is refused.
    pub async fn reset_password(
        &self,
        token: &str,
        password: String,
        client: &Client,
    ) -> Result<(), Error> {
        self.throttle.address(client.origin())?;
        let hash = hash_of(token);
        let found = self
            .store
            .mail_token(&hash, Purpose::Reset, clock::now())
            .await?;
        let Some(email) = found else {
            return Err(self.link_refused(Action::PasswordReset, client).await?);
        };
        // A password that is refused leaves the token as it was.
        let new = self
            .passwords
            .hash_new("new_password", password, &[email.as_str()])
            .await?;
        let event = |user: UserId| client.did(Action::PasswordReset).on(user).by(user, None);
        let reset = self.store.reset_password(&hash, &new, event).await?;
        let Some((_, ended)) = reset else {
            return Err(self.link_refused(Action::PasswordReset, client).await?);
        };
        self.logins_ended(ended);
        self.mailer.ask(Errand::PasswordChanged { email });
        Ok(())
    }

    /// Notes that a link was followed that does not count, and gives what is
    /// answered. Nobody knows whose it was.
    pub(super) async fn link_refused(
        &self,
        action: Action,
        client: &Client,
    ) -> Result<Error, Error> {
        let event = client.did(action).refused("the link does not count");
        self.store.audit(&event).await?;
        Ok(Error::MailTokenInvalid)
    }

    /// Changes a password. All logins end, and the caller gets a new one.
    ///
    /// # Errors
    /// [`Error::CurrentPasswordWrong`]; names the field that is refused.
    pub async fn change_password(
        &self,
        caller: &CurrentUser,
        current: String,
        new: String,
        client: &Client,
    ) -> Result<SignedIn, Error> {
        let user = self.user(caller.id).await?;
        let former = self
            .prove_password(caller, current, Action::PasswordChanged, client)
            .await?;
        let theirs = [user.email.as_str()];
        let hash = self
            .passwords
            .hash_new("new_password", new, &theirs)
            .await?;
        let (login, refresh_token) = self.new_login(&user, client);
        let event = client
            .did(Action::PasswordChanged)
            .on(user.id)
            .by(user.id, Some(caller.credential));
        let ended = self
            .store
            .change_password(&former, &hash, &login, &hash_of(&refresh_token), &event)
            .await?
            .ok_or(Error::CurrentPasswordWrong)?;
        self.logins_ended(ended);
        self.mailer.ask(Errand::PasswordChanged {
            email: user.email.clone(),
        });
        self.signed_in(user, &login, refresh_token)
    }

    /// The caller shows that they know their password, for what `action` names.
    /// Gives its stored hash.
    pub(super) async fn prove_password(
        &self,
        caller: &CurrentUser,
        password: String,
        action: Action,
        client: &Client,
    ) -> Result<String, Error> {
        self.throttle.proof(caller.id)?;
        let hash = self.store.password_hash(caller.id).await?;
        let hash = hash.filter(|it| !it.is_empty());
        match self.passwords.verify(password, hash.clone()).await? {
            Verified::Right { .. } => Ok(hash.unwrap_or_default()),
            Verified::Wrong => {
                let event = client
                    .did(action)
                    .on(caller.id)
                    .by(caller.id, Some(caller.credential));
                let event = event.refused("wrong current password");
                self.store.audit(&event).await?;
                Err(Error::CurrentPasswordWrong)
            }
        }
    }
}
