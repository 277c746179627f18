//! Who leads. A lease on the database's own clock: whoever holds it under the
//! newest epoch, and only while it lasts, writes intents that reach a provider.

use std::time::Duration;

use super::{Error, Store, column};

/// The lead that everything here is about: bringing the pool to what is wanted.
const NAME: &str = "converge";

/// The epoch of a lead. Writes that name an older one do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeadEpoch(pub i64);

impl Store {
    /// Takes the lead, or renews the one of `known`, for `life`. `None`: somebody else
    /// has it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn take_lead(
        &self,
        holder: &str,
        known: Option<LeadEpoch>,
        life: Duration,
    ) -> Result<Option<LeadEpoch>, Error> {
        let now = self.clock;
        // One that ran out, or that a former process of the same name had, is a new
        // epoch: what that one began under the old one is not finished any more.
        let sql = format!(
            "insert into lead (name, holder, epoch, until_at) values ($1, $2, 1, {now} + $3) \
             on conflict (name) do update set \
             epoch = case when lead.holder = $2 and lead.epoch = $4 and lead.until_at > {now} \
                     then lead.epoch else lead.epoch + 1 end, \
             holder = $2, until_at = {now} + $3 \
             where lead.holder = $2 or lead.until_at <= {now} \
             returning epoch"
        );
        let life = i64::try_from(life.as_micros()).unwrap_or(i64::MAX);
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(NAME)
            .bind(holder)
            .bind(life)
            .bind(known.map_or(0, |it| it.0))
            .fetch_optional(&self.write)
            .await?;
        row.map(|row| column(&row, "epoch").map(LeadEpoch))
            .transpose()
    }

    /// Gives the lead back, so that another need not wait for its end.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn give_lead_back(&self, holder: &str) -> Result<(), Error> {
        sqlx::query("update lead set until_at = 0 where name = $1 and holder = $2")
            .bind(NAME)
            .bind(holder)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// A condition of SQL that holds while this epoch leads.
    pub(super) fn leads(&self, epoch: LeadEpoch) -> String {
        format!(
            "exists (select 1 from lead where name = '{NAME}' and epoch = {} and until_at > {})",
            epoch.0, self.clock
        )
    }
}
