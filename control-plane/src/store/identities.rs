//! Identities of other providers.

use browserfleet_proto::ids::{IdentityId, UserId};

use super::{Error, Store, Transaction, audit, column, parsed};
use crate::domain::audit::Event;
use crate::domain::identity::{Claimed, Identity};
use crate::domain::time::Timestamp;
use crate::domain::user::Email;

impl Store {
    /// Whose identity this is; and notes that it was used.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn user_of_identity(
        &self,
        provider: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<Option<UserId>, Error> {
        let row = sqlx::query(
            "update identities set last_login_at = $3 where provider = $1 and subject = $2 \
             returning user_id",
        )
        .bind(provider)
        .bind(subject)
        .bind(now.0)
        .fetch_optional(&self.write)
        .await?;
        row.map(|row| parsed(&row, "user_id")).transpose()
    }

    /// Joins an identity to an account. `false`: it is joined to one already.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn link_identity(
        &self,
        user: UserId,
        claimed: &Claimed,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let linked = insert(&mut transaction, user, claimed, event.at).await?;
        if linked {
            audit::write(&mut transaction, event).await?;
            transaction.commit().await?;
        }
        Ok(linked)
    }

    /// Takes an identity off an account. `false`: there is no such one, or it is
    /// the last way to sign in.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn unlink_identity(
        &self,
        user: UserId,
        id: IdentityId,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        sqlx::query("update users set id = id where id = $1")
            .bind(user.to_string())
            .execute(&mut *transaction)
            .await?;
        let unlinked = sqlx::query(
            "delete from identities where id = $1 and user_id = $2 and \
             (exists (select 1 from users where id = $2 and password_hash <> '') \
             or (select count(*) from identities where user_id = $2) > 1)",
        )
        .bind(id.to_string())
        .bind(user.to_string())
        .execute(&mut *transaction)
        .await?;
        if unlinked.rows_affected() == 0 {
            return Ok(false);
        }
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// A user's identities.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn identities_of(&self, user: UserId) -> Result<Vec<Identity>, Error> {
        let rows = sqlx::query(
            "select id, user_id, provider, email, created_at, last_login_at from identities \
             where user_id = $1 order by id",
        )
        .bind(user.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Identity {
                    id: parsed(row, "id")?,
                    user: parsed(row, "user_id")?,
                    provider: column(row, "provider")?,
                    email: column(row, "email")?,
                    created_at: Timestamp(column(row, "created_at")?),
                    last_login_at: column::<Option<i64>>(row, "last_login_at")?.map(Timestamp),
                })
            })
            .collect()
    }
}

pub(super) async fn insert(
    transaction: &mut Transaction<'_>,
    user: UserId,
    claimed: &Claimed,
    at: Timestamp,
) -> Result<bool, Error> {
    let linked = sqlx::query(
        "insert into identities (id, user_id, provider, subject, email, created_at, \
         last_login_at) values ($1, $2, $3, $4, $5, $6, $6) \
         on conflict (provider, subject) do nothing",
    )
    .bind(IdentityId::new().to_string())
    .bind(user.to_string())
    .bind(&claimed.provider)
    .bind(&claimed.subject)
    .bind(claimed.verified_email.as_ref().map(Email::as_str))
    .bind(at.0)
    .execute(&mut **transaction)
    .await?;
    Ok(linked.rows_affected() == 1)
}
