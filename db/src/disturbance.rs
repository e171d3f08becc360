//! What a test lets go wrong with transactions that write. A service never asks for any of it.

use std::{borrow::Cow, error::Error as StdError, io, sync::Arc};

use sqlx::error::{DatabaseError, ErrorKind};

use crate::{Error, Result};

/// A moment in the life of a transaction that writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moment {
    /// Before it begins.
    Begin,
    /// All its statements are done, nothing is committed.
    Commit,
    /// It is committed, but nobody has heard so.
    Committed,
}

/// What goes wrong there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The database asks to try the transaction again (SQLSTATE 40001). Not once it is committed.
    Conflict,
    /// The connection is lost.
    Lose,
    /// Nothing more happens, as in a process that is killed.
    Stall,
}

type Chooses = dyn Fn(Moment) -> Option<Fault> + Send + Sync;

/// Chooses what goes wrong; by default nothing does.
#[derive(Clone, Default)]
pub(crate) struct Disturbance(Option<Arc<Chooses>>);

impl Disturbance {
    pub(crate) fn new(choose: impl Fn(Moment) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(choose)))
    }

    /// Lets happen what was chosen for this moment.
    pub(crate) async fn at(&self, moment: Moment) -> Result<()> {
        match self.0.as_ref().and_then(|choose| choose(moment)) {
            None => Ok(()),
            Some(Fault::Conflict) => Err(Error::Sql(sqlx::Error::Database(Box::new(Conflict)))),
            Some(Fault::Lose) => Err(Error::Sql(sqlx::Error::Io(io::ErrorKind::ConnectionReset.into()))),
            Some(Fault::Stall) => std::future::pending().await,
        }
    }
}

impl std::fmt::Debug for Disturbance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Disturbance(chosen)" } else { "Disturbance(none)" })
    }
}

/// As PostgreSQL says it.
#[derive(Debug, thiserror::Error)]
#[error("could not serialize access")]
struct Conflict;

impl DatabaseError for Conflict {
    fn message(&self) -> &'static str {
        "could not serialize access"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some("40001".into())
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}
