//! Whatever happens in the course of a renewal, and whatever people say in between: what `invariants.rs` says holds at its end. Workers are killed at calls
//! and at writes, calls fail or lose their answers, transactions conflict, servers go down and come back, replication gets slow, workers join, somebody
//! cancels, pauses, retries or rolls back, all at random; a schedule that goes wrong is made as small as it gets.
//!
//! Each run prints its seed, and what goes wrong prints how to have it again:
//!
//! ```text
//! REKEY_SCHEDULES=50 REKEY_SEED=7 ./test -p worker --test main any_schedule -- --nocapture
//! ```

use std::env;

use db::{Kind, Moment};
use proptest::{
    collection, prop_oneof,
    strategy::{Just, Strategy},
    test_runner::{Config, RngSeed, TestError, TestRunner},
};
use uuid::Uuid;

use crate::{
    database,
    process::{Blow, Trap},
    trial::{self, CallFault, Happening, Script, Verb, What, write_faults},
};

/// How many schedules are tried on each database.
const SCHEDULES: u32 = 4;
/// How often a schedule that goes wrong is made smaller: each try is a renewal.
const SHRINKINGS: u32 = 60;
/// A renewal asks for about so many cmdlets.
const CMDLETS: usize = 160;

#[test]
fn any_schedule_ends_right_on_sqlite() {
    try_schedules(Kind::Sqlite);
}

#[test]
fn any_schedule_ends_right_on_postgres() {
    if database::server().is_some() {
        try_schedules(Kind::Postgres);
    }
}

fn try_schedules(database: Kind) {
    let cases = env::var("REKEY_SCHEDULES").ok().map_or(SCHEDULES, |cases| cases.parse().unwrap());
    let seed = env::var("REKEY_SEED").ok().map_or_else(|| Uuid::new_v4().as_u64_pair().1, |seed| seed.parse().unwrap());
    let again = format!("REKEY_SCHEDULES={cases} REKEY_SEED={seed}");
    println!("{database:?}: {again}");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: SHRINKINGS,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let tried = TestRunner::new(config).run(&script(database), |script| {
        println!("{script:?}");
        let ended = runtime.block_on(trial::run(script));
        println!("{}, stopped: {:?}", ended.status, ended.stopped);
        Ok(())
    });
    match tried {
        Ok(()) => {}
        Err(TestError::Fail(why, script)) => panic!("{why}\nThe smallest schedule: {script:#?}\nAgain: {again}"),
        Err(error) => panic!("{error}"),
    }
}

fn script(database: Kind) -> impl Strategy<Value = Script> {
    (1..=4_usize, collection::vec(happening(database), 1..=5)).prop_map(move |(steps_at_once, mut happenings)| {
        happenings.sort_by_key(|happening| happening.after);
        Script { database, steps_at_once, happenings }
    })
}

fn happening(database: Kind) -> impl Strategy<Value = Happening> {
    // Before the first one there is no renewal of which to say anything.
    (1..CMDLETS, what(database)).prop_map(|(after, what)| Happening { after, what })
}

fn what(database: Kind) -> impl Strategy<Value = What> {
    let call = proptest::sample::select(&CallFault::ALL[..]).prop_map(|how| What::Call { skip: 0, how });
    let write = (proptest::sample::select(write_faults(database)), 0..4_usize)
        .prop_map(|((_, moment, blow), skip): ((&str, Moment, Blow), usize)| What::Write(Trap { moment, skip, blow }));
    let verb =
        proptest::sample::select(&[Verb::Pause, Verb::Retry, Verb::Cancel, Verb::RollBack][..]).prop_map(What::Say);
    // One process alone uses a SQLite file.
    let joins = u32::from(database == Kind::Postgres);
    prop_oneof![
        1 => (0..1800_i64).prop_map(|seconds| What::Lag { seconds }),
        4 => call,
        4 => write,
        1 => proptest::sample::select(&["EX01", "EX03"][..]).prop_map(|server| What::Outage { server }),
        3 => verb,
        joins => Just(What::Join),
    ]
}
