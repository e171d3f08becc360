//! The organization in motion: everything happens at its own virtual instant, in order, and the trust probe looks on.

mod cloud;
mod faults;
mod servicelets;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    certificate::{self, AUTH_COMMON_NAME, Certificate, PrivateKey, Thumbprint},
    directory::{Arrival, AuthConfig, Directory, is_named},
    faults::{Interceptors, cloud::CloudDisturbances, wire::Disturbances},
    hybrid::Cloud,
    itsm::Tickets,
    journal::{Effect, EffectKind, Journal},
    organization::Organization,
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
    /// The requests that are disturbed.
    pub disturbances: Disturbances,
    /// The same for requests to the cloud.
    pub cloud_disturbances: CloudDisturbances,
    /// The other half of a hybrid organization.
    pub cloud: Option<Cloud>,
    /// The ticket systems.
    pub(crate) tickets: Tickets,
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
    /// A verifier learns something.
    Look,
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
    /// The organization at `now`, with a current certificate of its own on every server.
    /// It expires after so many days; has expired if they are negative.
    pub fn new(organization: Organization, days_left: i64, now: DateTime<Utc>) -> anyhow::Result<Self> {
        let not_after = now + TimeDelta::days(days_left);
        let (certificate, key) = certificate::issue(&certificate::Request {
            not_before: not_after - TimeDelta::days(1826),
            not_after,
            ..certificate::Request::five_years(AUTH_COMMON_NAME, now)
        })?;
        Self::with_current(organization, now, &Arc::new(certificate), &key)
    }

    /// The organization at `now`, with this current certificate on every server.
    pub fn with_current(
        organization: Organization,
        now: DateTime<Utc>,
        certificate: &Arc<Certificate>,
        key: &PrivateKey,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(!organization.controllers.is_empty(), "an organization needs a domain controller");
        let auth_config = AuthConfig {
            current: Some(certificate.thumbprint.clone()),
            previous: None,
            next: None,
            next_effective: None,
            when_changed: certificate.not_before,
            revision: 0,
        };
        let mut directory = Directory::new(&organization.controllers, &auth_config);
        directory.lag_between_sites = organization.replication_lag;
        let cloud = organization.hybrid.clone().map(|spec| Cloud::new(spec, certificate, now)).transpose()?;
        let mut world = Self {
            now,
            directory,
            cloud,
            tickets: Tickets::new(),
            cloud_disturbances: CloudDisturbances::default(),
            servers: organization.servers.iter().map(|spec| new_server(spec.clone(), now)).collect(),
            queue: BTreeMap::new(),
            planned: 0,
            entries: 0,
            next_look: now,
            trust: TrustProbe::new(organization.hybrid.as_ref().map(|hybrid| hybrid.partner)),
            journal: Journal::default(),
            interceptors: Interceptors::default(),
            disturbances: Disturbances::default(),
            denied: BTreeSet::new(),
            organization,
        };
        world.furnish(certificate, key);
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
        if self.organization.trust_probe {
            self.trust.look(self.now, &self.servers, self.cloud.as_ref());
        }
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
            // The probe looks before and after every event.
            Event::Look => {}
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
