//! What stops a run until a person has acted, and that nothing is changed meanwhile.

use domain::{Gate, State, StepKind};
use lab::journal::EffectKind;
use serde_json::json;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_when_somebody_else_changes_auth_config() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Publish)).await;
    world.fault(json!({"kind": "operator_change", "change": "clear_next"}));
    world.fault(json!({"kind": "operator_change", "change": "stage"}));
    world.approve(id, Gate::Publish).await;
    let trouble = world.attention(id, StepKind::Publish).await;
    assert_eq!(trouble.code, "auth_config_changed", "{trouble}");
    assert!(trouble.message.contains("dc0"), "{trouble}");
    assert_eq!(world.effects(EffectKind::Publish), (0, 0));
    world.check(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_effect_is_not_believed() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    world.fault(json!({"kind": "no_change", "cmdlet": "Set-AuthConfig", "times": 100}));
    world.approve(id, Gate::Execute).await;
    let trouble = world.attention(id, StepKind::Stage).await;
    assert_eq!(trouble.code, "no_effect", "{trouble}");
    world.lab.heal();
    world.db.write(async |tx| tx.retry(id, None, "olga", world.now()).await).await.unwrap();
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pfx_that_a_server_cannot_read_stops_before_staging() {
    let world = World::new().await;
    // Looks like Exchange 2019, but runs on a Windows that cannot read AES.
    world.fault(json!({"kind": "windows_build", "server": "EX02", "build": 14393}));
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let trouble = world.attention(id, StepKind::Distribute).await;
    assert_eq!(trouble.code, "pfx_refused", "{trouble}");
    assert!(trouble.message.contains("ex02") && trouble.action.contains("2019"), "{trouble}");
    assert_eq!(world.effects(EffectKind::SetAuthConfigNext), (0, 0));
    world.check(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_exchange_cannot_sign_with_stops_before_staging() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    world.fault(
        json!({"kind": "key_provider", "server": "EX02", "provider": "Microsoft Software Key Storage Provider"}),
    );
    world.approve(id, Gate::Execute).await;
    let trouble = world.attention(id, StepKind::Distribute).await;
    assert_eq!(trouble.code, "key_in_ksp", "{trouble}");
    assert_eq!(world.effects(EffectKind::SetAuthConfigNext), (0, 0));
    world.close().await;
}
