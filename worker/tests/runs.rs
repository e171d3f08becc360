//! Runs that end well, whatever happens on the way.

use std::time::Duration;

use domain::{Gate, Outcome, Reason, State, StepKind, StepStatus, audit::AuditEntry, step::Publisher};
use lab::{Options, journal::EffectKind};
use serde_json::json;

use crate::support::{Setting, World, find};

#[tokio::test(flavor = "multi_thread")]
async fn two_lost_replies_after_the_write_change_nothing_about_the_end() {
    let world = World::new().await;
    world.fault(json!({"kind": "lose_reply", "cmdlet": "Import-ExchangeCertificate", "server": "EX02", "times": 1, "stage": "after"}));
    world.fault(json!({"kind": "lose_reply", "cmdlet": "Import-ExchangeCertificate", "server": "EX03", "times": 1, "stage": "after"}));
    world.fault(json!({"kind": "lose_reply", "cmdlet": "Set-AuthConfig", "times": 1, "stage": "after"}));
    let id = world.ask(|_| {}).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    for (kind, times) in [
        (EffectKind::Import, 3),
        (EffectKind::SetAuthConfigNext, 1),
        (EffectKind::Publish, 1),
        (EffectKind::ClearPrevious, 1),
        (EffectKind::Remove, 3),
        (EffectKind::Restart, 9),
    ] {
        assert_eq!(world.effects(kind), (times, times), "{kind:?}: each effect once");
    }
    assert_eq!(world.audit(id).await.iter().filter(|e| e.action == "cmdlet.unanswered").count(), 3);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_the_process_that_decides_has_the_step_with_the_decision() {
    // SQLite: API and worker are one process.
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    loop {
        let run = world.until(id, |run| run.renewal.state.open_gate().is_some() || !run.renewal.state.is_live()).await;
        let Some(gate) = run.renewal.state.open_gate() else { break };
        // A worker that has just looked offers itself in a moment.
        let offered = async {
            while !world.db.is_offered() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), offered).await.unwrap();
        world.approve_plan(run, gate).await;
    }
    let audit = world.audit(id).await;
    let approved: Vec<_> = audit.iter().filter(|entry| entry.action == "decision.approved").collect();
    let with_it = |entry: &&&AuditEntry| {
        audit
            .iter()
            .any(|started| started.action == "step.started" && started.at == entry.at && started.actor != entry.actor)
    };
    // It may have begun to look again just then, but not each time.
    let handed = approved.iter().filter(with_it).count();
    assert!(handed > 0, "none of {} steps was handed over", approved.len());
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_a_server_that_passes_is_taken_neither_for_a_missing_right_nor_for_a_refusal_to_remove() {
    let world = World::new().await;
    for cmdlet in ["Get-Command", "Remove-ExchangeCertificate"] {
        world.fault(json!({"kind": "fail", "cmdlet": cmdlet, "error": "rpc_unavailable"}));
    }
    let id = world.ask(|_| {}).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    assert_eq!(world.effects(EffectKind::Remove), (3, 3), "the old certificate is off every server");
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publication_waits_for_a_server_that_is_down_until_it_is_back() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    world.fault(json!({"kind": "power", "server": "EX03", "power": "down"}));
    world.approve(id, Gate::Execute).await;
    let run = world.until(id, |run| run.steps.iter().any(|s| s.target.starts_with("ex03") && s.failures > 1)).await;
    let waiting = run.steps.iter().find(|s| s.target.starts_with("ex03")).unwrap();
    assert_eq!(waiting.trouble.as_ref().unwrap().code, "server_unreachable");
    assert_eq!(world.effects(EffectKind::SetAuthConfigNext), (0, 0), "nothing is staged before every server has it");
    world.fault(json!({"kind": "power", "server": "EX03", "power": "up"}));
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_absence_was_approved_gets_its_certificate_when_it_is_back() {
    let world = World::new().await;
    world.fault(json!({"kind": "power", "server": "EX03", "power": "down"}));
    let id = world.ask(|request| request.allow_absent = vec!["ex03.contoso.example".to_owned()]).await;
    world.approve(id, Gate::Execute).await;
    world.approve(id, Gate::Publish).await;
    world.until(id, |run| find(run, StepKind::Publish, StepStatus::Succeeded).is_some()).await;
    world.fault(json!({"kind": "power", "server": "EX03", "power": "up"}));
    world
        .until(id, |run| {
            let mut distributed = run.steps.iter().filter(|s| s.kind == StepKind::Distribute);
            distributed.all(|s| s.status == StepStatus::Succeeded)
        })
        .await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let sealed = world.db.read(async |tx| tx.sealed_key(id).await).await.unwrap();
    assert!(sealed.is_none(), "the key was destroyed with the last server");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_replaced_without_the_staging_wait() {
    let world =
        World::with(Setting { lab: Options { days_left: -1, ..Options::default() }, ..Setting::default() }).await;
    let id = world.ask(|request| request.reason = Reason::Expired).await;
    let planned = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    assert!(planned.plan.unwrap().emergency);
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let state = serde_json::to_value(world.lab.state()).unwrap();
    let new = domain::progress::Facts::of(&run.steps).thumbprint.unwrap();
    assert_eq!(state["controllers"][0]["auth_config"]["current"], new.as_str());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_approves_the_publication_its_date_is_pushed_out() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let postponed = |step: &domain::Step| matches!(step.outcome.as_deref(), Some(Outcome::Postponed { .. }));
    let run = world.until(id, |run| run.steps.iter().any(|s| s.kind == StepKind::Publish && postponed(s))).await;
    assert_eq!(run.renewal.state.open_gate(), Some(Gate::Publish));
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    assert_eq!(world.effects(EffectKind::Publish), (1, 1));
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_published_meanwhile_is_recognised() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Publish)).await;
    world.fault(json!({"kind": "operator_change", "change": "publish"}));
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let published = run.steps.iter().find(|s| s.kind == StepKind::Publish).unwrap();
    assert!(
        matches!(published.outcome.as_deref(), Some(Outcome::Published { by: Publisher::Unknown, .. })),
        "{:?}",
        published.outcome
    );
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_emergency_the_date_is_right_by_the_clock_of_a_server_that_is_ahead() {
    let world =
        World::with(Setting { lab: Options { days_left: -1, ..Options::default() }, ..Setting::default() }).await;
    for server in ["EX01", "EX02", "EX03"] {
        world.fault(json!({"kind": "clock_skew", "server": server, "seconds": 36_000}));
    }
    let id = world.ask(|request| request.reason = Reason::Expired).await;
    world.approve(id, Gate::Execute).await;
    world.approve(id, Gate::Publish).await;
    let run = world.until(id, |run| find(run, StepKind::Stage, StepStatus::Succeeded).is_some()).await;
    assert!(run.steps.iter().all(|s| s.status != StepStatus::Attention));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_for_good_when_the_old_certificate_is_removed_can_be_skipped() {
    let world = World::new().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    world.approve(id, Gate::Publish).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::ClearPrevious)).await;
    world.fault(json!({"kind": "power", "server": "EX03", "power": "down"}));
    world.approve(id, Gate::ClearPrevious).await;
    let stuck = |step: &domain::Step| step.kind == StepKind::Prune && step.failures > 0;
    let run = world.until(id, |run| run.steps.iter().any(|step| stuck(step))).await;
    let gone = run.steps.iter().find(|step| stuck(step)).unwrap();
    assert_eq!(gone.trouble.as_ref().unwrap().code, "server_unreachable");
    let skip = async |tx: &mut db::Tx| tx.skip(id, None, "olga", "It was scrapped", None, world.now()).await;
    world.db.write(skip).await.unwrap();
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let skipped = find(&run, StepKind::Prune, StepStatus::Skipped).unwrap();
    assert!(
        matches!(skipped.outcome.as_deref(), Some(Outcome::NotDone { by: Some(by), .. }) if by == "olga"),
        "{skipped:?}"
    );
    let Some(Outcome::Closed { evidence }) = run.steps.last().unwrap().outcome.as_deref() else { panic!("{run:#?}") };
    let told = evidence.iter().find(|check| check.target == skipped.target).unwrap();
    assert!(told.detail.contains("olga"), "{told:?}");
    assert_eq!(world.effects(EffectKind::Remove), (2, 2));
    world.check(id).await;
    world.close().await;
}
