//! The rule of a gate: who must approve it, who must not, for how long an approval counts, and what happens when nobody decides.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Decision, Gate, Verb};
use crate::Digest;

/// What a gate asks for beyond a number of people. Stands in the plan, so that its digest covers it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GateRule {
    /// How many people must approve. In a policy: instead of `execute_quorum` and its like.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 2)]
    pub quorum: Option<u32>,
    /// Groups each of which must approve, too. An approval counts for one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRule>,
    /// Who does not approve, besides the requester.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Excluded>,
    /// Hours for which an approval counts, until what the gate allows has been done; without it for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 72)]
    pub lifetime_hours: Option<u32>,
    /// Hours that the gate waits before it times out. `execute`: `approval_hours` if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 336)]
    pub timeout_hours: Option<u32>,
    /// What happens then. `execute` expires if not said, the others wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
}

impl GateRule {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This rule, where it says something, over another one.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        let list = |own: &Vec<_>, other: &Vec<_>| if own.is_empty() { other.clone() } else { own.clone() };
        Self {
            quorum: self.quorum.or(other.quorum),
            groups: if self.groups.is_empty() { other.groups.clone() } else { self.groups.clone() },
            exclude: list(&self.exclude, &other.exclude),
            lifetime_hours: self.lifetime_hours.or(other.lifetime_hours),
            timeout_hours: self.timeout_hours.or(other.timeout_hours),
            on_timeout: self.on_timeout.or(other.on_timeout),
        }
    }
}

/// A group that must approve.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"group": "exchange-admins", "approvals": 1}))]
pub struct GroupRule {
    /// As identities name it.
    #[schema(example = "exchange-admins")]
    pub group: String,
    /// How many of its members.
    #[schema(example = 1)]
    pub approvals: u32,
}

/// Who does not approve, besides the requester.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Excluded {
    /// Who asked for the plan, or for it to be made again.
    PlanAuthor,
    /// Operators who paused, resumed, retried or skipped, and the executors that the policy names.
    Executor,
}

/// What happens to a gate when nobody has decided in time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// The renewal ends; only `execute`, before anything is changed.
    Expire,
    /// It is put on record, once, so that people are told; the gate waits on.
    Escalate,
    /// It waits on.
    Wait,
}

/// Where a gate stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// What the rule asks for is there, and nobody stands against it.
    Approved {
        /// Who approved.
        by: Vec<String>,
        /// Whether one of them broke the glass.
        broken_glass: bool,
    },
    /// More approvals are needed.
    Open {
        /// Approvals so far.
        approvals: u32,
        /// What is missing.
        missing: Vec<Missing>,
    },
    /// Somebody rejected and has not withdrawn it.
    Rejected {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// Whether the gate may be passed.
    #[must_use]
    pub fn is_approved(&self) -> bool {
        matches!(self, Self::Approved { .. })
    }
}

/// Approvals that are missing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[schema(example = json!({"approvals": 1, "group": "exchange-admins"}))]
pub struct Missing {
    /// How many.
    pub approvals: u32,
    /// Of which group; of anybody if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = if self.approvals == 1 {
            "one more approval".to_owned()
        } else {
            format!("{} more approvals", self.approvals)
        };
        match &self.group {
            Some(group) => write!(f, "{more} of group {group}"),
            None => f.write_str(&more),
        }
    }
}

/// Everything that a verdict on a gate depends on, besides the decisions.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The gate.
    pub gate: Gate,
    /// The plan.
    pub digest: &'a Digest,
    /// How many people must approve.
    pub quorum: u32,
    /// What else the plan asks for.
    pub rule: &'a GateRule,
    /// Who does not approve.
    pub excluded: Vec<&'a str>,
    /// When the approvals must still count; none once what the gate allows is done.
    pub at: Option<DateTime<Utc>>,
}

impl Asked<'_> {
    /// Counts each person's last word on this digest. Decisions on other digests are void; who is excluded never counts towards approval but may reject.
    #[must_use]
    pub fn verdict(&self, decisions: &[Decision]) -> Verdict {
        if let Some(no) = self.gate.last_words(self.digest, decisions).find(|d| d.verb == Verb::Reject) {
            return Verdict::Rejected { by: no.decided_by.clone(), reason: no.reason.clone() };
        }
        let approvals = self.approvals(decisions);
        let by = || approvals.iter().map(|d| d.decided_by.clone()).collect();
        if approvals.iter().any(|d| d.break_glass) {
            return Verdict::Approved { by: by(), broken_glass: true };
        }
        let missing = self.missing(&approvals);
        let count = u32::try_from(approvals.len()).unwrap_or(u32::MAX);
        if missing.is_empty() {
            Verdict::Approved { by: by(), broken_glass: false }
        } else {
            Verdict::Open { approvals: count, missing }
        }
    }

    /// The approvals that count.
    #[must_use]
    pub fn approvals<'d>(&self, decisions: &'d [Decision]) -> Vec<&'d Decision> {
        self.standing(decisions).filter(|d| !self.has_lapsed(d)).collect()
    }

    /// The approvals that no longer count because they are too old.
    #[must_use]
    pub fn lapsed<'d>(&self, decisions: &'d [Decision]) -> Vec<&'d Decision> {
        self.standing(decisions).filter(|d| self.has_lapsed(d)).collect()
    }

    fn standing<'d>(&self, decisions: &'d [Decision]) -> impl Iterator<Item = &'d Decision> {
        let excluded = |d: &Decision| !d.break_glass && self.excluded.contains(&d.decided_by.as_str());
        self.gate.last_words(self.digest, decisions).filter(move |d| d.verb == Verb::Approve && !excluded(d))
    }

    fn has_lapsed(&self, decision: &Decision) -> bool {
        let hours = self.rule.lifetime_hours.map(|hours| TimeDelta::hours(i64::from(hours)));
        matches!((hours, self.at), (Some(hours), Some(at)) if decision.decided_at + hours <= at)
    }

    fn missing(&self, approvals: &[&Decision]) -> Vec<Missing> {
        let seats = seated(&self.rule.groups, approvals);
        let of_group = |(group, seated): (&GroupRule, u32)| {
            let approvals = group.approvals.saturating_sub(seated);
            (approvals > 0).then(|| Missing { approvals, group: Some(group.group.clone()) })
        };
        let mut missing: Vec<Missing> = self.rule.groups.iter().zip(seats).filter_map(of_group).collect();
        let promised: u32 = missing.iter().map(|m| m.approvals).sum();
        let count = u32::try_from(approvals.len()).unwrap_or(u32::MAX);
        // Those that a group still owes count towards the quorum, too.
        let approvals = self.quorum.saturating_sub(count).saturating_sub(promised);
        if approvals > 0 {
            missing.push(Missing { approvals, group: None });
        }
        missing
    }
}

/// How many approvals each group has when every approval counts for one group, and as many count as possible.
fn seated(groups: &[GroupRule], approvals: &[&Decision]) -> Vec<u32> {
    let seats: Vec<&str> = groups
        .iter()
        .flat_map(|g| std::iter::repeat_n(g.group.as_str(), usize::try_from(g.approvals).unwrap_or(0).min(100)))
        .collect();
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    for person in 0..approvals.len() {
        seat(person, &seats, approvals, &mut taken, &mut vec![false; seats.len()]);
    }
    let of = |group: &GroupRule| taken.keys().filter(|seat| seats[**seat] == group.group).count();
    groups.iter().map(|group| u32::try_from(of(group)).unwrap_or(u32::MAX)).collect()
}

/// Finds a seat for a person, moving others to another one of theirs if need be.
fn seat(
    person: usize,
    seats: &[&str],
    approvals: &[&Decision],
    taken: &mut BTreeMap<usize, usize>,
    seen: &mut [bool],
) -> bool {
    for place in 0..seats.len() {
        if seen[place] || !approvals[person].decided_groups.iter().any(|group| group == seats[place]) {
            continue;
        }
        seen[place] = true;
        let free = match taken.get(&place).copied() {
            None => true,
            Some(other) => seat(other, seats, approvals, taken, seen),
        };
        if free {
            taken.insert(place, person);
            return true;
        }
    }
    false
}
