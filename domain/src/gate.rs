//! Gates: points of a renewal that need decisions of people on one plan digest.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Digest, RenewalId};

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

/// Where a gate stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The quorum is reached and nobody stands against it.
    Approved {
        /// Who approved.
        by: Vec<String>,
    },
    /// More approvals are needed.
    Open {
        /// Approvals so far.
        approvals: u32,
        /// Approvals needed.
        quorum: u32,
    },
    /// Somebody rejected and has not withdrawn it.
    Rejected {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

impl Gate {
    /// Counts each person's last word on this digest. Decisions on other digests are void; `excluded` never counts towards approval
    /// but may reject.
    #[must_use]
    pub fn verdict(self, digest: &Digest, quorum: u32, excluded: &str, decisions: &[Decision]) -> Verdict {
        if let Some(no) = self.last_words(digest, decisions).find(|d| d.verb == Verb::Reject) {
            return Verdict::Rejected { by: no.decided_by.clone(), reason: no.reason.clone() };
        }
        let by = self.approvers(digest, excluded, decisions);
        let approvals = u32::try_from(by.len()).unwrap_or(u32::MAX);
        if approvals >= quorum { Verdict::Approved { by } } else { Verdict::Open { approvals, quorum } }
    }

    /// Whose last word on this digest is yes, by name, without `excluded`.
    #[must_use]
    pub fn approvers(self, digest: &Digest, excluded: &str, decisions: &[Decision]) -> Vec<String> {
        let yes = |d: &&Decision| d.verb == Verb::Approve && d.decided_by != excluded;
        self.last_words(digest, decisions).filter(yes).map(|d| d.decided_by.clone()).collect()
    }

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

    #[test]
    fn the_last_word_of_each_person_on_this_digest_counts() {
        let (plan, other) = (Digest::of(b"plan"), Digest::of(b"other"));
        let cases: [(&str, u32, Vec<Decision>, bool); 7] = [
            ("nobody spoke", 1, vec![], false),
            ("one of one", 1, vec![said("bob", Verb::Approve, &plan)], true),
            (
                "the same person twice is one",
                2,
                vec![said("bob", Verb::Approve, &plan), said("bob", Verb::Approve, &plan)],
                false,
            ),
            ("two people", 2, vec![said("bob", Verb::Approve, &plan), said("carol", Verb::Approve, &plan)], true),
            ("withdrawn", 1, vec![said("bob", Verb::Approve, &plan), said("bob", Verb::Withdraw, &plan)], false),
            ("another digest", 1, vec![said("bob", Verb::Approve, &other)], false),
            ("the requester", 1, vec![said("alice", Verb::Approve, &plan)], false),
        ];
        for (name, quorum, decisions, approved) in cases {
            let verdict = Gate::Execute.verdict(&plan, quorum, "alice", &decisions);
            assert_eq!(matches!(verdict, Verdict::Approved { .. }), approved, "{name}: {verdict:?}");
        }
    }

    #[test]
    fn a_rejection_stands_until_it_is_withdrawn() {
        let plan = Digest::of(b"plan");
        let mut decisions = vec![said("bob", Verb::Approve, &plan), said("carol", Verb::Reject, &plan)];
        assert!(matches!(Gate::Execute.verdict(&plan, 1, "alice", &decisions), Verdict::Rejected { .. }));
        decisions.push(said("carol", Verb::Withdraw, &plan));
        assert!(matches!(Gate::Execute.verdict(&plan, 1, "alice", &decisions), Verdict::Approved { .. }));
    }
}
