//! Which decisions are taken: the right plan, a gate that is not behind the run, and not the requester's own approval.

use crate::{
    Decision, Gate, Phase, Plan, State, StepStatus, Trouble, Verdict,
    gate::Verb,
    progress::{Facts, Run},
};

impl Run<'_> {
    /// Whether a decision may be stored, or why not and what to do. Gates that the run has not met yet may be decided in advance, but for `trust_cloud`: who
    /// approves it says what they have done with a certificate, so that certificate must be there.
    pub fn accepts(&self, decision: &Decision) -> Result<(), Trouble> {
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
        if decision.verb == Verb::Approve && decision.decided_by == self.renewal.requested_by {
            return Err(Trouble::new(
                "self_approval",
                "Who asked for a renewal does not approve it",
                "Ask another approver; you may reject it",
            ));
        }
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
        self.still_open(plan, decision)
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
    fn still_open(&self, plan: &Plan, decision: &Decision) -> Result<(), Trouble> {
        let gate = decision.gate;
        let begun = is_behind(&self.renewal.state, plan, gate) && self.has_begun(plan.opened_by(gate));
        let restores = decision.verb == Verb::Approve && !matches!(self.verdict(plan, gate), Verdict::Approved { .. });
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
