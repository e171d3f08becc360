//! Runs that take over a certificate that somebody staged before, with a date at which Exchange publishes it by itself: not before everybody has its key.

use chrono::TimeDelta;
use domain::{
    Gate, Outcome, Reason, State, Step, StepKind, StepStatus,
    progress::{Facts, GUARD},
    step::Publisher,
};
use lab::{
    Options,
    journal::EffectKind,
    organization::{Hybrid, Organization},
};
use serde_json::json;

use crate::support::{Setting, World, find};

/// A world in which somebody has staged a certificate while EX03 was down, for so many hours from now.
async fn staged(hybrid: bool, hours: u16) -> World {
    let mut setting =
        Setting { lab: Options { hybrid, ..Options::default() }, without_cloud: true, ..Setting::default() };
    if hybrid {
        setting.lab.organization = Organization { hybrid: Some(Hybrid::contoso()), ..Organization::contoso() };
    }
    let world = World::with(setting).await;
    // As nothing carries it to other sites (domain.md 6.7), EX03 stays without it.
    power(&world, "down");
    world.fault(json!({ "kind": "operator_change", "change": { "stage_for": hours } }));
    power(&world, "up");
    world
}

fn power(world: &World, power: &str) {
    world.fault(json!({ "kind": "power", "server": "EX03", "power": power }));
}

fn published(run: &db::LoadedRun) -> &Step {
    run.steps.iter().find(|step| step.kind == StepKind::Publish).unwrap()
}

/// The certificate, as the run has taken it over.
fn certificate(run: &db::LoadedRun) -> String {
    let taken_over = run.steps.iter().find_map(|step| match step.outcome.as_deref() {
        Some(Outcome::Generated { adopted: true, certificate, .. }) => certificate.clone(),
        _ => None,
    });
    taken_over.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_date_is_pushed_out_before_anything_else_is_done() {
    let world = staged(false, 10).await;
    let id = world.ask(|_| {}).await;
    let planned = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    let plan = planned.plan.clone().unwrap();
    assert!(plan.adopts());
    let told: Vec<&str> = plan.findings.iter().map(|finding| finding.code.as_str()).collect();
    assert!(told.contains(&"staged_before_servers"), "{told:?}");
    let approved_at = world.now();
    world.approve_plan(planned, Gate::Execute).await;
    let run = world.until(id, |run| find(run, StepKind::Generate, StepStatus::Succeeded).is_some()).await;
    let date = Facts::of(&run.steps).exchange_publishes_at.unwrap();
    assert!(date >= approved_at + TimeDelta::hours(48), "{date} is too near after {approved_at}");
    let intents: Vec<String> = world
        .audit(id)
        .await
        .into_iter()
        .filter(|entry| entry.action == "cmdlet.intended")
        .map(|entry| entry.detail["cmdlet"].as_str().unwrap().to_owned())
        .collect();
    assert!(intents[0].contains("-NewCertificateEffectiveDate"), "{intents:?}");
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    assert_eq!(world.effects(EffectKind::Publish), (1, 1));
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_published_while_a_server_lacks_it_however_long_that_takes() {
    let world = staged(false, 10).await;
    power(&world, "down");
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let postponed = |run: &db::LoadedRun| matches!(published(run).outcome.as_deref(), Some(Outcome::Postponed { .. }));
    let run = world.until(id, postponed).await;
    let stuck =
        find(&run, StepKind::Distribute, StepStatus::Succeeded).is_some() && run.renewal.state.open_gate().is_none();
    assert!(stuck && find(&run, StepKind::Stage, StepStatus::Succeeded).is_none(), "{:?}", run.renewal.state);
    assert!(Facts::of(&run.steps).exchange_publishes_at.unwrap() > world.now() + GUARD);
    assert_eq!(world.effects(EffectKind::Publish), (0, 0));
    power(&world, "up");
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_published_while_nobody_has_registered_its_key_in_entra() {
    let world = staged(true, 10).await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let postponed = |run: &db::LoadedRun| {
        let waits = run.renewal.state.open_gate() == Some(Gate::TrustCloud);
        waits && matches!(published(run).outcome.as_deref(), Some(Outcome::Postponed { .. }))
    };
    let run = world.until(id, postponed).await;
    assert_eq!(world.effects(EffectKind::Publish), (0, 0));
    world.register(&certificate(&run)).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_leaves_it_staged_and_where_it_is_needed_then() {
    let world = staged(true, 10).await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::TrustCloud)).await;
    assert_eq!(world.effects(EffectKind::Import), (1, 1), "EX03 lacked it");
    world.cancel(id).await;
    let new = Facts::of(&run.steps).thumbprint.unwrap();
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    assert!(matches!(run.renewal.state, State::Cancelled { .. }), "{:?}", run.renewal.state);
    assert_eq!(world.effects(EffectKind::Remove), (0, 0));
    let state = serde_json::to_value(world.lab.state()).unwrap();
    assert_eq!(state["controllers"][0]["auth_config"]["next"], new.as_str());
    world.check(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_emergency_it_is_not_published_by_itself_either() {
    let world = staged(true, 8).await;
    let staged_until = world.now() + TimeDelta::hours(8);
    let id = world.ask(|request| request.reason = Reason::Compromised).await;
    world.approve(id, Gate::Execute).await;
    let kept_away = |run: &db::LoadedRun| {
        let at = Facts::of(&run.steps).exchange_publishes_at;
        run.renewal.state.open_gate() == Some(Gate::TrustCloud) && at.is_some_and(|at| at > staged_until)
    };
    let run = world.until(id, kept_away).await;
    world.register(&certificate(&run)).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    assert_eq!(world.effects(EffectKind::Publish), (1, 1));
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_the_run_began_is_recognised_and_what_lacked_it_is_told() {
    let world = staged(true, 50).await;
    let id = world.ask(|_| {}).await;
    let planned = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    world.fault(json!({ "kind": "operator_change", "change": "publish" }));
    world.approve_plan(planned, Gate::Execute).await;
    let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::TrustCloud)).await;
    world.register(&certificate(&run)).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let Some(Outcome::Published { by: Publisher::Unknown, lacking, .. }) = published(&run).outcome.as_deref() else {
        panic!("{:?}", published(&run).outcome)
    };
    let lacking: Vec<&str> = lacking.iter().map(|lack| lack.check.as_str()).collect();
    assert!(lacking.contains(&"key_in_entra"), "{lacking:?}");
    world.check_certificates(id).await;
    world.close().await;
}
