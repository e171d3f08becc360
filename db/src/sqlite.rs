//! SQLite: a file of one process.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    Connection as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Result, connection::PREPARED_STATEMENTS};

const MAX_CONNECTIONS: u32 = 8;

/// Opens the file of a `sqlite:` URL; makes it when it is missing.
pub(crate) async fn open(url: &str) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .statement_cache_capacity(PREPARED_STATEMENTS)
        // A destroyed key must not live on in free pages.
        .pragma("secure_delete", "on")
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .before_acquire(|connection, _| Box::pin(async { Ok(is_at_rest(connection)) }))
        .connect_with(options);
    Ok(pool.await?)
}

/// Whether no transaction is counted as open. SQLite ends one by itself when the disk is full; the rollback that follows then finds none and fails,
/// and sqlx counts the transaction as open for good: nobody could begin another on this connection.
fn is_at_rest(connection: &SqliteConnection) -> bool {
    !connection.is_in_transaction()
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use domain::{Reason, Renewal, RenewalId, Request};
    use futures_util::future::try_join_all;
    use sqlx::AssertSqlSafe;
    use uuid::Uuid;

    use super::*;
    use crate::{Db, Page, connection::Pool};

    /// A disk with room for so many pages of the database, whichever connection writes them.
    async fn leave_room(db: &Db, pages: u32) {
        let Pool::Sqlite(pool) = &db.pool else { panic!("not SQLite") };
        let options = pool.connect_options().as_ref().clone().pragma("max_page_count", pages.to_string());
        pool.set_connect_options(options);
        let mut open = try_join_all((0..MAX_CONNECTIONS).map(|_| pool.acquire())).await.unwrap();
        for connection in &mut open {
            let limit = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            sqlx::query(limit).execute(&mut **connection).await.unwrap();
        }
    }

    /// Raises a renewal that takes some room.
    async fn raise(db: &Db, number: usize) -> Result<()> {
        let request = Request {
            organization: domain::OrganizationId::parse(&format!("org-{number}")).unwrap(),
            reason: Reason::Expiring,
            change_type: None,
            risk: None,
            ticket: None,
            not_before: None,
            allow_absent: Vec::new(),
            note: Some("a remark ".repeat(2000)),
        };
        let renewal = Renewal::requested(RenewalId(Uuid::now_v7()), "alice", request, Utc::now());
        db.write(async |tx| tx.create_renewal(&renewal, Utc::now()).await).await
    }

    async fn renewals(db: &Db) -> Result<usize> {
        let page = Page { before: None, limit: 100 };
        db.read(async |tx| tx.renewals(None, None, page).await).await.map(|all| all.len())
    }

    #[tokio::test]
    async fn a_full_disk_refuses_writes_only_as_long_as_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", directory.path().join("rekey.db").display())).await.unwrap();
        db.migrate().await.unwrap();
        raise(&db, 0).await.unwrap();
        leave_room(&db, 1).await;
        for number in 1..20 {
            let refused = raise(&db, number).await.unwrap_err();
            assert!(format!("{refused:?}").contains("database or disk is full"), "{refused:?}");
            assert_eq!(renewals(&db).await.unwrap(), 1, "what is there can be read");
        }
        leave_room(&db, u32::MAX - 1).await;
        for number in 1..20 {
            raise(&db, number).await.unwrap();
        }
        assert_eq!(renewals(&db).await.unwrap(), 20);
    }
}
