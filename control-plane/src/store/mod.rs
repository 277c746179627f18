//! The database, and all the SQL: one text for `SQLite` and Postgres. Methods
//! are facts of the business that happen atomically. A lost race is a normal
//! result, never an error.
//!
//! Types that both engines have: TEXT for ids and JSON, BIGINT for microseconds
//! since 1970. Placeholders are `$1`.

pub mod access;
pub mod audit;
pub mod commands;
pub mod control;
pub mod error;
pub mod holders;
pub mod idempotency;
pub mod identities;
pub mod instances;
pub mod join_tokens;
pub mod keys;
pub mod launches;
pub mod lead;
pub mod logins;
pub mod mail_tokens;
mod open;
mod parking;
pub mod pool;
pub mod queue;
pub mod second_factors;
pub mod sessions;
pub mod shares;
pub mod tickets;
pub mod users;

use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};

use crate::domain::time::Timestamp;

pub use error::Error;
pub use open::OpenError;

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    /// `SQLite` has one writer; Postgres uses the same pool for both.
    write: AnyPool,
    read: AnyPool,
    /// An expression of SQL: the database's own time.
    clock: &'static str,
    shared: bool,
}

impl Store {
    /// Whether other processes may use the same database.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("select 1").fetch_one(&self.read).await?;
        Ok(())
    }

    /// What this database was named when it was made. Machines carry it, so that no
    /// other database takes them for its own.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn deployment(&self) -> Result<String, Error> {
        let row = sqlx::query("select id from deployment where one = 1")
            .fetch_one(&self.read)
            .await?;
        column(&row, "id")
    }

    /// The database's own time.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn time(&self) -> Result<Timestamp, Error> {
        let sql = format!("select {} as now", self.clock);
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .fetch_one(&self.read)
            .await?;
        Ok(Timestamp(column(&row, "now")?))
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// Rows that one statement asks for, or that are sent in one.
const BATCH_MAX: usize = 500;

/// Placeholders of so many values: `$1, $2, …`
fn places(count: usize) -> String {
    let places: Vec<String> = (1..=count).map(|it| format!("${it}")).collect();
    places.join(", ")
}

/// What several statements share that happen together or not at all.
type Transaction<'a> = sqlx::Transaction<'a, sqlx::Any>;

/// A column that must be readable as what was written.
fn column<'r, T>(row: &'r AnyRow, name: &'static str) -> Result<T, Error>
where
    T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
{
    Ok(row.try_get(name)?)
}

/// A column of text that is parsed to what was written.
fn parsed<T>(row: &AnyRow, name: &'static str) -> Result<T, Error>
where
    T: std::str::FromStr,
{
    let text: String = column(row, name)?;
    text.parse().map_err(|_| Error::Corrupt { column: name })
}

/// A time that may be null.
fn time_or_null(row: &AnyRow, name: &'static str) -> Result<Option<Timestamp>, Error> {
    Ok(column::<Option<i64>>(row, name)?.map(Timestamp))
}

/// A column of JSON, or of its beginning where it is null.
fn json_or_default<T>(row: &AnyRow, name: &'static str) -> Result<T, Error>
where
    T: serde::de::DeserializeOwned + Default,
{
    let text: Option<String> = column(row, name)?;
    text.map_or_else(
        || Ok(T::default()),
        |text| serde_json::from_str(&text).map_err(|_| Error::Corrupt { column: name }),
    )
}

/// What is written into a column of JSON.
fn json_of<T: serde::Serialize>(value: &T, name: &'static str) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::Corrupt { column: name })
}

/// The same, where it may be null.
fn parsed_or_null<T>(row: &AnyRow, name: &'static str) -> Result<Option<T>, Error>
where
    T: std::str::FromStr,
{
    let text: Option<String> = column(row, name)?;
    text.map(|text| text.parse().map_err(|_| Error::Corrupt { column: name }))
        .transpose()
}
