//! A service provider's day: several APIs and workers on one PostgreSQL database, many organizations, and everything dies now and then.
//!
//! `cargo test` takes a small one. A large one, in a release build:
//!
//! ```text
//! REKEY_ORGANIZATIONS=20 REKEY_RENEWALS=10 ./test --release -p server --test e2e outages -- --nocapture
//! ```
//!
//! 26 November 2026, on two cores: 312 processes killed and the database restarted 103 times in 315 seconds, all 200 ended well.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use chrono::Utc;
use futures_util::future::join_all;
use lab::{Lab, Options, journal::EffectKind, organization::Organization};
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};
use tokio::{sync::RwLock, time::MissedTickBehavior};

use crate::{
    cluster::Cluster,
    support::{Dice, Person, Rekey, people},
};

/// Processes of each role.
const PROCESSES: usize = 3;
/// Cmdlets that the labs see between two outages, at most.
const CALM: u64 = 120;
/// Every so manieth outage is one of the database.
const DATABASE_EVERY: usize = 4;

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_the_database_die_and_every_renewal_ends_well() {
    let (organizations, each) = (number("REKEY_ORGANIZATIONS", 3), number("REKEY_RENEWALS", 1));
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start().await;
    let labs = labs(organizations).await;
    let config = configuration(&labs, folder.path());
    let service = Service::start(&config, &cluster).await;
    let [alice, bob] = people(&config, [("alice", "requester"), ("bob", "approver")]).await;
    let over = AtomicUsize::new(0);
    let renewing = join_all(labs.iter().map(async |lab| {
        let mut renewals = Vec::new();
        for number in 0..each {
            renewals.push(renew(&service, &alice, &bob, lab.organization_id(), number).await);
        }
        over.fetch_add(1, Ordering::Relaxed);
        renewals
    }));
    let destroying = destroy(&service, &cluster, &labs, async || over.load(Ordering::Relaxed) == organizations);
    let (renewals, outages) = tokio::join!(renewing, destroying);
    println!("{} renewals of {organizations} organizations, {outages:?}", organizations * each);
    assert!(outages.database > 0 && outages.processes > 2, "{outages:?}");
    for (lab, renewals) in labs.iter().zip(&renewals) {
        check(lab, each);
        for id in renewals {
            check_record(&service, &bob, id).await;
        }
    }
    let listed = service.call(&bob, Method::GET, "/v1/renewals?limit=200", None).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), organizations * each, "none was lost, none was made twice");
}

/// Labs with the same time, each for an organization of its own with two servers.
async fn labs(count: usize) -> Vec<Lab> {
    let now = Utc::now();
    let lab = |number: usize| {
        let mut organization = Organization::contoso();
        organization.id = format!("org-{number:02}");
        organization.servers.remove(1);
        let options = Options {
            organization,
            scale: 14_400.0,
            start: Some(now),
            since: Some(now),
            max_shells: 500,
            ..Options::default()
        };
        async { Lab::start(options).await.unwrap() }
    };
    join_all((0..count).map(lab)).await
}

/// One configuration for all of them.
fn configuration(labs: &[Lab], folder: &Path) -> std::path::PathBuf {
    let mut whole = String::new();
    for lab in labs {
        let id = lab.organization_id();
        let files = lab.write_files(&folder.join(id)).unwrap();
        let text = std::fs::read_to_string(files.config).unwrap();
        let text = text.replace("file:", &format!("file:{id}/")).replace("ca_file = \"", &format!("ca_file = \"{id}/"));
        let (general, organization) = text.split_at(text.find("[[organization]]").unwrap());
        if whole.is_empty() {
            whole = general.to_owned();
        }
        whole += organization;
    }
    let path = folder.join("rekey.toml");
    std::fs::write(&path, whole).unwrap();
    path
}

/// All processes of the service.
struct Service {
    apis: Vec<RwLock<Rekey>>,
    workers: Vec<RwLock<Rekey>>,
    start: Box<dyn Fn(&str) -> tokio::process::Command + Send + Sync>,
    next: AtomicUsize,
}

impl Service {
    async fn start(config: &Path, cluster: &Cluster) -> Self {
        let (config, url) = (config.to_path_buf(), cluster.url());
        let start = move |role: &str| {
            let mut command = Rekey::command(&config, role);
            command.env("REKEY_DATABASE", &url).env("REKEY_LEASE_SECONDS", "5").env("REKEY_LOG", "info");
            command
        };
        assert!(start("migrate").status().await.unwrap().success());
        let (mut apis, mut workers) = (Vec::new(), Vec::new());
        for _ in 0..PROCESSES {
            apis.push(RwLock::new(Rekey::start(&mut start("api")).await));
            workers.push(RwLock::new(Rekey::start_worker(&mut start("worker")).await));
        }
        Self { apis, workers, start: Box::new(start), next: AtomicUsize::new(0) }
    }

    /// Asks one API after the other until one answers: the others are dead, or cannot reach the database.
    async fn call(&self, who: &Person, method: Method, path: &str, body: Option<&Json>) -> Json {
        loop {
            let api = self.apis[self.next.fetch_add(1, Ordering::Relaxed) % PROCESSES].read().await;
            match who.try_call(&api, method.clone(), path, body).await {
                Ok((status, answer)) if status.is_success() || status == StatusCode::CONFLICT => return answer,
                Ok((status, answer)) if status.is_client_error() => panic!("{method} {path}: {answer:#}"),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// `kill -9`, and a new process in its place.
    async fn kill(&self, dice: &mut Dice) {
        let number = dice.roll(PROCESSES as u64) - 1;
        if dice.roll(2) == 1 {
            let mut api = self.apis[number].write().await;
            api.kill();
            *api = Rekey::start(&mut (self.start)("api")).await;
        } else {
            let mut worker = self.workers[number].write().await;
            worker.kill();
            *worker = Rekey::start_worker(&mut (self.start)("worker")).await;
        }
    }
}

/// Raises a renewal and approves whatever is asked until it has succeeded. Gives its id.
async fn renew(service: &Service, alice: &Person, bob: &Person, organization: &str, number: usize) -> String {
    let request = json!({ "organization": organization, "note": format!("renewal {number}") });
    let keyed = alice.with_key(&format!("{organization}-{number}"));
    let raised = service.call(&keyed, Method::POST, "/v1/renewals", Some(&request)).await;
    let id = raised["id"].as_str().unwrap_or_else(|| panic!("{raised:#}")).to_owned();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        let renewal = service.call(bob, Method::GET, &format!("/v1/renewals/{id}"), None).await;
        let state = &renewal["state"];
        match state["status"].as_str().unwrap() {
            "succeeded" => return id,
            "awaiting_approval" => {
                let decision = json!({
                    "gate": state["gate"], "verb": "approve", "plan_digest": state["digest"], "reason": "read"
                });
                // Said twice when the first answer was lost: the second is refused, and nothing is lost.
                service.call(bob, Method::POST, &format!("/v1/renewals/{id}/decisions"), Some(&decision)).await;
            }
            "failed" | "rejected" | "expired" | "cancelled" | "rolled_back" => panic!("{renewal:#}"),
            "waiting" if state["reason"]["waiting_for"] == "attention" => panic!("{renewal:#}"),
            _ => {}
        }
    }
}

/// What was destroyed.
#[derive(Debug, Default)]
struct Outages {
    processes: usize,
    database: usize,
}

async fn destroy(service: &Service, cluster: &Cluster, labs: &[Lab], is_over: impl AsyncFn() -> bool) -> Outages {
    let mut dice = Dice::seeded();
    let mut outages = Outages::default();
    let seen = || labs.iter().map(|lab| lab.cmdlets().borrow().asked).sum::<usize>();
    let mut next = seen() + dice.roll(CALM);
    let mut tick = tokio::time::interval(Duration::from_millis(25));
    // Never always behind: what is destroyed shares a task with those who renew.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !is_over().await {
        tick.tick().await;
        if seen() < next {
            continue;
        }
        if (outages.processes + outages.database) % DATABASE_EVERY == DATABASE_EVERY - 1 {
            cluster.restart_immediately().await;
            outages.database += 1;
        } else {
            service.kill(&mut dice).await;
            outages.processes += 1;
        }
        next = seen() + dice.roll(CALM);
    }
    outages
}

/// Everything was done once for each renewal, and nobody was refused.
fn check(lab: &Lab, renewals: usize) {
    let report = lab.report();
    let name = lab.organization_id();
    assert_eq!(report.trust.refused, 0, "{name}: {:#?}", report.trust.refusals);
    assert!(report.trust.checked > 0);
    let times = BTreeMap::from([
        (EffectKind::Import, 2),
        (EffectKind::Publish, 1),
        (EffectKind::ClearPrevious, 1),
        (EffectKind::Remove, 2),
        (EffectKind::Restart, 6),
    ]);
    for (kind, times) in times {
        let times = u32::try_from(times * renewals).unwrap();
        let count = report.counts.get(&kind).map_or((0, 0), |count| (count.total, count.changed));
        assert_eq!(count, (times, times), "{name}, {kind:?}: {:#?}", report.effects);
    }
}

/// The record has no gap, and every change was intended first.
async fn check_record(service: &Service, reader: &Person, id: &str) {
    let evidence = service.call(reader, Method::GET, &format!("/v1/renewals/{id}/evidence"), None).await;
    let entries = evidence["audit"].as_array().unwrap();
    assert!((1..).zip(entries).all(|(n, entry)| entry["sequence"] == n), "the record has gaps: {entries:#?}");
    let sealed = entries.iter().filter(|entry| entry["action"] == "key.sealed").count();
    let destroyed = entries.iter().filter(|entry| entry["action"] == "key.destroyed").count();
    assert_eq!((sealed, destroyed), (1, 1));
}
