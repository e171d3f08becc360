//! The legs of the probe: what a right order of steps survives, and which wrong ones are seen where.

use chrono::TimeDelta;
use psrp::Command;

use super::{Leg, Reason, Refusal};
use crate::{
    bench::{Bench, Made, values},
    faults::{
        Fault,
        cloud::{KeyChange, Side},
    },
    hybrid::Class,
    organization::{AppPath, Hybrid, PartnerRules},
    server::ProcessKind,
};

const LEAD: TimeDelta = TimeDelta::hours(49);
/// Longer than any replica and the token service beside it need.
const LEARNT: TimeDelta = TimeDelta::minutes(12);

fn restart_all(bench: &mut Bench) {
    for server in 0..3 {
        ProcessKind::ALL.into_iter().for_each(|kind| bench.world.restart(server, kind));
    }
}

fn clear_previous(bench: &mut Bench) {
    values(&bench.exchange("EX01", Command::new("Set-AuthConfig").switch("ClearPreviousCertificate").switch("Force")));
}

fn refusals(bench: &Bench, leg: Leg) -> Vec<Refusal> {
    bench.world.trust().refusals.into_iter().filter(|refusal| refusal.leg == leg).collect()
}

/// The whole renewal, each step when the one before has been learnt everywhere.
fn renew(bench: &mut Bench, made: &Made) {
    bench.import_everywhere(made);
    let before = bench.cloud_keys();
    bench.write_cloud_keys(&before, Some(made));
    bench.pass(LEARNT);
    values(&bench.stage(made, LEAD));
    bench.pass(LEAD);
    values(&bench.publish());
    bench.pass(TimeDelta::minutes(16));
    restart_all(bench);
    bench.pass(TimeDelta::hours(48));
    clear_previous(bench);
    bench.pass(TimeDelta::minutes(16));
    let old = bench.cloud_keys().into_iter().filter(|key| key.certificate.thumbprint == made.thumbprint());
    let others = before.iter().filter(|key| key.display_name.as_deref() == Some("Mailbox migration")).cloned();
    let kept: Vec<_> = others.chain(old).collect();
    bench.write_cloud_keys(&kept, None);
    bench.pass(TimeDelta::hours(3));
}

#[test]
fn a_renewal_in_the_right_order_is_refused_nowhere() {
    let mut bench = Bench::hybrid(Hybrid::contoso());
    renew(&mut bench, &Made::number(0));
    let trust = bench.world.trust();
    assert_eq!(trust.refused, 0, "{:#?}", trust.refusals);
    let looked_at: Vec<_> = trust.legs.keys().copied().collect();
    assert_eq!(looked_at, [Leg::Dedicated, Leg::FromCloud, Leg::Servers, Leg::Partner]);
    assert!(trust.legs.values().all(|total| total.checked > 100), "{:?}", trust.legs);
    assert_eq!(trust.checked, trust.legs.values().map(|total| total.checked).sum::<u64>());
}

#[test]
fn an_organization_on_the_shared_principal_is_checked_against_that() {
    let mut bench = Bench::hybrid(Hybrid { path: AppPath::Shared, ..Hybrid::contoso() });
    bench.pass(TimeDelta::hours(1));
    let trust = bench.world.trust();
    assert!(trust.legs[&Leg::Shared].checked > 0 && !trust.legs.contains_key(&Leg::Dedicated), "{:?}", trust.legs);
    assert_eq!(trust.refused, 0, "{:#?}", trust.refusals);
}

#[test]
fn an_organization_that_stands_alone_has_the_leg_between_servers_only() {
    let mut bench = Bench::new();
    bench.pass(TimeDelta::hours(1));
    assert_eq!(bench.world.trust().legs.keys().copied().collect::<Vec<_>>(), [Leg::Servers]);
}

#[test]
fn publishing_before_entra_has_the_key_is_refused_there() {
    let (mut bench, made) = (Bench::hybrid(Hybrid::contoso()), Made::number(0));
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    bench.pass(LEAD);
    values(&bench.publish());
    bench.pass(TimeDelta::minutes(16));
    restart_all(&mut bench);
    let refused = refusals(&bench, Leg::Dedicated);
    let first = &refused[0];
    assert_eq!((first.reason, first.thumbprint.as_ref()), (Reason::UnknownKey, Some(&made.thumbprint())));
    assert!(first.verifier.starts_with("ExchangeServerApp-") && first.accepted.len() == 2, "{first:?}");
    assert!(!first.accepted.contains(&made.thumbprint()) && first.view_age_seconds <= 300, "{first:?}");
    let legs = bench.world.trust().legs;
    assert!(legs[&Leg::Dedicated].refused >= 18 && legs[&Leg::Servers].refused == 0, "{legs:?}");
}

#[test]
fn publishing_before_every_replica_has_the_key_is_refused_by_the_slow_ones() {
    let (mut bench, made) = (Bench::hybrid(Hybrid::contoso()), Made::number(0));
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    bench.pass(LEAD - TimeDelta::minutes(1));
    let before = bench.cloud_keys();
    bench.write_cloud_keys(&before, Some(&made));
    bench.pass(TimeDelta::minutes(1));
    values(&bench.publish());
    restart_all(&mut bench);
    let refused = refusals(&bench, Leg::Dedicated);
    assert!(refused.iter().any(|refusal| refusal.verifier.ends_with("/replica 2")), "{refused:#?}");
    let so_far = bench.world.trust().legs[&Leg::Dedicated].refused;
    bench.pass(LEARNT);
    let at_last = bench.world.trust().legs[&Leg::Dedicated].refused;
    bench.pass(TimeDelta::hours(2));
    assert!(at_last > so_far && bench.world.trust().legs[&Leg::Dedicated].refused == at_last);
}

#[test]
fn taking_the_key_away_that_servers_sign_with_is_refused() {
    let mut bench = Bench::hybrid(Hybrid::contoso());
    bench.world.apply(Fault::CloudKeys { change: KeyChange::RemoveCurrent }).unwrap();
    bench.pass(TimeDelta::minutes(5));
    assert!(bench.world.trust().legs[&Leg::Dedicated].refused > 0);
    let effects: Vec<_> = bench.world.journal.effects.iter().map(|effect| (effect.kind, effect.by.as_str())).collect();
    assert_eq!(effects, [(crate::journal::EffectKind::RemoveCloudKey, "operator")]);
}

#[test]
fn a_partner_that_only_reads_on_schedule_refuses_a_new_key_until_then() {
    let rules = PartnerRules { refetches: false, ..PartnerRules::default() };
    let mut bench = Bench::hybrid(Hybrid { partner: rules, ..Hybrid::contoso() });
    renew(&mut bench, &Made::number(0));
    let legs = bench.world.trust().legs;
    assert!(legs[&Leg::Partner].refused > 0 && legs[&Leg::Dedicated].refused == 0, "{legs:?}");
    let partner = &refusals(&bench, Leg::Partner)[0];
    assert!(partner.view_age_seconds > 0 && partner.verifier == "partner", "{partner:?}");
}

#[test]
fn a_partner_that_gets_old_documents_refuses_until_pools_are_recycled() {
    let rules = PartnerRules { sees_stale_documents: true, ..PartnerRules::default() };
    let (mut bench, made) = (Bench::hybrid(Hybrid { partner: rules, ..Hybrid::contoso() }), Made::number(0));
    bench.import_everywhere(&made);
    let before = bench.cloud_keys();
    bench.write_cloud_keys(&before, Some(&made));
    values(&bench.stage(&made, LEAD));
    bench.pass(LEAD);
    values(&bench.publish());
    bench.pass(TimeDelta::minutes(80));
    let refused = bench.world.trust().legs[&Leg::Partner].refused;
    assert!(refused > 0);
    restart_all(&mut bench);
    let after_restart = bench.world.trust().legs[&Leg::Partner].refused;
    bench.pass(TimeDelta::hours(2));
    assert_eq!(bench.world.trust().legs[&Leg::Partner].refused, after_restart);
}

#[test]
fn a_broken_authentication_server_is_seen_on_the_leg_from_the_cloud() {
    let mut bench = Bench::hybrid(Hybrid::contoso());
    for name in ["EvoSts*", "ACS*"] {
        let set = serde_json::json!({ "Enabled": false }).as_object().unwrap().clone();
        let (side, class) = (Side::OnPremises, Class::AuthServer);
        bench.world.apply(Fault::HybridObject { side, class, name: Some(name.to_owned()), set }).unwrap();
    }
    let legs = bench.world.trust().legs;
    assert!(legs[&Leg::FromCloud].refused > 0 && legs[&Leg::Servers].refused == 0, "{legs:?}");
}
