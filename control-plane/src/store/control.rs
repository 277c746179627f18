//! Who drives a session: one row that is compared and set, on the database's own clock.

use browserfleet_proto::ids::SessionId;
use sqlx::any::AnyRow;

use super::{Error, Store, audit, column, json_of, parsed};
use crate::domain::audit::Event;
use crate::domain::control::Control;
use crate::domain::time::Timestamp;

/// What a row says, and when it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Grows with each change.
    pub version: i64,
    /// Times in it are on the database's clock.
    pub control: Control,
    /// The database's clock.
    pub now: Timestamp,
}

impl Store {
    /// Who drives a session.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn control(&self, session: SessionId) -> Result<Standing, Error> {
        let sql = format!(
            "select coalesce((select version from session_control where session_id = $1), 0) \
             as version, (select state from session_control where session_id = $1) as state, \
             {} as now",
            self.clock
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(session.to_string())
            .fetch_one(&self.write)
            .await?;
        standing_of(&row)
    }

    /// Writes who drives a live session, if nobody wrote since the one that was `seen`;
    /// gives the new version. `None`: somebody did, or the session is not live.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn change_control(
        &self,
        session: SessionId,
        seen: i64,
        control: &Control,
        event: Option<&Event>,
    ) -> Result<Option<i64>, Error> {
        let mut transaction = self.write.begin().await?;
        let now = self.clock;
        let sql = format!(
            "insert into session_control (session_id, version, state, changed_at) \
             select $1, 1, $2, {now} from sessions where id = $1 and status_rank = 2 \
             on conflict (session_id) do update set version = session_control.version + 1, \
             state = $2, changed_at = {now} where session_control.version = $3 \
             returning version"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(session.to_string())
            .bind(json_of(control, "state")?)
            .bind(seen)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let version = column(&row, "version")?;
        if let Some(event) = event {
            audit::write(&mut transaction, event).await?;
        }
        transaction.commit().await?;
        Ok(Some(version))
    }

    /// What was changed since then, on the database's clock.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn controls_changed_since(
        &self,
        since: Timestamp,
    ) -> Result<Vec<(SessionId, Standing)>, Error> {
        let sql = format!(
            "select session_id, version, state, {} as now from session_control \
             where changed_at >= $1",
            self.clock
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(since.0)
            .fetch_all(&self.read)
            .await?;
        rows.iter()
            .map(|row| Ok((parsed(row, "session_id")?, standing_of(row)?)))
            .collect()
    }
}

fn standing_of(row: &AnyRow) -> Result<Standing, Error> {
    let state: Option<String> = column(row, "state")?;
    let control = match state {
        Some(state) => {
            serde_json::from_str(&state).map_err(|_| Error::Corrupt { column: "state" })?
        }
        None => Control::default(),
    };
    Ok(Standing {
        version: column(row, "version")?,
        control,
        now: Timestamp(column(row, "now")?),
    })
}
