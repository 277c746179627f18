//! A user's own account: names, address, settings, and its end.

use super::mailer::Errand;
use super::{Accounts, Client, CurrentUser, email_of, name_of};
use crate::clock;
use crate::domain::audit::{Action, Credential};
use crate::domain::settings::UserSettings;
use crate::domain::user::User;
use crate::error::Error;
use crate::store::access::{AccessOf, Changed};

/// What a user says of themselves.
#[derive(Debug)]
pub struct Profile {
    /// As they write it.
    pub first_name: Option<String>,
    /// As they write it.
    pub last_name: Option<String>,
    /// A new address, which counts once it is proven.
    pub email: Option<String>,
    /// Needed for a new address, where there is a password.
    pub current_password: Option<String>,
}

impl Accounts {
    /// Changes names at once, and the address once the new one is proven.
    ///
    /// # Errors
    /// Names the field that is refused; [`Error::CurrentPasswordWrong`].
    pub async fn update_profile(
        &self,
        caller: &CurrentUser,
        profile: Profile,
        client: &Client,
    ) -> Result<User, Error> {
        let user = self.user(caller.id).await?;
        let first_name = name_of("first_name", profile.first_name)?;
        let last_name = name_of("last_name", profile.last_name)?;
        let email = profile.email.as_deref().map(email_of).transpose()?;
        let new_email = email.filter(|it| *it != user.email);
        if new_email.is_some() && user.has_password {
            let Some(password) = profile.current_password else {
                let why = "is needed to change the e-mail address";
                return Err(Error::invalid("current_password", why));
            };
            self.prove_password(caller, password, Action::EmailChanged, client)
                .await?;
        }
        let names = (first_name.as_deref(), last_name.as_deref());
        self.store
            .rename(caller.id, names.0, names.1, clock::now())
            .await?;
        if let Some(email) = new_email {
            let event = client
                .did(Action::EmailChangeRequested)
                .on(user.id)
                .by(user.id, Some(caller.credential));
            self.mailer.ask(Errand::ChangeEmail {
                user: user.id,
                former: user.email,
                email,
                event,
            });
        }
        self.user(caller.id).await
    }

    /// A user's settings and their version.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where the account is gone.
    pub async fn settings(&self, caller: &CurrentUser) -> Result<(UserSettings, i64), Error> {
        let settings = self.store.settings(caller.id).await?;
        settings.ok_or(Error::Unauthenticated)
    }

    /// Replaces a user's settings, if they are still of the version `expected`,
    /// and gives the new version.
    ///
    /// # Errors
    /// Names the field that is refused; [`Error::PreconditionFailed`].
    pub async fn replace_settings(
        &self,
        caller: &CurrentUser,
        settings: &UserSettings,
        expected: Option<i64>,
    ) -> Result<i64, Error> {
        if let Some((field, why)) = settings.fault() {
            return Err(Error::invalid(field, why));
        }
        let version = self
            .store
            .replace_settings(caller.id, settings, expected, clock::now())
            .await?;
        version.ok_or(Error::PreconditionFailed)
    }

    /// Deletes the caller's account. Its sessions end and its instances are given
    /// back right after; what is personal is gone when this returns, the history
    /// of its sessions once they have ended.
    ///
    /// # Errors
    /// [`Error::CurrentPasswordWrong`], [`Error::LastAdministrator`].
    pub async fn delete_account(
        &self,
        caller: &CurrentUser,
        current_password: Option<String>,
        client: &Client,
    ) -> Result<(), Error> {
        let user = self.user(caller.id).await?;
        if user.has_password {
            let Some(password) = current_password else {
                let why = "is needed to delete the account";
                return Err(Error::invalid("current_password", why));
            };
            self.prove_password(caller, password, Action::AccountDeleted, client)
                .await?;
        }
        // The line that stays says who no more: not from where, not with what.
        let mut event = client.did(Action::AccountDeleted).on(user.id);
        (event.address, event.user_agent) = (None, None);
        match self.store.delete_user(user.id, &event).await? {
            Changed::Done => {}
            Changed::LastAdministrator => return Err(Error::LastAdministrator),
            Changed::NoSuchUser => return Err(Error::Unauthenticated),
        }
        if let Credential::Login(login) = caller.credential {
            self.logins_ended(vec![login]);
        }
        self.access_changed(AccessOf {
            user: user.id,
            version: user.access_version + 1,
            barred: true,
        });
        Ok(())
    }

    /// What a user was given before is refused from now on; what they hold ends
    /// where they are barred.
    pub(super) fn access_changed(&self, access: AccessOf) {
        // Learned like what others changed, so that the job that looks after the
        // barred finds it: here only what every request is checked against.
        self.access.bar(access);
        self.departures.send_modify(|count| *count += 1);
    }
}
