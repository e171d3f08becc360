//! Whatever happens to one call of a renewal, or to one write to the database, and wherever a worker is killed: what `invariants.rs` says holds at the end.
//!
//! One thing goes wrong in each run: a call of a cmdlet fails before it is carried out or after, its connection is cut before or after, the workers are
//! killed before or after; a writing transaction is to be tried again, the connection to the database is lost before, at or after the commit, the worker
//! is killed before, at or after it, or, on PostgreSQL, stands still until another one has its steps, then goes on. `cargo test` takes a sample, on SQLite and, where there is a server, on PostgreSQL. All of it, each kind at each call
//! and each write, takes hours of processor time:
//!
//! ```text
//! REKEY_EVERY_CALL=1 ./test -p worker --test main every_call -- --nocapture
//! ```
//!
//! `REKEY_EVERY_CALL=7` takes every seventh run of it, `REKEY_CALL_FAULT=kill_after` one kind only.

use std::{collections::BTreeSet, env};

use db::{Kind, Moment};
use lab::Report;

use crate::{
    circumstances::Circumstances,
    database,
    process::{Seen, Trap},
    trial::{self, CallFault, Happening, Script, What, write_faults},
};

/// Every so manieth call that changes nothing is in the sample.
const SAMPLE_OF_CALLS: usize = 40;
/// Every so manieth request to the cloud is.
const SAMPLE_OF_REQUESTS: usize = 12;
/// Every so manieth write is.
const SAMPLE_OF_WRITES: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_or_write_is_survived_on_sqlite() {
    everything_once(Kind::Sqlite, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_request_to_the_cloud_is_survived_on_sqlite() {
    everything_once(Kind::Sqlite, Some(Circumstances::QUICK)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_or_write_is_survived_on_postgres() {
    if database::server().is_some() {
        everything_once(Kind::Postgres, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_request_to_the_cloud_is_survived_on_postgres() {
    if database::server().is_some() {
        everything_once(Kind::Postgres, Some(Circumstances::QUICK)).await;
    }
}

async fn everything_once(database: Kind, hybrid: Option<Circumstances>) {
    let script = |happenings| Script { hybrid, ..Script::new(database, 1, happenings) };
    let clean = Box::pin(trial::run(script(Vec::new()))).await;
    let calls = clean.report.cmdlets.len();
    let requests = clean.report.cloud.len();
    let all = all(calls, requests, clean.seen, database);
    let chosen = chosen(all.clone(), &clean.report, database);
    println!(
        "{database:?}: {calls} calls, {requests} requests to the cloud, {:?}, {} schedules in all, {} run",
        clean.seen,
        all.len(),
        chosen.len()
    );
    let scripts = chosen.into_iter().map(|(kind, _, what)| (kind, script(vec![Happening { after: 0, what }])));
    Box::pin(trial::try_all(scripts.collect())).await;
}

/// A kind of fault, the number of the call or write that it meets, and both together.
type Schedule = (&'static str, usize, What);

fn all(calls: usize, requests: usize, seen: Seen, database: Kind) -> Vec<Schedule> {
    let at_calls = (0..calls)
        .flat_map(|skip| CallFault::ALL.into_iter().map(move |how| (how.name(), skip, What::Call { skip, how })));
    let at_requests = (0..requests).flat_map(|skip| {
        CallFault::ALL.into_iter().map(move |how| (how.cloud_name(), skip, What::CloudCall { skip, how }))
    });
    let at_writes = write_faults(database).iter().flat_map(|&(name, moment, blow)| {
        let times = match moment {
            Moment::Begin => seen.begun,
            Moment::Commit => seen.to_commit,
            Moment::Committed => seen.committed,
        };
        (0..times).map(move |skip| (name, skip, What::Write(Trap { moment, skip, blow })))
    });
    at_calls.chain(at_requests).chain(at_writes).collect()
}

/// All, every so manieth, or the sample.
fn chosen(all: Vec<Schedule>, clean: &Report, database: Kind) -> Vec<Schedule> {
    let only = env::var("REKEY_CALL_FAULT").ok();
    let all = all.into_iter().filter(|(kind, ..)| only.as_ref().is_none_or(|only| only == kind));
    if let Ok(step) = env::var("REKEY_EVERY_CALL") {
        return all.step_by(step.parse().unwrap_or(1).max(1)).collect();
    }
    let (calls, requests) = (sample_of_calls(clean), sample_of_requests(clean));
    // The two databases take turns: what one of them leaves out the other has.
    let turn = usize::from(database == Kind::Postgres);
    let turns = |sample: &[usize], number: &usize, how: &CallFault| {
        let place = sample.iter().position(|call| call == number);
        place.is_some_and(|place| CallFault::ALL[(2 * place + 3 * turn + place / 3) % 6] == *how)
    };
    let in_sample = |(kind, number, what): &Schedule| match what {
        What::CloudCall { how, .. } => turns(&requests, number, how),
        // An organization without a cloud has the others.
        _ if !requests.is_empty() => false,
        What::Call { how, .. } => turns(&calls, number, how),
        _ => {
            let (kinds, place) = (write_faults(database), number / SAMPLE_OF_WRITES);
            // Three has no divisor in common with either number of kinds: each has its turn.
            let due = kinds[(3 * place + 7 + turn) % kinds.len()].0;
            number % SAMPLE_OF_WRITES == 4 - 2 * turn && due == *kind
        }
    };
    all.filter(in_sample).collect()
}

/// The calls that change something, and some of the others.
fn sample_of_calls(clean: &Report) -> Vec<usize> {
    let changing = ["Import-", "Set-AuthConfig", "Remove-", "Restart-WebAppPool"];
    let changing = clean.cmdlets.iter().enumerate().filter(|(_, c)| changing.iter().any(|p| c.cmdlet.starts_with(p)));
    let others = (0..clean.cmdlets.len()).step_by(SAMPLE_OF_CALLS);
    changing.map(|(call, _)| call).chain(others).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Those that change keys, and some of the others.
fn sample_of_requests(clean: &Report) -> Vec<usize> {
    let changes = clean.cloud.iter().enumerate().filter(|(_, asked)| asked.method == "PATCH");
    // What comes after a change looks whether it is made.
    let around = changes.flat_map(|(request, _)| [request - 1, request, request + 1]);
    around.chain((0..clean.cloud.len()).step_by(SAMPLE_OF_REQUESTS)).collect::<BTreeSet<_>>().into_iter().collect()
}
