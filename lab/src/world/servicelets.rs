//! What Exchange does by itself: the Certificate servicelet of every server and AuthAdmin on one (domain.md 1.9, 6.7).

use super::{Outcome, World};
use crate::{
    certificate::Thumbprint,
    directory::{AuthConfig, Controller},
    journal::EffectKind,
    organization::{Role, Servicelet},
    server::{Export, Server},
};

impl World {
    /// Publishes a staged certificate that is due, whoever has its key or has not (domain.md 6.7).
    pub(super) fn run_auth_admin(&mut self, server: usize) {
        let controller = self.controller_of(server);
        let Controller { fqdn, auth_config, .. } = &self.directory.controllers()[controller];
        let due = auth_config.next_effective.is_some_and(|date| date <= self.servers[server].local_time(self.now));
        let (place, Some(next)) = (fqdn.clone(), auth_config.next.clone().filter(|_| due)) else { return };
        self.write_auth_config(controller, AuthConfig::publish);
        self.record(EffectKind::Publish, &place, Some(&next), Outcome::Changed, "AuthAdmin");
    }

    pub(super) fn fetch_missing(&mut self, server: usize) {
        if !self.servers[server].is_up() || self.servers[server].spec.role == Role::Edge {
            return;
        }
        let config = &self.directory.controllers()[self.controller_of(server)].auth_config;
        let missing = config.thumbprints().filter(|t| self.servers[server].store.find(t).is_none());
        for thumbprint in missing.cloned().collect::<Vec<_>>() {
            self.fetch(server, &thumbprint, "Certificate servicelet");
        }
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
}
