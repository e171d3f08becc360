//! Knobs, turned.

use std::sync::Arc;

use chrono::TimeDelta;

use super::{Outcome, World};
use crate::{
    certificate::{self, AUTH_COMMON_NAME, Thumbprint},
    faults::{Change, Fault, Interference, lag},
    journal::EffectKind,
    server::{Export, Power, ProcessKind, Provider, StoredKey},
};

impl World {
    /// Makes something go wrong, or right. The error says which name is unknown.
    pub fn apply(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Cloud { requests, disturbance } => self.cloud_disturbances.add(requests, disturbance),
            Fault::CloudKeys { .. }
            | Fault::CloudPermission { .. }
            | Fault::HybridObject { .. }
            | Fault::KeyLifetime { .. }
            | Fault::Region { .. }
            | Fault::TenantLag { .. } => self.apply_to_cloud(fault)?,
            Fault::ClockSkew { server, seconds } => {
                let server = self.named(&server)?;
                self.servers[server].clock_skew = TimeDelta::seconds(seconds);
            }
            Fault::Fail { calls, error, stage } => self.interceptors.add(calls, Interference::Fail(error, stage)),
            Fault::Hold { calls, stage } => self.interceptors.add(calls, Interference::Hold(stage)),
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
            Fault::Slow { calls, milliseconds } => self.interceptors.add(calls, Interference::Slow(milliseconds)),
            Fault::Ticket { requests, disturbance } => self.tickets.disturbances.add(requests, disturbance),
            Fault::TicketHooks { lose } => self.tickets.hooks.lose = lose,
            Fault::TicketTokens => self.tickets.servicenow.forget_tokens(),
            Fault::Wire { requests, disturbance } => {
                requests.server.as_deref().map(|server| self.named(server)).transpose()?;
                self.disturbances.add(requests, disturbance);
            }
        }
        self.look();
        Ok(())
    }

    /// Puts right what can be: all servers up, clocks, lag, permissions, policies and Windows as at the beginning, no interference.
    /// What has happened stays: keys, objects, certificates.
    pub fn heal(&mut self) {
        self.interceptors.clear();
        self.disturbances.clear();
        self.cloud_disturbances.clear();
        self.tickets.disturbances.clear();
        self.tickets.hooks.lose = 0;
        self.denied.clear();
        self.directory.lag_between_sites = self.organization.replication_lag;
        for index in 0..self.servers.len() {
            self.switch(index, Power::Up);
            self.servers[index].clock_skew = TimeDelta::zero();
            self.servers[index].spec.windows_build = self.organization.servers[index].windows_build;
            self.servers[index].key_provider = Provider::legacy_default();
        }
        self.heal_cloud();
        self.look();
    }

    fn named(&self, server: &str) -> anyhow::Result<usize> {
        self.find_server(server).ok_or_else(|| anyhow::anyhow!("no server is called {server}"))
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
            Change::Stage | Change::StageFor(_) => (EffectKind::SetAuthConfigNext, Some(self.make_for_all()?)),
        };
        let hours = if let Change::StageFor(hours) = change { hours.into() } else { 50 };
        let (next, date) = (about.clone(), self.now + TimeDelta::hours(hours));
        self.write_auth_config(0, |config| match change {
            Change::ClearNext => config.clear_next(),
            Change::ClearPrevious => config.previous = None,
            Change::Publish => config.publish(),
            Change::Stage | Change::StageFor(_) => (config.next, config.next_effective) = (next, Some(date)),
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
