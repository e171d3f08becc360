//! Renewals to work on: one is brought to where it is wanted by the functions of the product, then copied in the database as often as needed.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use db::{Bounds, ClaimedStep, Db, StepEnd, Wanted};
use domain::{
    Decision, Gate, Organization, OrganizationId, Outcome, Plan, Policy, Reason, Renewal, RenewalId, Request, Snapshot,
    StepKind, Thumbprint,
    gate::Verb,
    snapshot::{AuthConfig, Certificate, Key, Server, Store, Version},
    step::Publisher,
};
use uuid::Uuid;

use crate::database::Database;

/// Who carries out steps here, as in audit entries.
pub(crate) const WORKER: &str = "worker:bench";
/// How long a step is a worker's, as in the product.
pub(crate) const LEASE: Duration = Duration::from_secs(45);
const TEMPLATE: &str = "template";

/// Where a renewal stands, and how large its organization is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// Its plan waits for approval.
    Planned { servers: usize },
    /// All servers are due to get the certificate.
    Distributing { servers: usize },
    /// Its first step is due. No gate but the first needs people, so that one step after the other becomes due until the end.
    Begun { servers: usize },
    /// In soak; the next look at the evidence is due in hours.
    Soaking { servers: usize },
}

/// What carrying out steps comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Work {
    /// Many steps of each renewal are due at a time: from [`Stage::Distributing`] to the publication, which people would have to approve.
    FanOut,
    /// One step of each renewal is due at a time: from [`Stage::Begun`] to the end.
    Chain,
}

impl Work {
    /// Where it begins.
    pub(crate) fn stage(self) -> Stage {
        match self {
            Self::FanOut => Stage::Distributing { servers: 50 },
            Self::Chain => Stage::Begun { servers: 1 },
        }
    }

    /// The steps of each renewal until it is over.
    pub(crate) fn steps(self) -> u64 {
        match self {
            // One on each server, then `stage`.
            Self::FanOut => 51,
            // One of each kind.
            Self::Chain => 9,
        }
    }
}

impl Stage {
    fn servers(self) -> usize {
        match self {
            Self::Planned { servers }
            | Self::Distributing { servers }
            | Self::Begun { servers }
            | Self::Soaking { servers } => servers,
        }
    }
}

/// Fills an empty database with so many renewals of as many organizations.
pub(crate) async fn fill(database: &Database, db: &Db, stage: Stage, count: u64) -> anyhow::Result<()> {
    let template = Box::pin(bring(db, TEMPLATE, stage)).await?;
    let statements = include_str!("sql/copy.sql");
    database.run(&statements.replace(":template", &template.to_string()).replace(":count", &count.to_string())).await
}

/// As [`fill`], by the functions of the product only: for SQLite, where it is fast enough.
pub(crate) async fn fill_by_functions(db: &Db, stage: Stage, count: u64) -> anyhow::Result<Vec<RenewalId>> {
    let mut ids = Vec::new();
    for number in 1..=count {
        ids.push(Box::pin(bring(db, &organization(number), stage)).await?);
    }
    Ok(ids)
}

/// Organizations of copies.
pub(crate) fn organization(number: u64) -> String {
    format!("o{number:09}")
}

/// As much at a time as anybody wants, in every organization.
pub(crate) fn no_bounds(organizations: u64) -> BTreeMap<OrganizationId, Bounds> {
    let many = Bounds { organization: 10_000, site: 10_000 };
    let ids = (1..=organizations).filter_map(|number| OrganizationId::parse(&organization(number)).ok());
    ids.map(|id| (id, many)).collect()
}

/// Raises a renewal and brings it to a stage.
async fn bring(db: &Db, organization: &str, stage: Stage) -> anyhow::Result<RenewalId> {
    // A while ago, so that everything is due.
    let past = db.now() - TimeDelta::hours(1);
    let renewal = renewal(organization, past)?;
    db.write(async |tx| tx.create_renewal(&renewal, past).await).await?;
    let preflight = take(db).await?;
    let managed = Organization {
        id: renewal.organization_id.clone(),
        name: organization.to_owned(),
        lab: true,
        windows: true,
        cloud: None,
        test_mailbox: None,
        policy: policy(stage),
    };
    let snapshot = snapshot(&managed.id, stage.servers(), past)?;
    let plan = domain::planning::plan(&managed, &renewal.request, &snapshot, past);
    let plan = plan.map_err(|trouble| anyhow::anyhow!("{trouble}"))?;
    db.write(async |tx| tx.finish_preflight(&preflight, WORKER, &plan, past).await).await?;
    if !matches!(stage, Stage::Planned { .. }) {
        let yes = approval(renewal.id, &plan, past);
        db.write(async |tx| tx.decide(&yes, None, past).await).await?;
    }
    match stage {
        Stage::Planned { .. } | Stage::Begun { .. } => {}
        Stage::Distributing { .. } => {
            let generate = take(db).await?;
            finish(db, &generate, &StepEnd::Done(no_op(generate.step.kind, Work::FanOut, db.now()))).await?;
        }
        Stage::Soaking { .. } => soak(db).await?,
    }
    Ok(renewal.id)
}

/// Only where people are not to be waited for the later gates pass by themselves.
fn policy(stage: Stage) -> Policy {
    match stage {
        Stage::Planned { .. } | Stage::Distributing { .. } => Policy::default(),
        Stage::Begun { .. } | Stage::Soaking { .. } => {
            Policy { publish_quorum: 0, clear_previous_quorum: 0, ..Policy::default() }
        }
    }
}

async fn soak(db: &Db) -> anyhow::Result<()> {
    loop {
        let step = take(db).await?;
        if step.step.kind == StepKind::Soak {
            let at = db.now() + TimeDelta::hours(4);
            return finish(db, &step, &StepEnd::Again { at, so_far: None }).await;
        }
        finish(db, &step, &StepEnd::Done(no_op(step.step.kind, Work::Chain, db.now()))).await?;
    }
}

async fn take(db: &Db) -> anyhow::Result<ClaimedStep> {
    let claimed = claim(db, WORKER, 1, &HashSet::new(), &BTreeMap::new()).await?;
    claimed.steps.into_iter().next().context("nothing is due")
}

/// Takes what is due, as a worker does.
pub(crate) async fn claim(
    db: &Db,
    worker: &str,
    steps: usize,
    held: &HashSet<domain::StepId>,
    bounds: &BTreeMap<OrganizationId, Bounds>,
) -> anyhow::Result<db::Claimed> {
    let now = db.now();
    let wanted = Wanted { worker, steps, held, bounds, lease_ends: now + LEASE, now };
    Ok(db.claim(&wanted).await?)
}

/// Ends an attempt with its audit rows, as a worker does: the one place where the benchmark does that.
pub(crate) async fn finish(db: &Db, claimed: &ClaimedStep, end: &StepEnd) -> anyhow::Result<()> {
    Ok(db.finish(claimed, WORKER, end.clone(), db.now()).await?)
}

/// The words of somebody who approves a plan.
pub(crate) fn approval(renewal: RenewalId, plan: &Plan, now: DateTime<Utc>) -> Decision {
    Decision {
        id: Uuid::now_v7(),
        renewal_id: renewal,
        gate: Gate::Execute,
        plan_digest: plan.digest(),
        verb: Verb::Approve,
        decided_by: "bob@contoso.example".to_owned(),
        reason: "Reviewed the plan with the mail team".to_owned(),
        decided_at: now,
        decided_groups: Vec::new(),
        break_glass: false,
        voided_by: None,
    }
}

/// What a step says that has done nothing.
pub(crate) fn no_op(kind: StepKind, work: Work, now: DateTime<Utc>) -> Outcome {
    let domain_controllers = || vec!["dc01.contoso.example".to_owned()];
    match kind {
        StepKind::Generate => Outcome::Generated {
            thumbprint: thumbprint('B'),
            not_before: now,
            not_after: now + TimeDelta::days(1826),
            adopted: false,
            certificate: None,
            exchange_publishes_at: None,
        },
        StepKind::Distribute => Outcome::Distributed {
            thumbprint: thumbprint('B'),
            pfx: Some("aes256-sha256".to_owned()),
            key: Key::Csp,
            already_present: false,
        },
        StepKind::Stage => Outcome::Staged {
            effective_at: if work == Work::Chain { now } else { now + TimeDelta::hours(49) },
            domain_controllers: domain_controllers(),
        },
        StepKind::Publish => Outcome::Published {
            published_at: now,
            by: Publisher::Rekey,
            domain_controllers: domain_controllers(),
            lacking: Vec::new(),
        },
        StepKind::Restart => Outcome::Restarted { processes: Vec::new() },
        StepKind::Soak => Outcome::Soaked { checks: 1, evidence: Vec::new() },
        StepKind::ClearPrevious => Outcome::ClearedPrevious { domain_controllers: domain_controllers() },
        StepKind::Prune => Outcome::Removed { thumbprint: thumbprint('A'), already_gone: false },
        StepKind::Close => Outcome::Closed { evidence: Vec::new() },
        other => Outcome::not_done(format!("a benchmark does no {other}")),
    }
}

fn thumbprint(digit: char) -> Thumbprint {
    Thumbprint::parse(&digit.to_string().repeat(40)).expect("forty hexadecimal digits")
}

pub(crate) fn renewal(organization: &str, now: DateTime<Utc>) -> anyhow::Result<Renewal> {
    let organization = OrganizationId::parse(organization)?;
    let request = Request {
        organization,
        reason: Reason::Expiring,
        change_type: None,
        risk: None,
        ticket: None,
        not_before: None,
        allow_absent: Vec::new(),
        note: Some("Auth certificate expires on 2027-01-07".to_owned()),
    };
    Ok(Renewal::requested(RenewalId(Uuid::now_v7()), "alice@contoso.example", request, now))
}

fn snapshot(organization: &OrganizationId, servers: usize, now: DateTime<Utc>) -> anyhow::Result<Snapshot> {
    let certificate = Certificate {
        thumbprint: thumbprint('A'),
        not_before: now - TimeDelta::days(1780),
        not_after: now + TimeDelta::days(45),
        key: Key::Csp,
        findings: Vec::new(),
    };
    let server = |number: usize| Server {
        fqdn: format!("ex{number:02}.contoso.example"),
        site: if number % 2 == 1 { "Hamburg" } else { "Leipzig" }.to_owned(),
        version: Version { major: 15, minor: 2, build: 2562, revision: 17 },
        takes_part: true,
        domain_controller: None,
        store: Store::Read { certificates: vec![certificate.clone()] },
        clock_ahead_seconds: None,
    };
    let auth_config = AuthConfig {
        domain_controller: "dc01.contoso.example".to_owned(),
        current: Some(thumbprint('A')),
        previous: None,
        next: None,
        next_effective_at: None,
        changed_at: None,
    };
    Ok(Snapshot {
        organization: organization.clone(),
        taken_at: now,
        answered_by: "ex01.contoso.example".to_owned(),
        auth_config: vec![auth_config],
        servers: (1..=servers).map(server).collect(),
        hybrid: false,
        on_premises_hybrid: None,
        tenant: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Server;

    async fn on_sqlite(test: impl AsyncFn(Db)) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", folder.path().join("rekey.db").display())).await.unwrap();
        db.migrate().await.unwrap();
        test(db).await;
    }

    #[tokio::test]
    async fn work_is_over_after_as_many_steps_as_are_said() {
        for work in [Work::FanOut, Work::Chain] {
            on_sqlite(async |db| {
                fill_by_functions(&db, work.stage(), 1).await.unwrap();
                assert_eq!(carry_out(&db, work, 1).await, work.steps(), "{work:?}");
            })
            .await;
        }
    }

    /// Does all that is due, and returns how many steps that were.
    async fn carry_out(db: &Db, work: Work, organizations: u64) -> u64 {
        let mut steps = 0;
        loop {
            let claimed = claim(db, WORKER, 8, &HashSet::new(), &no_bounds(organizations)).await.unwrap();
            if claimed.is_idle() {
                return steps;
            }
            for step in claimed.steps {
                let end = StepEnd::Done(no_op(step.step.kind, work, db.now()));
                finish(db, &step, &end).await.unwrap();
                steps += 1;
            }
        }
    }

    /// Where there is a server: `./test` starts one.
    #[tokio::test]
    async fn copies_are_carried_out_as_the_renewal_that_they_were_made_from() {
        let Ok(url) = std::env::var("TEST_POSTGRES_URL") else { return };
        let server = Server::new(&url).await.unwrap();
        for (work, name) in [(Work::FanOut, "test_fan_out"), (Work::Chain, "test_chain")] {
            let (database, db) = server.create_ours(name).await.unwrap();
            fill(&database, &db, work.stage(), 3).await.unwrap();
            assert_eq!(Box::pin(carry_out(&db, work, 3)).await, 3 * work.steps(), "{work:?}");
            db.close().await;
            server.drop(&database).await.unwrap();
        }
    }

    #[tokio::test]
    async fn renewals_that_wait_have_nothing_due() {
        for stage in [Stage::Planned { servers: 2 }, Stage::Soaking { servers: 2 }] {
            on_sqlite(async |db| {
                fill_by_functions(&db, stage, 2).await.unwrap();
                let claimed = claim(&db, WORKER, 8, &HashSet::new(), &BTreeMap::new()).await.unwrap();
                assert!(claimed.is_idle(), "{stage:?}: {claimed:?}");
            })
            .await;
        }
    }
}
