//! The history of commands.

use std::collections::HashMap;

use browserfleet_proto::ids::{CommandId, SessionId};
use sqlx::any::AnyRow;

use super::{Error, Store, column, parsed};
use crate::domain::command::{Command, Status};
use crate::domain::time::Timestamp;

/// What is to be written in the history.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A command was admitted.
    Admitted(Admission),
    /// A command's outcome is known. Only the first one counts.
    Settled(Settlement),
}

/// That a command was admitted.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Its id.
    pub id: CommandId,
    /// On which session.
    pub session: SessionId,
    /// `navigate`, `click`, …
    pub kind: &'static str,
    /// JSON.
    pub params: String,
    /// When.
    pub at: Timestamp,
    /// When its caller stops waiting.
    pub deadline_at: Timestamp,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Its id.
    pub id: CommandId,
    /// On which session: another session's command stays as it is.
    pub session: SessionId,
    /// How it ended.
    pub status: Status,
    /// JSON.
    pub result: Option<String>,
    /// The public code.
    pub error_code: Option<&'static str>,
    /// For the caller.
    pub error_message: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// Appends to the history, all or nothing. Entries that are there already
    /// stay as they are.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn append_history(&self, entries: &[Entry]) -> Result<(), Error> {
        let lines = lines_of(entries);
        if let [only] = lines.as_slice() {
            // A statement of its own is a transaction, without the two round trips.
            return append(&self.write, *only).await;
        }
        let mut transaction = self.write.begin().await?;
        for line in lines {
            append(&mut *transaction, line).await?;
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

/// One statement.
#[derive(Clone, Copy)]
enum Line<'e> {
    Admitted(&'e Admission),
    Settled(&'e Settlement),
    /// A quick command's admission and its outcome.
    Whole(&'e Admission, &'e Settlement),
}

/// As few statements as say the same.
fn lines_of(entries: &[Entry]) -> Vec<Line<'_>> {
    let mut lines = Vec::with_capacity(entries.len());
    let mut admitted = HashMap::new();
    for entry in entries {
        match entry {
            Entry::Admitted(it) => {
                admitted.insert(it.id, (lines.len(), it));
                lines.push(Line::Admitted(it));
            }
            Entry::Settled(it) => {
                let its_own = |(_, begun): &(usize, &Admission)| begun.session == it.session;
                match admitted.remove(&it.id).filter(its_own) {
                    Some((at, begun)) => lines[at] = Line::Whole(begun, it),
                    None => lines.push(Line::Settled(it)),
                }
            }
        }
    }
    lines
}

async fn append<'e>(
    executor: impl sqlx::Executor<'e, Database = sqlx::Any>,
    line: Line<'e>,
) -> Result<(), Error> {
    let statement = match line {
        Line::Admitted(it) => sqlx::query(
            "insert into commands (id, session_id, kind, params, status, started_at, \
             deadline_at) values ($1, $2, $3, $4, 'pending', $5, $6) \
             on conflict (id) do nothing",
        )
        .bind(it.id.to_string())
        .bind(it.session.to_string())
        .bind(it.kind)
        .bind(it.params.as_str())
        .bind(it.at.0)
        .bind(it.deadline_at.0),
        Line::Settled(it) => sqlx::query(
            "update commands set status = $2, result = $3, error_code = $4, \
             error_message = $5, ended_at = $6 \
             where id = $1 and session_id = $7 and ended_at is null",
        )
        .bind(it.id.to_string())
        .bind(it.status.as_str())
        .bind(it.result.as_deref())
        .bind(it.error_code)
        .bind(it.error_message.as_deref())
        .bind(it.at.0)
        .bind(it.session.to_string()),
        Line::Whole(begun, ended) => sqlx::query(
            "insert into commands (id, session_id, kind, params, status, started_at, \
             deadline_at, result, error_code, error_message, ended_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             on conflict (id) do update set status = excluded.status, \
             result = excluded.result, error_code = excluded.error_code, \
             error_message = excluded.error_message, ended_at = excluded.ended_at \
             where commands.session_id = excluded.session_id and commands.ended_at is null",
        )
        .bind(begun.id.to_string())
        .bind(begun.session.to_string())
        .bind(begun.kind)
        .bind(begun.params.as_str())
        .bind(ended.status.as_str())
        .bind(begun.at.0)
        .bind(begun.deadline_at.0)
        .bind(ended.result.as_deref())
        .bind(ended.error_code)
        .bind(ended.error_message.as_deref())
        .bind(ended.at.0),
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
