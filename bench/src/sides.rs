//! Our own sides that run in a process of their own.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use db::{Bounds, Claimed, ClaimedStep, Db, FreeHands, StepEnd};
use domain::{OrganizationId, StepId, Timeline, Trouble};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::task::{self, JoinSet, LocalSet};

use crate::{
    process::memory,
    workload::{LEASE, WORKER, Work, claim, finish, no_bounds, no_op},
};

/// The longest that a worker sleeps without looking, as in the product.
const POLL: Duration = Duration::from_secs(1);
/// Steps that a worker runs at a time by default.
const HANDS: usize = 16;

/// Carries out steps that do nothing.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Drain {
    url: String,
    #[arg(value_enum)]
    work: Work,
    /// Organizations whose renewals are due.
    organizations: u64,
    /// How many look for due steps.
    #[arg(long, default_value_t = 1)]
    claimers: u64,
    /// How many steps each of them has in the air.
    #[arg(long, default_value_t = 256)]
    in_the_air: usize,
}

/// Claims, ends and records until all steps are done, and says how long it took.
pub(crate) async fn drain(drain: Drain) -> anyhow::Result<()> {
    let db = Db::open(&drain.url).await?;
    let watching = tokio::spawn({
        let db = db.clone();
        async move { db.watch().await }
    });
    let total = drain.organizations * drain.work.steps();
    let (done, bounds) = (Arc::new(AtomicU64::new(0)), Arc::new(no_bounds(drain.organizations)));
    let begun = Instant::now();
    let crews = (0..drain.claimers).map(|number| {
        let crew = Crew {
            db: db.clone(),
            name: format!("worker:bench-{number}"),
            work: drain.work,
            size: drain.in_the_air,
            total,
            done: done.clone(),
            bounds: bounds.clone(),
            steps: JoinSet::new(),
            held: HashMap::new(),
        };
        let runtime = tokio::runtime::Handle::current();
        // As in the product, the steps of a worker share a thread.
        task::spawn_blocking(move || runtime.block_on(LocalSet::new().run_until(crew.run())))
    });
    for crew in futures_util::future::join_all(crews).await {
        crew??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    watching.abort();
    let peak_kib = memory(std::process::id(), "VmHWM:")? * 1024.0;
    println!("{}", json!({ "done": done.load(Ordering::Relaxed), "seconds": seconds, "peak_kib": peak_kib }));
    Ok(())
}

/// The loop of a worker, with steps that do nothing.
struct Crew {
    db: Db,
    name: String,
    work: Work,
    size: usize,
    total: u64,
    done: Arc<AtomicU64>,
    bounds: Arc<BTreeMap<OrganizationId, Bounds>>,
    steps: JoinSet<anyhow::Result<()>>,
    held: HashMap<task::Id, StepId>,
}

impl Crew {
    async fn run(mut self) -> anyhow::Result<()> {
        while self.done.load(Ordering::Relaxed) < self.total {
            let woken = self.db.woken();
            let found = self.take_on().await?;
            if found && self.has_room() {
                continue;
            }
            tokio::select! {
                () = woken, if self.has_room() => {}
                () = tokio::time::sleep(POLL), if self.has_room() => {}
                ended = self.one_ended() => ended?,
            }
        }
        while !self.steps.is_empty() {
            self.one_ended().await?;
        }
        Ok(())
    }

    /// Looking for one step costs as much as looking for many: worth it when a quarter of the hands is free.
    fn has_room(&self) -> bool {
        self.steps.len() <= self.size * 3 / 4
    }

    async fn take_on(&mut self) -> anyhow::Result<bool> {
        if !self.has_room() {
            return Ok(false);
        }
        let held: HashSet<StepId> = self.held.values().copied().collect();
        let claimed = claim(&self.db, &self.name, self.size - self.steps.len(), &held, &self.bounds).await?;
        let found = !claimed.is_idle();
        for step in claimed.steps {
            let id = step.step.id;
            let (db, work, done) = (self.db.clone(), self.work, self.done.clone());
            let task = self.steps.spawn_local(async move {
                finish(&db, &step, &StepEnd::Done(no_op(step.step.kind, work, db.now()))).await?;
                done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            self.held.insert(task.id(), id);
        }
        Ok(found)
    }

    async fn one_ended(&mut self) -> anyhow::Result<()> {
        match self.steps.join_next_with_id().await {
            None => std::future::pending().await,
            Some(ended) => {
                let (id, result) = ended.context("a step has crashed")?;
                self.held.remove(&id);
                result
            }
        }
    }
}

/// Waits for steps as a worker does.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wake {
    url: String,
}

/// Says of each step that becomes due when it was taken, then puts it away. Runs until it is ended.
pub(crate) async fn wake(wake: Wake) -> anyhow::Result<()> {
    let db = Db::open(&wake.url).await?;
    tokio::spawn({
        let db = db.clone();
        async move { db.watch().await }
    });
    // What is announced before somebody listens is not heard.
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("{}", json!({ "ready": true }));
    loop {
        let (step, at) = next_step(&db).await?;
        put_away(&db, &step).await?;
        println!("{}", json!({ "renewal": step.step.renewal_id, "at": at }));
    }
}

/// Waits for a step, and returns it with the time at which it was this worker's.
pub(crate) async fn next_step(db: &Db) -> anyhow::Result<(ClaimedStep, u64)> {
    let (held, bounds) = (HashSet::new(), Arc::new(BTreeMap::new()));
    loop {
        let woken = db.woken();
        let mut claimed = claim(db, WORKER, HANDS, &held, &bounds).await?;
        if claimed.is_idle() {
            claimed = wait(db, woken, &bounds).await;
        }
        let at = monotonic();
        if let Some(step) = claimed.steps.pop() {
            return Ok((step, at));
        }
    }
}

/// Waits until something may be due, or is handed over.
async fn wait(db: &Db, woken: impl Future<Output = ()>, bounds: &Arc<BTreeMap<OrganizationId, Bounds>>) -> Claimed {
    let mut offer = db.offer(FreeHands {
        worker: WORKER.to_owned(),
        steps: HANDS,
        held: HashSet::new(),
        bounds: bounds.clone(),
        lease: LEASE,
        timeline: Timeline::real(),
    });
    let handed = tokio::select! {
        biased;
        handed = offer.accepted() => handed,
        () = woken => offer.withdraw().await,
        () = tokio::time::sleep(POLL) => offer.withdraw().await,
    };
    handed.map(|handed| handed.claimed).unwrap_or_default()
}

/// Leaves a step to people, so that nothing follows from it.
pub(crate) async fn put_away(db: &Db, step: &ClaimedStep) -> anyhow::Result<()> {
    let trouble = Trouble::new("benchmark", "Only its start was to be seen", "Nothing to do");
    finish(db, step, &StepEnd::Attention(trouble)).await
}

/// Nanoseconds of a clock that all processes of this machine share.
pub(crate) fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)).as_nanos() as u64
}
