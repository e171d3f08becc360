//! Requests for renewals, many of them at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use db::{Answer, Db, Error, Fault, IdempotencyKey, Moment, Page, Raise, Raised};
use domain::RenewalId;
use futures_util::future::join_all;

use crate::support::{on_both, renewal};

/// A request of alice under a key of hers.
fn keyed(organization: &str, key: &str, content: &str) -> Raise {
    asked_by("alice", organization, key, content)
}

fn asked_by(caller: &str, organization: &str, key: &str, content: &str) -> Raise {
    let renewal = renewal(organization);
    let key = IdempotencyKey { caller: caller.to_owned(), key: key.to_owned(), request_hash: content.to_owned() };
    let request_hash = content.to_owned();
    let answer = Answer { request_hash, renewal_id: renewal.id, status: 202, body: format!("{}", renewal.id) };
    Raise { renewal, keyed: Some((key, answer)) }
}

async fn count(db: &Db) -> usize {
    let page = Page { before: None, limit: 200 };
    db.read(async |tx| tx.renewals(None, None, page).await).await.unwrap().len()
}

/// The renewal that an answer is about.
fn about(raised: &Raised, own: RenewalId) -> RenewalId {
    match raised {
        Raised::New => own,
        Raised::Before(answer) => answer.renewal_id,
        Raised::OtherRequest => panic!("it is the same request"),
    }
}

#[tokio::test]
async fn of_a_hundred_that_come_at_once_each_gets_its_own_renewal() {
    on_both(async |db| {
        let requests: Vec<Raise> = (0..100).map(|n| keyed(&format!("org-{n}"), &format!("key {n}"), "same")).collect();
        let raised = join_all(requests.iter().map(|request| db.raise(request.clone()))).await;
        assert!(raised.iter().all(|raised| matches!(raised, Ok(Raised::New))), "{raised:?}");
        assert_eq!(count(&db).await, 100);
        for Raise { renewal, .. } in &requests {
            let run = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
            assert_eq!((run.renewal.organization_id, run.steps.len()), (renewal.organization_id.clone(), 1));
            let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 10).await).await.unwrap();
            assert_eq!(
                entries.iter().map(|entry| (entry.sequence, entry.action.as_str())).collect::<Vec<_>>(),
                [(1, "renewal.requested")]
            );
        }
        let again = join_all(requests.iter().map(|request| db.raise(keyed_as(request)))).await;
        for (again, first) in again.iter().zip(&requests) {
            assert_eq!(*again.as_ref().unwrap(), Raised::Before(first.keyed.clone().unwrap().1));
        }
        assert_eq!(count(&db).await, 100);
    })
    .await;
}

/// The same request, sent again: with another id for the renewal that it would make.
fn keyed_as(request: &Raise) -> Raise {
    let (key, _) = request.keyed.clone().unwrap();
    keyed(request.renewal.organization_id.as_str(), &key.key, &key.request_hash)
}

#[tokio::test]
async fn a_hundred_times_the_same_request_at_once_makes_one_renewal() {
    on_both(async |db| {
        let requests: Vec<Raise> = (0..100).map(|_| keyed("contoso", "the key", "same")).collect();
        let raised = join_all(requests.iter().map(|request| db.raise(request.clone()))).await;
        let mut about: Vec<_> =
            raised.iter().zip(&requests).map(|(r, q)| about(r.as_ref().unwrap(), q.renewal.id)).collect();
        about.dedup();
        assert_eq!((about.len(), count(&db).await), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_refused_does_not_disturb_those_that_come_with_it() {
    on_both(async |db| {
        let held = keyed("org-0", "first", "a");
        db.raise(held.clone()).await.unwrap();
        let mut requests: Vec<Raise> = (0..20).map(|n| keyed(&format!("org-{n}"), &format!("{n}"), "a")).collect();
        requests.push(keyed("org-3", "first", "something else"));
        requests.push(asked_by("bob", "org-99", "first", "b"));
        let raised = join_all(requests.into_iter().map(|request| db.raise(request))).await;
        assert!(matches!(&raised[0], Err(Error::OrganizationBusy { holder }) if *holder == held.renewal.id));
        assert!(raised[1..20].iter().all(|raised| matches!(raised, Ok(Raised::New))), "{raised:?}");
        assert!(matches!(raised[20], Ok(Raised::OtherRequest)), "{raised:?}");
        assert!(matches!(raised[21], Ok(Raised::New)), "keys of different callers do not meet: {raised:?}");
        assert_eq!(count(&db).await, 21);
    })
    .await;
}

#[tokio::test]
async fn a_request_whose_commit_was_not_heard_is_not_stored_twice_when_it_is_sent_again() {
    on_both(async |db| {
        let deaf = Arc::new(AtomicBool::new(false));
        let is_deaf = deaf.clone();
        let disturbed = db.clone().disturbed(move |moment| {
            (moment == Moment::Committed && is_deaf.swap(false, Ordering::Relaxed)).then_some(Fault::Lose)
        });
        for request in [keyed("contoso", "key", "a"), Raise { renewal: renewal("fabrikam"), keyed: None }] {
            deaf.store(true, Ordering::Relaxed);
            let first = disturbed.raise(request.clone()).await;
            assert!(matches!(first, Err(Error::Sql(_))), "{first:?}");
            assert_eq!(disturbed.raise(request).await.unwrap(), Raised::New, "it is this one");
        }
        assert_eq!(count(&db).await, 2);
    })
    .await;
}
