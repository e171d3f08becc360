use chrono::TimeZone;

use super::*;
use crate::{OrganizationId, Policy, Reason, snapshot::Version};

pub(crate) fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 23, 10, 0, 0).unwrap()
}

pub(crate) fn thumbprint(digit: char) -> Thumbprint {
    Thumbprint::parse(&digit.to_string().repeat(40)).unwrap()
}

pub(crate) fn organization() -> Organization {
    Organization {
        id: OrganizationId::parse("contoso").unwrap(),
        name: "Contoso".to_owned(),
        lab: true,
        windows: true,
        cloud: None,
        test_mailbox: None,
        policy: Policy::default(),
    }
}

pub(crate) fn request() -> Request {
    Request {
        organization: OrganizationId::parse("contoso").unwrap(),
        reason: Reason::Expiring,
        change_type: None,
        risk: None,
        ticket: None,
        not_before: None,
        allow_absent: Vec::new(),
        note: None,
    }
}

pub(crate) fn certificate(digit: char, days_left: i64) -> Certificate {
    Certificate {
        thumbprint: thumbprint(digit),
        not_before: now() - TimeDelta::days(1800),
        not_after: now() + TimeDelta::days(days_left),
        key: Key::Csp,
        findings: Vec::new(),
    }
}

fn server(name: &str, site: &str, minor: u32) -> Server {
    Server {
        fqdn: format!("{name}.contoso.example"),
        site: site.to_owned(),
        version: Version { major: 15, minor, build: 1748, revision: 24 },
        takes_part: true,
        domain_controller: Some("dc01.contoso.example".to_owned()),
        store: Store::Read { certificates: vec![certificate('A', 45)] },
        clock_ahead_seconds: None,
    }
}

fn auth_config(dc: &str) -> AuthConfig {
    AuthConfig {
        domain_controller: format!("{dc}.contoso.example"),
        current: Some(thumbprint('A')),
        previous: None,
        next: None,
        next_effective_at: None,
        changed_at: None,
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        organization: OrganizationId::parse("contoso").unwrap(),
        taken_at: now(),
        answered_by: "ex01.contoso.example".to_owned(),
        auth_config: vec![auth_config("dc01"), auth_config("dc02")],
        servers: vec![server("ex01", "Hamburg", 1), server("ex02", "Hamburg", 2), server("ex03", "Lisbon", 2)],
        hybrid: false,
        on_premises_hybrid: None,
        tenant: None,
    }
}

fn made(change: impl FnOnce(&mut Organization, &mut Request, &mut Snapshot)) -> Result<Plan, Trouble> {
    let (mut organization, mut request, mut snapshot) = (organization(), request(), snapshot());
    change(&mut organization, &mut request, &mut snapshot);
    plan(&organization, &request, &snapshot, now())
}

fn codes(plan: &Plan) -> Vec<&str> {
    plan.findings.iter().map(|f| f.code.as_str()).collect()
}

#[test]
fn a_plan_names_every_server_with_the_encryption_that_its_windows_reads() {
    let plan = made(|_, _, _| {}).unwrap();
    let pfx: Vec<_> = plan.servers.iter().map(|s| s.pfx.as_str()).collect();
    assert_eq!(pfx, ["tripledes-sha1", "aes256-sha256", "aes256-sha256"]);
    let kinds: Vec<_> = plan.steps.iter().map(|s| s.kind.as_str()).collect();
    assert_eq!(
        kinds.join(" "),
        "generate distribute distribute distribute stage publish restart restart restart soak clear_previous prune prune prune close"
    );
    assert!(plan.findings.is_empty(), "{:?}", plan.findings);
}

#[test]
fn planning_again_later_on_the_same_organization_gives_the_same_digest() {
    let first = made(|_, _, _| {}).unwrap();
    let later = made(|_, _, snapshot| snapshot.taken_at += TimeDelta::hours(3)).unwrap();
    assert_eq!(first.digest(), later.digest());
    let other = made(|organization, _, _| organization.policy.soak_hours = 48).unwrap();
    assert_ne!(first.digest(), other.digest());
}

#[test]
fn what_policies_have_learned_to_say_changes_their_version_only_when_it_is_said() {
    let first = concat!(
        r#"{"after_publish_failure":"ask","approval_hours":336,"clear_previous_quorum":1,"execute_quorum":1,"key_size":2048,"#,
        r#""lifetime_days":1826,"prune_failure":"ask","publish_quorum":1,"remove_old_certificate":true,"soak_check_minutes":240,"#,
        r#""soak_hours":24,"staging_lead_hours":49}"#
    );
    let policy = Policy::default();
    assert_eq!(policy.digest(), crate::Digest::of(first.as_bytes()), "as in plans of the first version");
    let shown = serde_json::to_value(&policy).unwrap();
    for member in ["gates", "ticket", "time_zone", "window", "blackout", "emergency", "break_glass", "soak_max_hours"] {
        assert!(shown.get(member).is_some(), "{member} in {shown}");
    }
    let stricter = Policy { soak_max_hours: 72, ..policy.clone() };
    assert_ne!(stricter.digest(), policy.digest());
    let again: Policy = serde_json::from_value(shown).unwrap();
    assert_eq!(again, policy);
}

#[test]
fn a_plan_survives_its_stored_form() {
    let plan = made(|_, _, _| {}).unwrap();
    let stored: Plan = serde_json::from_str(&plan.canonical()).unwrap();
    assert_eq!(stored.digest(), plan.digest());
}

#[test]
fn what_cannot_be_planned_is_refused_with_its_reason() {
    type Change = fn(&mut Organization, &mut Request, &mut Snapshot);
    let cases: [(&str, Change); 5] = [
        ("no_auth_config", |_, _, s| s.auth_config.clear()),
        ("replication_pending", |_, _, s| s.auth_config[1].next = Some(thumbprint('B'))),
        ("no_servers", |_, _, s| s.servers.iter_mut().for_each(|s| s.takes_part = false)),
        ("unknown_server", |_, r, _| r.allow_absent.push("ex99.contoso.example".to_owned())),
        ("no_server_reachable", |_, _, s| {
            s.servers.iter_mut().for_each(|s| s.store = Store::Unreachable { trouble: Trouble::new("x", "y", "z") })
        }),
    ];
    for (code, change) in cases {
        assert_eq!(made(change).unwrap_err().code, code);
    }
}

#[test]
fn an_expired_certificate_gives_an_emergency_plan_whatever_the_requester_says() {
    let plan = made(|_, _, s| {
        s.servers.iter_mut().for_each(|s| s.store = Store::Read { certificates: vec![certificate('A', -1)] })
    })
    .unwrap();
    assert!(plan.emergency);
    assert_eq!(plan.staging_lead_hours, 0);
    assert_eq!(plan.gate_before(Phase::Stage), Some(Gate::Publish));
    assert_eq!(plan.gate_before(Phase::Publish), None);
    assert!(codes(&plan).contains(&"current_expired"));
}

#[test]
fn a_healthy_staged_certificate_is_adopted_and_a_sick_one_replaced() {
    let staged = |days_left| {
        move |_: &mut Organization, _: &mut Request, s: &mut Snapshot| {
            s.auth_config.iter_mut().for_each(|a| a.next = Some(thumbprint('B')));
            s.servers[1].store = Store::Read { certificates: vec![certificate('A', 45), certificate('B', days_left)] };
        }
    };
    let adopted = made(staged(1700)).unwrap();
    assert_eq!(
        adopted.certificate,
        CertificateSource::Adopt { thumbprint: thumbprint('B'), from: "ex02.contoso.example".to_owned() }
    );
    let generate = adopted.steps.iter().find(|step| step.kind == StepKind::Generate).unwrap();
    assert!(
        generate.cmdlets[0].line.contains(&format!("{} -NewCertificateEffectiveDate <now + 49 h>", thumbprint('B'))),
        "{generate:?}"
    );
    let replaced = made(staged(30)).unwrap();
    assert!(matches!(replaced.certificate, CertificateSource::Generate { .. }));
    assert!(codes(&replaced).contains(&"staged_replaced"));
}

#[test]
fn a_staged_certificate_that_exchange_may_publish_before_servers_have_its_key_is_told_of() {
    let dated = |everywhere: bool, hours: i64| {
        made(|_, _, s| {
            let date = Some(now() + TimeDelta::hours(hours));
            s.auth_config.iter_mut().for_each(|a| (a.next, a.next_effective_at) = (Some(thumbprint('B')), date));
            for server in s.servers.iter_mut().take(if everywhere { 3 } else { 2 }) {
                server.store = Store::Read { certificates: vec![certificate('A', 45), certificate('B', 1700)] };
            }
        })
        .unwrap()
    };
    assert_eq!(codes(&dated(true, 9)), Vec::<&str>::new());
    let told = dated(false, 9);
    assert_eq!(codes(&told), ["staged_before_servers"]);
    let over = dated(false, -9).findings[0].message.clone();
    assert!(over.contains("is over: Exchange publishes it by itself at any moment"), "{over}");
    assert!(told.findings[0].message.contains("ex03.contoso.example"), "{:?}", told.findings);
    assert!(told.findings[0].fix.as_ref().unwrap().contains("-NewCertificateEffectiveDate <now + 72 h>"));
}

#[test]
fn a_server_that_is_down_is_named_and_absence_is_part_of_what_is_approved() {
    let down = |s: &mut Snapshot| s.servers[2].store = Store::Unreachable { trouble: Trouble::new("x", "y", "z") };
    let blocked = made(|_, _, s| down(s)).unwrap();
    assert!(codes(&blocked).contains(&"server_unreachable"));
    let allowed = made(|_, r, s| {
        down(s);
        r.allow_absent.push("EX03.contoso.example".to_owned());
    })
    .unwrap();
    assert!(allowed.server("ex03.contoso.example").unwrap().may_be_absent);
    assert_ne!(allowed.digest(), blocked.digest());
}

#[test]
fn without_windows_endpoints_restarts_are_left_to_people_and_said_so() {
    let plan = made(|organization, _, _| organization.windows = false).unwrap();
    assert!(!plan.steps.iter().any(|s| s.kind == StepKind::Restart));
    assert!(codes(&plan).contains(&"restart_by_hand"));
}
