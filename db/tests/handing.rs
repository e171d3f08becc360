//! What a decision makes due is handed over to a worker of the same process that has offered itself, with the commit of the decision.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use db::{Bounds, Db, Fault, FreeHands, Moment, Offer};
use domain::{OrganizationId, Plan, Renewal, StepKind, StepStatus, Timeline, gate::Verb};

use crate::support::{claim, contoso, decision, look, now, on_both, planned};

const OFFERING: &str = "worker:offering";

/// A worker that offers itself has its steps for so long.
const LEASE: Duration = Duration::from_secs(45);

fn offer(db: &Db) -> Offer {
    offer_within(db, BTreeMap::new())
}

fn offer_within(db: &Db, bounds: BTreeMap<OrganizationId, Bounds>) -> Offer {
    db.offer(FreeHands {
        worker: OFFERING.to_owned(),
        steps: 4,
        held: HashSet::new(),
        bounds: Arc::new(bounds),
        lease: LEASE,
        timeline: Timeline::real(),
    })
}

/// An approval makes `generate` due.
async fn decide(db: &Db, planned: &(Renewal, Plan), verb: Verb) -> db::Result<Renewal> {
    let (renewal, plan) = planned;
    let decision = decision(renewal.id, plan, verb);
    db.write(async |tx| tx.decide(&decision, None, now()).await).await
}

async fn approve(db: &Db) -> db::Result<Renewal> {
    decide(db, &planned(db).await, Verb::Approve).await
}

/// Decisions on it lose their connection at a moment of their transaction.
fn losing_at(db: &Db, lost: Moment) -> Db {
    db.clone().disturbed(move |moment| (moment == lost).then_some(Fault::Lose))
}

/// The actions on record and who did them, oldest first.
async fn record(db: &Db, renewal: &Renewal) -> Vec<(String, String)> {
    let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 100).await).await.unwrap();
    entries.into_iter().map(|entry| (entry.action, entry.actor)).collect()
}

#[tokio::test]
async fn the_step_that_an_approval_allows_is_taken_with_it() {
    on_both(async |db| {
        let mut offered = offer(&db);
        let before = db.now();
        let renewal = approve(&db).await.unwrap();
        let handed = offered.accepted().await.unwrap();
        let [taken] = &handed.claimed.steps[..] else { panic!("{:?}", handed.claimed) };
        assert_eq!(
            (taken.step.kind, taken.step.status, taken.step.attempt),
            (StepKind::Generate, StepStatus::Running, 1)
        );
        assert_eq!(taken.run.renewal.version, renewal.version);
        assert_eq!(taken.run.renewal.state, renewal.state);
        let lease_ends = taken.step.due_at.unwrap();
        assert!(lease_ends >= before + LEASE - TimeDelta::milliseconds(1), "by the database's clock: {lease_ends}");
        let stored = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
        assert_eq!(stored.renewal.version, renewal.version);
        let step = stored.steps.iter().find(|step| step.id == taken.step.id).unwrap();
        assert_eq!(*step, taken.step);
        let record = record(&db, &renewal).await;
        assert_eq!(record.last().unwrap(), &("step.started".to_owned(), OFFERING.to_owned()), "after the decision");
        assert!(look(&db, now()).await.is_idle(), "nobody else gets it");
        db.write(async |tx| tx.intend(taken, OFFERING, serde_json::json!({}), now()).await).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn without_an_offer_the_step_is_looked_for() {
    on_both(async |db| {
        drop(offer(&db));
        assert!(offer(&db).withdraw().await.is_none());
        let renewal = approve(&db).await.unwrap();
        assert!(!record(&db, &renewal).await.iter().any(|(_, actor)| actor == OFFERING));
        assert_eq!(claim(&db, now()).await.unwrap().step.kind, StepKind::Generate);
    })
    .await;
}

#[tokio::test]
async fn a_decision_that_makes_nothing_due_leaves_the_offer_open() {
    on_both(async |db| {
        let offered = offer(&db);
        decide(&db, &planned(&db).await, Verb::Reject).await.unwrap();
        assert!(offered.withdraw().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn no_more_is_handed_over_than_the_organization_allows() {
    on_both(async |db| {
        let nothing = BTreeMap::from([(contoso(), Bounds { organization: 0, site: 0 })]);
        let mut offered = offer_within(&db, nothing);
        let renewal = approve(&db).await.unwrap();
        assert!(offered.accepted().await.is_none(), "the worker hears that there is something to look for");
        assert!(!record(&db, &renewal).await.iter().any(|(_, actor)| actor == OFFERING));
    })
    .await;
}

#[tokio::test]
async fn a_decision_that_is_not_committed_hands_nothing_over() {
    on_both(async |db| {
        let mut offered = offer(&db);
        let planned = planned(&db).await;
        decide(&losing_at(&db, Moment::Commit), &planned, Verb::Approve).await.unwrap_err();
        assert!(offered.accepted().await.is_none());
        assert!(offered.withdraw().await.is_none(), "it may be asked again");
        let run = db.read(async |tx| tx.load_run(planned.0.id).await).await.unwrap();
        assert!(run.decisions.is_empty());
        assert!(look(&db, now()).await.is_idle());
    })
    .await;
}

#[tokio::test]
async fn a_step_whose_worker_goes_away_with_the_commit_is_taken_again_when_its_lease_is_over() {
    on_both(async |db| {
        let offered = offer(&db);
        let planned = planned(&db).await;
        decide(&losing_at(&db, Moment::Committed), &planned, Verb::Approve).await.unwrap_err();
        drop(offered);
        assert!(look(&db, db.now()).await.is_idle(), "the lease is not over");
        let again = claim(&db, db.now() + LEASE + TimeDelta::seconds(1)).await.unwrap();
        assert_eq!((again.step.kind, again.step.attempt), (StepKind::Generate, 2));
    })
    .await;
}
