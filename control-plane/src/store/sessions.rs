//! Sessions. A status is a rank that only grows: late writers lose in SQL.

use std::collections::BTreeMap;
use std::time::Duration;

use browserfleet_proto::ids::{InstanceId, SessionId, UserId};
use sqlx::any::AnyRow;

use super::{Error, Store, column, json_or_default, parsed, parsed_or_null};
use crate::domain::session::{Session, Status};
use crate::domain::time::Timestamp;

const SELECT: &str = "select id, user_id, instance_id, epoch, status_rank, end_reason, \
    error_message, name, metadata, spec, timeout_us, idle_timeout_us, created_at, started_at, \
    expires_at, last_activity_at, ended_at, current_url, current_title, ending_reason, \
    (select state from session_control where session_id = sessions.id) as control from sessions";

/// Which sessions of a user, newest first.
#[derive(Debug, Default)]
pub struct Filter {
    /// Those that are this far.
    pub status: Option<Status>,
    /// Those that have all these labels.
    pub metadata: BTreeMap<String, String>,
    /// Those older than this one.
    pub before: Option<SessionId>,
    /// So many.
    pub limit: u32,
}

/// What was seen of a session since the last time.
#[derive(Debug)]
pub struct Activity {
    /// Which.
    pub session: SessionId,
    /// When it was last active.
    pub at: Timestamp,
    /// Where its browser is.
    pub url: String,
    /// The document's title.
    pub title: String,
}

impl Store {
    /// Takes a session in, if its user has fewer than `live_max` that have not
    /// ended. `false`: they have that many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn admit_session(
        &self,
        session: &Session,
        wait_until: Timestamp,
        live_max: u32,
    ) -> Result<bool, Error> {
        let metadata = serde_json::to_string(&session.metadata)
            .map_err(|_| Error::Corrupt { column: "metadata" })?;
        let spec =
            serde_json::to_string(&session.spec).map_err(|_| Error::Corrupt { column: "spec" })?;
        let mut transaction = self.write.begin().await?;
        // Counting and inserting are one: all of this user's queue up at their row.
        sqlx::query("update users set id = id where id = $1")
            .bind(session.user.to_string())
            .execute(&mut *transaction)
            .await?;
        let admitted = sqlx::query(
            "insert into sessions (id, user_id, epoch, status_rank, name, metadata, spec, \
             timeout_us, idle_timeout_us, created_at, expires_at, last_activity_at, wait_until) \
             select $1, $2, 0, 0, $3, $4, $5, $6, $7, $8, $9, $8, $11 \
             where (select count(*) from sessions where user_id = $2 and status_rank < 4) < $10",
        )
        .bind(session.id.to_string())
        .bind(session.user.to_string())
        .bind(session.name.as_deref())
        .bind(metadata)
        .bind(spec)
        .bind(microseconds(session.timeout))
        .bind(microseconds(session.idle_timeout))
        .bind(session.created_at.0)
        .bind(session.expires_at.0)
        .bind(i64::from(live_max))
        .bind(wait_until.0)
        .execute(&mut *transaction)
        .await?;
        if admitted.rows_affected() == 0 {
            return Ok(false);
        }
        for (key, value) in &session.metadata {
            sqlx::query(
                "insert into session_metadata (session_id, key, value) values ($1, $2, $3)",
            )
            .bind(session.id.to_string())
            .bind(key.as_str())
            .bind(value.as_str())
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Notes that a session's browser is there.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn session_started(
        &self,
        id: SessionId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<bool, Error> {
        let started = sqlx::query(
            "update sessions set status_rank = 2, started_at = $2, expires_at = $3, \
             last_activity_at = $2 where id = $1 and status_rank < 2",
        )
        .bind(id.to_string())
        .bind(now.0)
        .bind(expires_at.0)
        .execute(&self.write)
        .await?;
        Ok(started.rows_affected() == 1)
    }

    /// Notes that a session is being ended.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn session_ending(&self, id: SessionId) -> Result<bool, Error> {
        let ending =
            sqlx::query("update sessions set status_rank = 3 where id = $1 and status_rank < 3")
                .bind(id.to_string())
                .execute(&self.write)
                .await?;
        Ok(ending.rows_affected() == 1)
    }

    /// Ends a session, once: `false` where it had ended.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end_session(
        &self,
        id: SessionId,
        reason: &str,
        message: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let ended = sqlx::query(
            "update sessions set status_rank = 4, end_reason = $2, error_message = $3, \
             ended_at = $4 where id = $1 and status_rank < 4",
        )
        .bind(id.to_string())
        .bind(reason)
        .bind(message)
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "update instances set last_activity_at = $2 \
             where id = (select instance_id from sessions where id = $1)",
        )
        .bind(id.to_string())
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(ended.rows_affected() == 1)
    }

    /// Ends a session before its time, for this reason.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn shorten_session(
        &self,
        id: SessionId,
        expires_at: Timestamp,
        reason: &str,
    ) -> Result<bool, Error> {
        let shortened = sqlx::query(
            "update sessions set expires_at = $2, ending_reason = $3 \
             where id = $1 and status_rank < 3 and expires_at > $2",
        )
        .bind(id.to_string())
        .bind(expires_at.0)
        .bind(reason)
        .execute(&self.write)
        .await?;
        Ok(shortened.rows_affected() == 1)
    }

    /// Moves a session's end. `false`: it is over.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn extend_session(
        &self,
        id: SessionId,
        expires_at: Timestamp,
    ) -> Result<bool, Error> {
        let extended =
            sqlx::query("update sessions set expires_at = $2 where id = $1 and status_rank < 3")
                .bind(id.to_string())
                .bind(expires_at.0)
                .execute(&self.write)
                .await?;
        Ok(extended.rows_affected() == 1)
    }

    /// Notes what was seen of sessions.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn note_activity(&self, seen: &[Activity]) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        for activity in seen {
            sqlx::query(
                "update sessions set last_activity_at = $2, current_url = $3, current_title = $4 \
                 where id = $1 and last_activity_at <= $2",
            )
            .bind(activity.session.to_string())
            .bind(activity.at.0)
            .bind(activity.url.as_str())
            .bind(activity.title.as_str())
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "update instances set last_activity_at = $2 where last_activity_at < $2 \
                 and id = (select instance_id from sessions where id = $1)",
            )
            .bind(activity.session.to_string())
            .bind(activity.at.0)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// A session.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} where id = $1")))
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(session_of).transpose()
    }

    /// A user's sessions that pass the filter.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sessions_of(&self, user: UserId, filter: &Filter) -> Result<Vec<Session>, Error> {
        let mut sql =
            format!("{SELECT} where user_id = $1 and status_rank between $2 and $3 and id < $4");
        // Only the number of labels shapes the text; their words are bound.
        for label in 0..filter.metadata.len() {
            let place = 6 + 2 * label;
            sql.push_str(&format!(
                " and exists (select 1 from session_metadata where session_id = sessions.id \
                 and key = ${place} and value = ${})",
                place + 1
            ));
        }
        sql.push_str(" order by id desc limit $5");
        let (least, most) = match filter.status {
            Some(status) => (status.rank(), status.rank()),
            None => (Status::Queued.rank(), Status::Ended.rank()),
        };
        // `~` sorts after every id.
        let before = filter
            .before
            .map_or_else(|| "~".to_owned(), |id| id.to_string());
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(user.to_string())
            .bind(least)
            .bind(most)
            .bind(before)
            .bind(i64::from(filter.limit));
        for (key, value) in &filter.metadata {
            query = query.bind(key.as_str()).bind(value.as_str());
        }
        query
            .fetch_all(&self.read)
            .await?
            .iter()
            .map(session_of)
            .collect()
    }

    /// The sessions of an instance that have not ended.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sessions_on(&self, instance: InstanceId) -> Result<Vec<Session>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SELECT} where instance_id = $1 and status_rank < 4"
        )))
        .bind(instance.to_string())
        .fetch_all(&self.read)
        .await?
        .iter()
        .map(session_of)
        .collect()
    }

    /// Sessions that ended since then, and why.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sessions_ended_since(
        &self,
        since: Timestamp,
    ) -> Result<Vec<(SessionId, String)>, Error> {
        sqlx::query("select id, end_reason from sessions where ended_at >= $1")
            .bind(since.0)
            .fetch_all(&self.read)
            .await?
            .iter()
            .map(|row| {
                let reason: Option<String> = column(row, "end_reason")?;
                Ok((parsed(row, "id")?, reason.unwrap_or_default()))
            })
            .collect()
    }

    /// All sessions that are being started.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sessions_starting(&self) -> Result<Vec<Session>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SELECT} where status_rank = 1"
        )))
        .fetch_all(&self.read)
        .await?
        .iter()
        .map(session_of)
        .collect()
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn session_of(row: &AnyRow) -> Result<Session, Error> {
    let duration = |name| -> Result<Duration, Error> {
        let microseconds: i64 = column(row, name)?;
        Ok(Duration::from_micros(microseconds.unsigned_abs()))
    };
    let time = |name| -> Result<Option<Timestamp>, Error> {
        Ok(column::<Option<i64>>(row, name)?.map(Timestamp))
    };
    let metadata: String = column(row, "metadata")?;
    let spec: String = column(row, "spec")?;
    Ok(Session {
        id: parsed(row, "id")?,
        user: parsed(row, "user_id")?,
        instance: parsed_or_null(row, "instance_id")?,
        epoch: column(row, "epoch")?,
        status: Status::from_rank(column(row, "status_rank")?).ok_or(Error::Corrupt {
            column: "status_rank",
        })?,
        end_reason: column(row, "end_reason")?,
        error_message: column(row, "error_message")?,
        name: column(row, "name")?,
        metadata: serde_json::from_str(&metadata)
            .map_err(|_| Error::Corrupt { column: "metadata" })?,
        spec: serde_json::from_str(&spec).map_err(|_| Error::Corrupt { column: "spec" })?,
        timeout: duration("timeout_us")?,
        idle_timeout: duration("idle_timeout_us")?,
        created_at: Timestamp(column(row, "created_at")?),
        started_at: time("started_at")?,
        expires_at: Timestamp(column(row, "expires_at")?),
        last_activity_at: Timestamp(column(row, "last_activity_at")?),
        ended_at: time("ended_at")?,
        current_url: column(row, "current_url")?,
        current_title: column(row, "current_title")?,
        ending_reason: column(row, "ending_reason")?,
        control: json_or_default(row, "control")?,
    })
}
