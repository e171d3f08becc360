use chrono::TimeDelta;

use super::*;
use crate::{
    Gate, Request,
    hybrid::drift::tests::{APPLICATION, TENANT, healthy, settings},
    planning::{
        plan,
        tests::{certificate, now, organization, request, snapshot, thumbprint},
    },
    retry::Exhausted,
    snapshot::Store,
};

fn key(id: &str, digit: char) -> CloudKey {
    CloudKey {
        key_id: id.to_owned(),
        thumbprint: Some(thumbprint(digit)),
        display_name: None,
        not_before: Some(now() - TimeDelta::days(1800)),
        not_after: Some(now() + TimeDelta::days(45)),
    }
}

/// A tenant whose dedicated application has the key of the current certificate, and one of something else.
pub(crate) fn tenant() -> Tenant {
    Tenant::Read {
        application: Some(Application {
            object_id: "object-1".to_owned(),
            app_id: APPLICATION.to_owned(),
            display_name: "ExchangeServerApp-8f14e45f".to_owned(),
            keys: vec![key("key-of-a", 'A'), key("key-of-f", 'F')],
        }),
        shared_principal: Some(Principal {
            object_id: "shared-1".to_owned(),
            app_id: EXCHANGE_ONLINE.to_owned(),
            keys: Vec::new(),
        }),
        max_key_lifetime_days: None,
        key_lifetime_not_read: None,
        exchange_online: Checked::Read {
            organization_relationships: Vec::new(),
            intra_organization_connectors: Vec::new(),
        },
    }
}

/// A hybrid organization with credentials for its tenant, and what was seen of it.
pub(crate) fn automatic() -> (Organization, Request, Snapshot) {
    let organization = Organization { cloud: Some(settings()), ..organization() };
    let snapshot = Snapshot { hybrid: true, on_premises_hybrid: Some(healthy()), tenant: Some(tenant()), ..snapshot() };
    (organization, request(), snapshot)
}

/// The same without credentials.
pub(crate) fn by_hand() -> (Organization, Request, Snapshot) {
    let (mut organization, request, mut snapshot) = automatic();
    (organization.cloud, snapshot.tenant) = (None, None);
    (organization, request, snapshot)
}

fn made(
    of: (Organization, Request, Snapshot),
    change: impl FnOnce(&mut Organization, &mut Request, &mut Snapshot),
) -> Result<Plan, Trouble> {
    let (mut organization, mut request, mut snapshot) = of;
    change(&mut organization, &mut request, &mut snapshot);
    plan(&organization, &request, &snapshot, now())
}

fn kinds(plan: &Plan) -> String {
    let mut kinds: Vec<&str> = plan.steps.iter().map(|step| step.kind.as_str()).collect();
    kinds.dedup();
    kinds.join(" ")
}

fn lines_of(plan: &Plan, kind: StepKind) -> Vec<(EndpointKind, &str)> {
    let step = plan.steps.iter().find(|step| step.kind == kind).unwrap();
    step.cmdlets.iter().map(|cmdlet| (cmdlet.endpoint, cmdlet.line.as_str())).collect()
}

fn codes(plan: &Plan) -> Vec<&str> {
    plan.findings.iter().map(|finding| finding.code.as_str()).collect()
}

/// Changes what was read of the tenant.
fn with(
    change: impl FnOnce(&mut Option<Application>, &mut Option<Principal>, &mut Option<u32>),
) -> impl FnOnce(&mut Organization, &mut Request, &mut Snapshot) {
    |_, _, snapshot| match snapshot.tenant.as_mut().unwrap() {
        Tenant::Read { application, shared_principal, max_key_lifetime_days, .. } => {
            change(application, shared_principal, max_key_lifetime_days);
        }
        Tenant::Unreachable { .. } => panic!("it was read"),
    }
}

#[test]
fn the_key_is_in_the_cloud_before_anything_signs_with_it_and_leaves_it_when_nothing_does() {
    let plan = made(automatic(), |_, _, _| {}).unwrap();
    assert_eq!(
        kinds(&plan),
        "generate distribute trust_cloud stage publish restart refresh_hybrid soak clear_previous prune_cloud prune close"
    );
    assert_eq!(plan.gates_in_order().collect::<Vec<_>>(), [Gate::Execute, Gate::Publish, Gate::ClearPrevious]);
    assert_eq!(plan.findings, []);
    let graph = EndpointKind::Graph;
    assert_eq!(
        lines_of(&plan, StepKind::TrustCloud),
        [(
            graph,
            "PATCH https://graph.microsoft.com/v1.0/applications/object-1 keyCredentials: 2 kept + <new thumbprint>"
        )]
    );
    assert_eq!(
        lines_of(&plan, StepKind::PruneCloud),
        [(
            graph,
            "PATCH https://graph.microsoft.com/v1.0/applications/object-1 keyCredentials: 1 kept + <new thumbprint>, without key-of-a"
        )]
    );
    assert_eq!(lines_of(&plan, StepKind::RefreshHybrid), []);
}

#[test]
fn an_organization_that_is_not_hybrid_is_planned_as_before_even_if_a_tenant_is_configured() {
    let plain = plan(&organization(), &request(), &snapshot(), now()).unwrap();
    let configured = made(automatic(), |_, _, snapshot| snapshot.hybrid = false).unwrap();
    assert_eq!(configured.digest(), plain.digest());
    assert!(!plain.canonical().contains("cloud"));
}

#[test]
fn without_credentials_the_plan_says_exactly_what_a_person_does_and_waits_for_them() {
    let plan = made(by_hand(), |_, _, _| {}).unwrap();
    assert_eq!(
        kinds(&plan),
        "generate distribute trust_cloud stage publish restart refresh_hybrid soak clear_previous prune_cloud prune close"
    );
    assert_eq!(plan.gates_in_order().collect::<Vec<_>>(), Gate::ALL);
    assert_eq!(plan.gate_before(Phase::TrustCloud), Some(Gate::TrustCloud));
    assert_eq!(plan.quorum(Gate::TrustCloud), 1);
    let last = plan.gates.iter().find(|gate| gate.gate == Gate::ClearPrevious).unwrap();
    assert!(last.meaning.contains("Test-OAuthConnectivity"), "nobody else tests it before the old key is given up");
    let by_person = lines_of(&plan, StepKind::TrustCloud);
    assert!(by_person.iter().all(|(endpoint, _)| *endpoint == EndpointKind::Person));
    let text = by_person.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
    for part in [
        "GET /v1/renewals/<this renewal>/certificate",
        TENANT,
        APPLICATION,
        "ExchangeServerApp-8f14e45f",
        "Approve the gate trust_cloud",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(lines_of(&plan, StepKind::PruneCloud)[0].1.contains(&format!("delete {}", thumbprint('A'))));
    assert_eq!(codes(&plan), ["cloud_by_hand"]);
    let blind = made(by_hand(), |_, _, snapshot| snapshot.on_premises_hybrid = None).unwrap();
    assert!(matches!(blind.cloud.unwrap().how, How::ByHand { tenant_id: None, app_id: None, .. }));
}

#[test]
fn an_emergency_does_not_make_the_cloud_wait_less_for_its_key() {
    for of in [automatic(), by_hand()] {
        let plan = made(of, |_, request, _| request.reason = crate::Reason::Compromised).unwrap();
        assert!(plan.emergency);
        assert_eq!(plan.gate_before(Phase::Stage), Some(Gate::Publish));
        assert!(kinds(&plan).contains("distribute trust_cloud stage publish"));
    }
}

#[test]
fn what_the_tenant_stands_against_is_known_before_anything_is_made() {
    let old_way = |snapshot: &mut Snapshot| {
        let objects = snapshot.on_premises_hybrid.as_mut().unwrap();
        objects.auth_servers[0].application_id = None;
        objects.setting_overrides.clear();
    };
    let none = with(|application, _, _| *application = None);
    let refused = made(automatic(), none).unwrap_err();
    assert_eq!(refused.code, "no_dedicated_application");
    assert!(refused.message.contains(APPLICATION), "{refused}");
    let classic = |organization: &mut Organization, request: &mut Request, snapshot: &mut Snapshot| {
        old_way(snapshot);
        with(|application, shared, _| {
            *application = None;
            shared.as_mut().unwrap().keys.push(key("shared-key", 'A'));
        })(organization, request, snapshot);
    };
    let refused = made(automatic(), classic).unwrap_err();
    assert_eq!(refused.code, "shared_principal_only");
    assert!(refused.action.contains("ConfigureExchangeHybridApplication.ps1"), "{refused}");
    let refused = made(automatic(), with(|_, _, longest| *longest = Some(365))).unwrap_err();
    assert_eq!(refused.code, "key_lifetime_refused");
    assert!(refused.action.contains("365"), "{refused}");
    assert!(made(automatic(), with(|_, _, longest| *longest = Some(1826))).is_ok());
    let trouble = Trouble::new("key_not_registered", "AADSTS700027: the key was not found", "Register it");
    let unreachable = Some(Tenant::Unreachable { trouble: trouble.clone(), retry_after_seconds: None });
    assert_eq!(made(automatic(), |_, _, snapshot| snapshot.tenant = unreachable).unwrap_err(), trouble);
    assert_eq!(made(automatic(), |_, _, snapshot| snapshot.tenant = None).unwrap_err().code, "tenant_not_read");
}

#[test]
fn what_is_odd_in_the_tenant_is_told_to_those_who_approve() {
    let unknown =
        made(automatic(), with(|application, _, _| application.as_mut().unwrap().keys.remove(0).key_id.clear()))
            .unwrap();
    assert_eq!(codes(&unknown), ["current_key_not_in_entra"]);
    assert!(!kinds(&unknown).contains("prune_cloud"), "there is nothing to take out");
    let expired = |application: &mut Option<Application>, _: &mut _, _: &mut _| {
        application.as_mut().unwrap().keys[1].not_after = Some(now());
    };
    assert_eq!(codes(&made(automatic(), with(expired)).unwrap()), ["cloud_key_expired"]);
    let unasked = |_: &mut Organization, _: &mut Request, snapshot: &mut Snapshot| {
        let Some(Tenant::Read { exchange_online, .. }) = &mut snapshot.tenant else { panic!("it was read") };
        *exchange_online = Checked::NotChecked { reason: "it answered 403".to_owned() };
    };
    assert_eq!(codes(&made(automatic(), unasked).unwrap()), ["exchange_online_not_checked"]);
}

#[test]
fn keys_of_the_shared_principal_are_reported_and_taken_out_only_if_that_is_planned() {
    let held = |purge: bool| {
        made(automatic(), |organization, request, snapshot| {
            organization.cloud.as_mut().unwrap().purge_shared_principal = purge;
            with(|_, shared, _| shared.as_mut().unwrap().keys.push(key("shared-key", 'E')))(
                organization,
                request,
                snapshot,
            );
        })
        .unwrap()
    };
    let reported = held(false);
    assert_eq!(codes(&reported), ["shared_principal_keys"]);
    assert!(reported.findings[0].fix.is_some());
    assert!(!kinds(&reported).contains("purge_shared_principal"));
    let purged = held(true);
    assert!(kinds(&purged).contains("clear_previous prune_cloud purge_shared_principal prune"));
    assert_eq!(
        lines_of(&purged, StepKind::PurgeSharedPrincipal),
        [(
            EndpointKind::Graph,
            "PATCH https://graph.microsoft.com/v1.0/servicePrincipals/shared-1 keyCredentials: without shared-key"
        )]
    );
}

#[test]
fn what_is_corrected_on_the_servers_stands_in_the_plan() {
    let plan = made(automatic(), |_, _, snapshot| {
        snapshot.on_premises_hybrid.as_mut().unwrap().organization_relationships[0].target_sharing_epr = None;
    })
    .unwrap();
    assert_eq!(
        lines_of(&plan, StepKind::RefreshHybrid),
        [(
            EndpointKind::Exchange,
            "Set-OrganizationRelationship -Identity 'On-premises to O365' -TargetSharingEpr https://outlook.office365.com/EWS/Exchange.asmx"
        )]
    );
    assert_eq!(codes(&plan), ["relationship_sharing_epr"]);
}

/// The certificate B is staged on every server, and healthy.
fn staged(snapshot: &mut Snapshot) {
    snapshot.auth_config.iter_mut().for_each(|seen| seen.next = Some(thumbprint('B')));
    for server in &mut snapshot.servers {
        server.store = Store::Read { certificates: vec![certificate('A', 45), certificate('B', 1700)] };
    }
}

#[test]
fn the_key_of_a_staged_certificate_that_is_registered_already_is_only_tried() {
    let plan = made(automatic(), |organization, request, snapshot| {
        staged(snapshot);
        with(|application, _, longest| {
            application.as_mut().unwrap().keys.push(key("key-of-b", 'B'));
            *longest = Some(90);
        })(organization, request, snapshot);
    })
    .unwrap();
    assert_eq!(lines_of(&plan, StepKind::TrustCloud), []);
    let refused = made(automatic(), |organization, request, snapshot| {
        staged(snapshot);
        with(|_, _, longest| *longest = Some(90))(organization, request, snapshot);
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, "key_lifetime_refused");
    assert!(refused.action.contains("-NewCertificateThumbprint $null"), "{refused}");
}

#[test]
fn a_staged_certificate_that_exchange_may_publish_before_entra_has_its_key_is_told_of() {
    let dated = |registered: bool, hours: i64| {
        made(automatic(), |organization, request, snapshot| {
            staged(snapshot);
            snapshot
                .auth_config
                .iter_mut()
                .for_each(|seen| seen.next_effective_at = Some(now() + TimeDelta::hours(hours)));
            if registered {
                let add = |application: &mut Option<Application>, _: &mut _, _: &mut _| {
                    application.as_mut().unwrap().keys.push(key("key-of-b", 'B'));
                };
                with(add)(organization, request, snapshot);
            }
        })
        .unwrap()
    };
    assert_eq!(codes(&dated(true, 9)), Vec::<&str>::new());
    let told = dated(false, 9);
    assert_eq!(codes(&told), ["staged_before_cloud"]);
    let over = dated(false, -9).findings[0].message.clone();
    assert!(over.contains("is over: Exchange publishes it by itself at any moment"), "{over}");
    assert!(told.findings[0].fix.as_ref().unwrap().contains("-NewCertificateEffectiveDate <now + 72 h>"));
}

#[test]
fn a_certificate_that_was_rolled_back_and_staged_again_keeps_its_key() {
    let plan = made(automatic(), |organization, request, snapshot| {
        staged(snapshot);
        snapshot.auth_config.iter_mut().for_each(|seen| seen.previous = Some(thumbprint('B')));
        with(|application, _, _| application.as_mut().unwrap().keys.push(key("key-of-b", 'B')))(
            organization,
            request,
            snapshot,
        );
    })
    .unwrap();
    let How::Automatic { keys_removed, .. } = &plan.cloud.as_ref().unwrap().how else { panic!("{plan:?}") };
    assert_eq!(keys_removed.iter().map(|key| key.key_id.as_str()).collect::<Vec<_>>(), ["key-of-a"]);
}

#[test]
fn failures_never_decide_which_keys_stay_registered() {
    let plan = made(automatic(), |organization, _, _| {
        organization.policy.prune_failure = Exhausted::Skip;
        organization.policy.after_publish_failure = Exhausted::RollBack;
    })
    .unwrap();
    let of = |kind| plan.steps.iter().find(|step| step.kind == kind).unwrap().when_exhausted;
    assert_eq!((of(StepKind::PruneCloud), of(StepKind::Prune)), (Exhausted::Ask, Exhausted::Skip));
    assert_eq!((of(StepKind::TrustCloud), of(StepKind::RefreshHybrid)), (Exhausted::Ask, Exhausted::RollBack));
}

#[test]
fn a_hybrid_plan_and_what_it_was_made_from_survive_their_stored_forms() {
    for of in [automatic(), by_hand()] {
        let (organization, _, snapshot) = of.clone();
        let plan = made(of, |_, _, snapshot| {
            snapshot.on_premises_hybrid.as_mut().unwrap().organization_relationships[0].target_sharing_epr = None;
        })
        .unwrap();
        let stored: Plan = serde_json::from_str(&plan.canonical()).unwrap();
        assert_eq!(stored.digest(), plan.digest());
        assert_eq!(serde_json::from_value::<Snapshot>(serde_json::json!(snapshot)).unwrap(), snapshot);
        assert_eq!(serde_json::from_value::<Organization>(serde_json::json!(organization)).unwrap(), organization);
    }
}

#[test]
fn a_plan_for_a_cloud_of_its_own_says_where_it_sends_its_requests() {
    let plan = made(automatic(), |organization, _, _| {
        let settings = organization.cloud.as_mut().unwrap();
        settings.cloud = CloudName::Custom;
        settings.graph_url = Some("https://graph.lab.example:8443".to_owned());
    })
    .unwrap();
    for kind in [StepKind::TrustCloud, StepKind::PruneCloud] {
        let (_, line) = lines_of(&plan, kind)[0];
        assert!(line.starts_with("PATCH https://graph.lab.example:8443/v1.0/applications/object-1 "), "{line}");
    }
}

#[test]
fn approvers_see_that_the_life_of_keys_could_not_be_read_and_only_that() {
    let unread = |why: &str| {
        made(automatic(), |_, _, snapshot| match snapshot.tenant.as_mut().unwrap() {
            Tenant::Read { key_lifetime_not_read, .. } => *key_lifetime_not_read = Some(why.to_owned()),
            Tenant::Unreachable { .. } => panic!("it was read"),
        })
        .unwrap()
    };
    let plan = unread("refused, request 1");
    assert_eq!(codes(&plan), ["key_lifetime_not_checked"]);
    assert!(plan.findings[0].message.contains("Policy.Read.All"), "{:?}", plan.findings);
    assert_eq!(plan.digest(), unread("refused, request 2").digest());
}

/// An operator has skipped `prune_cloud` in the renewal before.
#[test]
fn a_key_that_an_earlier_run_has_left_is_told_and_taken_out() {
    let left = |display_name: Option<&str>, begun: i64| CloudKey {
        display_name: display_name.map(str::to_owned),
        not_before: Some(now() - TimeDelta::days(begun)),
        ..key("left", 'D')
    };
    let plan_with = |left: CloudKey| {
        let change = with(|application, _, _| application.as_mut().unwrap().keys.push(left));
        made(automatic(), change).unwrap()
    };
    let named = Some("Microsoft Exchange Server Auth Certificate 2021-11-01");
    let plan = plan_with(left(named, 3600));
    assert_eq!(codes(&plan), ["cloud_key_given_up"]);
    assert!(plan.findings[0].message.contains(thumbprint('D').as_str()));
    assert!(lines_of(&plan, StepKind::PruneCloud)[0].1.ends_with("1 kept + <new thumbprint>, without key-of-a, left"));
    // Somebody else's, or newer than what signs today: nobody knows what it is for.
    for other in [left(Some("Mailbox migration"), 3600), left(None, 3600), left(named, 10)] {
        let plan = plan_with(other);
        assert_eq!(codes(&plan), [""; 0]);
        assert!(lines_of(&plan, StepKind::PruneCloud)[0].1.ends_with("without key-of-a"));
    }
}
