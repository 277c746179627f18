//! Tickets: good once, and briefly, on the database's own clock.

use std::time::Duration;

use browserfleet_proto::ids::{SessionId, UserId};
use sqlx::any::AnyRow;

use super::{Error, Store, column, json_of, parsed, parsed_or_null};
use crate::domain::access::{Reach, Right};
use crate::domain::audit::Credential;
use crate::domain::key::Scope;

/// To whom a ticket is given, and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Whose sessions it reaches.
    pub user: UserId,
    /// With what it was asked for.
    pub credential: Credential,
    /// The access version of that.
    pub access_version: i64,
    /// What a key is for; `None`: all that its user may.
    pub scopes: Option<Vec<Scope>>,
    /// What it is good for.
    pub reach: Reach,
}

impl Store {
    /// Keeps a ticket for `life`, if its credential has fewer than `max` that are not
    /// used. `false`: it has that many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn issue_ticket(
        &self,
        ticket: &Ticket,
        hash: &str,
        life: Duration,
        max: u32,
    ) -> Result<bool, Error> {
        let now = self.clock;
        let sql = format!(
            "insert into ws_tickets (hash, user_id, credential, access_version, scopes, \
             right_name, session_id, expires_at) \
             select $1, $2, $3, $4, $5, $6, $7, {now} + $8 where (select count(*) from ws_tickets \
             where user_id = $2 and credential = $3 and expires_at > {now}) < $9"
        );
        let scopes = ticket.scopes.as_ref();
        let issued = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(hash)
            .bind(ticket.user.to_string())
            .bind(ticket.credential.to_string())
            .bind(ticket.access_version)
            .bind(scopes.map(|it| json_of(it, "scopes")).transpose()?)
            .bind(ticket.reach.right.as_str())
            .bind(ticket.reach.session.map(|it| it.to_string()))
            .bind(i64::try_from(life.as_micros()).unwrap_or(i64::MAX))
            .bind(i64::from(max))
            .execute(&self.write)
            .await?;
        Ok(issued.rows_affected() == 1)
    }

    /// Uses a ticket up, and says how long it would have been good for. `None`: there is
    /// none, it was used, or it is too old. Of any number who come at once, one gets it: it
    /// is gone with the statement that reads it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn take_ticket(&self, hash: &str) -> Result<Option<(Ticket, Duration)>, Error> {
        let sql = format!(
            "delete from ws_tickets where hash = $1 returning user_id, credential, \
             access_version, scopes, right_name, session_id, expires_at, {} as now",
            self.clock
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(hash)
            .fetch_optional(&self.write)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let left = column::<i64>(&row, "expires_at")? - column::<i64>(&row, "now")?;
        match u64::try_from(left) {
            Ok(left @ 1..) => Ok(Some((ticket_of(&row)?, Duration::from_micros(left)))),
            _ => Ok(None),
        }
    }

    /// Removes tickets that nobody used in time.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn purge_tickets(&self) -> Result<(), Error> {
        let sql = format!("delete from ws_tickets where expires_at <= {}", self.clock);
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

fn ticket_of(row: &AnyRow) -> Result<Ticket, Error> {
    let scopes: Option<String> = column(row, "scopes")?;
    let scopes = scopes
        .map(|it| serde_json::from_str(&it).map_err(|_| Error::Corrupt { column: "scopes" }))
        .transpose()?;
    Ok(Ticket {
        user: parsed(row, "user_id")?,
        credential: parsed(row, "credential")?,
        access_version: column(row, "access_version")?,
        scopes,
        reach: Reach {
            right: right_of(row)?,
            session: parsed_or_null::<SessionId>(row, "session_id")?,
        },
    })
}

/// The right that a ticket or a share gives.
pub(super) fn right_of(row: &AnyRow) -> Result<Right, Error> {
    let text: String = column(row, "right_name")?;
    Right::from_text(&text).ok_or(Error::Corrupt {
        column: "right_name",
    })
}
