//! Runs of a hybrid organization: the tenant learns of the new key before anything signs with it, and loses the old one when nothing does.

use chrono::TimeDelta;
use domain::{
    Gate, Outcome, Policy, Reason, State, StepKind, StepStatus,
    progress::Facts,
    step::{CheckResult, Evidence},
};
use lab::{
    Options,
    journal::EffectKind,
    organization::{Hybrid, Organization, Permission},
    trust::Leg,
};
use serde_json::{Value as Json, json};

use crate::{
    invariants,
    support::{Setting, World, find},
};

async fn hybrid() -> World {
    with(Hybrid::contoso(), |_| {}).await
}

/// A hybrid world whose tenant is so, and whose settings are.
async fn with(tenant: Hybrid, change: impl FnOnce(&mut Setting)) -> World {
    // Waits are short: nothing here is about how long they are. Approvals must come two hours before the date.
    let policy = Policy { staging_lead_hours: 16, soak_hours: 2, soak_check_minutes: 240, ..Policy::default() };
    let mut setting = Setting { lab: Options { hybrid: true, ..Options::default() }, policy, ..Setting::default() };
    setting.lab.organization = Organization { hybrid: Some(tenant), ..Organization::contoso() };
    change(&mut setting);
    World::with(setting).await
}

fn outcome(run: &db::LoadedRun, kind: StepKind) -> &Outcome {
    let step = run.steps.iter().find(|step| step.kind == kind).unwrap();
    step.outcome.as_deref().unwrap_or_else(|| panic!("{kind}: {:?} {:?}", step.status, step.trouble))
}

fn results<'a>(evidence: &'a [Evidence], check: &str) -> Vec<(&'a str, CheckResult)> {
    evidence.iter().filter(|e| e.check == check).map(|e| (e.detail.as_str(), e.result)).collect()
}

/// How often the keys of an object were written.
fn patches(world: &World) -> usize {
    world.lab.report().cloud.iter().filter(|asked| asked.method == "PATCH" && asked.status == 204).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hybrid_organization_is_renewed_in_one_run_and_no_token_is_refused() {
    let world = hybrid().await;
    let id = world.ask(|_| {}).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    let new = Facts::of(&run.steps).thumbprint.unwrap();
    let Outcome::TrustedCloud { thumbprint, kept, accepted, confirmed_by, .. } = outcome(&run, StepKind::TrustCloud)
    else {
        panic!("{:?}", outcome(&run, StepKind::TrustCloud))
    };
    assert_eq!(thumbprint, &new);
    assert_eq!((kept.len(), confirmed_by), (2, &None), "the old key and one that is nobody's business");
    assert!(accepted.is_some(), "proven by use");
    let Outcome::RefreshedHybrid { evidence, .. } = outcome(&run, StepKind::RefreshHybrid) else { panic!() };
    let to_cloud = results(evidence, "oauth_to_cloud");
    assert!(!to_cloud.is_empty() && to_cloud.iter().all(|(_, result)| *result == CheckResult::Passed), "{evidence:#?}");
    let from_cloud = results(evidence, "oauth_from_cloud");
    assert!(
        from_cloud.iter().all(|(_, result)| *result == CheckResult::Passed) && !from_cloud.is_empty(),
        "{evidence:#?}"
    );
    let Outcome::PrunedCloud { removed, already_gone } = outcome(&run, StepKind::PruneCloud) else { panic!() };
    assert_eq!((removed.len(), *already_gone), (1, false));
    assert_eq!(patches(&world), 2, "one to add, one to take out");
    let legs = world.lab.report().trust.legs;
    for leg in [Leg::Dedicated, Leg::FromCloud, Leg::Servers, Leg::Partner] {
        assert!(legs[&leg].checked > 0 && legs[&leg].refused == 0, "{leg:?}: {legs:?}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_waits_for_entra_too() {
    let world = hybrid().await;
    let id = world.ask(|request| request.reason = Reason::Compromised).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_takes_its_key_out_of_entra_again() {
    let world = hybrid().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    world.until(id, |run| find(run, StepKind::TrustCloud, StepStatus::Succeeded).is_some()).await;
    world.cancel(id).await;
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    assert!(matches!(run.renewal.state, State::Cancelled { .. }), "{:?}", run.renewal.state);
    let Outcome::PrunedCloud { removed, .. } = outcome(&run, StepKind::RemoveCloudKey) else {
        panic!("{:?}", outcome(&run, StepKind::RemoveCloudKey))
    };
    assert_eq!(removed.len(), 1);
    world.check(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_a_person_registers_the_key_and_is_named() {
    let world = with(Hybrid::contoso(), |setting| setting.without_cloud = true).await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::TrustCloud)).await;
    assert!(find(&run, StepKind::Stage, StepStatus::Succeeded).is_none());
    let certificate = run.steps.iter().find_map(|step| match step.outcome.as_deref() {
        Some(Outcome::Generated { certificate, .. }) => certificate.clone(),
        _ => None,
    });
    world.register(&certificate.unwrap()).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let Outcome::TrustedCloud { confirmed_by, accepted, .. } = outcome(&run, StepKind::TrustCloud) else { panic!() };
    assert_eq!((confirmed_by.as_deref(), accepted), (Some("bob"), &None));
    let Outcome::RefreshedHybrid { evidence, .. } = outcome(&run, StepKind::RefreshHybrid) else { panic!() };
    assert!(results(evidence, "oauth_to_cloud").iter().all(|(_, result)| *result == CheckResult::NotMade));
    world.check(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_servers_test_the_way_to_the_cloud_all_the_same_with_a_mailbox_that_is_named() {
    let world = with(Hybrid::contoso(), |setting| {
        setting.without_cloud = true;
        setting.test_mailbox = Some("monitor@contoso.example");
    })
    .await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::TrustCloud)).await;
    let certificate = run.steps.iter().find_map(|step| match step.outcome.as_deref() {
        Some(Outcome::Generated { certificate, .. }) => certificate.clone(),
        _ => None,
    });
    world.register(&certificate.unwrap()).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let Outcome::RefreshedHybrid { evidence, .. } = outcome(&run, StepKind::RefreshHybrid) else { panic!() };
    let to_cloud = results(evidence, "oauth_to_cloud");
    assert!(!to_cloud.is_empty() && to_cloud.iter().all(|(_, result)| *result == CheckResult::Passed), "{to_cloud:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_on_the_shared_principal_are_taken_out_when_the_plan_says_so() {
    let world = with(Hybrid::contoso().with_leftover_keys(), |setting| setting.purge = true).await;
    let id = world.ask(|_| {}).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let Outcome::PurgedSharedPrincipal { removed } = outcome(&run, StepKind::PurgeSharedPrincipal) else { panic!() };
    assert_eq!(removed.len(), 1);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_allows_no_key_of_that_life_is_known_before_one_is_made() {
    let world = with(Hybrid { key_lifetime: Some("P90D".to_owned()), ..Hybrid::contoso() }, |_| {}).await;
    let id = world.ask(|_| {}).await;
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    let said = serde_json::to_string(&run.renewal.state).unwrap();
    assert!(said.contains("key_lifetime_refused"), "{said}");
    assert_eq!(patches(&world), 0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_the_cloud_changes_nothing_about_the_end() {
    for fault in [
        json!({ "service": "graph", "method": "PATCH", "do": "drop_after" }),
        json!({ "service": "graph", "method": "PATCH", "do": "drop" }),
        json!({ "service": "graph", "method": "PATCH", "do": { "status": 503 } }),
        json!({ "service": "token", "do": "drop" }),
        json!({ "service": "exchange_online", "times": 50, "do": "drop" }),
    ] {
        let world = hybrid().await;
        let mut fault: Json = fault;
        fault["kind"] = "cloud".into();
        world.fault(fault.clone());
        let id = world.ask(|_| {}).await;
        let run = world.approve_all(id).await;
        assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{fault}: {:?}", run.renewal.state);
        assert_eq!(patches(&world), 2, "{fault}");
        world.check_renewed(id).await;
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_while_entra_lacks_the_key() {
    let world = hybrid().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    let run = world.until(id, |run| find(run, StepKind::Stage, StepStatus::Succeeded).is_some()).await;
    // Somebody takes it out again after it was proven.
    world.fault(json!({ "kind": "cloud_keys", "change": "remove_newest" }));
    world.approve(id, Gate::Publish).await;
    let lacks = |step: &domain::Step| {
        let trouble = step.trouble.as_ref().filter(|trouble| trouble.code == "matrix_incomplete");
        step.kind == StepKind::Publish && trouble.is_some_and(|trouble| trouble.message.contains("ExchangeServerApp"))
    };
    world.until(id, |run| run.steps.iter().any(|step| lacks(step))).await;
    assert_eq!(world.effects(EffectKind::Publish), (0, 0));
    let certificate = run.steps.iter().find_map(|step| match step.outcome.as_deref() {
        Some(Outcome::Generated { certificate, .. }) => certificate.clone(),
        _ => None,
    });
    world.register(&certificate.unwrap()).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plan_corrects_is_corrected_and_a_wrong_test_mailbox_is_no_failed_trust() {
    let world = with(Hybrid::contoso(), |setting| setting.test_mailbox = Some("gone@contoso.example")).await;
    let unset = json!({ "TargetSharingEpr": null });
    world.fault(json!({ "kind": "hybrid_object", "class": "organization_relationship", "set": unset }));
    world
        .fault(json!({ "kind": "lose_reply", "cmdlet": "Set-OrganizationRelationship", "times": 1, "stage": "after" }));
    let id = world.ask(|_| {}).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let Outcome::RefreshedHybrid { corrected, evidence } = outcome(&run, StepKind::RefreshHybrid) else { panic!() };
    assert_eq!(corrected.len(), 1, "{corrected:?}");
    assert_eq!(world.effects(EffectKind::SetOrganizationRelationship), (1, 1));
    let to_cloud = results(evidence, "oauth_to_cloud");
    let noted =
        |(told, result): &(&str, CheckResult)| *result == CheckResult::Passed && told.contains("choose another");
    assert!(!to_cloud.is_empty() && to_cloud.iter().all(noted), "{to_cloud:?}");
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exchange_online_may_be_missing_altogether() {
    let world = hybrid().await;
    world.fault(json!({ "kind": "cloud", "service": "exchange_online", "times": 100_000, "do": "nul_bytes" }));
    let id = world.ask(|_| {}).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    let Outcome::RefreshedHybrid { evidence, .. } = outcome(&run, StepKind::RefreshHybrid) else { panic!() };
    let from_cloud = results(evidence, "oauth_from_cloud");
    assert!(from_cloud.iter().all(|(_, result)| *result == CheckResult::NotMade), "{from_cloud:?}");
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_while_it_registers_the_key_leaves_one_key() {
    for disturbance in [json!({ "delay": 60_000 }), json!("drop_after")] {
        let mut world = hybrid().await;
        world.fault(json!({ "kind": "cloud", "service": "graph", "method": "PATCH", "do": disturbance }));
        let id = world.ask(|_| {}).await;
        world.approve(id, Gate::Execute).await;
        let is_patch = |line: &str| line.starts_with("PATCH ") && line.contains("applications/");
        loop {
            let woken = world.db.woken();
            let audit = world.audit(id).await;
            if audit.iter().any(|entry| entry.detail["cmdlet"].as_str().is_some_and(is_patch)) {
                break;
            }
            woken.await;
        }
        world.kill(0).await;
        world.hire().await;
        let run = world.approve_all(id).await;
        assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
        assert_eq!(patches(&world), 2, "one to add, one to take out");
        world.check_renewed(id).await;
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn approvers_see_where_requests_go_and_that_the_policy_on_keys_could_not_be_read() {
    let mut tenant = Hybrid::contoso();
    tenant.permissions.remove(&Permission::PolicyReadAll);
    let world = with(tenant, |_| {}).await;
    let id = world.ask(|_| {}).await;
    let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    let plan = run.plan.clone().unwrap();
    assert!(plan.findings.iter().any(|finding| finding.code == "key_lifetime_not_checked"), "{:#?}", plan.findings);
    let trust = plan.steps.iter().find(|step| step.kind == StepKind::TrustCloud).unwrap();
    world.approve_plan(run, Gate::Execute).await;
    let run = world.until(id, |run| find(run, StepKind::TrustCloud, StepStatus::Succeeded).is_some()).await;
    let new = Facts::of(&run.steps).thumbprint.unwrap();
    let sent = trust.cmdlets[0].line.replace("<new thumbprint>", new.as_str());
    let audit = world.audit(id).await;
    let intended: Vec<&str> = audit.iter().filter_map(|entry| entry.detail["cmdlet"].as_str()).collect();
    assert!(intended.contains(&sent.as_str()), "{sent} is not among {intended:#?}");
    world.close().await;
}

/// The old key must be in Entra as long as anybody can go back to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_rolled_back_while_it_soaks_goes_back_to_a_key_that_entra_has() {
    let world = hybrid().await;
    let id = world.ask(|_| {}).await;
    world.approve(id, Gate::Execute).await;
    world.approve(id, Gate::Publish).await;
    world.until(id, |run| matches!(run.renewal.state, State::Soaking { .. })).await;
    let (by, why, now) = ("olga", "a partner refuses the new key", world.now());
    world.db.write(async |tx| tx.roll_back(id, None, by, why, now).await).await.unwrap();
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    assert!(matches!(run.renewal.state, State::RolledBack { .. }), "{:?}", run.renewal.state);
    // Every server signs with the old key again by now.
    world.check(id).await;
    world.close().await;
}

/// What Graph shows is not what the token service believes.
#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_waits_until_a_slow_tenant_takes_what_the_new_key_signs() {
    let two_days = TimeDelta::hours(48);
    let world = with(Hybrid { key_cache: two_days, ..Hybrid::contoso() }, |_| {}).await;
    let id = world.ask(|request| request.reason = Reason::Compromised).await;
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    world.close().await;
}

/// As after a change of the certificate that rekey signs in with: not every machine of Entra knows it yet.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_because_entra_does_not_know_rekeys_own_key_for_a_while() {
    let world = hybrid().await;
    let id = world.ask(|_| {}).await;
    world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    // More often than it is asked within one attempt.
    world.fault(json!({ "kind": "cloud", "service": "token", "times": 6, "do": { "aadsts": 700_027 } }));
    let run = world.approve_all(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    assert!(world.lab.report().cloud.iter().filter(|asked| asked.code == "AADSTS700027").count() >= 6);
    world.check_renewed(id).await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_keys_that_was_never_sent_has_no_answer_on_record() {
    let world = hybrid().await;
    let id = world.ask(|_| {}).await;
    let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
    // A key that the plan keeps is gone when the new one is to stand beside it.
    world.fault(json!({ "kind": "cloud_keys", "change": "remove_current" }));
    world.approve_plan(run, Gate::Execute).await;
    let stopped = |step: &domain::Step| {
        let told = step.trouble.as_ref().is_some_and(|trouble| trouble.code == "cloud_keys_changed");
        step.kind == StepKind::TrustCloud && told
    };
    world.until(id, |run| run.steps.iter().any(|step| stopped(step))).await;
    assert_eq!(patches(&world), 0);
    invariants::answers_after_intents(&world.audit(id).await);
    world.close().await;
}
