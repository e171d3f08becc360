//! Changes of a run as whole transactions: each locks the renewal, changes it through the pure state machine, records it, and lets everything follow
//! that follows. API and workers use the same functions.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use domain::{
    Decision, Event, Outcome, Phase, Plan, Renewal, RenewalId, State, Step, StepId, StepKind, StepStatus, Trouble,
    audit::NewAudit,
    gate::Verb,
    plan::PlannedStep,
    progress::{self, Permit, Run},
};
use serde_json::json;
use uuid::Uuid;

use crate::{ClaimedStep, Error, Result, StepEnd, Tx, settling::Settling, steps::shared};

/// Everything about a renewal, owned.
#[derive(Clone, Debug)]
pub struct LoadedRun {
    /// The renewal.
    pub renewal: Renewal,
    /// Its plan, once there is one.
    pub plan: Option<Arc<Plan>>,
    /// Its steps in order. Copies of a run share them.
    pub steps: Vec<Arc<Step>>,
    /// Every decision on it, oldest first.
    pub decisions: Vec<Decision>,
}

impl LoadedRun {
    /// The view that the pure functions take.
    #[must_use]
    pub fn as_run(&self) -> Run<'_> {
        Run { renewal: &self.renewal, plan: self.plan.as_deref(), steps: &self.steps, decisions: &self.decisions }
    }

    /// The same run with its renewal as it is now.
    pub(crate) fn with(&self, renewal: Renewal) -> Self {
        Self { renewal, plan: self.plan.clone(), steps: self.steps.clone(), decisions: self.decisions.clone() }
    }

    /// Takes steps over as they are now.
    pub(crate) fn put_in<'a>(&mut self, changed: impl IntoIterator<Item = &'a Arc<Step>>) {
        for changed in changed.into_iter().filter(|changed| changed.renewal_id == self.renewal.id) {
            if let Some(step) = self.steps.iter_mut().find(|step| step.id == changed.id) {
                step.clone_from(changed);
            }
        }
    }
}

impl Tx {
    /// Everything about a renewal.
    pub async fn load_run(&mut self, id: RenewalId) -> Result<LoadedRun> {
        let renewal = self.renewal(id).await?;
        self.complete_run(renewal).await
    }

    async fn lock_run(&mut self, id: RenewalId) -> Result<LoadedRun> {
        let renewal = self.lock_renewal(id).await?;
        self.complete_run(renewal).await
    }

    pub(crate) async fn complete_run(&mut self, renewal: Renewal) -> Result<LoadedRun> {
        let plan = self.plan_of(&renewal).await?;
        let steps = shared(self.steps(renewal.id).await?);
        let decisions = self.decisions(renewal.id).await?;
        Ok(LoadedRun { renewal, plan, steps, decisions })
    }

    /// As [`Tx::read_runs`], without reading what this process knows. `raised` is by how much the versions are higher than what was committed.
    pub(crate) async fn complete_runs(
        &mut self,
        renewals: Vec<Renewal>,
        raised: i64,
        is_usable: impl Fn(&LoadedRun) -> bool,
    ) -> Result<Vec<LoadedRun>> {
        let (mut runs, mut unknown) = (Vec::with_capacity(renewals.len()), Vec::new());
        for renewal in renewals {
            match self.known_runs.get(&renewal, renewal.version - raised).filter(|run| is_usable(run)) {
                Some(known) => runs.push(known.with(renewal)),
                None => unknown.push(renewal),
            }
        }
        runs.extend(self.read_runs(unknown).await?);
        Ok(runs)
    }

    /// As [`Tx::complete_run`], for several renewals.
    pub(crate) async fn read_runs(&mut self, renewals: Vec<Renewal>) -> Result<Vec<LoadedRun>> {
        if renewals.is_empty() {
            return Ok(Vec::new());
        }
        let ids = || renewals.iter().map(|renewal| renewal.id);
        let (mut steps, mut decisions) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for step in self.steps_of(ids()).await? {
            steps.entry(step.renewal_id).or_default().push(Arc::new(step));
        }
        for decision in self.decisions_of(ids()).await? {
            decisions.entry(decision.renewal_id).or_default().push(decision);
        }
        let mut runs = Vec::with_capacity(renewals.len());
        for renewal in renewals {
            let plan = self.plan_of(&renewal).await?;
            let steps = steps.remove(&renewal.id).unwrap_or_default();
            let decisions = decisions.remove(&renewal.id).unwrap_or_default();
            runs.push(LoadedRun { renewal, plan, steps, decisions });
        }
        Ok(runs)
    }

    pub(crate) async fn plan_of(&mut self, renewal: &Renewal) -> Result<Option<Arc<Plan>>> {
        match &renewal.plan_digest {
            Some(digest) => self.known_plan(renewal.id, digest).await,
            None => Ok(None),
        }
    }

    /// Records that a step is about to run a cmdlet that changes something, after checking that it still may: the lease is held, its phase is being
    /// worked on, no approval was withdrawn. `detail` names the cmdlet with its parameters redacted.
    pub async fn intend(
        &mut self,
        claimed: &ClaimedStep,
        worker: &str,
        detail: serde_json::Value,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let run = self.lock_run(claimed.step.renewal_id).await?;
        self.holds_step(&claimed.step).await?;
        let permit = run.as_run().permit(&claimed.step, now);
        if permit != claimed.permit || run.renewal.plan_digest != claimed.run.renewal.plan_digest {
            let hold = run.plan.as_ref().and_then(|plan| run.as_run().hold(plan, claimed.step.phase, now));
            if let Some(hold) = hold {
                return Err(Error::GateClosed(hold.trouble()));
            }
            return Err(Error::GateClosed(Trouble::new(
                "not_its_turn",
                format!("The renewal is {}", run.renewal.state.status()),
                "Nothing to do: the step goes on when its turn comes again",
            )));
        }
        if let (Permit::Run, Some(gate)) =
            (permit, run.plan.as_ref().and_then(|plan| run.as_run().withdrawn_gate(plan, claimed.step.phase, now)))
        {
            return Err(Error::GateClosed(Trouble::new(
                progress::APPROVAL_WITHDRAWN,
                format!("The {gate} gate no longer has its approvals"),
                "Approve it again, then retry; or cancel",
            )));
        }
        self.audit(&run.renewal, NewAudit::new(worker, "cmdlet.intended", step_detail(&claimed.step, detail)), now)
            .await
    }

    /// Records something about a step that this worker holds.
    pub async fn record(&mut self, claimed: &ClaimedStep, new: NewAudit, now: DateTime<Utc>) -> Result<()> {
        self.holds_step(&claimed.step).await?;
        let new = NewAudit { detail: step_detail(&claimed.step, new.detail), ..new };
        self.audit(&claimed.run.renewal, new, now).await
    }

    /// Ends an attempt and lets everything follow.
    pub async fn finish_step(
        &mut self,
        claimed: &ClaimedStep,
        worker: &str,
        end: &StepEnd,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let held = self.finish_steps(&[(&claimed.step, end)], worker, now).await?;
        if held.is_empty() { Err(Error::LeaseLost) } else { Ok(()) }
    }

    /// Ends attempts at steps, of one renewal or of many, and lets everything follow. Returns the steps whose lease was still held: about the others
    /// nothing is written.
    pub(crate) async fn finish_steps(
        &mut self,
        ends: &[(&Step, &StepEnd)],
        worker: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<StepId>> {
        let renewals = ends.iter().map(|(step, _)| step.renewal_id).collect();
        let renewals = self.lock_renewals(&renewals).await?;
        let ended = self.end_steps(ends, now).await?;
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        let mut runs = self.complete_runs(renewals, 1, |_| true).await?;
        runs.iter_mut().for_each(|run| run.put_in(&ended));
        let held: Vec<StepId> = ended.iter().map(|step| step.id).collect();
        let mut settling = Settling::of_steps(runs, worker, now);
        let mut distributed = BTreeSet::new();
        for (step, end) in ends.iter().filter(|(step, _)| held.contains(&step.id)) {
            if let Some((action, detail)) = told(step, end) {
                settling.tell(step.renewal_id, action, step_detail(step, detail));
            }
            if matches!(step.kind, StepKind::Distribute | StepKind::TrustCloud) {
                distributed.insert(step.renewal_id);
            }
        }
        let mut runs = self.settle_all(settling).await?;
        for run in &mut runs {
            self.obey_ticket(run, worker, now).await?;
        }
        for run in runs.iter().filter(|run| distributed.contains(&run.renewal.id)) {
            self.destroy_distributed_key(run, worker, now).await?;
        }
        self.left.extend(runs.into_iter().map(Arc::new));
        Ok(held)
    }

    /// With the last server, and the proof that Entra accepts it, the key has done its work.
    async fn destroy_distributed_key(&mut self, run: &LoadedRun, worker: &str, now: DateTime<Utc>) -> Result<()> {
        if !run.as_run().needs_key() && self.destroy_sealed_key(run.renewal.id).await? {
            let detail = json!({ "why": "every server has the key" });
            self.audit(&run.renewal, NewAudit::new(worker, "key.destroyed", detail), now).await?;
        }
        Ok(())
    }

    /// Gives a step up and makes the old certificate sign again, as the plan says of this step.
    pub async fn finish_by_rolling_back(
        &mut self,
        claimed: &ClaimedStep,
        worker: &str,
        trouble: &Trouble,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let renewal = self.lock_renewal(claimed.step.renewal_id).await?;
        let end = StepEnd::Skipped(Outcome::not_done(trouble.to_string()));
        self.end_step(&claimed.step, &end, now).await?;
        let detail = step_detail(&claimed.step, json!({ "trouble": trouble }));
        self.audit(&renewal, NewAudit::new(worker, "step.exhausted", detail), now).await?;
        self.roll_back_locked(renewal, worker, &trouble.message, now).await.map(drop)
    }

    /// Ends the taking back of a staged certificate that Exchange has published meanwhile. What else was to be taken back is given up, and the old certificate
    /// is made to sign again, as after [`Tx::roll_back`].
    pub async fn finish_by_restoring(
        &mut self,
        claimed: &ClaimedStep,
        worker: &str,
        published: &Outcome,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let renewal = self.lock_renewal(claimed.step.renewal_id).await?;
        self.end_step(&claimed.step, &StepEnd::Done(published.clone()), now).await?;
        let detail = step_detail(&claimed.step, json!(published));
        self.audit(&renewal, NewAudit::new(worker, "step.succeeded", detail), now).await?;
        let instead = Outcome::not_done("The old certificate is made to sign again instead");
        self.skip_open_steps(renewal.id, &instead, now).await?;
        let reason = "Exchange has published the new certificate before its announcement was taken back";
        self.go_back(renewal, worker, reason, now).await.map(drop)
    }

    /// Ends the preflight with a plan: its steps are laid out, the `execute` gate opens.
    pub async fn finish_preflight(
        &mut self,
        claimed: &ClaimedStep,
        worker: &str,
        plan: &Plan,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut renewal = self.lock_renewal(claimed.step.renewal_id).await?;
        let digest = self.insert_plan(renewal.id, plan, now).await?;
        self.end_step(&claimed.step, &StepEnd::Done(Outcome::Planned { digest: digest.clone() }), now).await?;
        let steps: Vec<Step> = plan.steps.iter().map(|planned| planned_step(renewal.id, planned)).collect();
        self.insert_steps(&steps).await?;
        let before = renewal.plan_digest.clone();
        renewal.at_risk = plan.at_risk(now);
        self.store_risk(&renewal).await?;
        self.audit(
            &renewal,
            NewAudit::new(
                worker,
                "plan.made",
                json!({ "plan_digest": digest, "before": before, "steps": plan.steps.len(), "findings": plan.findings }),
            ),
            now,
        )
        .await?;
        renewal.plan_digest = Some(digest.clone());
        self.transition(&mut renewal, Event::Planned { digest }, worker, now).await?;
        self.settle_run(renewal, worker, now).await.map(drop)
    }

    async fn end_step(&mut self, step: &Step, end: &StepEnd, now: DateTime<Utc>) -> Result<()> {
        let held = self.end_steps(&[(step, end)], now).await?;
        if held.is_empty() { Err(Error::LeaseLost) } else { Ok(()) }
    }

    /// Ends the preflight with a refusal: nothing was changed.
    pub async fn refuse_preflight(
        &mut self,
        claimed: &ClaimedStep,
        worker: &str,
        trouble: &Trouble,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut renewal = self.lock_renewal(claimed.step.renewal_id).await?;
        let end = StepEnd::Skipped(Outcome::not_done(trouble.to_string()));
        self.end_step(&claimed.step, &end, now).await?;
        self.transition(&mut renewal, Event::Refused { trouble: trouble.clone() }, worker, now).await?;
        self.save_renewal(&renewal, None).await
    }

    /// Stores a decision if the run takes it, and lets everything follow. `expected_version` is what `If-Match` said.
    pub async fn decide(
        &mut self,
        decision: &Decision,
        expected_version: Option<i64>,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let renewal = self.lock_expected(decision.renewal_id, expected_version).await?;
        let mut run = self.complete_run(renewal).await?;
        if let Err(trouble) = run.as_run().accepts(decision, now) {
            return Err(self.refused(decision.renewal_id, trouble).await?);
        }
        self.insert_decision(decision).await?;
        let action = match decision.verb {
            Verb::Approve => "decision.approved",
            Verb::Reject => "decision.rejected",
            Verb::Withdraw => "decision.withdrawn",
        };
        let detail = json!({
            "gate": decision.gate, "plan_digest": decision.plan_digest, "reason": decision.reason, "groups": decision.decided_groups
        });
        self.audit(&run.renewal, NewAudit::new(&decision.decided_by, action, detail), now).await?;
        if decision.break_glass {
            self.ask_for_review(&mut run.renewal, decision, now).await?;
        }
        run.decisions.push(decision.clone());
        let mut settled = self.settle_loaded(run, &decision.decided_by, now).await?;
        self.take_for_free_hands(&mut settled, now).await?;
        self.announce().await?;
        Ok(settled.renewal)
    }

    /// Locks a renewal whose version must be the expected one.
    pub async fn lock_expected(&mut self, id: RenewalId, expected_version: Option<i64>) -> Result<Renewal> {
        let renewal = self.lock_renewal(id).await?;
        match expected_version {
            Some(expected) if expected != renewal.version - 1 => Err(Error::Stale { version: renewal.version - 1 }),
            _ => Ok(renewal),
        }
    }

    /// Holds a renewal.
    pub async fn pause(
        &mut self,
        id: RenewalId,
        expected_version: Option<i64>,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let mut renewal = self.lock_expected(id, expected_version).await?;
        self.operated(&mut renewal, by).await?;
        self.verb(renewal, Event::Pause { by: by.to_owned(), reason: reason.to_owned() }, by, now).await
    }

    /// Lets a paused renewal go on.
    pub async fn resume(
        &mut self,
        id: RenewalId,
        expected_version: Option<i64>,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let mut renewal = self.lock_expected(id, expected_version).await?;
        self.operated(&mut renewal, by).await?;
        self.verb(renewal, Event::Resume, by, now).await
    }

    /// Makes the failed steps of a renewal due now.
    pub async fn retry(
        &mut self,
        id: RenewalId,
        expected_version: Option<i64>,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let mut renewal = self.lock_expected(id, expected_version).await?;
        self.operated(&mut renewal, by).await?;
        let overruled = self.overrule_ticket(&mut renewal, by, now).await?;
        let steps = self.retry_steps(id, now).await?;
        if steps == 0 && !overruled {
            return Err(Error::Refused(Trouble::new(
                "nothing_to_retry",
                format!("No step has failed; the renewal is {}", renewal.state.status()),
                "Nothing to do",
            )));
        }
        self.audit(&renewal, NewAudit::new(by, "renewal.retried", json!({ "steps": steps })), now).await?;
        Ok(self.settle_run(renewal, by, now).await?.renewal)
    }

    /// Stops a renewal before publication, taking back what was done.
    pub async fn cancel(
        &mut self,
        id: RenewalId,
        expected_version: Option<i64>,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let renewal = self.lock_expected(id, expected_version).await?;
        self.cancel_locked(renewal, by, reason, now).await
    }

    /// As [`Tx::cancel`], for a renewal that is locked already.
    pub(crate) async fn cancel_locked(
        &mut self,
        renewal: Renewal,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let id = renewal.id;
        self.require_live(&renewal, "cancel").await?;
        let steps = self.steps(id).await?;
        let path = progress::cancel_path(&steps).map_err(Error::Refused)?;
        self.audit(&renewal, NewAudit::new(by, "renewal.cancel_asked", json!({ "reason": reason })), now).await?;
        let undo = !path.is_empty();
        self.lay_undo_path(id, &steps, path).await?;
        self.verb(renewal, Event::Cancel { undo }, by, now).await
    }

    /// Makes the old certificate sign again, after publication and before `clear_previous`.
    pub async fn roll_back(
        &mut self,
        id: RenewalId,
        expected_version: Option<i64>,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let renewal = self.lock_expected(id, expected_version).await?;
        self.roll_back_locked(renewal, by, reason, now).await
    }

    async fn roll_back_locked(
        &mut self,
        renewal: Renewal,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        self.require_live(&renewal, "rollback").await?;
        if renewal.state.phase() == Some(Phase::Undo) {
            return Err(Error::Refused(Trouble::new(
                "already_undoing",
                "The run is being taken back already",
                "Follow its steps",
            )));
        }
        self.go_back(renewal, by, reason, now).await
    }

    async fn go_back(&mut self, renewal: Renewal, by: &str, reason: &str, now: DateTime<Utc>) -> Result<Renewal> {
        let steps = self.steps(renewal.id).await?;
        let path = progress::rollback_path(&steps).map_err(Error::Refused)?;
        self.audit(&renewal, NewAudit::new(by, "renewal.rollback_asked", json!({ "reason": reason })), now).await?;
        self.lay_undo_path(renewal.id, &steps, path).await?;
        self.verb(renewal, Event::RollBack, by, now).await
    }

    /// As [`require_live`]; who has ended it is said.
    async fn require_live(&mut self, renewal: &Renewal, event: &'static str) -> Result<()> {
        let Err(Error::Illegal(illegal)) = require_live(renewal, event) else { return Ok(()) };
        let trouble =
            Trouble::new("not_possible_now", illegal.to_string(), "Read the renewal's state: it says what can be done");
        Err(self.refused(renewal.id, trouble).await?)
    }

    /// Makes the plan of a renewal anew, before anything is changed: the preflight runs again. Approvals of the same plan stand.
    pub async fn replan(
        &mut self,
        id: RenewalId,
        expected_version: Option<i64>,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let mut renewal = self.lock_expected(id, expected_version).await?;
        self.require_live(&renewal, "a new plan").await?;
        let steps = self.steps(id).await?;
        let waits = matches!(
            renewal.state,
            State::AwaitingApproval { gate: domain::Gate::Execute, .. } | State::Scheduled { .. }
        );
        if !waits || steps.iter().any(|step| step.kind != StepKind::Preflight && step.attempt > 0) {
            return Err(Error::Refused(Trouble::new(
                "already_begun",
                format!("The renewal is {}: its plan is made anew only before it begins", renewal.state.status()),
                "Cancel it and raise a new one",
            )));
        }
        if !renewal.involved.planned_by.iter().any(|known| known == by) {
            renewal.involved.planned_by.push(by.to_owned());
            self.store_involved(&renewal).await?;
        }
        self.delete_planned_steps(id).await?;
        self.plan_again(id, now).await?;
        self.audit(&renewal, NewAudit::new(by, "plan.asked_again", json!({ "reason": reason })), now).await?;
        self.verb(renewal, Event::ReplanAsked, by, now).await
    }

    async fn lay_undo_path(&mut self, id: RenewalId, steps: &[Step], path: Vec<(StepKind, &str, &str)>) -> Result<()> {
        let first = steps.iter().map(|s| s.ordinal).max().unwrap_or(0) + 1;
        let undo = (first..).zip(path);
        let undo: Vec<Step> = undo
            .map(|(ordinal, (kind, target, site))| new_step(id, ordinal, Phase::Undo, kind, target, site, None))
            .collect();
        self.insert_steps(&undo).await
    }

    async fn verb(&mut self, mut renewal: Renewal, event: Event, by: &str, now: DateTime<Utc>) -> Result<Renewal> {
        self.transition(&mut renewal, event, by, now).await?;
        Ok(self.settle_run(renewal, by, now).await?.renewal)
    }

    /// Lets everything follow that follows from how things stand.
    pub async fn settle(&mut self, id: RenewalId, actor: &str, now: DateTime<Utc>) -> Result<()> {
        let renewal = self.lock_renewal(id).await?;
        self.settle_run(renewal, actor, now).await.map(drop)
    }

    /// As [`Tx::settle`], for a renewal that is locked already. Stores it, also when nothing follows.
    pub(crate) async fn settle_run(&mut self, renewal: Renewal, actor: &str, now: DateTime<Utc>) -> Result<LoadedRun> {
        let run = self.complete_run(renewal).await?;
        self.settle_loaded(run, actor, now).await
    }

    /// As [`Tx::settle`], for a renewal that is locked and read.
    pub(crate) async fn settle_loaded(&mut self, run: LoadedRun, actor: &str, now: DateTime<Utc>) -> Result<LoadedRun> {
        let settled = self.settle_all(Settling::new(vec![run], actor, now)).await?;
        settled.into_iter().next().ok_or(Error::NotFound("renewal"))
    }

    /// Applies an event and records it. At the end of a run, open steps are given up and its key is destroyed.
    pub(crate) async fn transition(
        &mut self,
        renewal: &mut Renewal,
        event: Event,
        actor: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let new = happen(renewal, event, actor, now)?;
        self.audit(renewal, new, now).await?;
        if !renewal.state.is_live() {
            let destroyed = self.end_run(renewal, actor, now).await?;
            self.audit_all(destroyed.map(|new| (&*renewal, new, now))).await?;
        }
        Ok(())
    }

    /// Gives up what is open when a run has come to its end. Returns what that has to leave in the record.
    pub(crate) async fn end_run(
        &mut self,
        renewal: &Renewal,
        actor: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<NewAudit>> {
        let outcome = Outcome::not_done(format!("The renewal is {}", renewal.state.status()));
        self.skip_open_steps(renewal.id, &outcome, now).await?;
        let destroyed = self.destroy_sealed_key(renewal.id).await?;
        Ok(destroyed.then(|| NewAudit::new(actor, "key.destroyed", json!({ "why": "the run is over" }))))
    }
}

/// Applies an event to a renewal that is locked. Returns what is to be recorded of it.
pub(crate) fn happen(renewal: &mut Renewal, event: Event, actor: &str, now: DateTime<Utc>) -> Result<NewAudit> {
    let (from, phase) = (renewal.state.status(), renewal.state.phase());
    let escalated = event == Event::Escalated;
    renewal.state = renewal.state.clone().apply(event, now)?;
    renewal.updated_at = now;
    let mut detail = json!({ "from": from, "state": renewal.state });
    if let Some(phase) = phase {
        detail["from_phase"] = json!(phase);
    }
    let action = if escalated { "gate.escalated" } else { state_action(&renewal.state) };
    Ok(NewAudit::new(actor, action, detail))
}

pub(crate) fn require_live(renewal: &Renewal, event: &'static str) -> Result<()> {
    let illegal = domain::IllegalTransition { status: renewal.state.status(), event };
    if renewal.state.is_live() { Ok(()) } else { Err(Error::Illegal(illegal)) }
}

fn state_action(state: &State) -> &'static str {
    match state {
        State::Requested => "renewal.requested",
        State::Planning => "renewal.planning",
        State::AwaitingApproval { .. } => "renewal.awaiting_approval",
        State::Scheduled { .. } => "renewal.scheduled",
        State::Running { .. } => "renewal.running",
        State::Waiting { .. } => "renewal.waiting",
        State::Soaking { .. } => "renewal.soaking",
        State::Paused { .. } => "renewal.paused",
        State::Succeeded { .. } => "renewal.succeeded",
        State::Rejected { .. } => "renewal.rejected",
        State::Expired { .. } => "renewal.expired",
        State::Cancelled { .. } => "renewal.cancelled",
        State::Failed { .. } => "renewal.failed",
        State::RolledBack { .. } => "renewal.rolled_back",
    }
}

/// What is worth a record about the end of an attempt.
fn told(step: &Step, end: &StepEnd) -> Option<(&'static str, serde_json::Value)> {
    Some(match end {
        StepEnd::Done(outcome) => ("step.succeeded", json!(outcome)),
        StepEnd::Skipped(outcome) => ("step.skipped", json!(outcome)),
        StepEnd::Attention(trouble) => ("step.needs_attention", json!({ "trouble": trouble })),
        // A server that stays down would fill the record with the same line.
        StepEnd::Retry { trouble, .. } if step.trouble.as_deref() == Some(trouble) => return None,
        StepEnd::Retry { trouble, at } => ("step.retried", json!({ "trouble": trouble, "again_at": at })),
        StepEnd::Again { so_far: Some(outcome), .. } => ("step.continues", json!(outcome)),
        StepEnd::Again { so_far: None, .. } | StepEnd::Parked => return None,
    })
}

pub(crate) fn step_detail(step: &Step, mut detail: serde_json::Value) -> serde_json::Value {
    if let Some(detail) = detail.as_object_mut() {
        detail.insert("step".to_owned(), json!(step.kind));
        detail.insert("attempt".to_owned(), json!(step.attempt));
        if !step.target.is_empty() {
            detail.insert("target".to_owned(), json!(step.target));
        }
    }
    detail
}

fn planned_step(renewal: RenewalId, planned: &PlannedStep) -> Step {
    new_step(renewal, planned.ordinal, planned.phase, planned.kind, &planned.target, &planned.site, None)
}

pub(crate) fn new_step(
    renewal_id: RenewalId,
    ordinal: i32,
    phase: Phase,
    kind: StepKind,
    target: &str,
    site: &str,
    due_at: Option<DateTime<Utc>>,
) -> Step {
    Step {
        id: StepId(Uuid::now_v7()),
        renewal_id,
        ordinal,
        phase,
        kind,
        target: target.to_owned(),
        site: site.to_owned(),
        status: if due_at.is_some() { StepStatus::Ready } else { StepStatus::Pending },
        attempt: 0,
        failures: 0,
        due_at,
        trouble: None,
        outcome: None,
        started_at: None,
        finished_at: None,
    }
}
