//! A lab, a worker on it, and the people who ask and approve.

use std::{collections::BTreeMap, time::Duration};

use chrono::Utc;
use db::{Bounds, Db, Kind, LoadedRun};
use domain::{
    CloudSettings, Decision, Gate, Organization, OrganizationId, Policy, Reason, Renewal, RenewalId, Request, Step,
    StepKind, StepStatus, Timeline, audit::AuditEntry, cloud::CloudName, gate::Verb, progress::Facts,
};
use lab::{Lab, LabCloud, Options, journal::EffectKind, organization::Hybrid};
use secrecy::SecretString;
use serde_json::Value as Json;
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;
use worker::{
    Managed, Pace, Worker,
    connectors::{
        Account, Credentials, Endpoints, MAX_ENVELOPE_SIZE, MAX_SESSIONS, Sessions, Trust,
        cloud::{AppCredentials, Change, Cloud, CloudEndpoints, Holder, Patience, Signer, Way},
    },
    sealing::Sealer,
};

use crate::{database::Database, process::Process};

/// Four hours in a second: a whole run takes about twenty.
pub(crate) const SCALE: f64 = 14_400.0;
/// The longest that a test waits for anything; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) db: Db,
    pub(crate) timeline: Timeline,
    /// The workers that are alive.
    pub(crate) processes: Vec<Process>,
    pub(crate) database: Database,
    /// Keeps in touch with what others write.
    listening: JoinSet<()>,
    hiring: Hiring,
    hired: usize,
}

/// What all workers of a world are given.
struct Hiring {
    password: String,
    ca: String,
    policy: Policy,
    pace: Pace,
    steps_at_once: usize,
    without_cloud: bool,
    purge: bool,
    test_mailbox: Option<&'static str>,
}

/// How a world differs from the default one.
#[derive(Default)]
pub(crate) struct Setting {
    pub(crate) lab: Options,
    pub(crate) password: Option<&'static str>,
    pub(crate) foreign_ca: bool,
    pub(crate) policy: Policy,
    /// How many steps the worker runs at a time.
    pub(crate) steps_at_once: Option<usize>,
    /// Which database; SQLite if none.
    pub(crate) database: Option<Kind>,
    pub(crate) pace: Pace,
    /// No credentials for the tenant of a hybrid lab are configured.
    pub(crate) without_cloud: bool,
    /// Plans take the keys out of the shared principal.
    pub(crate) purge: bool,
    /// The mailbox on the servers that trust is tested with; the lab's if none.
    pub(crate) test_mailbox: Option<&'static str>,
}

impl World {
    /// The default lab with a worker on it.
    pub(crate) async fn new() -> Self {
        Self::with(Setting::default()).await
    }

    pub(crate) async fn with(setting: Setting) -> Self {
        let lab = Lab::start(Options { scale: SCALE, ..setting.lab }).await.unwrap();
        let database = Database::new(setting.database.unwrap_or(Kind::Sqlite)).await;
        let timeline = Timeline { real_origin: Utc::now(), virtual_origin: lab.now(), scale: SCALE };
        let hiring = Hiring {
            password: setting.password.map_or_else(|| lab.password().expose().to_owned(), str::to_owned),
            ca: if setting.foreign_ca { foreign_ca() } else { lab.ca_pem().to_owned() },
            policy: setting.policy,
            pace: setting.pace,
            steps_at_once: setting.steps_at_once.unwrap_or(4),
            without_cloud: setting.without_cloud,
            purge: setting.purge,
            test_mailbox: setting.test_mailbox,
        };
        let (db, listening) = listen(&database).await;
        let mut world = Self { lab, db, timeline, processes: Vec::new(), database, listening, hiring, hired: 0 };
        world.hire().await;
        world
    }

    /// Starts one more worker.
    pub(crate) async fn hire(&mut self) {
        self.hired += 1;
        let name = format!("worker:{}", self.hired);
        let Hiring { pace, steps_at_once, .. } = self.hiring;
        let (timeline, managed) = (self.timeline, vec![self.managed()]);
        let make = |db| {
            let mut worker = Worker::new(db, timeline, name, Sealer::new(&[7; 32]), managed);
            worker.pace = pace;
            worker
        };
        self.processes.push(Process::start(&self.database, &self.db, steps_at_once, make).await);
    }

    /// Kills a worker. On SQLite the whole service is that process: what it starts with next is all that is left of it.
    pub(crate) async fn kill(&mut self, process: usize) {
        self.processes.remove(process).kill().await;
        if self.database.kind() == Kind::Sqlite {
            (self.db, self.listening) = listen(&self.database).await;
            self.db.write(async |tx| tx.end_all_leases(self.now()).await).await.unwrap();
        }
    }

    /// Copies the database while a renewal is under way. On SQLite the workers do not notice.
    pub(crate) async fn back_up(&mut self) -> Database {
        if self.database.kind() == Kind::Sqlite {
            return self.database.copy(&self.db).await;
        }
        self.leave().await;
        let copy = self.database.copy(&self.db).await;
        self.come_back().await;
        copy
    }

    /// Goes on with a copy that was made before, as after the loss of the database. The lab goes on as it is.
    pub(crate) async fn restore(&mut self, copy: Database) {
        self.leave().await;
        std::mem::replace(&mut self.database, copy).remove().await;
        self.come_back().await;
    }

    async fn leave(&mut self) {
        self.stop_workers().await;
        self.listening.shutdown().await;
        self.db.close().await;
    }

    async fn come_back(&mut self) {
        (self.db, self.listening) = listen(&self.database).await;
        if self.database.kind() == Kind::Sqlite {
            self.db.write(async |tx| tx.end_all_leases(self.now()).await).await.unwrap();
        }
        self.hire().await;
    }

    fn managed(&self) -> Managed {
        let tenant = self.lab.cloud().filter(|_| !self.hiring.without_cloud);
        Managed {
            organization: Organization {
                id: contoso(),
                name: "Contoso".to_owned(),
                lab: true,
                windows: true,
                cloud: tenant.map(|tenant| self.cloud_settings(tenant)),
                test_mailbox: self.hiring.test_mailbox.filter(|_| tenant.is_none()).map(str::to_owned),
                policy: self.hiring.policy.clone(),
            },
            endpoints: endpoints(&self.lab, &self.hiring.password, &self.hiring.ca),
            bounds: Bounds::default(),
            cloud: tenant.map(|tenant| self.cloud(tenant)),
        }
    }

    fn cloud_settings(&self, tenant: &LabCloud) -> CloudSettings {
        CloudSettings {
            cloud: CloudName::Custom,
            graph_url: Some(tenant.url.trim_end_matches('/').to_owned()),
            tenant_id: tenant.tenant_id.to_string(),
            application_id: None,
            exchange_online: true,
            test_mailbox: Some(self.hiring.test_mailbox.unwrap_or(&tenant.test_mailbox).to_owned()),
            cloud_test_mailbox: Some(tenant.cloud_test_mailbox.clone()),
            purge_shared_principal: self.hiring.purge,
        }
    }

    /// The lab's tenant, signed in to as rekey does.
    fn cloud(&self, tenant: &LabCloud) -> Cloud {
        let signer = Signer::from_pem(tenant.certificate_pem.as_bytes(), tenant.key_pem.expose().as_bytes());
        let way = Way {
            endpoints: CloudEndpoints::custom(&tenant.url, &tenant.url, &tenant.url).unwrap(),
            tenant: tenant.tenant_id.to_string(),
            credentials: AppCredentials { client_id: tenant.client_id.to_string(), signer: signer.unwrap() },
            tls: Trust::ca(self.hiring.ca.as_bytes()).build().unwrap(),
            connect_to: BTreeMap::new(),
            anchor: None,
            timeline: self.timeline,
            patience: Patience { first: Duration::from_millis(20), ..Patience::default() },
        };
        Cloud::new(way).unwrap()
    }

    /// A person registers the new key in the dedicated application, as the plan tells them to.
    pub(crate) async fn register(&self, certificate: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let cloud = self.cloud(self.lab.cloud().unwrap());
        let name = Hybrid::contoso().application_name();
        let application = cloud.application_named(&name).await.unwrap().unwrap();
        let change = Change::Add {
            certificate_der: STANDARD.decode(certificate).unwrap(),
            display_name: "by hand".to_owned(),
            beside: Vec::new(),
        };
        let intend = async |_| Ok::<_, std::convert::Infallible>(());
        cloud.change(&Holder::Application(application.id), &change, intend).await.unwrap();
    }

    /// Somebody changes in the database which plan a renewal is at.
    pub(crate) async fn put_at(&self, id: RenewalId, digest: &domain::Digest) {
        self.database.put_at(id, digest).await;
    }

    /// Olga takes the renewal back.
    pub(crate) async fn cancel(&self, id: RenewalId) {
        self.db.write(async |tx| tx.cancel(id, None, "olga", "not today", self.now()).await).await.unwrap();
    }

    pub(crate) fn now(&self) -> chrono::DateTime<Utc> {
        self.timeline.at(self.db.now())
    }

    pub(crate) fn fault(&self, fault: Json) {
        self.lab.apply(serde_json::from_value(fault).unwrap()).unwrap();
    }

    /// Alice asks for a renewal.
    pub(crate) async fn ask(&self, change: impl FnOnce(&mut Request)) -> RenewalId {
        let now = self.now();
        let mut request = Request {
            organization: contoso(),
            reason: Reason::Expiring,
            change_type: None,
            risk: None,
            ticket: None,
            not_before: None,
            allow_absent: Vec::new(),
            note: None,
        };
        change(&mut request);
        let renewal = Renewal::requested(RenewalId(Uuid::now_v7()), "alice", request, now);
        self.db.write(async |tx| tx.create_renewal(&renewal, now).await).await.unwrap();
        renewal.id
    }

    /// Bob approves a gate as soon as it is open.
    pub(crate) async fn approve(&self, id: RenewalId, gate: Gate) {
        let run = self.until(id, |run| run.renewal.state.open_gate() == Some(gate)).await;
        self.approve_plan(run, gate).await;
    }

    pub(crate) async fn approve_plan(&self, run: LoadedRun, gate: Gate) {
        let decision = Decision {
            id: Uuid::now_v7(),
            renewal_id: run.renewal.id,
            gate,
            plan_digest: run.renewal.plan_digest.unwrap(),
            verb: Verb::Approve,
            decided_by: "bob".to_owned(),
            reason: "read".to_owned(),
            decided_at: self.now(),
            decided_groups: Vec::new(),
            break_glass: false,
            voided_by: None,
        };
        self.db.write(async |tx| tx.decide(&decision, None, self.now()).await).await.unwrap();
    }

    /// Approves whatever is asked until the renewal is over.
    pub(crate) async fn approve_all(&self, id: RenewalId) -> LoadedRun {
        loop {
            let run =
                self.until(id, |run| run.renewal.state.open_gate().is_some() || !run.renewal.state.is_live()).await;
            match run.renewal.state.open_gate() {
                Some(gate) => self.approve(id, gate).await,
                None => return run,
            }
        }
    }

    /// Waits until the run is as `fits` says. Woken by every write.
    pub(crate) async fn until(&self, id: RenewalId, fits: impl Fn(&LoadedRun) -> bool) -> LoadedRun {
        let waiting = async {
            loop {
                let woken = self.db.woken();
                let run = self.run(id).await;
                if fits(&run) {
                    return run;
                }
                woken.await;
            }
        };
        match timeout(PATIENCE, waiting).await {
            Ok(run) => run,
            Err(_) => panic!("still {:?}\n{:#?}", self.run(id).await.renewal.state, self.troubles(id).await),
        }
    }

    pub(crate) async fn run(&self, id: RenewalId) -> LoadedRun {
        answered(async || self.db.read(async |tx| tx.load_run(id).await).await).await
    }

    /// Waits until a step of this kind needs a person, and returns its trouble's code.
    pub(crate) async fn attention(&self, id: RenewalId, kind: StepKind) -> domain::Trouble {
        let run = self.until(id, |run| find(run, kind, StepStatus::Attention).is_some()).await;
        find(&run, kind, StepStatus::Attention).unwrap().trouble.as_deref().cloned().unwrap()
    }

    pub(crate) async fn troubles(&self, id: RenewalId) -> Vec<(String, String, Option<domain::Trouble>)> {
        let run = self.run(id).await;
        run.steps
            .iter()
            .map(|s| (format!("{} {:?}", s.kind, s.status), s.target.clone(), s.trouble.as_deref().cloned()))
            .collect()
    }

    pub(crate) async fn audit(&self, id: RenewalId) -> Vec<AuditEntry> {
        answered(async || self.db.read(async |tx| tx.audit_of(id, 0, 10_000).await).await).await
    }

    /// How many effects of a kind the lab has seen, and how many of them changed anything.
    pub(crate) fn effects(&self, kind: EffectKind) -> (u32, u32) {
        let counts: BTreeMap<_, _> = self.lab.report().counts;
        counts.get(&kind).map_or((0, 0), |count| (count.total, count.changed))
    }

    /// Checks what must hold in every run: nobody was refused, and every cmdlet with an effect was on record before.
    pub(crate) async fn check(&self, id: RenewalId) {
        self.check_trust();
        let audit = self.audit(id).await;
        assert!((1..).zip(&audit).all(|(n, entry)| entry.sequence == n), "the record has gaps");
        let intents = audit.iter().filter(|e| e.action == "cmdlet.intended").count();
        let changing = |cmdlet: &str| {
            ["Set-AuthConfig", "Import-", "Remove-", "Restart-", "Enable-", "New-"]
                .iter()
                .any(|p| cmdlet.starts_with(p))
        };
        let asked = self.lab.report().cmdlets.into_iter().filter(|asked| changing(&asked.cmdlet)).count();
        assert!(asked <= intents, "{asked} changing cmdlets, {intents} intents");
    }

    /// Checks that no server refused another's token.
    pub(crate) fn check_trust(&self) {
        let trust = self.lab.report().trust;
        assert_eq!(trust.refused, 0, "{:#?}", trust.refusals);
        assert!(trust.checked > 0);
    }

    /// Checks that the new certificate is everywhere, current everywhere, and the only one.
    pub(crate) async fn check_renewed(&self, id: RenewalId) {
        self.check(id).await;
        self.check_certificates(id).await;
    }

    /// As [`World::check_renewed`], of what the lab has alone.
    pub(crate) async fn check_certificates(&self, id: RenewalId) {
        let new = Facts::of(&self.run(id).await.steps).thumbprint.unwrap();
        let state = serde_json::to_value(self.lab.state()).unwrap();
        for controller in state["controllers"].as_array().unwrap() {
            assert_eq!(controller["auth_config"]["current"], new.as_str());
            assert!(no_thumbprint(&controller["auth_config"]["next"]), "{controller}");
        }
        for server in state["servers"].as_array().unwrap() {
            let held: Vec<&str> =
                server["certificates"].as_array().unwrap().iter().map(|c| c["thumbprint"].as_str().unwrap()).collect();
            assert!(held.contains(&new.as_str()), "{server}");
        }
    }

    /// Stops the workers, which close their sessions. The lab goes on.
    pub(crate) async fn stop_workers(&mut self) {
        for process in self.processes.drain(..) {
            process.stop().await;
        }
    }

    pub(crate) async fn close(mut self) {
        self.stop_workers().await;
        self.lab.shutdown().await;
        self.listening.shutdown().await;
        self.db.close().await;
        self.database.remove().await;
    }
}

/// What the database answers. It is asked again when it did not answer in time: then the machine stood still.
pub(crate) async fn answered<T>(ask: impl AsyncFn() -> db::Result<T>) -> T {
    loop {
        match ask().await {
            Err(db::Error::Unanswered) => {}
            answer => return answer.unwrap(),
        }
    }
}

/// Opens a database for those who ask and approve.
async fn listen(database: &Database) -> (Db, JoinSet<()>) {
    let db = database.open().await;
    let mut listening = JoinSet::new();
    let heard = db.clone();
    listening.spawn(async move { heard.watch().await });
    (db, listening)
}

pub(crate) fn no_thumbprint(value: &Json) -> bool {
    value.is_null() || value == ""
}

pub(crate) fn find(run: &LoadedRun, kind: StepKind, status: StepStatus) -> Option<&Step> {
    run.steps.iter().map(|s| &**s).find(|s| s.kind == kind && s.status == status)
}

pub(crate) fn contoso() -> OrganizationId {
    OrganizationId::parse("contoso").unwrap()
}

fn endpoints(lab: &Lab, password: &str, ca: &str) -> Endpoints {
    let account = Account { username: lab.username().to_owned(), password: SecretString::from(password.to_owned()) };
    let credentials = Credentials::Basic(account);
    let url = |fqdn: &str| Endpoints::parse_url(&format!("https://{fqdn}/PowerShell/"), &credentials).unwrap();
    let mut connect_to = BTreeMap::new();
    for server in lab.servers() {
        connect_to.insert(format!("{}:443", server.fqdn), server.https.to_string());
        connect_to.insert(format!("{}:5986", server.fqdn), server.windows.to_string());
    }
    Endpoints {
        exchange: lab.servers().iter().map(|server| url(&server.fqdn)).collect(),
        credentials: credentials.clone(),
        windows: Some(("https://{fqdn}:5986/wsman".to_owned(), credentials)),
        connect_to,
        tls: Trust::ca(ca.as_bytes()).build().unwrap(),
        max_envelope_size: MAX_ENVELOPE_SIZE,
        sessions: Sessions::new(MAX_SESSIONS),
    }
}

/// A CA that has signed none of the lab's certificates.
fn foreign_ca() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem()
}
