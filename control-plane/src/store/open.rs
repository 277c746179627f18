//! Opening the database: its file or server, its settings, its migrations.

use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection, SqlSafeStr};

use super::Store;
use crate::domain::time::Timestamp;

/// How long a statement may wait for a connection.
const ACQUIRE_DEADLINE: Duration = Duration::from_secs(5);
/// Readers of `SQLite`, which do not wait for the writer (WAL).
const SQLITE_READERS: u32 = 4;
/// Connections to Postgres: its own default limit is 100 for all replicas.
const POSTGRES_CONNECTIONS: u32 = 16;

/// Append-only: numbered, named, and safe for the version before.
const MIGRATIONS: [(i64, &str, &str); 9] = [
    (
        1,
        "accounts",
        include_str!("../../../migrations/0001_accounts.sql"),
    ),
    (
        2,
        "instances",
        include_str!("../../../migrations/0002_instances.sql"),
    ),
    (
        3,
        "sessions",
        include_str!("../../../migrations/0003_sessions.sql"),
    ),
    (
        4,
        "logins",
        include_str!("../../../migrations/0004_logins.sql"),
    ),
    (
        5,
        "audit",
        include_str!("../../../migrations/0005_audit.sql"),
    ),
    (6, "pool", include_str!("../../../migrations/0006_pool.sql")),
    (
        7,
        "parking",
        include_str!("../../../migrations/0007_parking.sql"),
    ),
    (
        8,
        "enrolment",
        include_str!("../../../migrations/0008_enrolment.sql"),
    ),
    (
        9,
        "control",
        include_str!("../../../migrations/0009_control.sql"),
    ),
];

/// The database's own time in microseconds. The two engines have no words for it in
/// common; this is the one place where their SQL differs.
const SQLITE_CLOCK: &str = "cast(unixepoch('subsec') * 1000000 as bigint)";
/// See [`SQLITE_CLOCK`].
const POSTGRES_CLOCK: &str = "cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)";

/// Per connection: readers go on while one writes, a crash of the system loses
/// at most the last transactions and never the file, and a second process waits
/// instead of failing.
const SQLITE_SETTINGS: &str = "pragma journal_mode = wal; pragma synchronous = normal; \
     pragma foreign_keys = on; pragma busy_timeout = 5000;";

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be reached.
    #[error("could not open the database: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// A newer version has been here.
    #[error(
        "the database is newer than this program (it has migration {found}, this program knows {known}); \
         start the version that made it, or a later one"
    )]
    Newer {
        /// The migration that is not known.
        found: i64,
        /// The newest that is.
        known: i64,
    },
    /// A migration failed; it left nothing behind.
    #[error("could not migrate the database, which is as it was: {0}")]
    Migration(#[source] MigrateError),
}

impl Store {
    /// Opens the database and brings it up to date.
    ///
    /// # Errors
    /// [`OpenError`], a line that says what is wrong.
    pub async fn open(url: &str, now: Timestamp) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        let store = if is_sqlite {
            open_sqlite(url).await
        } else {
            open_postgres(url).await
        }
        .map_err(OpenError::Unreachable)?;
        // Postgres is locked while it is migrated, `SQLite` is not: of two processes that
        // start at once, the slower finds the faster one's table in its way, at most once
        // for each migration, and then sees it done.
        store
            .migrate(if is_sqlite { MIGRATIONS.len() } else { 0 })
            .await?;
        store
            .name_deployment(now)
            .await
            .map_err(OpenError::Unreachable)?;
        Ok(store)
    }

    async fn migrate(&self, mut attempts_more: usize) -> Result<(), OpenError> {
        let known = MIGRATIONS
            .iter()
            .map(|(number, ..)| *number)
            .max()
            .unwrap_or(0);
        let migrations = MIGRATIONS
            .iter()
            .map(|(number, name, sql)| {
                Migration::new(
                    *number,
                    (*name).into(),
                    MigrationType::Simple,
                    (*sql).into_sql_str(),
                    false,
                )
            })
            .collect();
        let migrator = Migrator::with_migrations(migrations);
        loop {
            match migrator.run(&self.write).await {
                Ok(()) => return Ok(()),
                Err(MigrateError::VersionMissing(found)) => {
                    return Err(OpenError::Newer { found, known });
                }
                Err(error) if attempts_more == 0 => return Err(OpenError::Migration(error)),
                Err(_) => attempts_more -= 1,
            }
        }
    }

    async fn name_deployment(&self, now: Timestamp) -> Result<(), sqlx::Error> {
        sqlx::query(
            "insert into deployment (one, id, created_at) values (1, $1, $2) \
             on conflict (one) do nothing",
        )
        .bind(uuid_text())
        .bind(now.0)
        .execute(&self.write)
        .await?;
        sqlx::query(
            "insert into pool (one, overrides, version, generation, changed_at) \
             values (1, '{}', 1, 1, $1) on conflict (one) do nothing",
        )
        .bind(now.0)
        .execute(&self.write)
        .await?;
        Ok(())
    }
}

/// 128 random bits, in hexadecimal.
fn uuid_text() -> String {
    format!("{:032x}", rand::random::<u128>())
}

async fn open_sqlite(url: &str) -> Result<Store, sqlx::Error> {
    let separator = if url.contains('?') { '&' } else { '?' };
    let options = AnyConnectOptions::from_str(&format!("{url}{separator}mode=rwc"))?;
    let pool = |connections: u32| {
        AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_DEADLINE)
            // A file does not hang up; the ping costs as much as the statement after it.
            .test_before_acquire(false)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(SQLITE_SETTINGS).execute(connection).await?;
                    Ok(())
                })
            })
    };
    let write: AnyPool = pool(1).connect_with(options.clone()).await?;
    let read = pool(SQLITE_READERS).connect_with(options).await?;
    Ok(Store {
        write,
        read,
        clock: SQLITE_CLOCK,
        shared: false,
    })
}

async fn open_postgres(url: &str) -> Result<Store, sqlx::Error> {
    let options = AnyConnectOptions::from_str(url)?;
    // A pool goes on trying where nobody listens; whoever starts us wants to know.
    AnyConnection::connect_with(&options).await?.close().await?;
    let pool = AnyPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(ACQUIRE_DEADLINE)
        .connect_with(options)
        .await?;
    Ok(Store {
        write: pool.clone(),
        read: pool,
        clock: POSTGRES_CLOCK,
        shared: true,
    })
}
