//! What can go wrong below SQL, in three words.

use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::pooled_connection::deadpool::PoolError;

/// A query did not answer.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database cannot be reached, is shutting down, or is too busy; trying again later may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The row would break a rule; holds the rule's name.
    #[error("the row conflicts with {0}")]
    Conflict(String),
    /// Our mistake: the statement, the schema or the row is not what the code believes.
    #[error("the database refused a statement: {0}")]
    Broken(String),
}

impl DbError {
    /// Whether this is a conflict with the rule of that name.
    #[must_use]
    pub fn is_conflict_with(&self, constraint: &str) -> bool {
        matches!(self, Self::Conflict(name) if name == constraint)
    }
}

/// Messages of PostgreSQL that mean "not now": the driver does not hand their codes through. Shutdown and crash
/// recovery (57P01–57P03), statement time-out (57014), connection slots (53300).
const NOT_NOW: [&str; 6] = [
    "terminating connection",
    "the database system is",
    "canceling statement",
    "remaining connection slots",
    "sorry, too many clients",
    "too many connections",
];

impl From<Error> for DbError {
    fn from(error: Error) -> Self {
        match error {
            Error::DatabaseError(
                DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::ExclusionViolation,
                info,
            ) => Self::Conflict(info.constraint_name().unwrap_or_default().to_owned()),
            Error::DatabaseError(
                DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand,
                info,
            ) => Self::Unavailable(info.message().to_owned()),
            Error::DatabaseError(_, info) if NOT_NOW.iter().any(|start| info.message().starts_with(start)) => {
                Self::Unavailable(info.message().to_owned())
            }
            // The message alone: details may hold values of the row.
            Error::DatabaseError(_, info) => Self::Broken(info.message().to_owned()),
            Error::BrokenTransactionManager => Self::Unavailable("the connection broke".to_owned()),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<PoolError> for DbError {
    fn from(error: PoolError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
