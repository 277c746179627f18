//! What can go wrong with the database.

use crate::telemetry::metrics;

/// The database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not answer, or not in time.
    #[error("the database does not answer")]
    Unavailable(#[source] sqlx::Error),
    /// A row says what no row may say.
    #[error("the database has an unreadable `{column}`")]
    Corrupt {
        /// The column.
        column: &'static str,
    },
    /// Any other answer that was not expected.
    #[error("the database refused a statement")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            metrics::database_not_reached();
        }
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            other => Self::Refused(other),
        }
    }
}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(cause) => {
                tracing::warn!(error = %cause, "the database does not answer");
                Self::StoreUnavailable
            }
            other => Self::Internal(other.into()),
        }
    }
}
