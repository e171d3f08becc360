//! What stops a run until a person has acted, and that nothing is changed meanwhile.

use domain::{Gate, State, StepKind};
use lab::{
    Options,
    journal::EffectKind,
    organization::{Hybrid, Organization},
};
use serde_json::json;

use crate::{
    database::kinds,
    support::{Setting, World, contoso},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_exchange_with_a_nul_stops_no_run_and_is_shown_as_not_readable() {
    for kind in kinds() {
        let organization = Organization { hybrid: Some(Hybrid::contoso()), ..Organization::contoso() };
        let lab = Options { hybrid: true, organization, ..Options::default() };
        let world = World::with(Setting { lab, database: Some(kind), ..Setting::default() }).await;
        let address = "https://x\0/";
        world.fault(json!({"kind": "hybrid_object", "class": "auth_server", "set": {"AuthMetadataUrl": address}}));
        let id = world.ask(|_| {}).await;
        let run = world
            .until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute) || !run.renewal.state.is_live())
            .await;
        assert!(run.renewal.state.is_live(), "{:?}", run.renewal.state);
        let seen = world.db.read(async |tx| tx.latest_snapshot(&contoso()).await).await.unwrap().unwrap();
        let servers = seen.on_premises_hybrid.unwrap().auth_servers;
        let urls: Vec<_> = servers.iter().map(|server| server.auth_metadata_url.as_str()).collect();
        assert!(urls.contains(&"https://x\u{FFFD}/"), "{urls:?}");
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_does_not_take_asks_a_person_and_goes_on_when_it_does() {
    for kind in kinds() {
        let world = World::with(Setting { database: Some(kind), ..Setting::default() }).await;
        world.database.refuse_snapshots().await;
        let id = world.ask(|_| {}).await;
        let trouble = world.attention(id, StepKind::Preflight).await;
        assert_eq!(trouble.code, "not_storable", "{trouble}");
        let told = world.audit(id).await;
        assert!(told.iter().any(|entry| entry.action == "step.needs_attention"), "{told:#?}");
        world.database.take_snapshots().await;
        world.db.write(async |tx| tx.retry(id, None, "olga", world.now()).await).await.unwrap();
        let run = world.approve_all(id).await;
        assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
        world.check_renewed(id).await;
        world.close().await;
    }
}
