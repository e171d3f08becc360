//! Runs of hybrid organizations: whatever people, failures and time do, the cloud has the key before anything is announced, and keeps the old one until
//! it is given up.

use proptest::prelude::*;

use super::*;
use crate::{
    Organization, Reason, Request, Snapshot,
    planning::hybrid::tests::{automatic, by_hand},
};

fn planned(of: (Organization, Request, Snapshot), reason: Reason) -> Plan {
    let (organization, mut request, snapshot) = of;
    request.reason = reason;
    planning::plan(&organization, &request, &snapshot, now()).unwrap()
}

/// Approves every gate in its turn until the run is over.
fn through(play: &mut Play) {
    play.drain();
    while let Some(gate) = play.renewal.state.open_gate() {
        play.log.push(format!("gate:{gate}"));
        play.decide(gate, Verb::Approve);
        play.drain();
    }
}

#[test]
fn a_hybrid_run_goes_through_the_cloud_in_the_only_order_without_an_outage() {
    let mut play = Play::of(planned(automatic(), Reason::Expiring));
    through(&mut play);
    assert_eq!(
        play.log.join(" "),
        "gate:execute running generate: running distribute:ex01 distribute:ex02 distribute:ex03 running trust_cloud: running stage: awaiting_approval \
         gate:publish waiting publish: running restart:ex01 restart:ex02 restart:ex03 running refresh_hybrid: soaking soak: awaiting_approval \
         gate:clear_previous running clear_previous: running prune_cloud: prune:ex01 prune:ex02 prune:ex03 running close: succeeded"
    );
}

#[test]
fn a_run_by_hand_waits_until_a_person_says_that_the_key_is_registered() {
    let mut play = Play::of(planned(by_hand(), Reason::Compromised));
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::TrustCloud));
    assert_eq!(play.ready(), Vec::<usize>::new());
    play.decide(Gate::TrustCloud, Verb::Approve);
    play.drain();
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::Publish), "an emergency is decided before staging");
    assert!(play.log.contains(&"trust_cloud:".to_owned()));
    assert!(!play.log.contains(&"stage:".to_owned()));
    through(&mut play);
    assert_eq!(play.renewal.state.status(), "succeeded", "{:?}", play.log);
}

#[test]
fn an_organization_without_a_cloud_half_does_not_even_pass_by_its_phases() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    while let Some(index) = play.ready().first().copied() {
        assert!(!play.renewal.state.phase().is_some_and(Phase::is_hybrid));
        play.finish(index);
    }
    let run = Run { renewal: &play.renewal, plan: Some(&play.plan), steps: &play.steps, decisions: &[] };
    assert_eq!(run.following(Phase::Distribute), Some(Phase::Stage));
    assert_eq!(run.following(Phase::Restart), Some(Phase::Soak));
}

#[test]
fn a_confirmation_that_is_withdrawn_in_time_closes_the_gate_again() {
    let mut play = Play::of(planned(by_hand(), Reason::Expiring));
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    play.decide(Gate::TrustCloud, Verb::Approve);
    assert_eq!(play.renewal.state, State::Running { phase: Phase::TrustCloud });
    play.decide(Gate::TrustCloud, Verb::Withdraw);
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::TrustCloud));
    let run = Run { renewal: &play.renewal, plan: Some(&play.plan), steps: &play.steps, decisions: &play.decisions };
    assert_eq!(run.withdrawn_gate(&play.plan, Phase::Stage, play.now), Some(Gate::TrustCloud));
}

#[test]
fn the_key_is_kept_until_the_cloud_has_accepted_it_and_only_for_the_servers_when_a_person_registers_it() {
    for (of, needed) in [(automatic(), true), (by_hand(), false)] {
        let mut play = Play::of(planned(of, Reason::Expiring));
        play.decide(Gate::Execute, Verb::Approve);
        let needs = |play: &Play| {
            Run { renewal: &play.renewal, plan: Some(&play.plan), steps: &play.steps, decisions: &[] }.needs_key()
        };
        assert!(needs(&play));
        for kind in [StepKind::Generate, StepKind::Distribute, StepKind::Distribute, StepKind::Distribute] {
            let index = play.ready().into_iter().find(|index| play.steps[*index].kind == kind).unwrap();
            play.finish(index);
        }
        assert_eq!(needs(&play), needed);
        play.step(StepKind::TrustCloud, "").status = StepStatus::Succeeded;
        assert!(!needs(&play));
    }
}

#[test]
fn cancelling_takes_the_key_out_of_the_cloud_last_and_a_rollback_leaves_it() {
    let mut play = Play::of(planned(automatic(), Reason::Expiring));
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    let path = owned(cancel_path(&play.steps).unwrap());
    play.lay(path, Event::Cancel { undo: true });
    play.log.clear();
    play.drain();
    assert_eq!(
        play.log.join(" "),
        "clear_next: remove_certificate:ex01 remove_certificate:ex02 remove_certificate:ex03 remove_cloud_key: cancelled"
    );

    let mut play = Play::of(planned(automatic(), Reason::Expiring));
    for gate in [Gate::Execute, Gate::Publish] {
        play.decide(gate, Verb::Approve);
        play.drain();
    }
    let path = rollback_path(&play.steps).unwrap();
    assert!(path.iter().all(|(kind, _, _)| matches!(kind, StepKind::RestorePrevious | StepKind::Restart)), "{path:?}");
}

#[test]
fn nothing_is_published_when_nothing_shows_that_the_cloud_has_the_key() {
    for reason in [Reason::Expiring, Reason::Expired] {
        let mut play = Play::of(planned(automatic(), reason));
        // As if somebody had written into the database.
        let trust = play.step(StepKind::TrustCloud, "");
        (trust.status, trust.outcome) = (StepStatus::Skipped, Some(Box::new(Outcome::not_done("by force"))));
        for gate in [Gate::Execute, Gate::Publish] {
            play.decide(gate, Verb::Approve);
            play.drain();
        }
        let reached = |kind: &str| play.log.iter().any(|word| word.starts_with(kind));
        assert!(!reached("stage:") && !reached("publish:"), "{:?}", play.log);
        let told = matches!(
            &play.renewal.state,
            State::Waiting { reason: Wait::Attention { trouble, .. }, .. } if trouble.code == "cloud_trust_missing"
        );
        assert!(told || play.renewal.state.open_gate() == Some(Gate::Publish), "{:?}", play.renewal.state);
    }
}

/// What can happen to a run.
#[derive(Clone, Debug)]
enum Happening {
    Approve(usize),
    Cancel,
    Fail(usize),
    Finish(usize),
    Hours(i64),
    Pause,
    Resume,
    Retry,
    RollBack,
    Withdraw(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..Gate::ALL.len()).prop_map(Happening::Approve),
        1 => (0..Gate::ALL.len()).prop_map(Happening::Withdraw),
        16 => any::<usize>().prop_map(Happening::Finish),
        3 => any::<usize>().prop_map(Happening::Fail),
        4 => Just(Happening::Retry),
        1 => Just(Happening::Pause),
        3 => Just(Happening::Resume),
        3 => (1..60_i64).prop_map(Happening::Hours),
    ]
}

/// Things that happen, and at most one way back, at its end or in the middle.
fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let back = prop_oneof![2 => Just(None), 1 => Just(Some(Happening::Cancel)), 1 => Just(Some(Happening::RollBack))];
    let some = || prop::collection::vec(happening(), 1..80);
    (some(), back, some()).prop_map(|(before, back, after)| before.into_iter().chain(back).chain(after).collect())
}

impl Play {
    fn happen(&mut self, what: &Happening) {
        match what {
            Happening::Approve(gate) => self.say(Gate::ALL[*gate], Verb::Approve),
            Happening::Withdraw(gate) => self.say(Gate::ALL[*gate], Verb::Withdraw),
            Happening::Finish(which) => {
                if let Some(index) = self.one_ready(*which) {
                    self.finish(index);
                }
            }
            Happening::Fail(which) => {
                if let Some(index) = self.one_ready(*which) {
                    let step = Arc::make_mut(&mut self.steps[index]);
                    (step.status, step.failures, step.attempt) = (StepStatus::Attention, step.failures + 1, 1);
                    step.trouble = Some(Box::new(Trouble::new("cloud_unreachable", "m", "a")));
                    self.settle();
                }
            }
            Happening::Retry => {
                let failed = self.steps.iter_mut().filter(|step| step.status == StepStatus::Attention);
                failed
                    .map(Arc::make_mut)
                    .for_each(|step| (step.status, step.failures, step.trouble) = (StepStatus::Ready, 0, None));
                self.settle();
            }
            Happening::Pause => self.apply(Event::Pause { by: "olga".to_owned(), reason: "lunch".to_owned() }),
            Happening::Resume => self.apply(Event::Resume),
            Happening::Hours(hours) => {
                self.now += TimeDelta::hours(*hours);
                self.settle();
            }
            Happening::Cancel => {
                if let Ok(path) = cancel_path(&self.steps).map(owned) {
                    let event = Event::Cancel { undo: !path.is_empty() };
                    self.undo(path, event);
                }
            }
            Happening::RollBack => {
                if let Ok(path) = rollback_path(&self.steps).map(owned) {
                    self.undo(path, Event::RollBack);
                }
            }
        }
    }

    fn one_ready(&self, which: usize) -> Option<usize> {
        let ready = self.ready();
        which.checked_rem(ready.len()).map(|which| ready[which])
    }

    fn say(&mut self, gate: Gate, verb: Verb) {
        let said = Decision {
            id: Uuid::now_v7(),
            renewal_id: self.renewal.id,
            gate,
            plan_digest: self.run().digest(&self.plan),
            verb,
            decided_by: "bob".to_owned(),
            reason: "read".to_owned(),
            decided_at: self.now,
            decided_groups: Vec::new(),
            break_glass: false,
            voided_by: None,
        };
        if self.run().accepts(&said, self.now).is_ok() {
            self.decide(gate, verb);
        }
    }

    fn run(&self) -> Run<'_> {
        Run { renewal: &self.renewal, plan: Some(&self.plan), steps: &self.steps, decisions: &self.decisions }
    }

    fn apply(&mut self, event: Event) {
        if let Ok(state) = self.renewal.state.clone().apply(event, self.now) {
            self.renewal.state = state;
            self.settle();
        }
    }

    fn undo(&mut self, path: Vec<(StepKind, String, String)>, event: Event) {
        if self.renewal.state.is_live() && self.renewal.state.phase() != Some(Phase::Undo) {
            self.lay(path, event);
        }
    }

    fn is_over(&self, kind: StepKind) -> bool {
        self.steps.iter().filter(|step| step.kind == kind).all(|step| step.status.is_over())
    }

    /// What must hold of every step that a worker may take now.
    fn check(&self) -> Result<(), TestCaseError> {
        let facts = Facts::of(&self.steps);
        for step in self.ready().into_iter().map(|index| &self.steps[index]) {
            let may = match step.kind {
                StepKind::TrustCloud => {
                    let confirmed = !self.plan.has_gate(Gate::TrustCloud)
                        || matches!(
                            self.run().verdict(&self.plan, Gate::TrustCloud, self.now),
                            Verdict::Approved { .. }
                        );
                    self.is_over(StepKind::Distribute) && (confirmed || step.attempt > 0)
                }
                StepKind::Stage | StepKind::Publish => facts.trusted_cloud,
                StepKind::PruneCloud | StepKind::Prune => {
                    self.is_over(StepKind::ClearPrevious) && self.is_over(StepKind::RefreshHybrid)
                }
                StepKind::RemoveCloudKey => {
                    let servers = self.is_over(StepKind::RemoveCertificate) && self.is_over(StepKind::ClearNext);
                    servers && facts.published_at.is_none()
                }
                _ => true,
            };
            prop_assert!(may, "{} is ready too early: {:?}", step.kind, self.log);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn whatever_happens_the_cloud_has_the_key_first_and_loses_the_old_one_last(
        by_person in any::<bool>(),
        emergency in any::<bool>(),
        gates in 0..=Gate::ALL.len(),
        happenings in happenings(),
    ) {
        let reason = if emergency { Reason::Compromised } else { Reason::Expiring };
        let mut play = Play::of(planned(if by_person { by_hand() } else { automatic() }, reason));
        // Some begin in the middle, so that the end of a run is reached as often as its beginning.
        for gate in play.plan.gates_in_order().take(gates).collect::<Vec<_>>() {
            play.decide(gate, Verb::Approve);
            play.drain();
        }
        for what in &happenings {
            play.happen(what);
            play.check()?;
        }
        let at = |what: &str| play.log.iter().position(|word| word.starts_with(what));
        prop_assert!(at("publish:").is_none() || at("trust_cloud:").is_some_and(|trusted| Some(trusted) < at("publish:")));
    }
}
