//! Rows: what is stored comes back, pages, keys and the audit's numbers.

use chrono::TimeDelta;
use db::{Error, Page, Purpose, SealedKey};
use domain::{Digest, Policy, Request, Snapshot, audit::NewAudit};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{contoso, each_database, minutes, now, on_both, planned, raised, renewal, snapshot, thumbprint};

#[tokio::test]
async fn a_database_is_migrated_once_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let db = db::Db::open(&format!("sqlite:{}", directory.path().join("new.db").display())).await.unwrap();
    assert!(!db.is_migrated().await.unwrap());
    on_both(async |db| {
        assert!(db.is_migrated().await.unwrap());
        db.migrate().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_renewal_comes_back_as_it_was_stored() {
    on_both(async |db| {
        let new = raised(&db).await;
        assert_eq!(db.read(async |tx| tx.renewal(new.id).await).await.unwrap(), new);
        let missing = db.read(async |tx| tx.renewal(renewal("contoso").id).await).await;
        assert!(matches!(missing, Err(Error::NotFound("renewal"))));
    })
    .await;
}

#[tokio::test]
async fn a_renewal_that_has_a_record_cannot_be_deleted() {
    for database in each_database().await {
        raised(&database.db).await;
        let refused = database.execute("DELETE FROM renewal".to_owned()).await.unwrap_err();
        assert!(refused.as_database_error().is_some_and(|error| error.is_foreign_key_violation()), "{refused}");
        database.drop().await;
    }
}

#[tokio::test]
async fn one_renewal_holds_an_organization_until_it_is_over() {
    on_both(async |db| {
        let holder = raised(&db).await;
        let second = renewal("contoso");
        let refused = db.write(async |tx| tx.create_renewal(&second, now()).await).await;
        assert!(matches!(refused, Err(Error::OrganizationBusy { holder: id }) if id == holder.id));
        db.write(async |tx| tx.create_renewal(&renewal("fabrikam"), now()).await).await.unwrap();
        db.write(async |tx| tx.cancel(holder.id, None, "oscar", "no longer needed", now()).await).await.unwrap();
        db.write(async |tx| tx.create_renewal(&second, now()).await).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn of_many_renewals_raised_at_once_one_is_accepted() {
    on_both(async |db| {
        let raise = async || {
            let new = renewal("contoso");
            db.write(async |tx| tx.create_renewal(&new, now()).await).await
        };
        let results = join_all((0..8).map(|_| raise())).await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        for error in results.into_iter().filter_map(Result::err) {
            assert!(matches!(error, Error::OrganizationBusy { .. }) || error.is_unique_violation(), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn pages_go_from_new_to_old_and_filters_hold() {
    on_both(async |db| {
        let mut ids = Vec::new();
        for name in ["a", "b", "c", "d", "e"] {
            let new = renewal(name);
            db.write(async |tx| tx.create_renewal(&new, now()).await).await.unwrap();
            ids.insert(0, new.id);
        }
        let page = async |before, limit| {
            let rows = db.read(async |tx| tx.renewals(None, None, Page { before, limit }).await).await.unwrap();
            rows.into_iter().map(|r| r.id).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 2).await, ids[..2]);
        assert_eq!(page(Some(ids[1].0), 10).await, ids[2..]);
        let all = Page { before: None, limit: 10 };
        let of = |organization: &'static str, status: Option<&'static str>| {
            let (db, name) = (db.clone(), domain::OrganizationId::parse(organization).unwrap());
            async move { db.read(async |tx| tx.renewals(Some(&name), status, all).await).await.unwrap().len() }
        };
        assert_eq!((of("c", None).await, of("c", Some("requested")).await, of("c", Some("failed")).await), (1, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_plan_is_stored_byte_for_byte_and_the_same_plan_again_changes_nothing() {
    on_both(async |db| {
        let (renewal, plan) = planned(&db).await;
        let digest = db.write(async |tx| tx.insert_plan(renewal.id, &plan, minutes(1)).await).await.unwrap();
        let text = db.read(async |tx| tx.plan_text(renewal.id, &digest).await).await.unwrap().unwrap();
        assert_eq!(text, plan.canonical());
        assert_eq!(Digest::of(text.as_bytes()), digest);
        assert_eq!(db.read(async |tx| tx.plan(renewal.id, &digest).await).await.unwrap(), Some(plan));
        let other = Digest::of(b"another");
        assert_eq!(db.read(async |tx| tx.plan(renewal.id, &other).await).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn the_newest_snapshot_of_each_purpose_is_found() {
    on_both(async |db| {
        let renewal = raised(&db).await;
        let (mut first, mut second) = (snapshot(), snapshot());
        first.taken_at = minutes(1);
        second.taken_at = minutes(2);
        let store = async |tx: &mut db::Tx| {
            tx.insert_snapshot(Some(renewal.id), Purpose::Before, &first).await?;
            tx.insert_snapshot(None, Purpose::Check, &second).await
        };
        db.write(store).await.unwrap();
        assert_eq!(db.read(async |tx| tx.latest_snapshot(&contoso()).await).await.unwrap(), Some(second));
        let of = async |purpose| db.read(async |tx| tx.snapshot_of(renewal.id, purpose).await).await.unwrap();
        assert_eq!((of(Purpose::Before).await, of(Purpose::After).await), (Some(first), None));
    })
    .await;
}

#[tokio::test]
async fn of_many_that_ask_at_once_each_hears_what_was_seen_of_its_own_organization() {
    on_both(async |db| {
        let early = Snapshot { auth_config: Vec::new(), ..snapshot() };
        let store = async |tx: &mut db::Tx| {
            // Nobody knows when the certificate of this one expires.
            tx.insert_snapshot(None, Purpose::Check, &early).await?;
            tx.insert_snapshot(None, Purpose::Check, &snapshot()).await?;
            let other = Snapshot { organization: renewal("fabrikam").organization_id, ..early.clone() };
            tx.insert_snapshot(None, Purpose::Check, &other).await
        };
        db.write(store).await.unwrap();
        let asked = |n: usize| Request {
            not_before: Some(now() + TimeDelta::days(60)),
            ..renewal(["contoso", "fabrikam", "nobody-looked"][n % 3]).request
        };
        let requests: Vec<Request> = (0..100).map(asked).collect();
        let policy = Policy::default();
        let told = join_all(requests.iter().map(|request| db.feasible(request, &policy, now()))).await;
        for (request, told) in requests.iter().zip(told) {
            let late = told.unwrap().err().map(|late| late.expires);
            let expected = (request.organization == contoso()).then(|| now() + TimeDelta::days(45));
            assert_eq!(late, expected, "{}", request.organization);
        }
    })
    .await;
}

#[tokio::test]
async fn the_audit_counts_without_gaps_even_when_many_write_at_once() {
    on_both(async |db| {
        let renewal = raised(&db).await;
        let write = async |number: u32| {
            let entry = NewAudit::new("bob", "test.noted", json!({ "number": number }));
            db.write(async |tx| tx.audit(&renewal, entry.clone(), now()).await).await
        };
        for result in join_all((0..12).map(&write)).await {
            result.unwrap();
        }
        let failed: db::Result<()> = db
            .write(async |tx| {
                tx.audit(&renewal, NewAudit::new("bob", "test.lost", json!({})), now()).await?;
                Err(Error::LeaseLost)
            })
            .await;
        assert!(matches!(failed, Err(Error::LeaseLost)));
        write(99).await.unwrap();
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 100).await).await.unwrap();
        assert_eq!(entries.iter().map(|e| e.sequence).collect::<Vec<_>>(), (1..=14).collect::<Vec<_>>());
        assert!(entries.iter().all(|e| e.action != "test.lost"));
        let after = db.read(async |tx| tx.audit_of(renewal.id, 10, 2).await).await.unwrap();
        assert_eq!(after, entries[10..12]);
        db.write(async |tx| tx.audit_outside(None, NewAudit::new("eve", "access.refused", json!({})), now()).await)
            .await
            .unwrap();
        let page = db.read(async |tx| tx.audit_page(Page { before: None, limit: 3 }).await).await.unwrap();
        assert_eq!((page[0].action.as_str(), page[0].sequence, page[0].renewal_id), ("access.refused", 1, None));
        let older = db.read(async |tx| tx.audit_page(Page { before: Some(page[2].id), limit: 100 }).await).await;
        assert_eq!(older.unwrap().len(), 12);
    })
    .await;
}

#[tokio::test]
async fn a_sealed_key_is_destroyed_with_the_end_of_its_renewal() {
    on_both(async |db| {
        let renewal = raised(&db).await;
        let key = SealedKey { thumbprint: thumbprint('B'), sealed: vec![0, 255, 7] };
        db.write(async |tx| tx.insert_sealed_key(renewal.id, &key, now()).await).await.unwrap();
        let found = async || db.read(async |tx| tx.sealed_key(renewal.id).await).await.unwrap();
        assert_eq!(found().await.unwrap().sealed, key.sealed);
        assert!(!format!("{key:?}").contains("255"));
        db.write(async |tx| tx.cancel(renewal.id, None, "oscar", "stop", now()).await).await.unwrap();
        assert!(found().await.is_none());
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 100).await).await.unwrap();
        assert!(entries.iter().any(|e| e.action == "key.destroyed"));
    })
    .await;
}
