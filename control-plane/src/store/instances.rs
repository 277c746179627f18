//! Instances. A state is changed by compare-and-set on where it may come from.

use browserfleet_proto::ids::{InstanceId, UserId};
use sqlx::any::AnyRow;

use super::{Error, Store, column, parsed, parsed_or_null};
use crate::domain::instance::{Instance, Status};
use crate::domain::time::Timestamp;

const SELECT: &str = "select id, provider, reference, status, assigned_to_user_id, epoch, \
    sessions_max, created_at, last_activity_at, \
    (select count(*) from sessions where instance_id = instances.id and status_rank < 4) as sessions \
    from instances";

/// An instance that is to be.
#[derive(Debug, Clone, Copy)]
pub struct NewInstance {
    /// Its id.
    pub id: InstanceId,
    /// `local`, `ec2`
    pub provider: &'static str,
    /// How many sessions it will take.
    pub sessions_max: u32,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// Writes the intent of an instance, if there are fewer than `max`.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn want_instance(&self, instance: NewInstance, max: u32) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        // Counting and inserting are one: all who do it queue up at this row.
        sqlx::query("update deployment set one = 1 where one = 1")
            .execute(&mut *transaction)
            .await?;
        let wanted = sqlx::query(
            "insert into instances (id, provider, status, epoch, sessions_max, \
             created_at, last_activity_at) \
             select $1, $2, 'provisioning', 0, $3, $4, $4 \
             where (select count(*) from instances where status <> 'terminated') < $5",
        )
        .bind(instance.id.to_string())
        .bind(instance.provider)
        .bind(i64::from(instance.sessions_max))
        .bind(instance.at.0)
        .bind(i64::from(max))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(wanted.rows_affected() == 1)
    }

    /// Notes what the provider calls it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn launched(&self, id: InstanceId, reference: &str) -> Result<(), Error> {
        sqlx::query("update instances set reference = $2 where id = $1")
            .bind(id.to_string())
            .bind(reference)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Notes that its agent has a certificate.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn enrolled(&self, id: InstanceId, serial: &str) -> Result<(), Error> {
        sqlx::query("update instances set certificate_serial = $2 where id = $1")
            .bind(id.to_string())
            .bind(serial)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Moves an instance on. `false`: from where it is, it may not go there.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn move_instance(
        &self,
        id: InstanceId,
        to: Status,
        message: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut transaction = self.write.begin().await?;
        let row = sqlx::query("update instances set epoch = epoch where id = $1 returning status")
            .bind(id.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(false) };
        if !status_of(&row)?.may_become(to) {
            return Ok(false);
        }
        let ended = (to == Status::Terminated).then_some(now.0);
        sqlx::query(
            "update instances set status = $2, last_activity_at = $3, \
             error_message = coalesce($4, error_message), terminated_at = $5 where id = $1",
        )
        .bind(id.to_string())
        .bind(to.as_str())
        .bind(now.0)
        .bind(message)
        .bind(ended)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Leases a free instance to a user: a new holder, a new epoch. `None`:
    /// somebody was faster, or it stopped being free.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn lease_instance(
        &self,
        id: InstanceId,
        user: UserId,
        now: Timestamp,
    ) -> Result<Option<i64>, Error> {
        let row = sqlx::query(
            "update instances set assigned_to_user_id = $2, epoch = epoch + 1, \
             last_activity_at = $3 \
             where id = $1 and assigned_to_user_id is null and status = 'running' returning epoch",
        )
        .bind(id.to_string())
        .bind(user.to_string())
        .bind(now.0)
        .fetch_optional(&self.write)
        .await?;
        row.map(|row| column(&row, "epoch")).transpose()
    }

    /// Begins to end an instance that its holder has no session on and has not
    /// used since `before`. `false`: it is in use.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn retire_idle_instance(
        &self,
        id: InstanceId,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let retired = sqlx::query(
            "update instances set status = 'stopping', last_activity_at = $3 \
             where id = $1 and status = 'running' and last_activity_at <= $2 \
             and not exists (select 1 from sessions \
                             where instance_id = instances.id and status_rank < 4)",
        )
        .bind(id.to_string())
        .bind(before.0)
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(retired.rows_affected() == 1)
    }

    /// An instance.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instance(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} where id = $1")))
            .bind(id.to_string())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(instance_of).transpose()
    }

    /// All instances that are not terminated.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn instances(&self) -> Result<Vec<Instance>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SELECT} where status <> 'terminated' order by id"
        )))
        .fetch_all(&self.read)
        .await?
        .iter()
        .map(instance_of)
        .collect()
    }
}

fn status_of(row: &AnyRow) -> Result<Status, Error> {
    let text: String = column(row, "status")?;
    Status::from_text(&text).ok_or(Error::Corrupt { column: "status" })
}

fn instance_of(row: &AnyRow) -> Result<Instance, Error> {
    Ok(Instance {
        id: parsed(row, "id")?,
        provider: column(row, "provider")?,
        reference: column(row, "reference")?,
        status: status_of(row)?,
        assigned_to: parsed_or_null(row, "assigned_to_user_id")?,
        epoch: column(row, "epoch")?,
        sessions_max: column(row, "sessions_max")?,
        sessions: column(row, "sessions")?,
        created_at: Timestamp(column(row, "created_at")?),
        last_activity_at: Timestamp(column(row, "last_activity_at")?),
    })
}
