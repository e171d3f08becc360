//! The organization in motion.

use chrono::TimeDelta;
use psrp::Command;

use super::*;
use crate::{
    bench::{Bench, Made, stage, start, values},
    faults::{Change, Fault},
    organization::{Role, Servicelet},
    trust::Reason,
};

const LEAD: TimeDelta = TimeDelta::hours(49);

fn apply(bench: &mut Bench, fault: Fault) {
    bench.world.apply(fault).unwrap();
}

fn restart(bench: &mut Bench, server: &str) {
    values(&bench.windows(server, Command::new("Restart-Service").with("Name", "MSExchangeServiceHost")));
    for pool in ["MSExchangeOWAAppPool", "MSExchangeECPAppPool"] {
        values(&bench.windows(server, Command::new("Restart-WebAppPool").with("Name", pool)));
    }
}

fn refusals(bench: &Bench) -> Vec<Reason> {
    bench.world.trust().refusals.iter().map(|refusal| refusal.reason).collect()
}

#[test]
fn a_write_reaches_the_other_site_after_the_lag_and_not_before() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    bench.pass(TimeDelta::minutes(15) - TimeDelta::seconds(1));
    assert_eq!(bench.config(1).next, None);
    bench.pass(TimeDelta::seconds(1));
    assert_eq!(bench.config(1), bench.config(0));
}

#[test]
fn a_write_reaches_its_own_site_within_seconds() {
    let mut organization = Organization::contoso();
    organization.controllers[1].site = "Amsterdam".to_owned();
    let mut bench = Bench::of(organization);
    apply(&mut bench, Fault::OperatorChange { change: Change::Stage });
    bench.pass(TimeDelta::seconds(14));
    assert!(bench.config(1).next.is_none());
    bench.pass(TimeDelta::seconds(1));
    assert!(bench.config(1).next.is_some());
}

#[test]
fn an_edge_server_takes_no_part() {
    let mut organization = Organization::contoso();
    organization.servers[2].role = Role::Edge;
    let mut bench = Bench::of(organization);
    let current = bench.config(0).current.clone().unwrap();
    bench.world.server_mut(2).store.remove(&current);
    bench.pass(TimeDelta::hours(2));
    assert_eq!(bench.world.trust().refused, 0);
    let servers = values(&bench.exchange("EX01", Command::new("Get-ExchangeServer")));
    let flag = |name| servers[2].property(name).and_then(psrp::Value::as_bool);
    assert_eq!((flag("IsMailboxServer"), flag("IsClientAccessServer")), (Some(false), Some(false)));
    assert_eq!((flag("IsEdgeServer"), servers[2].property("Site")), (Some(true), Some(&psrp::Value::Null)));
}

#[test]
fn the_last_writer_wins_with_the_whole_object() {
    let (mut bench, made, other) = (Bench::new(), Made::number(0), Made::number(1));
    bench.import_everywhere(&made);
    bench.import_everywhere(&other);
    values(&bench.stage(&made, LEAD));
    bench.pass(TimeDelta::minutes(1));
    values(&bench.exchange("EX03", stage(&other.thumbprint(), start() + LEAD)));
    bench.pass(TimeDelta::hours(1));
    assert_eq!(bench.config(0), bench.config(1));
    assert_eq!(bench.config(0).next, Some(other.thumbprint()));
}

#[test]
fn the_lag_can_be_made_longer() {
    let mut bench = Bench::new();
    apply(&mut bench, Fault::ReplicationLag { seconds: 3 * 3600 });
    apply(&mut bench, Fault::OperatorChange { change: Change::Stage });
    bench.pass(TimeDelta::hours(2));
    assert!(bench.config(0).next.is_some() && bench.config(1).next.is_none());
    bench.pass(TimeDelta::hours(1));
    assert!(bench.config(1).next.is_some());
}

#[test]
fn auth_admin_publishes_what_is_due_without_looking_whether_anybody_has_it() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    values(&bench.import("EX01", &made));
    values(&bench.stage(&made, LEAD));
    bench.pass(LEAD - TimeDelta::minutes(1));
    assert_eq!(bench.config(0).next, Some(made.thumbprint()));
    bench.pass(TimeDelta::hours(12));
    assert_eq!(bench.config(0).current, Some(made.thumbprint()));
    let published = bench.world.journal.effects.iter().find(|effect| effect.kind == EffectKind::Publish).unwrap();
    assert_eq!(published.by, "AuthAdmin");
    bench.pass(TimeDelta::hours(1));
    assert!(refusals(&bench).contains(&Reason::NoPrivateKey), "EX03 never got the key");
}

#[test]
fn auth_admin_runs_when_the_service_host_of_its_server_starts() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    bench.import_everywhere(&made);
    values(&bench.stage(&made, TimeDelta::zero()));
    restart(&mut bench, "EX02");
    bench.pass(TimeDelta::minutes(1));
    assert_eq!(bench.config(0).next, Some(made.thumbprint()), "EX02 does not host AuthAdmin");
    restart(&mut bench, "EX01");
    bench.pass(TimeDelta::minutes(1));
    assert_eq!(bench.config(0).current, Some(made.thumbprint()));
}

#[test]
fn the_servicelet_stays_within_its_site() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    values(&bench.import("EX01", &made));
    let quietly = stage(&made.thumbprint(), start() + LEAD).switch("SkipImmediateCertificateDeployment");
    values(&bench.exchange("EX01", quietly));
    bench.pass(TimeDelta::seconds(11));
    assert!(bench.has("EX02", &made.thumbprint()));
    bench.pass(TimeDelta::hours(3));
    assert!(!bench.has("EX03", &made.thumbprint()));
    apply(&mut bench, Fault::Servicelet { reach: Servicelet::AllSites });
    bench.pass(TimeDelta::hours(1));
    assert!(bench.has("EX03", &made.thumbprint()));
}

#[test]
fn the_servicelet_can_be_off() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    apply(&mut bench, Fault::Servicelet { reach: Servicelet::Off });
    values(&bench.import("EX01", &made));
    values(&bench.stage(&made, LEAD));
    bench.pass(TimeDelta::hours(3));
    assert!(!bench.has("EX02", &made.thumbprint()));
}

#[test]
fn processes_learn_of_a_change_within_the_hour_or_when_restarted() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    let knows = |bench: &Bench, server: usize| {
        let keys = &bench.world.server(server).process(ProcessKind::Owa).keys;
        keys.accepted.iter().any(|known| known.thumbprint == made.thumbprint())
    };
    assert!(!knows(&bench, 0));
    restart(&mut bench, "EX01");
    assert!(knows(&bench, 0) && !knows(&bench, 1));
    bench.pass(TimeDelta::hours(1));
    assert!(knows(&bench, 1));
}

#[test]
fn the_metadata_document_shows_current_and_previous_and_is_stale_until_the_pool_is_recycled() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    let old = bench.config(0).current.clone().unwrap();
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    restart(&mut bench, "EX01");
    let shown = |bench: &Bench| -> Vec<Thumbprint> {
        bench.world.server(0).metadata.iter().map(|c| c.thumbprint.clone()).collect()
    };
    assert_eq!(shown(&bench), std::slice::from_ref(&old));
    values(&bench.publish());
    assert_eq!(shown(&bench), std::slice::from_ref(&old));
    restart(&mut bench, "EX01");
    assert_eq!(shown(&bench), [made.thumbprint(), old]);
}

#[test]
fn the_right_order_never_leaves_a_token_refused() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    let old = bench.config(0).current.clone().unwrap();
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    bench.pass(LEAD);
    values(&bench.publish());
    bench.pass(TimeDelta::minutes(30));
    ["EX01", "EX02", "EX03"].into_iter().for_each(|server| restart(&mut bench, server));
    bench.pass(TimeDelta::hours(24));
    values(&bench.exchange("EX01", Command::new("Set-AuthConfig").switch("ClearPreviousCertificate").switch("Force")));
    bench.pass(TimeDelta::hours(2));
    let remove = |server| {
        Command::new("Remove-ExchangeCertificate")
            .with("Server", server)
            .with("Thumbprint", old.as_str())
            .with("Confirm", false)
    };
    for server in ["EX01", "EX02", "EX03"] {
        values(&bench.exchange("EX01", remove(server)));
    }
    bench.pass(TimeDelta::hours(2));
    let trust = bench.world.trust();
    assert_eq!(trust.refusals, []);
    assert!(trust.checked > 5_000 && trust.refused == 0, "{} checked", trust.checked);
}

#[test]
fn publishing_before_distribution_is_seen() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    values(&bench.import("EX01", &made));
    values(&bench.stage(&made, TimeDelta::zero()));
    values(&bench.publish());
    bench.pass(TimeDelta::hours(2));
    let reasons = refusals(&bench);
    assert!(reasons.contains(&Reason::UnknownKey) && reasons.contains(&Reason::NoPrivateKey), "{reasons:?}");
}

#[test]
fn clearing_the_previous_certificate_at_once_is_seen() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    bench.pass(LEAD);
    let at_once = Command::new("Set-AuthConfig").switch("PublishCertificate").switch("ClearPreviousCertificate");
    values(&bench.exchange("EX01", at_once.switch("Force")));
    bench.pass(TimeDelta::hours(2));
    assert!(refusals(&bench).contains(&Reason::UnknownKey));
}

#[test]
fn an_expired_current_certificate_is_seen() {
    let mut bench = Bench::expiring_in(TimeDelta::days(1));
    bench.pass(TimeDelta::hours(23));
    assert_eq!(bench.world.trust().refused, 0);
    bench.pass(TimeDelta::hours(2));
    assert_eq!(refusals(&bench)[0], Reason::Expired);
}

#[test]
fn a_key_in_a_key_storage_provider_cannot_sign() {
    let mut bench = Bench::new();
    let provider = "Microsoft Software Key Storage Provider".to_owned();
    apply(&mut bench, Fault::KeyProvider { server: "EX02".to_owned(), provider });
    assert_eq!(refusals(&bench)[0], Reason::KeyStorageProvider);
}

#[test]
fn a_server_that_was_down_comes_back_with_what_it_can_use() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    apply(&mut bench, Fault::Power { server: "EX03".to_owned(), power: Power::Down });
    values(&bench.import("EX01", &made));
    values(&bench.import("EX02", &made));
    values(&bench.stage(&made, LEAD));
    bench.pass(LEAD);
    values(&bench.publish());
    bench.pass(TimeDelta::hours(1));
    assert_eq!(bench.world.trust().refused, 0, "a server that is down signs and verifies nothing");
    apply(&mut bench, Fault::Power { server: "EX03".to_owned(), power: Power::Up });
    assert!(refusals(&bench).contains(&Reason::NoPrivateKey));
}

#[test]
fn an_operator_who_stages_is_seen_by_everybody() {
    let mut bench = Bench::new();
    apply(&mut bench, Fault::OperatorChange { change: Change::Stage });
    let next = bench.config(0).next.clone().unwrap();
    assert!(["EX01", "EX02", "EX03"].iter().all(|server| bench.has(server, &next)));
    assert_eq!(bench.world.journal.effects.last().unwrap().by, "operator");
}

#[test]
fn nothing_happens_late_however_fast_time_goes() {
    let (mut slow, mut fast) = (Bench::new(), Bench::new());
    for bench in [&mut slow, &mut fast] {
        bench.import_everywhere(&Made::number(0));
        values(&bench.stage(&Made::number(0), LEAD));
    }
    (0..70 * 60).for_each(|_| slow.pass(TimeDelta::minutes(1)));
    fast.pass(TimeDelta::hours(70));
    let when = |bench: &Bench| bench.config(1).when_changed;
    assert_eq!(when(&slow), when(&fast));
    assert_eq!(slow.world.trust().checked, fast.world.trust().checked);
}
