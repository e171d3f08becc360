//! One Exchange server: its certificate store, and processes that hold keys in memory.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    certificate::{Certificate, PrivateKey, Thumbprint},
    directory::AuthConfig,
    organization::ServerSpec,
};

/// One server.
#[derive(Debug)]
pub struct Server {
    /// What it is.
    pub spec: ServerSpec,
    /// Whether anything on it answers.
    pub power: Power,
    /// `LocalMachine\My`.
    pub store: Store,
    /// The processes that hold keys.
    pub processes: [Process; 3],
    /// The keys of its metadata document, as its OWA process built it.
    pub metadata: Vec<Arc<Certificate>>,
    /// How far its clock is ahead.
    pub clock_skew: TimeDelta,
    /// The certificate of its SMTP service.
    pub default_smtp: Option<Thumbprint>,
    /// Where imported keys land that name no provider, or all keys if it is a key storage provider.
    pub key_provider: Provider,
}

/// Whether a server runs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    Up,
    /// It neither answers nor does anything.
    Down,
}

impl Server {
    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.power == Power::Up
    }

    /// The process of a kind.
    #[must_use]
    pub fn process(&self, kind: ProcessKind) -> &Process {
        &self.processes[kind as usize]
    }

    /// What its own clock shows.
    #[must_use]
    pub fn local_time(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + self.clock_skew
    }

    /// What a process that reads AuthConfig now would know.
    #[must_use]
    pub fn usable_keys(&self, config: &AuthConfig, now: DateTime<Utc>) -> KeySet {
        let usable = |thumbprint: &Thumbprint| {
            let entry = self.store.find(thumbprint)?;
            (entry.key.is_some() && entry.certificate.is_valid_at(now)).then(|| entry.certificate.clone())
        };
        let accepted = config.thumbprints().filter_map(usable).collect();
        KeySet { current: config.current.clone(), next: config.next.clone(), accepted, read: now }
    }
}

/// A store of certificates.
#[derive(Debug, Default)]
pub struct Store(BTreeMap<Thumbprint, Entry>);

impl Store {
    /// Puts a certificate in, over one of that thumbprint.
    pub fn put(&mut self, entry: Entry) {
        self.0.insert(entry.certificate.thumbprint.clone(), entry);
    }

    /// Takes a certificate and its key out.
    pub fn remove(&mut self, thumbprint: &Thumbprint) -> Option<Entry> {
        self.0.remove(thumbprint)
    }

    /// Looks a certificate up.
    #[must_use]
    pub fn find(&self, thumbprint: &Thumbprint) -> Option<&Entry> {
        self.0.get(thumbprint)
    }

    /// The same, to change it.
    pub fn find_mut(&mut self, thumbprint: &Thumbprint) -> Option<&mut Entry> {
        self.0.get_mut(thumbprint)
    }

    /// All, by thumbprint.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values()
    }
}

/// A certificate in a store.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Tells this copy from every other in the organization.
    pub id: u64,
    /// The certificate.
    pub certificate: Arc<Certificate>,
    /// Its private key, if it is there.
    pub key: Option<StoredKey>,
    /// The name that the store shows.
    pub friendly_name: String,
    /// What it is enabled for.
    pub services: Services,
}

/// A private key in a store.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The key.
    pub key: PrivateKey,
    /// Whether it may leave.
    pub export: Export,
    /// What holds it.
    pub provider: Provider,
}

/// Whether a private key may leave the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Export {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// What holds a private key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Provider {
    /// A legacy cryptographic service provider: what Exchange can sign with.
    Csp(String),
    /// A key storage provider: breaks Exchange's token signing (domain.md 2.1).
    Ksp(String),
}

impl Provider {
    /// What Windows chooses when a PFX names none.
    #[must_use]
    pub fn legacy_default() -> Self {
        Self::Csp("Microsoft Enhanced Cryptographic Provider v1.0".to_owned())
    }

    /// The provider of that name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let is_ksp = name.contains("Key Storage Provider") || name == "Microsoft Platform Crypto Provider";
        if is_ksp { Self::Ksp(name.to_owned()) } else { Self::Csp(name.to_owned()) }
    }
}

/// Flags of services (domain.md 2.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Services(pub u8);

impl Services {
    /// Mail transport.
    pub const SMTP: Self = Self(16);

    /// Reads names with commas between them, as `IMAP, POP, SMTP`; none for an unknown one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bit = |name: &str| {
            let names = [("None", 0), ("IMAP", 1), ("POP", 2), ("UM", 4), ("IIS", 8), ("SMTP", 16), ("Federation", 32)];
            names.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim())).map(|(_, bit)| *bit)
        };
        text.split(',').try_fold(0, |flags, name| Some(flags | bit(name)?)).map(Self)
    }

    /// Whether all of `other` are in here.
    #[must_use]
    pub fn contain(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A process that holds keys in memory.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which.
    pub kind: ProcessKind,
    /// Grows by one with every start, so that what an earlier one had planned is not done by a later one.
    pub generation: u32,
    /// When it started.
    pub started: DateTime<Utc>,
    /// What it knows.
    pub keys: KeySet,
}

/// The processes that hold keys (domain.md 1.9).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessKind {
    /// The service `MSExchangeServiceHost`.
    ServiceHost,
    /// The application pool `MSExchangeOWAAppPool`.
    Owa,
    /// The application pool `MSExchangeECPAppPool`.
    Ecp,
}

impl ProcessKind {
    /// In the order of [`Server::processes`].
    pub const ALL: [Self; 3] = [Self::ServiceHost, Self::Owa, Self::Ecp];

    /// The name of its service or application pool.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceHost => "MSExchangeServiceHost",
            Self::Owa => "MSExchangeOWAAppPool",
            Self::Ecp => "MSExchangeECPAppPool",
        }
    }
}

/// What a process knows of AuthConfig since it last read it.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    /// What it takes for the current certificate, whether it can use it or not.
    pub current: Option<Thumbprint>,
    /// What it takes for the next one.
    pub next: Option<Thumbprint>,
    /// Of current, previous and next those that it could use when it read them.
    pub accepted: Vec<Arc<Certificate>>,
    /// When it read them.
    pub read: DateTime<Utc>,
}
