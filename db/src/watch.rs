//! Keeping in touch with a database that other processes use too: their writes wake us (LISTEN and NOTIFY), and its clock is followed.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{PgPool, postgres::PgListener};
use tracing::{info, warn};

use crate::{
    Db, Result, Tx,
    connection::{On, Pool},
};

/// Where writes are announced. The payload is who announces, so that nobody is woken by itself.
const CHANNEL: &str = "rekey";
/// The least time between two announcements of a process: NOTIFY takes a lock of the whole cluster while it commits.
const ANNOUNCEMENT_PAUSE: Duration = Duration::from_millis(5);
/// What is announced is on the disk already: the announcement itself need not wait for it.
const ANNOUNCE: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";
/// How often the database's clock is looked at.
const CLOCK_PAUSE: Duration = Duration::from_secs(5);
/// How long a lost connection is left alone before the next try.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// A difference of clocks worth telling.
const NOTABLE_SKEW: chrono::TimeDelta = chrono::TimeDelta::seconds(2);

impl Db {
    /// Hears and announces writes and follows the database's clock, for ever; nothing to do on SQLite. All of it makes things faster or safer and
    /// nothing depends on it: who waits looks by itself now and then.
    pub async fn watch(&self) {
        if let Pool::Postgres(pool) = &self.pool {
            tokio::join!(self.listen(pool), self.announce(pool), self.follow_clock());
        }
    }

    /// Looks at the clock of a shared database, which [`Db::now`] then shows.
    pub async fn look_at_clock(&self) -> Result<()> {
        let Pool::Postgres(pool) = &self.pool else { return Ok(()) };
        let mut connection = pool.acquire().await?;
        let asked = Instant::now();
        let told: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?;
        let ahead = self.clock.set(asked, told);
        if ahead.abs() > NOTABLE_SKEW {
            warn!("The database's clock is {} ms ahead of ours; the database's is used", ahead.num_milliseconds());
        }
        Ok(())
    }

    async fn follow_clock(&self) {
        loop {
            tokio::time::sleep(CLOCK_PAUSE).await;
            // Its old time goes on meanwhile; who needs the database says what is wrong with it.
            drop(self.look_at_clock().await);
        }
    }

    async fn listen(&self, pool: &PgPool) {
        loop {
            match self.hear(pool).await {
                // A database that is like PostgreSQL but has no LISTEN: feature_not_supported or a syntax error.
                Err(sqlx::Error::Database(error))
                    if error.code().is_some_and(|code| code.starts_with("0A") || code.starts_with("42")) =>
                {
                    info!("The database does not announce changes ({error}); it is asked every second instead");
                    return;
                }
                Err(sqlx::Error::PoolClosed) => return,
                Err(error) => warn!("No longer hears what other processes write: {error}"),
                Ok(()) => {}
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn hear(&self, pool: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        self.announces.store(true, Ordering::Relaxed);
        // What was announced before is to be looked for now.
        self.wake.notify_waiters();
        while let Some(heard) = listener.try_recv().await? {
            if *heard.payload() != *self.name {
                self.wake.notify_waiters();
            }
        }
        Ok(())
    }

    async fn announce(&self, pool: &PgPool) {
        loop {
            self.written.notified().await;
            let announced = sqlx::query(ANNOUNCE).bind(CHANNEL).bind(&self.name).execute(pool).await;
            if let Err(error) = announced {
                // The others look by themselves.
                tracing::debug!("A write was not announced: {error}");
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
            tokio::time::sleep(ANNOUNCEMENT_PAUSE).await;
        }
    }
}

impl Tx {
    /// Announces this transaction with its commit, a trip sooner than [`Db::watch`] does: for what a person does and waits for, which is rare. Where all is
    /// written so, transactions wait for each other's flush.
    pub(crate) async fn announce(&mut self) -> Result<()> {
        if let (Some(name), On::Postgres(db)) = (&self.announcer, &mut self.on) {
            sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(&**name).execute(&mut **db).await?;
            self.is_announced = true;
        }
        Ok(())
    }
}
