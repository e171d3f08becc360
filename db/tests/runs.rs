//! Runs: leases, fences, decisions and verbs.

use db::{Db, Error, StepEnd};
use domain::{Outcome, Phase, State, StepKind, StepStatus, Trouble, audit::NewAudit, gate::Verb};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    WORKER, approved, claim, decision, look, minutes, now, on_both, planned, raised, snapshot, thumbprint,
};

fn generated() -> StepEnd {
    StepEnd::Done(Outcome::Generated {
        thumbprint: thumbprint('B'),
        not_before: now(),
        not_after: minutes(1000),
        adopted: false,
        certificate: None,
        exchange_publishes_at: None,
    })
}

#[tokio::test]
async fn a_due_step_goes_to_one_worker_only() {
    on_both(async |db| {
        raised(&db).await;
        let claims = join_all((0..8).map(|_| look(&db, now()))).await;
        let steps: usize = claims.iter().map(|claimed| claimed.steps.len()).sum();
        assert_eq!(steps, 1, "{claims:?}");
        assert!(claim(&db, minutes(4)).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_changes_nothing() {
    on_both(async |db| {
        let (renewal, _) = approved(&db).await;
        let stale = claim(&db, now()).await.unwrap();
        let fresh = claim(&db, minutes(6)).await.unwrap();
        assert_eq!((stale.step.id, fresh.step.attempt), (fresh.step.id, stale.step.attempt + 1));
        let lost = |result: db::Result<()>| assert!(matches!(result, Err(Error::LeaseLost)), "{result:?}");
        let note = NewAudit::new(WORKER, "test.noted", json!({}));
        lost(db.write(async |tx| tx.extend_lease(&stale.step, minutes(20)).await).await);
        lost(db.write(async |tx| tx.intend(&stale, WORKER, json!({}), minutes(6)).await).await);
        lost(db.write(async |tx| tx.record(&stale, note.clone(), minutes(6)).await).await);
        lost(db.write(async |tx| tx.finish_step(&stale, WORKER, &generated(), minutes(6)).await).await);
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 100).await).await.unwrap();
        assert!(entries.iter().all(|e| e.action != "step.succeeded" && e.action != "cmdlet.intended"));
        db.write(async |tx| tx.finish_step(&fresh, WORKER, &generated(), minutes(7)).await).await.unwrap();
        let steps = db.read(async |tx| tx.steps(renewal.id).await).await.unwrap();
        assert_eq!((steps[1].status, steps[2].status), (StepStatus::Succeeded, StepStatus::Ready));
    })
    .await;
}

#[tokio::test]
async fn a_lease_can_be_extended_and_ended_by_who_knows_to_be_alone() {
    on_both(async |db| {
        approved(&db).await;
        let held = claim(&db, now()).await.unwrap();
        db.write(async |tx| tx.extend_lease(&held.step, minutes(30)).await).await.unwrap();
        assert!(claim(&db, minutes(10)).await.is_none());
        assert_eq!(db.write(async |tx| tx.end_all_leases(minutes(10)).await).await.unwrap(), 1);
        assert!(claim(&db, minutes(10)).await.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_finished_preflight_lays_out_the_steps_and_opens_the_gate() {
    on_both(async |db| {
        let (renewal, plan) = planned(&db).await;
        let run = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
        assert!(matches!(run.renewal.state, State::AwaitingApproval { .. }));
        assert_eq!(run.renewal.plan_digest, Some(plan.digest()));
        assert_eq!(run.steps.len(), plan.steps.len() + 1);
        assert!(run.steps[1..].iter().all(|s| s.status == StepStatus::Pending && s.due_at.is_none()));
        assert!(claim(&db, minutes(1)).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_refused_preflight_ends_the_renewal_with_its_reason() {
    on_both(async |db| {
        let renewal = raised(&db).await;
        let preflight = claim(&db, now()).await.unwrap();
        let trouble = Trouble::new("no_servers", "No server answers", "Check the account");
        db.write(async |tx| tx.refuse_preflight(&preflight, WORKER, &trouble, now()).await).await.unwrap();
        let after = db.read(async |tx| tx.renewal(renewal.id).await).await.unwrap();
        assert_eq!(after.state, State::Failed { trouble, at: now() });
    })
    .await;
}

#[tokio::test]
async fn nobody_deciding_in_time_ends_the_renewal_by_its_timer() {
    on_both(async |db| {
        let (renewal, plan) = planned(&db).await;
        let late = minutes(60 * i64::from(plan.approval_hours) + 1);
        let due = db.read(async |tx| tx.next_due(now()).await).await.unwrap().unwrap();
        assert!(due > minutes(60) && due <= late);
        assert!(look(&db, late).await.settled);
        let after = db.read(async |tx| tx.renewal(renewal.id).await).await.unwrap();
        assert_eq!(after.state.status(), "expired");
        assert_eq!(db.read(async |tx| tx.next_due(late).await).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_decision_that_is_refused_leaves_nothing_behind() {
    on_both(async |db| {
        let (renewal, plan) = planned(&db).await;
        let version = db.read(async |tx| tx.renewal(renewal.id).await).await.unwrap().version;
        let mut stale = decision(renewal.id, &plan, Verb::Approve);
        stale.plan_digest = domain::Digest::of(b"old");
        let refused = db.write(async |tx| tx.decide(&stale, None, now()).await).await;
        assert!(matches!(refused, Err(Error::Refused(trouble)) if trouble.code == "stale_digest"));
        let yes = decision(renewal.id, &plan, Verb::Approve);
        let outdated = db.write(async |tx| tx.decide(&yes, Some(version - 1), now()).await).await;
        assert!(matches!(outdated, Err(Error::Stale { version: told }) if told == version));
        let run = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
        assert_eq!((run.decisions.len(), run.renewal.version), (0, version));
        let after = db.write(async |tx| tx.decide(&yes, Some(version), now()).await).await.unwrap();
        assert_eq!(after.state, State::Running { phase: Phase::Generate });
    })
    .await;
}

#[tokio::test]
async fn nothing_is_intended_after_the_approval_is_withdrawn_or_the_renewal_is_held() {
    on_both(async |db| {
        let (renewal, plan) = approved(&db).await;
        let no = decision(renewal.id, &plan, Verb::Withdraw);
        db.write(async |tx| tx.decide(&no, None, now()).await).await.unwrap();
        let step = claim(&db, now()).await.unwrap();
        let closed = |code: &'static str, result: db::Result<()>| {
            assert!(matches!(&result, Err(Error::GateClosed(trouble)) if trouble.code == code), "{result:?}");
        };
        closed("approval_withdrawn", db.write(async |tx| tx.intend(&step, WORKER, json!({}), now()).await).await);
        let yes = decision(renewal.id, &plan, Verb::Approve);
        db.write(async |tx| tx.decide(&yes, None, now()).await).await.unwrap();
        db.write(async |tx| tx.intend(&step, WORKER, json!({"cmdlet": "Test"}), now()).await).await.unwrap();
        db.write(async |tx| tx.pause(renewal.id, None, "oscar", "wait", now()).await).await.unwrap();
        closed("not_its_turn", db.write(async |tx| tx.intend(&step, WORKER, json!({}), now()).await).await);
        let resumed = db.write(async |tx| tx.resume(renewal.id, None, "oscar", now()).await).await.unwrap();
        assert_eq!(resumed.state, State::Running { phase: Phase::Generate });
    })
    .await;
}

#[tokio::test]
async fn failures_are_counted_until_it_goes_well_or_a_person_retries() {
    on_both(async |db| {
        let (renewal, _) = approved(&db).await;
        let trouble = Trouble::new("disk_full", "The disk is full", "Make room");
        let again = StepEnd::Retry { at: minutes(1), trouble: trouble.clone() };
        for (at, end) in [(0, &again), (1, &again), (2, &StepEnd::Attention(trouble.clone()))] {
            let step = claim(&db, minutes(at)).await.unwrap();
            db.write(async |tx| tx.finish_step(&step, WORKER, end, minutes(at)).await).await.unwrap();
        }
        let generate = async || db.read(async |tx| tx.steps(renewal.id).await).await.unwrap()[1].clone();
        assert_eq!((generate().await.failures, generate().await.status), (3, StepStatus::Attention));
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 100).await).await.unwrap();
        assert_eq!(entries.iter().filter(|e| e.action == "step.retried").count(), 1, "the same trouble is told once");
        db.write(async |tx| tx.retry(renewal.id, None, "oscar", minutes(3)).await).await.unwrap();
        assert_eq!((generate().await.failures, generate().await.status), (0, StepStatus::Ready));
    })
    .await;
}

#[tokio::test]
async fn cancelling_takes_back_what_was_begun() {
    on_both(async |db| Box::pin(taken_back(db)).await).await;
}

async fn taken_back(db: Db) {
    let (renewal, _) = approved(&db).await;
    let step = claim(&db, now()).await.unwrap();
    db.write(async |tx| tx.finish_step(&step, WORKER, &generated(), now()).await).await.unwrap();
    let import = claim(&db, now()).await.unwrap();
    assert_eq!(import.step.kind, StepKind::Distribute);
    let undoing = db.write(async |tx| tx.cancel(renewal.id, None, "oscar", "stop", now()).await).await.unwrap();
    assert_eq!(undoing.state, State::Running { phase: Phase::Undo });
    db.write(async |tx| tx.finish_step(&import, WORKER, &StepEnd::Parked, now()).await).await.unwrap();
    let undo = claim(&db, now()).await.unwrap();
    assert_eq!((undo.step.kind, undo.step.target.as_str()), (StepKind::RemoveCertificate, "ex01.contoso.example"));
    let removed = StepEnd::Done(Outcome::Removed { thumbprint: thumbprint('B'), already_gone: false });
    db.write(async |tx| tx.finish_step(&undo, WORKER, &removed, now()).await).await.unwrap();
    let run = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
    assert_eq!(run.renewal.state, State::Cancelled { at: now() });
    assert!(run.steps.iter().all(|s| s.status.is_over()));
    let refused = db.write(async |tx| tx.roll_back(renewal.id, None, "oscar", "why", now()).await).await;
    assert!(matches!(refused, Err(Error::Overtaken { .. })));
}

#[tokio::test]
async fn a_removal_that_fails_is_skipped_by_a_person_and_its_worker_hears_of_it() {
    on_both(async |db| {
        let (renewal, _) = approved(&db).await;
        let step = claim(&db, now()).await.unwrap();
        db.write(async |tx| tx.finish_step(&step, WORKER, &generated(), now()).await).await.unwrap();
        let import = claim(&db, now()).await.unwrap();
        let skip = async |at| {
            db.write(async |tx| tx.skip(renewal.id, None, "oscar", "scrapped", None, minutes(at)).await).await
        };
        let refused = |result: db::Result<_>, code: &str| match result {
            Err(Error::Refused(trouble)) => assert_eq!(trouble.code, code),
            other => panic!("{other:?}"),
        };
        refused(skip(0).await, "nothing_to_skip");
        let down = Trouble::new("server_unreachable", "It is down", "Start it");
        let again = StepEnd::Retry { at: minutes(1), trouble: down };
        db.write(async |tx| tx.finish_step(&import, WORKER, &again, now()).await).await.unwrap();
        refused(skip(0).await, "not_skippable");
        db.write(async |tx| tx.cancel(renewal.id, None, "oscar", "stop", now()).await).await.unwrap();
        let undo = claim(&db, minutes(2)).await.unwrap();
        db.write(async |tx| tx.finish_step(&undo, WORKER, &again, minutes(2)).await).await.unwrap();
        let held = claim(&db, minutes(3)).await.unwrap();
        let after = skip(3).await.unwrap();
        assert_eq!(after.state, State::Cancelled { at: minutes(3) });
        let lost = db.write(async |tx| tx.intend(&held, WORKER, json!({}), minutes(3)).await).await;
        assert!(matches!(lost, Err(Error::LeaseLost)), "{lost:?}");
        let steps = db.read(async |tx| tx.steps(renewal.id).await).await.unwrap();
        let undone = steps.iter().find(|step| step.kind == StepKind::RemoveCertificate).unwrap();
        let Some(Outcome::NotDone { reason, by: Some(by) }) = undone.outcome.as_deref() else { panic!("{undone:?}") };
        assert_eq!((undone.status, by.as_str()), (StepStatus::Skipped, "oscar"));
        assert!(reason.starts_with("scrapped. Certificate BBBB"), "{reason}");
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 100).await).await.unwrap();
        let told: Vec<_> = entries.iter().filter(|entry| entry.action == "step.skipped").collect();
        assert_eq!(told.iter().map(|entry| entry.actor.as_str()).collect::<Vec<_>>(), ["oscar"]);
        assert!(matches!(skip(4).await, Err(Error::Illegal(_))));
    })
    .await;
}

#[tokio::test]
async fn a_renewal_that_is_paused_before_it_has_a_plan_is_planned_when_it_is_resumed() {
    on_both(async |db| {
        for begun in [false, true] {
            let renewal = raised(&db).await;
            // A worker that began before the pause and died, or one that came later.
            let dead = if begun { claim(&db, now()).await } else { None };
            assert_eq!(dead.is_some(), begun);
            db.write(async |tx| tx.pause(renewal.id, None, "olga", "lunch", minutes(1)).await).await.unwrap();
            assert!(claim(&db, minutes(10)).await.is_none(), "nothing is planned while it is paused");
            db.write(async |tx| tx.resume(renewal.id, None, "olga", minutes(11)).await).await.unwrap();
            let preflight = claim(&db, minutes(11)).await.unwrap();
            assert_eq!(preflight.step.kind, StepKind::Preflight);
            db.write(async |tx| tx.cancel(renewal.id, None, "olga", "done", minutes(12)).await).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_write_wakes_who_asked_before_it() {
    on_both(async |db| {
        let woken = db.woken();
        db.write(async |tx| tx.insert_snapshot(None, db::Purpose::Check, &snapshot()).await).await.unwrap();
        woken.await;
    })
    .await;
}
