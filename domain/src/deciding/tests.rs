use std::sync::Arc;

use chrono::Utc;
use uuid::Uuid;

use super::*;
use crate::{
    Digest, Renewal, RenewalId, Step, StepId, StepKind,
    planning::{
        self,
        tests::{now, organization, request, snapshot},
    },
};

/// A renewal of Alice's with its plan, as far as it has come.
struct Scene {
    renewal: Renewal,
    plan: Option<Plan>,
    steps: Vec<Step>,
    decisions: Vec<Decision>,
}

impl Scene {
    fn at(state: State) -> Self {
        let plan = planning::plan(&organization(), &request(), &snapshot(), now()).unwrap();
        let renewal = Renewal {
            state,
            plan_digest: Some(plan.digest()),
            ..Renewal::requested(RenewalId(Uuid::nil()), "alice", request(), now())
        };
        Self {
            renewal,
            plan: Some(plan),
            steps: vec![step(Phase::Generate, StepKind::Generate)],
            decisions: Vec::new(),
        }
    }

    fn generating(status: StepStatus) -> Self {
        let mut scene = Self::at(State::Running { phase: Phase::Generate });
        scene.steps[0].status = status;
        scene
    }

    fn said(mut self, who: &str, verb: Verb) -> Self {
        self.decisions.push(self.word(who, verb, Gate::Execute));
        self
    }

    fn word(&self, who: &str, verb: Verb, gate: Gate) -> Decision {
        Decision {
            id: Uuid::now_v7(),
            renewal_id: self.renewal.id,
            gate,
            plan_digest: self.plan.as_ref().map_or_else(|| Digest::of(b"none"), Plan::digest),
            verb,
            decided_by: who.to_owned(),
            reason: "read".to_owned(),
            decided_at: Utc::now(),
            decided_groups: Vec::new(),
            break_glass: false,
            voided_by: None,
        }
    }

    /// The code of the refusal, or `taken`.
    fn answer(&self, decision: &Decision) -> String {
        let steps: Vec<_> = self.steps.iter().cloned().map(Arc::new).collect();
        let run = Run { renewal: &self.renewal, plan: self.plan.as_ref(), steps: &steps, decisions: &self.decisions };
        run.accepts(decision, now()).map_or_else(|trouble| trouble.code, |()| "taken".to_owned())
    }
}

fn step(phase: Phase, kind: StepKind) -> Step {
    Step {
        id: StepId(Uuid::nil()),
        renewal_id: RenewalId(Uuid::nil()),
        ordinal: 1,
        phase,
        kind,
        target: String::new(),
        site: String::new(),
        status: StepStatus::Pending,
        attempt: 0,
        failures: 0,
        due_at: None,
        trouble: None,
        outcome: None,
        started_at: None,
        finished_at: None,
    }
}

fn waiting_for(gate: Gate) -> State {
    State::awaiting(gate, Digest::of(b"plan"), now())
}

#[test]
fn decisions_are_taken_or_refused_with_a_code() {
    use Verb::{Approve, Reject, Withdraw};
    let open = || Scene::at(waiting_for(Gate::Execute));
    let over = State::Cancelled { at: now() };
    let paused = State::Paused {
        was: Box::new(waiting_for(Gate::Execute)),
        by: "oscar".to_owned(),
        reason: "lunch".to_owned(),
        at: now(),
    };
    let mut done = Scene::at(waiting_for(Gate::Publish)).said("bob", Approve);
    done.steps[0].status = StepStatus::Succeeded;
    let cases = [
        ("an approver approves", open(), "bob", Approve, Gate::Execute, "taken"),
        ("in advance", open(), "bob", Approve, Gate::ClearPrevious, "taken"),
        ("the requester approves", open(), "alice", Approve, Gate::Execute, "self_approval"),
        ("the requester rejects", open(), "alice", Reject, Gate::Execute, "taken"),
        ("nothing to withdraw", open(), "bob", Withdraw, Gate::Execute, "nothing_to_withdraw"),
        ("withdrawn", open().said("bob", Approve), "bob", Withdraw, Gate::Execute, "taken"),
        ("withdrawn twice", open().said("bob", Withdraw), "bob", Withdraw, Gate::Execute, "nothing_to_withdraw"),
        ("while paused", Scene::at(paused), "bob", Approve, Gate::Execute, "taken"),
        ("when over", Scene::at(over), "bob", Approve, Gate::Execute, "gate_not_open"),
        (
            "while undoing",
            Scene::at(State::Running { phase: Phase::Undo }),
            "bob",
            Approve,
            Gate::Publish,
            "gate_not_open",
        ),
        (
            "before any plan",
            Scene { plan: None, ..Scene::at(State::Planning) },
            "bob",
            Approve,
            Gate::Execute,
            "gate_not_open",
        ),
        ("passed", done, "bob", Withdraw, Gate::Execute, "gate_passed"),
        (
            "not begun",
            Scene::generating(StepStatus::Ready).said("bob", Approve),
            "bob",
            Withdraw,
            Gate::Execute,
            "taken",
        ),
        (
            "begun",
            Scene::generating(StepStatus::Running).said("bob", Approve),
            "bob",
            Withdraw,
            Gate::Execute,
            "gate_passed",
        ),
        (
            "again",
            Scene::generating(StepStatus::Running).said("bob", Approve),
            "carol",
            Approve,
            Gate::Execute,
            "gate_passed",
        ),
        ("lost in between", Scene::generating(StepStatus::Running), "bob", Approve, Gate::Execute, "taken"),
    ];
    for (name, scene, who, verb, gate, expected) in cases {
        assert_eq!(scene.answer(&scene.word(who, verb, gate)), expected, "{name}");
    }
}

#[test]
fn a_decision_on_another_plan_is_told_which_one_is_current() {
    let scene = Scene::at(waiting_for(Gate::Execute));
    let stale = Decision { plan_digest: Digest::of(b"old"), ..scene.word("bob", Verb::Approve, Gate::Execute) };
    assert_eq!(scene.answer(&stale), "stale_digest");
}

#[test]
fn nobody_confirms_what_was_done_with_a_certificate_that_is_not_made() {
    let mut scene = Scene::at(State::Running { phase: Phase::Generate });
    let (organization, request, snapshot) = planning::hybrid::tests::by_hand();
    let plan = planning::plan(&organization, &request, &snapshot, now()).unwrap();
    scene.renewal.plan_digest = Some(plan.digest());
    scene.plan = Some(plan);
    let yes = scene.word("bob", Verb::Approve, Gate::TrustCloud);
    assert_eq!(scene.answer(&yes), "certificate_not_ready");
    assert_eq!(
        scene.answer(&scene.word("bob", Verb::Approve, Gate::Publish)),
        "taken",
        "other gates say what may be done"
    );
    scene.steps[0].status = StepStatus::Succeeded;
    scene.steps[0].outcome = Some(Box::new(crate::Outcome::Generated {
        thumbprint: crate::Thumbprint::of_der(b"new"),
        not_before: now(),
        not_after: now(),
        adopted: false,
        exchange_publishes_at: None,
        certificate: None,
    }));
    assert_eq!(scene.answer(&yes), "taken");
}
