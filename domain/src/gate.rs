//! Gates: points of a renewal that need decisions of people on one plan digest.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

mod rule;

use crate::{Digest, RenewalId};

pub use rule::{Asked, Excluded, GateRule, GroupRule, Missing, OnTimeout, Verdict};

/// A point that needs decisions before the run goes on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Gate {
    /// Before anything is changed.
    Execute,
    /// Before the run goes on with a cloud half that a person has done: only in plans by hand.
    TrustCloud,
    /// Before the new certificate becomes the current one.
    Publish,
    /// Before the previous certificate is given up: the point of no return.
    ClearPrevious,
}

impl Gate {
    /// All gates in the order in which a run meets them; a plan need not have all of them.
    pub const ALL: [Self; 4] = [Self::Execute, Self::TrustCloud, Self::Publish, Self::ClearPrevious];

    /// The word used in JSON, SQL and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::TrustCloud => "trust_cloud",
            Self::Publish => "publish",
            Self::ClearPrevious => "clear_previous",
        }
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a person says at a gate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Verb {
    /// Let the run go on.
    Approve,
    /// Do not.
    Reject,
    /// Take back what this person said before.
    Withdraw,
}

impl Verb {
    /// The word used in JSON, SQL and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Withdraw => "withdraw",
        }
    }
}

/// One person's word on one gate of one plan digest. Never changed: a withdrawal is a decision of its own.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
pub struct Decision {
    /// UUIDv7: later decisions sort later.
    pub id: Uuid,
    /// The renewal decided on.
    pub renewal_id: RenewalId,
    /// The gate decided on.
    pub gate: Gate,
    /// The plan that the person read.
    pub plan_digest: Digest,
    /// What they said.
    pub verb: Verb,
    /// Who: the subject of their token.
    #[schema(example = "bob@contoso.example")]
    pub decided_by: String,
    /// Why.
    #[schema(example = "Reviewed the plan with the mail team")]
    pub reason: String,
    /// When.
    pub decided_at: DateTime<Utc>,
    /// The groups that they belonged to then.
    #[sqlx(json)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["exchange-admins"]))]
    pub decided_groups: Vec<String>,
    /// They pass the gate alone, in an emergency; somebody else reviews it later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    /// Who took the decision back in the person's stead: a ticket system whose approvals were voided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voided_by: Option<String>,
}

impl Gate {
    /// Each person's last word on this gate of a plan.
    pub(crate) fn last_words<'d>(
        self,
        digest: &Digest,
        decisions: &'d [Decision],
    ) -> impl Iterator<Item = &'d Decision> {
        let mut last = BTreeMap::new();
        for decision in decisions.iter().filter(|d| d.gate == self && d.plan_digest == *digest) {
            last.insert(decision.decided_by.as_str(), decision);
        }
        last.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(who: &str, verb: Verb, digest: &Digest) -> Decision {
        Decision {
            id: Uuid::nil(),
            renewal_id: RenewalId(Uuid::nil()),
            gate: Gate::Execute,
            plan_digest: digest.clone(),
            verb,
            decided_by: who.to_owned(),
            reason: "because".to_owned(),
            decided_at: DateTime::UNIX_EPOCH,
            decided_groups: Vec::new(),
            break_glass: false,
            voided_by: None,
        }
    }

    fn of(who: &str, groups: &[&str], plan: &Digest) -> Decision {
        let decided_groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Decision { decided_groups, ..said(who, Verb::Approve, plan) }
    }

    fn verdict(plan: &Digest, quorum: u32, rule: &GateRule, decisions: &[Decision], hours: i64) -> Verdict {
        let at = Some(DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(hours));
        Asked { gate: Gate::Execute, digest: plan, quorum, rule, excluded: vec!["alice"], at }.verdict(decisions)
    }

    #[test]
    fn the_last_word_of_each_person_on_this_digest_counts() {
        let (plan, other) = (Digest::of(b"plan"), Digest::of(b"other"));
        let yes = |who| said(who, Verb::Approve, &plan);
        let cases: [(&str, u32, Vec<Decision>, bool); 7] = [
            ("nobody spoke", 1, vec![], false),
            ("one of one", 1, vec![yes("bob")], true),
            ("the same person twice is one", 2, vec![yes("bob"), yes("bob")], false),
            ("two people", 2, vec![yes("bob"), yes("carol")], true),
            ("withdrawn", 1, vec![yes("bob"), said("bob", Verb::Withdraw, &plan)], false),
            ("another digest", 1, vec![said("bob", Verb::Approve, &other)], false),
            ("the requester", 1, vec![yes("alice")], false),
        ];
        for (name, quorum, decisions, approved) in cases {
            let verdict = verdict(&plan, quorum, &GateRule::default(), &decisions, 0);
            assert_eq!(verdict.is_approved(), approved, "{name}: {verdict:?}");
        }
    }

    #[test]
    fn a_rejection_stands_until_it_is_withdrawn_also_against_broken_glass() {
        let (plan, rule) = (Digest::of(b"plan"), GateRule::default());
        let broken = Decision { break_glass: true, ..said("bob", Verb::Approve, &plan) };
        let mut decisions = vec![broken, said("carol", Verb::Reject, &plan)];
        assert!(matches!(verdict(&plan, 3, &rule, &decisions, 0), Verdict::Rejected { .. }));
        decisions.push(said("carol", Verb::Withdraw, &plan));
        assert!(matches!(verdict(&plan, 3, &rule, &decisions, 0), Verdict::Approved { broken_glass: true, .. }));
    }

    #[test]
    fn every_group_must_approve_and_one_person_counts_for_one_of_them() {
        let plan = Digest::of(b"plan");
        let group = |group: &str| GroupRule { group: group.to_owned(), approvals: 1 };
        let rule = GateRule { groups: vec![group("mail"), group("security")], ..GateRule::default() };
        let missing = |decisions: &[Decision]| match verdict(&plan, 2, &rule, decisions, 0) {
            Verdict::Open { missing, .. } => missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            verdict => format!("{verdict:?}"),
        };
        let both = of("bob", &["mail", "security"], &plan);
        assert_eq!(missing(&[]), "one more approval of group mail, one more approval of group security");
        assert_eq!(missing(std::slice::from_ref(&both)), "one more approval of group security");
        assert!(missing(&[both.clone(), of("carol", &["mail"], &plan)]).starts_with("Approved"), "bob moves over");
        assert_eq!(missing(&[both, of("carol", &["network"], &plan)]), "one more approval of group security");
    }

    #[test]
    fn an_old_approval_no_longer_counts() {
        let plan = Digest::of(b"plan");
        let rule = GateRule { lifetime_hours: Some(24), ..GateRule::default() };
        let decisions = [said("bob", Verb::Approve, &plan)];
        assert!(verdict(&plan, 1, &rule, &decisions, 23).is_approved());
        assert!(!verdict(&plan, 1, &rule, &decisions, 24).is_approved());
    }
}
