//! The one-time tokens with which agents join. Only their hashes are here.

use browserfleet_proto::ids::InstanceId;

use super::{Error, Store, parsed};
use crate::domain::time::Timestamp;

impl Store {
    /// Notes a token.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_join_token(
        &self,
        instance: InstanceId,
        hash: &str,
        expires_at: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query("insert into join_tokens (hash, instance_id, expires_at) values ($1, $2, $3)")
            .bind(hash)
            .bind(instance.to_string())
            .bind(expires_at.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Notes that an instance's token lies ready for it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn token_handed(&self, instance: InstanceId, now: Timestamp) -> Result<(), Error> {
        sqlx::query("update instances set token_at = $2 where id = $1")
            .bind(instance.to_string())
            .bind(now.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Uses a token up for a key, and gives the instance that it was for, if that
    /// instance still waits for its agent. Of any number of keys one gets it, as often
    /// as it asks until the token expires; without a key nobody does any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn use_join_token(
        &self,
        hash: &str,
        key_fingerprint: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<InstanceId>, Error> {
        let row = sqlx::query(
            "update join_tokens set used_at = coalesce(used_at, $2), key_fingerprint = $3 \
             where hash = $1 and (used_at is null or key_fingerprint = $3) and expires_at > $2 \
             and instance_id in (select id from instances where status = 'provisioning') \
             returning instance_id",
        )
        .bind(hash)
        .bind(now.0)
        .bind(key_fingerprint)
        .fetch_optional(&self.write)
        .await?;
        row.map(|row| parsed(&row, "instance_id")).transpose()
    }

    /// Gives a used token to no key, not even the one that it was used with.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn spoil_join_token(&self, hash: &str) -> Result<(), Error> {
        sqlx::query("update join_tokens set key_fingerprint = null where hash = $1")
            .bind(hash)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// The instance whose token was used with a key, and is not expired.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn joined_with(
        &self,
        hash: &str,
        now: Timestamp,
    ) -> Result<Option<InstanceId>, Error> {
        let row = sqlx::query(
            "select instance_id from join_tokens \
             where hash = $1 and key_fingerprint is not null and expires_at > $2",
        )
        .bind(hash)
        .bind(now.0)
        .fetch_optional(&self.read)
        .await?;
        row.map(|row| parsed(&row, "instance_id")).transpose()
    }

    /// Removes tokens that are expired. One that was used is known until then: its
    /// user may not have heard the answer.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_join_tokens(&self, now: Timestamp) -> Result<u64, Error> {
        let gone = sqlx::query("delete from join_tokens where expires_at <= $1")
            .bind(now.0)
            .execute(&self.write)
            .await?;
        Ok(gone.rows_affected())
    }
}
