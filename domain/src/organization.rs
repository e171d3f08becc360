//! A configured Exchange organization and the policy that its renewals obey.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ChangeType, CloudSettings, Digest, Gate, OrganizationId, Phase, Request, Risk,
    calendar::{Blackout, Calendar, Window},
    gate::{GateRule, OnTimeout},
    plan::canonical_json,
    retry::Exhausted,
};

/// A configured organization, without its endpoints and credentials: those stay with the worker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Organization {
    /// The short name used in URLs.
    pub id: OrganizationId,
    /// What people call it.
    #[schema(example = "Contoso Ltd")]
    pub name: String,
    /// True for a simulated organization: only those may run on a scaled clock.
    pub lab: bool,
    /// Whether servers' Windows endpoints are configured; without them restarts are left to people and key checks are not made.
    pub windows: bool,
    /// The tenant of a hybrid organization; without it the cloud half is left to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudSettings>,
    /// Without a tenant: a mailbox on the servers of a hybrid organization, for tests towards the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "oauth-test@contoso.example")]
    pub test_mailbox: Option<String>,
    /// The rules that its renewals obey.
    pub policy: Policy,
}

/// The rules of one organization. Its digest is part of every plan.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Hours between staging and the effective date. Microsoft recommends at least 49 (48 is the minimum).
    #[schema(example = 49)]
    pub staging_lead_hours: u32,
    /// Hours between publication and clearing the previous certificate, at least.
    #[schema(example = 24)]
    pub soak_hours: u32,
    /// Hours after the beginning of the soak from which failing evidence is a case for a person, who is asked (`soak_too_long`).
    #[schema(example = 168)]
    pub soak_max_hours: u32,
    /// Minutes between two looks at the evidence while soaking.
    #[schema(example = 240)]
    pub soak_check_minutes: u32,
    /// RSA key size in bits: 2048, 3072 or 4096.
    #[schema(example = 2048)]
    pub key_size: u32,
    /// Days that the new certificate is valid. Exchange itself uses five years.
    #[schema(example = 1826)]
    pub lifetime_days: u32,
    /// Remove the old certificate from the servers at the end.
    pub remove_old_certificate: bool,
    /// Hours that a renewal waits for approval of its `execute` gate before it expires.
    #[schema(example = 336)]
    pub approval_hours: u32,
    /// How many people must approve `execute`.
    #[schema(example = 1)]
    pub execute_quorum: u32,
    /// How many people must approve `publish`; 0 passes the gate on evidence alone.
    #[schema(example = 1)]
    pub publish_quorum: u32,
    /// How many people must approve `clear_previous`; 0 passes the gate on evidence alone.
    #[schema(example = 1)]
    pub clear_previous_quorum: u32,
    /// What happens when restarts or checks after the publication keep failing: `ask` or `roll_back`.
    #[schema(example = "ask")]
    pub after_publish_failure: Exhausted,
    /// What happens when the old certificate cannot be removed from a server: `ask` or `skip`.
    #[schema(example = "ask")]
    pub prune_failure: Exhausted,
    /// What gates ask for beyond their quorum.
    #[schema(value_type = Object)]
    pub gates: BTreeMap<Gate, GateRule>,
    /// Who carries renewals out besides operators, for gates that exclude the executor.
    pub executors: Vec<String>,
    /// Who may break the glass.
    pub break_glass: BreakGlass,
    /// What a renewal needs of a ticket.
    pub ticket: TicketNeed,
    /// The IANA time zone of windows and of blackouts that name none.
    #[schema(value_type = String, example = "Europe/Berlin")]
    pub time_zone: Tz,
    /// Weekly windows in which something may be changed. None: always.
    #[serde(rename = "window")]
    pub windows: Vec<Window>,
    /// When nothing is changed, whatever the windows say.
    #[serde(rename = "blackout")]
    pub blackouts: Vec<Blackout>,
    /// What wins when the old certificate would expire before a window opens or a blackout ends.
    pub precedence: Precedence,
    /// What becomes of a request whose start time is too late for the old certificate.
    pub infeasible: Infeasible,
    /// Other rules for emergencies.
    pub emergency: Option<Overrides>,
    /// Other rules for standard changes.
    pub standard: Option<Overrides>,
}

/// Rules that take the place of others, for one kind of change.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"ticket": "required", "gates": {"execute": {"quorum": 0}}}))]
pub struct Overrides {
    /// What gates ask for. What is not said stays.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub gates: BTreeMap<Gate, GateRule>,
    /// Whether windows and blackouts do not hold.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_calendar: bool,
    /// What a renewal needs of a ticket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<TicketNeed>,
}

/// Who may break the glass.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakGlass {
    /// Whoever has the role.
    Anyone,
    /// Whoever has the role, but not who asked for the renewal.
    #[default]
    NotRequester,
    /// Nobody.
    Off,
}

/// What a renewal needs of a ticket.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TicketNeed {
    /// None; what it says is obeyed if there is one.
    #[default]
    Optional,
    /// Nothing is changed unless its ticket system says that it is ready.
    Required,
}

/// What wins when the old certificate would expire before something may be changed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precedence {
    /// The expiry: windows and blackouts yield until the new certificate is published.
    Expiry,
    /// Windows and blackouts.
    #[default]
    Blackout,
}

/// What becomes of a request whose start time is too late.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Infeasible {
    /// It is refused, with the first time at which it may start.
    #[default]
    Refuse,
    /// It is accepted and marked.
    AcceptAtRisk,
}

/// What policies have learned to say since the first plans. As long as it is not said it is no part of the digest: plans made before keep theirs.
const LATER: [&str; 12] = [
    "blackout",
    "break_glass",
    "emergency",
    "executors",
    "gates",
    "infeasible",
    "precedence",
    "soak_max_hours",
    "standard",
    "ticket",
    "time_zone",
    "window",
];

macro_rules! is_default {
    ($($word:ty),*) => {
        $(impl $word {
            pub(crate) fn is_default(&self) -> bool {
                *self == Self::default()
            }
        })*
    };
}
is_default!(BreakGlass);

impl Default for Policy {
    fn default() -> Self {
        Self {
            staging_lead_hours: 49,
            soak_hours: 24,
            soak_max_hours: 168,
            soak_check_minutes: 240,
            key_size: 2048,
            lifetime_days: 1826,
            remove_old_certificate: true,
            approval_hours: 336,
            execute_quorum: 1,
            publish_quorum: 1,
            clear_previous_quorum: 1,
            after_publish_failure: Exhausted::Ask,
            prune_failure: Exhausted::Ask,
            gates: BTreeMap::new(),
            executors: Vec::new(),
            break_glass: BreakGlass::default(),
            ticket: TicketNeed::default(),
            time_zone: Tz::UTC,
            windows: Vec::new(),
            blackouts: Vec::new(),
            precedence: Precedence::default(),
            infeasible: Infeasible::default(),
            emergency: None,
            standard: None,
        }
    }
}

impl Policy {
    /// How many approvals a gate needs.
    #[must_use]
    pub fn quorum(&self, gate: Gate) -> u32 {
        match gate {
            Gate::Execute => self.execute_quorum,
            // One person says that they have done it.
            Gate::TrustCloud => 1,
            Gate::Publish => self.publish_quorum,
            Gate::ClearPrevious => self.clear_previous_quorum,
        }
    }

    /// The rules that hold for a request, chosen by its reason and its kind. A change of high risk is never a standard one.
    #[must_use]
    pub fn rules_for(&self, request: &Request, emergency: bool) -> Rules {
        let urgent = emergency || request.reason.is_emergency() || request.change_type == Some(ChangeType::Emergency);
        let standard = request.change_type == Some(ChangeType::Standard) && request.risk != Some(Risk::High);
        let (name, overrides) = match (&self.emergency, &self.standard) {
            (Some(overrides), _) if urgent => ("emergency", overrides.clone()),
            (_, Some(overrides)) if standard && !urgent => ("standard", overrides.clone()),
            _ => ("normal", Overrides::default()),
        };
        let calendar = if overrides.ignore_calendar { Calendar::default() } else { self.calendar() };
        Rules { name, ticket: overrides.ticket.unwrap_or(self.ticket), calendar, policy: self.clone(), overrides }
    }

    /// When something may be changed.
    #[must_use]
    pub fn calendar(&self) -> Calendar {
        Calendar { time_zone: self.time_zone, windows: self.windows.clone(), blackouts: self.blackouts.clone() }
    }

    /// What becomes of a step of a phase that was tried again as often as is sensible.
    #[must_use]
    pub fn when_exhausted(&self, phase: Phase) -> Exhausted {
        match phase {
            Phase::Restart | Phase::RefreshHybrid | Phase::Soak => self.after_publish_failure,
            Phase::Prune => self.prune_failure,
            _ => Exhausted::Ask,
        }
    }

    /// What is wrong with these values, in words; empty when they can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if ![2048, 3072, 4096].contains(&self.key_size) {
            faults.push(format!("key_size is {}: use 2048, 3072 or 4096", self.key_size));
        }
        if self.staging_lead_hours < 48 {
            faults.push(format!(
                "staging_lead_hours is {}: Exchange asks for at least 48, 49 is recommended",
                self.staging_lead_hours
            ));
        }
        if self.soak_hours < 24 {
            faults.push(format!(
                "soak_hours is {}: tokens and metadata are cached for a day, use at least 24",
                self.soak_hours
            ));
        }
        if self.soak_max_hours <= self.soak_hours {
            faults.push(format!(
                "soak_max_hours is {}: use more than soak_hours ({}), the soak takes that long when all is well",
                self.soak_max_hours, self.soak_hours
            ));
        }
        if self.soak_check_minutes == 0 {
            faults.push("soak_check_minutes is 0: use at least 1".to_owned());
        }
        if !(90..=3653).contains(&self.lifetime_days) {
            faults.push(format!("lifetime_days is {}: use 90 to 3653", self.lifetime_days));
        }
        faults.extend(self.calendar().faults());
        let with = [
            ("", Some(&self.gates)),
            ("emergency.", self.emergency.as_ref().map(|o| &o.gates)),
            ("standard.", self.standard.as_ref().map(|o| &o.gates)),
        ];
        for (place, gates) in with {
            for (gate, rule) in gates.into_iter().flatten() {
                faults.extend(rule_faults(&format!("{place}gates.{gate}"), *gate, rule, place == "standard."));
            }
        }
        let preapproved = |o: &Overrides| {
            o.gates.get(&Gate::Execute).is_some_and(|rule| rule.quorum == Some(0))
                && o.ticket.unwrap_or(self.ticket) != TicketNeed::Required
        };
        if self.standard.as_ref().is_some_and(preapproved) {
            faults.push(
                "standard: execute with quorum 0 needs ticket = \"required\": its ticket is what approves it"
                    .to_owned(),
            );
        }
        if self.execute_quorum == 0 {
            faults.push("execute_quorum is 0: at least one person approves a change".to_owned());
        }
        if self.after_publish_failure == Exhausted::Skip {
            faults.push("after_publish_failure is skip: use ask or roll_back".to_owned());
        }
        if self.prune_failure == Exhausted::RollBack {
            faults.push(
                "prune_failure is roll_back: the old certificate is given up by then, use ask or skip".to_owned(),
            );
        }
        if self.approval_hours == 0 {
            faults.push("approval_hours is 0: use at least 1".to_owned());
        }
        faults
    }

    /// The version of this policy, as it stands in plans.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let members = |policy: &Self| serde_json::to_value(policy).unwrap_or_default();
        let (mut all, usual) = (members(self), members(&Self::default()));
        if let Some(all) = all.as_object_mut() {
            all.retain(|name, value| !LATER.contains(&name.as_str()) || usual[name] != *value);
        }
        Digest::of(canonical_json(&all).as_bytes())
    }
}

/// The rules that hold for one request.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `normal`, `standard` or `emergency`.
    pub name: &'static str,
    /// What it needs of a ticket.
    pub ticket: TicketNeed,
    /// When something may be changed.
    pub calendar: Calendar,
    policy: Policy,
    overrides: Overrides,
}

impl Rules {
    /// What a gate asks for beyond its quorum, and that.
    #[must_use]
    pub fn gate(&self, gate: Gate) -> (u32, GateRule) {
        let usual = self.policy.gates.get(&gate).cloned().unwrap_or_default();
        let rule = self.overrides.gates.get(&gate).map_or_else(|| usual.clone(), |own| own.over(&usual));
        let quorum = rule.quorum.unwrap_or_else(|| self.policy.quorum(gate));
        (quorum, GateRule { quorum: None, ..rule })
    }
}

fn rule_faults(place: &str, gate: Gate, rule: &GateRule, standard: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |wrong: bool, what: &str| {
        if wrong {
            faults.push(format!("{place}: {what}"));
        }
    };
    check(
        gate == Gate::Execute && rule.quorum == Some(0) && !standard,
        "quorum is 0: only a standard change is approved beforehand",
    );
    check(
        gate != Gate::Execute && rule.on_timeout == Some(OnTimeout::Expire),
        "on_timeout = \"expire\" is for execute only: the others come after something was changed; use escalate or wait",
    );
    check(
        rule.groups.iter().any(|group| group.approvals == 0 || group.group.is_empty()),
        "name each group with approvals of at least 1",
    );
    check(
        rule.lifetime_hours == Some(0) || rule.timeout_hours == Some(0),
        "lifetime_hours and timeout_hours are at least 1",
    );
    check(
        rule.on_timeout == Some(OnTimeout::Escalate) && gate != Gate::Execute && rule.timeout_hours.is_none(),
        "on_timeout = \"escalate\" needs timeout_hours",
    );
    faults
}
