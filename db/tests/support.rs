//! A database of its own for every test, and the things that are put into it.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use db::{ApiKey, Bounds, Claimed, ClaimedStep, Db, Grants, Kind, StepEnd, Wanted};
use domain::{
    CloudSettings, Decision, Gate, Organization, OrganizationId, Outcome, Plan, Policy, Reason, Renewal, RenewalId,
    Request, Snapshot, Tenant, Thumbprint,
    cloud::{Application, Checked, CloudKey, CloudName},
    gate::Verb,
    snapshot::{AuthConfig, Certificate, Key, Server, Store, Version},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use uuid::Uuid;

pub(crate) const WORKER: &str = "worker:test";

/// Runs a test on SQLite and, where there is a server, on PostgreSQL.
pub(crate) async fn on_both(test: impl AsyncFn(Db)) {
    for database in each_database().await {
        test(database.db.clone()).await;
        database.drop().await;
    }
}

/// A database that other connections may look into.
pub(crate) struct Database {
    pub(crate) db: Db,
    pub(crate) url: String,
    /// The PostgreSQL server and the name there.
    postgres: Option<(String, String)>,
    _directory: Option<tempfile::TempDir>,
}

/// A migrated one on SQLite and, where there is a server, one on PostgreSQL.
pub(crate) async fn each_database() -> Vec<Database> {
    let mut made = new_databases().await;
    for database in &mut made {
        database.db.migrate().await.unwrap();
    }
    made
}

/// As [`each_database`], not migrated.
pub(crate) async fn new_databases() -> Vec<Database> {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("rekey.db").display());
    let db = Db::open(&url).await.unwrap();
    let mut made = vec![Database { db, url, postgres: None, _directory: Some(directory) }];
    if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
        let name = format!("rekey_{}", Uuid::new_v4().simple());
        administer(&server, format!("CREATE DATABASE {name}")).await;
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        let db = Db::open(&url).await.unwrap();
        made.push(Database { db, url, postgres: Some((server, name)), _directory: None });
    }
    made
}

impl Database {
    /// Runs a text on a connection of its own.
    pub(crate) async fn execute(&self, sql: String) -> sqlx::Result<()> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        match self.db.kind() {
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&self.url).await?;
                sql.execute(&mut connection).await?;
                connection.close().await
            }
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await?;
                sql.execute(&mut connection).await?;
                connection.close().await
            }
        }
    }

    pub(crate) async fn drop(self) {
        self.db.close().await;
        if let Some((server, name)) = self.postgres {
            administer(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }
}

/// Runs a test on a PostgreSQL database, where there is a server; the test gets its URL.
pub(crate) async fn on_postgres(test: impl AsyncFn(String)) {
    for database in each_database().await {
        if database.postgres.is_some() {
            test(database.url.clone()).await;
        }
        database.drop().await;
    }
}

pub(crate) async fn administer(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    connection.execute(AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
}

pub(crate) fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 23, 10, 0, 0).unwrap()
}

pub(crate) fn minutes(minutes: i64) -> DateTime<Utc> {
    now() + TimeDelta::minutes(minutes)
}

pub(crate) fn contoso() -> OrganizationId {
    OrganizationId::parse("contoso").unwrap()
}

pub(crate) fn thumbprint(digit: char) -> Thumbprint {
    Thumbprint::parse(&digit.to_string().repeat(40)).unwrap()
}

pub(crate) fn api_key() -> ApiKey {
    ApiKey {
        id: Uuid::now_v7(),
        name: "servicenow".to_owned(),
        secret_hash: vec![7; 32],
        grants: Grants {
            roles: vec!["requester".to_owned()],
            groups: Vec::new(),
            organizations: Some([contoso()].into()),
        },
        created_by: "root".to_owned(),
        created_at: now(),
        expires_at: now() + TimeDelta::days(90),
        last_used_at: None,
        revoked_by: None,
        revoked_at: None,
    }
}

pub(crate) fn renewal(organization: &str) -> Renewal {
    let organization = OrganizationId::parse(organization).unwrap();
    let request = Request {
        organization,
        reason: Reason::Expiring,
        change_type: None,
        risk: None,
        ticket: None,
        not_before: None,
        allow_absent: Vec::new(),
        note: Some("ä remark".to_owned()),
    };
    Renewal::requested(RenewalId(Uuid::now_v7()), "alice", request, now())
}

/// An organization with so many servers, in two sites by turns.
pub(crate) fn snapshot_of(servers: usize) -> Snapshot {
    let model = snapshot();
    let server = |number: usize| Server {
        fqdn: format!("ex{number:02}.contoso.example"),
        site: if number % 2 == 1 { "Hamburg" } else { "Leipzig" }.to_owned(),
        ..model.servers[0].clone()
    };
    Snapshot { servers: (1..=servers).map(server).collect(), ..model.clone() }
}

pub(crate) fn snapshot() -> Snapshot {
    let certificate = Certificate {
        thumbprint: thumbprint('A'),
        not_before: minutes(-1000),
        not_after: now() + TimeDelta::days(45),
        key: Key::Csp,
        findings: Vec::new(),
    };
    Snapshot {
        organization: contoso(),
        taken_at: now(),
        answered_by: "ex01.contoso.example".to_owned(),
        auth_config: vec![AuthConfig {
            domain_controller: "dc01.contoso.example".to_owned(),
            current: Some(thumbprint('A')),
            previous: None,
            next: None,
            next_effective_at: None,
            changed_at: None,
        }],
        servers: vec![Server {
            fqdn: "ex01.contoso.example".to_owned(),
            site: "Hamburg".to_owned(),
            version: Version { major: 15, minor: 2, build: 2562, revision: 17 },
            takes_part: true,
            domain_controller: None,
            store: Store::Read { certificates: vec![certificate] },
            clock_ahead_seconds: None,
        }],
        hybrid: false,
        on_premises_hybrid: None,
        tenant: None,
    }
}

pub(crate) fn plan(request: &Request) -> Plan {
    let organization = Organization {
        id: contoso(),
        name: "Contoso".to_owned(),
        lab: true,
        windows: true,
        cloud: None,
        test_mailbox: None,
        policy: Policy::default(),
    };
    domain::planning::plan(&organization, request, &snapshot(), now()).unwrap()
}

pub(crate) fn decision(renewal: RenewalId, plan: &Plan, verb: Verb) -> Decision {
    Decision {
        id: Uuid::now_v7(),
        renewal_id: renewal,
        gate: Gate::Execute,
        plan_digest: plan.digest(),
        verb,
        decided_by: "bob".to_owned(),
        reason: "read it".to_owned(),
        decided_at: now(),
        decided_groups: Vec::new(),
        break_glass: false,
        voided_by: None,
    }
}

/// A renewal that is accepted.
pub(crate) async fn raised(db: &Db) -> Renewal {
    let new = renewal("contoso");
    db.write(async |tx| tx.create_renewal(&new, now()).await).await.unwrap();
    new
}

/// Looks once for a step that is due.
pub(crate) async fn look(db: &Db, at: DateTime<Utc>) -> Claimed {
    look_for(db, 1, &BTreeMap::new(), at).await
}

/// Looks once for several, in organizations of which there may be so many under way.
pub(crate) async fn look_for(
    db: &Db,
    steps: usize,
    bounds: &BTreeMap<OrganizationId, Bounds>,
    at: DateTime<Utc>,
) -> Claimed {
    let lease_ends = at + TimeDelta::minutes(5);
    let wanted = Wanted { worker: WORKER, steps, held: &HashSet::new(), bounds, lease_ends, now: at };
    db.claim(&wanted).await.unwrap()
}

/// Takes the step that is due; `None` when nothing is.
pub(crate) async fn claim(db: &Db, at: DateTime<Utc>) -> Option<ClaimedStep> {
    loop {
        let mut claimed = look(db, at).await;
        if let Some(step) = claimed.steps.pop() {
            return Some(step);
        }
        if claimed.is_idle() {
            return None;
        }
    }
}

/// A renewal that waits for approval of its plan.
pub(crate) async fn planned(db: &Db) -> (Renewal, Plan) {
    let renewal = raised(db).await;
    let preflight = claim(db, now()).await.unwrap();
    let plan = plan(&renewal.request);
    db.write(async |tx| tx.finish_preflight(&preflight, WORKER, &plan, now()).await).await.unwrap();
    (renewal, plan)
}

/// A renewal whose run has begun.
pub(crate) async fn approved(db: &Db) -> (Renewal, Plan) {
    let (renewal, plan) = planned(db).await;
    let yes = decision(renewal.id, &plan, Verb::Approve);
    db.write(async |tx| tx.decide(&yes, None, now()).await).await.unwrap();
    (renewal, plan)
}

/// A hybrid organization, with a tenant or without, whose renewal is approved. Its only server comes after `generate`.
pub(crate) async fn hybrid_approved(db: &Db, by_hand: bool) -> (Renewal, Plan) {
    let new = raised(db).await;
    let step = claim(db, now()).await.unwrap();
    let settings = CloudSettings {
        cloud: CloudName::Global,
        graph_url: None,
        tenant_id: "7c9e6679-7425-40de-944b-e07fc1f90ae7".to_owned(),
        application_id: None,
        exchange_online: false,
        test_mailbox: None,
        cloud_test_mailbox: None,
        purge_shared_principal: false,
    };
    let key = CloudKey {
        key_id: "key-of-a".to_owned(),
        thumbprint: Some(thumbprint('A')),
        display_name: None,
        not_before: None,
        not_after: None,
    };
    let application = Application {
        object_id: "object-1".to_owned(),
        app_id: "app-1".to_owned(),
        display_name: "ExchangeServerApp-1".to_owned(),
        keys: vec![key],
    };
    let tenant = Tenant::Read {
        application: Some(application),
        shared_principal: None,
        max_key_lifetime_days: None,
        key_lifetime_not_read: None,
        exchange_online: Checked::NotChecked { reason: "not configured".to_owned() },
    };
    let organization = Organization {
        id: contoso(),
        name: "Contoso".to_owned(),
        lab: true,
        windows: true,
        cloud: (!by_hand).then_some(settings),
        test_mailbox: None,
        policy: Policy::default(),
    };
    let snapshot = Snapshot { hybrid: true, tenant: (!by_hand).then_some(tenant), ..snapshot() };
    let plan = domain::planning::plan(&organization, &new.request, &snapshot, now()).unwrap();
    db.write(async |tx| tx.finish_preflight(&step, WORKER, &plan, now()).await).await.unwrap();
    let yes = decision(new.id, &plan, Verb::Approve);
    db.write(async |tx| tx.decide(&yes, None, now()).await).await.unwrap();
    (new, plan)
}

/// An organization whose servers are all due to get the certificate. Prepared an hour ago, so that nothing else is in the way.
pub(crate) async fn distributing(db: &Db, organization: &str, servers: usize) -> Renewal {
    let past = minutes(-60);
    let new = renewal(organization);
    db.write(async |tx| tx.create_renewal(&new, past).await).await.unwrap();
    let preflight = Box::pin(claim(db, past)).await.unwrap();
    assert_eq!(preflight.step.renewal_id, new.id);
    let managed = Organization {
        id: new.organization_id.clone(),
        name: organization.to_owned(),
        lab: true,
        windows: true,
        cloud: None,
        test_mailbox: None,
        policy: Policy::default(),
    };
    let plan = domain::planning::plan(&managed, &new.request, &snapshot_of(servers), now()).unwrap();
    Box::pin(db.write(async |tx| tx.finish_preflight(&preflight, WORKER, &plan, past).await)).await.unwrap();
    let yes = decision(new.id, &plan, Verb::Approve);
    Box::pin(db.write(async |tx| tx.decide(&yes, None, past).await)).await.unwrap();
    let generate = Box::pin(claim(db, past)).await.unwrap();
    let outcome = Outcome::Generated {
        thumbprint: thumbprint('B'),
        not_before: now(),
        not_after: minutes(1000),
        adopted: false,
        certificate: None,
        exchange_publishes_at: None,
    };
    let end = StepEnd::Done(outcome);
    Box::pin(db.write(async |tx| tx.finish_step(&generate, WORKER, &end, now()).await)).await.unwrap();
    new
}
