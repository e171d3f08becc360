//! Whatever happens in the course of a renewal, and whatever people say in between: what `invariants.rs` says holds at its end. Workers are killed at calls
//! and at writes, calls fail or lose their answers, transactions conflict, servers go down and come back, replication gets slow, workers join, somebody
//! cancels, pauses, retries or rolls back, all at random. A hybrid organization has a tenant besides, each part of which learns in its own time and fails in
//! its own ways; approvals come late; and things break that no order survives: then nothing is published before they are mended.
//!
//! A schedule that goes wrong is made as small as it gets. Each run prints its seed, and what goes wrong prints how to have it again:
//!
//! ```text
//! REKEY_SCHEDULES=50 REKEY_SEED=7 ./test -p worker --test main any_ -- --nocapture
//! ```

use std::{env, panic::AssertUnwindSafe};

use db::{Kind, Moment};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use proptest::{
    bool, collection, prop_oneof,
    strategy::{BoxedStrategy, Just, Strategy, ValueTree},
    test_runner::{Config, RngSeed, TestError, TestRunner},
};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    circumstances::{Breakage, Circumstances, CloudTrouble},
    database,
    process::{Blow, Trap},
    trial::{self, CallFault, Happening, Script, Summary, Verb, What, number, panic_text, write_faults},
};

/// How many schedules are tried on each database.
const SCHEDULES: u32 = 4;
/// How often a schedule that goes wrong is made smaller: each try is a renewal.
const SHRINKINGS: u32 = 60;
/// A renewal asks for about so many cmdlets.
const CMDLETS: usize = 160;
/// And one of a hybrid organization for so many cmdlets and requests to the cloud.
const WITH_CLOUD: usize = 300;
/// The longest outage that nobody notices, in calls.
const OUTAGE: usize = 40;
/// The longest that an answer is waited for: AuthAdmin would have published by then.
const LATE_HOURS: i64 = 48;

#[test]
fn any_schedule_ends_right_on_sqlite() {
    try_schedules(Kind::Sqlite, script(Kind::Sqlite));
}

#[test]
fn any_schedule_ends_right_on_postgres() {
    if database::server().is_some() {
        try_schedules(Kind::Postgres, script(Kind::Postgres));
    }
}

#[test]
fn any_hybrid_schedule_ends_right_on_sqlite() {
    try_schedules(Kind::Sqlite, hybrid_script(Kind::Sqlite));
}

#[test]
fn any_hybrid_schedule_ends_right_on_postgres() {
    if database::server().is_some() {
        try_schedules(Kind::Postgres, hybrid_script(Kind::Postgres));
    }
}

/// Several at a time: they wait more than they compute. What goes wrong is tried again alone, and made smaller.
fn try_schedules(database: Kind, scripts: impl Strategy<Value = Script>) {
    let cases = number("REKEY_SCHEDULES").unwrap_or(SCHEDULES);
    let seed = number("REKEY_SEED").unwrap_or_else(|| Uuid::new_v4().as_u64_pair().1);
    let again = format!("REKEY_SCHEDULES={cases} REKEY_SEED={seed}");
    println!("{database:?}: {again}");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: SHRINKINGS,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let trees: Vec<_> = (0..cases).map(|_| scripts.new_tree(&mut runner).unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let Some((tree, why)) = runtime.block_on(first_failure(trees)) else { return };
    let tried = runner.run_one(tree, |script| {
        println!("{script:?}");
        let ended = runtime.block_on(trial::run(script));
        println!("{}, stopped: {:?}", ended.status, ended.stopped);
        Ok(())
    });
    match tried {
        Ok(_) => panic!("{why}\nIt did not go wrong a second time.\nAgain: {again}"),
        Err(TestError::Fail(why, script)) => panic!("{why}\nThe smallest schedule: {script:#?}\nAgain: {again}"),
        Err(error) => panic!("{error}"),
    }
}

/// Tries them all, unless the environment says that it is enough to find one that goes wrong.
async fn first_failure<T: ValueTree<Value = Script>>(trees: Vec<T>) -> Option<(T, String)> {
    let trials = trees.into_iter().enumerate().map(async |(number, tree)| {
        let script = tree.current();
        let told = format!("{number}: {script:?}");
        let ended = AssertUnwindSafe(trial::run(script.clone())).catch_unwind().await;
        (tree, script, ended.map_err(|panic| format!("{told}: {}", panic_text(panic))))
    });
    let mut trials = stream::iter(trials).buffer_unordered(trial::at_once());
    let (mut summary, mut first, mut tried, mut wrong) = (Summary::default(), None, 0_u32, 0_u32);
    while let Some((tree, script, ended)) = trials.next().await {
        tried += 1;
        match ended {
            Ok(ended) => {
                println!("{script:?}: {}, stopped: {:?}", ended.status, ended.stopped);
                summary.add(&script, &ended);
            }
            Err(why) => {
                wrong += 1;
                println!("After {tried}: {why}");
                first.get_or_insert((tree, why));
                if env::var("REKEY_FIRST").is_ok() {
                    break;
                }
            }
        }
    }
    println!("{tried} schedules, {wrong} went wrong. {summary}");
    first
}

fn script(database: Kind) -> impl Strategy<Value = Script> {
    let happenings = collection::vec(happening(CMDLETS, what(database).boxed()), 1..=5);
    (1..=4_usize, happenings).prop_map(move |(steps, happenings)| Script::new(database, steps, in_order(happenings)))
}

fn hybrid_script(database: Kind) -> impl Strategy<Value = Script> {
    let anything = prop_oneof![3 => what(database).boxed(), 4 => cloud_trouble().boxed(), 1 => Just(What::StrangeKey)];
    let happenings = collection::vec(happening(WITH_CLOUD, anything.boxed()), 0..=6);
    let breaking = proptest::option::weighted(0.25, happening(WITH_CLOUD, breakage().boxed()));
    let late = prop_oneof![2 => Just(0), 1 => 0..LATE_HOURS];
    let people = (bool::weighted(0.2), late, bool::weighted(0.15));
    (1..=4_usize, happenings, breaking, circumstances(), slowness(), people).prop_map(
        move |(steps, mut happenings, breaking, mut circumstances, slowness, (emergency, late, regretted))| {
            // In an emergency Exchange may publish at any moment after staging: no gate is left to stop at.
            happenings.extend(breaking.filter(|_| !emergency));
            // Nor does anything else then take long enough that a slow tenant learns of the key meanwhile.
            circumstances.key_cache += slowness.filter(|_| emergency).unwrap_or_default();
            let hybrid = Some(circumstances);
            Script { hybrid, emergency, late, regretted, ..Script::new(database, steps, in_order(happenings)) }
        },
    )
}

/// How much longer the token service believes what it has read, in virtual seconds: one or two days.
fn slowness() -> impl Strategy<Value = Option<i64>> {
    proptest::option::weighted(0.6, 24 * 3600..48 * 3600_i64)
}

fn circumstances() -> impl Strategy<Value = Circumstances> {
    let seconds = |most: i64| prop_oneof![Just(0), 0..600_i64, 0..most];
    (1..5_u16, seconds(3600), seconds(3600), 3600..72 * 3600_i64, bool::weighted(0.3), bool::weighted(0.2)).prop_map(
        |(replicas, replica_lag, key_cache, partner_refresh, elsewhere, purge)| Circumstances {
            replicas,
            replica_lag,
            key_cache,
            partner_refresh,
            elsewhere,
            purge,
        },
    )
}

fn in_order(mut happenings: Vec<Happening>) -> Vec<Happening> {
    happenings.sort_by_key(|happening| happening.after);
    happenings
}

fn happening(calls: usize, what: BoxedStrategy<What>) -> impl Strategy<Value = Happening> {
    // Before the first one there is no renewal of which to say anything.
    (1..calls, what).prop_map(|(after, what)| Happening { after, what })
}

fn what(database: Kind) -> impl Strategy<Value = What> {
    let call = proptest::sample::select(&CallFault::ALL[..]).prop_map(|how| What::Call { skip: 0, how });
    let write = (proptest::sample::select(write_faults(database)), 0..4_usize)
        .prop_map(|((_, moment, blow), skip): ((&str, Moment, Blow), usize)| What::Write(Trap { moment, skip, blow }));
    let verb =
        proptest::sample::select(&[Verb::Pause, Verb::Retry, Verb::Cancel, Verb::RollBack][..]).prop_map(What::Say);
    let outage = (server(), 1..OUTAGE).prop_map(|(server, lasting)| What::Outage { server, lasting });
    // One process alone uses a SQLite file.
    let joins = u32::from(database == Kind::Postgres);
    prop_oneof![
        1 => (0..1800_i64).prop_map(|seconds| What::Lag { seconds }),
        4 => call,
        4 => write,
        2 => outage,
        3 => verb,
        joins => Just(What::Join),
    ]
}

fn server() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&["EX01", "EX03"][..])
}

fn cloud_trouble() -> impl Strategy<Value = What> {
    let held = proptest::sample::select(&CallFault::ALL[..]).prop_map(|how| What::CloudCall { skip: 0, how });
    let of = |service: &'static str, acts: Vec<Json>| {
        (Just(service), bool::ANY, 0..6_u32, 1..4_u32, proptest::sample::select(acts))
    };
    let any = || vec![json!("drop"), json!("drop_after"), json!({ "throttle": 1 }), json!({ "status": 503 })];
    let graph = [json!("conflict"), json!("stale"), json!({ "status": 504 }), json!({ "status": 404 })];
    let token = [json!({ "aadsts": 700_027 }), json!({ "aadsts": 90_033 }), json!({ "status": 500 })];
    let online = [json!("nul_bytes"), json!({ "status": 403 }), json!("malformed")];
    let with = |more: &[Json]| any().into_iter().chain(more.iter().cloned()).collect();
    let requests = prop_oneof![
        3 => of("graph", with(&graph)),
        2 => of("token", with(&token)),
        2 => of("exchange_online", with(&online)),
    ];
    let trouble = requests.prop_map(|(service, patches, skip, times, act)| {
        // A change is asked for once or twice in a renewal.
        let patches = patches && service == "graph";
        What::Cloud(CloudTrouble { service, patches, skip: if patches { skip % 2 } else { skip }, times, act })
    });
    prop_oneof![5 => trouble, 1 => held]
}

fn breakage() -> impl Strategy<Value = What> {
    let of_server = server().prop_map(|server| Breakage::KeysOfServer { server });
    prop_oneof![Just(Breakage::KeyOutOfEntra), of_server, Just(Breakage::AuthServerOff)].prop_map(What::Break)
}
