//! Users.

use browserfleet_proto::ids::{LoginId, UserId};
use sqlx::any::AnyRow;

use super::mail_tokens::Purpose;
use super::{Error, Store, Transaction, audit, column, identities, logins, mail_tokens, parsed};
use crate::domain::audit::Event;
use crate::domain::identity::Claimed;
use crate::domain::login::Login;
use crate::domain::settings::UserSettings;
use crate::domain::time::Timestamp;
use crate::domain::user::{Email, Quotas, Role, User};

/// A user who is to be.
#[derive(Debug)]
pub struct NewUser {
    /// Its id.
    pub id: UserId,
    /// Unique.
    pub email: Email,
    /// In the PHC string format; empty where there is no password.
    pub password_hash: String,
    /// As they wrote it.
    pub first_name: Option<String>,
    /// As they wrote it.
    pub last_name: Option<String>,
    /// What they may do.
    pub role: Role,
    /// When.
    pub at: Timestamp,
    /// Whether the address is known to be theirs.
    pub verified: bool,
}

/// Which users, oldest first.
#[derive(Debug, Default)]
pub struct Filter {
    /// Whose address has this in it.
    pub email: Option<String>,
    /// Of this role.
    pub role: Option<Role>,
    /// Disabled ones, or the others.
    pub disabled: Option<bool>,
    /// After this one.
    pub after: Option<UserId>,
    /// So many.
    pub limit: u32,
}

const COLUMNS: &str = "id, email, password_hash, first_name, last_name, role, users.created_at, \
    updated_at, last_login_at, disabled_at, email_verified_at, second_factor_required_at, \
    access_version, sessions_max, instances_max, commands_per_minute_max, \
    (select second_factors.confirmed_at from second_factors where second_factors.user_id = users.id) \
    as second_factor_at";

impl Store {
    /// Makes a user. An account whose address nobody has proven is taken over:
    /// whoever reads the address's mail decides whose it is. Gives its id;
    /// `None`: the address has an account, which is noted too, and takes as long.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_user(
        &self,
        user: &NewUser,
        event: impl FnOnce(Option<UserId>) -> Event,
    ) -> Result<Option<UserId>, Error> {
        let mut transaction = self.write.begin().await?;
        let made = insert(&mut transaction, user).await?;
        audit::write(&mut transaction, &event(made)).await?;
        transaction.commit().await?;
        Ok(made)
    }

    /// The same with an invitation, which is used up and names the address.
    /// `None`: the invitation does not count, or its address has an account.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_invited_user(
        &self,
        user: &NewUser,
        invitation: &str,
        event: impl FnOnce(UserId) -> Event,
    ) -> Result<Option<UserId>, Error> {
        let mut transaction = self.write.begin().await?;
        let taken =
            mail_tokens::take(&mut transaction, invitation, Purpose::Invitation, user.at).await?;
        if taken.is_none_or(|(_, email)| email != user.email) {
            return Ok(None);
        }
        let made = insert(&mut transaction, user).await?;
        if let Some(id) = made {
            audit::write(&mut transaction, &event(id)).await?;
            transaction.commit().await?;
        }
        Ok(made)
    }

    /// The same for somebody whom another provider knows. An invitation of the
    /// address is used up.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_user_of_identity(
        &self,
        user: &NewUser,
        claimed: &Claimed,
        event: impl FnOnce(UserId) -> Event,
    ) -> Result<Option<UserId>, Error> {
        let mut transaction = self.write.begin().await?;
        let Some(id) = insert(&mut transaction, user).await? else {
            return Ok(None);
        };
        if !identities::insert(&mut transaction, id, claimed, user.at).await? {
            return Ok(None);
        }
        sqlx::query("delete from mail_tokens where purpose = 'invitation' and email = $1")
            .bind(user.email.as_str())
            .execute(&mut *transaction)
            .await?;
        audit::write(&mut transaction, &event(id)).await?;
        transaction.commit().await?;
        Ok(Some(id))
    }

    /// Makes the first administrator, if there never was one. `false`: there was.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_first_administrator(
        &self,
        user: &NewUser,
        event: impl FnOnce(UserId) -> Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let Some(id) = insert(&mut transaction, user).await? else {
            return Ok(false);
        };
        let first = sqlx::query(
            "insert into first_administrator (one, user_id) values (1, $1) \
             on conflict (one) do nothing",
        )
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        if first.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        audit::write(&mut transaction, &event(id)).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Whether there ever was an administrator.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn has_administrator(&self) -> Result<bool, Error> {
        let row = sqlx::query("select one from first_administrator")
            .fetch_optional(&self.read)
            .await?;
        Ok(row.is_some())
    }

    /// A user who has not left.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from users where id = $1 and deleted_at is null"
        )))
        .bind(id.to_string())
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(user_of).transpose()
    }

    /// A user and their password's hash, by e-mail address.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn credentials(&self, email: &Email) -> Result<Option<(User, String)>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from users where email = $1 and deleted_at is null"
        )))
        .bind(email.as_str())
        .fetch_optional(&self.read)
        .await?;
        row.map(|row| Ok((user_of(&row)?, column(&row, "password_hash")?)))
            .transpose()
    }

    /// A user's password's hash; empty where there is none.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn password_hash(&self, id: UserId) -> Result<Option<String>, Error> {
        let row = sqlx::query("select password_hash from users where id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.map(|row| column(&row, "password_hash")).transpose()
    }

    /// Users who have not left.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn users(&self, filter: &Filter) -> Result<Vec<User>, Error> {
        let disabled = filter.disabled.map(i64::from);
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from users where deleted_at is null and id > $1 \
             and ($2 is null or email like $2 escape '\\') and ($3 is null or role = $3) \
             and ($4 is null or case when disabled_at is null then 0 else 1 end = $4) \
             order by id limit $5"
        )))
        .bind(filter.after.map_or_else(String::new, |it| it.to_string()))
        .bind(filter.email.as_deref().map(containing))
        .bind(filter.role.map(Role::as_str))
        .bind(disabled)
        .bind(i64::from(filter.limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(user_of).collect()
    }

    /// Replaces a hash by another one of the same password. Whoever changed the
    /// password meanwhile wins.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn rehash(&self, id: UserId, former: &str, hash: &str) -> Result<(), Error> {
        sqlx::query("update users set password_hash = $3 where id = $1 and password_hash = $2")
            .bind(id.to_string())
            .bind(former)
            .bind(hash)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Changes a password: all logins end, and a new one begins. Gives those that
    /// ended. `None`: the password was changed by somebody else meanwhile.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn change_password(
        &self,
        former: &str,
        hash: &str,
        login: &Login,
        refresh_hash: &str,
        event: &Event,
    ) -> Result<Option<Vec<LoginId>>, Error> {
        let mut transaction = self.write.begin().await?;
        let changed = sqlx::query(
            "update users set password_hash = $3, updated_at = $4 \
             where id = $1 and password_hash = $2 and disabled_at is null",
        )
        .bind(login.user.to_string())
        .bind(former)
        .bind(hash)
        .bind(event.at.0)
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            return Ok(None);
        }
        mail_tokens::take_back(&mut transaction, login.user).await?;
        let reason = "password_changed";
        let ended = logins::end_all(&mut transaction, login.user, None, reason, event.at).await?;
        logins::insert(&mut transaction, login, refresh_hash).await?;
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(Some(ended))
    }

    /// Makes a user an administrator again, whatever they were: a new password,
    /// no second factor, no login.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn rescue(&self, id: UserId, hash: &str, event: &Event) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        sqlx::query(
            "update users set password_hash = $2, role = 'admin', updated_at = $3, \
             disabled_at = null, email_verified_at = coalesce(email_verified_at, $3), \
             second_factor_required_at = null, access_version = access_version + 1, \
             access_changed_at = $3 where id = $1",
        )
        .bind(id.to_string())
        .bind(hash)
        .bind(event.at.0)
        .execute(&mut *transaction)
        .await?;
        for statement in [
            "delete from recovery_codes where user_id = $1",
            "delete from second_factors where user_id = $1",
        ] {
            sqlx::query(statement)
                .bind(id.to_string())
                .execute(&mut *transaction)
                .await?;
        }
        mail_tokens::take_back(&mut transaction, id).await?;
        logins::end_all(&mut transaction, id, None, "rescued", event.at).await?;
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Replaces a user's names.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn rename(
        &self,
        id: UserId,
        first_name: Option<&str>,
        last_name: Option<&str>,
        at: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "update users set first_name = $2, last_name = $3, updated_at = $4 \
             where id = $1 and deleted_at is null",
        )
        .bind(id.to_string())
        .bind(first_name)
        .bind(last_name)
        .bind(at.0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// A user's settings and their version.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn settings(&self, id: UserId) -> Result<Option<(UserSettings, i64)>, Error> {
        let row = sqlx::query("select settings, settings_version from users where id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let text: String = column(&row, "settings")?;
        let settings =
            serde_json::from_str(&text).map_err(|_| Error::Corrupt { column: "settings" })?;
        Ok(Some((settings, column(&row, "settings_version")?)))
    }

    /// Replaces a user's settings, if they are of the version `expected`, and
    /// gives the new version.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn replace_settings(
        &self,
        id: UserId,
        settings: &UserSettings,
        expected: Option<i64>,
        at: Timestamp,
    ) -> Result<Option<i64>, Error> {
        let text =
            serde_json::to_string(settings).map_err(|_| Error::Corrupt { column: "settings" })?;
        let row = sqlx::query(
            "update users set settings = $2, settings_version = settings_version + 1, \
             updated_at = $3 where id = $1 and deleted_at is null \
             and settings_version = coalesce($4, settings_version) returning settings_version",
        )
        .bind(id.to_string())
        .bind(text)
        .bind(at.0)
        .bind(expected)
        .fetch_optional(&self.write)
        .await?;
        row.map(|row| column(&row, "settings_version")).transpose()
    }

    /// Removes accounts whose address nobody proved since then.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_unverified(&self, before: Timestamp) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        for statement in [
            "delete from mail_tokens where user_id in (select id from users \
             where email_verified_at is null and deleted_at is null and updated_at < $1)",
            "delete from users where email_verified_at is null and deleted_at is null \
             and updated_at < $1",
        ] {
            sqlx::query(statement)
                .bind(before.0)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// A pattern for what has this text in it.
fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for character in text.to_lowercase().chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

async fn insert(
    transaction: &mut Transaction<'_>,
    user: &NewUser,
) -> Result<Option<UserId>, Error> {
    let row = sqlx::query(
        "insert into users (id, email, password_hash, first_name, last_name, role, settings, \
         created_at, updated_at, email_verified_at) \
         values ($1, $2, $3, $4, $5, $6, '{}', $7, $7, $8) \
         on conflict (email) do update set password_hash = excluded.password_hash, \
         first_name = excluded.first_name, last_name = excluded.last_name, role = excluded.role, \
         updated_at = excluded.updated_at, email_verified_at = excluded.email_verified_at \
         where users.email_verified_at is null and users.disabled_at is null \
         returning id",
    )
    .bind(user.id.to_string())
    .bind(user.email.as_str())
    .bind(user.password_hash.as_str())
    .bind(user.first_name.as_deref())
    .bind(user.last_name.as_deref())
    .bind(user.role.as_str())
    .bind(user.at.0)
    .bind(user.verified.then_some(user.at.0))
    .fetch_optional(&mut **transaction)
    .await?;
    let made: Option<UserId> = row.map(|row| parsed(&row, "id")).transpose()?;
    if let Some(taken_over) = made.filter(|it| *it != user.id) {
        // What was sent for the registration before confirms no other one.
        mail_tokens::take_back(transaction, taken_over).await?;
    }
    Ok(made)
}

fn user_of(row: &AnyRow) -> Result<User, Error> {
    let role: String = column(row, "role")?;
    let time = |name| -> Result<Option<Timestamp>, Error> {
        Ok(column::<Option<i64>>(row, name)?.map(Timestamp))
    };
    let quota = |name| -> Result<Option<u32>, Error> {
        let number = column::<Option<i64>>(row, name)?;
        Ok(number.map(|it| u32::try_from(it).unwrap_or(u32::MAX)))
    };
    Ok(User {
        id: parsed(row, "id")?,
        email: parsed(row, "email")?,
        first_name: column(row, "first_name")?,
        last_name: column(row, "last_name")?,
        role: Role::from_text(&role).ok_or(Error::Corrupt { column: "role" })?,
        created_at: Timestamp(column(row, "created_at")?),
        updated_at: Timestamp(column(row, "updated_at")?),
        last_login_at: time("last_login_at")?,
        disabled_at: time("disabled_at")?,
        email_verified_at: time("email_verified_at")?,
        has_password: !column::<String>(row, "password_hash")?.is_empty(),
        second_factor: time("second_factor_at")?.is_some(),
        second_factor_required_at: time("second_factor_required_at")?,
        access_version: column(row, "access_version")?,
        quotas: Quotas {
            sessions: quota("sessions_max")?,
            instances: quota("instances_max")?,
            commands_per_minute: quota("commands_per_minute_max")?,
        },
    })
}
