//! What comes in between a step's turn and its change: nothing reaches the organization after it, and when it is lifted the run goes on and ends right.
//!
//! The worker is stopped before each of its writes. What is to come in between comes before every write of a step that leads to a change, up to the one
//! that puts the intent of the change on record; then the worker goes on, and the lab says what it was asked for.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Kind, LoadedRun, Moment};
use domain::{
    Decision, Digest, Gate, RenewalId, State, Step, StepKind, StepStatus, TicketStanding, TicketWord,
    calendar::{Calendar, Day, Window},
    gate::Verb,
    progress::{APPROVAL_WITHDRAWN, Facts},
    renewal::Wait,
};
use futures_util::{StreamExt as _, stream};
use lab::journal::{Effect, EffectKind};
use tokio::time::timeout;
use uuid::Uuid;
use worker::Pace;

use crate::{
    circumstances::Circumstances,
    invariants::{self, Leftovers},
    process::{Blow, Trap},
    support::World,
    trial::{self, Delays, Script},
};

/// The longest that a renewal may take; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(300);
/// Less than this before it, a fifth of a second of this lab, it may be too late to move the date at which Exchange publishes.
const LAST_MINUTE: TimeDelta = TimeDelta::minutes(48);

/// What comes in between and can be lifted again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Injected {
    /// The ticket is put on hold.
    OnHold,
    /// The ticket's approvals are void, and with them those of the plan.
    ApprovalVoided,
    /// The window closes. It opens again by itself.
    WindowClosed,
    /// The renewal is at another plan than the one that was approved.
    OtherPlan,
    /// The ticket is called off. Before the publication that takes the run back.
    CalledOff,
}

impl Injected {
    /// Where a run stands that is kept from going on by it.
    fn keeps(self, state: &State) -> bool {
        let attention = |code: &str| matches!(state, State::Waiting { reason: Wait::Attention { trouble, .. }, .. } if trouble.code == code);
        match self {
            Self::OnHold => matches!(state, State::Waiting { reason: Wait::TicketOnHold { .. }, .. }),
            Self::ApprovalVoided | Self::OtherPlan => state.open_gate().is_some() || attention(APPROVAL_WITHDRAWN),
            Self::WindowClosed => matches!(state, State::Waiting { reason: Wait::Window { .. }, .. }),
            Self::CalledOff => attention("ticket_cancelled"),
        }
    }
}

/// A moment of a run: before this write of an attempt at a step, and whether the certificate may be published by then.
type Point = (StepKind, String, bool, usize);

/// The steps that change something. Looking while soaking does not, and the end neither.
fn changes(kind: StepKind) -> bool {
    !matches!(kind, StepKind::Preflight | StepKind::Soak | StepKind::Close)
}

struct Play {
    world: World,
    id: RenewalId,
    what: Injected,
    /// Where it came in between.
    injected: Vec<Point>,
    /// Where not to do so: a run that is called off before this step.
    only: Option<StepKind>,
    /// The attempt that was under way at the last write, and its writes.
    attempt: Option<(Arc<Step>, usize)>,
    /// When the window was closed.
    closed: Vec<Closed>,
    delays: Delays,
}

/// The time from when a window had closed while the worker stood still until it opened again, by the clock of the lab.
#[derive(Debug)]
struct Closed {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    /// Whether it was too late to move the date at which Exchange publishes.
    at_last: bool,
}

/// Two hours in which something may be changed, then one in which nothing may.
fn windows() -> Vec<Window> {
    let time = |hour: u32| chrono::NaiveTime::from_hms_opt(hour % 24, 0, 0).unwrap();
    let days = vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
    (0..24).step_by(3).map(|from| Window { days: days.clone(), from: time(from), to: time(from + 2) }).collect()
}

impl Play {
    async fn begin(what: Injected, hybrid: Option<Circumstances>, only: Option<StepKind>) -> Self {
        let script = Script { hybrid, ..Script::new(Kind::Sqlite, 1, Vec::new()) };
        let mut setting = trial::setting(&script);
        setting.policy.staging_lead_hours = 16;
        // No sign of life is among the writes: it would be stopped in the middle of one that holds the database.
        setting.pace = Pace::of(Duration::from_secs(600));
        if what == Injected::WindowClosed {
            setting.policy.windows = windows();
        }
        let world = World::with(setting).await;
        let id = world.ask(|_| {}).await;
        let run = world.until(id, |run| run.renewal.state.open_gate() == Some(Gate::Execute)).await;
        let play = Self {
            world,
            id,
            what,
            injected: Vec::new(),
            only,
            attempt: None,
            closed: Vec::new(),
            delays: Delays::watch(),
        };
        play.stop_before_next_write();
        play.approve_all(&run).await;
        play
    }

    fn stop_before_next_write(&self) {
        let writes = &self.world.processes[0].writes;
        writes.set(Trap { moment: Moment::Begin, skip: 0, blow: Blow::Freeze });
    }

    /// Every gate is approved at once: what stops the run is what comes in between.
    async fn approve_all(&self, run: &LoadedRun) {
        for gate in run.plan.as_ref().unwrap().gates_in_order() {
            let decision = Decision {
                id: Uuid::now_v7(),
                renewal_id: self.id,
                gate,
                plan_digest: run.renewal.plan_digest.clone().unwrap(),
                verb: Verb::Approve,
                decided_by: "bob".to_owned(),
                reason: "read".to_owned(),
                decided_at: self.world.now(),
                decided_groups: Vec::new(),
                break_glass: false,
                voided_by: None,
            };
            // What is behind the run is refused.
            drop(self.world.db.write(async |tx| tx.decide(&decision, None, self.world.now()).await).await);
        }
    }

    async fn see_through(&mut self) {
        loop {
            let mut frozen = self.world.processes[0].writes.is_frozen();
            let woken = self.world.db.woken();
            if *frozen.borrow() {
                // Read while it stands still: what was read before may be older.
                let run = self.world.run(self.id).await;
                self.look(run).await;
                continue;
            }
            if !self.world.run(self.id).await.renewal.state.is_live() {
                return;
            }
            let moved = async {
                tokio::select! {
                    _ = frozen.wait_for(|frozen| *frozen) => {}
                    () = woken => {}
                }
            };
            // Late is not lost.
            drop(timeout(Duration::from_secs(1), moved).await);
        }
    }

    /// The worker stands before a write: lets what is to come in between come, if this is the place for it.
    async fn look(&mut self, run: LoadedRun) {
        let step = run.steps.iter().find(|step| step.status == StepStatus::Running && changes(step.kind));
        let again = |(before, writes): &(Arc<Step>, usize)| {
            step.filter(|step| (step.id, step.attempt) == (before.id, before.attempt)).map(|_| *writes)
        };
        let writes = self.attempt.as_ref().and_then(again).unwrap_or(0) + 1;
        self.attempt = step.map(|step| (step.clone(), writes));
        let Some(step) = step.filter(|step| self.is_here(step)) else { return self.go_on() };
        let at_date = Facts::of(&run.steps).exchange_publishes_at.is_some_and(|at| at <= self.world.now());
        let point = (step.kind, step.target.clone(), at_date, writes);
        if self.injected.contains(&point) || self.has_intended(step).await {
            return self.go_on();
        }
        self.injected.push(point);
        Box::pin(self.come_in_between(run)).await;
    }

    fn is_here(&self, step: &Step) -> bool {
        match self.only {
            Some(kind) => step.kind == kind && self.injected.is_empty(),
            // Before the publication it ends the run: that is played one by one.
            None => self.what != Injected::CalledOff || !is_before_publication(step.kind),
        }
    }

    fn go_on(&self) {
        self.stop_before_next_write();
        self.world.processes[0].writes.thaw();
    }

    /// Whether the change that the step is for is on record.
    async fn has_intended(&self, step: &Step) -> bool {
        self.world.audit(self.id).await.iter().any(|entry| {
            let cmdlet = entry.detail["cmdlet"].as_str().unwrap_or_default();
            entry.action == "cmdlet.intended"
                && entry.detail["step"] == step.kind.as_str()
                && entry.detail["target"].as_str().unwrap_or_default() == step.target
                // Moving the date away is another thing than publishing.
                && (step.kind != StepKind::Publish || cmdlet.contains("-PublishCertificate"))
        })
    }

    async fn come_in_between(&mut self, run: LoadedRun) {
        let told = format!("{:?} before {:?}", self.what, self.injected.last());
        let before = self.effects().len();
        if self.what == Injected::WindowClosed {
            return self.let_window_close(run).await;
        }
        self.inject(&run).await;
        let at_last = is_at_last(&run, self.world.now());
        self.world.processes[0].writes.thaw();
        let what = self.what;
        let ended = timeout(
            PATIENCE,
            self.world.until(self.id, |run| {
                let resting = run.steps.iter().all(|step| step.status != StepStatus::Running);
                !run.renewal.state.is_live() || (resting && what.keeps(&run.renewal.state))
            }),
        );
        let held = ended.await.unwrap_or_else(|_| panic!("{told}: it is not held"));
        let after: Vec<_> = self.effects().split_off(before);
        let by_itself = at_last || self.delays.were_long();
        let allowed = |effect: &Effect| {
            let back = !held.renewal.state.is_live() && takes_back(&held, effect);
            back || keeps_date_away(effect) || (by_itself && effect.by == "AuthAdmin")
        };
        assert!(after.iter().all(allowed), "{told}: {after:#?}");
        // Before it is lifted: the next attempt must not be missed.
        self.stop_before_next_write();
        if held.renewal.state.is_live() {
            self.lift(&run).await;
        }
    }

    async fn let_window_close(&mut self, run: LoadedRun) {
        let calendar = run.plan.as_ref().unwrap().calendar.clone();
        let from = self.wait_until_closed(&calendar).await;
        self.closed.push(Closed { from, until: calendar.opens_at(from).unwrap(), at_last: is_at_last(&run, from) });
        self.go_on();
    }

    /// Waits on the clock of the lab.
    async fn wait_until_closed(&self, calendar: &Calendar) -> DateTime<Utc> {
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        loop {
            let now = self.world.now();
            if !calendar.is_open(now) {
                return now;
            }
            beat.tick().await;
        }
    }

    async fn inject(&self, run: &LoadedRun) {
        match self.what {
            Injected::OnHold => self.say(TicketWord::OnHold).await,
            Injected::ApprovalVoided => self.say(TicketWord::ApprovalVoided).await,
            Injected::CalledOff => self.say(TicketWord::Cancelled).await,
            Injected::OtherPlan => {
                let mut other = run.plan.as_deref().unwrap().clone();
                other.approval_hours += 1;
                let other = self.world.db.write(async |tx| tx.insert_plan(self.id, &other, self.world.now()).await);
                self.put_at(&other.await.unwrap()).await;
            }
            Injected::WindowClosed => {}
        }
    }

    async fn lift(&self, run: &LoadedRun) {
        match self.what {
            Injected::ApprovalVoided => {
                self.say(TicketWord::Ready).await;
                self.approve_all(run).await;
            }
            Injected::OtherPlan => self.put_at(run.renewal.plan_digest.as_ref().unwrap()).await,
            _ => self.say(TicketWord::Ready).await,
        }
    }

    async fn say(&self, word: TicketWord) {
        let standing = TicketStanding { word, detail: format!("it is {word}"), read_at: self.world.now() };
        let saying = self
            .world
            .db
            .write(async |tx| tx.ticket_said(self.id, standing.clone(), "ticket:test", self.world.now()).await);
        saying.await.unwrap();
    }

    /// Nothing that rekey has to offer does this while a run is under way: somebody has changed the database.
    async fn put_at(&self, digest: &Digest) {
        self.world.put_at(self.id, digest).await;
        self.world.db.write(async |tx| tx.settle(self.id, "test", self.world.now()).await).await.unwrap();
    }

    /// What was changed, by whomever but the people who run the servers.
    fn effects(&self) -> Vec<Effect> {
        self.world.lab.report().effects.into_iter().filter(|effect| effect.by != "operator").collect()
    }

    /// Whether the date of the publication had come before the run was called off: Exchange may have been faster, and then there is no way back.
    fn was_late(&self) -> bool {
        self.injected.iter().any(|(.., at_date, _)| *at_date) || self.delays.were_long()
    }

    async fn end(mut self) -> Vec<Point> {
        self.world.stop_workers().await;
        let run = self.world.run(self.id).await;
        let status = run.renewal.state.status();
        let right = match self.only {
            Some(_) => status == "cancelled" || (status == "succeeded" && self.was_late()),
            None => status == "succeeded",
        };
        assert!(right, "{status}: {:?} {:?}", self.what, self.injected);
        let minute = TimeDelta::minutes(1);
        for effect in self.effects().iter().filter(|effect| !keeps_date_away(effect)) {
            let meanwhile = |closed: &&Closed| closed.from <= effect.at && effect.at < closed.until - minute;
            if let Some(closed) = self.closed.iter().find(meanwhile) {
                let by_itself = closed.at_last || self.delays.were_long();
                assert!(by_itself && effect.by == "AuthAdmin", "{closed:?}: {effect:#?}");
            }
        }
        invariants::check(&self.world, self.id, &Leftovers::default(), None).await;
        self.world.close().await;
        self.injected
    }
}

fn is_before_publication(kind: StepKind) -> bool {
    matches!(
        kind,
        StepKind::Generate | StepKind::Distribute | StepKind::TrustCloud | StepKind::Stage | StepKind::Publish
    )
}

/// Exchange publishes by itself: whoever hears at the last minute that nothing may be changed finds no time to move the date.
fn is_at_last(run: &LoadedRun, now: DateTime<Utc>) -> bool {
    Facts::of(&run.steps).exchange_publishes_at.is_some_and(|date| date - LAST_MINUTE <= now)
}

/// What is allowed however the run is held: Exchange would publish at its date.
fn keeps_date_away(effect: &Effect) -> bool {
    effect.kind == EffectKind::SetAuthConfigNext && effect.by != "AuthAdmin"
}

/// What the declared way back of a run does that was called off: gives up the new certificate, and nothing else.
fn takes_back(run: &LoadedRun, effect: &Effect) -> bool {
    let new = Facts::of(&run.steps).thumbprint;
    let is_new = effect.thumbprint.as_ref().map(|own| own.as_str()) == new.as_ref().map(|new| new.as_str());
    match effect.kind {
        EffectKind::ClearNext => true,
        EffectKind::Remove | EffectKind::RemoveCloudKey => is_new,
        _ => false,
    }
}

/// Plays a run, and returns the steps before which it came in between.
async fn play(what: Injected, hybrid: Option<Circumstances>, only: Option<StepKind>) -> Vec<Point> {
    let mut play = Box::pin(Play::begin(what, hybrid, only)).await;
    if timeout(PATIENCE, play.see_through()).await.is_err() {
        let (run, troubles) = (play.world.run(play.id).await, play.world.troubles(play.id).await);
        panic!("{what:?} {:?}: stuck: {:?}\n{troubles:#?}", play.injected, run.renewal.state);
    }
    Box::pin(play.end()).await
}

/// The steps of the small organization that change something.
const STEPS: [(StepKind, usize); 7] = [
    (StepKind::Generate, 1),
    (StepKind::Distribute, 2),
    (StepKind::Stage, 1),
    (StepKind::Publish, 1),
    (StepKind::Restart, 2),
    (StepKind::ClearPrevious, 1),
    (StepKind::Prune, 2),
];

/// Those that a hybrid organization has besides.
const CLOUD_STEPS: [(StepKind, usize); 3] =
    [(StepKind::TrustCloud, 1), (StepKind::RefreshHybrid, 1), (StepKind::PruneCloud, 1)];

/// Before how many steps of that kind it came in between.
fn count(met: &[Point], kind: StepKind) -> usize {
    let mut targets: Vec<&str> = met.iter().filter(|(met, ..)| *met == kind).map(|(_, target, ..)| &**target).collect();
    targets.sort_unstable();
    targets.dedup();
    targets.len()
}

async fn comes_before_every_change(hybrid: Option<Circumstances>) {
    let kinds =
        [Injected::OnHold, Injected::ApprovalVoided, Injected::WindowClosed, Injected::OtherPlan, Injected::CalledOff];
    let plays = stream::iter(kinds).map(|what| async move { (what, play(what, hybrid, None).await) });
    let played: Vec<_> = plays.buffer_unordered(trial::AT_ONCE).collect().await;
    for (what, met) in played {
        let cloud = CLOUD_STEPS.iter().filter(|_| hybrid.is_some());
        for (kind, times) in STEPS.iter().chain(cloud) {
            let ends = what == Injected::CalledOff && is_before_publication(*kind);
            assert_eq!(count(&met, *kind), if ends { 0 } else { *times }, "{what:?} before {kind}: {met:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_the_servers_after_what_comes_just_before_a_change_and_the_run_ends_right_when_it_is_lifted() {
    comes_before_every_change(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_the_cloud_either() {
    comes_before_every_change(Some(Circumstances::QUICK)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_called_off_just_before_a_change_takes_back_what_was_done_and_does_nothing_else() {
    let hybrid = Some(Circumstances::QUICK);
    let kinds = [StepKind::Generate, StepKind::Distribute, StepKind::Stage, StepKind::Publish]
        .map(|kind| (kind, None))
        .into_iter()
        .chain([(StepKind::TrustCloud, hybrid)]);
    let plays = stream::iter(kinds).map(|(kind, hybrid)| async move {
        let met = play(Injected::CalledOff, hybrid, Some(kind)).await;
        assert_eq!(count(&met, kind), 1, "{kind}");
    });
    plays.buffer_unordered(trial::AT_ONCE).collect::<Vec<()>>().await;
}
