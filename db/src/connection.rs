//! Opening a database, and transactions.

use std::{
    collections::HashSet,
    ops::{Deref, DerefMut},
    path::Path,
    str::FromStr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use domain::RenewalId;
use sqlx::{
    PgConnection, PgPool, Postgres, QueryBuilder, SqlitePool,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgTransaction},
    sqlite::SqliteTransaction,
};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use uuid::Uuid;

use crate::{
    Error, LoadedRun, Result,
    claim::{Handing, Offers, PassedBy},
    clock::Clock,
    disturbance::{Disturbance, Fault, Moment},
    error::is_lost,
    finishing::{Finishing, finishing},
    known_runs::KnownRuns,
    plans::KnownPlans,
    raising::{Raising, raising},
    snapshots::{Seeing, seeing},
    sqlite,
};

/// What this version needs. During a rolling upgrade the database may have more: a newer version only adds to what this one uses.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| ignoring_newer(sqlx::migrate!()));

/// The same with what only PostgreSQL needs; all are numbered together.
static MIGRATIONS_ON_POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
    let more = sqlx::migrate!("./migrations/postgres");
    ignoring_newer(Migrator::with_migrations(MIGRATIONS.iter().chain(more.iter()).cloned().collect()))
});

fn ignoring_newer(mut migrations: Migrator) -> Migrator {
    migrations.set_ignore_missing(true);
    migrations
}

/// How the schema of a database stands to what this version needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Schema {
    /// Something is missing.
    Older,
    /// Just that.
    Current,
    /// All that, and what a newer version has added.
    Newer,
}

/// A database that all of rekey's state lives in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    pub(crate) pool: Pool,
    /// Rung after every write, of this process or of another.
    pub(crate) wake: Arc<Notify>,
    /// Rung after every write of this process.
    pub(crate) written: Arc<Notify>,
    pub(crate) clock: Arc<Clock>,
    /// What no other process is called.
    pub(crate) name: Arc<str>,
    /// Whether the database has told us that it announces writes.
    pub(crate) announces: Arc<AtomicBool>,
    /// Who writes to SQLite, which takes one at a time.
    writing: Arc<Mutex<()>>,
    known_plans: KnownPlans,
    pub(crate) known_runs: KnownRuns,
    pub(crate) passed_by: Arc<PassedBy>,
    pub(crate) offers: Offers,
    /// Renewals of a newer version, of which it was said already that they are left alone.
    pub(crate) left_alone: Arc<std::sync::Mutex<HashSet<RenewalId>>>,
    pub(crate) finishing: Arc<Finishing>,
    pub(crate) raising: Arc<Raising>,
    pub(crate) seeing: Arc<Seeing>,
    pub(crate) disturbance: Disturbance,
}

#[derive(Clone, Debug)]
pub(crate) enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl Pool {
    fn kind(&self) -> Kind {
        match self {
            Self::Postgres(_) => Kind::Postgres,
            Self::Sqlite(_) => Kind::Sqlite,
        }
    }
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
pub struct Tx {
    pub(crate) on: On,
    pub(crate) known_plans: KnownPlans,
    pub(crate) known_runs: KnownRuns,
    /// Runs as they are once this is committed.
    pub(crate) left: Vec<Arc<LoadedRun>>,
    /// Who announces, if the database lets us.
    pub(crate) announcer: Option<Arc<str>>,
    /// Others hear of it with its commit.
    pub(crate) is_announced: bool,
    pub(crate) clock: Arc<Clock>,
    pub(crate) offers: Offers,
    /// What a worker of this process is given with its commit.
    pub(crate) handing: Option<Box<Handing>>,
}

/// Which database a transaction is on.
#[derive(Debug)]
pub(crate) enum On {
    Postgres(OnPostgres),
    // Order: the transaction ends before the next writer gets its turn.
    Sqlite(SqliteTransaction<'static>, Option<OwnedMutexGuard<()>>),
}

/// A transaction on PostgreSQL, or none: then each statement is one of its own.
#[derive(Debug)]
pub(crate) enum OnPostgres {
    Transaction(PgTransaction<'static>),
    Single(PoolConnection<Postgres>),
}

impl Deref for OnPostgres {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Transaction(transaction) => transaction,
            Self::Single(connection) => connection,
        }
    }
}

impl DerefMut for OnPostgres {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Transaction(transaction) => transaction,
            Self::Single(connection) => connection,
        }
    }
}

/// Runs one query text on whichever database the transaction is on.
macro_rules! on {
    ($tx:expr, |$db:ident| $query:expr) => {
        match &mut $tx.on {
            $crate::connection::On::Postgres(tx) => {
                let $db = &mut **tx;
                $query
            }
            $crate::connection::On::Sqlite(tx, _) => {
                let $db = &mut **tx;
                $query
            }
        }
    };
}
pub(crate) use on;

/// Rows of one INSERT at most: both databases limit what a statement may bind.
pub(crate) const ROWS_AT_ONCE: usize = 1_000;

/// Whether a statement for so many rows comes often enough to be kept prepared: each number of rows is a text of its own.
pub(crate) fn is_usual(rows: usize) -> bool {
    rows <= 64
}

/// Puts a list of parameters into a statement. Returns how many they are.
pub(crate) fn list<'v, DB: sqlx::Database, T: sqlx::Encode<'v, DB> + sqlx::Type<DB>>(
    statement: &mut QueryBuilder<DB>,
    values: impl IntoIterator<Item = T>,
) -> usize {
    let mut listed = statement.separated(", ");
    let mut count = 0;
    for value in values {
        listed.push_bind(value);
        count += 1;
    }
    count
}

/// Statements that each connection keeps prepared: those of a fixed text, and those for each usual number of rows.
pub(crate) const PREPARED_STATEMENTS: usize = 500;

/// How often a transaction is tried again when the database asks for it.
const RETRIES: u32 = 5;
/// Connections of a process to PostgreSQL.
const MAX_CONNECTIONS: u32 = 16;
/// How long it is asked once more why it lets nobody in.
const ONE_TRY: Duration = Duration::from_secs(2);
/// The longest that a transaction may take: a connection that went silent must not hold a worker for ever.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(30);

/// What every connection asks of PostgreSQL. A process that is cut off in the middle of a transaction must not keep its locks: the server ends what
/// stands still. A statement is planned once, perhaps while its tables are small, and each has an index for all that it may be asked
/// (`db/tests/history.rs`): it must not read whole tables for the rest of the connection's life. Who is only like PostgreSQL may not know the last two.
const SESSION: &str = "
    SET idle_in_transaction_session_timeout = '5s'; SET plan_cache_mode = force_generic_plan;
    SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('enable_seqscan', 'jit')";

impl Db {
    /// Opens `sqlite:<file>` (made when missing) or `postgres://…`. Does not migrate.
    pub async fn open(url: &str) -> Result<Self> {
        let pool = if url.starts_with("postgres") {
            Pool::Postgres(open_postgres(url).await?)
        } else {
            Pool::Sqlite(sqlite::open(url).await?)
        };
        let (finishing, raising) = (Arc::new(finishing()), Arc::new(raising(pool.kind())));
        let db = Self {
            pool,
            wake: Arc::new(Notify::new()),
            written: Arc::new(Notify::new()),
            clock: Arc::default(),
            name: Uuid::new_v4().to_string().into(),
            announces: Arc::default(),
            writing: Arc::default(),
            known_plans: KnownPlans::default(),
            known_runs: KnownRuns::default(),
            passed_by: Arc::default(),
            offers: Offers::default(),
            left_alone: Arc::default(),
            finishing,
            raising,
            seeing: Arc::new(seeing()),
            disturbance: Disturbance::default(),
        };
        db.look_at_clock().await?;
        Ok(db)
    }

    /// The time: that of the database where it is shared, else that of this machine.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Brings the schema up to date, and says what it is then: a newer one is left as it is. When several do it at once, one does and the others wait.
    pub async fn migrate(&self) -> Result<Schema> {
        match &self.pool {
            // Under an advisory lock.
            Pool::Postgres(pool) => MIGRATIONS_ON_POSTGRES.run(pool).await?,
            // There is no such lock here, but one writer at a time.
            Pool::Sqlite(pool) => {
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
                MIGRATIONS.run(&mut *tx).await?;
                tx.commit().await?;
            }
        }
        self.schema().await
    }

    /// How the schema stands to what this version needs.
    pub async fn schema(&self) -> Result<Schema> {
        let applied = self.read(async |tx| {
            let versions = "SELECT version FROM _sqlx_migrations WHERE success";
            Ok::<Vec<i64>, Error>(on!(tx, |db| sqlx::query_scalar(versions).fetch_all(db).await)?)
        });
        let applied = match applied.await {
            Ok(applied) => applied,
            // There is no such table.
            Err(Error::Sql(sqlx::Error::Database(_))) => return Ok(Schema::Older),
            Err(error) => return Err(error),
        };
        let known = match self.kind() {
            Kind::Postgres => &MIGRATIONS_ON_POSTGRES,
            Kind::Sqlite => &MIGRATIONS,
        };
        Ok(if known.iter().any(|known| !applied.contains(&known.version)) {
            Schema::Older
        } else if applied.iter().any(|version| !known.version_exists(*version)) {
            Schema::Newer
        } else {
            Schema::Current
        })
    }

    /// Writes a copy of a SQLite database to a file that is empty or not there. Others may go on using the database.
    pub async fn back_up(&self, file: &Path) -> Result<()> {
        match &self.pool {
            Pool::Postgres(_) => Err(Error::NoBackup),
            Pool::Sqlite(pool) => {
                let file = file.to_str().ok_or(Error::NoBackup)?;
                sqlx::query("VACUUM INTO $1").bind(file).execute(pool).await?;
                Ok(())
            }
        }
    }

    /// Whether the schema has all that this version needs.
    pub async fn is_migrated(&self) -> Result<bool> {
        Ok(self.schema().await? != Schema::Older)
    }

    /// The same database, whose writing transactions go wrong as `choose` says. For tests.
    #[must_use]
    pub fn disturbed(self, choose: impl Fn(Moment) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self { disturbance: Disturbance::new(choose), ..self }
    }

    /// Which database it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.pool.kind()
    }

    /// Runs `work` in a transaction that is meant to read. Tried again as a whole like a write.
    pub async fn read<T, E>(
        &self,
        mut work: impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E>
    where
        E: From<Error> + AsRetryable,
    {
        again(async || in_time(self.read_once(&mut work)).await).await
    }

    /// As [`Db::read`], for `work` that asks one thing only: on PostgreSQL no transaction is made around it, which is one trip in place of three.
    pub(crate) async fn look<T, E>(
        &self,
        mut work: impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E>
    where
        E: From<Error> + AsRetryable,
    {
        // A restart of the server may have left as many connections behind.
        for _ in 0..MAX_CONNECTIONS {
            match in_time(self.look_once(&mut work)).await {
                Err(error) if error.is_retryable() => {}
                result => return result,
            }
        }
        in_time(self.look_once(&mut work)).await
    }

    async fn look_once<T, E: From<Error>>(
        &self,
        work: &mut impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut tx = self.begin_looking().await?;
        work(&mut tx).await
    }

    async fn read_once<T, E: From<Error>>(
        &self,
        work: &mut impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut tx = self.begin_reading().await?;
        let value = work(&mut tx).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Runs `work` in a transaction that is meant to write, then wakes everybody who waits. Tried again as a whole when the database reports a
    /// serialization failure or goes away before the commit, so `work` must do nothing but SQL. When it goes away during the commit nobody knows
    /// whether it was done: that is an error.
    pub async fn write<T, E>(
        &self,
        work: impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E>
    where
        E: From<Error> + AsRetryable,
    {
        let Committed { value, is_announced } = self.write_again(work).await?;
        self.wake.notify_waiters();
        if !is_announced {
            self.written.notify_one();
        }
        Ok(value)
    }

    pub(crate) fn ring(&self) {
        self.wake.notify_waiters();
        self.written.notify_one();
    }

    /// As [`Db::write`], without waking anybody: for what nobody waits for.
    pub async fn write_silently<T, E>(
        &self,
        work: impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E>
    where
        E: From<Error> + AsRetryable,
    {
        self.write_again(work).await.map(|committed| committed.value)
    }

    async fn write_again<T, E>(
        &self,
        mut work: impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<Committed<T>, E>
    where
        E: From<Error> + AsRetryable,
    {
        for _ in 0..RETRIES {
            match in_time(self.write_once(&mut work)).await? {
                Attempt::Committed(committed) => return Ok(committed),
                Attempt::Undone(error) if error.is_retryable() => {}
                Attempt::Undone(error) => return Err(error),
            }
        }
        match in_time(self.write_once(&mut work)).await? {
            Attempt::Committed(committed) => Ok(committed),
            Attempt::Undone(error) => Err(error),
        }
    }

    async fn write_once<T, E: From<Error>>(
        &self,
        work: &mut impl AsyncFnMut(&mut Tx) -> std::result::Result<T, E>,
    ) -> std::result::Result<Attempt<T, E>, E> {
        let mut tx = match self.begin_writing().await {
            Ok(tx) => tx,
            Err(error) => return Ok(Attempt::Undone(error.into())),
        };
        let value = match work(&mut tx).await {
            Ok(value) => value,
            Err(error) => return Ok(Attempt::Undone(error)),
        };
        let is_announced = tx.is_announced;
        match self.commit(tx).await {
            Ok(()) => Ok(Attempt::Committed(Committed { value, is_announced })),
            // The database has said that it did not: a serialization failure, a constraint.
            Err(error @ Error::Sql(sqlx::Error::Database(_))) if !error.is_lost() => Ok(Attempt::Undone(error.into())),
            Err(error) => Err(error.into()),
        }
    }

    /// Resolves after the next write of this process, or of another that is heard of ([`Db::watch`]). Ask for it before looking for work, so that no wake-up is missed.
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

    /// Begins a transaction that writes.
    pub(crate) async fn begin_writing(&self) -> Result<Tx> {
        self.disturbance.at(Moment::Begin).await?;
        let on = match &self.pool {
            Pool::Postgres(pool) => On::Postgres(OnPostgres::Transaction(begin_postgres(pool).await?)),
            Pool::Sqlite(pool) => {
                // SQLite lets those who find it locked look again later and later; here they go in turn.
                let turn = self.writing.clone().lock_owned().await;
                On::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?, Some(turn))
            }
        };
        Ok(self.transaction(on))
    }

    /// Commits a transaction that has written.
    pub(crate) async fn commit(&self, mut tx: Tx) -> Result<()> {
        self.disturbance.at(Moment::Commit).await?;
        let (left, handing) = (std::mem::take(&mut tx.left), tx.handing.take());
        tx.commit().await?;
        self.known_runs.keep(left);
        self.disturbance.at(Moment::Committed).await?;
        if let Some(handing) = handing {
            handing.hand_over();
        }
        Ok(())
    }

    /// For statements each of which stands alone: what one of them reads may have changed when the next one does. No transaction on SQLite would save
    /// anything.
    pub(crate) async fn begin_looking(&self) -> Result<Tx> {
        let on = match &self.pool {
            Pool::Postgres(pool) => On::Postgres(OnPostgres::Single(pool.acquire().await?)),
            Pool::Sqlite(pool) => On::Sqlite(pool.begin().await?, None),
        };
        Ok(self.transaction(on))
    }

    async fn begin_reading(&self) -> Result<Tx> {
        let on = match &self.pool {
            Pool::Postgres(pool) => On::Postgres(OnPostgres::Transaction(begin_postgres(pool).await?)),
            Pool::Sqlite(pool) => On::Sqlite(pool.begin().await?, None),
        };
        Ok(self.transaction(on))
    }

    fn transaction(&self, on: On) -> Tx {
        Tx {
            on,
            known_plans: self.known_plans.clone(),
            known_runs: self.known_runs.clone(),
            left: Vec::new(),
            announcer: self.announces.load(Ordering::Relaxed).then(|| self.name.clone()),
            is_announced: false,
            clock: self.clock.clone(),
            offers: self.offers.clone(),
            handing: None,
        }
    }
}

/// Begins on a connection that is alive: those that a restart of the server has left behind are found out here, not by a question before each use.
async fn begin_postgres(pool: &PgPool) -> Result<PgTransaction<'static>> {
    for _ in 0..MAX_CONNECTIONS {
        match pool.begin().await {
            Err(error) if is_lost(&error) => {}
            begun => return Ok(begun?),
        }
    }
    Ok(pool.begin().await?)
}

/// Tries something that changes nothing again as long as the database asks for it or goes away, a few times.
pub(crate) async fn again<T, E: AsRetryable>(
    mut work: impl AsyncFnMut() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    for _ in 0..RETRIES {
        match work().await {
            Err(error) if error.is_retryable() => {}
            result => return result,
        }
    }
    work().await
}

/// What a transaction came to that is committed.
struct Committed<T> {
    value: T,
    /// Others have heard of it with the commit.
    is_announced: bool,
}

/// What a try of a transaction came to, if that is known.
enum Attempt<T, E> {
    Committed(Committed<T>),
    Undone(E),
}

/// Gives up on a database that does not answer.
pub(crate) async fn in_time<T, E: From<Error>>(
    work: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    tokio::time::timeout(LONGEST_TRANSACTION, work).await.unwrap_or_else(|_| Err(Error::Unanswered.into()))
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
        match self.on {
            On::Postgres(OnPostgres::Transaction(tx)) => tx.commit().await?,
            On::Postgres(OnPostgres::Single(_)) => {}
            On::Sqlite(tx, _writing) => tx.commit().await?,
        }
        Ok(())
    }
}

async fn open_postgres(url: &str) -> Result<PgPool> {
    let options =
        PgConnectOptions::from_str(url)?.application_name("rekey").statement_cache_capacity(PREPARED_STATEMENTS);
    let server = options.clone();
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(Duration::from_secs(10))
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(SESSION).execute(connection).await?;
                Ok(())
            })
        })
        .connect_with(options);
    match pool.await {
        Ok(pool) => Ok(pool),
        Err(error) => Err(not_let_in(&server, error).await),
    }
}

/// Says which server does not let us in, and why: a pool that has tried for a while says only that it gave up.
async fn not_let_in(server: &PgConnectOptions, error: sqlx::Error) -> Error {
    let why = match error {
        sqlx::Error::PoolTimedOut => match tokio::time::timeout(ONE_TRY, sqlx::ConnectOptions::connect(server)).await {
            Ok(Err(why)) => why,
            // It lets us in after all, too late, or says nothing.
            Ok(Ok(_)) | Err(_) => error,
        },
        _ => error,
    };
    let database = server.get_database().unwrap_or_else(|| server.get_username());
    Error::Unreachable {
        server: format!("{}:{}", server.get_host(), server.get_port()),
        database: database.to_owned(),
        why,
    }
}
