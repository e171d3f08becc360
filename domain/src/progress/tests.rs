//! A run played through without a database: the order of phases is this module's promise.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::{
    Digest, RenewalId, TicketStanding, TicketWord,
    calendar::{Day, Window},
    gate::Verb,
    planning::{
        self,
        tests::{now, organization, request, snapshot, thumbprint},
    },
    step::Publisher,
};

/// Plays the parts of the database and of the workers.
struct Play {
    renewal: Renewal,
    plan: Plan,
    steps: Vec<Arc<Step>>,
    decisions: Vec<Decision>,
    now: DateTime<Utc>,
    log: Vec<String>,
}

mod adopted;
mod hybrid;

impl Play {
    fn new(change: impl FnOnce(&mut Plan)) -> Self {
        let mut plan = planning::plan(&organization(), &request(), &snapshot(), now()).unwrap();
        change(&mut plan);
        Self::of(plan)
    }

    fn of(plan: Plan) -> Self {
        let digest = plan.digest();
        let renewal = Renewal {
            state: State::awaiting(Gate::Execute, digest.clone(), now()),
            plan_digest: Some(digest),
            ..Renewal::requested(RenewalId(Uuid::nil()), "alice", request(), now())
        };
        let steps =
            plan.steps.iter().map(|p| step(p.ordinal, p.phase, p.kind, &p.target, &p.site)).map(Arc::new).collect();
        Self { renewal, plan, steps, decisions: Vec::new(), now: now(), log: Vec::new() }
    }

    fn settle(&mut self) {
        loop {
            let run =
                Run { renewal: &self.renewal, plan: Some(&self.plan), steps: &self.steps, decisions: &self.decisions };
            let Some(advance) = run.advance(self.now) else { return };
            for (id, at) in advance.ready {
                let step = self.steps.iter_mut().find(|s| s.id == id).map(Arc::make_mut).unwrap();
                (step.status, step.due_at) = (StepStatus::Ready, Some(at));
            }
            if let Some(event) = advance.event {
                self.renewal.state = self.renewal.state.clone().apply(event, self.now).unwrap();
                self.log.push(self.renewal.state.status().to_owned());
            }
        }
    }

    fn decide(&mut self, gate: Gate, verb: Verb) {
        self.decisions.push(Decision {
            id: Uuid::now_v7(),
            renewal_id: self.renewal.id,
            gate,
            plan_digest: self.plan.digest(),
            verb,
            decided_by: "bob".to_owned(),
            reason: "read".to_owned(),
            decided_at: self.now,
            decided_groups: Vec::new(),
            break_glass: false,
            voided_by: None,
        });
        self.settle();
    }

    fn apply_event(&mut self, event: Event) {
        self.renewal.state = self.renewal.state.clone().apply(event, self.now).unwrap();
        self.settle();
    }

    fn ready(&self) -> Vec<usize> {
        let ready = |s: &Step| s.status == StepStatus::Ready && permit(&self.renewal.state, s) == Permit::Run;
        (0..self.steps.len()).filter(|i| ready(&self.steps[*i])).collect()
    }

    fn finish(&mut self, index: usize) {
        let step = Arc::make_mut(&mut self.steps[index]);
        self.now = self.now.max(step.due_at.unwrap());
        self.log.push(format!("{}:{}", step.kind, step.target.split('.').next().unwrap()));
        step.outcome = Some(Box::new(match step.kind {
            StepKind::Generate => Outcome::Generated {
                thumbprint: thumbprint('B'),
                not_before: self.now,
                not_after: self.now,
                adopted: false,
                certificate: None,
                exchange_publishes_at: None,
            },
            StepKind::TrustCloud => Outcome::TrustedCloud {
                key_id: None,
                thumbprint: thumbprint('B'),
                kept: Vec::new(),
                accepted: None,
                confirmed_by: None,
            },
            StepKind::Stage => {
                Outcome::Staged { effective_at: self.now + TimeDelta::hours(49), domain_controllers: Vec::new() }
            }
            StepKind::Publish => Outcome::Published {
                published_at: self.now,
                by: Publisher::Rekey,
                domain_controllers: Vec::new(),
                lacking: Vec::new(),
            },
            _ => Outcome::not_done(""),
        }));
        (step.status, step.attempt, step.trouble, step.failures) = (StepStatus::Succeeded, 1, None, 0);
        self.settle();
    }

    /// Finishes what is due until nothing is.
    fn drain(&mut self) {
        self.settle();
        while let Some(index) = self.ready().first().copied() {
            let restarting = self.ready().iter().filter(|i| self.steps[**i].kind == StepKind::Restart).fold(
                BTreeMap::new(),
                |mut sites, i| {
                    *sites.entry(self.steps[*i].site.clone()).or_insert(0) += 1;
                    sites
                },
            );
            assert!(restarting.values().all(|n| *n == 1), "two servers of a site restart at once: {restarting:?}");
            self.finish(index);
        }
    }

    fn step(&mut self, kind: StepKind, server: &str) -> &mut Step {
        self.steps.iter_mut().find(|s| s.kind == kind && s.target.starts_with(server)).map(Arc::make_mut).unwrap()
    }

    fn fail(&mut self, kind: StepKind, server: &str, code: &str, status: StepStatus) {
        let now = self.now;
        let step = self.step(kind, server);
        (step.status, step.failures, step.attempt, step.due_at) = (status, 1, 1, Some(now));
        step.trouble = Some(Box::new(Trouble::new(code, "m", "a")));
        self.settle();
    }

    fn lay(&mut self, path: Vec<(StepKind, String, String)>, event: Event) {
        for (ordinal, (kind, target, site)) in (100..).zip(path) {
            self.steps.push(Arc::new(step(ordinal, Phase::Undo, kind, &target, &site)));
        }
        self.renewal.state = self.renewal.state.clone().apply(event, self.now).unwrap();
        self.settle();
    }
}

fn step(ordinal: i32, phase: Phase, kind: StepKind, target: &str, site: &str) -> Step {
    Step {
        id: StepId(Uuid::now_v7()),
        renewal_id: RenewalId(Uuid::nil()),
        ordinal,
        phase,
        kind,
        target: target.to_owned(),
        site: site.to_owned(),
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

fn owned(path: Vec<(StepKind, &str, &str)>) -> Vec<(StepKind, String, String)> {
    path.into_iter().map(|(kind, target, site)| (kind, target.to_owned(), site.to_owned())).collect()
}

#[test]
fn a_run_goes_through_its_phases_and_gates_in_order() {
    let mut play = Play::new(|_| {});
    play.drain();
    assert_eq!(play.renewal.state.status(), "awaiting_approval");
    for gate in play.plan.gates_in_order().collect::<Vec<_>>() {
        assert_eq!(play.renewal.state.open_gate(), Some(gate));
        play.decide(gate, Verb::Approve);
        play.drain();
    }
    assert_eq!(play.renewal.state.status(), "succeeded", "{:?}", play.log);
    assert_eq!(
        play.log.join(" "),
        "running generate: running distribute:ex01 distribute:ex02 distribute:ex03 running stage: awaiting_approval waiting publish: running \
         restart:ex01 restart:ex02 restart:ex03 soaking soak: awaiting_approval running clear_previous: running prune:ex01 prune:ex02 prune:ex03 \
         running close: succeeded"
    );
}

#[test]
fn an_approval_counts_for_the_stored_text_of_a_plan_of_which_this_version_may_read_less() {
    let mut play = Play::new(|_| {});
    let stored = Digest::of(b"the same plan, and what a newer version has added");
    play.renewal.plan_digest = Some(stored.clone());
    play.renewal.state = State::awaiting(Gate::Execute, stored.clone(), now());
    play.decide(Gate::Execute, Verb::Approve);
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::Execute), "that was for what was read");
    play.decisions[0].plan_digest = stored;
    play.settle();
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Generate });
}

#[test]
fn gates_with_quorum_zero_pass_on_evidence_alone() {
    let mut play =
        Play::new(|plan| plan.gates.iter_mut().filter(|g| g.gate != Gate::Execute).for_each(|g| g.quorum = 0));
    play.renewal.state = State::awaiting(Gate::Execute, play.plan.digest(), now());
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    assert_eq!(play.renewal.state.status(), "succeeded", "{:?}", play.log);
}

#[test]
fn an_approved_renewal_waits_for_its_start_time() {
    let start = now() + TimeDelta::hours(10);
    let mut play = Play::new(|plan| plan.not_before = Some(start));
    play.decide(Gate::Execute, Verb::Approve);
    assert_eq!(play.renewal.state, State::Scheduled { until: start });
    play.now = start;
    play.settle();
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Generate });
}

#[test]
fn nobody_deciding_in_time_ends_the_renewal_and_rejecting_it_too() {
    let mut play = Play::new(|_| {});
    play.now += TimeDelta::hours(336);
    play.settle();
    assert_eq!(play.renewal.state.status(), "expired");

    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Reject);
    assert_eq!(play.renewal.state.status(), "rejected");
}

#[test]
fn an_unapproved_publication_is_guarded_before_its_date_and_a_pause_does_not_stop_the_guard() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    let effective_at = Facts::of(&play.steps).effective_at.unwrap();
    assert_eq!(play.step(StepKind::Publish, "").due_at, Some(effective_at - GUARD));
    let publish = play.step(StepKind::Publish, "").clone();
    assert_eq!(permit(&play.renewal.state, &publish), Permit::Guard);
    play.renewal.state =
        play.renewal.state.clone().apply(Event::Pause { by: "olga".into(), reason: "x".into() }, now()).unwrap();
    play.settle();
    assert_eq!(permit(&play.renewal.state, &publish), Permit::Guard);
}

#[test]
fn an_approved_publication_is_looked_at_before_its_date_as_exchange_does_not_look() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    play.decide(Gate::Publish, Verb::Approve);
    let date = Facts::of(&play.steps).effective_at.unwrap();
    assert!(
        matches!(play.renewal.state, State::Waiting { reason: Wait::EffectiveDate { until }, .. } if until == date)
    );
    let publish = play.step(StepKind::Publish, "").clone();
    assert_eq!((publish.status, publish.due_at), (StepStatus::Ready, Some(date - GUARD)));
    assert_eq!(permit(&play.renewal.state, &publish), Permit::Run);
}

#[test]
fn withdrawing_the_publish_approval_before_the_date_opens_the_gate_again() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    play.decide(Gate::Publish, Verb::Approve);
    assert_eq!(play.renewal.state.status(), "waiting");
    play.decide(Gate::Publish, Verb::Withdraw);
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::Publish));
    let effective_at = Facts::of(&play.steps).effective_at.unwrap();
    assert_eq!(play.step(StepKind::Publish, "").due_at, Some(effective_at - GUARD));
}

#[test]
fn withdrawing_the_execute_approval_closes_every_later_phase() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    play.decide(Gate::Execute, Verb::Withdraw);
    let run = Run { renewal: &play.renewal, plan: Some(&play.plan), steps: &play.steps, decisions: &play.decisions };
    assert_eq!(run.withdrawn_gate(&play.plan, Phase::Distribute, play.now), Some(Gate::Execute));
    assert_eq!(run.withdrawn_gate(&play.plan, Phase::Undo, play.now), None);
}

#[test]
fn a_server_that_is_down_holds_the_run_unless_the_plan_allows_its_absence() {
    for (allowed, expected) in [(false, "waiting"), (true, "awaiting_approval")] {
        let mut play = Play::new(|plan| plan.servers[2].may_be_absent = allowed);
        play.decide(Gate::Execute, Verb::Approve);
        play.finish(0);
        play.fail(StepKind::Distribute, "ex03", SERVER_UNREACHABLE, StepStatus::Ready);
        let index = |play: &Play, kind, name: &str| {
            play.steps.iter().position(|s| s.kind == kind && s.target.starts_with(name)).unwrap()
        };
        for name in ["ex01", "ex02"] {
            let index = index(&play, StepKind::Distribute, name);
            play.finish(index);
        }
        if allowed {
            let stage = index(&play, StepKind::Stage, "");
            play.finish(stage);
        }
        assert_eq!(play.renewal.state.status(), expected, "{:?}", play.log);
        let late = play.step(StepKind::Distribute, "ex03").clone();
        assert_eq!(permit(&play.renewal.state, &late), Permit::Run, "it catches up when it is back");
    }
}

#[test]
fn a_step_that_needs_a_person_shows_and_goes_on_after_retry() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    play.fail(StepKind::Generate, "", "auth_config_changed", StepStatus::Attention);
    assert!(
        matches!(&play.renewal.state, State::Waiting { reason: Wait::Attention { trouble, .. }, .. } if trouble.code == "auth_config_changed")
    );
    play.step(StepKind::Generate, "").status = StepStatus::Ready;
    play.finish(0);
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Distribute });
}

#[test]
fn a_failed_check_while_soaking_starts_the_soak_again() {
    let mut play = Play::new(|_| {});
    for gate in [Gate::Execute, Gate::Publish] {
        play.decide(gate, Verb::Approve);
        let soaking = |play: &Play| matches!(play.renewal.state, State::Soaking { .. });
        play.settle();
        while let Some(index) = play.ready().first().copied().filter(|_| !soaking(&play)) {
            play.finish(index);
        }
    }
    let State::Soaking { until: first, .. } = play.renewal.state else { panic!("{:?}", play.renewal.state) };
    play.now += TimeDelta::hours(5);
    play.fail(StepKind::Soak, "", "check_failed", StepStatus::Ready);
    assert_eq!(play.renewal.state.status(), "waiting");
    play.now += TimeDelta::hours(1);
    let soak = play.step(StepKind::Soak, "");
    (soak.failures, soak.trouble) = (0, None);
    play.settle();
    let State::Soaking { until: second, .. } = play.renewal.state else { panic!("{:?}", play.renewal.state) };
    assert_eq!(second - first, TimeDelta::hours(6));
}

#[test]
fn a_soak_that_fails_for_longer_than_the_plan_lets_it_asks_a_person() {
    let mut play = Play::new(|plan| plan.soak_max_hours = Some(72));
    let started = play.now;
    play.step(StepKind::Soak, "").started_at = Some(started);
    let unreachable = Trouble::new(SERVER_UNREACHABLE, "EX01 does not answer.", "Start it");
    let mut asked = |hours: i64| {
        let soak = play.step(StepKind::Soak, "").clone();
        play.plan.soaks_too_long(&soak, &unreachable, started + TimeDelta::hours(hours))
    };
    assert_eq!(asked(72), None, "it is waited for without an end otherwise");
    let trouble = asked(73).unwrap();
    assert_eq!(trouble.code, crate::SOAK_TOO_LONG);
    assert!(trouble.message.ends_with("still fails after 72 hours: EX01 does not answer"), "{trouble}");
    assert!(trouble.action.starts_with("Start it. Then retry"), "{trouble}");
    let restart = play.steps.iter().find(|step| step.kind == StepKind::Restart).unwrap();
    let restart = Step { started_at: Some(started), ..Step::clone(restart) };
    assert_eq!(play.plan.soaks_too_long(&restart, &trouble, started + TimeDelta::days(30)), None);
    // Plans of earlier versions do not say how long.
    play.plan.soak_max_hours = None;
    let soak = play.step(StepKind::Soak, "").clone();
    assert_eq!(play.plan.soaks_too_long(&soak, &trouble, started + TimeDelta::days(365)), None);
    play.renewal.state = State::Running { phase: Phase::Soak };
    for step in play.steps.iter_mut().filter(|step| step.phase < Phase::Soak).map(Arc::make_mut) {
        step.status = StepStatus::Succeeded;
    }
    play.fail(StepKind::Soak, "", crate::SOAK_TOO_LONG, StepStatus::Attention);
    assert!(matches!(&play.renewal.state, State::Waiting { reason: Wait::Attention { .. }, .. }), "which is announced");
}

#[test]
fn cancel_takes_back_what_was_begun_in_reverse_and_rollback_is_for_what_is_published() {
    let mut play = Play::new(|_| {});
    assert_eq!(cancel_path(&play.steps).unwrap(), []);
    assert_eq!(rollback_path(&play.steps).unwrap_err().code, "not_published");
    play.decide(Gate::Execute, Verb::Approve);
    play.drain();
    let path = owned(cancel_path(&play.steps).unwrap());
    play.lay(path, Event::Cancel { undo: true });
    play.log.clear();
    play.drain();
    assert_eq!(
        play.log.join(" "),
        "clear_next: remove_certificate:ex01 remove_certificate:ex02 remove_certificate:ex03 cancelled"
    );

    let mut play = Play::new(|_| {});
    for gate in [Gate::Execute, Gate::Publish] {
        play.decide(gate, Verb::Approve);
        play.drain();
    }
    assert_eq!(cancel_path(&play.steps).unwrap_err().code, "already_published");
    let path = owned(rollback_path(&play.steps).unwrap());
    play.lay(path, Event::RollBack);
    play.log.clear();
    play.drain();
    assert_eq!(play.log.join(" "), "restore_previous: restart:ex01 restart:ex02 restart:ex03 rolled_back");
}

#[test]
fn nothing_is_undone_while_a_worker_may_still_be_doing() {
    let mut play = Play::new(|_| {});
    play.decide(Gate::Execute, Verb::Approve);
    play.finish(0);
    let distribute = play.step(StepKind::Distribute, "ex01");
    (distribute.status, distribute.attempt) = (StepStatus::Running, 1);
    let path = owned(cancel_path(&play.steps).unwrap());
    play.lay(path, Event::Cancel { undo: true });
    assert_eq!(play.ready(), Vec::<usize>::new());
    play.step(StepKind::Distribute, "ex01").status = StepStatus::Pending;
    play.settle();
    assert_eq!(play.ready().len(), 1);
}

#[test]
fn events_that_cannot_happen_are_refused_by_name() {
    let over = State::Succeeded { at: now() };
    for event in [Event::Resume, Event::Cancel { undo: false }, Event::RollBack, Event::Finished, Event::PlanningBegan]
    {
        let refused = over.clone().apply(event, now()).unwrap_err();
        assert_eq!(refused.status, "succeeded");
    }
    let waiting = State::awaiting(Gate::Publish, Digest::of(b""), now());
    assert!(
        waiting.apply(Event::Expired, now()).is_err(),
        "only the execute gate expires: later ones hold half-done work"
    );
}

fn said(word: TicketWord) -> Option<TicketStanding> {
    Some(TicketStanding { word, detail: "as the ticket says".to_owned(), read_at: now() })
}

#[test]
fn a_ticket_on_hold_stops_every_change_and_lets_the_date_be_kept_away() {
    for phase in [
        Phase::Generate,
        Phase::Distribute,
        Phase::Stage,
        Phase::Publish,
        Phase::Restart,
        Phase::ClearPrevious,
        Phase::Prune,
    ] {
        let mut play = Play::new(|_| {});
        for gate in Gate::ALL {
            play.decide(gate, Verb::Approve);
        }
        while play.renewal.state.phase() != Some(phase) || play.ready().is_empty() {
            let index = play.ready().first().copied().unwrap_or_else(|| panic!("{phase}: {:?}", play.renewal.state));
            play.finish(index);
        }
        play.renewal.ticket_standing = said(TicketWord::OnHold);
        play.settle();
        let held = State::Waiting { phase, reason: Wait::TicketOnHold { detail: "as the ticket says".to_owned() } };
        assert_eq!(play.renewal.state, held);
        let run =
            Run { renewal: &play.renewal, plan: Some(&play.plan), steps: &play.steps, decisions: &play.decisions };
        let may_run = play.steps.iter().filter(|step| run.permit(step, play.now) == Permit::Run);
        assert_eq!(may_run.count(), 0, "{phase}");
        let publish = play.steps.iter().find(|step| step.kind == StepKind::Publish).unwrap();
        let publish = run.permit(publish, play.now);
        let guards = phase <= Phase::Publish;
        assert_eq!(publish, if guards { Permit::Guard } else { Permit::Park }, "{phase}");
        play.renewal.ticket_standing = said(TicketWord::Ready);
        play.drain();
        assert_eq!(play.renewal.state.status(), "succeeded", "{phase}: {:?}", play.log);
    }
}

#[test]
fn a_window_that_closes_stops_the_run_until_the_next_one_opens() {
    let every_day = |plan: &mut Plan| {
        let days = vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
        let (from, to) = ("09:00:00".parse().unwrap(), "13:00:00".parse().unwrap());
        plan.calendar.windows = vec![Window { days, from, to }];
    };
    let mut play = Play::new(every_day);
    play.decide(Gate::Execute, Verb::Approve);
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Generate }, "{}", now());
    play.now += TimeDelta::hours(6);
    play.settle();
    let opens = play.plan.calendar.opens_at(play.now).unwrap();
    let held = State::Waiting { phase: Phase::Generate, reason: Wait::Window { until: Some(opens) } };
    assert_eq!(play.renewal.state, held);
    let run = Run { renewal: &play.renewal, plan: Some(&play.plan), steps: &play.steps, decisions: &play.decisions };
    assert_eq!(run.wake_at(), Some(opens));
    play.now = opens;
    play.settle();
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Generate });
    let mut late = Play::new(every_day);
    late.now += TimeDelta::hours(6);
    late.decide(Gate::Execute, Verb::Approve);
    assert_eq!(late.renewal.state, State::Scheduled { until: opens });
}

#[test]
fn a_gate_that_nobody_decides_expires_escalates_once_or_waits_as_its_rule_says() {
    let cases = [
        (OnTimeout::Expire, "expired"),
        (OnTimeout::Escalate, "awaiting_approval"),
        (OnTimeout::Wait, "awaiting_approval"),
    ];
    for (then, status) in cases {
        let mut play = Play::new(|plan| {
            plan.gates[0].rule = GateRule { timeout_hours: Some(8), on_timeout: Some(then), ..GateRule::default() };
        });
        play.now += TimeDelta::hours(8);
        play.settle();
        play.settle();
        assert_eq!(play.renewal.state.status(), status, "{then:?}");
        let told =
            matches!(play.renewal.state, State::AwaitingApproval { escalated_at: Some(at), .. } if at == play.now);
        assert_eq!(told, then == OnTimeout::Escalate);
        assert_eq!(play.log.len(), usize::from(then != OnTimeout::Wait), "{:?}", play.log);
    }
}

#[test]
fn an_approval_that_has_become_too_old_begins_nothing() {
    let start = now() + TimeDelta::hours(48);
    let mut play = Play::new(|plan| {
        plan.not_before = Some(start);
        plan.gates[0].rule.lifetime_hours = Some(24);
    });
    play.decide(Gate::Execute, Verb::Approve);
    assert_eq!(play.renewal.state, State::Scheduled { until: start });
    play.now = start;
    play.settle();
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::Execute));
    play.decide(Gate::Execute, Verb::Approve);
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Generate });
}

#[test]
fn a_required_ticket_must_be_ready_before_anything_begins() {
    let mut play = Play::new(|plan| {
        plan.ticket_required = true;
        plan.gates[0].quorum = 0;
    });
    play.settle();
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::Execute));
    play.renewal.ticket_standing = said(TicketWord::NotReady);
    play.settle();
    assert_eq!(play.renewal.state.open_gate(), Some(Gate::Execute));
    play.renewal.ticket_standing = said(TicketWord::Ready);
    play.settle();
    assert_eq!(play.renewal.state, State::Running { phase: Phase::Generate }, "the ticket approves it");
}
