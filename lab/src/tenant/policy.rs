//! App management policies, as far as they restrict how long a key may live (domain.md 2.1).

use chrono::TimeDelta;
use serde_json::{Value, json};

/// How long a key may live at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Lifetime {
    /// The id of the policy that says so.
    pub policy: String,
    /// An ISO-8601 duration, as it stands in the policy.
    pub max: String,
    span: TimeDelta,
}

/// The id of the tenant's default policy.
pub const DEFAULT_POLICY: &str = "00000000-0000-0000-0000-000000000000";

impl Lifetime {
    /// Reads an ISO-8601 duration of years, months and days, as policies hold them.
    pub fn parse(policy: &str, max: &str) -> anyhow::Result<Self> {
        let span = span(max).ok_or_else(|| anyhow::anyhow!("{max} is no duration: write it as P365D"))?;
        Ok(Self { policy: policy.to_owned(), max: max.to_owned(), span })
    }

    /// How long that is: a year has 365 days, a month 30.
    #[must_use]
    pub fn span(&self) -> TimeDelta {
        self.span
    }
}

fn span(text: &str) -> Option<TimeDelta> {
    let mut days = 0;
    let mut number = String::new();
    for c in text.strip_prefix('P').filter(|rest| !rest.is_empty())?.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'Y' => 365,
            'M' => 30,
            'W' => 7,
            'D' => 1,
            _ => return None,
        };
        days += unit * std::mem::take(&mut number).parse::<i64>().ok()?;
    }
    number.is_empty().then(|| TimeDelta::try_days(days))?
}

/// The restrictions of a policy on keys, as Graph shows them.
pub(super) fn restrictions(limit: Option<&Lifetime>) -> Value {
    let lifetime = limit.map(|limit| {
        json!({
            "restrictionType": "asymmetricKeyLifetime",
            "state": "enabled",
            "maxLifetime": limit.max,
            "restrictForAppsCreatedAfterDateTime": null,
            "certificateBasedApplicationConfigurationIds": [],
        })
    });
    json!({ "passwordCredentials": [], "keyCredentials": lifetime.into_iter().collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_read_as_policies_write_them() {
        for (text, days) in [("P365D", Some(365)), ("P1Y", Some(365)), ("P2Y6M", Some(910)), ("P4W", Some(28))] {
            assert_eq!(Lifetime::parse("p", text).ok().map(|l| l.span().num_days()), days, "{text}");
        }
        for text in ["365", "P", "PT1H", "P5", "PD", "P-1D"] {
            assert!(Lifetime::parse("p", text).is_err(), "{text}");
        }
    }
}
