//! The cloud in motion: keys that are written, and knobs about the cloud, turned.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::{Event, Outcome, World};
use crate::{
    certificate::{self, Thumbprint},
    faults::{
        Fault,
        cloud::{KeyChange, PolicyScope, Side},
        lag,
    },
    hybrid::{Class, Cloud, Thing},
    journal::EffectKind,
    tenant::{DEFAULT_POLICY, GraphError, KeyCredential, Lifetime, Tenant, View, Written},
};

impl World {
    /// Replaces the keys of an object of the tenant.
    pub fn replace_cloud_keys(&mut self, object: usize, wanted: &Value, by: &str) -> Result<(), GraphError> {
        let now = self.now;
        let tenant = self.tenant_mut()?;
        let written = tenant.replace_keys(object, wanted, now)?;
        self.take_note(object, &written, by);
        Ok(())
    }

    /// Adds a key to an object of the tenant, with a proof.
    pub fn add_cloud_key(
        &mut self,
        object: usize,
        wanted: &Value,
        proof: &str,
        by: &str,
    ) -> Result<KeyCredential, GraphError> {
        let now = self.now;
        let (key, written) = self.tenant_mut()?.add_key(object, wanted, proof, now)?;
        self.take_note(object, &written, by);
        Ok(key)
    }

    /// Removes a key from an object of the tenant, with a proof.
    pub fn remove_cloud_key(&mut self, object: usize, key: Uuid, proof: &str, by: &str) -> Result<(), GraphError> {
        let now = self.now;
        let written = self.tenant_mut()?.remove_key(object, key, proof, now)?;
        self.take_note(object, &written, by);
        Ok(())
    }

    fn tenant_mut(&mut self) -> Result<&mut Tenant, GraphError> {
        self.cloud.as_mut().map(|cloud| &mut cloud.tenant).ok_or_else(|| GraphError::not_found("tenant"))
    }

    /// Writes down what was done, and lets the probe look whenever a verifier learns of it.
    fn take_note(&mut self, object: usize, written: &Written, by: &str) {
        let Some(cloud) = &self.cloud else { return };
        let object = &cloud.tenant.objects()[object];
        let place = format!("{} {}", object.kind.collection(), object.display_name);
        for (kind, keys) in [(EffectKind::AddCloudKey, &written.added), (EffectKind::RemoveCloudKey, &written.removed)]
        {
            for thumbprint in keys {
                self.record(kind, &place, Some(thumbprint), Outcome::Changed, by);
            }
        }
        for at in &written.seen_at {
            self.plan(*at, Event::Look);
        }
        self.look();
    }

    /// Those of the knobs that only a hybrid organization has.
    pub(super) fn apply_to_cloud(&mut self, fault: Fault) -> anyhow::Result<()> {
        anyhow::ensure!(self.cloud.is_some(), "the organization is not a hybrid one");
        if let Fault::CloudKeys { change } = fault {
            return self.change_keys(change);
        }
        let Some(cloud) = &mut self.cloud else { return Ok(()) };
        match fault {
            Fault::CloudPermission { permission, granted: true } => {
                cloud.tenant.permissions.insert(permission);
            }
            Fault::CloudPermission { permission, granted: false } => {
                cloud.tenant.permissions.remove(&permission);
            }
            Fault::HybridObject { side, class, name, set } => change_object(cloud, side, class, name.as_deref(), &set)?,
            Fault::KeyLifetime { max, scope } => limit_keys(&mut cloud.tenant, max.as_deref(), scope)?,
            Fault::Region { to } => cloud.tenant.spec.region = to,
            Fault::TenantLag { replica_seconds, cache_seconds, write_gap_seconds } => {
                let spec = &mut cloud.tenant.spec;
                replica_seconds.into_iter().for_each(|seconds| spec.replica_lag = lag(seconds));
                cache_seconds.into_iter().for_each(|seconds| spec.key_cache = lag(seconds));
                write_gap_seconds.into_iter().for_each(|seconds| spec.write_gap = lag(seconds));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn heal_cloud(&mut self) {
        let (Some(cloud), Some(spec)) = (&mut self.cloud, &self.organization.hybrid) else { return };
        let tenant = &mut cloud.tenant;
        tenant.permissions.clone_from(&spec.permissions);
        tenant.application_lifetime = None;
        let limit = spec.key_lifetime.as_deref().map(|max| Lifetime::parse(DEFAULT_POLICY, max));
        tenant.default_lifetime = limit.and_then(Result::ok);
        tenant.spec = spec.clone();
    }

    fn change_keys(&mut self, change: KeyChange) -> anyhow::Result<()> {
        let (now, current) = (self.now, self.directory.controllers()[0].auth_config.current.clone());
        let Some(cloud) = &mut self.cloud else { return Ok(()) };
        let path = cloud.tenant.spec.path;
        let object = cloud.tenant.verifying(path).ok_or_else(|| anyhow::anyhow!("the servers have no application"))?;
        let mut keys = cloud.tenant.keys(object, View::Replica(0), now).to_vec();
        match change {
            KeyChange::Add => {
                let (certificate, _) = certificate::issue(&certificate::Request::five_years("Somebody else", now))?;
                keys.push(KeyCredential::of(Arc::new(certificate), "Somebody else"));
            }
            KeyChange::RemoveCurrent => {
                let is_current = |thumbprint: &Thumbprint| Some(thumbprint) == current.as_ref();
                keys.retain(|key| !is_current(&key.certificate.thumbprint));
            }
            KeyChange::RemoveNewest => {
                keys.pop();
            }
            KeyChange::RestoreCurrent => {
                let missing = current.filter(|current| !keys.iter().any(|key| key.certificate.thumbprint == *current));
                keys.extend(missing.and_then(|current| cloud.tenant.held_once(object, &current)));
            }
        }
        let written = cloud.tenant.write(object, keys, now);
        self.take_note(object, &written, "operator");
        Ok(())
    }
}

fn change_object(
    cloud: &mut Cloud,
    side: Side,
    class: Class,
    name: Option<&str>,
    set: &serde_json::Map<String, Value>,
) -> anyhow::Result<()> {
    let things = match side {
        Side::OnPremises => &mut cloud.on_premises,
        Side::ExchangeOnline => &mut cloud.exchange_online,
    };
    let meant = |thing: &Thing| thing.class == class && name.is_none_or(|name| thing.is_called(name));
    let told = name.unwrap_or("any name");
    let none = || anyhow::anyhow!("there is no {class:?} called {told}");
    let index = things.0.iter().position(meant).ok_or_else(none)?;
    if set.is_empty() {
        things.0.remove(index);
        return Ok(());
    }
    things.0[index]
        .set(set)
        .map(drop)
        .map_err(|property| anyhow::anyhow!("{property} is not a property of {told}, or not of that kind"))
}

fn limit_keys(tenant: &mut Tenant, max: Option<&str>, scope: PolicyScope) -> anyhow::Result<()> {
    match scope {
        PolicyScope::Default => {
            tenant.default_lifetime = max.map(|max| Lifetime::parse(DEFAULT_POLICY, max)).transpose()?;
        }
        PolicyScope::Application => {
            let id = Uuid::from_u128(0xa44_ca9).to_string();
            tenant.application_lifetime = max.map(|max| Lifetime::parse(&id, max)).transpose()?;
        }
    }
    Ok(())
}
