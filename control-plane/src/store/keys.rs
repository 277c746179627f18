//! API keys. Only their hashes.

use browserfleet_proto::ids::{ApiKeyId, UserId};
use sqlx::any::AnyRow;

use super::{Error, Store, audit, column, parsed};
use crate::domain::audit::Event;
use crate::domain::key::{ApiKey, Scope};
use crate::domain::time::Timestamp;

const COLUMNS: &str = "id, user_id, name, hint, scopes, created_at, expires_at, last_used_at";

impl Store {
    /// Keeps a key, if its owner has fewer than `max`. `false`: they have that many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_key(
        &self,
        key: &ApiKey,
        hash: &str,
        max: u32,
        event: &Event,
    ) -> Result<bool, Error> {
        let scopes =
            serde_json::to_string(&key.scopes).map_err(|_| Error::Corrupt { column: "scopes" })?;
        let mut transaction = self.write.begin().await?;
        sqlx::query("update users set id = id where id = $1")
            .bind(key.user.to_string())
            .execute(&mut *transaction)
            .await?;
        let made = sqlx::query(
            "insert into api_keys (id, user_id, name, hash, hint, scopes, created_at, expires_at) \
             select $1, $2, $3, $4, $5, $6, $7, $8 where \
             (select count(*) from api_keys where user_id = $2 and revoked_at is null) < $9",
        )
        .bind(key.id.to_string())
        .bind(key.user.to_string())
        .bind(&key.name)
        .bind(hash)
        .bind(&key.hint)
        .bind(scopes)
        .bind(key.created_at.0)
        .bind(key.expires_at.map(|it| it.0))
        .bind(i64::from(max))
        .execute(&mut *transaction)
        .await?;
        if made.rows_affected() == 0 {
            return Ok(false);
        }
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// A user's keys, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn keys_of(&self, user: UserId) -> Result<Vec<ApiKey>, Error> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from api_keys where user_id = $1 and revoked_at is null \
             order by id desc"
        )))
        .bind(user.to_string())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(key_of).collect()
    }

    /// The key of this hash, if it was not revoked.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from api_keys where hash = $1 and revoked_at is null"
        )))
        .bind(hash)
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(key_of).transpose()
    }

    /// Ends a key of this user. `false`: they have no such key.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn revoke_key(
        &self,
        user: UserId,
        id: ApiKeyId,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let revoked = sqlx::query(
            "update api_keys set revoked_at = $3 \
             where id = $1 and user_id = $2 and revoked_at is null",
        )
        .bind(id.to_string())
        .bind(user.to_string())
        .bind(event.at.0)
        .execute(&mut *transaction)
        .await?;
        if revoked.rows_affected() == 0 {
            return Ok(false);
        }
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Notes when a key was used.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn key_used(&self, id: ApiKeyId, at: Timestamp) -> Result<(), Error> {
        sqlx::query("update api_keys set last_used_at = $2 where id = $1")
            .bind(id.to_string())
            .bind(at.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

fn key_of(row: &AnyRow) -> Result<ApiKey, Error> {
    let scopes: String = column(row, "scopes")?;
    let scopes: Vec<Scope> =
        serde_json::from_str(&scopes).map_err(|_| Error::Corrupt { column: "scopes" })?;
    let time = |name| -> Result<Option<Timestamp>, Error> {
        Ok(column::<Option<i64>>(row, name)?.map(Timestamp))
    };
    Ok(ApiKey {
        id: parsed(row, "id")?,
        user: parsed(row, "user_id")?,
        name: column(row, "name")?,
        hint: column(row, "hint")?,
        scopes,
        created_at: Timestamp(column(row, "created_at")?),
        expires_at: time("expires_at")?,
        last_used_at: time("last_used_at")?,
    })
}
