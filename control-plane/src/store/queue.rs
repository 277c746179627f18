//! Sessions that wait for an instance. Who stops asking stops waiting.

use browserfleet_proto::ids::{InstanceId, SessionId, UserId};

use super::{Error, Store, column, parsed};
use crate::domain::time::Timestamp;

/// A session that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// Since when.
    pub since: Timestamp,
    /// Until when somebody is known to wait for it.
    pub wait_until: Timestamp,
}

impl Store {
    /// All that wait, the first to come first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn queue(&self) -> Result<Vec<Queued>, Error> {
        sqlx::query(
            "select id, user_id, created_at, wait_until from sessions \
             where status_rank = 0 and wait_until is not null order by created_at, id",
        )
        .fetch_all(&self.read)
        .await?
        .iter()
        .map(|row| {
            Ok(Queued {
                session: parsed(row, "id")?,
                user: parsed(row, "user_id")?,
                since: Timestamp(column(row, "created_at")?),
                wait_until: Timestamp(column(row, "wait_until")?),
            })
        })
        .collect()
    }

    /// Notes that somebody waits for a session until then. `false`: it does not wait
    /// any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn go_on_waiting(&self, id: SessionId, until: Timestamp) -> Result<bool, Error> {
        let waits = sqlx::query(
            "update sessions set wait_until = $2 \
             where id = $1 and status_rank = 0 and wait_until < $2",
        )
        .bind(id.to_string())
        .bind(until.0)
        .execute(&self.write)
        .await?;
        Ok(waits.rows_affected() == 1)
    }

    /// Gives a session that waits a place on a free instance: the lease and the place
    /// are one. Gives the lease's epoch; `None`: the instance is not free any more, or
    /// the session does not wait.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn place_on_free(
        &self,
        id: SessionId,
        user: UserId,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<Option<i64>, Error> {
        let mut transaction = self.write.begin().await?;
        let leased = sqlx::query(
            "update instances set assigned_to_user_id = $2, epoch = epoch + 1, uses = uses + 1, \
             assigned_at = $3, last_activity_at = $3 \
             where id = $1 and assigned_to_user_id is null and status = 'running' \
             and draining_at is null and unhealthy_at is null and restart_at is null \
             and recycling_since is null returning epoch",
        )
        .bind(instance.to_string())
        .bind(user.to_string())
        .bind(now.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(leased) = leased else {
            return Ok(None);
        };
        let epoch: i64 = column(&leased, "epoch")?;
        if !start_on(&mut transaction, id, instance, epoch).await? {
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(Some(epoch))
    }

    /// Gives a session that waits a place on an instance that its user holds, if the
    /// lease's epoch still holds.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn place_on_own(
        &self,
        id: SessionId,
        instance: InstanceId,
        epoch: i64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let leased = sqlx::query(
            "update instances set last_activity_at = $3 \
             where id = $1 and epoch = $2 and status = 'running' and draining_at is null \
             and restart_at is null and recycling_since is null returning sessions_max",
        )
        .bind(instance.to_string())
        .bind(epoch)
        .bind(now.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(leased) = leased else {
            return Ok(false);
        };
        // Counted once the row is ours: whoever held it until now may have placed one.
        let held = sqlx::query(
            "select count(*) as count from sessions where instance_id = $1 and status_rank < 4",
        )
        .bind(instance.to_string())
        .fetch_one(&mut *transaction)
        .await?;
        let full = column::<i64>(&held, "count")? >= column::<i64>(&leased, "sessions_max")?;
        if full || !start_on(&mut transaction, id, instance, epoch).await? {
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    }
}

async fn start_on(
    transaction: &mut super::Transaction<'_>,
    id: SessionId,
    instance: InstanceId,
    epoch: i64,
) -> Result<bool, Error> {
    let placed = sqlx::query(
        "update sessions set instance_id = $2, epoch = $3, status_rank = 1, wait_until = null \
         where id = $1 and status_rank = 0",
    )
    .bind(id.to_string())
    .bind(instance.to_string())
    .bind(epoch)
    .execute(&mut **transaction)
    .await?;
    Ok(placed.rows_affected() == 1)
}
