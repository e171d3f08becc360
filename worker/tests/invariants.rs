//! What holds at the end of every run, whatever happened to it on the way.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use db::{LoadedRun, Page, Unexpanded};
use domain::{
    Event, Gate, Phase, RenewalId, State, StepKind, StepStatus, Thumbprint, Trouble, audit::AuditEntry, progress::Facts,
};
use lab::{
    Lab, Report,
    journal::{CloudAsked, Effect, EffectKind},
};

use crate::{
    circumstances::{Breakage, Broken},
    support::{SCALE, World, answered, no_thumbprint},
};

/// How far two entries of people and workers may be out of the order of their clocks: each looks at the clock before it waits for its turn to write.
const TURN: f64 = 5.0;

/// How many reads come before a change of keys.
const SETTLED: usize = 6;

/// How troubles name the place where they are: a server, a domain controller, or a part of the cloud.
const PLACES: [&str; 7] = ["ex0", "dc0", "application", "entra", "graph", "tenant", "127.0.0.1"];

/// What workers that were killed may have left behind.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    shells: usize,
}

impl Leftovers {
    /// Takes note of what is there when a worker is killed. Each of the steps that it is at may have asked for one more, which is not made yet.
    pub(crate) fn add(&mut self, lab: &Lab, steps_at_once: usize) {
        self.shells += lab.shells() + steps_at_once;
    }
}

/// Checks everything. No worker may be alive any more.
pub(crate) async fn check(world: &World, id: RenewalId, leftovers: &Leftovers, broken: Option<&Broken>) {
    let (run, audit, report) = (world.run(id).await, world.audit(id).await, world.lab.report());
    is_over(&run);
    trusted(&report, broken);
    one_certificate(&report, &audit);
    nothing_twice(&report, &audit, &run);
    in_order(&run, &audit);
    intended(&report, &audit);
    intended_in_entra(world, &report, &audit);
    key_destroyed(world, &run, &audit).await;
    as_the_end_says(world, &run, &report);
    keys_in_entra(world, &run, &report, &audit, broken);
    told_once(world, id, &audit).await;
    let left = world.lab.shells();
    assert!(left <= leftovers.shells, "leaked: {left} shells are open, {leftovers:?}");
}

/// What of the record is announced leads to one message, whatever happened to those who wrote it; nothing else does.
async fn told_once(world: &World, id: RenewalId, audit: &[AuditEntry]) {
    let (everybody, now) = (|_: &Unexpanded| vec!["everybody".to_owned()], world.now());
    while answered(async || world.db.expand_announcements(everybody, now).await).await {}
    let page = Page { before: None, limit: 10_000 };
    let messages = answered(async || world.db.read(async |tx| tx.outbox(None, None, page).await).await).await;
    let messages: Vec<_> = messages.into_iter().filter(|message| message.renewal_id == Some(id)).collect();
    let told: BTreeMap<i64, &str> = messages.iter().map(|message| (message.sequence, message.event.as_str())).collect();
    assert_eq!(told.len(), messages.len(), "told twice: {messages:#?}");
    for entry in audit {
        let begins = entry.action == "renewal.requested" && entry.detail.get("from").is_none();
        let ends = ["succeeded", "rejected", "expired", "cancelled", "failed", "rolled_back", "paused"];
        let over = ends.iter().any(|word| entry.action.strip_prefix("renewal.") == Some(word));
        // Approvals that a ticket voids are told of with the ticket.
        let said = entry.action.starts_with("decision.") && entry.action != "decision.voided";
        if begins || over || said {
            assert_eq!(told.get(&entry.sequence), Some(&entry.action.as_str()), "not told: {entry:?}");
        }
    }
    for (sequence, event) in told {
        let entry = audit.iter().find(|entry| entry.sequence == sequence);
        let announced =
            ["renewal.", "decision.", "ticket."].iter().any(|noun| entry.is_some_and(|e| e.action.starts_with(noun)));
        assert!(announced, "{event} tells of {entry:?}");
    }
}

/// It has come to an end, and every step with it.
fn is_over(run: &LoadedRun) {
    assert!(!run.renewal.state.is_live(), "stuck: {:?}", run.renewal.state);
    for step in &run.steps {
        assert!(step.status.is_over(), "stuck: the run is over, {} {} is {:?}", step.kind, step.target, step.status);
    }
}

/// Nobody ever refused a token of anybody else, but for what broke.
pub(crate) fn trusted(report: &Report, broken: Option<&Broken>) {
    let trust = &report.trust;
    match broken {
        Some(broken) => broken.check(report),
        None => assert_eq!(trust.refused, 0, "trust: {:#?}", trust.refusals),
    }
    assert!(trust.checked > 0);
}

/// Nothing was published yet.
pub(crate) fn unpublished(world: &World) {
    let published: Vec<_> =
        world.lab.report().effects.into_iter().filter(|effect| effect.kind == EffectKind::Publish).collect();
    assert!(published.is_empty(), "date: published before anybody approved it: {published:#?}");
}

/// At most one certificate was made.
fn one_certificate(report: &Report, audit: &[AuditEntry]) {
    let sealed = count(audit, "key.sealed");
    assert!(sealed <= 1, "certificates: {sealed} keys were made");
    let imported = report.effects.iter().filter(|e| e.kind == EffectKind::Import);
    let imported: BTreeSet<_> = imported.filter_map(|e| e.thumbprint.as_ref()).collect();
    assert!(imported.len() <= 1, "certificates: {imported:?} were imported");
    assert_eq!(effects(report, EffectKind::NewCertificate), 0, "certificates: one was made on a server");
}

/// No effect came twice, and none was tried in vain.
fn nothing_twice(report: &Report, audit: &[AuditEntry], run: &LoadedRun) {
    let mut times: BTreeMap<_, u32> = BTreeMap::new();
    for effect in report.effects.iter().filter(|effect| effect.by != "operator" || effect.kind == EffectKind::Power) {
        assert!(effect.changed, "twice: {effect:?} changed nothing");
        *times.entry((effect.kind, &effect.place, &effect.thumbprint, &effect.detail)).or_default() += 1;
    }
    let staged = effects(report, EffectKind::SetAuthConfigNext);
    let rolled_back = run.steps.iter().any(|s| s.kind == StepKind::RestorePrevious);
    // The date is pushed out when it comes near before everybody is ready.
    let postponed = audit.iter().filter(|entry| is_postponement(entry)).count();
    assert!(
        staged <= 1 + usize::from(rolled_back) + postponed,
        "twice: staged {staged} times, {postponed} postponements"
    );
    for (effect, times) in times {
        let allowed = match effect.0 {
            EffectKind::SetAuthConfigNext | EffectKind::Power => u32::MAX,
            EffectKind::Restart if rolled_back => 2,
            _ => 1,
        };
        assert!(times <= allowed, "twice: {times} times {effect:?}");
    }
}

/// The record has no gap, and tells a story that the state machine allows.
fn in_order(run: &LoadedRun, audit: &[AuditEntry]) {
    assert!((1..).zip(audit).all(|(n, entry)| entry.sequence == n), "audit: it has gaps");
    assert_eq!(audit[0].action, "renewal.requested", "audit");
    let turn = TimeDelta::milliseconds((TURN * SCALE * 1000.0) as i64);
    for pair in audit.windows(2) {
        assert!(pair[0].at <= pair[1].at + turn, "audit: {:#?} is older than what came before it", pair);
    }
    legal_states(run, audit);
    whole_steps(run, audit);
    answers_after_intents(audit);
}

fn legal_states(run: &LoadedRun, audit: &[AuditEntry]) {
    let mut state = State::Requested;
    for entry in audit.iter().filter(|entry| !entry.detail["state"].is_null()) {
        assert_eq!(entry.detail["from"], state.status(), "audit: a state is missing before {entry:?}");
        let next: State = serde_json::from_value(entry.detail["state"].clone()).unwrap();
        let follows = events(&state, &next).into_iter().any(|event| {
            let reached = state.clone().apply(event, entry.at);
            reached.is_ok_and(|reached| (reached.status(), reached.phase()) == (next.status(), next.phase()))
        });
        assert!(follows, "audit: {next:?} cannot follow {state:?}");
        state = next;
    }
    assert_eq!(state, run.renewal.state, "audit: its last state is not that of the renewal");
}

/// What can have made one state out of another.
fn events(state: &State, next: &State) -> Vec<Event> {
    let digest = || domain::Digest::of(b"any");
    match next.clone() {
        State::Requested => vec![Event::Resume],
        State::Planning => vec![Event::PlanningBegan, Event::Resume],
        State::AwaitingApproval { gate, .. } => {
            vec![Event::Planned { digest: digest() }, Event::GateReached { gate, digest: digest() }, Event::Resume]
        }
        State::Running { phase } => {
            let passed = state.open_gate().map(|gate| Event::GatePassed { gate, then: next.clone() });
            let undo = [Event::Cancel { undo: true }, Event::RollBack].into_iter().filter(|_| phase == Phase::Undo);
            passed.into_iter().chain(undo).chain([Event::PhaseBegan { phase }, Event::Resume]).collect()
        }
        State::Waiting { phase, reason } => {
            let passed = state.open_gate().map(|gate| Event::GatePassed { gate, then: next.clone() });
            passed.into_iter().chain([Event::PhaseWaits { phase, reason }, Event::Resume]).collect()
        }
        State::Scheduled { .. } => vec![Event::GatePassed { gate: Gate::Execute, then: next.clone() }, Event::Resume],
        State::Soaking { since, until } => vec![Event::SoakBegan { since, until }, Event::Resume],
        State::Paused { by, reason, .. } => vec![Event::Pause { by, reason }],
        State::Succeeded { .. } => vec![Event::Finished],
        State::Rejected { by, reason, .. } => vec![Event::Rejected { by, reason }],
        State::Expired { .. } => vec![Event::Expired],
        State::Failed { trouble, .. } => vec![Event::Refused { trouble }],
        State::Cancelled { .. } => {
            vec![Event::Cancel { undo: false }, Event::Undone { to: domain::renewal::UndoTo::Cancelled }]
        }
        State::RolledBack { .. } => vec![Event::Undone { to: domain::renewal::UndoTo::RolledBack }],
    }
}

/// Every step that a worker took was begun once, and every step that has succeeded ended once.
fn whole_steps(run: &LoadedRun, audit: &[AuditEntry]) {
    let told = |action: &str, kind: StepKind, target: &str| {
        let about = |entry: &&AuditEntry| {
            entry.action == action
                && entry.detail["step"] == kind.as_str()
                && entry.detail["target"].as_str().unwrap_or_default() == target
        };
        audit.iter().filter(about).count()
    };
    for step in &run.steps {
        // The restarts of a run that is taken back are steps of the same name.
        let same = || run.steps.iter().filter(|s| (s.kind, &s.target) == (step.kind, &step.target));
        let begun = same().filter(|s| s.attempt > 0).count();
        let name = format!("{} {}", step.kind, step.target);
        assert_eq!(told("step.started", step.kind, &step.target), begun, "audit: beginnings of {name}");
        if step.kind != StepKind::Preflight {
            let succeeded = same().filter(|s| s.status == StepStatus::Succeeded).count();
            assert_eq!(told("step.succeeded", step.kind, &step.target), succeeded, "audit: ends of {name}");
        }
    }
    let planned = usize::from(run.plan.is_some());
    assert_eq!(count(audit, "plan.made"), planned, "audit: plans");
}

/// An answer belongs to the intent before it, of the same attempt.
pub(crate) fn answers_after_intents(audit: &[AuditEntry]) {
    let mut open: BTreeMap<(String, String, i64), String> = BTreeMap::new();
    for entry in audit.iter().filter(|entry| entry.action.starts_with("cmdlet.")) {
        let text = |name: &str| entry.detail[name].as_str().unwrap_or_default().to_owned();
        let attempt = (text("step"), text("target"), entry.detail["attempt"].as_i64().unwrap());
        if entry.action == "cmdlet.intended" {
            open.insert(attempt, text("cmdlet"));
        } else {
            assert_eq!(open.remove(&attempt), Some(text("cmdlet")), "audit: nobody intended {entry:?}");
        }
    }
}

/// Every cmdlet that changes something was on record before it was sent: there is an intent for each, also for those whose senders were killed.
fn intended(report: &Report, audit: &[AuditEntry]) {
    let mut intents: BTreeMap<String, usize> = BTreeMap::new();
    for entry in audit.iter().filter(|entry| entry.action == "cmdlet.intended") {
        *intents.entry(kind_of(entry.detail["cmdlet"].as_str().unwrap())).or_default() += 1;
    }
    for asked in &report.cmdlets {
        let changing =
            ["Set-", "Import-", "Remove-", "Restart-", "Enable-", "New-"].iter().any(|p| asked.cmdlet.starts_with(p))
                && !asked.cmdlet.eq_ignore_ascii_case("Set-ADServerSettings");
        if changing {
            let names: Vec<String> =
                asked.parameters.iter().map(|(name, _)| format!("-{}", name.trim_matches(['-', ':']))).collect();
            let kind = kind_of(&format!("{} {}", asked.cmdlet, names.join(" ")));
            let left = intents.entry(kind.clone()).or_default();
            assert!(*left > 0, "intents: none is left for {kind}");
            *left -= 1;
            // Whoever looks first asks for nothing that is done already. Only Exchange can be faster, which publishes by itself when the date has come.
            let as_meant = ["ok", "held", "reply_lost"].contains(&asked.outcome.as_str())
                || asked.outcome.contains("NoNextCertificate");
            // So it can be while the date is moved.
            let published = report.effects.iter().any(|e| e.by == "AuthAdmin" && e.at <= asked.at);
            let too_late = kind.contains("-NewCertificateThumbprint") && published;
            assert!(as_meant || too_late || asked.outcome.contains("RpcException"), "in vain: {asked:?}");
        }
    }
}

/// So was every change of keys in the tenant.
fn intended_in_entra(world: &World, report: &Report, audit: &[AuditEntry]) {
    let is_patch = |entry: &&AuditEntry| {
        let line = entry.detail["cmdlet"].as_str().unwrap_or_default();
        entry.action == "cmdlet.intended" && line.starts_with("PATCH ")
    };
    let (asked, intents) =
        (report.cloud.iter().filter(|asked| asked.method == "PATCH").count(), audit.iter().filter(is_patch).count());
    assert!(asked <= intents, "intents: {asked} changes of keys, {intents} intents");
    let refused = report.cloud.iter().filter(|asked| asked.method == "PATCH" && asked.status == 400);
    for asked in refused.filter(|asked| !asked.disturbed) {
        assert!(is_of_what_just_went(world, report, asked), "in vain: {asked:?}");
    }
}

/// The list holds a key that somebody took out after the last reads that could have shown it. A kept entry is sent without its key (cloud.md 2.2), and Entra
/// does not take one that it does not know any more. Nothing is changed by that, and no read more would spare it: it would only be the next last one.
fn is_of_what_just_went(world: &World, report: &Report, asked: &CloudAsked) -> bool {
    let since = last_reads(report, asked.at, dedicated_replicas(world));
    let taken_out = |effect: &&Effect| {
        let meanwhile = effect.at <= asked.at && since.is_none_or(|since| effect.at >= since);
        effect.kind == EffectKind::RemoveCloudKey && effect.by == "operator" && meanwhile
    };
    asked.path.contains("/applications/")
        && asked.code == "Request_BadRequest"
        && report.effects.iter().any(|e| taken_out(&e))
}

/// How many replicas of the tenant hold the keys of the dedicated application.
fn dedicated_replicas(world: &World) -> usize {
    let objects = world.lab.state().tenant.map(|tenant| tenant.objects).unwrap_or_default();
    objects.iter().find(|one| one.display_name.starts_with("ExchangeServerApp-")).map_or(1, |one| one.replicas.len())
}

/// When the first of the reads was made that come before a change and one of which shows what the replica has that hears of everything first.
fn last_reads(report: &Report, before: DateTime<Utc>, replicas: usize) -> Option<DateTime<Utc>> {
    let reads = report.cloud.iter().filter(|asked| {
        asked.method == "GET" && asked.status == 200 && !asked.disturbed && asked.path.contains("/applications/")
    });
    let before: Vec<_> = reads.filter(|asked| asked.at <= before).collect();
    // One of so many comes from that replica.
    let last = before.iter().rev().take(if replicas == 1 { 1 } else { SETTLED }).next_back();
    last.map(|read| read.at)
}

/// A cmdlet, and which of its doings if it has several.
fn kind_of(line: &str) -> String {
    let doings = ["-PublishCertificate", "-ClearPreviousCertificate", "-NewCertificateThumbprint"];
    let doing = doings.into_iter().find(|doing| line.contains(doing)).unwrap_or_default();
    format!("{} {doing}", line.split_whitespace().next().unwrap_or_default())
}

/// The sealed key is gone, and the record says when.
async fn key_destroyed(world: &World, run: &LoadedRun, audit: &[AuditEntry]) {
    let id = run.renewal.id;
    let left = answered(async || world.db.read(async |tx| tx.sealed_key(id).await).await).await;
    assert!(left.is_none(), "key: it outlives the run");
    assert_eq!(count(audit, "key.destroyed"), count(audit, "key.sealed"), "key: made and destroyed");
    let staging = audit.iter().position(|entry| entry.action == "step.started" && entry.detail["step"] == "stage");
    if let Some(staging) = staging {
        assert_eq!(count(&audit[..staging], "key.destroyed"), 1, "key: it outlives the last server");
    }
}

/// The organization is as the end of the run says.
fn as_the_end_says(world: &World, run: &LoadedRun, report: &Report) {
    let state = serde_json::to_value(world.lab.state()).unwrap();
    let auth_configs = || state["controllers"].as_array().unwrap().iter().map(|controller| &controller["auth_config"]);
    let stores =
        || state["servers"].as_array().unwrap().iter().map(|server| server["certificates"].as_array().unwrap());
    let only = |store: &[serde_json::Value], thumbprint: &Thumbprint| {
        store.len() == 1 && store[0]["thumbprint"] == thumbprint.as_str()
    };
    let old = || run.plan.as_ref().unwrap().observed.current.clone().unwrap();
    let new = Facts::of(&run.steps).thumbprint;
    match &run.renewal.state {
        State::Succeeded { .. } => {
            let new = new.unwrap();
            for config in auth_configs() {
                assert_eq!(config["current"], new.as_str(), "end: {config}");
                assert!(no_thumbprint(&config["next"]) && no_thumbprint(&config["previous"]), "end: {config}");
            }
            for store in stores() {
                assert!(only(store, &new), "end: not only the new certificate is left: {store:?}");
            }
            for (kind, times) in [
                (EffectKind::Import, 2),
                (EffectKind::Publish, 1),
                (EffectKind::ClearPrevious, 1),
                (EffectKind::Remove, 2),
            ] {
                assert_eq!(effects(report, kind), times, "end: {kind:?}");
            }
        }
        State::Cancelled { .. } => {
            for config in auth_configs() {
                assert!(run.plan.is_none() || config["current"] == old().as_str(), "end: {config}");
                assert!(no_thumbprint(&config["next"]), "end: {config}");
            }
            for store in stores() {
                assert!(
                    run.plan.is_none() && store.len() == 1 || only(store, &old()),
                    "end: not only the old certificate is left: {store:?}"
                );
            }
        }
        State::RolledBack { .. } => {
            for config in auth_configs() {
                assert_eq!(config["current"], old().as_str(), "end: {config}");
            }
        }
        state => panic!("end: {state:?}"),
    }
}

/// Nobody's keys but those of the renewal came or went, and Entra holds those of the certificates that the end leaves.
fn keys_in_entra(world: &World, run: &LoadedRun, report: &Report, audit: &[AuditEntry], broken: Option<&Broken>) {
    let Some(tenant) = world.lab.state().tenant else { return };
    let new = Facts::of(&run.steps).thumbprint.map(|new| new.as_str().to_owned());
    let old = run.plan.as_ref().and_then(|plan| plan.observed.current.clone()).map(|old| old.as_str().to_owned());
    let ours = |effect: &&Effect, kind| effect.kind == kind && effect.by != "operator";
    let about = |kind| report.effects.iter().filter(move |effect| ours(effect, kind));
    let named = |effect: &Effect| effect.thumbprint.as_ref().map(|key| key.as_str().to_owned());
    for added in about(EffectKind::AddCloudKey) {
        assert_eq!(named(added), new, "keys: {added:?}");
    }
    let application = tenant.objects.iter().find(|object| object.display_name.starts_with("ExchangeServerApp-"));
    let replicas = &application.unwrap().replicas;
    for removed in about(EffectKind::RemoveCloudKey) {
        let leaves = match run.renewal.state {
            State::Succeeded { .. } => &old,
            _ => &new,
        };
        let excused = || was_told(audit, removed) || could_not_be_seen(report, removed, replicas.len());
        assert!(&named(removed) == leaves || excused(), "keys: {removed:?}");
    }
    let held: BTreeSet<_> = replicas[0].iter().map(|key| key.as_str().to_owned()).collect();
    let holds = |key: &Option<String>| key.as_ref().is_some_and(|key| held.contains(key));
    if broken.is_some_and(|broken| broken.what == Breakage::KeyOutOfEntra) {
        return;
    }
    match run.renewal.state {
        State::Succeeded { .. } => assert!(holds(&new) && !holds(&old), "keys: {held:?} are left, not {new:?} alone"),
        State::RolledBack { .. } => assert!(holds(&old), "keys: {held:?} are left, without {old:?}"),
        _ => assert!(run.plan.is_none() || holds(&old) && !holds(&new), "keys: {held:?} are left, not {old:?} alone"),
    }
}

/// The record names the key that was erased.
fn was_told(audit: &[AuditEntry], removed: &Effect) -> bool {
    let key = removed.thumbprint.as_ref().map(|key| key.as_str());
    audit.iter().any(|entry| entry.action == "cloud_key.lost" && entry.detail["thumbprint"].as_str() == key)
}

/// Somebody registered it after the last reads that could have shown it: Graph takes a list whatever came before it, and no replica that was read afterwards
/// was behind. That is the time that is left (docs/hybrid.md).
fn could_not_be_seen(report: &Report, removed: &Effect, replicas: usize) -> bool {
    let added = report.effects.iter().find(|effect| {
        effect.kind == EffectKind::AddCloudKey && effect.by == "operator" && effect.thumbprint == removed.thumbprint
    });
    let since = last_reads(report, removed.at, replicas);
    added.is_some_and(|added| since.is_none_or(|since| added.at >= since))
}

/// A renewal that was refused has changed nothing.
pub(crate) fn untouched(world: &World) {
    let theirs = |e: &Effect| e.kind != EffectKind::Power && e.by != "operator";
    let effects: Vec<_> = world.lab.report().effects.into_iter().filter(theirs).collect();
    assert!(effects.is_empty(), "{effects:#?}");
}

/// A person can make something of it.
pub(crate) fn understandable(trouble: &Trouble) {
    let internal = [
        "certificate_missing",
        "no_domain_controller",
        "not_published",
        "plan_missing",
        "protocol",
        "unexpected_answer",
    ];
    assert!(!internal.contains(&trouble.code.as_str()), "{trouble:?}");
    assert!(trouble.message.len() > 20 && trouble.action.len() > 10, "{trouble:?}");
    let message = trouble.message.to_ascii_lowercase();
    assert!(PLACES.iter().any(|place| message.contains(place)), "it names the place: {trouble:?}");
}

fn is_postponement(entry: &AuditEntry) -> bool {
    let line = entry.detail["cmdlet"].as_str().unwrap_or_default();
    entry.action == "cmdlet.intended" && entry.detail["step"] == "publish" && line.contains("-NewCertificateThumbprint")
}

fn count(audit: &[AuditEntry], action: &str) -> usize {
    audit.iter().filter(|entry| entry.action == action).count()
}

fn effects(report: &Report, kind: EffectKind) -> usize {
    report.effects.iter().filter(|effect| effect.kind == kind).count()
}
