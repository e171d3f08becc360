//! What survives when the process does not: `kill -9` at random moments of a run.

use std::collections::BTreeSet;

use lab::{Lab, Options, journal::EffectKind};
use serde_json::json;

use crate::support::{Dice, Person, Rekey, people};

/// Kills in one run. Each leaves its shells behind in the lab, which knows no better than Exchange when to drop them.
const KILLS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_a_run_ends_well_and_does_nothing_twice() {
    let lab = Lab::start(Options { scale: 7_200.0, max_shells: 200, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let mut dice = Dice::seeded();
    let mut rekey = Rekey::serve(&files.config).await;
    let [alice, bob] = people(&files.config, [("alice", "requester"), ("bob", "approver")]).await;
    let raised = alice.post(&rekey, "/v1/renewals", &json!({ "organization": "contoso" })).await;
    let id = raised["id"].as_str().unwrap().to_owned();
    let mut kills = 0;
    loop {
        let until = lab.cmdlets().borrow().asked + dice.roll(25);
        let over = work(&rekey, &lab, &id, &bob, (kills < KILLS).then_some(until)).await;
        if over {
            break;
        }
        rekey.kill();
        kills += 1;
        rekey = Rekey::serve(&files.config).await;
    }
    assert!(kills >= 5, "killed only {kills} times");
    check(&rekey, &lab, &id, &alice).await;
}

/// Approves what is asked, until the run is over (`true`) or the lab has seen `until` cmdlets (`false`).
async fn work(rekey: &Rekey, lab: &Lab, id: &str, bob: &Person, until: Option<usize>) -> bool {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(25));
    loop {
        if until.is_some_and(|until| lab.cmdlets().borrow().asked >= until) {
            return false;
        }
        let renewal = bob.get(rekey, &format!("/v1/renewals/{id}")).await;
        let state = &renewal["state"];
        match state["status"].as_str().unwrap() {
            "succeeded" => return true,
            "awaiting_approval" => bob.approve(rekey, id, state).await,
            "failed" | "rejected" | "expired" | "cancelled" | "rolled_back" => panic!("{renewal:#}"),
            "waiting" if state["reason"]["waiting_for"] == "attention" => panic!("{renewal:#}"),
            _ => {}
        }
        tick.tick().await;
    }
}

async fn check(rekey: &Rekey, lab: &Lab, id: &str, reader: &Person) {
    let report = lab.report();
    assert_eq!(report.trust.refused, 0, "{:#?}", report.trust.refusals);
    for (kind, times) in [
        (EffectKind::Import, 3),
        (EffectKind::Publish, 1),
        (EffectKind::ClearPrevious, 1),
        (EffectKind::Remove, 3),
        (EffectKind::Restart, 9),
    ] {
        let count = report.counts.get(&kind).map_or((0, 0), |count| (count.total, count.changed));
        assert_eq!(count, (times, times), "{kind:?}: {:#?}", report.effects);
    }
    let imported: BTreeSet<_> =
        report.effects.iter().filter(|e| e.kind == EffectKind::Import).map(|e| &e.thumbprint).collect();
    assert_eq!(imported.len(), 1, "one certificate was made");
    let evidence = reader.get(rekey, &format!("/v1/renewals/{id}/evidence")).await;
    let entries = evidence["audit"].as_array().unwrap();
    assert!((1..).zip(entries).all(|(n, entry)| entry["sequence"] == n), "the record has gaps");
    let sealed = entries.iter().filter(|entry| entry["action"] == "key.sealed").count();
    assert_eq!(sealed, 1);
}
