//! The organization as people and tests look at it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    certificate::Thumbprint,
    directory::Controller,
    hybrid::Cloud,
    organization::AppPath,
    server::{Entry, Export, Power, Process, Provider, Server, Services},
    tenant::{DirectoryObject, KeyCredential, ObjectKind, View},
    world::World,
};

/// What a person wants to see: AuthConfig by controller, certificates and processes by server.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// Virtual time.
    pub now: DateTime<Utc>,
    /// Every replica.
    pub controllers: Vec<Controller>,
    /// Every server.
    pub servers: Vec<ServerState>,
    /// The tenant; none if the organization is not a hybrid one.
    pub tenant: Option<TenantState>,
}

/// The tenant, for people.
#[derive(Clone, Debug, Serialize)]
pub struct TenantState {
    /// Which.
    pub tenant_id: Uuid,
    /// By which application the servers go there: `dedicated`, `shared`, or not at all.
    pub path: Option<AppPath>,
    /// What holds keys.
    pub objects: Vec<CloudObjectState>,
}

/// An application or principal, for people.
#[derive(Clone, Debug, Serialize)]
pub struct CloudObjectState {
    /// Which of the two.
    pub kind: ObjectKind,
    /// Its name.
    pub display_name: String,
    /// Its object id.
    pub id: Uuid,
    /// Its application id.
    pub app_id: Uuid,
    /// The keys that each replica shows.
    pub replicas: Vec<Vec<Thumbprint>>,
    /// The keys by which the token service beside each replica goes.
    pub trusted: Vec<Vec<Thumbprint>>,
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
            now: self.now(),
            controllers: self.directory().controllers().to_vec(),
            servers: self.servers().iter().map(server_state).collect(),
            tenant: self.cloud.as_ref().map(|cloud| tenant_state(cloud, self.now())),
        }
    }
}

fn tenant_state(cloud: &Cloud, now: DateTime<Utc>) -> TenantState {
    let tenant = &cloud.tenant;
    let thumbprints = |keys: &[KeyCredential]| keys.iter().map(|key| key.certificate.thumbprint.clone()).collect();
    let object = |(index, object): (usize, &DirectoryObject)| CloudObjectState {
        kind: object.kind,
        display_name: object.display_name.clone(),
        id: object.id,
        app_id: object.app_id,
        replicas: (0..tenant.replicas()).map(|r| thumbprints(tenant.keys(index, View::Replica(r), now))).collect(),
        trusted: (0..tenant.replicas()).map(|r| thumbprints(tenant.trusted_keys(index, r, now).0)).collect(),
    };
    TenantState {
        tenant_id: tenant.spec.tenant_id,
        path: cloud.path(),
        objects: tenant.objects().iter().enumerate().map(object).collect(),
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
