//! Whatever happens to one request of a renewal, or to its answer: the renewal ends right, or stops with a reason that a person understands and
//! ends right when it is tried again. Nothing is done twice, and no session is left behind.
//!
//! One request in each run is disturbed. `cargo test` takes a sample: every kind of fault, at the requests around every cmdlet that changes something and
//! at some of the others. The whole matrix, each kind at each request, takes hours of processor time:
//!
//! ```text
//! REKEY_EVERY_FAULT=1 cargo test -p worker --test main faults_of_the_wire -- --nocapture
//! ```
//!
//! `REKEY_EVERY_FAULT=7` takes every seventh of it, `REKEY_FAULT=drop_after` one kind only.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    env,
    panic::AssertUnwindSafe,
};

use db::LoadedRun;
use domain::{Policy, RenewalId, State, StepStatus, Trouble, audit::AuditEntry};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use lab::{
    Options, Report,
    faults::wire::Action,
    journal::EffectKind,
    organization::{Organization, Servicelet},
};
use serde_json::{Value as Json, json};

use crate::support::{Setting, World};

/// How many renewals are under way at the same time: they wait more than they compute.
const AT_ONCE: usize = 8;
/// Every so manieth request is in the sample, whatever it is for.
const SAMPLE: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn one_fault_at_any_request_is_survived_or_told() {
    let clean = clean_run().await;
    let chosen: Vec<(Kind, usize)> = chosen(&clean);
    println!("{} requests in a renewal, {} runs with a fault", clean.requests.len(), chosen.len());
    let runs = stream::iter(chosen).map(|(kind, request)| async move {
        let ended = AssertUnwindSafe(disturbed_run(kind, request)).catch_unwind().await;
        let ended = ended.map_err(panic_text);
        if let Err(why) = &ended {
            println!("{} at request {request}: {why}", kind.name);
        }
        (kind, request, ended)
    });
    let mut summary: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut runs = runs.buffer_unordered(AT_ONCE);
    while let Some((kind, request, ended)) = runs.next().await {
        match ended {
            Ok(ended) => summary.entry(kind.name).or_default().add(&ended),
            Err(why) => failures.push(format!("{} at request {request}: {why}", kind.name)),
        }
    }
    summary.iter().for_each(|(kind, tally)| println!("{kind:15} {tally}"));
    assert!(failures.is_empty(), "{} runs went wrong:\n{}", failures.len(), failures.join("\n"));
}

/// A kind of fault.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    /// What the lab is told to do.
    act: fn() -> Json,
    /// Only answers to Receive hold fragments.
    only_receive: bool,
}

/// All that can happen to a request.
fn kinds() -> Vec<Kind> {
    let kind = |name, act| Kind { name, act, only_receive: false };
    let on_receive = |name, act| Kind { name, act, only_receive: true };
    vec![
        kind("drop", || json!("drop")),
        kind("drop_after", || json!("drop_after")),
        kind("timeout", || json!("timeout")),
        kind("kill_shell", || json!("kill_shell")),
        kind("status_503", || json!({ "status": 503 })),
        kind("status_500", || json!({ "status": 500 })),
        kind("status_401", || json!({ "status": 401 })),
        kind("status_403", || json!({ "status": 403 })),
        kind(
            "access_denied",
            || json!({ "fault": { "code": 5, "subcode": "w:AccessDenied", "reason": "Access is denied." } }),
        ),
        kind(
            "quota",
            || json!({ "fault": { "code": 2_150_859_173_u32, "subcode": "w:QuotaLimit", "reason": "Too many shells." } }),
        ),
        kind("internal_error", || json!({ "fault": { "code": 2_150_858_752_u32, "subcode": "w:InternalError" } })),
        kind("malformed", || json!("malformed")),
        kind("delay", || json!({ "delay": 500 })),
        on_receive("duplicate", || json!("duplicate")),
        on_receive("out_of_order", || json!("out_of_order")),
    ]
}

/// Which kinds are tried at which requests.
fn chosen(clean: &Report) -> Vec<(Kind, usize)> {
    let only = env::var("REKEY_FAULT").ok();
    let kinds: Vec<Kind> = kinds().into_iter().filter(|kind| only.as_ref().is_none_or(|o| o == kind.name)).collect();
    let fits = |kind: &Kind, request: usize| !kind.only_receive || clean.requests[request].action == Action::Receive;
    let every = env::var("REKEY_EVERY_FAULT").ok().map(|step| step.parse().unwrap_or(1).max(1));
    if let Some(step) = every {
        let all = (0..clean.requests.len()).flat_map(|request| kinds.iter().map(move |kind| (*kind, request)));
        let all: Vec<_> = all.filter(|(kind, request)| fits(kind, *request)).collect();
        return all.into_iter().step_by(step).collect();
    }
    let changing = around_changes(clean);
    let others = (0..clean.requests.len()).step_by(SAMPLE);
    let requests: BTreeSet<usize> = others.chain(changing).collect();
    let mut used = vec![0; kinds.len()];
    let mut choose = |request: usize| {
        let fitting = (0..kinds.len()).filter(|kind| fits(&kinds[*kind], request));
        let kind = fitting.min_by_key(|kind| used[*kind])?;
        used[kind] += 1;
        Some((kinds[kind], request))
    };
    requests.into_iter().filter_map(&mut choose).collect()
}

/// The requests of every Import and Set-AuthConfig: the Command, what came before it (the exchange of the key that protects the password) and after it
/// (the answer, its end).
fn around_changes(clean: &Report) -> BTreeSet<usize> {
    let commands = clean.requests.iter().enumerate().filter(|(_, asked)| asked.action == Action::Command);
    let carried = commands.zip(&clean.cmdlets);
    let changing =
        carried.filter(|(_, c)| ["Import-ExchangeCertificate", "Set-AuthConfig"].contains(&c.cmdlet.as_str()));
    let near = |command: usize| command.saturating_sub(2)..(command + 3).min(clean.requests.len());
    changing.flat_map(|((command, _), _)| near(command)).collect()
}

/// Two servers in two sites, which hear of every change at once, and a renewal with short waits: as few requests as a whole renewal can have, the same in
/// each run.
fn setting() -> Setting {
    let mut organization = Organization::contoso();
    organization.servers.remove(1);
    organization.replication_lag = chrono::TimeDelta::zero();
    organization.servicelet = Servicelet::Off;
    Setting {
        lab: Options { organization, ..Options::default() },
        policy: Policy { staging_lead_hours: 24, soak_hours: 2, soak_check_minutes: 240, ..Policy::default() },
        steps_at_once: Some(1),
        ..Setting::default()
    }
}

async fn clean_run() -> Report {
    let world = World::with(setting()).await;
    let id = world.ask(|_| {}).await;
    world.approve_all(id).await;
    check(&world, id).await;
    let lab = world.stop_worker().await;
    let report = lab.report();
    lab.shutdown().await;
    report
}

/// How a run with a fault went.
#[derive(Debug)]
struct Ended {
    /// Whether there was such a request at all.
    disturbed: bool,
    /// The trouble with which it stopped on the way.
    stopped: Option<String>,
}

async fn disturbed_run(kind: Kind, request: usize) -> Ended {
    let world = World::with(setting()).await;
    world.fault(json!({ "kind": "wire", "skip": request, "do": (kind.act)() }));
    let mut id = world.ask(|_| {}).await;
    let mut stopped = None;
    loop {
        let run = world.until(id, |run| {
            trouble(run).is_some() || run.renewal.state.open_gate().is_some() || !run.renewal.state.is_live()
        });
        let run = run.await;
        if let Some(trouble) = trouble(&run) {
            check_trouble(&trouble);
            assert!(stopped.is_none(), "stopped again, though nothing was disturbed any more: {stopped:?}, {trouble}");
            stopped = Some(trouble.code);
            if run.renewal.state.is_live() {
                world.db.write(async |tx| tx.retry(id, None, "olga", world.now()).await).await.unwrap();
            } else {
                check_untouched(&world);
                id = world.ask(|_| {}).await;
            }
        } else if let Some(gate) = run.renewal.state.open_gate() {
            world.approve(id, gate).await;
        } else {
            break;
        }
    }
    check(&world, id).await;
    let lab = world.stop_worker().await;
    assert_eq!(lab.shells(), 0, "shells were left behind");
    let disturbed = lab.report().requests.iter().any(|asked| asked.disturbed);
    lab.shutdown().await;
    Ended { disturbed, stopped }
}

/// Why a run does not go on before somebody has acted.
fn trouble(run: &LoadedRun) -> Option<Trouble> {
    match &run.renewal.state {
        State::Failed { trouble, .. } => Some(trouble.clone()),
        _ => run.steps.iter().find(|s| s.status == StepStatus::Attention).and_then(|s| s.trouble.clone()),
    }
}

/// A person can make something of it.
fn check_trouble(trouble: &Trouble) {
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
    assert!(trouble.message.contains("ex0"), "it names the server: {trouble:?}");
}

/// A renewal that was refused has changed nothing.
fn check_untouched(world: &World) {
    assert!(world.lab.report().effects.is_empty(), "{:#?}", world.lab.report().effects);
}

/// The renewal has done everything, once.
async fn check(world: &World, id: RenewalId) {
    let run = world.run(id).await;
    assert!(matches!(run.renewal.state, State::Succeeded { .. }), "{:?}", run.renewal.state);
    world.check_renewed(id).await;
    for (kind, times) in [
        (EffectKind::Import, 2),
        (EffectKind::Publish, 1),
        (EffectKind::ClearPrevious, 1),
        (EffectKind::Remove, 2),
        (EffectKind::Restart, 6),
        (EffectKind::NewCertificate, 0),
        (EffectKind::ClearNext, 0),
    ] {
        assert_eq!(world.effects(kind), (times, times), "{kind:?}");
    }
    // The date is pushed out when a server seems not to be ready at that moment.
    let (staged, changed) = world.effects(EffectKind::SetAuthConfigNext);
    let postponed = world.audit(id).await.iter().filter(|entry| is_postponement(entry)).count();
    assert!(staged == changed && (1..=1 + postponed).contains(&(staged as usize)), "{staged} times staged");
    for server in world.lab.state().servers {
        assert_eq!(server.certificates.len(), 1, "only the new certificate is left: {server:?}");
    }
}

fn is_postponement(entry: &AuditEntry) -> bool {
    let line = entry.detail["cmdlet"].as_str().unwrap_or_default();
    entry.action == "cmdlet.intended" && entry.detail["step"] == "publish" && line.contains("-NewCertificateThumbprint")
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// What the runs of one kind came to.
#[derive(Default)]
struct Tally {
    runs: u32,
    /// There was no such request any more.
    undisturbed: u32,
    at_once: u32,
    stopped: BTreeMap<String, u32>,
}

impl Tally {
    fn add(&mut self, ended: &Ended) {
        self.runs += 1;
        match &ended.stopped {
            Some(code) => *self.stopped.entry(code.clone()).or_default() += 1,
            None if ended.disturbed => self.at_once += 1,
            None => self.undisturbed += 1,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { runs, undisturbed, at_once, stopped } = self;
        write!(f, "{runs} runs, {at_once} ended by themselves, {undisturbed} undisturbed, stopped: {stopped:?}")
    }
}
