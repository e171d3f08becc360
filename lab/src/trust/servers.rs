//! Leg C: every server for every other.

use chrono::{DateTime, Utc};

use super::{Leg, POOLS, Reason, Signer, TrustProbe, Verifier};
use crate::{
    organization::Role,
    server::{Entry, KeySet, Process, Provider, Server},
};

/// Those that run and take part.
pub(super) fn active(servers: &[Server]) -> impl Iterator<Item = &Server> {
    servers.iter().filter(|server| server.is_up() && server.spec.role != Role::Edge)
}

/// A pool of a server by name.
pub(super) fn named(server: &Server, process: &Process) -> String {
    format!("{}/{}", server.spec.fqdn, process.kind.name())
}

impl TrustProbe {
    pub(super) fn look_at_servers(&mut self, now: DateTime<Utc>, servers: &[Server]) {
        for (signer, pool) in active(servers).flat_map(|server| POOLS.map(|pool| (server, pool))) {
            let process = signer.process(pool);
            let name = || named(signer, process);
            let signs = Signer {
                name: &name,
                thumbprint: process.keys.current.as_ref(),
                signs: signing_entry(now, signer, &process.keys),
            };
            let others = active(servers).filter(|other| other.spec.fqdn != signer.spec.fqdn);
            for (other, pool) in others.flat_map(|other| POOLS.map(|pool| (other, pool))) {
                let process = other.process(pool);
                let name = || named(other, process);
                let verifier = Verifier { name: &name, accepted: &process.keys.accepted, read: process.keys.read };
                self.check(now, Leg::Servers, &signs, &verifier);
            }
        }
    }
}

/// What a process of a server signs with that knows these keys, if it can.
pub(crate) fn signing_entry<'a>(now: DateTime<Utc>, server: &'a Server, keys: &KeySet) -> Result<&'a Entry, Reason> {
    let current = keys.current.as_ref().ok_or(Reason::NoPrivateKey)?;
    let entry = server.store.find(current).ok_or(Reason::NoPrivateKey)?;
    match &entry.key {
        None => Err(Reason::NoPrivateKey),
        Some(_) if !entry.certificate.is_valid_at(now) => Err(Reason::Expired),
        Some(key) if matches!(key.provider, Provider::Ksp(_)) => Err(Reason::KeyStorageProvider),
        Some(_) => Ok(entry),
    }
}
