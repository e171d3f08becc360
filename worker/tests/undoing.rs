//! Taking a run back.

use domain::{Gate, State, StepKind, StepStatus};
use lab::journal::EffectKind;

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
