//! What was answered to which `Idempotency-Key`. A key is claimed before its
//! request is run, so that of two requests one runs.

use browserfleet_proto::ids::UserId;

use super::{Error, Store, column};
use crate::domain::time::Timestamp;

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// New; the request may run.
    Claimed,
    /// Of another request.
    Mismatch,
    /// Under way in this process.
    InProgress,
    /// Was under way in a process that is gone.
    Abandoned,
    /// Answered.
    Answered(Answer),
}

/// An answer that is given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its media type.
    pub content_type: String,
    /// `None`: it was too large to be kept.
    pub body: Option<String>,
}

/// Whose key it is.
#[derive(Debug, Clone)]
pub struct Key {
    /// Each user has keys of their own.
    pub user: UserId,
    /// As the caller wrote it.
    pub key: String,
}

impl Store {
    /// Claims a key for a request, or tells what became of the first one.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn claim_key(
        &self,
        key: &Key,
        fingerprint: &str,
        process: &str,
        now: Timestamp,
    ) -> Result<Claim, Error> {
        let claimed = sqlx::query(
            "insert into idempotency_keys (user_id, key, fingerprint, process, claimed_at) \
             values ($1, $2, $3, $4, $5) on conflict (user_id, key) do nothing",
        )
        .bind(key.user.to_string())
        .bind(key.key.as_str())
        .bind(fingerprint)
        .bind(process)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        if claimed.rows_affected() == 1 {
            return Ok(Claim::Claimed);
        }
        let row = sqlx::query(
            "select fingerprint, process, status, content_type, body from idempotency_keys \
             where user_id = $1 and key = $2",
        )
        .bind(key.user.to_string())
        .bind(key.key.as_str())
        .fetch_one(&self.write)
        .await?;
        let first: String = column(&row, "fingerprint")?;
        if first != fingerprint {
            return Ok(Claim::Mismatch);
        }
        let status: Option<i64> = column(&row, "status")?;
        let Some(status) = status else {
            let holder: String = column(&row, "process")?;
            return Ok(if holder == process {
                Claim::InProgress
            } else {
                Claim::Abandoned
            });
        };
        Ok(Claim::Answered(Answer {
            status: u16::try_from(status).map_err(|_| Error::Corrupt { column: "status" })?,
            content_type: column::<Option<String>>(&row, "content_type")?.unwrap_or_default(),
            body: column(&row, "body")?,
        }))
    }

    /// Keeps the answer to a key.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn answer_key(&self, key: &Key, answer: &Answer) -> Result<(), Error> {
        sqlx::query(
            "update idempotency_keys set status = $3, content_type = $4, body = $5 \
             where user_id = $1 and key = $2",
        )
        .bind(key.user.to_string())
        .bind(key.key.as_str())
        .bind(i64::from(answer.status))
        .bind(answer.content_type.as_str())
        .bind(answer.body.as_deref())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Gives a key back: its request did nothing and may be tried again.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn release_key(&self, key: &Key) -> Result<(), Error> {
        sqlx::query("delete from idempotency_keys where user_id = $1 and key = $2")
            .bind(key.user.to_string())
            .bind(key.key.as_str())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Forgets keys that were claimed before this.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_keys(&self, before: Timestamp) -> Result<u64, Error> {
        let gone = sqlx::query("delete from idempotency_keys where claimed_at < $1")
            .bind(before.0)
            .execute(&self.write)
            .await?;
        Ok(gone.rows_affected())
    }
}
