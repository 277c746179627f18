//! The audit. A line is written in the transaction of what it tells of.

use browserfleet_proto::ids::{AuditId, UserId};

use super::{Error, Store, Transaction, column, parsed};
use crate::domain::audit::{Event, Line};
use crate::domain::time::Timestamp;

/// Which lines, newest first.
#[derive(Debug, Default)]
pub struct Filter {
    /// Of this one as actor or subject.
    pub user: Option<UserId>,
    /// Of this action.
    pub action: Option<&'static str>,
    /// `done` or `refused`.
    pub result: Option<&'static str>,
    /// Older than this one.
    pub before: Option<AuditId>,
    /// So many.
    pub limit: u32,
}

impl Store {
    /// Writes a line about something that changed nothing else.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn audit(&self, event: &Event) -> Result<(), Error> {
        let mut transaction = self.write.begin().await?;
        write(&mut transaction, event).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Lines, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn audit_lines(&self, filter: &Filter) -> Result<Vec<Line>, Error> {
        let user = filter.user.map(|it| it.to_string());
        let rows = sqlx::query(
            "select id, at, action, result, actor_user_id, actor_credential, subject_user_id, \
             detail, address, user_agent from audit_events \
             where ($1 is null or actor_user_id = $1 or subject_user_id = $1) \
             and ($2 is null or action = $2) and ($3 is null or result = $3) \
             and ($4 is null or id < $4) order by id desc limit $5",
        )
        .bind(user)
        .bind(filter.action)
        .bind(filter.result)
        .bind(filter.before.map(|it| it.to_string()))
        .bind(i64::from(filter.limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Line {
                    id: parsed(row, "id")?,
                    at: Timestamp(column(row, "at")?),
                    action: column(row, "action")?,
                    result: column(row, "result")?,
                    actor: column(row, "actor_user_id")?,
                    credential: column(row, "actor_credential")?,
                    subject: column(row, "subject_user_id")?,
                    detail: column(row, "detail")?,
                    address: column(row, "address")?,
                    user_agent: column(row, "user_agent")?,
                })
            })
            .collect()
    }

    /// Removes lines from before this time.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_audit(&self, before: Timestamp) -> Result<(), Error> {
        sqlx::query("delete from audit_events where at < $1")
            .bind(before.0)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

/// Writes a line along with what it tells of.
pub(super) async fn write(transaction: &mut Transaction<'_>, event: &Event) -> Result<(), Error> {
    sqlx::query(
        "insert into audit_events (id, at, action, result, actor_user_id, actor_credential, \
         subject_user_id, detail, address, user_agent) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(AuditId::new().to_string())
    .bind(event.at.0)
    .bind(event.action.as_str())
    .bind(event.verdict.as_str())
    .bind(event.actor.map(|it| it.to_string()))
    .bind(event.credential.map(|it| it.to_string()))
    .bind(event.subject.map(|it| it.to_string()))
    .bind(event.detail.as_deref())
    .bind(event.address.as_deref())
    .bind(event.user_agent.as_deref())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
