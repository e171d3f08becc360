//! What a renewal does next: from its state, plan, steps and decisions to the next event and the steps that become due.
//!
//! The one place that knows the order of a run. Workers and the API call [`advance`] after every change until nothing more follows, so that normal
//! operation, retry and recovery are the same code path.

use std::{borrow::Borrow, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Decision, Digest, Event, Gate, GateRule, Outcome, Phase, Plan, Renewal, State, Step, StepId, StepKind, StepStatus,
    Thumbprint, Trouble, Verdict,
    gate::{Asked, Excluded, OnTimeout},
    renewal::{UndoTo, Wait},
};

/// Code of the trouble of a server that does not answer: the only one that an approved plan may tolerate.
pub const SERVER_UNREACHABLE: &str = "server_unreachable";

/// Code of the trouble of a worker that no Kerberos KDC gives a ticket: of its way, not of a server.
pub const KDC_UNREACHABLE: &str = "kdc_unreachable";

/// Code of the trouble of a step whose gate has lost its approvals.
pub const APPROVAL_WITHDRAWN: &str = "approval_withdrawn";

/// How long before the effective date an unapproved publication is pushed out.
pub const GUARD: TimeDelta = TimeDelta::hours(2);

/// How far an effective date is pushed out when it is near.
pub const POSTPONED_BY: TimeDelta = TimeDelta::hours(24);

/// Everything that is known of a renewal at one time.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The renewal.
    pub renewal: &'a Renewal,
    /// Its plan, once there is one.
    pub plan: Option<&'a Plan>,
    /// Its steps in order of their ordinals.
    pub steps: &'a [Arc<Step>],
    /// Every decision ever made on it, oldest first.
    pub decisions: &'a [Decision],
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advance {
    /// What happens to the renewal.
    pub event: Option<Event>,
    /// The steps that become due, and when.
    pub ready: Vec<(StepId, DateTime<Utc>)>,
}

/// How far the steps of a phase are. Every step is counted in one of the numbers after `total`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
#[schema(example = json!({
    "phase": "distribute", "total": 500, "waiting": 212, "running": 8, "retrying": 3, "attention": 1, "done": 276, "skipped": 0
}))]
pub struct PhaseProgress {
    /// The phase.
    pub phase: Phase,
    /// Steps in all: one for each server, or one for the organization.
    pub total: i64,
    /// Whose turn has not come, or that wait for a worker or a time.
    pub waiting: i64,
    /// In the hands of a worker.
    pub running: i64,
    /// Failed, and tried again by themselves.
    pub retrying: i64,
    /// That need a person.
    pub attention: i64,
    /// Done, and read back.
    pub done: i64,
    /// Not needed, or given up.
    pub skipped: i64,
}

/// What the steps that are done have made known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// The new certificate.
    pub thumbprint: Option<Thumbprint>,
    /// The end of its validity.
    pub not_after: Option<DateTime<Utc>>,
    /// When every server has had the time that the plan gives it.
    pub effective_at: Option<DateTime<Utc>>,
    /// When Exchange publishes it by itself: the effective date, or what it was pushed out to.
    pub exchange_publishes_at: Option<DateTime<Utc>>,
    /// Whether Entra holds its key beside the old one, as the run has proven or a person says.
    pub trusted_cloud: bool,
    /// When it became current.
    pub published_at: Option<DateTime<Utc>>,
}

impl Facts {
    /// Reads the outcomes of `steps`.
    #[must_use]
    pub fn of(steps: &[impl Borrow<Step>]) -> Self {
        let mut facts = Self::default();
        for outcome in steps.iter().filter_map(|s| s.borrow().outcome.as_deref()) {
            match outcome {
                Outcome::Generated { thumbprint, not_after, exchange_publishes_at, .. } => {
                    facts.thumbprint = Some(thumbprint.clone());
                    facts.not_after = Some(*not_after);
                    facts.exchange_publishes_at = *exchange_publishes_at;
                }
                Outcome::TrustedCloud { .. } => facts.trusted_cloud = true,
                Outcome::Staged { effective_at, .. } => {
                    facts.effective_at = Some(*effective_at);
                    facts.exchange_publishes_at = Some(*effective_at);
                }
                Outcome::Postponed { exchange_publishes_at, .. } => {
                    facts.exchange_publishes_at = Some(*exchange_publishes_at)
                }
                Outcome::Published { published_at, .. } => facts.published_at = Some(*published_at),
                _ => {}
            }
        }
        facts
    }
}

/// Whether a worker may take a step now, and for what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Permit {
    /// To do it.
    Run,
    /// Only to keep the effective date away while the run has not come to the publication, or nobody has approved it.
    Guard,
    /// Not at all: its phase is not the one being worked on.
    Park,
}

/// Whether `step` may be taken in this state.
#[must_use]
pub fn permit(state: &State, step: &Step) -> Permit {
    match state {
        State::Requested | State::Planning if step.kind == StepKind::Preflight => Permit::Run,
        State::Running { phase } | State::Waiting { phase, .. } if step.phase == *phase => Permit::Run,
        State::Soaking { .. } if step.phase == Phase::Soak => Permit::Run,
        State::AwaitingApproval { gate: Gate::TrustCloud | Gate::Publish, .. } if step.kind == StepKind::Publish => {
            Permit::Guard
        }
        State::Running { phase } | State::Waiting { phase, .. }
            if step.kind == StepKind::Publish && is_before_publication(*phase) =>
        {
            Permit::Guard
        }
        State::Paused { was, .. } if step.kind == StepKind::Publish && was.phase() != Some(Phase::Undo) => {
            Permit::Guard
        }
        State::Running { phase: Phase::Undo } => Permit::Park,
        state if is_catching_up(step) && (state.is_working() || state.open_gate().is_some()) => Permit::Run,
        _ => Permit::Park,
    }
}

/// Whether a run that has been approved is still on its way to the publication. A certificate that somebody staged before it is taken over with its date.
fn is_before_publication(phase: Phase) -> bool {
    (Phase::Generate..Phase::Publish).contains(&phase)
}

/// A step that the run has gone past because its server could not be reached.
fn is_catching_up(step: &Step) -> bool {
    matches!(step.kind, StepKind::Distribute | StepKind::Restart | StepKind::Prune)
        && step.trouble.as_ref().is_some_and(|t| t.code == SERVER_UNREACHABLE)
}

impl Run<'_> {
    /// What follows from how things stand, or `None` when nothing does before something else happens.
    #[must_use]
    pub fn advance(&self, now: DateTime<Utc>) -> Option<Advance> {
        if matches!(self.renewal.state, State::Requested | State::Planning) {
            return self.take_up_planning(now);
        }
        let plan = self.plan?;
        let follows = match &self.renewal.state {
            State::AwaitingApproval { .. } => self.advance_gate(plan, now),
            State::Scheduled { until } if *until <= now => Some(self.begin(plan, now).into()),
            State::Paused { was, .. } => self.guard_while_paused(plan, was, now),
            state if state.is_working() => self.advance_phase(plan, state.phase()?, now),
            _ => None,
        };
        follows.or_else(|| self.guard_on_the_way(plan, now))
    }

    /// Whether an event begins a phase that was held before anything of it was done.
    #[must_use]
    pub fn begins_at_last(&self, event: &Event) -> bool {
        let (State::Waiting { phase: held, reason }, Event::PhaseBegan { phase }) = (&self.renewal.state, event) else {
            return false;
        };
        held == phase && reason.is_hold() && !self.steps.iter().any(|step| step.phase == *phase && step.attempt > 0)
    }

    /// When [`Run::advance`] must be asked again even if nothing else happens.
    #[must_use]
    pub fn wake_at(&self) -> Option<DateTime<Utc>> {
        match &self.renewal.state {
            State::Scheduled { until } => Some(*until),
            State::Waiting { reason: Wait::Window { until }, .. } => *until,
            State::AwaitingApproval { gate, since, escalated_at: None, .. } => {
                let (after, then) = timeout(self.plan?, *gate)?;
                (then != OnTimeout::Wait).then_some(*since + after)
            }
            _ => None,
        }
    }

    /// What people approve: the digest of the plan's stored text. What this version reads from it may be less than a newer one has written.
    pub(crate) fn digest(&self, plan: &Plan) -> Digest {
        self.renewal.plan_digest.clone().unwrap_or_else(|| plan.digest())
    }

    /// Where a gate of this plan stands.
    #[must_use]
    pub fn verdict(&self, plan: &Plan, gate: Gate, now: DateTime<Utc>) -> Verdict {
        let (digest, rule) = (self.digest(plan), plan.rule(gate));
        self.asked(plan, gate, &digest, &rule, now).verdict(self.decisions)
    }

    /// What a gate of this plan asks for at this time.
    #[must_use]
    pub fn asked<'a>(
        &'a self,
        plan: &'a Plan,
        gate: Gate,
        digest: &'a Digest,
        rule: &'a GateRule,
        now: DateTime<Utc>,
    ) -> Asked<'a> {
        let used = self.steps.iter().any(|s| s.phase == plan.opened_by(gate) && s.status.is_over());
        let excluded = self.excluded(plan, rule);
        Asked { gate, digest, quorum: plan.quorum(gate), rule, excluded, at: (!used).then_some(now) }
    }

    /// Who does not approve under a rule: the requester, and whom it names.
    #[must_use]
    pub fn excluded<'a>(&'a self, plan: &'a Plan, rule: &GateRule) -> Vec<&'a str> {
        let involved = &self.renewal.involved;
        let named = |what| rule.exclude.contains(&what);
        let authors = involved.planned_by.iter().filter(|_| named(Excluded::PlanAuthor));
        let executors = involved.operated_by.iter().chain(&plan.executors).filter(|_| named(Excluded::Executor));
        std::iter::once(&self.renewal.requested_by).chain(authors).chain(executors).map(String::as_str).collect()
    }

    /// The gates that a phase needs and that no longer have their approvals.
    #[must_use]
    pub fn withdrawn_gate(&self, plan: &Plan, phase: Phase, now: DateTime<Utc>) -> Option<Gate> {
        if matches!(phase, Phase::Preflight | Phase::Undo) {
            return None;
        }
        plan.gates_in_order()
            .filter(|gate| plan.opened_by(*gate) <= phase)
            .find(|gate| !self.verdict(plan, *gate, now).is_approved())
    }

    /// A preflight that came up while the renewal was paused was put back.
    fn take_up_planning(&self, now: DateTime<Utc>) -> Option<Advance> {
        let put_back = |s: &&Arc<Step>| s.kind == StepKind::Preflight && s.status == StepStatus::Pending;
        let ready: Vec<_> = self.steps.iter().filter(put_back).map(|s| (s.id, now)).collect();
        (!ready.is_empty()).then_some(Advance { event: None, ready })
    }

    /// Whether a step that has still to come needs the private key of the new certificate: to bring it to a server, or to prove that Entra accepts it.
    #[must_use]
    pub fn needs_key(&self) -> bool {
        let proves = self.plan.and_then(|plan| plan.cloud.as_ref()).is_some_and(|cloud| !cloud.is_by_hand());
        let needs = |kind| kind == StepKind::Distribute || (kind == StepKind::TrustCloud && proves);
        self.steps.iter().any(|step| needs(step.kind) && !step.status.is_over())
    }

    /// Whether Entra does not hold the new key, although others must be able to check with it what is signed after the publication.
    fn lacks_cloud_trust(&self, plan: &Plan) -> bool {
        plan.cloud.is_some() && !Facts::of(self.steps).trusted_cloud
    }

    fn advance_gate(&self, plan: &Plan, now: DateTime<Utc>) -> Option<Advance> {
        let State::AwaitingApproval { gate, since, escalated_at, .. } = self.renewal.state else { return None };
        match self.verdict(plan, gate, now) {
            Verdict::Approved { .. } if gate == Gate::Publish && self.lacks_cloud_trust(plan) => None,
            // The clock goes on: a ticket that is never ready ends like a gate that nobody decides.
            Verdict::Approved { .. } if gate == Gate::Execute && plan.ticket_required && !self.has_ready_ticket() => {
                timed_out(plan, gate, since, escalated_at, now)
            }
            Verdict::Approved { .. } => Some(self.pass(plan, gate, now)),
            Verdict::Rejected { by, reason } if gate == Gate::Execute => Some(Event::Rejected { by, reason }.into()),
            Verdict::Open { .. } => timed_out(plan, gate, since, escalated_at, now),
            Verdict::Rejected { .. } => None,
        }
    }

    /// The start time has come. Approvals that were taken back or have become too old meanwhile do not begin anything.
    fn begin(&self, plan: &Plan, now: DateTime<Utc>) -> Event {
        if self.verdict(plan, Gate::Execute, now).is_approved() {
            let phase = Phase::Generate;
            // What is held has not begun, and nobody is told so.
            return match self.hold(plan, phase, now) {
                Some(reason) => Event::PhaseWaits { phase, reason },
                None => Event::PhaseBegan { phase },
            };
        }
        Event::GateReached { gate: Gate::Execute, digest: self.digest(plan) }
    }

    fn pass(&self, plan: &Plan, gate: Gate, now: DateTime<Utc>) -> Advance {
        let phase = plan.opened_by(gate);
        let effective_at = Facts::of(self.steps).effective_at.filter(|at| *at > now);
        let then = match (gate, self.starts_at(plan, now), effective_at) {
            (Gate::Execute, Some(until), _) if until > now => State::Scheduled { until },
            (Gate::Publish, _, Some(until)) => State::Waiting { phase, reason: Wait::EffectiveDate { until } },
            _ => match self.hold(plan, phase, now) {
                Some(reason) => State::Waiting { phase, reason },
                None => State::Running { phase },
            },
        };
        let publish =
            self.steps.iter().filter(|s| gate == Gate::Publish && s.kind == StepKind::Publish && !s.status.is_over());
        let ready = publish
            .filter(|s| s.status != StepStatus::Running && phase == Phase::Publish)
            // Soon enough to move the date if something has got lost since it was approved: Exchange does not look.
            .map(|s| (s.id, effective_at.map_or(now, |at| (at - GUARD).max(now))));
        Advance { ready: ready.collect(), event: Some(Event::GatePassed { gate, then }) }
    }

    /// The first time from now on at which the run may begin.
    fn starts_at(&self, plan: &Plan, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = plan.not_before.map_or(now, |at| at.max(now));
        if plan.yields_to_expiry { Some(from) } else { plan.calendar.opens_at(from) }
    }

    /// A pause does not stop the clock of Exchange: a staged certificate would be published by itself.
    fn guard_while_paused(&self, plan: &Plan, was: &State, now: DateTime<Utc>) -> Option<Advance> {
        let facts = Facts::of(self.steps);
        let ready = self.guarded_publication(now, StepStatus::Pending);
        let has_date =
            facts.exchange_publishes_at.is_some() || (plan.adopts() && was.phase().is_some_and(is_before_publication));
        let needed = has_date && facts.published_at.is_none() && !ready.is_empty();
        needed.then_some(Advance { event: None, ready })
    }

    /// A certificate that was staged before this run has a date that can come while servers or Entra still lack its key.
    fn guard_on_the_way(&self, plan: &Plan, now: DateTime<Utc>) -> Option<Advance> {
        let on_the_way = match &self.renewal.state {
            State::Running { phase } | State::Waiting { phase, .. } if is_before_publication(*phase) => true,
            State::Waiting { phase: Phase::Publish, reason } => reason.is_hold(),
            State::AwaitingApproval { gate, .. } => *gate == Gate::TrustCloud,
            _ => false,
        };
        let facts = Facts::of(self.steps);
        let taking_over = |s: &Arc<Step>| s.kind == StepKind::Generate && s.failures > 0 && !s.status.is_over();
        let has_date = facts.exchange_publishes_at.is_some() || (plan.adopts() && self.steps.iter().any(taking_over));
        if !on_the_way || !has_date || facts.published_at.is_some() {
            return None;
        }
        let ready = self.guarded_publication(now, StepStatus::Pending);
        (!ready.is_empty()).then_some(Advance { event: None, ready })
    }

    fn advance_phase(&self, plan: &Plan, phase: Phase, now: DateTime<Utc>) -> Option<Advance> {
        if let Some(gate) = self.reopened(plan, phase, now) {
            let ready =
                if phase == Phase::Publish { self.guarded_publication(now, StepStatus::Ready) } else { Vec::new() };
            return Some(Advance { event: Some(Event::GateReached { gate, digest: self.digest(plan) }), ready });
        }
        let steps: Vec<&Step> = self.steps.iter().map(|s| &**s).filter(|s| s.phase == phase).collect();
        if matches!(phase, Phase::Stage | Phase::Publish) && self.lacks_cloud_trust(plan) {
            return self.told(Event::PhaseWaits { phase, reason: cloud_trust_missing() }, now).map(Advance::from);
        }
        if steps.iter().all(|s| s.status.is_over() || is_tolerated(plan, s)) {
            return Some(self.leave(plan, phase, now));
        }
        if let Some(reason) = self.hold(plan, phase, now) {
            return self.told(Event::PhaseWaits { phase, reason }, now).map(Advance::from);
        }
        let guarded = steps.iter().copied().filter(|s| self.is_left_from_guarding(s, now));
        let approved = steps.iter().copied().filter(|s| self.is_approved_again(plan, s, now));
        let ready: Vec<_> = self.startable(&steps).chain(guarded).chain(approved).map(|s| (s.id, now)).collect();
        let event = self.shown(plan, phase, &steps, now);
        (event.is_some() || !ready.is_empty()).then_some(Advance { event, ready })
    }

    /// The gate in front of this phase, if its approval was withdrawn before a worker began.
    fn reopened(&self, plan: &Plan, phase: Phase, now: DateTime<Utc>) -> Option<Gate> {
        let begun = |s: &Arc<Step>| s.phase == phase && (s.status == StepStatus::Running || s.status.is_over());
        let gate = plan.gate_before(phase).filter(|_| !self.steps.iter().any(begun))?;
        (gate != Gate::Execute && !self.verdict(plan, gate, now).is_approved()).then_some(gate)
    }

    /// What comes after a phase all of whose steps are over.
    fn leave(&self, plan: &Plan, phase: Phase, now: DateTime<Utc>) -> Advance {
        let Some(next) = self.following(phase) else {
            return if phase == Phase::Undo {
                Event::Undone { to: self.undo_end() }.into()
            } else {
                Event::Finished.into()
            };
        };
        if let Some(gate) = plan.gate_before(next) {
            let ready =
                if next == Phase::Publish { self.guarded_publication(now, StepStatus::Pending) } else { Vec::new() };
            return Advance { event: Some(Event::GateReached { gate, digest: self.digest(plan) }), ready };
        }
        if next == Phase::Soak {
            return soak_from(plan, now).into();
        }
        Event::PhaseBegan { phase: next }.into()
    }

    /// The phase after this one. What only hybrid organizations do is not even mentioned where there is nothing of it to do.
    fn following(&self, phase: Phase) -> Option<Phase> {
        let has_steps = |phase: Phase| self.steps.iter().any(|step| step.phase == phase);
        std::iter::successors(phase.next(), |next| next.next()).find(|next| !next.is_hybrid() || has_steps(*next))
    }

    fn guarded_publication(&self, now: DateTime<Utc>, status: StepStatus) -> Vec<(StepId, DateTime<Utc>)> {
        let at = Facts::of(self.steps).exchange_publishes_at.map_or(now, |at| (at - GUARD).max(now));
        self.steps.iter().filter(|s| s.kind == StepKind::Publish && s.status == status).map(|s| (s.id, at)).collect()
    }

    /// A publication that may go on, and whose time is still that of the last look at a date that was to be kept away.
    fn is_left_from_guarding(&self, step: &Step, now: DateTime<Utc>) -> bool {
        let waits =
            matches!(&self.renewal.state, State::Waiting { reason: Wait::EffectiveDate { until }, .. } if *until > now);
        let guarded = matches!(step.outcome.as_deref(), None | Some(Outcome::Postponed { .. })) && step.failures == 0;
        let later = step.status == StepStatus::Ready && step.due_at.is_some_and(|at| at > now);
        step.kind == StepKind::Publish && step.attempt > 0 && guarded && later && !waits
    }

    /// A step that stopped because an approval was taken back, which has been given again.
    fn is_approved_again(&self, plan: &Plan, step: &Step, now: DateTime<Utc>) -> bool {
        let stopped = step.status == StepStatus::Attention
            && step.trouble.as_ref().is_some_and(|trouble| trouble.code == APPROVAL_WITHDRAWN);
        stopped && self.withdrawn_gate(plan, step.phase, now).is_none()
    }

    fn undo_end(&self) -> UndoTo {
        let restored = self.steps.iter().any(|s| s.kind == StepKind::RestorePrevious);
        if restored { UndoTo::RolledBack } else { UndoTo::Cancelled }
    }

    /// The pending steps whose turn has come: all of the first unfinished kind; restarts one at a time in each site; nothing is undone while a
    /// step that may still change something is in the hands of a worker.
    fn startable<'s>(&self, steps: &[&'s Step]) -> impl Iterator<Item = &'s Step> {
        let undoing = steps.iter().any(|s| s.phase == Phase::Undo);
        let busy = undoing && self.steps.iter().any(|s| s.phase != Phase::Undo && s.status == StepStatus::Running);
        let kind = steps.iter().find(|s| !s.status.is_over()).map(|s| s.kind);
        let turn: Vec<&Step> = steps.iter().copied().filter(|s| !busy && Some(s.kind) == kind).collect();
        let occupied: Vec<String> = turn.iter().filter(|s| is_under_way(s)).map(|s| s.site.clone()).collect();
        let mut taken = occupied;
        turn.into_iter().filter(|s| s.status == StepStatus::Pending).filter(move |s| {
            if s.kind != StepKind::Restart {
                return true;
            }
            let free = !taken.contains(&s.site);
            taken.push(s.site.clone());
            free
        })
    }

    /// The event that makes the renewal's state tell what its steps are at, if it does not already.
    fn shown(&self, plan: &Plan, phase: Phase, steps: &[&Step], now: DateTime<Utc>) -> Option<Event> {
        let attention = steps.iter().find(|s| s.status == StepStatus::Attention);
        let retry = steps.iter().find(|s| s.failures > 0 && !s.status.is_over() && !is_tolerated(plan, s));
        let waits = |reason| Event::PhaseWaits { phase, reason };
        let event = match (attention, retry) {
            (Some(step), _) => waits(Wait::Attention { target: step.target.clone(), trouble: trouble_of(step) }),
            (None, Some(step)) => waits(Wait::Retry { target: step.target.clone(), trouble: trouble_of(step) }),
            (None, None) => match &self.renewal.state {
                State::Waiting { reason: Wait::EffectiveDate { until }, .. } if *until > now => return None,
                State::Soaking { .. } => return None,
                _ if phase == Phase::Soak => soak_from(plan, now),
                _ => Event::PhaseBegan { phase },
            },
        };
        self.told(event, now)
    }

    /// The event, if the renewal's state does not tell it already.
    fn told(&self, event: Event, now: DateTime<Utc>) -> Option<Event> {
        let next = self.renewal.state.clone().apply(event.clone(), now).ok()?;
        (next != self.renewal.state).then_some(event)
    }
}

/// Cannot come about by the order of a run; a database that was changed by hand is no reason to publish.
fn cloud_trust_missing() -> Wait {
    let trouble = Trouble::new(
        "cloud_trust_missing",
        "Nothing shows that Entra holds the new key: tokens signed with it would be refused",
        "Cancel, and raise a new renewal",
    );
    Wait::Attention { target: String::new(), trouble }
}

impl From<Event> for Advance {
    fn from(event: Event) -> Self {
        Self { event: Some(event), ready: Vec::new() }
    }
}

/// How long a gate waits for decisions, and what happens then.
fn timeout(plan: &Plan, gate: Gate) -> Option<(TimeDelta, OnTimeout)> {
    let (rule, first) = (plan.rule(gate), gate == Gate::Execute);
    let hours = rule.timeout_hours.or_else(|| first.then_some(plan.approval_hours))?;
    let usual = if first { OnTimeout::Expire } else { OnTimeout::Wait };
    Some((TimeDelta::hours(i64::from(hours)), rule.on_timeout.unwrap_or(usual)))
}

fn timed_out(
    plan: &Plan,
    gate: Gate,
    since: DateTime<Utc>,
    escalated_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<Advance> {
    let (after, then) = timeout(plan, gate)?;
    if since + after > now {
        return None;
    }
    match then {
        OnTimeout::Expire if gate == Gate::Execute => Some(Event::Expired.into()),
        OnTimeout::Escalate if escalated_at.is_none() => Some(Event::Escalated.into()),
        OnTimeout::Expire | OnTimeout::Escalate | OnTimeout::Wait => None,
    }
}

fn soak_from(plan: &Plan, now: DateTime<Utc>) -> Event {
    Event::SoakBegan { since: now, until: now + TimeDelta::hours(i64::from(plan.soak_hours)) }
}

fn is_under_way(step: &Step) -> bool {
    matches!(step.status, StepStatus::Ready | StepStatus::Running | StepStatus::Attention)
}

fn is_tolerated(plan: &Plan, step: &Step) -> bool {
    is_catching_up(step) && plan.server(&step.target).is_some_and(|s| s.may_be_absent)
}

fn trouble_of(step: &Step) -> Trouble {
    step.trouble
        .as_deref()
        .cloned()
        .unwrap_or_else(|| Trouble::new("unknown", "The step failed without saying why", "Read the audit, then retry"))
}

/// The undo steps that `cancel` needs for what has been begun, or why it is too late.
pub fn cancel_path(steps: &[impl Borrow<Step>]) -> Result<Vec<(StepKind, &str, &str)>, Trouble> {
    let steps: Vec<&Step> = steps.iter().map(Borrow::borrow).collect();
    let publish = steps.iter().find(|s| s.kind == StepKind::Publish && s.phase == Phase::Publish);
    let published =
        Facts::of(&steps).published_at.is_some() || steps.iter().any(|s| s.kind == StepKind::RestorePrevious);
    if published || publish.is_some_and(|s| s.status == StepStatus::Running) {
        return Err(Trouble::new(
            "already_published",
            "The new certificate is published, or is being published right now",
            "Use rollback to make the old certificate sign again",
        ));
    }
    let begun = |kind| move |s: &&Step| s.kind == kind && s.attempt > 0;
    let staged = steps.iter().any(begun(StepKind::Stage)).then_some((StepKind::ClearNext, "", ""));
    let imported = steps
        .iter()
        .copied()
        .filter(begun(StepKind::Distribute))
        .map(|s| (StepKind::RemoveCertificate, s.target.as_str(), s.site.as_str()));
    // Last, when no server can sign with it any more.
    let trusted = steps.iter().any(begun(StepKind::TrustCloud)).then_some((StepKind::RemoveCloudKey, "", ""));
    Ok(staged.into_iter().chain(imported).chain(trusted).collect())
}

/// The undo steps that `rollback` needs, or why it is not possible.
pub fn rollback_path(steps: &[impl Borrow<Step>]) -> Result<Vec<(StepKind, &str, &str)>, Trouble> {
    let steps: Vec<&Step> = steps.iter().map(Borrow::borrow).collect();
    if Facts::of(&steps).published_at.is_none() {
        return Err(Trouble::new(
            "not_published",
            "The new certificate is not published",
            "Use cancel: it takes back what was done so far",
        ));
    }
    if steps.iter().any(|s| s.kind == StepKind::ClearPrevious && s.attempt > 0) {
        return Err(Trouble::new(
            "point_of_no_return",
            "The previous certificate is being given up or gone: it cannot be published again",
            "Raise a new renewal",
        ));
    }
    let restarts = steps.iter().filter(|s| s.kind == StepKind::Restart && s.phase == Phase::Restart);
    let restarts = restarts.map(|s| (StepKind::Restart, s.target.as_str(), s.site.as_str()));
    Ok(std::iter::once((StepKind::RestorePrevious, "", "")).chain(restarts).collect())
}

#[cfg(test)]
mod tests;
