//! The history of commands.

use browserfleet_proto::ids::{CommandId, SessionId};
use sqlx::any::AnyRow;

use super::{Error, Store, column, parsed};
use crate::domain::command::{Command, Status};
use crate::domain::time::Timestamp;

/// One line for the history.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A command was admitted.
    Admitted {
        /// Its id.
        id: CommandId,
        /// On which session.
        session: SessionId,
        /// `navigate`, `click`, …
        kind: &'static str,
        /// JSON.
        params: String,
        /// When.
        at: Timestamp,
        /// When its caller stops waiting.
        deadline_at: Timestamp,
    },
    /// A command's outcome is known. Only the first one counts.
    Settled {
        /// Its id.
        id: CommandId,
        /// On which session: another session's command stays as it is.
        session: SessionId,
        /// How it ended.
        status: Status,
        /// JSON.
        result: Option<String>,
        /// The public code.
        error_code: Option<&'static str>,
        /// For the caller.
        error_message: Option<String>,
        /// When.
        at: Timestamp,
    },
}

impl Store {
    /// Appends to the history, all or nothing. Entries that are there already
    /// stay as they are.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn append_history(&self, entries: &[Entry]) -> Result<(), Error> {
        if let [only] = entries {
            // A statement of its own is a transaction, without the two round trips.
            return append(&self.write, only).await;
        }
        let mut transaction = self.write.begin().await?;
        for entry in entries {
            append(&mut *transaction, entry).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// A session's commands, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn commands_of(
        &self,
        session: SessionId,
        before: Option<CommandId>,
        limit: u32,
    ) -> Result<Vec<Command>, Error> {
        // `~` sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        sqlx::query(
            "select id, session_id, kind, params, status, result, error_code, error_message, \
             started_at, ended_at from commands where session_id = $1 and id < $2 \
             order by id desc limit $3",
        )
        .bind(session.to_string())
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?
        .iter()
        .map(command_of)
        .collect()
    }

    /// Gives an unknown outcome to commands that nobody waits for any more: their
    /// deadline is before `overdue`.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn give_up_commands(&self, overdue: Timestamp, now: Timestamp) -> Result<u64, Error> {
        let given_up = sqlx::query(
            "update commands set status = 'unknown', ended_at = $2 \
             where ended_at is null and deadline_at < $1",
        )
        .bind(overdue.0)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(given_up.rows_affected())
    }
}

async fn append<'e>(
    executor: impl sqlx::Executor<'e, Database = sqlx::Any>,
    entry: &'e Entry,
) -> Result<(), Error> {
    let statement = match entry {
        Entry::Admitted {
            id,
            session,
            kind,
            params,
            at,
            deadline_at,
        } => sqlx::query(
            "insert into commands (id, session_id, kind, params, status, started_at, \
             deadline_at) values ($1, $2, $3, $4, 'pending', $5, $6) \
             on conflict (id) do nothing",
        )
        .bind(id.to_string())
        .bind(session.to_string())
        .bind(*kind)
        .bind(params.as_str())
        .bind(at.0)
        .bind(deadline_at.0),
        Entry::Settled {
            id,
            session,
            status,
            result,
            error_code,
            error_message,
            at,
        } => sqlx::query(
            "update commands set status = $2, result = $3, error_code = $4, \
             error_message = $5, ended_at = $6 \
             where id = $1 and session_id = $7 and ended_at is null",
        )
        .bind(id.to_string())
        .bind(status.as_str())
        .bind(result.as_deref())
        .bind(*error_code)
        .bind(error_message.as_deref())
        .bind(at.0)
        .bind(session.to_string()),
    };
    statement.execute(executor).await?;
    Ok(())
}

fn command_of(row: &AnyRow) -> Result<Command, Error> {
    let status: String = column(row, "status")?;
    Ok(Command {
        id: parsed(row, "id")?,
        session: parsed(row, "session_id")?,
        kind: column(row, "kind")?,
        params: column(row, "params")?,
        status: Status::from_text(&status).ok_or(Error::Corrupt { column: "status" })?,
        result: column(row, "result")?,
        error_code: column(row, "error_code")?,
        error_message: column(row, "error_message")?,
        started_at: Timestamp(column(row, "started_at")?),
        ended_at: column::<Option<i64>>(row, "ended_at")?.map(Timestamp),
    })
}
