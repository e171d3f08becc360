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

use std::{collections::BTreeSet, env};

use db::Kind as Database;
use lab::{Report, faults::wire::Action};
use serde_json::{Value as Json, json};

use crate::trial::{self, Happening, Script, What};

/// Every so manieth request is in the sample, whatever it is for.
const SAMPLE: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn one_fault_at_any_request_is_survived_or_told() {
    let clean = trial::run(script(Vec::new())).await.report;
    let chosen = chosen(&clean);
    println!("{} requests in a renewal, {} runs with a fault", clean.requests.len(), chosen.len());
    let disturbed = |(kind, request): (Kind, usize)| {
        let what = What::Request { skip: request, act: (kind.act)() };
        (kind.name, script(vec![Happening { after: 0, what }]))
    };
    trial::try_all(chosen.into_iter().map(disturbed).collect()).await;
}

fn script(happenings: Vec<Happening>) -> Script {
    Script::new(Database::Sqlite, 1, happenings)
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
