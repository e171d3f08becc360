//! Active Directory as far as AuthConfig needs it: one replica per domain controller, and replication that takes time.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::{certificate::Thumbprint, organization::ControllerSpec};

/// One replica of the AuthConfig object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuthConfig {
    /// What Exchange signs with.
    pub current: Option<Thumbprint>,
    /// What it signed with before, still accepted.
    pub previous: Option<Thumbprint>,
    /// What it will sign with, already accepted.
    pub next: Option<Thumbprint>,
    /// When `next` may become `current`.
    pub next_effective: Option<DateTime<Utc>>,
    /// When the write that made it so happened on the domain controller where it happened.
    pub when_changed: DateTime<Utc>,
    /// Orders writes of one instant.
    #[serde(skip)]
    pub revision: u64,
}

impl AuthConfig {
    /// Current, previous and next, as far as they are set.
    pub fn thumbprints(&self) -> impl Iterator<Item = &Thumbprint> {
        [&self.current, &self.previous, &self.next].into_iter().flatten()
    }

    /// Next becomes current and current becomes previous, whoever has the key or has not.
    pub fn publish(&mut self) {
        self.previous = self.current.take();
        self.current = self.next.take();
        self.next_effective = None;
    }

    /// Gives up the staged certificate.
    pub fn clear_next(&mut self) {
        self.next = None;
        self.next_effective = None;
    }

    /// Whether both say the same, whenever it was written.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let told = |c: &Self| (c.current.clone(), c.previous.clone(), c.next.clone(), c.next_effective);
        told(self) == told(other)
    }
}

/// One domain controller.
#[derive(Clone, Debug, Serialize)]
pub struct Controller {
    /// Its name.
    pub fqdn: String,
    /// Its Active Directory site.
    pub site: String,
    /// Its replica.
    pub auth_config: AuthConfig,
}

/// All domain controllers. Every one can be written to; the last writer wins with the whole object.
#[derive(Clone, Debug)]
pub struct Directory {
    controllers: Vec<Controller>,
    revision: u64,
    /// How long a write takes to another controller of its site.
    pub lag_within_site: TimeDelta,
    /// How long it takes to another site.
    pub lag_between_sites: TimeDelta,
}

/// A write on its way to a controller.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Where it arrives, an index into [`Directory::controllers`].
    pub controller: usize,
    /// How long it takes.
    pub lag: TimeDelta,
    /// What arrives.
    pub auth_config: AuthConfig,
}

impl Directory {
    /// Controllers that agree on `auth_config`.
    #[must_use]
    pub fn new(controllers: &[ControllerSpec], auth_config: &AuthConfig) -> Self {
        let controller = |spec: &ControllerSpec| Controller {
            fqdn: spec.fqdn.clone(),
            site: spec.site.clone(),
            auth_config: auth_config.clone(),
        };
        Self {
            controllers: controllers.iter().map(controller).collect(),
            revision: auth_config.revision,
            lag_within_site: TimeDelta::seconds(15),
            lag_between_sites: TimeDelta::minutes(15),
        }
    }

    /// In the order of the organization.
    #[must_use]
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// The controller of that name, full or short, in any case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.controllers.iter().position(|c| is_named(&c.fqdn, name))
    }

    /// The controller that servers of a site talk to: one of their site, else the first.
    #[must_use]
    pub fn nearest(&self, site: &str) -> usize {
        self.controllers.iter().position(|c| c.site == site).unwrap_or(0)
    }

    /// Writes on one controller, and tells what arrives at the others.
    pub fn write(
        &mut self,
        controller: usize,
        now: DateTime<Utc>,
        change: impl FnOnce(&mut AuthConfig),
    ) -> Vec<Arrival> {
        self.revision += 1;
        let origin = &mut self.controllers[controller];
        change(&mut origin.auth_config);
        origin.auth_config.when_changed = now;
        origin.auth_config.revision = self.revision;
        let (site, auth_config) = (origin.site.clone(), origin.auth_config.clone());
        let others = self.controllers.iter().enumerate().filter(|(index, _)| *index != controller);
        others
            .map(|(controller, other)| Arrival {
                controller,
                lag: if other.site == site { self.lag_within_site } else { self.lag_between_sites },
                auth_config: auth_config.clone(),
            })
            .collect()
    }

    /// Takes in what arrived, unless something newer is there. Tells whether it did.
    pub fn receive(&mut self, controller: usize, auth_config: AuthConfig) -> bool {
        let held = &mut self.controllers[controller].auth_config;
        let newer = (auth_config.when_changed, auth_config.revision) > (held.when_changed, held.revision);
        if newer {
            *held = auth_config;
        }
        newer
    }
}

/// Whether `name` is this fully qualified name or its first label, in any case.
#[must_use]
pub(crate) fn is_named(fqdn: &str, name: &str) -> bool {
    let short = fqdn.split('.').next().unwrap_or(fqdn);
    fqdn.eq_ignore_ascii_case(name) || short.eq_ignore_ascii_case(name)
}
