//! What is wanted of the pool, and how it went of late.

use std::time::Duration;

use sqlx::Row;

use super::{Error, Store, column, json_of, json_or_default, time_or_null};
use crate::domain::pool::REPLACEMENT_WINDOW;
use crate::domain::time::Timestamp;
use crate::store::instances::before;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How far back arrivals are counted.
const ARRIVALS_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Instances that are looked at for how long a start takes and how many failed.
const STARTS_MAX: i64 = 50;

/// The pool's own row.
#[derive(Debug, Clone)]
pub struct PoolRow<T> {
    /// What the administrators want other than the settings say.
    pub overrides: T,
    /// Grows with each change of it.
    pub version: i64,
    /// What instances are started from.
    pub image: Option<String>,
    /// Grows with each change of that.
    pub generation: i64,
}

/// How it went of late.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Launches that failed since the last that did not.
    pub failures_in_a_row: u32,
    /// When the last of them failed.
    pub failed_at: Option<Timestamp>,
    /// Why.
    pub failure: Option<String>,
    /// How long starts took, shortest first.
    pub boots: Vec<Duration>,
    /// Instances that got a holder, in a second.
    pub arrivals_per_second: f64,
    /// Instances that were ended for their health.
    pub replaced: u32,
    /// Whether one of this generation was ever ready.
    pub generation_proven: bool,
}

impl History {
    /// How long `part` of all starts take at most; `None`: none was seen.
    #[must_use]
    pub fn boot(&self, part: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part of at most some fifty"
        )]
        let at = (self.boots.len() as f64 * part) as usize;
        let last = self.boots.len().checked_sub(1)?;
        self.boots.get(at.min(last)).copied()
    }
}

impl Store {
    /// The pool's own row.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn pool<T: DeserializeOwned + Default>(&self) -> Result<PoolRow<T>, Error> {
        let row = sqlx::query("select overrides, version, image, generation from pool")
            .fetch_one(&self.read)
            .await?;
        Ok(PoolRow {
            overrides: json_or_default(&row, "overrides")?,
            version: column(&row, "version")?,
            image: column(&row, "image")?,
            generation: column(&row, "generation")?,
        })
    }

    /// Replaces what the administrators want, if it is of the version `expected`.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn replace_pool<T: Serialize>(
        &self,
        overrides: &T,
        expected: Option<i64>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let replaced = sqlx::query(
            "update pool set overrides = $1, version = version + 1, changed_at = $2 \
             where one = 1 and ($3 is null or version = $3)",
        )
        .bind(json_of(overrides, "overrides")?)
        .bind(now.0)
        .bind(expected)
        .execute(&self.write)
        .await?;
        Ok(replaced.rows_affected() == 1)
    }

    /// Notes what instances are started from now, and how they are made; where either
    /// changed, they are of a new generation. Gives the generation.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn note_making(
        &self,
        image: &str,
        making: &str,
        now: Timestamp,
    ) -> Result<i64, Error> {
        // A database of before it was noted how they are made has the same making.
        sqlx::query(
            "update pool set generation = case when image is null or (image = $1 and making is null) \
             then generation else generation + 1 end, image = $1, making = $3, changed_at = $2 \
             where one = 1 and (image is null or image <> $1 or making is null or making <> $3)",
        )
        .bind(image)
        .bind(now.0)
        .bind(making)
        .execute(&self.write)
        .await?;
        let row = sqlx::query("select generation from pool where one = 1")
            .fetch_one(&self.write)
            .await?;
        column(&row, "generation")
    }

    /// How it went of late.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn pool_history(&self, generation: i64, now: Timestamp) -> Result<History, Error> {
        let mut history = History::default();
        // Those that ended before they were ready, unless somebody wanted that.
        let starts = sqlx::query(
            "select created_at, launched_at, ready_at, status_at, error_code, error_message, parking \
             from instances \
             where ready_at is not null or parking in ('stopping', 'stopped') or (status in ('stopping', 'terminated', 'error') \
             and error_code not in ('deleted', 'shutdown', 'surplus', 'generation')) \
             order by id desc limit $1",
        )
        .bind(STARTS_MAX)
        .fetch_all(&self.read)
        .await?;
        let mut failing = true;
        for row in &starts {
            let ready = time_or_null(row, "ready_at")?;
            let parking: Option<String> = column(row, "parking")?;
            if ready.is_none() && matches!(parking.as_deref(), Some("stopping" | "stopped")) {
                failing = false;
            } else if let Some(ready) = ready {
                failing = false;
                if parking.is_some() {
                    // It was stopped in between.
                    continue;
                }
                let begun = time_or_null(row, "launched_at")?;
                let created = Timestamp(column(row, "created_at")?);
                history.boots.push(ready.since(begun.unwrap_or(created)));
            } else if failing {
                history.failures_in_a_row += 1;
                let at = Timestamp(column(row, "status_at")?);
                if history.failed_at.is_none_or(|last| last < at) {
                    history.failed_at = Some(at);
                    let message: Option<String> = column(row, "error_message")?;
                    history.failure = message.or(row.try_get("error_code")?);
                }
            }
        }
        history.boots.sort_unstable();
        let counts = sqlx::query(
            "select (select count(*) from instances where assigned_at >= $1) as arrivals, \
             (select count(*) from instances where error_code = 'unhealthy' \
              and status_at >= $2) as replaced, \
             (select count(*) from instances where generation = $3 \
              and (ready_at is not null or parking in ('stopping', 'stopped'))) as proven",
        )
        .bind(before(now, ARRIVALS_WINDOW).0)
        .bind(before(now, REPLACEMENT_WINDOW).0)
        .bind(generation)
        .fetch_one(&self.read)
        .await?;
        let count = |name| -> Result<u32, Error> {
            let count: i64 = column(&counts, name)?;
            Ok(u32::try_from(count).unwrap_or(u32::MAX))
        };
        history.arrivals_per_second = f64::from(count("arrivals")?) / ARRIVALS_WINDOW.as_secs_f64();
        history.replaced = count("replaced")?;
        history.generation_proven = count("proven")? > 0;
        Ok(history)
    }
}
