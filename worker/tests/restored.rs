//! The database is lost, and an old backup is restored: Exchange has moved on, and nobody but Exchange knows. Every step finds that out before it acts.

use db::Kind;
use domain::{Gate, Outcome, RenewalId, State, StepKind, StepStatus, step::Publisher};
use lab::journal::EffectKind;
use serde_json::json;

use crate::{
    database::server,
    support::{Setting, World, find},
};

/// A world on each database that there is.
async fn on_each(test: impl AsyncFn(World)) {
    test(World::new().await).await;
    if server().is_some() {
        test(World::with(Setting { database: Some(Kind::Postgres), ..Setting::default() }).await).await;
    }
}

/// Every effect on Exchange so far, but for restarts, which are repeated when it is not known what was started after the publication.
fn done(world: &World) -> Vec<(EffectKind, (u32, u32))> {
    [
        EffectKind::Import,
        EffectKind::SetAuthConfigNext,
        EffectKind::Publish,
        EffectKind::ClearPrevious,
        EffectKind::Remove,
    ]
    .map(|kind| (kind, world.effects(kind)))
    .to_vec()
}

async fn until_gate(world: &World, id: RenewalId, gate: Gate) {
    world.until(id, |run| run.renewal.state.open_gate() == Some(gate)).await;
}

async fn cancel(world: &World, id: RenewalId) {
    world.db.write(async |tx| tx.cancel(id, None, "olga", "restored", world.now()).await).await.unwrap();
    world.until(id, |run| matches!(run.renewal.state, State::Cancelled { .. })).await;
}

async fn roll_back(world: &World, id: RenewalId) {
    world.db.write(async |tx| tx.roll_back(id, None, "olga", "complaints", world.now()).await).await.unwrap();
    world.until(id, |run| matches!(run.renewal.state, State::RolledBack { .. })).await;
}

/// Cancels a run whose certificate AuthConfig still names, and leaves it where it is.
async fn give_up(world: &World, id: RenewalId) {
    world.db.write(async |tx| tx.cancel(id, None, "olga", "restored", world.now()).await).await.unwrap();
    let named = |step: &domain::Step| step.trouble.as_ref().is_some_and(|t| t.code == "certificate_in_use");
    world.until(id, |run| run.steps.iter().filter(|step| named(step)).count() == 3).await;
    let skip = async |tx: &mut db::Tx| tx.skip(id, None, "olga", "It was rolled back", None, world.now()).await;
    let renewal = world.db.write(skip).await.unwrap();
    assert!(matches!(renewal.state, State::Cancelled { .. }), "{:?}", renewal.state);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_after_a_backup_of_the_distribution_is_taken_over() {
    on_each(async |mut world| {
        let id = world.ask(|_| {}).await;
        until_gate(&world, id, Gate::Execute).await;
        world.fault(json!({"kind": "power", "server": "EX03", "power": "down"}));
        world.approve(id, Gate::Execute).await;
        let failing = |step: &domain::Step| step.target.starts_with("ex03") && step.failures > 0;
        world
            .until(id, |run| {
                let done =
                    |step: &domain::Step| step.kind == StepKind::Distribute && step.status == StepStatus::Succeeded;
                run.steps.iter().any(|step| failing(step)) && run.steps.iter().filter(|step| done(step)).count() == 2
            })
            .await;
        let backup = world.back_up().await;
        world.fault(json!({"kind": "power", "server": "EX03", "power": "up"}));
        world.approve(id, Gate::Publish).await;
        until_gate(&world, id, Gate::ClearPrevious).await;
        let before = done(&world);
        world.restore(backup).await;
        let again = world.db.read(async |tx| tx.sealed_key(id).await).await.unwrap();
        assert!(again.is_some(), "the key, which was destroyed, is in the backup");
        // Nobody remembers that it was approved.
        world.approve(id, Gate::Publish).await;
        until_gate(&world, id, Gate::ClearPrevious).await;
        assert_eq!(done(&world), before, "nothing was done twice");
        let run = world.approve_all(id).await;
        assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
        let published = find(&run, StepKind::Publish, StepStatus::Succeeded).unwrap().outcome.as_deref();
        let found = matches!(published, Some(Outcome::Published { by: Publisher::Unknown, .. }));
        assert!(found, "nobody remembers that this run did it: {published:?}");
        let key = world.db.read(async |tx| tx.sealed_key(id).await).await.unwrap();
        assert!(key.is_none(), "destroyed again");
        world.check_trust();
        world.check_certificates(id).await;
        world.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before_the_approval_makes_no_second_certificate() {
    on_each(async |mut world| {
        let id = world.ask(|_| {}).await;
        until_gate(&world, id, Gate::Execute).await;
        let (distributing, staged) = (world.back_up().await, world.back_up().await);
        world.fault(json!({"kind": "power", "server": "EX03", "power": "down"}));
        world.approve(id, Gate::Execute).await;
        world.until(id, |run| run.steps.iter().any(|s| s.target.starts_with("ex03") && s.failures > 0)).await;
        world.until(id, |run| find(run, StepKind::Distribute, StepStatus::Succeeded).is_some()).await;
        world.restore(distributing).await;
        world.approve(id, Gate::Execute).await;
        assert_eq!(world.attention(id, StepKind::Generate).await.code, "certificates_changed");
        cancel(&world, id).await;
        world.restore(staged).await;
        world.fault(json!({"kind": "operator_change", "change": "stage"}));
        let before = done(&world);
        world.approve(id, Gate::Execute).await;
        assert_eq!(world.attention(id, StepKind::Generate).await.code, "auth_config_changed");
        assert!(world.db.read(async |tx| tx.sealed_key(id).await).await.unwrap().is_none());
        assert_eq!(done(&world), before);
        cancel(&world, id).await;
        world.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_backup_of_the_soak_it_is_seen_that_the_old_certificate_is_gone() {
    on_each(async |mut world| {
        let id = world.ask(|_| {}).await;
        world.approve(id, Gate::Execute).await;
        world.approve(id, Gate::Publish).await;
        world.until(id, |run| matches!(run.renewal.state, State::Soaking { .. })).await;
        let backup = world.back_up().await;
        world.approve_all(id).await;
        let before = done(&world);
        world.restore(backup).await;
        let run = world.approve_all(id).await;
        assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
        assert_eq!(done(&world), before, "nothing was done twice");
        world.check_trust();
        world.check_certificates(id).await;
        world.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_backup_from_before_a_rollback_nothing_is_published_or_given_up() {
    on_each(async |mut world| {
        let id = world.ask(|_| {}).await;
        world.approve(id, Gate::Execute).await;
        until_gate(&world, id, Gate::Publish).await;
        let staged = world.back_up().await;
        world.approve(id, Gate::Publish).await;
        until_gate(&world, id, Gate::ClearPrevious).await;
        let soaked = world.back_up().await;
        roll_back(&world, id).await;
        let before = done(&world);
        world.restore(soaked).await;
        world.approve(id, Gate::ClearPrevious).await;
        assert_eq!(world.attention(id, StepKind::ClearPrevious).await.code, "auth_config_changed");
        assert_eq!(done(&world), before);
        world.restore(staged).await;
        world.approve(id, Gate::Publish).await;
        assert_eq!(world.attention(id, StepKind::Publish).await.code, "auth_config_changed");
        assert_eq!(done(&world), before);
        give_up(&world, id).await;
        assert_eq!(done(&world), before);
        world.check_trust();
        world.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_backup_from_before_a_cancel_nothing_is_staged_or_published() {
    on_each(async |mut world| {
        let id = world.ask(|_| {}).await;
        world.approve(id, Gate::Execute).await;
        until_gate(&world, id, Gate::Publish).await;
        let backup = world.back_up().await;
        cancel(&world, id).await;
        let before = done(&world);
        world.restore(backup).await;
        world.approve(id, Gate::Publish).await;
        let lacking = |step: &domain::Step| step.trouble.as_ref().is_some_and(|t| t.code == "matrix_incomplete");
        world.until(id, |run| run.steps.iter().any(|step| lacking(step))).await;
        cancel(&world, id).await;
        assert_eq!(done(&world), before);
        world.check_trust();
        world.close().await;
    })
    .await;
}
