//! Taking a run back.

use domain::{Gate, Outcome, Phase, State, StepKind, StepStatus, step::Publisher};
use lab::journal::EffectKind;
use serde_json::json;

use crate::support::{World, find, no_thumbprint};

#[tokio::test(flavor = "multi_thread")]
async fn cancel_after_staging_takes_everything_back() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Publish)).await;
    world.db.write(async |tx| tx.cancel(id, None, "olga", "not tonight", world.now()).await).await.unwrap();
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    assert!(matches!(run.renewal.state, State::Cancelled { .. }), "{:?}", run.renewal.state);
    let state = serde_json::to_value(world.lab.state()).unwrap();
    for controller in state["controllers"].as_array().unwrap() {
        assert!(no_thumbprint(&controller["auth_config"]["next"]), "{controller}");
    }
    for server in state["servers"].as_array().unwrap() {
        assert_eq!(server["certificates"].as_array().unwrap().len(), 1, "only the old one: {server}");
    }
    world.check(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_after_publication_makes_the_old_certificate_sign_again() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    world.approve(id, Gate::Publish).await;
    let run = world.until(id, |run| find(run, StepKind::Soak, StepStatus::Ready).is_some()).await;
    let old = run.plan.unwrap().observed.current.clone().unwrap();
    world.db.write(async |tx| tx.roll_back(id, None, "olga", "partner trouble", world.now()).await).await.unwrap();
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    assert!(matches!(run.renewal.state, State::RolledBack { .. }), "{:?}", run.renewal.state);
    let state = serde_json::to_value(world.lab.state()).unwrap();
    for controller in state["controllers"].as_array().unwrap() {
        assert_eq!(controller["auth_config"]["current"], old.as_str());
    }
    assert_eq!(world.effects(EffectKind::Publish), (2, 2));
    world.check(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_that_somebody_was_faster_than_goes_back_to_the_old_certificate() {
    let mut world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Publish)).await;
    let old = run.plan.unwrap().observed.current.clone().unwrap();
    // Nobody works while both happen.
    world.stop_workers().await;
    world.fault(json!({ "kind": "operator_change", "change": "publish" }));
    world.cancel(id).await;
    world.hire().await;
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    assert!(matches!(run.renewal.state, State::RolledBack { .. }), "{:?}", run.renewal.state);
    let state = serde_json::to_value(world.lab.state()).unwrap();
    for controller in state["controllers"].as_array().unwrap() {
        assert_eq!(controller["auth_config"]["current"], old.as_str());
    }
    let clear_next = run.steps.iter().find(|step| step.kind == StepKind::ClearNext).unwrap();
    assert!(
        matches!(clear_next.outcome.as_deref(), Some(Outcome::Published { by: Publisher::Unknown, .. })),
        "{:?}",
        clear_next.outcome
    );
    let taken_out = run.steps.iter().filter(|step| step.kind == StepKind::RemoveCertificate);
    assert!(taken_out.clone().count() > 0 && taken_out.clone().all(|step| step.status == StepStatus::Skipped));
    let restarted = run.steps.iter().filter(|step| step.phase == Phase::Undo && step.kind == StepKind::Restart);
    assert!(restarted.clone().count() > 0 && restarted.clone().all(|step| step.status == StepStatus::Succeeded));
    let audit = world.audit(id).await;
    let asked = audit.iter().find(|entry| entry.action == "renewal.rollback_asked").unwrap();
    assert!(asked.actor.starts_with("worker:"), "{asked:?}");
    world.check_trust();
    world.close().await;
}
