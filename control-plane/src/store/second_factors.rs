//! Second factors: a sealed secret, and the hashes of its recovery codes.

use browserfleet_proto::ids::UserId;

use super::{Error, Store, Transaction, audit, column};
use crate::domain::audit::Event;
use crate::domain::time::Timestamp;

/// A second factor.
#[derive(Debug, Clone)]
pub struct SecondFactor {
    /// Sealed.
    pub secret: String,
    /// Whether its owner has shown that they have it.
    pub confirmed: bool,
    /// The last time step whose code was taken.
    pub last_step: i64,
}

impl Store {
    /// Keeps a secret that is still to be confirmed. `false`: one is confirmed.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn propose_second_factor(
        &self,
        user: UserId,
        sealed: &str,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let proposed = sqlx::query(
            "insert into second_factors (user_id, secret, created_at, last_step) \
             values ($1, $2, $3, 0) on conflict (user_id) do update \
             set secret = excluded.secret, created_at = excluded.created_at, last_step = 0 \
             where second_factors.confirmed_at is null",
        )
        .bind(user.to_string())
        .bind(sealed)
        .bind(at.0)
        .execute(&self.write)
        .await?;
        Ok(proposed.rows_affected() == 1)
    }

    /// A user's second factor, confirmed or not.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn second_factor(&self, user: UserId) -> Result<Option<SecondFactor>, Error> {
        let row = sqlx::query(
            "select secret, confirmed_at, last_step from second_factors where user_id = $1",
        )
        .bind(user.to_string())
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SecondFactor {
            secret: column(&row, "secret")?,
            confirmed: column::<Option<i64>>(&row, "confirmed_at")?.is_some(),
            last_step: column(&row, "last_step")?,
        }))
    }

    /// Confirms the proposed secret with its first code, and keeps the recovery
    /// codes. What was given before is refused. `false`: nothing was proposed.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn confirm_second_factor(
        &self,
        user: UserId,
        step: i64,
        recovery: &[String],
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let confirmed = sqlx::query(
            "update second_factors set confirmed_at = $2, last_step = $3 \
             where user_id = $1 and confirmed_at is null and last_step < $3",
        )
        .bind(user.to_string())
        .bind(event.at.0)
        .bind(step)
        .execute(&mut *transaction)
        .await?;
        if confirmed.rows_affected() == 0 {
            return Ok(false);
        }
        replace_codes(&mut transaction, user, recovery).await?;
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Takes the code of a time step, once. `false`: it or a later one was taken.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn take_step(&self, user: UserId, step: i64) -> Result<bool, Error> {
        let taken = sqlx::query(
            "update second_factors set last_step = $2 \
             where user_id = $1 and confirmed_at is not null and last_step < $2",
        )
        .bind(user.to_string())
        .bind(step)
        .execute(&self.write)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Uses up a recovery code. `false`: there is no such one, or it was used.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn take_recovery_code(
        &self,
        user: UserId,
        hash: &str,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let taken = sqlx::query(
            "update recovery_codes set used_at = $3 \
             where hash = $1 and user_id = $2 and used_at is null",
        )
        .bind(hash)
        .bind(user.to_string())
        .bind(event.at.0)
        .execute(&mut *transaction)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Replaces a user's recovery codes.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn replace_recovery_codes(
        &self,
        user: UserId,
        recovery: &[String],
        event: &Event,
    ) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        replace_codes(&mut transaction, user, recovery).await?;
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// How many recovery codes a user has left.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn recovery_codes_left(&self, user: UserId) -> Result<i64, Error> {
        let row = sqlx::query(
            "select count(*) as left_over from recovery_codes \
             where user_id = $1 and used_at is null",
        )
        .bind(user.to_string())
        .fetch_one(&self.read)
        .await?;
        column(&row, "left_over")
    }

    /// Takes a user's second factor off. `false`: there was none.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn remove_second_factor(&self, user: UserId, event: &Event) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let removed = sqlx::query("delete from second_factors where user_id = $1")
            .bind(user.to_string())
            .execute(&mut *transaction)
            .await?;
        replace_codes(&mut transaction, user, &[]).await?;
        if removed.rows_affected() == 0 {
            return Ok(false);
        }
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

async fn replace_codes(
    transaction: &mut Transaction<'_>,
    user: UserId,
    hashes: &[String],
) -> Result<(), Error> {
    sqlx::query("delete from recovery_codes where user_id = $1")
        .bind(user.to_string())
        .execute(&mut **transaction)
        .await?;
    for hash in hashes {
        sqlx::query("insert into recovery_codes (hash, user_id) values ($1, $2)")
            .bind(hash)
            .bind(user.to_string())
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}
