//! Attempts that end at the same time.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use db::{Bounds, Error, StepEnd};
use domain::{Outcome, StepStatus, Trouble, snapshot::Key};
use futures_util::future::join_all;

use crate::support::{WORKER, distributing, look_for, minutes, now, on_both, thumbprint};

fn distributed() -> StepEnd {
    StepEnd::Done(Outcome::Distributed { thumbprint: thumbprint('B'), pfx: None, key: Key::Csp, already_present: true })
}

fn slow_server() -> StepEnd {
    let trouble = Trouble::new("server_unreachable", "ex07 does not answer", "Wait, or start it");
    StepEnd::Retry { at: minutes(1), trouble }
}

fn wide() -> BTreeMap<domain::OrganizationId, Bounds> {
    BTreeMap::from([(crate::support::contoso(), Bounds { organization: 100, site: 100 })])
}

#[tokio::test]
async fn steps_that_end_together_are_all_stored_and_recorded_one_after_the_other() {
    on_both(async |db| {
        let renewal = distributing(&db, "contoso", 40).await;
        let claimed = look_for(&db, 40, &wide(), now()).await.steps;
        assert_eq!(claimed.len(), 40);
        let ended = claimed.iter().enumerate().map(|(n, step)| {
            let end = if n == 7 { slow_server() } else { distributed() };
            db.finish(step, WORKER, end, now())
        });
        for ended in join_all(ended).await {
            ended.unwrap();
        }
        let run = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
        let step = |n: usize| run.steps.iter().find(|step| step.id == claimed[n].step.id).unwrap();
        for n in 0..40 {
            let expected = if n == 7 { (StepStatus::Ready, 1) } else { (StepStatus::Succeeded, 0) };
            assert_eq!((step(n).status, step(n).failures), expected, "{:?}", step(n));
            assert_eq!(step(n).outcome.is_some(), n != 7);
        }
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 500).await).await.unwrap();
        assert!((1..).zip(&entries).all(|(n, entry)| entry.sequence == n), "no gaps");
        let count = |action: &str| entries.iter().filter(|entry| entry.action == action).count();
        assert_eq!((count("step.retried"), count("step.succeeded")), (1, 39 + 1), "with the one that made the key");
    })
    .await;
}

#[tokio::test]
async fn a_lost_lease_is_heard_by_its_own_worker_only() {
    on_both(async |db| {
        let renewal = distributing(&db, "contoso", 6).await;
        let mine = look_for(&db, 6, &wide(), now()).await.steps;
        // The leases are over; another worker takes two of the steps.
        let taken = look_for(&db, 2, &wide(), now() + TimeDelta::minutes(6)).await.steps;
        assert_eq!(taken.len(), 2);
        let ended = join_all(mine.iter().map(|step| db.finish(step, WORKER, distributed(), minutes(7)))).await;
        for (step, ended) in mine.iter().zip(&ended) {
            let lost = taken.iter().any(|taken| taken.step.id == step.step.id);
            assert_eq!(matches!(ended, Err(Error::LeaseLost)), lost, "{ended:?}");
            assert_eq!(ended.is_ok(), !lost, "{ended:?}");
        }
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 500).await).await.unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.action == "step.succeeded").count(), 4 + 1);
    })
    .await;
}
