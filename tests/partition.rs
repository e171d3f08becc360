//! Two workers, one of which loses the database while it runs a step.

use lab::{Lab, Options, journal::EffectKind};
use serde_json::{Value as Json, json};

use crate::{
    proxy::Proxy,
    support::{Database, Rekey, people, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_cut_off_from_the_database_stops_and_changes_nothing() {
    let lab = Lab::start(Options { scale: 14_400.0, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let database = Database::create().await;
    let proxy = Proxy::before(database.place()).await;
    let on = |role: &str, url: &str| {
        let mut command = Rekey::command(&files.config, role);
        command.env("REKEY_DATABASE", url).env("REKEY_LEASE_SECONDS", "5");
        command
    };
    assert!(on("migrate", database.url()).status().await.unwrap().success());
    let rekey = Rekey::start(&mut on("api", database.url())).await;
    let mut cut_off = Rekey::start_worker(&mut on("worker", &database.url_at(proxy.port()))).await;
    let [alice, bob] = people(&files.config, [("alice", "requester"), ("bob", "approver")]).await;
    // Longer than the lease: it is still under way when another worker may take the step.
    let slow =
        json!({ "kind": "slow", "cmdlet": "Import-ExchangeCertificate", "server": "EX01", "milliseconds": 20_000 });
    lab.apply(serde_json::from_value(slow).unwrap()).unwrap();
    let raised = alice.post(&rekey, "/v1/renewals", &json!({ "organization": "contoso" })).await;
    let id = raised["id"].as_str().unwrap().to_owned();
    let approving = bob.approve_all(&rekey, &id);
    let cutting = async {
        until("the import is under way", async || imports(&lab) > 0).await;
        proxy.fall_silent();
        let before = last_entry(&bob.get(&rekey, &format!("/v1/renewals/{id}/audit?limit=200")).await);
        (before, Rekey::start_worker(&mut on("worker", database.url())).await)
    };
    let ((), (before, _other)) = tokio::join!(approving, cutting);
    let audit = bob.get(&rekey, &format!("/v1/renewals/{id}/evidence")).await["audit"].take();
    let actors = |after: i64| {
        let entries = audit.as_array().unwrap().iter().filter(move |entry| entry["sequence"].as_i64().unwrap() > after);
        entries.filter_map(|entry| entry["actor"].as_str()).filter(|actor| actor.starts_with("worker:"))
    };
    let first = actors(0).next().unwrap().to_owned();
    assert!(actors(before).all(|actor| actor != first), "who is cut off wrote something: {audit:#}");
    proxy.open();
    let log = cut_off.stop().await;
    assert!(log.contains("Lost the lease of step distribute"), "{log}");
    let report = lab.report();
    assert_eq!(report.trust.refused, 0, "{:#?}", report.trust.refusals);
    assert!(report.effects.iter().all(|effect| effect.changed), "nothing was done twice: {:#?}", report.effects);
    assert_eq!(report.counts[&EffectKind::Import].total, 3);
}

fn imports(lab: &Lab) -> usize {
    lab.report().effects.iter().filter(|effect| effect.kind == EffectKind::Import).count()
}

/// The sequence number of the newest of a page of entries.
fn last_entry(page: &Json) -> i64 {
    page["items"].as_array().unwrap().iter().filter_map(|entry| entry["sequence"].as_i64()).max().unwrap_or(0)
}
