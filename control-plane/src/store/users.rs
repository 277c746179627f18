//! Users.

use browserfleet_proto::ids::UserId;
use sqlx::any::AnyRow;

use super::{Error, Store, column, parsed};
use crate::domain::time::Timestamp;
use crate::domain::user::{Email, Role, User, UserSettings};

/// A user who is to be.
#[derive(Debug)]
pub struct NewUser {
    /// Its id.
    pub id: UserId,
    /// Unique.
    pub email: Email,
    /// In the PHC string format.
    pub password_hash: String,
    /// As they wrote it.
    pub first_name: Option<String>,
    /// As they wrote it.
    pub last_name: Option<String>,
    /// What they may do.
    pub role: Role,
    /// When.
    pub at: Timestamp,
}

const COLUMNS: &str = "id, email, password_hash, first_name, last_name, role, created_at, \
                       updated_at, last_login_at, disabled_at";

impl Store {
    /// Makes a user. `false`: the e-mail address has an account.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_user(&self, user: &NewUser) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let made = insert(&mut transaction, user).await?;
        transaction.commit().await?;
        Ok(made)
    }

    /// Makes the first administrator, if there never was one. `false`: there was.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_first_administrator(&self, user: &NewUser) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        if !insert(&mut transaction, user).await? {
            return Ok(false);
        }
        let first = sqlx::query(
            "insert into first_administrator (one, user_id) values (1, $1) \
             on conflict (one) do nothing",
        )
        .bind(user.id.to_string())
        .execute(&mut *transaction)
        .await?;
        if first.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
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

    /// A user.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from users where id = $1"
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
            "select {COLUMNS} from users where email = $1"
        )))
        .bind(email.as_str())
        .fetch_optional(&self.read)
        .await?;
        row.map(|row| Ok((user_of(&row)?, column(&row, "password_hash")?)))
            .transpose()
    }

    /// Notes that a user signed in.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn signed_in(&self, id: UserId, at: Timestamp) -> Result<(), Error> {
        sqlx::query("update users set last_login_at = $2 where id = $1")
            .bind(id.to_string())
            .bind(at.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Replaces a user's password and role.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn replace_credentials(
        &self,
        id: UserId,
        password_hash: &str,
        role: Role,
        at: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "update users set password_hash = $2, role = $3, updated_at = $4, disabled_at = null \
             where id = $1",
        )
        .bind(id.to_string())
        .bind(password_hash)
        .bind(role.as_str())
        .bind(at.0)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// A user's settings.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn settings(&self, id: UserId) -> Result<Option<UserSettings>, Error> {
        let row = sqlx::query("select settings from users where id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let text: String = column(&row, "settings")?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|_| Error::Corrupt { column: "settings" })
    }

    /// Replaces a user's settings.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn replace_settings(
        &self,
        id: UserId,
        settings: &UserSettings,
        at: Timestamp,
    ) -> Result<(), Error> {
        let text =
            serde_json::to_string(settings).map_err(|_| Error::Corrupt { column: "settings" })?;
        sqlx::query("update users set settings = $2, updated_at = $3 where id = $1")
            .bind(id.to_string())
            .bind(text)
            .bind(at.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

async fn insert(
    transaction: &mut sqlx::Transaction<'_, sqlx::Any>,
    user: &NewUser,
) -> Result<bool, Error> {
    let made = sqlx::query(
        "insert into users (id, email, password_hash, first_name, last_name, role, settings, \
         created_at, updated_at) values ($1, $2, $3, $4, $5, $6, '{}', $7, $7) \
         on conflict (email) do nothing",
    )
    .bind(user.id.to_string())
    .bind(user.email.as_str())
    .bind(user.password_hash.as_str())
    .bind(user.first_name.as_deref())
    .bind(user.last_name.as_deref())
    .bind(user.role.as_str())
    .bind(user.at.0)
    .execute(&mut **transaction)
    .await?;
    Ok(made.rows_affected() == 1)
}

fn user_of(row: &AnyRow) -> Result<User, Error> {
    let role: String = column(row, "role")?;
    let time = |name| -> Result<Option<Timestamp>, Error> {
        Ok(column::<Option<i64>>(row, name)?.map(Timestamp))
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
    })
}
