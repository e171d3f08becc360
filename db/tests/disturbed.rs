//! What a caller hears of a transaction that goes wrong, and what is in the database then.

use std::sync::Mutex;

use db::{Db, Error, Fault, Moment};

use crate::support::{now, on_both, renewal};

/// The database, at whose next transaction that goes wrong once.
fn once(db: Db, at: Moment, fault: Fault) -> Db {
    let left = Mutex::new(Some(fault));
    db.disturbed(move |moment| (moment == at).then(|| left.lock().unwrap().take()).flatten())
}

async fn renewals(db: &Db) -> usize {
    let page = db::Page { before: None, limit: 10 };
    db.read(async |tx| tx.renewals(None, None, page).await).await.unwrap().len()
}

#[tokio::test]
async fn a_transaction_that_the_database_wants_again_is_done_again_as_a_whole() {
    for at in [Moment::Begin, Moment::Commit] {
        on_both(async |db| {
            let db = once(db, at, Fault::Conflict);
            let new = renewal("contoso");
            let mut tries = 0;
            let work = async |tx: &mut db::Tx| {
                tries += 1;
                tx.create_renewal(&new, now()).await
            };
            db.write(work).await.unwrap();
            assert_eq!((tries, renewals(&db).await), (if at == Moment::Begin { 1 } else { 2 }, 1));
            let entries = db.read(async |tx| tx.audit_of(new.id, 0, 10).await).await.unwrap();
            assert_eq!(entries.len(), 1, "its record was written once");
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_at_the_commit_leaves_the_outcome_unknown_and_is_told() {
    for (at, there) in [(Moment::Commit, 0), (Moment::Committed, 1)] {
        on_both(async |db| {
            let db = once(db, at, Fault::Lose);
            let new = renewal("contoso");
            let told = db.write(async |tx| tx.create_renewal(&new, now()).await).await;
            assert!(matches!(told, Err(Error::Sql(_))), "{told:?}");
            assert_eq!(renewals(&db).await, there);
        })
        .await;
    }
}
