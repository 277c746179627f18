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

    /// Uses a token up, and gives the instance that it was for, if that instance
    /// still waits for its agent. Of any number of callers one gets it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn use_join_token(
        &self,
        hash: &str,
        now: Timestamp,
    ) -> Result<Option<InstanceId>, Error> {
        let row = sqlx::query(
            "update join_tokens set used_at = $2 \
             where hash = $1 and used_at is null and expires_at > $2 \
             and instance_id in (select id from instances where status = 'provisioning') \
             returning instance_id",
        )
        .bind(hash)
        .bind(now.0)
        .fetch_optional(&self.write)
        .await?;
        row.map(|row| parsed(&row, "instance_id")).transpose()
    }

    /// Removes tokens that are used up or expired.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_join_tokens(&self, now: Timestamp) -> Result<u64, Error> {
        let gone =
            sqlx::query("delete from join_tokens where used_at is not null or expires_at <= $1")
                .bind(now.0)
                .execute(&self.write)
                .await?;
        Ok(gone.rows_affected())
    }
}
