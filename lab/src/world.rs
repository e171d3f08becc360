//! The organization in motion: everything happens at its own virtual instant, in order, and the trust probe looks on.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::{
    certificate::{self, AUTH_COMMON_NAME, Certificate, PrivateKey, Thumbprint},
    directory::{Arrival, AuthConfig, Controller, Directory, is_named},
    faults::{Change, Fault, Interceptors, Interference, lag},
    journal::{Effect, EffectKind, Journal},
    organization::{Organization, Role, Servicelet},
    server::{Entry, Export, KeySet, Power, Process, ProcessKind, Provider, Server, Services, Store, StoredKey},
    trust::{Trust, TrustProbe},
};

/// The whole state of the lab.
#[derive(Debug)]
pub struct World {
    now: DateTime<Utc>,
    organization: Organization,
    directory: Directory,
    servers: Vec<Server>,
    queue: BTreeMap<(DateTime<Utc>, u64), Event>,
    planned: u64,
    entries: u64,
    next_look: DateTime<Utc>,
    trust: TrustProbe,
    /// What happened.
    pub journal: Journal,
    /// The calls that are interfered with.
    pub interceptors: Interceptors,
    denied: BTreeSet<String>,
}

/// Something that will happen. `generation` is that of the process that planned it.
#[derive(Clone, Debug)]
enum Event {
    /// A change of AuthConfig arrives at a domain controller.
    Arrive(Arrival),
    /// AuthAdmin looks whether a staged certificate is due.
    AuthAdmin { server: usize, generation: u32 },
    /// The Certificate servicelet heard of a change.
    Fetch { server: usize },
    /// The Certificate servicelet looks by itself.
    FetchHourly { server: usize, generation: u32 },
    /// The OWA process builds its metadata document anew.
    Metadata { server: usize, generation: u32 },
    /// A process reads AuthConfig and the store anew.
    Refresh { server: usize, kind: ProcessKind, generation: u32 },
}

/// How often the probe looks at least.
const LOOK_EVERY: TimeDelta = TimeDelta::minutes(15);
/// How long processes believe what they read (domain.md 6.7).
const REFRESH_EVERY: TimeDelta = TimeDelta::minutes(60);
/// How often servicelets look by themselves (domain.md 1.9).
const FETCH_EVERY: TimeDelta = TimeDelta::hours(1);
/// How long after a change they hear of it.
const FETCH_AFTER_CHANGE: TimeDelta = TimeDelta::seconds(10);
/// How often AuthAdmin looks (domain.md 1.9).
const AUTH_ADMIN_EVERY: TimeDelta = TimeDelta::hours(12);
/// How long a metadata document stands (domain.md 3.6).
const METADATA_EVERY: TimeDelta = TimeDelta::hours(12);

impl World {
    /// The organization at `now`, with its current certificate on every server.
    pub fn new(organization: Organization, now: DateTime<Utc>) -> anyhow::Result<Self> {
        anyhow::ensure!(!organization.controllers.is_empty(), "an organization needs a domain controller");
        let not_after = now + TimeDelta::days(organization.days_left);
        let request = certificate::Request {
            not_before: not_after - TimeDelta::days(1826),
            not_after,
            ..certificate::Request::five_years(AUTH_COMMON_NAME, now)
        };
        let (certificate, key) = certificate::issue(&request)?;
        let auth_config = AuthConfig {
            current: Some(certificate.thumbprint.clone()),
            previous: None,
            next: None,
            next_effective: None,
            when_changed: request.not_before,
            revision: 0,
        };
        let mut directory = Directory::new(&organization.controllers, &auth_config);
        directory.lag_between_sites = organization.replication_lag;
        let mut world = Self {
            now,
            directory,
            servers: organization.servers.iter().map(|spec| new_server(spec.clone(), now)).collect(),
            queue: BTreeMap::new(),
            planned: 0,
            entries: 0,
            next_look: now,
            trust: TrustProbe::default(),
            journal: Journal::default(),
            interceptors: Interceptors::default(),
            denied: BTreeSet::new(),
            organization,
        };
        world.furnish(&Arc::new(certificate), &key);
        Ok(world)
    }

    /// Lets everything happen that is due until `to`, each at its own time.
    pub fn catch_up(&mut self, to: DateTime<Utc>) {
        while let Some(((at, _), event)) = self.take_due(to) {
            self.look_until(at);
            self.now = self.now.max(at);
            self.look();
            self.happen(event);
            self.look();
        }
        self.look_until(to);
        self.now = self.now.max(to);
    }

    /// Virtual time, as far as things have happened.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// The servers.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// One server; [`World::find_server`] gives its index.
    #[must_use]
    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    /// The same, to change it.
    pub fn server_mut(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }

    /// The server of that name, full or short, in any case.
    #[must_use]
    pub fn find_server(&self, name: &str) -> Option<usize> {
        self.servers.iter().position(|s| is_named(&s.spec.fqdn, name))
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What the organization was at the beginning.
    #[must_use]
    pub fn organization(&self) -> &Organization {
        &self.organization
    }

    /// The domain controller that a server talks to.
    #[must_use]
    pub fn controller_of(&self, server: usize) -> usize {
        self.directory.nearest(&self.servers[server].spec.site)
    }

    /// Whether the account may run a cmdlet.
    #[must_use]
    pub fn permits(&self, cmdlet: &str) -> bool {
        !self.denied.contains(&cmdlet.to_ascii_lowercase())
    }

    /// What the probe has seen.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust.report()
    }

    /// The trust probe looks now. To be called after every change.
    pub fn look(&mut self) {
        self.trust.look(self.now, &self.servers);
    }

    /// Writes AuthConfig on a domain controller; it reaches the others and the servicelets in time.
    pub fn write_auth_config(&mut self, controller: usize, change: impl FnOnce(&mut AuthConfig)) {
        for arrival in self.directory.write(controller, self.now, change) {
            self.plan(self.now + arrival.lag, Event::Arrive(arrival));
        }
        self.announce(controller);
        self.look();
    }

    /// Puts a certificate into a server's store.
    pub fn put(&mut self, server: usize, certificate: Arc<Certificate>, key: Option<StoredKey>, friendly_name: &str) {
        self.place(server, certificate, key, friendly_name);
        self.look();
    }

    fn place(&mut self, server: usize, certificate: Arc<Certificate>, key: Option<StoredKey>, friendly_name: &str) {
        self.entries += 1;
        let services = Services::default();
        let friendly_name = friendly_name.to_owned();
        self.servers[server].store.put(Entry { id: self.entries, certificate, key, friendly_name, services });
    }

    /// Restarts a process: it reads everything anew.
    pub fn restart(&mut self, server: usize, kind: ProcessKind) {
        self.start(server, kind);
        self.look();
    }

    fn start(&mut self, server: usize, kind: ProcessKind) {
        let process = &mut self.servers[server].processes[kind as usize];
        process.generation += 1;
        process.started = self.now;
        self.load(server, kind);
        self.schedule(server, kind);
        if kind == ProcessKind::ServiceHost && self.is_auth_admin_host(server) {
            let generation = self.servers[server].process(kind).generation;
            self.plan(self.now, Event::AuthAdmin { server, generation });
        }
        if kind == ProcessKind::Owa {
            self.build_metadata(server);
        }
    }

    /// Writes down what happened.
    pub fn record(&mut self, kind: EffectKind, place: &str, about: Option<&Thumbprint>, outcome: Outcome, by: &str) {
        self.record_with(kind, place, about, outcome, by, "");
    }

    /// The same, with words.
    pub fn record_with(
        &mut self,
        kind: EffectKind,
        place: &str,
        about: Option<&Thumbprint>,
        outcome: Outcome,
        by: &str,
        detail: &str,
    ) {
        self.journal.effects.push(Effect {
            at: self.now,
            kind,
            place: place.to_owned(),
            thumbprint: about.cloned(),
            changed: outcome == Outcome::Changed,
            by: by.to_owned(),
            detail: detail.to_owned(),
        });
    }

    /// Copies a certificate with its key from a running server of the same site that may export it. Tells whether it did.
    pub fn fetch(&mut self, server: usize, thumbprint: &Thumbprint, by: &str) -> Outcome {
        let Some(source) = self.source_for(server, thumbprint) else { return Outcome::Unchanged };
        let Some(copy) = self.servers[source].store.find(thumbprint).cloned() else { return Outcome::Unchanged };
        let place = self.servers[server].spec.fqdn.clone();
        let detail = format!("from {}", self.servers[source].spec.fqdn);
        self.put(server, copy.certificate, copy.key, &copy.friendly_name);
        self.record_with(EffectKind::ServiceletCopy, &place, Some(thumbprint), Outcome::Changed, by, &detail);
        Outcome::Changed
    }

    /// Makes something go wrong, or right. The error says which name is unknown.
    pub fn apply(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::ClockSkew { server, seconds } => {
                let server = self.named(&server)?;
                self.servers[server].clock_skew = TimeDelta::seconds(seconds);
            }
            Fault::Fail { calls, error } => self.interceptors.add(calls, Interference::Fail(error)),
            Fault::KeyProvider { server, provider } => {
                let server = self.named(&server)?;
                self.move_keys(server, &Provider::named(&provider));
            }
            Fault::LoseReply { calls, stage } => self.interceptors.add(calls, Interference::LoseReply(stage)),
            Fault::NoChange { calls } => self.interceptors.add(calls, Interference::NoChange),
            Fault::OperatorChange { change } => self.change_as_operator(change)?,
            Fault::Permission { cmdlet, granted: true } => {
                self.denied.remove(&cmdlet.to_ascii_lowercase());
            }
            Fault::Permission { cmdlet, granted: false } => {
                self.denied.insert(cmdlet.to_ascii_lowercase());
            }
            Fault::Power { server, power } => {
                let server = self.named(&server)?;
                self.switch(server, power);
            }
            Fault::ReplicationLag { seconds } => self.directory.lag_between_sites = lag(seconds),
            Fault::Servicelet { reach } => self.organization.servicelet = reach,
            Fault::WindowsBuild { server, build } => {
                let server = self.named(&server)?;
                self.servers[server].spec.windows_build = build;
            }
        }
        self.look();
        Ok(())
    }

    /// Puts right what can be: all servers up, clocks, lag, permissions and Windows as at the beginning, no interference.
    /// What has happened stays.
    pub fn heal(&mut self) {
        self.interceptors.clear();
        self.denied.clear();
        self.directory.lag_between_sites = self.organization.replication_lag;
        for index in 0..self.servers.len() {
            self.switch(index, Power::Up);
            self.servers[index].clock_skew = TimeDelta::zero();
            self.servers[index].spec.windows_build = self.organization.servers[index].windows_build;
            self.servers[index].key_provider = Provider::legacy_default();
        }
        self.look();
    }

    fn named(&self, server: &str) -> anyhow::Result<usize> {
        self.find_server(server).ok_or_else(|| anyhow::anyhow!("no server is called {server}"))
    }

    /// The current certificate on every server, and processes that have been running for a while.
    fn furnish(&mut self, certificate: &Arc<Certificate>, key: &PrivateKey) {
        for server in 0..self.servers.len() {
            let stored = StoredKey { key: key.clone(), export: Export::Allowed, provider: Provider::legacy_default() };
            self.place(server, certificate.clone(), Some(stored), AUTH_COMMON_NAME);
            for kind in ProcessKind::ALL {
                self.load(server, kind);
                self.schedule(server, kind);
            }
            self.build_metadata(server);
        }
    }

    fn take_due(&mut self, to: DateTime<Utc>) -> Option<((DateTime<Utc>, u64), Event)> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= to).then(|| first.remove_entry())
    }

    fn look_until(&mut self, to: DateTime<Utc>) {
        while self.next_look <= to {
            self.now = self.now.max(self.next_look);
            self.look();
            self.next_look += LOOK_EVERY;
        }
    }

    fn plan(&mut self, at: DateTime<Utc>, event: Event) {
        self.planned += 1;
        self.queue.insert((at, self.planned), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(arrival) => {
                if self.directory.receive(arrival.controller, arrival.auth_config) {
                    self.announce(arrival.controller);
                }
            }
            Event::AuthAdmin { server, generation } => {
                if self.is_running(server, ProcessKind::ServiceHost, generation) {
                    self.run_auth_admin(server);
                    self.plan(self.now + AUTH_ADMIN_EVERY, Event::AuthAdmin { server, generation });
                }
            }
            Event::Fetch { server } => self.fetch_missing(server),
            Event::FetchHourly { server, generation } => {
                if self.is_running(server, ProcessKind::ServiceHost, generation) {
                    self.fetch_missing(server);
                    self.plan(self.now + FETCH_EVERY, Event::FetchHourly { server, generation });
                }
            }
            Event::Metadata { server, generation } => {
                if self.is_running(server, ProcessKind::Owa, generation) {
                    self.build_metadata(server);
                }
            }
            Event::Refresh { server, kind, generation } => {
                if self.is_running(server, kind, generation) {
                    self.load(server, kind);
                    self.plan(self.now + REFRESH_EVERY, Event::Refresh { server, kind, generation });
                }
            }
        }
    }

    fn is_running(&self, server: usize, kind: ProcessKind, generation: u32) -> bool {
        self.servers[server].is_up() && self.servers[server].process(kind).generation == generation
    }

    fn is_auth_admin_host(&self, server: usize) -> bool {
        is_named(&self.servers[server].spec.fqdn, &self.organization.auth_admin_host)
    }

    /// Servicelets hear of a change on the domain controller that they talk to.
    fn announce(&mut self, controller: usize) {
        for server in 0..self.servers.len() {
            if self.controller_of(server) == controller {
                self.plan(self.now + FETCH_AFTER_CHANGE, Event::Fetch { server });
            }
        }
    }

    /// Plans what a process does over and over, counted from its start.
    fn schedule(&mut self, server: usize, kind: ProcessKind) {
        let Process { started, generation, .. } = *self.servers[server].process(kind);
        let refresh = next_after(started, REFRESH_EVERY, self.now);
        self.plan(refresh, Event::Refresh { server, kind, generation });
        if kind != ProcessKind::ServiceHost {
            return;
        }
        self.plan(next_after(started, FETCH_EVERY, self.now), Event::FetchHourly { server, generation });
        if self.is_auth_admin_host(server) && started < self.now {
            self.plan(next_after(started, AUTH_ADMIN_EVERY, self.now), Event::AuthAdmin { server, generation });
        }
    }

    fn load(&mut self, server: usize, kind: ProcessKind) {
        let config = &self.directory.controllers()[self.controller_of(server)].auth_config;
        let keys = self.servers[server].usable_keys(config, self.now);
        self.servers[server].processes[kind as usize].keys = keys;
    }

    /// Current and previous, not next (domain.md 3.6).
    fn build_metadata(&mut self, server: usize) {
        let config = &self.directory.controllers()[self.controller_of(server)].auth_config;
        let shown = AuthConfig { next: None, ..config.clone() };
        self.servers[server].metadata = self.servers[server].usable_keys(&shown, self.now).accepted;
        let generation = self.servers[server].process(ProcessKind::Owa).generation;
        self.plan(self.now + METADATA_EVERY, Event::Metadata { server, generation });
    }

    /// Publishes a staged certificate that is due, whoever has its key or has not (domain.md 6.7).
    fn run_auth_admin(&mut self, server: usize) {
        let controller = self.controller_of(server);
        let Controller { fqdn, auth_config, .. } = &self.directory.controllers()[controller];
        let due = auth_config.next_effective.is_some_and(|date| date <= self.servers[server].local_time(self.now));
        let (place, Some(next)) = (fqdn.clone(), auth_config.next.clone().filter(|_| due)) else { return };
        self.write_auth_config(controller, AuthConfig::publish);
        self.record(EffectKind::Publish, &place, Some(&next), Outcome::Changed, "AuthAdmin");
    }

    fn fetch_missing(&mut self, server: usize) {
        if !self.servers[server].is_up() {
            return;
        }
        let config = &self.directory.controllers()[self.controller_of(server)].auth_config;
        let missing = config.thumbprints().filter(|t| self.servers[server].store.find(t).is_none());
        for thumbprint in missing.cloned().collect::<Vec<_>>() {
            self.fetch(server, &thumbprint, "Certificate servicelet");
        }
    }

    fn source_for(&self, server: usize, thumbprint: &Thumbprint) -> Option<usize> {
        let site = &self.servers[server].spec.site;
        let has = |candidate: &Server| {
            let key = candidate.store.find(thumbprint).and_then(|entry| entry.key.as_ref());
            candidate.is_up() && key.is_some_and(|key| key.export == Export::Allowed)
        };
        let near = self.servers.iter().position(|s| s.spec.site == *site && has(s));
        match self.organization.servicelet {
            Servicelet::Off => None,
            Servicelet::SiteOnly => near,
            Servicelet::AllSites => near.or_else(|| self.servers.iter().position(has)),
        }
    }

    fn switch(&mut self, server: usize, power: Power) {
        if self.servers[server].power == power {
            return;
        }
        self.servers[server].power = power;
        let place = self.servers[server].spec.fqdn.clone();
        self.record_with(EffectKind::Power, &place, None, Outcome::Changed, "operator", &format!("{power:?}"));
        if power == Power::Up {
            ProcessKind::ALL.into_iter().for_each(|kind| self.start(server, kind));
        }
    }

    fn move_keys(&mut self, server: usize, provider: &Provider) {
        let server = &mut self.servers[server];
        server.key_provider = provider.clone();
        let auth: Vec<_> = server.store.entries().map(|entry| entry.certificate.thumbprint.clone()).collect();
        for thumbprint in auth {
            let key = server.store.find_mut(&thumbprint).and_then(|entry| entry.key.as_mut());
            key.into_iter().for_each(|key| key.provider = provider.clone());
        }
    }

    fn change_as_operator(&mut self, change: Change) -> anyhow::Result<()> {
        let place = self.directory.controllers()[0].fqdn.clone();
        let before = self.directory.controllers()[0].auth_config.clone();
        let (kind, about) = match change {
            Change::ClearNext => (EffectKind::ClearNext, before.next.clone()),
            Change::ClearPrevious => (EffectKind::ClearPrevious, before.previous.clone()),
            Change::Publish => (EffectKind::Publish, before.next.clone()),
            Change::Stage => (EffectKind::SetAuthConfigNext, Some(self.make_for_all()?)),
        };
        let (next, date) = (about.clone(), self.now + TimeDelta::hours(50));
        self.write_auth_config(0, |config| match change {
            Change::ClearNext => config.clear_next(),
            Change::ClearPrevious => config.previous = None,
            Change::Publish => config.publish(),
            Change::Stage => (config.next, config.next_effective) = (next, Some(date)),
        });
        let changed = Outcome::of(!self.directory.controllers()[0].auth_config.says_the_same_as(&before));
        self.record(kind, &place, about.as_ref(), changed, "operator");
        Ok(())
    }

    fn make_for_all(&mut self) -> anyhow::Result<Thumbprint> {
        let (certificate, key) = certificate::issue(&certificate::Request::five_years(AUTH_COMMON_NAME, self.now))?;
        let certificate = Arc::new(certificate);
        for server in 0..self.servers.len() {
            if self.servers[server].is_up() {
                let provider = self.servers[server].key_provider.clone();
                let stored = StoredKey { key: key.clone(), export: Export::Allowed, provider };
                self.put(server, certificate.clone(), Some(stored), AUTH_COMMON_NAME);
            }
        }
        Ok(certificate.thumbprint.clone())
    }
}

/// Whether anything is different afterwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is.
    Changed,
    /// It is not.
    Unchanged,
}

impl Outcome {
    /// From a comparison.
    #[must_use]
    pub fn of(changed: bool) -> Self {
        if changed { Self::Changed } else { Self::Unchanged }
    }
}

/// A server whose processes have been running for some hours, each for another time, so that not all refresh at once.
fn new_server(spec: crate::organization::ServerSpec, now: DateTime<Utc>) -> Server {
    let offset: i64 = spec.fqdn.bytes().map(i64::from).sum::<i64>() % 60;
    let process = |kind: ProcessKind| Process {
        kind,
        generation: 0,
        started: now - TimeDelta::minutes(180 + (offset + 17 * kind as i64) % 60),
        keys: KeySet::default(),
    };
    Server {
        spec,
        power: Power::Up,
        store: Store::default(),
        processes: ProcessKind::ALL.map(process),
        metadata: Vec::new(),
        clock_skew: TimeDelta::zero(),
        default_smtp: None,
        key_provider: Provider::legacy_default(),
    }
}

/// The first instant after `now` that is a whole number of periods after `start`.
fn next_after(start: DateTime<Utc>, period: TimeDelta, now: DateTime<Utc>) -> DateTime<Utc> {
    let passed = (now - start).num_seconds().div_euclid(period.num_seconds());
    start + TimeDelta::seconds((passed + 1) * period.num_seconds())
}

/// Servers that take part in authentication.
#[must_use]
pub fn takes_part(server: &Server) -> bool {
    server.spec.role != Role::Edge
}

/// What a person wants to see: AuthConfig by controller, certificates and processes by server.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// Virtual time.
    pub now: DateTime<Utc>,
    /// Every replica.
    pub controllers: Vec<Controller>,
    /// Every server.
    pub servers: Vec<ServerState>,
}

/// One server, for people.
#[derive(Clone, Debug, Serialize)]
pub struct ServerState {
    /// Full name.
    pub fqdn: String,
    /// Site.
    pub site: String,
    /// Up or down.
    pub power: Power,
    /// Build of Windows 10.0.
    pub windows_build: u32,
    /// What is in its store.
    pub certificates: Vec<CertificateState>,
    /// What its processes know.
    pub processes: Vec<ProcessState>,
    /// The thumbprints of its metadata document.
    pub metadata: Vec<Thumbprint>,
}

/// One certificate of a store, for people.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateState {
    /// Which.
    pub thumbprint: Thumbprint,
    /// Last moment of validity.
    pub not_after: DateTime<Utc>,
    /// The name in the store.
    pub friendly_name: String,
    /// What holds its key; none if there is no key.
    pub provider: Option<Provider>,
    /// Whether the key may leave; none if there is no key.
    pub export: Option<Export>,
    /// Flags.
    pub services: Services,
}

/// One process, for people.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessState {
    /// Service or application pool.
    pub name: &'static str,
    /// When it started.
    pub started: DateTime<Utc>,
    /// What it signs with.
    pub current: Option<Thumbprint>,
    /// What it accepts.
    pub accepted: Vec<Thumbprint>,
}

impl World {
    /// Everything that can be shown.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            now: self.now,
            controllers: self.directory.controllers().to_vec(),
            servers: self.servers.iter().map(server_state).collect(),
        }
    }
}

fn server_state(server: &Server) -> ServerState {
    ServerState {
        fqdn: server.spec.fqdn.clone(),
        site: server.spec.site.clone(),
        power: server.power,
        windows_build: server.spec.windows_build,
        certificates: server.store.entries().map(certificate_state).collect(),
        processes: server.processes.iter().map(process_state).collect(),
        metadata: server.metadata.iter().map(|c| c.thumbprint.clone()).collect(),
    }
}

fn certificate_state(entry: &Entry) -> CertificateState {
    CertificateState {
        thumbprint: entry.certificate.thumbprint.clone(),
        not_after: entry.certificate.not_after,
        friendly_name: entry.friendly_name.clone(),
        provider: entry.key.as_ref().map(|key| key.provider.clone()),
        export: entry.key.as_ref().map(|key| key.export),
        services: entry.services,
    }
}

fn process_state(process: &Process) -> ProcessState {
    ProcessState {
        name: process.kind.name(),
        started: process.started,
        current: process.keys.current.clone(),
        accepted: process.keys.accepted.iter().map(|c| c.thumbprint.clone()).collect(),
    }
}

#[cfg(test)]
mod tests;
