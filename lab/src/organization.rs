//! What the simulated organization consists of, and which of Exchange's unconfirmed rules it enforces.

mod hybrid;

use std::collections::BTreeSet;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

pub use self::hybrid::{AppPath, EXCHANGE_ADMINISTRATOR, Hybrid, ORGANIZATION_GUID, PartnerRules, Permission, Region};

/// The organization at the beginning.
#[derive(Clone, Debug)]
pub struct Organization {
    /// Its short name in `rekey.toml`.
    pub id: String,
    /// The Exchange servers.
    pub servers: Vec<ServerSpec>,
    /// The domain controllers; at least one.
    pub controllers: Vec<ControllerSpec>,
    /// The server on which the AuthAdmin servicelet acts, by name.
    pub auth_admin_host: String,
    /// How long a change takes to another site.
    pub replication_lag: TimeDelta,
    /// How far the Certificate servicelet carries certificates.
    pub servicelet: Servicelet,
    /// The rules in force.
    pub rules: Rules,
    /// Whether the trust probe looks. It compares every server with every other after every change.
    pub trust_probe: bool,
    /// The tenant that it shares its users with; none if it stands alone.
    pub hybrid: Option<Hybrid>,
}

impl Organization {
    /// Three servers in two sites: Exchange 2016, 2019 and SE, each on another Windows.
    #[must_use]
    pub fn contoso() -> Self {
        let server = |name: &str, site: &str, version, windows_build| ServerSpec {
            name: name.to_owned(),
            fqdn: format!("{}.contoso.example", name.to_lowercase()),
            site: site.to_owned(),
            version,
            windows_build,
            role: Role::Mailbox,
        };
        let controller =
            |name: &str, site: &str| ControllerSpec { fqdn: format!("{name}.contoso.example"), site: site.to_owned() };
        Self {
            id: "contoso".to_owned(),
            servers: vec![
                server("EX01", "Amsterdam", [15, 1, 2507, 61], 14393),
                server("EX02", "Amsterdam", [15, 2, 1544, 36], 20348),
                server("EX03", "Berlin", [15, 2, 2562, 41], 26100),
            ],
            controllers: vec![controller("dc01", "Amsterdam"), controller("dc02", "Berlin")],
            auth_admin_host: "EX01".to_owned(),
            replication_lag: TimeDelta::minutes(15),
            servicelet: Servicelet::SiteOnly,
            rules: Rules::all(),
            trust_probe: true,
            hybrid: None,
        }
    }
}

/// One Exchange server.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// NetBIOS name.
    pub name: String,
    /// Full name.
    pub fqdn: String,
    /// Active Directory site.
    pub site: String,
    /// Major, minor, build, revision of Exchange.
    pub version: [i32; 4],
    /// Build of Windows 10.0: 14393 is Server 2016, 17763 Server 2019, 20348 Server 2022, 26100 Server 2025.
    pub windows_build: u32,
    /// What it does.
    pub role: Role,
}

/// What an Exchange server does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Everything, as since 2016.
    Mailbox,
    /// Only the front end, a split role of 2013.
    ClientAccess,
    /// Mail transport in the perimeter: no part in the Auth certificate.
    Edge,
}

/// One domain controller.
#[derive(Clone, Debug)]
pub struct ControllerSpec {
    /// Full name.
    pub fqdn: String,
    /// Active Directory site.
    pub site: String,
}

/// How far the Certificate servicelet carries certificates (domain.md 6.7).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Servicelet {
    /// Nowhere.
    Off,
    /// Within a site: what Microsoft's documentation says.
    SiteOnly,
    /// Everywhere, its own site first.
    AllSites,
}

/// A rule of `Set-AuthConfig` that no public documentation confirms (domain.md 6.4).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A thumbprint comes with a date.
    DateWithThumbprint,
    /// The date is not earlier than five minutes ago.
    DateNotPast,
    /// The certificate is in the store of the executing or named server.
    InStore,
    /// The certificate and its key are fit for Exchange.
    FitForExchange,
    /// The key is exportable, or `-Force` is given.
    Exportable,
    /// The certificate has begun to be valid and has not expired.
    ValidNow,
    /// The certificate outlives the date.
    OutlivesDate,
    /// The certificate is not the current one.
    NotCurrent,
    /// Replacing another staged certificate prompts.
    PromptOtherNext,
    /// A date in less than 48 hours prompts.
    PromptEarlyDate,
    /// Publishing needs a staged certificate.
    PublishNeedsNext,
    /// Publishing before the date prompts.
    PromptEarlyPublish,
    /// A certificate that is staged cannot be made current directly.
    NotStaged,
    /// Moving the date needs a staged certificate.
    DateNeedsNext,
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    waived: BTreeSet<Rule>,
}

impl Rules {
    /// Every rule.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// These rules but one.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.waived.insert(rule);
        self
    }

    /// Whether a rule is in force.
    #[must_use]
    pub fn enforce(&self, rule: Rule) -> bool {
        !self.waived.contains(&rule)
    }
}
