//! A lab that runs.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use aws_lc_rs::rand;
use base64::Engine as _;
use chrono::{DateTime, TimeDelta, Utc};
use psrp::Secret;
use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Options,
    admission::{Admission, ServiceKey},
    clock::Clock,
    cloud::CloudSite,
    cmdlets::{Endpoint, Session},
    control::Control,
    endpoint::PowerShell,
    faults::Fault,
    files::{self, Files, Way},
    http::{Tasks, Transport, listen},
    hybrid::Cloud,
    itsm::{self, LabTickets, TicketSite, TicketSystem},
    journal::{Asked, CloudAsked, Count, Effect, EffectKind, Requested},
    organization::{Hybrid, ServerSpec},
    running::{Cmdlets, Running},
    site::{Site, SiteKind},
    state::State,
    tls::Authority,
    trust::Trust,
    world::World,
};

/// A running lab. It ends when dropped; [`Lab::shutdown`] also waits for the end.
#[derive(Debug)]
pub struct Lab {
    running: Arc<Running>,
    organization_id: String,
    control: SocketAddr,
    servers: Vec<LabServer>,
    cloud: Option<LabCloud>,
    tickets: Option<LabTickets>,
    ca_pem: String,
    pub(crate) way: Way,
    tasks: Tasks,
}

/// Where a server of the lab is found.
#[derive(Clone, Debug)]
pub struct LabServer {
    /// NetBIOS name.
    pub name: String,
    /// Full name, also in its TLS certificate.
    pub fqdn: String,
    /// The Exchange front end over TLS.
    pub https: SocketAddr,
    /// The same without TLS.
    pub http: SocketAddr,
    /// Windows Remote Management over TLS.
    pub windows: SocketAddr,
    /// The same without TLS.
    pub windows_http: SocketAddr,
}

/// Where the cloud of a hybrid lab is found, and how rekey signs in.
#[derive(Clone, Debug)]
pub struct LabCloud {
    /// Entra, Graph and Exchange Online, without a slash at the end.
    pub url: String,
    /// The region that Exchange Online may send callers to.
    pub region_url: String,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The application by which rekey signs in.
    pub client_id: Uuid,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The key of it, PEM. Do not let it out.
    pub key_pem: Secret,
    /// The mailbox of `Test-OAuthConnectivity` on-premises.
    pub test_mailbox: String,
    /// The mailbox of `Test-OAuthConnectivity` in the cloud.
    pub cloud_test_mailbox: String,
}

/// What happened so far.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the trust probe has seen.
    pub trust: Trust,
    /// How often each kind of change happened.
    pub counts: BTreeMap<EffectKind, Count>,
    /// Changes, in order.
    pub effects: Vec<Effect>,
    /// Cmdlets, in order.
    pub cmdlets: Vec<Asked>,
    /// WS-Management requests, in order.
    pub requests: Vec<Requested>,
    /// Requests to the cloud, in order.
    pub cloud: Vec<CloudAsked>,
}

/// How often things happen that nobody asked about.
const PULSE: Duration = Duration::from_millis(50);

impl Lab {
    /// Starts a lab: everything listens when this returns.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        anyhow::ensure!(options.scale.is_finite() && options.scale > 0.0, "the scale of time must be more than 0");
        let real = options.since.unwrap_or_else(Utc::now);
        let start = options.start.unwrap_or(real);
        let mut organization = options.organization;
        if options.hybrid {
            organization.hybrid.get_or_insert_with(Hybrid::contoso);
        }
        let organization_id = organization.id.clone();
        let world = tokio::task::spawn_blocking(move || World::new(organization, options.days_left, start)).await?;
        let mut world = world?;
        if let Some(cloud) = &mut world.cloud {
            cloud.tenant.slack = slack(options.scale);
        }
        let way = Way { authentication: options.authentication, kdc: options.kdc };
        let admission = Admission {
            username: options.username,
            password: options.password.map_or_else(random_password, Ok)?,
            service_keys: options.keytab.as_deref().map_or(Ok(Vec::new()), service_keys)?,
            require_channel_binding: options.require_channel_binding,
        };
        let clock = Clock::new(real, start, options.scale);
        let running = Arc::new(Running::new(clock, world, admission, options.latency));
        let tasks = Tasks::default();
        let mut opening = Opening {
            running: running.clone(),
            authority: Authority::new()?,
            tasks: tasks.clone(),
            listen: options.listen,
            next_port: options.base_port,
            max_shells: options.max_shells,
        };
        let control = Arc::new(Control { running: running.clone() });
        let control = listen(opening.address()?, Transport::Plain, control, &tasks).await?;
        let mut servers = Vec::new();
        for server in 0..running.with(|world| world.servers().len()) {
            servers.push(opening.open(server).await?);
        }
        let cloud = opening.open_cloud().await?;
        let tickets = if options.tickets { Some(opening.open_tickets().await?) } else { None };
        tasks.spawn(pulse(running.clone()));
        let ca_pem = opening.authority.pem().to_owned();
        Ok(Self { running, organization_id, control, servers, cloud, tickets, ca_pem, way, tasks })
    }

    /// The short name of the organization.
    #[must_use]
    pub fn organization_id(&self) -> &str {
        &self.organization_id
    }

    /// Where the control API is, without a slash at the end.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}", self.control)
    }

    /// Where the servers are.
    #[must_use]
    pub fn servers(&self) -> &[LabServer] {
        &self.servers
    }

    /// Where the cloud is; none if the organization is not a hybrid one.
    #[must_use]
    pub fn cloud(&self) -> Option<&LabCloud> {
        self.cloud.as_ref()
    }

    /// Where its ticket systems are; none if it has none.
    #[must_use]
    pub fn tickets(&self) -> Option<&LabTickets> {
        self.tickets.as_ref()
    }

    /// The certificate of the authority that made the servers' TLS certificates, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The account.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.running.admission.username
    }

    /// Its password.
    #[must_use]
    pub fn password(&self) -> &Secret {
        &self.running.admission.password
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.running.now()
    }

    /// Moves virtual time ahead; everything that is due happens on the way.
    pub fn advance(&self, span: TimeDelta) {
        self.running.advance(span);
    }

    /// Makes something go wrong. The error says which name is unknown.
    pub fn apply(&self, fault: Fault) -> anyhow::Result<()> {
        self.running.apply(fault)
    }

    /// Puts right what can be.
    pub fn heal(&self) {
        self.running.heal();
    }

    /// Everything that can be shown of the organization.
    #[must_use]
    pub fn state(&self) -> State {
        self.running.with(|world| world.state())
    }

    /// What happened so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.running.with(|world| Report {
            trust: world.trust(),
            counts: world.journal.counts(),
            effects: world.journal.effects.clone(),
            cmdlets: world.journal.cmdlets.clone(),
            requests: world.journal.requests.clone(),
            cloud: world.journal.cloud.clone(),
        })
    }

    /// How many cmdlets and requests to the cloud were asked for so far; whoever waits for more is woken.
    #[must_use]
    pub fn cmdlets(&self) -> watch::Receiver<Cmdlets> {
        self.running.cmdlets()
    }

    /// How many shells are open, at all endpoints together.
    #[must_use]
    pub fn shells(&self) -> usize {
        self.running.shells().open
    }

    /// The most that were open at a time.
    #[must_use]
    pub fn most_shells(&self) -> usize {
        self.running.shells().most
    }

    /// Writes `rekey.toml`, the password and the authority's certificate into a folder.
    pub fn write_files(&self, folder: &Path) -> anyhow::Result<Files> {
        files::write(self, folder)
    }

    /// Ends the lab; open connections are cut.
    pub async fn shutdown(self) {
        self.tasks.stop.cancel();
        self.tasks.tracker.close();
        self.tasks.tracker.wait().await;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.tasks.stop.cancel();
    }
}

/// What is needed to open servers, one after the other.
struct Opening {
    running: Arc<Running>,
    authority: Authority,
    tasks: Tasks,
    listen: IpAddr,
    next_port: Option<u16>,
    max_shells: usize,
}

impl Opening {
    async fn open(&mut self, server: usize) -> anyhow::Result<LabServer> {
        let ServerSpec { name, fqdn, .. } = self.running.with(|world| world.server(server).spec.clone());
        let front_end = self.site(server, SiteKind::FrontEnd);
        let management = self.site(server, SiteKind::RemoteManagement);
        let tls = Transport::Tls(self.authority.server(&fqdn)?);
        Ok(LabServer {
            name,
            fqdn,
            https: listen(self.address()?, tls.clone(), front_end.clone(), &self.tasks).await?,
            http: listen(self.address()?, Transport::Plain, front_end, &self.tasks).await?,
            windows: listen(self.address()?, tls, management.clone(), &self.tasks).await?,
            windows_http: listen(self.address()?, Transport::Plain, management, &self.tasks).await?,
        })
    }

    fn site(&mut self, server: usize, kind: SiteKind) -> Arc<Site> {
        let endpoint = match kind {
            SiteKind::FrontEnd => Endpoint::Exchange,
            SiteKind::RemoteManagement => Endpoint::Windows,
        };
        let session = Session { server, endpoint, user: self.running.admission.username.clone() };
        let endpoint = PowerShell::new(self.running.clone(), session, self.max_shells, self.tasks.clone());
        Arc::new(Site { running: self.running.clone(), server, endpoint: Arc::new(endpoint), kind })
    }

    /// The cloud and its region, if there is one.
    async fn open_cloud(&mut self) -> anyhow::Result<Option<LabCloud>> {
        let Some(mut found) = self.running.with(|world| world.cloud.as_ref().map(found)) else { return Ok(None) };
        let tls = Transport::Tls(self.authority.server("cloud.contoso.example")?);
        let region = Arc::new(CloudSite { running: self.running.clone(), region: None });
        let (own, regional) = (self.address()?, self.address()?);
        found.region_url = format!("https://{}", listen(regional, tls.clone(), region, &self.tasks).await?);
        let site = CloudSite { running: self.running.clone(), region: Some(found.region_url.clone()) };
        found.url = format!("https://{}", listen(own, tls, Arc::new(site), &self.tasks).await?);
        Ok(Some(found))
    }

    /// The ticket systems, and what sends their messages.
    async fn open_tickets(&mut self) -> anyhow::Result<LabTickets> {
        let tls = Transport::Tls(self.authority.server("tickets.contoso.example")?);
        let mut urls = Vec::new();
        for system in [TicketSystem::Servicenow, TicketSystem::Jira] {
            let site = Arc::new(TicketSite { running: self.running.clone(), system });
            urls.push(format!("https://{}", listen(self.address()?, tls.clone(), site, &self.tasks).await?));
        }
        self.tasks.spawn(itsm::pump(self.running.clone()));
        let jira_url = urls.pop().unwrap_or_default();
        let servicenow_url = urls.pop().unwrap_or_default();
        Ok(self.running.with(|world| world.tickets.found(servicenow_url, jira_url)))
    }

    fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let Some(port) = self.next_port else { return Ok(SocketAddr::new(self.listen, 0)) };
        self.next_port = Some(port.checked_add(1).ok_or_else(|| anyhow::anyhow!("the lab needs ports after {port}"))?);
        Ok(SocketAddr::new(self.listen, port))
    }
}

/// All of it but the addresses.
fn found(cloud: &Cloud) -> LabCloud {
    let (certificate, key) = cloud.tenant.client();
    let spec = &cloud.tenant.spec;
    LabCloud {
        url: String::new(),
        region_url: String::new(),
        tenant_id: spec.tenant_id,
        client_id: spec.client_id,
        certificate_pem: pem("CERTIFICATE", &certificate.der),
        key_pem: Secret::new(pem("PRIVATE KEY", key.expose())),
        test_mailbox: spec.test_mailbox.clone(),
        cloud_test_mailbox: spec.cloud_test_mailbox.clone(),
    }
}

/// How far a clock may be off: five minutes, and what goes by in a lab while a request is on its way.
fn slack(scale: f64) -> TimeDelta {
    TimeDelta::minutes(5) + TimeDelta::milliseconds((scale * ON_ITS_WAY_MS) as i64)
}

/// The longest that a request is on its way, with what its client does before and after.
const ON_ITS_WAY_MS: f64 = 30_000.0;

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
}

async fn pulse(running: Arc<Running>) {
    let mut beat = tokio::time::interval(PULSE);
    loop {
        beat.tick().await;
        running.with(|_| ());
    }
}

fn service_keys(keytab: &Path) -> anyhow::Result<Vec<ServiceKey>> {
    let file = std::fs::read(keytab).with_context(|| format!("cannot read the keytab {}", keytab.display()))?;
    let keys = keytab::read(&file).with_context(|| format!("cannot use the keytab {}", keytab.display()))?;
    let keys: Vec<_> = keys.iter().filter_map(ServiceKey::of).collect();
    anyhow::ensure!(!keys.is_empty(), "the keytab {} holds no key for aes256-cts-hmac-sha1-96", keytab.display());
    Ok(keys)
}

/// 144 random bits as text.
fn random_password() -> anyhow::Result<Secret> {
    let mut bytes = zeroize::Zeroizing::new([0; 18]);
    rand::fill(&mut *bytes).map_err(|_| anyhow::anyhow!("no random numbers to be had"))?;
    Ok(Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*bytes)))
}
