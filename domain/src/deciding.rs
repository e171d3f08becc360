//! Which decisions are taken: the right plan, a gate that is not behind the run, and not the requester's own approval.

use chrono::{DateTime, Utc};

use crate::{
    Decision, Gate, Phase, Plan, State, StepStatus, Trouble,
    gate::Verb,
    organization::BreakGlass,
    progress::{Facts, Run},
};

/// Characters of a reason for breaking the glass, at least.
const LEAST_REASON: usize = 20;

impl Run<'_> {
    /// Whether a decision may be stored, or why not and what to do. Gates that the run has not met yet may be decided in advance, but for `trust_cloud`: who
    /// approves it says what they have done with a certificate, so that certificate must be there.
    pub fn accepts(&self, decision: &Decision, now: DateTime<Utc>) -> Result<(), Trouble> {
        let plan = self.decidable()?;
        let current = self.digest(plan);
        if decision.plan_digest != current {
            return Err(Trouble::new(
                "stale_digest",
                format!("The current plan is {current}, not {}", decision.plan_digest),
                "Read the current plan and decide on its digest",
            ));
        }
        if !plan.has_gate(decision.gate) {
            return Err(Trouble::new(
                "no_such_gate",
                format!("This plan has no {} gate", decision.gate),
                "Decide on one of the gates that the plan names",
            ));
        }
        self.may_approve(plan, decision)?;
        if decision.verb == Verb::Approve
            && decision.gate == Gate::TrustCloud
            && Facts::of(self.steps).thumbprint.is_none()
        {
            return Err(Trouble::new(
                "certificate_not_ready",
                "The new certificate is not made yet, so nobody can have registered its key",
                "Wait until GET /v1/renewals/{id}/certificate gives it, register it as the plan says, then approve",
            ));
        }
        if decision.verb == Verb::Withdraw && !self.has_spoken(decision) {
            return Err(Trouble::new(
                "nothing_to_withdraw",
                format!("You have neither approved nor rejected the {} gate of this plan", decision.gate),
                "Nothing to do",
            ));
        }
        self.still_open(plan, decision, now)
    }

    /// Who asked for a renewal does not approve it, nor do those whom the plan excludes. Breaking the glass has rules of its own.
    fn may_approve(&self, plan: &Plan, decision: &Decision) -> Result<(), Trouble> {
        let (by, requester) = (&decision.decided_by, &self.renewal.requested_by);
        if decision.break_glass {
            return self.may_break_glass(plan, decision);
        }
        if decision.verb != Verb::Approve {
            return Ok(());
        }
        if by == requester {
            return Err(Trouble::new(
                "self_approval",
                "Who asked for a renewal does not approve it",
                "Ask another approver; you may reject it",
            ));
        }
        if self.excluded(plan, &plan.rule(decision.gate)).contains(&by.as_str()) {
            return Err(Trouble::new(
                "excluded",
                format!(
                    "You had a hand in this renewal, and its plan excludes you from approving the {} gate",
                    decision.gate
                ),
                "Ask another approver; you may reject it",
            ));
        }
        Ok(())
    }

    fn may_break_glass(&self, plan: &Plan, decision: &Decision) -> Result<(), Trouble> {
        let refused = |code: &str, message: &str, action: &str| Err(Trouble::new(code, message, action));
        let own = decision.decided_by == self.renewal.requested_by;
        if decision.verb != Verb::Approve {
            return refused("nothing_to_break", "Only an approval breaks the glass", "Send it without break_glass");
        }
        if decision.gate == Gate::TrustCloud {
            return refused(
                "nothing_to_break",
                "This gate asks whether the key is registered, not for permission",
                "Register it, then approve",
            );
        }
        if plan.break_glass == BreakGlass::Off {
            return refused("break_glass_off", "The policy lets nobody break the glass", "Ask approvers");
        }
        if own && plan.break_glass == BreakGlass::NotRequester {
            return refused(
                "self_approval",
                "Who asked for a renewal does not break its glass",
                "Ask somebody else who may",
            );
        }
        if decision.reason.trim().chars().count() < LEAST_REASON {
            let message = format!("A reason of at least {LEAST_REASON} characters is needed: an auditor will read it");
            return refused("reason_too_short", &message, "Say why this cannot wait for approvers");
        }
        Ok(())
    }

    /// The plan, if there is one and the run can still do something with a decision.
    fn decidable(&self) -> Result<&Plan, Trouble> {
        let state = &self.renewal.state;
        let over = !state.is_live() || state.phase() == Some(Phase::Undo);
        self.plan.filter(|_| !over).ok_or_else(|| {
            let (message, action) = if over {
                (format!("The renewal is {}: no gate is open", state.status()), "Raise a new renewal")
            } else {
                ("There is no plan to decide on so far".to_owned(), "Wait for the plan, read it, then decide")
            };
            Trouble::new("gate_not_open", message, action)
        })
    }

    /// The approvals of the current plan that nobody has taken back, each as it was given.
    #[must_use]
    pub fn standing_approvals(&self) -> Vec<Decision> {
        let Some(digest) = &self.renewal.plan_digest else { return Vec::new() };
        let gates = Gate::ALL.into_iter();
        let approvals = gates.flat_map(|gate| gate.last_words(digest, self.decisions));
        approvals.filter(|decision| decision.verb == Verb::Approve).cloned().collect()
    }

    fn has_spoken(&self, decision: &Decision) -> bool {
        let same = |d: &&Decision| {
            d.gate == decision.gate && d.plan_digest == decision.plan_digest && d.decided_by == decision.decided_by
        };
        self.decisions.iter().rfind(same).is_some_and(|last| last.verb != Verb::Withdraw)
    }

    /// A gate whose phase has begun is behind the run. One that lost its approvals before that can be approved again.
    fn still_open(&self, plan: &Plan, decision: &Decision, now: DateTime<Utc>) -> Result<(), Trouble> {
        let gate = decision.gate;
        let begun = is_behind(&self.renewal.state, plan, gate) && self.has_begun(plan.opened_by(gate));
        let restores = decision.verb == Verb::Approve && !self.verdict(plan, gate, now).is_approved();
        if !begun || restores {
            return Ok(());
        }
        Err(Trouble::new(
            "gate_passed",
            format!("The {gate} gate is passed, and what it allows has begun"),
            "Pause, cancel or roll back the renewal instead",
        ))
    }

    fn has_begun(&self, phase: Phase) -> bool {
        self.steps.iter().any(|s| s.phase == phase && (s.status == StepStatus::Running || s.status.is_over()))
    }
}

/// Whether the run has gone through a gate.
fn is_behind(state: &State, plan: &Plan, gate: Gate) -> bool {
    match state {
        State::AwaitingApproval { gate: open, .. } => gate < *open,
        State::Paused { was, .. } => is_behind(was, plan, gate),
        state => state.phase().is_some_and(|phase| phase >= plan.opened_by(gate)),
    }
}

#[cfg(test)]
mod tests;
