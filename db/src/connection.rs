//! Opening a database, and transactions.

use std::{str::FromStr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{
    PgPool, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions, PgTransaction},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous, SqliteTransaction},
};
use tokio::sync::Notify;

use crate::{Claimed, Error, Result};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// A database that all of rekey's state lives in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    wake: Arc<Notify>,
}

#[derive(Clone, Debug)]
enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// Which database it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Shared by many processes.
    Postgres,
    /// A file of one process.
    Sqlite,
}

/// A transaction. Its statements are in the files of the tables.
#[derive(Debug)]
pub enum Tx {
    /// On PostgreSQL.
    Postgres(PgTransaction<'static>),
    /// On SQLite.
    Sqlite(SqliteTransaction<'static>),
}

/// Runs one query text on whichever database the transaction is on.
macro_rules! on {
    ($tx:expr, |$db:ident| $query:expr) => {
        match $tx {
            $crate::Tx::Postgres(tx) => {
                let $db = &mut **tx;
                $query
            }
            $crate::Tx::Sqlite(tx) => {
                let $db = &mut **tx;
                $query
            }
        }
    };
}
pub(crate) use on;

/// How often a transaction is tried again when the database asks for it.
const RETRIES: u32 = 5;

impl Db {
    /// Opens `sqlite:<file>` (made when missing) or `postgres://…`. Does not migrate.
    pub async fn open(url: &str) -> Result<Self> {
        let pool = if url.starts_with("postgres") {
            Pool::Postgres(open_postgres(url).await?)
        } else {
            Pool::Sqlite(open_sqlite(url).await?)
        };
        Ok(Self { pool, wake: Arc::new(Notify::new()) })
    }

    /// Brings the schema up to date.
    pub async fn migrate(&self) -> Result<()> {
        match &self.pool {
            Pool::Postgres(pool) => MIGRATIONS.run(pool).await?,
            Pool::Sqlite(pool) => MIGRATIONS.run(pool).await?,
        }
        Ok(())
    }

    /// Whether the schema is the one that this version needs.
    pub async fn is_migrated(&self) -> Result<bool> {
        let newest = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
        let applied = self.read(async |tx| {
            Ok::<i64, Error>(on!(tx, |db| sqlx::query_scalar(
                "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success"
            )
            .fetch_one(db)
            .await)?)
        });
        match applied.await {
            Ok(version) => Ok(version >= newest),
            Err(Error::Sql(sqlx::Error::Database(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Which database it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.pool {
            Pool::Postgres(_) => Kind::Postgres,
            Pool::Sqlite(_) => Kind::Sqlite,
        }
    }

    /// Runs `work` in a transaction that is meant to read.
    pub async fn read<T, E: From<Error>>(
        &self,
        work: impl AsyncFnOnce(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut tx = self.begin("BEGIN").await?;
        let value = work(&mut tx).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Runs `work` in a transaction that is meant to write, then wakes everybody who waits in this process. Tried again as a whole when the database
    /// reports a serialization failure, so `work` must do nothing but SQL.
    pub async fn write<T, E>(
        &self,
        work: impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E>
    where
        E: From<Error> + AsRetryable,
    {
        let value = self.write_silently(work).await?;
        self.wake.notify_waiters();
        Ok(value)
    }

    /// As [`Db::write`], without waking anybody.
    async fn write_silently<T, E>(
        &self,
        mut work: impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E>
    where
        E: From<Error> + AsRetryable,
    {
        let mut tries = 0;
        loop {
            match self.write_once(&mut work).await {
                Err(error) if error.is_retryable() && tries < RETRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Looks for due work as [`Tx::claim`] does. Wakes others only when something was found: two that look would else keep each other awake.
    pub async fn claim(&self, worker: &str, lease_ends: DateTime<Utc>, now: DateTime<Utc>) -> Result<Claimed> {
        let claimed = self.write_silently(async |tx| tx.claim(worker, lease_ends, now).await).await?;
        if !matches!(claimed, Claimed::Idle) {
            self.wake.notify_waiters();
        }
        Ok(claimed)
    }

    async fn write_once<T, E: From<Error>>(
        &self,
        work: &mut impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut tx = self.begin("BEGIN IMMEDIATE").await?;
        let value = work(&mut tx).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Resolves after the next write of this process. Ask for it before looking for work, so that no wake-up is missed.
    pub fn woken(&self) -> impl Future<Output = ()> + Send + use<> {
        self.wake.clone().notified_owned()
    }

    /// Ends all connections.
    pub async fn close(&self) {
        match &self.pool {
            Pool::Postgres(pool) => pool.close().await,
            Pool::Sqlite(pool) => pool.close().await,
        }
    }

    async fn begin(&self, sqlite_begin: &'static str) -> Result<Tx> {
        Ok(match &self.pool {
            Pool::Postgres(pool) => Tx::Postgres(pool.begin().await?),
            Pool::Sqlite(pool) => Tx::Sqlite(pool.begin_with(sqlite_begin).await?),
        })
    }
}

/// Errors that carry a database error can say whether to try again.
pub trait AsRetryable {
    /// Whether the whole transaction may simply be tried again.
    fn is_retryable(&self) -> bool;
}

impl AsRetryable for Error {
    fn is_retryable(&self) -> bool {
        Self::is_retryable(self)
    }
}

impl Tx {
    async fn commit(self) -> Result<()> {
        match self {
            Self::Postgres(tx) => tx.commit().await?,
            Self::Sqlite(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

async fn open_sqlite(url: &str) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // A destroyed key must not live on in free pages.
        .pragma("secure_delete", "on")
        .busy_timeout(Duration::from_secs(30));
    Ok(SqlitePoolOptions::new().max_connections(8).connect_with(options).await?)
}

async fn open_postgres(url: &str) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?.application_name("rekey");
    Ok(PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(10)).connect_with(options).await?)
}
