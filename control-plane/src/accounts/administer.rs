//! What administrators do to accounts, and the audit.

use std::time::Duration;

use browserfleet_proto::ids::UserId;

use super::{Accounts, Client, CurrentUser};
use crate::domain::audit::{Action, Line};
use crate::domain::user::{Quotas, Role, User};
use crate::error::Error;
use crate::store::access::{AccessOf, Change, Changed};
use crate::store::{audit, users};

/// How long a line of the audit is kept: a year and a month, so that last year's
/// same day can be looked at.
pub(super) const AUDIT_LIFE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// What is to be changed of somebody; what is `None` stays.
#[derive(Debug, Default)]
pub struct Changes {
    /// What they may do.
    pub role: Option<Role>,
    /// Whether they may not sign in.
    pub disabled: Option<bool>,
    /// How much they may have.
    pub quotas: Option<Quotas>,
    /// Whether a second factor is required.
    pub second_factor_required: Option<bool>,
}

impl Accounts {
    /// Users, oldest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn users(&self, filter: &users::Filter) -> Result<Vec<User>, Error> {
        Ok(self.store.users(filter).await?)
    }

    /// Somebody's account.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub async fn somebody(&self, id: UserId) -> Result<User, Error> {
        self.store.user(id).await?.ok_or(Error::NotFound("user"))
    }

    /// Changes what somebody may do or have. What they were given before is
    /// refused within seconds, on every replica.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LastAdministrator`].
    pub async fn change_user(
        &self,
        id: UserId,
        changes: Changes,
        by: &CurrentUser,
        client: &Client,
    ) -> Result<User, Error> {
        let before = self.somebody(id).await?;
        let mut wanted = Vec::new();
        if let Some(role) = changes.role.filter(|it| *it != before.role) {
            wanted.push((
                Change::Role(role),
                Action::UserRoleChanged,
                role.as_str().to_owned(),
            ));
        }
        if let Some(required) = changes.second_factor_required {
            let detail = if required { "required" } else { "not required" };
            let change = Change::RequireSecondFactor(required);
            wanted.push((change, Action::SecondFactorRequired, detail.to_owned()));
        }
        if let Some(quotas) = changes.quotas {
            let detail = serde_json::to_string(&quotas).unwrap_or_default();
            wanted.push((Change::Quotas(quotas), Action::UserQuotasChanged, detail));
        }
        match changes.disabled {
            Some(true) => wanted.push((Change::Disable, Action::UserDisabled, String::new())),
            Some(false) => wanted.push((Change::Enable, Action::UserEnabled, String::new())),
            None => {}
        }
        for (change, action, detail) in wanted {
            let event = client.did(action).on(id).by(by.id, Some(by.credential));
            match self
                .store
                .change_access(id, change, &event.detail(detail))
                .await?
            {
                Changed::Done => {}
                Changed::LastAdministrator => return Err(Error::LastAdministrator),
                Changed::NoSuchUser => return Err(Error::NotFound("user")),
            }
        }
        let after = self.somebody(id).await?;
        if after.access_version != before.access_version {
            self.access_changed(AccessOf {
                user: id,
                version: after.access_version,
                barred: after.disabled_at.is_some(),
            });
        }
        Ok(after)
    }

    /// Takes somebody's second factor off, who lost it and their recovery codes.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub async fn reset_second_factor(
        &self,
        id: UserId,
        by: &CurrentUser,
        client: &Client,
    ) -> Result<(), Error> {
        let event = client
            .did(Action::SecondFactorDisabled)
            .on(id)
            .by(by.id, Some(by.credential))
            .detail("by an administrator");
        if self.store.remove_second_factor(id, &event).await? {
            Ok(())
        } else {
            Err(Error::NotFound("second factor"))
        }
    }

    /// Ends all of somebody's logins.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub async fn end_logins_of(
        &self,
        id: UserId,
        by: &CurrentUser,
        client: &Client,
    ) -> Result<(), Error> {
        self.somebody(id).await?;
        let event = client
            .did(Action::LoginEnded)
            .on(id)
            .by(by.id, Some(by.credential))
            .detail("by an administrator");
        let reason = "ended by an administrator";
        let ended = self.store.end_logins(id, None, reason, &event).await?;
        self.logins_ended(ended);
        Ok(())
    }

    /// Lines of the audit, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn audit(&self, filter: &audit::Filter) -> Result<Vec<Line>, Error> {
        Ok(self.store.audit_lines(filter).await?)
    }

    /// Notes that somebody asked for what is not for them.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn denied(
        &self,
        who: &CurrentUser,
        what: &str,
        client: &Client,
    ) -> Result<(), Error> {
        if !self.throttle.is_news(client.origin()) {
            return Ok(());
        }
        let event = client
            .did(Action::AccessDenied)
            .by(who.id, Some(who.credential))
            .refused(what);
        Ok(self.store.audit(&event).await?)
    }
}
