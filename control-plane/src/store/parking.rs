//! Instances that are stopped after their first start, and started again once they
//! are needed. What a machine is told is written before it is told.

use browserfleet_proto::ids::{InstanceId, UserId};

use super::lead::LeadEpoch;
use super::{Error, Store, parsed};
use crate::domain::instance::Stage;
use crate::domain::time::Timestamp;

impl Store {
    /// Notes the first word of the agent of an instance that is to be stopped then.
    /// `false`: it is not, or is not to run any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn park(&self, id: InstanceId, now: Timestamp) -> Result<bool, Error> {
        self.move_on(id, Stage::Wanted, Stage::Stopping, None, now)
            .await
    }

    /// Notes that the machine of a parked instance was seen stopped.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn stopped(
        &self,
        id: InstanceId,
        now: Timestamp,
        lead: LeadEpoch,
    ) -> Result<bool, Error> {
        self.move_on(id, Stage::Stopping, Stage::Stopped, Some(lead), now)
            .await
    }

    /// Wants a stopped instance back. `false`: it ends, or somebody else leads.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn unpark(
        &self,
        id: InstanceId,
        now: Timestamp,
        lead: LeadEpoch,
    ) -> Result<bool, Error> {
        self.move_on(id, Stage::Stopped, Stage::Starting, Some(lead), now)
            .await
    }

    /// Gives a user, who may have `most` instances, a stopped one that is nobody's, of
    /// this kind where one is named, and wants it back: the newest, as the pool does.
    /// `None`: there is none.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn lease_stopped(
        &self,
        user: UserId,
        most: u32,
        kind: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<InstanceId>, Error> {
        let mut transaction = self.write.begin().await?;
        // Whoever counts a user's instances queues up here, as those do who want more.
        sqlx::query("update deployment set one = 1 where one = 1")
            .execute(&mut *transaction)
            .await?;
        let row = sqlx::query(
            "update instances set parking = 'starting', parking_at = $4, power_asked_at = null, \
             assigned_to_user_id = $1, assigned_at = $4, asked_for_at = $4, last_activity_at = $4, \
             epoch = epoch + 1, uses = uses + 1 \
             where id = (select id from instances \
             where status = 'provisioning' and parking = 'stopped' and draining_at is null \
             and assigned_to_user_id is null and ($3 is null or instance_type = $3) \
             order by generation desc, created_at desc, id desc limit 1) \
             and (select count(*) from instances where assigned_to_user_id = $1 \
             and status in ('provisioning', 'running', 'stopping')) < $2 \
             and parking = 'stopped' and status = 'provisioning' and draining_at is null \
             returning id",
        )
        .bind(user.to_string())
        .bind(i64::from(most))
        .bind(kind)
        .bind(now.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let leased = row.map(|row| parsed(&row, "id")).transpose()?;
        transaction.commit().await?;
        Ok(leased)
    }

    /// Notes that there was no room to start an instance: it stays stopped.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn start_refused(
        &self,
        id: InstanceId,
        now: Timestamp,
        lead: LeadEpoch,
    ) -> Result<bool, Error> {
        self.move_on(id, Stage::Starting, Stage::Stopped, Some(lead), now)
            .await
    }

    /// Notes that a machine is being told to stop or to start, before it is. `false`:
    /// it is not to be any more, or somebody else leads.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn power_asked(
        &self,
        id: InstanceId,
        stage: Stage,
        now: Timestamp,
        lead: LeadEpoch,
    ) -> Result<bool, Error> {
        let sql = format!(
            "update instances set power_asked_at = $3 \
             where id = $1 and status = 'provisioning' and parking = $2 and {}",
            self.leads(lead)
        );
        let asked = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.to_string())
            .bind(stage.as_str())
            .bind(now.0)
            .execute(&self.write)
            .await?;
        Ok(asked.rows_affected() == 1)
    }

    async fn move_on(
        &self,
        id: InstanceId,
        from: Stage,
        to: Stage,
        lead: Option<LeadEpoch>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let leads = lead.map_or_else(|| "1 = 1".to_owned(), |lead| self.leads(lead));
        let sql = format!(
            "update instances set parking = $3, parking_at = $4, power_asked_at = null \
             where id = $1 and status = 'provisioning' and draining_at is null \
             and parking = $2 and {leads}"
        );
        let moved = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.to_string())
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(now.0)
            .execute(&self.write)
            .await?;
        Ok(moved.rows_affected() == 1)
    }
}
