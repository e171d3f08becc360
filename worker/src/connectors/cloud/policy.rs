//! What a tenant allows of keys: app management policies (default of the tenant, and the application's own). Pure.
//!
//! Microsoft Graph, resources `tenantAppManagementPolicy`, `appManagementPolicy` and `keyCredentialConfiguration`.

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// How long a key of an application may stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyLifetime {
    /// As long as its certificate.
    Unlimited,
    /// At most so many days.
    Days(u32),
    /// The policy may not be read, and why.
    NotChecked(String),
}

/// `policies/defaultAppManagementPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TenantPolicy {
    pub(super) is_enabled: bool,
    pub(super) application_restrictions: Option<Restrictions>,
}

/// One of `applications/{id}/appManagementPolicies`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct OwnPolicy {
    pub(super) is_enabled: bool,
    pub(super) restrictions: Option<Restrictions>,
}

/// What either of them restricts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Restrictions {
    pub(super) key_credentials: Option<Vec<KeyRestriction>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KeyRestriction {
    pub(super) restriction_type: String,
    pub(super) state: Option<String>,
    pub(super) max_lifetime: Option<String>,
    pub(super) restrict_for_apps_created_after_date_time: Option<DateTime<Utc>>,
}

impl KeyRestriction {
    fn is_lifetime(&self) -> bool {
        self.restriction_type == "asymmetricKeyLifetime"
    }

    fn applies(&self, created_at: Option<DateTime<Utc>>) -> bool {
        let enabled = !self.state.as_deref().is_some_and(|state| state.eq_ignore_ascii_case("disabled"));
        let old = match (self.restrict_for_apps_created_after_date_time, created_at) {
            (Some(after), Some(created_at)) => created_at <= after,
            _ => false,
        };
        enabled && !old
    }
}

/// The lifetime that both policies leave to an application that was created then. What the application's own policy says of it counts instead of what
/// the tenant's says.
pub(super) fn key_lifetime(tenant: &TenantPolicy, own: &[OwnPolicy], created_at: Option<DateTime<Utc>>) -> KeyLifetime {
    let lifetimes = |restrictions: Option<&Restrictions>| {
        let all = restrictions.and_then(|r| r.key_credentials.as_deref()).unwrap_or_default();
        all.iter().filter(|restriction| restriction.is_lifetime()).cloned().collect::<Vec<_>>()
    };
    let own: Vec<KeyRestriction> = own
        .iter()
        .filter(|policy| policy.is_enabled)
        .flat_map(|policy| lifetimes(policy.restrictions.as_ref()))
        .collect();
    let of_tenant = tenant.application_restrictions.as_ref().filter(|_| tenant.is_enabled);
    let all = if own.is_empty() { lifetimes(of_tenant) } else { own };
    let days = all.iter().filter(|r| r.applies(created_at)).filter_map(|r| days(r.max_lifetime.as_deref()?));
    days.min().map_or(KeyLifetime::Unlimited, KeyLifetime::Days)
}

/// Whole days of an ISO 8601 duration; a month counts as 30, a year as 365, so that what is made is never too long.
fn days(duration: &str) -> Option<u32> {
    let date = duration.strip_prefix('P')?.split('T').next()?;
    let mut number = 0_u32;
    let mut total = 0_u32;
    for c in date.chars() {
        let unit = match c {
            '0'..='9' => {
                number = number.checked_mul(10)?.checked_add(c.to_digit(10)?)?;
                continue;
            }
            'D' => 1,
            'W' => 7,
            'M' => 30,
            'Y' => 365,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        number = 0;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn restrictions(max: &str) -> serde_json::Value {
        json!({ "passwordCredentials": [], "keyCredentials": [
            { "restrictionType": "asymmetricKeyLifetime", "state": "enabled", "maxLifetime": max,
              "restrictForAppsCreatedAfterDateTime": "2024-01-01T00:00:00Z" }
        ] })
    }

    fn tenant(enabled: bool, max: &str) -> TenantPolicy {
        let policy = json!({ "isEnabled": enabled, "applicationRestrictions": restrictions(max) });
        serde_json::from_value(policy).unwrap()
    }

    fn own(max: &str) -> OwnPolicy {
        serde_json::from_value(json!({ "isEnabled": true, "restrictions": restrictions(max) })).unwrap()
    }

    #[test]
    fn an_applications_own_policy_counts_instead_of_the_tenants() {
        let created = "2025-01-01T00:00:00Z".parse().ok();
        assert_eq!(key_lifetime(&tenant(true, "P90D"), &[], created), KeyLifetime::Days(90));
        assert_eq!(key_lifetime(&tenant(true, "P90D"), &[own("P2Y")], created), KeyLifetime::Days(730));
        assert_eq!(key_lifetime(&tenant(false, "P90D"), &[], created), KeyLifetime::Unlimited);
        assert_eq!(key_lifetime(&TenantPolicy::default(), &[own("P1Y")], created), KeyLifetime::Days(365));
    }

    #[test]
    fn an_application_that_is_older_than_the_restriction_is_not_restricted() {
        let old = "2023-12-31T00:00:00Z".parse().ok();
        assert_eq!(key_lifetime(&tenant(true, "P90D"), &[], old), KeyLifetime::Unlimited);
        assert_eq!(
            key_lifetime(&tenant(true, "P90D"), &[], None),
            KeyLifetime::Days(90),
            "unknown: the careful answer"
        );
    }

    #[test]
    fn durations_are_read_in_whole_days() {
        for (text, expected) in [("P90D", 90), ("P1Y6M", 545), ("P4W", 28), ("P30DT12H", 30), ("PT8H", 0)] {
            assert_eq!(days(text), Some(expected), "{text}");
        }
        assert!(["90 days", "P1X", ""].iter().all(|text| days(text).is_none()));
    }
}
