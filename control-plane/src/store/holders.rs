//! What those may have and prefer who hold instances, or wait for one.

use std::collections::HashMap;

use browserfleet_proto::ids::UserId;

use super::{BATCH_MAX, Error, Store, column, json_or_default, parsed, places, time_or_null};
use crate::domain::settings::UserSettings;
use crate::domain::time::Timestamp;

/// Somebody who holds instances, or waits for one.
#[derive(Debug, Clone)]
pub struct Holder {
    /// How many instances they may hold, where that is said of them alone.
    pub instances_max: Option<u32>,
    /// What they prefer.
    pub settings: UserSettings,
    /// When a session of theirs last began; `None`: none did.
    pub served_at: Option<Timestamp>,
}

impl Store {
    /// Those of these users that there are.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn holders(&self, users: &[UserId]) -> Result<HashMap<UserId, Holder>, Error> {
        let mut holders = HashMap::with_capacity(users.len());
        for batch in users.chunks(BATCH_MAX) {
            // They are served in the order in which they came, so the newest is the last.
            let sql = format!(
                "select id, instances_max, settings, \
                 (select started_at from sessions where user_id = users.id \
                  and started_at is not null order by id desc limit 1) as served_at \
                 from users where id in ({})",
                places(batch.len())
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for user in batch {
                query = query.bind(user.to_string());
            }
            for row in query.fetch_all(&self.read).await? {
                let most: Option<i64> = column(&row, "instances_max")?;
                let holder = Holder {
                    instances_max: most.map(|it| u32::try_from(it).unwrap_or(u32::MAX)),
                    settings: json_or_default(&row, "settings")?,
                    served_at: time_or_null(&row, "served_at")?,
                };
                holders.insert(parsed(&row, "id")?, holder);
            }
        }
        Ok(holders)
    }
}
