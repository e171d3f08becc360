//! A renewal on a small organization to which things happen, and a person who sees it through: approves what is asked, and tries again what has
//! stopped. What must hold at its end is in `invariants.rs`.

use std::{
    any::Any,
    collections::BTreeMap,
    env,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Kind, LoadedRun, Moment};
use domain::{Gate, Policy, Reason, RenewalId, State, Step, StepId, StepStatus, Trouble};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use lab::{
    Cmdlets, Options, Report,
    journal::EffectKind,
    organization::{Organization, Servicelet},
};
use serde_json::{Value as Json, json};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use worker::Pace;

use crate::{
    circumstances::{Breakage, Broken, Circumstances, CloudTrouble},
    invariants::{self, Leftovers},
    process::{Blow, Seen, Trap},
    support::{Setting, World},
};

/// How many renewals are under way at the same time: they wait more than they compute.
pub(crate) const AT_ONCE: usize = 8;
/// The longest that a renewal may take; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the person looks without being told to: what was committed by a process that was killed is announced by nobody.
const LOOK: Duration = Duration::from_secs(1);
/// After this time a worker that was killed is no longer waited for: twice as long as a busy machine keeps a live one from saying so.
const LEASE: Duration = Duration::from_secs(4);
/// How often it is looked whether the machine is late.
const BEAT: Duration = Duration::from_millis(20);
/// Troubles by which people notice that something broke.
const TELLING: [&str; 4] = ["auth_config_changed", "cloud_keys_changed", "matrix_incomplete", "trust_not_proven"];

/// What is tried.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) database: Kind,
    pub(crate) steps_at_once: usize,
    /// What happens, in order.
    pub(crate) happenings: Vec<Happening>,
    /// How the cloud is, if the organization has one.
    pub(crate) hybrid: Option<Circumstances>,
    /// The old certificate is compromised: nothing waits for a date.
    pub(crate) emergency: bool,
    /// How long the publication waits for its approval, in virtual hours.
    pub(crate) late: i64,
    /// Somebody rolls back while the run waits for the old certificate to be given up.
    pub(crate) regretted: bool,
}

impl Script {
    /// A renewal without a cloud, in which people do what they are asked at once.
    pub(crate) fn new(database: Kind, steps_at_once: usize, happenings: Vec<Happening>) -> Self {
        Self { database, steps_at_once, happenings, hybrid: None, emergency: false, late: 0, regretted: false }
    }
}

/// Something that happens when so many cmdlets and requests to the cloud have been asked for.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    pub(crate) after: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Something breaks that makes refusals unavoidable, and is mended when somebody has noticed.
    Break(Breakage),
    /// A call goes wrong, after so many that do not.
    Call { skip: usize, how: CallFault },
    /// So does a request to the cloud.
    CloudCall { skip: usize, how: CallFault },
    /// The cloud has trouble.
    Cloud(CloudTrouble),
    /// One more worker joins. Not on SQLite.
    Join,
    /// Changes take so long from one site to another from now on.
    Lag { seconds: i64 },
    /// A server goes down, and comes up again when somebody has noticed, or after so many calls.
    Outage { server: &'static str, lasting: usize },
    /// A request of the wire, or its answer, is disturbed.
    Request { skip: usize, act: Json },
    /// A person says something, whether it fits or not.
    Say(Verb),
    /// Somebody else registers a key of their own in the application of the servers.
    StrangeKey,
    /// A writing transaction of the first worker goes wrong.
    Write(Trap),
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CallFault {
    FailBefore,
    FailAfter,
    CutBefore,
    CutAfter,
    /// The workers are killed while they wait for its answer; it was not carried out.
    KillBefore,
    /// It was.
    KillAfter,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verb {
    Cancel,
    /// Resumed when nothing is under way any more.
    Pause,
    Retry,
    RollBack,
}

/// How a trial went.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether all that was to happen did: a renewal may be over before.
    pub(crate) disturbed: bool,
    /// The troubles with which it stopped on the way.
    pub(crate) stopped: Vec<String>,
    pub(crate) status: &'static str,
    pub(crate) seen: Seen,
    pub(crate) report: Report,
    pub(crate) broken: Option<Broken>,
}

/// Two servers in two sites, which hear of every change at once, and a renewal with short waits: as few requests as a whole renewal can have, the same in
/// each run.
pub(crate) fn setting(script: &Script) -> Setting {
    let mut organization = Organization::contoso();
    organization.servers.remove(1);
    organization.replication_lag = TimeDelta::zero();
    organization.servicelet = Servicelet::Off;
    organization.hybrid = script.hybrid.map(Circumstances::tenant);
    Setting {
        lab: Options { organization, ..Options::default() },
        purge: script.hybrid.is_some_and(|hybrid| hybrid.purge),
        policy: Policy { staging_lead_hours: 24, soak_hours: 2, soak_check_minutes: 240, ..Policy::default() },
        steps_at_once: Some(script.steps_at_once),
        database: Some(script.database),
        pace: Pace::of(LEASE),
        ..Setting::default()
    }
}

/// What the environment says, if it says anything.
pub(crate) fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(variable: &str) -> Option<T> {
    env::var(variable).ok().map(|number| number.parse().unwrap())
}

/// [`AT_ONCE`], unless the environment says otherwise.
pub(crate) fn at_once() -> usize {
    number("REKEY_AT_ONCE").unwrap_or(AT_ONCE)
}

/// After so many schedules it is told how far they are.
const TOLD_EVERY: usize = 100;

/// Tries them all, several at a time. Panics with all that went wrong.
pub(crate) async fn try_all(scripts: Vec<(&'static str, Script)>) {
    let all = scripts.len();
    let trials = stream::iter(scripts).map(|(kind, script)| async move {
        let told = format!("{kind}: {script:?}");
        let ended = AssertUnwindSafe(run(script)).catch_unwind().await;
        (kind, ended.map_err(|panic| format!("{told}: {}", panic_text(panic))))
    });
    let mut summary: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut trials = trials.buffer_unordered(at_once()).enumerate();
    while let Some((before, (kind, ended))) = trials.next().await {
        if before > 0 && before % TOLD_EVERY == 0 {
            println!("{before} of {all} schedules, {} went wrong", failures.len());
        }
        match ended {
            Ok(ended) => summary.entry(kind).or_default().add(&ended),
            Err(why) => {
                println!("{why}");
                failures.push(why);
            }
        }
    }
    summary.iter().for_each(|(kind, tally)| println!("{kind:15} {tally}"));
    assert!(failures.is_empty(), "{} runs went wrong:\n{}", failures.len(), failures.join("\n"));
}

/// Tries one.
pub(crate) async fn run(script: Script) -> Ended {
    Box::pin(run_through(script)).await
}

async fn run_through(script: Script) -> Ended {
    let mut trial = Trial::begin(script).await;
    if timeout(PATIENCE, trial.see_through()).await.is_err() {
        let run = trial.world.run(trial.id).await;
        let troubles = trial.world.troubles(trial.id).await;
        invariants::trusted(&trial.world.lab.report(), trial.broken.as_ref());
        panic!("stuck: {:?}\n{troubles:#?}", run.renewal.state);
    }
    trial.end().await
}

struct Trial {
    world: World,
    id: RenewalId,
    script: Script,
    /// How much of it has happened.
    happened: usize,
    outage: Option<Outage>,
    stopped: Vec<String>,
    /// The calls that were held so far, whose workers are dead.
    held: usize,
    sprung: usize,
    leftovers: Leftovers,
    /// The attempts that were under way when a worker was frozen.
    frozen: Option<Vec<(StepId, i64)>>,
    broken: Option<Broken>,
    /// When the publication was first seen to wait for its approval.
    asked_since: Option<DateTime<Utc>>,
    regretted: bool,
    delays: Delays,
}

struct Outage {
    server: &'static str,
    /// Ends when so many cmdlets have been asked for, noticed or not.
    until: usize,
}

impl Trial {
    async fn begin(script: Script) -> Self {
        let world = World::with(setting(&script)).await;
        let mut trial = Self {
            world,
            id: RenewalId(uuid::Uuid::nil()),
            script,
            happened: 0,
            outage: None,
            stopped: Vec::new(),
            held: 0,
            sprung: 0,
            leftovers: Leftovers::default(),
            frozen: None,
            broken: None,
            asked_since: None,
            regretted: false,
            delays: Delays::watch(),
        };
        // What is to happen at the beginning must not be late.
        trial.let_happen().await;
        trial.id = trial.ask().await;
        trial
    }

    async fn ask(&self) -> RenewalId {
        let reason = if self.script.emergency { Reason::Compromised } else { Reason::Expiring };
        self.world.ask(|request| request.reason = reason).await
    }

    async fn see_through(&mut self) {
        loop {
            self.replace_the_dead().await;
            // Order: ask to be woken before looking.
            let woken = self.world.db.woken();
            self.let_happen().await;
            let run = self.world.run(self.id).await;
            self.end_outage(&run);
            self.notice(&run);
            self.go_past_the_frozen(&run).await;
            let refused = matches!(run.renewal.state, State::Failed { .. });
            if !run.renewal.state.is_live() && !refused {
                return;
            }
            if self.act_on(run).await {
                continue;
            }
            let moved = async {
                tokio::select! {
                    () = woken => {}
                    () = self.asked_for_enough() => {}
                    () = self.somebody_stands_still() => {}
                }
            };
            // Late is not lost.
            drop(timeout(LOOK, moved).await);
        }
    }

    /// Does what a person can do, also ask again for what was refused before anything was done. Says whether there was anything.
    async fn act_on(&mut self, run: LoadedRun) -> bool {
        let (id, state) = (self.id, &run.renewal.state);
        let resting = run.steps.iter().all(|s| s.status != StepStatus::Running);
        if let State::Failed { trouble, .. } = state {
            self.note(trouble);
            invariants::untouched(&self.world);
            self.mend();
            self.id = self.ask().await;
        } else if let State::Paused { .. } = state {
            if !resting {
                return false;
            }
            self.world.db.write(async |tx| tx.resume(id, None, "olga", self.world.now()).await).await.unwrap();
        } else if self.script.regretted && !self.regretted && matches!(state, State::Soaking { .. }) {
            self.regretted = true;
            self.say(Verb::RollBack).await;
        } else if let Some(trouble) = trouble(&run) {
            self.note(&trouble);
            self.mend();
            self.world.db.write(async |tx| tx.retry(id, None, "olga", self.world.now()).await).await.unwrap();
        } else if let Some(gate) = state.open_gate().filter(|gate| self.is_time_for(*gate)) {
            self.world.approve_plan(run, gate).await;
        } else {
            return false;
        }
        true
    }

    /// Whether the person whose turn it is decides now. Exchange must not have published before.
    fn is_time_for(&mut self, gate: Gate) -> bool {
        if gate != Gate::Publish {
            return true;
        }
        let since = *self.asked_since.get_or_insert_with(|| self.world.now());
        let is_time = self.world.now() >= since + TimeDelta::hours(self.script.late);
        if is_time && self.script.keeps_time() && !self.delays.were_long() {
            invariants::unpublished(&self.world);
        }
        is_time
    }

    /// Puts right what broke: somebody has noticed that something is wrong.
    fn mend(&mut self) {
        if let Some(broken) = self.broken.as_mut().filter(|broken| !broken.is_mended()) {
            broken.late_machine = self.delays.were_long();
            broken.mend(&self.world);
        }
    }

    fn note(&mut self, trouble: &Trouble) {
        invariants::understandable(trouble);
        let bound = match self.script.happenings.len() {
            few @ 0..=1 => few,
            many => 3 * many,
        };
        assert!(
            self.stopped.len() < bound,
            "stopped again, though nothing was disturbed any more: {:?}, {trouble}",
            self.stopped
        );
        self.stopped.push(trouble.code.clone());
    }

    async fn let_happen(&mut self) {
        while let Some(Happening { after, what }) = self.script.happenings.get(self.happened).cloned() {
            if self.asked_in_all() < after {
                return;
            }
            self.happened += 1;
            self.happen(what).await;
        }
    }

    async fn happen(&mut self, what: What) {
        match what {
            What::Break(what) => self.break_down(what).await,
            What::Call { skip, how } => self.world.fault(how.as_fault(skip)),
            What::CloudCall { skip, how } => self.world.fault(how.as_fault_of_cloud(skip)),
            What::Cloud(trouble) => self.world.fault(trouble.as_fault()),
            What::Join => self.world.hire().await,
            What::Lag { seconds } => self.world.fault(json!({ "kind": "replication_lag", "seconds": seconds })),
            What::Outage { server, lasting } => {
                self.switch(server, "down");
                let until = self.asked_in_all() + lasting;
                let before = self.outage.replace(Outage { server, until });
                before
                    .filter(|before| before.server != server)
                    .into_iter()
                    .for_each(|before| self.switch(before.server, "up"));
            }
            What::Request { skip, act } => self.world.fault(json!({ "kind": "wire", "skip": skip, "do": act })),
            What::Say(verb) => self.say(verb).await,
            What::StrangeKey => self.world.fault(json!({ "kind": "cloud_keys", "change": "add" })),
            What::Write(trap) => self.world.processes[0].writes.set(trap),
        }
    }

    async fn break_down(&mut self, what: Breakage) {
        let run = if self.id.0.is_nil() { None } else { Some(self.world.run(self.id).await) };
        if self.broken.is_none() {
            self.broken = Some(Broken::begin(what, &self.world, run.as_ref()));
        }
    }

    /// Whoever looks at a renewal that does not go on sees why, and what is to be mended.
    fn notice(&mut self, run: &LoadedRun) {
        let tells = |step: &Step, trouble: &Trouble| TELLING.contains(&trouble.code.as_str()) || step.failures > 2;
        if run.steps.iter().any(|s| !s.status.is_over() && s.trouble.as_ref().is_some_and(|t| tells(s, t))) {
            self.mend();
        }
    }

    fn switch(&self, server: &str, power: &str) {
        self.world.fault(json!({ "kind": "power", "server": server, "power": power }));
    }

    /// Says something that may not fit: that is told, and nothing else.
    async fn say(&self, verb: Verb) {
        let (id, now, db) = (self.id, self.world.now(), &self.world.db);
        let said = match verb {
            Verb::Cancel => db.write(async |tx| tx.cancel(id, None, "olga", "not tonight", now).await).await,
            Verb::Pause => db.write(async |tx| tx.pause(id, None, "olga", "lunch", now).await).await,
            Verb::Retry => db.write(async |tx| tx.retry(id, None, "olga", now).await).await,
            Verb::RollBack => db.write(async |tx| tx.roll_back(id, None, "olga", "partner trouble", now).await).await,
        };
        match said {
            Ok(_) | Err(db::Error::Refused(_) | db::Error::Illegal(_)) => {}
            Err(error) => panic!("{verb:?}: {error:?}"),
        }
    }

    fn end_outage(&mut self, run: &LoadedRun) {
        let asked = self.asked_in_all();
        let noticed =
            !run.renewal.state.is_live() || run.steps.iter().any(|s| !s.status.is_over() && s.trouble.is_some());
        if let Some(outage) = self.outage.take_if(|outage| noticed || outage.until <= asked) {
            self.switch(outage.server, "up");
        }
    }

    /// Kills who waits for an answer that does not come, or stands still in front of the database, and lets others take their places.
    async fn replace_the_dead(&mut self) {
        let held = self.asked().held;
        let all = held > self.held;
        self.held = held;
        let still = |this: &Self| this.world.processes.iter().position(|p| all || *p.writes.stands_still().borrow());
        let mut killed = 0;
        while let Some(process) = still(self) {
            self.sprung += usize::from(self.world.processes[process].writes.sprung());
            self.leftovers.add(&self.world.lab, self.script.steps_at_once);
            self.world.kill(process).await;
            killed += 1;
        }
        for _ in 0..killed {
            self.world.hire().await;
        }
    }

    /// Lets another worker take over what a frozen one had, and the frozen one go on then.
    async fn go_past_the_frozen(&mut self, run: &LoadedRun) {
        let Some(process) = self.world.processes.iter().position(|p| *p.writes.is_frozen().borrow()) else { return };
        let under_way =
            run.steps.iter().filter(|s| s.status == StepStatus::Running).map(|s| (s.id, s.attempt)).collect();
        if self.frozen.is_none() {
            self.world.hire().await;
        }
        let before: &Vec<_> = self.frozen.get_or_insert(under_way);
        let taken = |(id, attempt): &(StepId, i64)| {
            !run.steps.iter().any(|s| (s.id, s.attempt, s.status) == (*id, *attempt, StepStatus::Running))
        };
        if before.iter().all(taken) || !run.renewal.state.is_live() {
            self.frozen = None;
            self.world.processes[process].writes.thaw();
        }
    }

    fn asked(&self) -> Cmdlets {
        *self.world.lab.cmdlets().borrow()
    }

    fn asked_in_all(&self) -> usize {
        in_all(&self.asked())
    }

    /// Resolves when something is to happen or to end, or a call is held.
    async fn asked_for_enough(&self) {
        let next = self.script.happenings.get(self.happened).map(|happening| happening.after);
        let enough =
            next.into_iter().chain(self.outage.as_ref().map(|outage| outage.until)).min().unwrap_or(usize::MAX);
        let held = self.held;
        // The lab lives as long as the world.
        drop(self.world.lab.cmdlets().wait_for(|cmdlets| in_all(cmdlets) >= enough || cmdlets.held > held).await);
    }

    async fn somebody_stands_still(&self) {
        let mut all: Vec<watch::Receiver<bool>> =
            self.world.processes.iter().map(|process| process.writes.stands_still()).collect();
        let unfrozen = self.world.processes.iter().filter(|_| self.frozen.is_none());
        all.extend(unfrozen.map(|process| process.writes.is_frozen()));
        let waiting = all.iter_mut().map(|still| Box::pin(async move { drop(still.wait_for(|still| *still).await) }));
        futures_util::future::select_all(waiting).await;
    }

    async fn end(mut self) -> Ended {
        if let Some(outage) = self.outage.take() {
            self.switch(outage.server, "up");
        }
        let seen = self.world.processes[0].writes.seen();
        let sprung = self.sprung + self.world.processes.iter().filter(|p| p.writes.sprung()).count();
        self.world.stop_workers().await;
        if let Some(broken) = &mut self.broken {
            broken.late_machine = self.delays.were_long();
        }
        invariants::check(&self.world, self.id, &self.leftovers, self.broken.as_ref()).await;
        let report = self.world.lab.report();
        let (id, happened) = (self.id, self.happened == self.script.happenings.len());
        let disturbed = happened && self.script.happenings.iter().all(|happening| happening.what.came(&report, sprung));
        let status = self.world.run(id).await.renewal.state.status();
        let stopped = std::mem::take(&mut self.stopped);
        self.world.close().await;
        Ended { disturbed, stopped, status, seen, report, broken: self.broken }
    }
}

impl What {
    /// Whether it met anything.
    fn came(&self, report: &Report, sprung: usize) -> bool {
        match self {
            Self::Call { skip, .. } => report.cmdlets.len() > *skip,
            Self::CloudCall { skip, .. } => report.cloud.len() > *skip,
            Self::Request { .. } => report.requests.iter().any(|asked| asked.disturbed),
            Self::Write(_) => sprung > 0,
            _ => true,
        }
    }
}

impl CallFault {
    pub(crate) const ALL: [Self; 6] =
        [Self::FailBefore, Self::FailAfter, Self::CutBefore, Self::CutAfter, Self::KillBefore, Self::KillAfter];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FailBefore => "fail_before",
            Self::FailAfter => "fail_after",
            Self::CutBefore => "cut_before",
            Self::CutAfter => "cut_after",
            Self::KillBefore => "kill_before",
            Self::KillAfter => "kill_after",
        }
    }

    /// The same at a request to the cloud.
    pub(crate) fn cloud_name(self) -> &'static str {
        match self {
            Self::FailBefore => "cloud_fail_before",
            Self::FailAfter => "cloud_fail_after",
            Self::CutBefore => "cloud_cut_before",
            Self::CutAfter => "cloud_cut_after",
            Self::KillBefore => "cloud_kill_before",
            Self::KillAfter => "cloud_kill_after",
        }
    }

    fn as_fault(self, skip: usize) -> Json {
        let (kind, stage) = match self {
            Self::FailBefore => ("fail", "before"),
            Self::FailAfter => ("fail", "after"),
            Self::CutBefore => ("lose_reply", "before"),
            Self::CutAfter => ("lose_reply", "after"),
            Self::KillBefore => ("hold", "before"),
            Self::KillAfter => ("hold", "after"),
        };
        let mut fault = json!({ "kind": kind, "stage": stage, "cmdlet": "*", "skip": skip });
        if kind == "fail" {
            fault["error"] = json!("rpc_unavailable");
        }
        fault
    }

    /// What goes wrong with a request to the cloud: the server fails, or half of its answer is missing.
    fn as_fault_of_cloud(self, skip: usize) -> Json {
        let act = match self {
            Self::FailBefore => json!({ "status": 503 }),
            Self::FailAfter => json!("malformed"),
            Self::CutBefore => json!("drop"),
            Self::CutAfter => json!("drop_after"),
            Self::KillBefore => json!("hold"),
            Self::KillAfter => json!("hold_after"),
        };
        json!({ "kind": "cloud", "skip": skip, "do": act })
    }
}

fn in_all(asked: &Cmdlets) -> usize {
    asked.asked + asked.cloud
}

impl Script {
    /// Whether nothing in it keeps the workers from being on time.
    fn keeps_time(&self) -> bool {
        let keeps = |what: &What| matches!(what, What::Lag { .. } | What::Cloud(_) | What::StrangeKey);
        self.happenings.iter().all(|happening| keeps(&happening.what))
    }
}

/// How late things are on this machine: in a lab in which four hours go by in a second, a busy machine makes a worker late.
pub(crate) struct Delays {
    longest: Arc<AtomicU64>,
    watching: JoinHandle<()>,
}

impl Delays {
    pub(crate) fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let seen = longest.clone();
        let watching = tokio::spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                let due = beat.tick().await;
                let late = due.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
                seen.fetch_max(late, Ordering::Relaxed);
            }
        });
        Self { longest, watching }
    }

    /// A fifth of the two hours for which the publication is watched before its date.
    pub(crate) fn were_long(&self) -> bool {
        self.longest.load(Ordering::Relaxed) > 100
    }
}

impl Drop for Delays {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// What can go wrong with a write.
pub(crate) const WRITE_FAULTS: [(&str, Moment, Blow); 10] = [
    ("conflict_begin", Moment::Begin, Blow::Fault(db::Fault::Conflict)),
    ("conflict_commit", Moment::Commit, Blow::Fault(db::Fault::Conflict)),
    ("lose_begin", Moment::Begin, Blow::Fault(db::Fault::Lose)),
    ("lose_commit", Moment::Commit, Blow::Fault(db::Fault::Lose)),
    ("lose_committed", Moment::Committed, Blow::Fault(db::Fault::Lose)),
    ("kill_begin", Moment::Begin, Blow::Fault(db::Fault::Stall)),
    ("kill_commit", Moment::Commit, Blow::Fault(db::Fault::Stall)),
    ("kill_committed", Moment::Committed, Blow::Fault(db::Fault::Stall)),
    ("freeze_begin", Moment::Begin, Blow::Freeze),
    ("freeze_commit", Moment::Commit, Blow::Freeze),
];

/// Those that can go wrong there: one process alone uses a SQLite file, and nobody goes on without it.
pub(crate) fn write_faults(database: Kind) -> &'static [(&'static str, Moment, Blow)] {
    match database {
        Kind::Postgres => &WRITE_FAULTS,
        Kind::Sqlite => &WRITE_FAULTS[..8],
    }
}

/// Why a run does not go on before somebody has acted.
fn trouble(run: &LoadedRun) -> Option<Trouble> {
    run.steps.iter().find(|s| s.status == StepStatus::Attention).and_then(|s| s.trouble.as_deref().cloned())
}

pub(crate) fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// What many trials came to.
#[derive(Default)]
pub(crate) struct Summary {
    ends: BTreeMap<&'static str, u32>,
    stopped: BTreeMap<String, u32>,
    /// How much trust was looked at, and what of it was refused because something broke.
    checked: u64,
    refused: u64,
    broken: BTreeMap<String, u32>,
    emergencies: u32,
    regretted: u32,
    /// Those whose publication was approved late.
    late: u32,
    postponed: u32,
}

impl Summary {
    pub(crate) fn add(&mut self, script: &Script, ended: &Ended) {
        *self.ends.entry(ended.status).or_default() += 1;
        for code in &ended.stopped {
            *self.stopped.entry(code.clone()).or_default() += 1;
        }
        self.checked += ended.report.trust.checked;
        self.refused += ended.report.trust.refused;
        if let Some(broken) = &ended.broken {
            *self.broken.entry(broken.told()).or_default() += 1;
        }
        self.emergencies += u32::from(script.emergency);
        self.regretted += u32::from(script.regretted && ended.status == "rolled_back");
        self.late += u32::from(script.late > 0);
        let staged = ended.report.effects.iter().filter(|e| e.kind == EffectKind::SetAuthConfigNext).count();
        self.postponed += u32::from(staged > 1);
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ends, stopped, checked, refused, broken, emergencies, regretted, late, postponed } = self;
        write!(
            f,
            "{ends:?}; {checked} tokens, {refused} refused; broken: {broken:?}; {emergencies} emergencies, {regretted} rolled back while soaking, {late} approved late, dates moved in {postponed}; stopped: {stopped:?}"
        )
    }
}

/// What the runs of one kind came to.
#[derive(Default)]
struct Tally {
    runs: u32,
    /// It was over before.
    undisturbed: u32,
    at_once: u32,
    stopped: BTreeMap<String, u32>,
}

impl Tally {
    fn add(&mut self, ended: &Ended) {
        self.runs += 1;
        match ended.stopped.first() {
            Some(code) => *self.stopped.entry(code.clone()).or_default() += 1,
            None if ended.disturbed => self.at_once += 1,
            None => self.undisturbed += 1,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { runs, undisturbed, at_once, stopped } = self;
        write!(f, "{runs} runs, {at_once} ended by themselves, {undisturbed} undisturbed, stopped: {stopped:?}")
    }
}
