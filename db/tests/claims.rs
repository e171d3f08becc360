//! Who takes what: fairness, bounds, and workers that do not stand in each other's way.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use chrono::TimeDelta;
use db::{Bounds, Claimed, Db, StepEnd, Wanted};
use domain::{Outcome, RenewalId, StepKind, snapshot::Key};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::timeout;

use crate::support::{
    WORKER, contoso, distributing, look, look_for, minutes, now, on_both, on_postgres, renewal, thumbprint,
};

/// So many of everything.
fn at_most(organization: usize, site: usize) -> BTreeMap<domain::OrganizationId, Bounds> {
    BTreeMap::from([(contoso(), Bounds { organization, site })])
}

fn count(claimed: &Claimed, renewal: RenewalId) -> usize {
    claimed.steps.iter().filter(|step| step.step.renewal_id == renewal).count()
}

#[tokio::test]
async fn an_organization_with_many_servers_does_not_starve_the_others() {
    on_both(async |db| {
        let busy = distributing(&db, "contoso", 12).await;
        let other = distributing(&db, "fabrikam", 2).await;
        let many = at_most(100, 100);
        let first = look_for(&db, 4, &many, now()).await;
        assert_eq!((count(&first, busy.id), count(&first, other.id)), (2, 2));
        let second = look_for(&db, 2, &many, now()).await;
        assert_eq!(count(&second, busy.id), 2, "what nobody else needs is for who can use it");
        let late = renewal("tailspin");
        db.write(async |tx| tx.create_renewal(&late, now()).await).await.unwrap();
        let third = look(&db, now()).await;
        assert_eq!(count(&third, late.id), 1, "who has nothing under way comes first");
    })
    .await;
}

#[tokio::test]
async fn no_more_servers_of_an_organization_and_of_a_site_are_worked_on_than_allowed() {
    on_both(async |db| {
        let renewal = distributing(&db, "contoso", 12).await;
        let bounds = at_most(3, 2);
        let first = look_for(&db, 10, &bounds, now()).await;
        assert_eq!(first.steps.len(), 3);
        let mut sites: Vec<&str> = first.steps.iter().map(|step| step.step.site.as_str()).collect();
        sites.sort_unstable();
        assert_eq!(sites, ["Hamburg", "Hamburg", "Leipzig"]);
        let version = async || db.read(async |tx| tx.renewal(renewal.id).await).await.unwrap().version;
        let before = version().await;
        assert!(look_for(&db, 10, &bounds, now()).await.is_idle());
        assert_eq!(version().await, before, "looking changes nothing");
        let done = StepEnd::Done(Outcome::Distributed {
            thumbprint: thumbprint('B'),
            pfx: None,
            key: Key::Csp,
            already_present: true,
        });
        db.write(async |tx| tx.finish_step(&first.steps[0], WORKER, &done, now()).await).await.unwrap();
        let next = look_for(&db, 10, &bounds, now()).await;
        assert_eq!(next.steps.len(), 1, "the place that has become free");
    })
    .await;
}

#[tokio::test]
async fn a_step_in_its_own_hands_is_not_taken_by_a_worker_whose_clock_jumped_ahead() {
    on_both(async |db| {
        distributing(&db, "contoso", 1).await;
        let held = look(&db, now()).await.steps.pop().unwrap();
        let tomorrow = now() + TimeDelta::days(1);
        let (own, bounds) = (HashSet::from([held.step.id]), BTreeMap::new());
        let lease_ends = tomorrow + TimeDelta::minutes(5);
        let wanted = Wanted { worker: WORKER, steps: 4, held: &own, bounds: &bounds, lease_ends, now: tomorrow };
        assert!(db.claim(&wanted).await.unwrap().is_idle());
        let taken = db.claim(&Wanted { held: &HashSet::new(), ..wanted }).await.unwrap();
        assert_eq!(taken.steps[0].step.attempt, held.step.attempt + 1, "anybody else may");
    })
    .await;
}

#[tokio::test]
async fn many_workers_share_the_servers_and_none_gets_two_workers() {
    on_both(async |db| {
        distributing(&db, "contoso", 12).await;
        let many = at_most(100, 100);
        let mut seen = BTreeSet::new();
        loop {
            let looks = futures_util::future::join_all((0..4).map(|_| look_for(&db, 2, &many, now()))).await;
            if looks.iter().all(Claimed::is_idle) {
                break;
            }
            for step in looks.iter().flat_map(|look| &look.steps) {
                assert_eq!((step.step.kind, step.step.attempt), (StepKind::Distribute, 1));
                assert!(seen.insert(step.step.target.clone()), "{} twice", step.step.target);
            }
        }
        assert_eq!(seen.len(), 12);
    })
    .await;
}

#[tokio::test]
async fn a_renewal_that_somebody_changes_at_this_moment_keeps_no_worker_waiting() {
    on_postgres(async |url| {
        let db = Db::open(&url).await.unwrap();
        let changing = distributing(&db, "contoso", 2).await;
        let other = distributing(&db, "fabrikam", 2).await;
        db.write(async |tx| {
            tx.lock_renewal(changing.id).await?;
            let meanwhile = Box::pin(look_for(&db, 4, &BTreeMap::new(), now())).await;
            assert_eq!((count(&meanwhile, changing.id), count(&meanwhile, other.id)), (0, 2));
            db::Result::Ok(())
        })
        .await
        .unwrap();
        assert_eq!(count(&Box::pin(look_for(&db, 4, &BTreeMap::new(), now())).await, changing.id), 2);
        db.close().await;
    })
    .await;
}

/// Waits for something that must come; only a failure waits long.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), what).await.expect("it comes")
}

#[tokio::test]
async fn a_write_wakes_the_other_processes() {
    on_postgres(async |url| {
        let (here, there) = (Db::open(&url).await.unwrap(), Db::open(&url).await.unwrap());
        let watching = [here.clone(), there.clone()].map(|db| tokio::spawn(async move { db.watch().await }));
        let heard = async {
            loop {
                // The other may not listen yet: what was written before it does wakes it when it does.
                let woken = there.woken();
                here.write(async |tx| tx.create_renewal(&renewal(&unused()), minutes(0)).await).await.unwrap();
                if timeout(Duration::from_millis(500), woken).await.is_ok() {
                    return;
                }
            }
        };
        Box::pin(soon(heard)).await;
        let woken = there.woken();
        here.write(async |tx| tx.create_renewal(&renewal(&unused()), minutes(0)).await).await.unwrap();
        soon(woken).await;
        watching.iter().for_each(tokio::task::JoinHandle::abort);
        here.close().await;
        there.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_drops_all_connections_loses_and_repeats_nothing() {
    on_postgres(async |url| {
        let db = Db::open(&url).await.unwrap();
        let watching = tokio::spawn({
            let db = db.clone();
            async move { db.watch().await }
        });
        let mut administrator = PgConnection::connect(&url).await.unwrap();
        for _ in 0..5 {
            let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                          WHERE datname = current_database() AND pid <> pg_backend_pid()";
            administrator.execute(others).await.unwrap();
            let new = renewal(&unused());
            db.write(async |tx| tx.create_renewal(&new, now()).await).await.unwrap();
            let entries = db.read(async |tx| tx.audit_of(new.id, 0, 10).await).await.unwrap();
            assert_eq!(entries.len(), 1);
        }
        watching.abort();
        administrator.close().await.unwrap();
        db.close().await;
    })
    .await;
}

/// An organization that nobody has used.
fn unused() -> String {
    format!("o{}", uuid::Uuid::new_v4().simple())
}
