//! Shares. Only their hashes; one counts only while its session has not ended.

use browserfleet_proto::ids::{SessionId, ShareId};
use sqlx::any::AnyRow;

use super::tickets::right_of;
use super::{Error, Store, audit, column, parsed, time_or_null};
use crate::domain::audit::Event;
use crate::domain::share::Share;
use crate::domain::time::Timestamp;

const SELECT: &str = "select id, session_id, user_id, name, right_name, created_at, expires_at, \
    last_used_at from shares where revoked_at is null and exists (select 1 from sessions \
    where sessions.id = shares.session_id and status_rank < 4)";

impl Store {
    /// Keeps a share of a session that has not ended, if that has fewer than `max`.
    /// `false`: it has that many, or is over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn create_share(
        &self,
        share: &Share,
        hash: &str,
        max: u32,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        // Counting and inserting are one: all of this session's queue up at its row.
        sqlx::query("update sessions set id = id where id = $1")
            .bind(share.session.to_string())
            .execute(&mut *transaction)
            .await?;
        let made = sqlx::query(
            "insert into shares (id, session_id, user_id, name, hash, right_name, created_at, \
             expires_at) select $1, $2, $3, $4, $5, $6, $7, $8 from sessions \
             where id = $2 and user_id = $3 and status_rank < 4 and (select count(*) from shares \
             where session_id = $2 and revoked_at is null and expires_at > $7) < $9",
        )
        .bind(share.id.to_string())
        .bind(share.session.to_string())
        .bind(share.user.to_string())
        .bind(share.name.as_deref())
        .bind(hash)
        .bind(share.right.as_str())
        .bind(share.created_at.0)
        .bind(share.expires_at.0)
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

    /// A session's shares that count, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn shares_of(&self, session: SessionId, now: Timestamp) -> Result<Vec<Share>, Error> {
        let sql = format!("{SELECT} and session_id = $1 and expires_at > $2 order by id desc");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(session.to_string())
            .bind(now.0)
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(share_of).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn share(
        &self,
        session: SessionId,
        id: ShareId,
        now: Timestamp,
    ) -> Result<Option<Share>, Error> {
        let sql = format!("{SELECT} and session_id = $1 and id = $2 and expires_at > $3");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(session.to_string())
            .bind(id.to_string())
            .bind(now.0)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(share_of).transpose()
    }

    /// The share of this hash, if it counts.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn share_by_hash(&self, hash: &str, now: Timestamp) -> Result<Option<Share>, Error> {
        let sql = format!("{SELECT} and hash = $1 and expires_at > $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(hash)
            .bind(now.0)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(share_of).transpose()
    }

    /// Ends a share. `false`: the session has no such share.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn revoke_share(
        &self,
        session: SessionId,
        id: ShareId,
        event: &Event,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let revoked = sqlx::query(
            "update shares set revoked_at = $3 \
             where id = $1 and session_id = $2 and revoked_at is null",
        )
        .bind(id.to_string())
        .bind(session.to_string())
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

    /// Notes that somebody came in with a share.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn share_used(&self, id: ShareId, event: &Event) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        sqlx::query("update shares set last_used_at = $2 where id = $1")
            .bind(id.to_string())
            .bind(event.at.0)
            .execute(&mut *transaction)
            .await?;
        audit::write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(())
    }
}

fn share_of(row: &AnyRow) -> Result<Share, Error> {
    Ok(Share {
        id: parsed(row, "id")?,
        session: parsed(row, "session_id")?,
        user: parsed(row, "user_id")?,
        name: column(row, "name")?,
        right: right_of(row)?,
        created_at: Timestamp(column(row, "created_at")?),
        expires_at: Timestamp(column(row, "expires_at")?),
        last_used_at: time_or_null(row, "last_used_at")?,
    })
}
