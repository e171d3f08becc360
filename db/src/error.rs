//! What a caller of the database can act on.

use std::borrow::Cow;

use domain::{IllegalTransition, RenewalId, Trouble, audit::AuditEntry};
use sqlx::error::DatabaseError;

/// Short form of results here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a database operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A live renewal holds the organization.
    #[error("renewal {holder} of this organization is still live")]
    OrganizationBusy {
        /// Which.
        holder: RenewalId,
    },
    /// The worker's lease is over: somebody else has the step. Stop at once, change nothing.
    #[error("the lease of the step is lost")]
    LeaseLost,
    /// The step may not change anything now.
    #[error("{0}")]
    GateClosed(Trouble),
    /// The event cannot happen in this state.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The plan refuses the verb in this state.
    #[error("{0}")]
    Refused(Trouble),
    /// The gate was passed, or the run is over: somebody or a timer was faster.
    #[error("{trouble}")]
    Overtaken {
        /// What is refused, and what to do.
        trouble: Trouble,
        /// What was recorded last: who was faster, and when.
        by: Box<AuditEntry>,
    },
    /// There is no such row.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The row changed in between: `If-Match` does not match.
    #[error("the renewal has changed: it is at version {version} now")]
    Stale {
        /// The version now.
        version: i64,
    },
    /// Stored JSON cannot be read by this version.
    #[error("stored data cannot be read")]
    Corrupt(#[from] serde_json::Error),
    /// The stored text of a plan is not the one that its digest names.
    #[error("the stored plan is not the one that was approved")]
    PlanAltered,
    /// This database is not backed up in this way.
    #[error("only a SQLite database is backed up like this")]
    NoBackup,
    /// The database said no, or nothing.
    #[error("database")]
    Sql(#[from] sqlx::Error),
    /// The database has not answered for so long that it is given up.
    #[error("the database does not answer")]
    Unanswered,
    /// The server lets nobody in: it is down, the way to it is closed, or it does not take the account.
    #[error("PostgreSQL at {server} does not let us into database {database}: {why}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// Its name.
        database: String,
        /// What the last try came to.
        why: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("migration")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl Error {
    /// Whether the row exists already.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// Whether a transaction that was not committed may simply be tried again: a serialization failure or deadlock (SQLSTATE 40001 and 40P01), or
    /// the connection went away in the middle.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        let asked = matches!(self, Self::Sql(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("40001" | "40P01")));
        asked || self.is_lost()
    }

    /// Whether the database does not take what was to be stored, whoever tries it how often: a value that it cannot hold (SQLSTATE class 22), one that is
    /// too long for it (class 54), or one that a rule of the schema does not allow (class 23). Not that a row exists already: that is a race.
    #[must_use]
    pub fn is_of_data(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Encode(_)) => true,
            Self::Sql(sqlx::Error::Database(error)) => !error.is_unique_violation() && is_of_data(&**error),
            _ => false,
        }
    }

    /// Whether it is about the one record that was worked on: then work on others need not wait, as it must while the database is in trouble.
    #[must_use]
    pub fn is_of_one_record(&self) -> bool {
        match self {
            Self::Sql(_) => self.is_of_data() || self.is_unreadable(),
            Self::Migrate(_) | Self::NoBackup | Self::Unanswered | Self::Unreachable { .. } => false,
            _ => true,
        }
    }

    /// What the database calls its refusal, if it has said no; never what was to be stored.
    #[must_use]
    pub fn sql_code(&self) -> Option<String> {
        let Self::Sql(sqlx::Error::Database(error)) = self else { return None };
        error.code().map(Cow::into_owned)
    }

    /// Whether a row is there, but made of what this version does not know.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Sql(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)))
    }

    /// Whether the database cannot be reached, or does not answer: the same may be possible a little later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        let away = matches!(self, Self::Unanswered | Self::Sql(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed));
        away || self.is_lost()
    }

    /// Whether the connection to the database is gone.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Sql(error) if is_lost(error))
    }
}

/// By the SQLSTATE, which has five characters; a code of SQLite has fewer, and its last byte says the kind.
fn is_of_data(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    if code.len() == 5 {
        return ["22", "23", "54"].iter().any(|class| code.starts_with(class));
    }
    code.parse::<u32>().is_ok_and(|code| [TOO_BIG, CONSTRAINT, MISMATCH].contains(&(code & 0xFF)))
}

/// `SQLITE_TOOBIG`
const TOO_BIG: u32 = 18;
/// `SQLITE_CONSTRAINT`
const CONSTRAINT: u32 = 19;
/// `SQLITE_MISMATCH`
const MISMATCH: u32 = 20;

/// Whether a connection is gone: by its socket, or by what the server said last (SQLSTATE class 08, operator intervention 57P, a transaction that
/// stood still 25P03).
pub(crate) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code == "25P03")
        }
        _ => false,
    }
}
