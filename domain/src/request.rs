//! What a requester asks for.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use utoipa::ToSchema;

use crate::OrganizationId;

/// A change request: renew the Auth certificate of one organization.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The organization to renew.
    pub organization: OrganizationId,
    /// Why: an expired or compromised certificate gives an emergency plan.
    #[serde(default)]
    pub reason: Reason,
    /// What kind of change it is in the ticket system: chooses among the rules of the organization's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_type: Option<ChangeType>,
    /// How much is at stake, as the ticket system rates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// The ITSM record that this renewal belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// Not to be started earlier than this, even when approved (start of the change window).
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "with_zone")]
    #[schema(example = "2026-12-01T20:00:00Z")]
    pub not_before: Option<DateTime<Utc>>,
    /// Servers (FQDN) that may be unreachable without blocking the publication. Becomes part of the plan that people approve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!([]))]
    pub allow_absent: Vec<String>,
    /// A remark for approvers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Auth certificate expires on 2027-01-07")]
    pub note: Option<String>,
}

impl Request {
    /// A request that says nothing but which organization.
    #[must_use]
    pub fn of(organization: OrganizationId) -> Self {
        Self {
            organization,
            reason: Reason::default(),
            change_type: None,
            risk: None,
            ticket: None,
            not_before: None,
            allow_absent: Vec::new(),
            note: None,
        }
    }

    /// What is wrong with these values: the JSON Pointer of the member, and why. Empty when they can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut check = |pointer, text: &str, most: usize| {
            if text.trim().is_empty() || text.chars().count() > most || text.chars().any(is_unprintable) {
                faults.push((pointer, format!("use 1 to {most} printable characters, or leave it out")));
            }
        };
        if let Some(note) = &self.note {
            check("/note", note, 2000);
        }
        if let Some(ticket) = &self.ticket {
            check("/ticket/system", &ticket.system, 40);
            check("/ticket/number", &ticket.number, 100);
            ticket.sys_id.iter().for_each(|id| check("/ticket/sys_id", id, 100));
            ticket.url.iter().for_each(|url| check("/ticket/url", url, 2000));
        }
        let is_web = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        if self.ticket.as_ref().and_then(|t| t.url.as_ref()).is_some_and(|url| !is_web(url)) {
            faults.push(("/ticket/url", "use an http or https URL".to_owned()));
        }
        if self.allow_absent.len() > 500 || self.allow_absent.iter().any(|name| !is_host_name(name)) {
            faults.push(("/allow_absent", "name at most 500 servers by their fully qualified names".to_owned()));
        }
        faults
    }
}

/// Control characters other than line breaks and tabs.
fn is_unprintable(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t')
}

fn is_host_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// Reads RFC 3339 and says clearly when the time zone is missing: a guess would move a change window.
fn with_zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let refused = |_| {
        let shown: String = text.chars().take(40).collect();
        D::Error::custom(format!(
            "`{shown}` is not a date and time with a time zone: write RFC 3339 like 2026-12-01T20:00:00Z or 2026-12-01T21:00:00+01:00"
        ))
    };
    DateTime::parse_from_rfc3339(&text).map(|at| Some(at.to_utc())).map_err(refused)
}

/// Why a certificate is renewed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The private key may be known to others: emergency plan.
    Compromised,
    /// It has expired: emergency plan.
    Expired,
    /// It will expire: the normal plan.
    #[default]
    Expiring,
}

impl Reason {
    /// Whether the plan leaves out the wait between staging and publication.
    #[must_use]
    pub fn is_emergency(self) -> bool {
        matches!(self, Self::Compromised | Self::Expired)
    }
}

/// What kind of change a ticket is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeType {
    /// Assessed and approved each time.
    Normal,
    /// Of a kind that was approved once and for all, where the policy has rules for it.
    Standard,
    /// It cannot wait for the usual way.
    Emergency,
}

/// How much is at stake.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Little.
    Low,
    /// Something.
    Moderate,
    /// Much: never a standard change.
    High,
}

/// The ITSM record that a renewal belongs to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The ticket system.
    #[schema(example = "servicenow")]
    pub system: String,
    /// What people call it.
    #[schema(example = "CHG0030022")]
    pub number: String,
    /// The stable key of the record in its system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0f4ac6c4b750230096c3e4f6ee11a9fe")]
    pub sys_id: Option<String>,
    /// Where people can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://acme.service-now.com/change_request.do?sys_id=0f4ac6c4b750230096c3e4f6ee11a9fe")]
    pub url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_needs_a_time_zone() {
        let read = |at: &str| {
            serde_json::from_value::<Request>(serde_json::json!({"organization": "contoso", "not_before": at}))
        };
        assert!(read("2026-12-01T21:00:00+01:00").unwrap().not_before.is_some());
        assert!(read("2026-12-01T20:00:00").unwrap_err().to_string().contains("time zone"));
    }

    #[test]
    fn what_cannot_stand_in_a_record_is_a_fault_with_its_place() {
        let read = |change: serde_json::Value| {
            let mut json = serde_json::json!({"organization": "contoso"});
            json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            serde_json::from_value::<Request>(json).unwrap().faults().iter().map(|f| f.0).collect::<Vec<_>>()
        };
        use serde_json::json;
        assert!(read(json!({})).is_empty());
        assert_eq!(read(json!({"note": "x".repeat(2001)})), ["/note"]);
        assert_eq!(read(json!({"allow_absent": ["not a host"]})), ["/allow_absent"]);
        let ticket = json!({"system": "jira", "number": "", "url": "javascript:alert(1)"});
        assert_eq!(read(json!({"ticket": ticket})), ["/ticket/number", "/ticket/url"]);
    }
}
