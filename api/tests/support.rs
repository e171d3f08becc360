//! A running service, people with tokens, and a worker's part played by hand.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroU32,
    sync::LazyLock,
};

use api::{Claims, Limits, Role, State, Tokens};
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use db::{ClaimedStep, Db, StepEnd, Wanted};
use domain::{
    Organization, OrganizationId, Outcome, Plan, Policy, RenewalId, Snapshot, Thumbprint, Timeline,
    snapshot::{AuthConfig, Certificate, Key, Server, Store, Version},
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio_util::sync::CancellationToken;

/// A service on a port of its own, with a database of its own.
pub(crate) struct Service {
    pub(crate) db: Db,
    pub(crate) url: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: tokio::task::JoinHandle<std::io::Result<()>>,
    client: Client,
    /// Contoso, with its rules.
    organization: Organization,
    /// The PostgreSQL server and the database that was made there.
    postgres: Option<(String, String)>,
    _directory: tempfile::TempDir,
}

pub(crate) const SECRET: [u8; 32] = [7; 32];
pub(crate) const WORKER: &str = "worker:test";

pub(crate) const ALICE: Person = Person { name: "alice@contoso.example", roles: &[Role::Requester] };
pub(crate) const BOB: Person = Person { name: "bob@contoso.example", roles: &[Role::Approver] };
pub(crate) const CAROL: Person = Person { name: "carol@contoso.example", roles: &[Role::Approver] };
pub(crate) const OSCAR: Person = Person { name: "oscar@contoso.example", roles: &[Role::Operator] };
pub(crate) const VERA: Person = Person { name: "vera@contoso.example", roles: &[Role::Auditor] };
pub(crate) const ROOT: Person = Person { name: "root@contoso.example", roles: &[Role::Administrator] };
pub(crate) const NOBODY: Person = Person { name: "nobody@contoso.example", roles: &[] };

/// Somebody with a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Person {
    pub(crate) name: &'static str,
    pub(crate) roles: &'static [Role],
}

impl Person {
    pub(crate) fn claims(&self) -> Claims {
        Claims::new(self.name, self.roles.to_vec(), Vec::new(), Utc::now(), TimeDelta::hours(1))
    }

    pub(crate) fn token(&self) -> String {
        Tokens::new(&SECRET).mint(&self.claims()).unwrap()
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts the status and gives the body.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// Asserts a problem of that kind, whole as RFC 9457 and this API want it, and gives it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, slug: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["type"], format!("urn:rekey:problem:{slug}"), "{problem}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["trace_id"], self.header("trace-id"));
        for text in ["title", "detail", "instance", "action"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{text} in {problem}");
        }
        problem
    }
}

impl Service {
    pub(crate) async fn start() -> Self {
        let service = Self::start_unmigrated().await;
        service.db.migrate().await.unwrap();
        service
    }

    /// One on SQLite and, where `TEST_POSTGRES_URL` names a server, one on PostgreSQL: for what depends on how transactions meet.
    pub(crate) async fn start_on_each() -> Vec<Self> {
        Self::start_each_under(&organization("contoso")).await
    }

    /// As [`Service::start_on_each`], whose Contoso has rules of its own.
    pub(crate) async fn start_each_under(contoso: &Organization) -> Vec<Self> {
        let mut services = vec![Self::start_under(contoso.clone()).await];
        if let Ok(server) = std::env::var("TEST_POSTGRES_URL") {
            let name = format!("rekey_{}", uuid::Uuid::new_v4().simple());
            administer(&server, format!("CREATE DATABASE {name}")).await;
            let db = Db::open(&format!("{}/{name}", server.rsplit_once('/').unwrap().0)).await.unwrap();
            db.migrate().await.unwrap();
            let service = Self::start_of(db, tempfile::tempdir().unwrap(), contoso.clone(), |state| state);
            services.push(Self { postgres: Some((server, name)), ..service });
        }
        services
    }

    /// One whose Contoso has rules of its own.
    pub(crate) async fn start_under(organization: Organization) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", directory.path().join("rekey.db").display())).await.unwrap();
        db.migrate().await.unwrap();
        Self::start_of(db, directory, organization, |state| state)
    }

    pub(crate) async fn start_unmigrated() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", directory.path().join("rekey.db").display())).await.unwrap();
        Self::start_with(db, directory, |state| state)
    }

    /// One that lets in others, or answers fewer requests.
    pub(crate) async fn start_as(settings: impl FnOnce(State) -> State) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", directory.path().join("rekey.db").display())).await.unwrap();
        db.migrate().await.unwrap();
        Self::start_of(db, directory, organization("contoso"), settings)
    }

    fn start_with(db: Db, directory: tempfile::TempDir, settings: impl FnOnce(State) -> State) -> Self {
        Self::start_of(db, directory, organization("contoso"), settings)
    }

    fn start_of(
        db: Db,
        directory: tempfile::TempDir,
        contoso: Organization,
        settings: impl FnOnce(State) -> State,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let organizations = vec![contoso.clone(), organization("fabrikam")];
        let state = settings(
            State::new(db.clone(), organizations, Tokens::new(&SECRET), Timeline::real()).with_limits(patient()),
        );
        let state = state.with_sources(crate::hooks::sources());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(api::serve(listener, state, shutdown.clone()));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { db, url, shutdown, serving, client, organization: contoso, postgres: None, _directory: directory }
    }

    /// A request without a token.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn request(&self, who: Person, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(who.token())
    }

    pub(crate) async fn get(&self, who: Person, path: &str) -> Answer {
        Answer::of(self.request(who, Method::GET, path).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, who: Person, path: &str, body: Value) -> Answer {
        Answer::of(self.request(who, Method::POST, path).json(&body).send().await.unwrap()).await
    }

    /// What a request without a token of ours comes to.
    pub(crate) async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = headers
            .iter()
            .fold(self.anonymous(Method::GET, path), |request, (name, value)| request.header(*name, *value));
        Answer::of(request.send().await.unwrap()).await
    }

    /// Every entry of the audit, newest first, as it stands in the database.
    pub(crate) async fn recorded(db: &Db) -> Vec<domain::audit::AuditEntry> {
        db.read(async |tx| tx.audit_page(db::Page { before: None, limit: 1000 }).await).await.unwrap()
    }

    /// As [`Service::post`], by somebody who belongs to groups.
    pub(crate) async fn post_as(&self, who: Person, groups: &[&str], path: &str, body: Value) -> Answer {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let token = Tokens::new(&SECRET).mint(&Claims { groups, ..who.claims() }).unwrap();
        Answer::of(self.anonymous(Method::POST, path).bearer_auth(token).json(&body).send().await.unwrap()).await
    }

    /// Alice raises a renewal; gives its URL.
    pub(crate) async fn raise(&self) -> String {
        let answer = self.post(ALICE, "/v1/renewals", json!({"organization": "contoso"})).await;
        answer.expect(202);
        answer.header("location").to_owned()
    }

    /// A renewal of Alice's that waits for approval of its plan; gives its URL and the digest.
    pub(crate) async fn planned(&self) -> (String, String) {
        let url = self.raise().await;
        let digest = self.plan(&url).await.digest().to_string();
        (url, digest)
    }

    /// Plays the preflight of a worker.
    pub(crate) async fn plan(&self, url: &str) -> Plan {
        self.plan_from(url, snapshot()).await
    }

    /// Plays the preflight of a worker under these rules. The organization is as before, or has one server less.
    pub(crate) async fn plan_under(&self, url: &str, organization: &Organization, changed: bool) -> Plan {
        // The same each time: a certificate does not expire later because somebody looks again.
        static SEEN: LazyLock<Snapshot> = LazyLock::new(snapshot);
        let mut seen = SEEN.clone();
        seen.servers.truncate(if changed { 1 } else { 2 });
        self.plan_of(url, organization, seen).await
    }

    /// Plays the preflight of a worker that has seen this.
    pub(crate) async fn plan_from(&self, url: &str, snapshot: Snapshot) -> Plan {
        self.plan_of(url, &self.organization, snapshot).await
    }

    async fn plan_of(&self, url: &str, organization: &Organization, snapshot: Snapshot) -> Plan {
        let claimed = self.claim().await;
        assert_eq!(claimed.run.renewal.id, id_of(url));
        let now = self.db.now();
        let plan = domain::planning::plan(organization, &claimed.run.renewal.request, &snapshot, now).unwrap();
        self.db
            .write(async |tx| {
                tx.insert_snapshot(Some(claimed.run.renewal.id), db::Purpose::Before, &snapshot).await?;
                tx.finish_preflight(&claimed, WORKER, &plan, now).await
            })
            .await
            .unwrap();
        plan
    }

    /// Takes the step that is due.
    pub(crate) async fn claim(&self) -> ClaimedStep {
        loop {
            // The clock of the database: what is due is due by that one.
            let now = self.db.now();
            let lease_ends = now + TimeDelta::minutes(5);
            let (held, bounds) = (HashSet::new(), BTreeMap::new());
            let wanted = Wanted { worker: WORKER, steps: 1, held: &held, bounds: &bounds, lease_ends, now };
            let mut claimed = self.db.claim(&wanted).await.unwrap();
            if let Some(step) = claimed.steps.pop() {
                return step;
            }
            assert!(claimed.settled, "no step is due");
        }
    }

    /// Ends a step as a worker does.
    pub(crate) async fn finish(&self, step: &ClaimedStep, end: StepEnd) {
        self.db.write(async |tx| tx.finish_step(step, WORKER, &end, self.db.now()).await).await.unwrap();
    }

    /// Plays the step that makes the certificate.
    pub(crate) async fn generate(&self) {
        let step = self.claim().await;
        let now = self.db.now();
        let thumbprint = thumbprint('B');
        let outcome = Outcome::Generated {
            thumbprint,
            not_before: now,
            not_after: now + TimeDelta::days(1826),
            adopted: false,
            certificate: Some("MIIBPUBLIC".to_owned()),
            exchange_publishes_at: None,
        };
        self.finish(&step, StepEnd::Done(outcome)).await;
    }

    pub(crate) async fn decide(&self, who: Person, url: &str, verb: &str, digest: &str) -> Answer {
        let body = json!({"gate": "execute", "verb": verb, "plan_digest": digest, "reason": "Looked at it"});
        self.post(who, &format!("{url}/decisions"), body).await
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
        if let Some((server, name)) = self.postgres {
            self.db.close().await;
            administer(&server, format!("DROP DATABASE {name}")).await;
        }
    }
}

/// Tests fail often, and all of them on purpose.
fn patient() -> Limits {
    Limits { failures_per_minute: NonZeroU32::new(10_000).unwrap(), ..Limits::default() }
}

async fn administer(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
}

pub(crate) fn id_of(url: &str) -> RenewalId {
    url.rsplit('/').next().unwrap().parse().unwrap()
}

pub(crate) fn thumbprint(digit: char) -> Thumbprint {
    Thumbprint::parse(&digit.to_string().repeat(40)).unwrap()
}

pub(crate) fn organization(id: &str) -> Organization {
    let id = OrganizationId::parse(id).unwrap();
    Organization {
        name: id.to_string(),
        id,
        lab: true,
        windows: true,
        cloud: None,
        test_mailbox: None,
        policy: Policy::default(),
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        organization: OrganizationId::parse("contoso").unwrap(),
        taken_at: now(),
        answered_by: "ex01.contoso.example".to_owned(),
        auth_config: vec![auth_config("dc01"), auth_config("dc02")],
        servers: vec![server("ex01"), server("ex02")],
        hybrid: false,
        on_premises_hybrid: None,
        tenant: None,
    }
}

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 23, 10, 0, 0).unwrap()
}

fn auth_config(dc: &str) -> AuthConfig {
    AuthConfig {
        domain_controller: format!("{dc}.contoso.example"),
        current: Some(thumbprint('A')),
        previous: None,
        next: None,
        next_effective_at: None,
        changed_at: None,
    }
}

fn server(name: &str) -> Server {
    let certificate = Certificate {
        thumbprint: thumbprint('A'),
        not_before: now() - TimeDelta::days(1800),
        not_after: Utc::now() + TimeDelta::days(45),
        key: Key::Csp,
        findings: Vec::new(),
    };
    Server {
        fqdn: format!("{name}.contoso.example"),
        site: "Hamburg".to_owned(),
        version: Version { major: 15, minor: 2, build: 2562, revision: 17 },
        takes_part: true,
        domain_controller: Some("dc01.contoso.example".to_owned()),
        store: Store::Read { certificates: vec![certificate] },
        clock_ahead_seconds: None,
    }
}
