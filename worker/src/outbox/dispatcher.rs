//! The loop that tells: makes messages of what was announced, takes lanes that are due, delivers, and stores how it went.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use db::{ClaimedMessage, Db, MessageEnd, Unexpanded};
use domain::{Timeline, announcing::PublicUrl, redelivery};
use tokio::{
    task::{self, JoinSet},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Delivered, LONGEST_DELIVERY, Message, Subscription};
use crate::{
    Pace,
    engine::{on_one_thread, spread},
    lease::Lease,
};

/// The longest that the dispatcher sleeps without looking, in real time.
const POLL: Duration = Duration::from_secs(1);
/// The least time between two looks, in real time: every write of the process rings, and few of them announce anything.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long it stays away from a database that fails, in real time.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How long deliveries that are under way may take to end when the service stops, in real time.
const DRAIN: Duration = Duration::from_secs(20);
/// Lanes of one target that are served at the same time: a slow one must not hold all others, and ticket systems count.
const LANES_AT_ONCE: usize = 4;
/// The shortest real time between two tries.
const SHORTEST_PAUSE: TimeDelta = TimeDelta::milliseconds(200);

/// Everything that delivering needs.
#[derive(Debug)]
pub struct Outbox {
    /// Where messages are.
    pub db: Db,
    /// How fast time goes.
    pub timeline: Timeline,
    /// How long a lane is this worker's.
    pub pace: Pace,
    /// What links begin with.
    pub public_url: PublicUrl,
    subscriptions: BTreeMap<String, Subscription>,
}

impl Outbox {
    /// Who delivers to these targets.
    #[must_use]
    pub fn new(db: Db, timeline: Timeline, public_url: PublicUrl, subscriptions: Vec<Subscription>) -> Self {
        let subscriptions = subscriptions.into_iter().map(|one| (one.id.clone(), one)).collect();
        Self { db, timeline, pace: Pace::default(), public_url, subscriptions }
    }

    fn now(&self) -> DateTime<Utc> {
        self.timeline.at(self.db.now())
    }

    fn lease_ends(&self) -> DateTime<Utc> {
        self.timeline.after(self.db.now(), self.pace.lease)
    }

    fn wanted_by(&self, announcement: &Unexpanded) -> Vec<String> {
        let wants = |one: &&Subscription| one.wants(announcement);
        self.subscriptions.values().filter(wants).map(|one| one.id.clone()).collect()
    }
}

/// Delivers until `stop` is cancelled; then lets those under way end. Dropped, it leaves them where they are, as a process does that is killed.
pub async fn run(outbox: Arc<Outbox>, stop: CancellationToken) {
    on_one_thread(move || deliver_all(outbox, stop)).await;
}

async fn deliver_all(outbox: Arc<Outbox>, stop: CancellationToken) {
    let mut crew = Crew { outbox, tries: JoinSet::new(), targets: HashMap::new(), unknown: BTreeSet::new() };
    let mut last = Instant::now() - LOOK_PAUSE;
    while !stop.is_cancelled() {
        sleep_until(last + LOOK_PAUSE).await;
        last = Instant::now();
        // Order: ask to be woken before looking, so that what is announced in between is not slept through.
        let woken = crew.outbox.db.woken();
        let pause = crew.take_on().await;
        tokio::select! {
            () = woken => {}
            () = sleep(pause) => {}
            () = crew.one_ended() => {}
            () = stop.cancelled() => {}
        }
    }
    crew.drain().await;
}

/// The tries that are under way.
struct Crew {
    outbox: Arc<Outbox>,
    tries: JoinSet<()>,
    /// Whose target each is.
    targets: HashMap<task::Id, String>,
    /// Targets with messages that this worker does not know, of which it was said already.
    unknown: BTreeSet<String>,
}

impl Crew {
    fn room(&self, target: &str) -> usize {
        LANES_AT_ONCE.saturating_sub(self.targets.values().filter(|one| *one == target).count())
    }

    /// Takes what is due. Returns how long nothing can be due.
    async fn take_on(&mut self) -> Duration {
        match self.look().await {
            Ok(pause) => pause,
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "The database fails: {error}");
                DATABASE_PAUSE
            }
        }
    }

    async fn look(&mut self) -> db::Result<Duration> {
        let outbox = self.outbox.clone();
        while outbox.db.expand_announcements(|announcement| outbox.wanted_by(announcement), outbox.now()).await? {}
        let now = outbox.now();
        let due = outbox.db.read(async |tx| tx.due_targets(now).await).await?;
        for target in due {
            let room = self.room(&target);
            if !outbox.subscriptions.contains_key(&target) {
                self.tell_unknown(target);
            } else if room > 0 {
                self.take_on_of(&target, room).await?;
            }
        }
        let next = outbox.db.read(async |tx| tx.next_message_due(now).await).await?;
        let pause =
            next.and_then(|at| outbox.timeline.shrink((at - outbox.now()).max(TimeDelta::zero())).to_std().ok());
        Ok(pause.unwrap_or(POLL).min(POLL))
    }

    fn tell_unknown(&mut self, target: String) {
        if !self.unknown.contains(&target) {
            warn!(
                target,
                "Messages wait for the target {target}, which is not configured here: add it again, or drop them (GET /v1/outbox?target={target})"
            );
            self.unknown.insert(target);
        }
    }

    async fn take_on_of(&mut self, target: &str, room: usize) -> db::Result<()> {
        let asked = Instant::now();
        let (most, lease_ends, now) = (i64::try_from(room).unwrap_or(1), self.outbox.lease_ends(), self.outbox.now());
        for claimed in self.outbox.db.claim_messages(target, most, lease_ends, now).await? {
            let lease = Lease::asked_at(asked, self.outbox.pace);
            let task = self.tries.spawn_local(deliver(self.outbox.clone(), claimed, lease));
            self.targets.insert(task.id(), target.to_owned());
        }
        Ok(())
    }

    /// Waits until one of the tries has ended, for ever if there is none.
    async fn one_ended(&mut self) {
        let id = match self.tries.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => {
                // Its lane is taken again when the lease ends.
                error!("A delivery has crashed: {error}");
                error.id()
            }
        };
        self.targets.remove(&id);
    }

    async fn drain(mut self) {
        let all = async { while self.tries.join_next().await.is_some() {} };
        if timeout(DRAIN, all).await.is_err() {
            warn!("Deliveries are still under way after {} s; they are tried again", DRAIN.as_secs());
        }
    }
}

async fn deliver(outbox: Arc<Outbox>, claimed: ClaimedMessage, lease: Lease) {
    let (id, target) = (claimed.id, claimed.target.clone());
    match attempt(&outbox, claimed, &lease).await {
        Ok(()) => {}
        Err(db::Error::LeaseLost) => {
            warn!(message = %id, target, "Lost the lease of a message for {target}; it may arrive twice")
        }
        Err(error) => error!(error = &error as &dyn std::error::Error, "The database fails: {error}"),
    }
}

async fn attempt(outbox: &Outbox, mut claimed: ClaimedMessage, lease: &Lease) -> db::Result<()> {
    let announcement = std::mem::replace(&mut claimed.announcement, Err(db::Error::LeaseLost));
    let delivered = match announcement {
        Ok(announcement) => {
            let text = announcement.text(&outbox.public_url);
            let message = Message {
                id: claimed.id,
                lane: claimed.lane.clone(),
                text,
                announcement,
                failures: claimed.failures,
                now: outbox.now(),
            };
            tokio::select! {
                delivered = told(outbox, &claimed.target, &message) => delivered,
                lost = keep_lane(outbox, &claimed, lease) => return Err(lost),
            }
        }
        // During a rolling upgrade: a newer version takes it in its turn.
        Err(error) => Delivered::retry(format!("This version of rekey cannot read it: {error}")),
    };
    store(outbox, &claimed, delivered).await
}

async fn told(outbox: &Outbox, target: &str, message: &Message) -> Delivered {
    let Some(subscription) = outbox.subscriptions.get(target) else {
        return Delivered::retry("The target is not configured");
    };
    let told = timeout(LONGEST_DELIVERY, subscription.target.deliver(message)).await;
    told.unwrap_or_else(|_| Delivered::retry(format!("Not delivered within {} s", LONGEST_DELIVERY.as_secs())))
}

/// Keeps the lane until it is lost, or could be without anybody saying so; resolves only then.
async fn keep_lane(outbox: &Outbox, claimed: &ClaimedMessage, lease: &Lease) -> db::Error {
    loop {
        sleep_until(lease.ends().min(Instant::now() + outbox.pace.heartbeat)).await;
        let asked = Instant::now();
        let until = outbox.lease_ends();
        let extended = outbox.db.write_silently(async |tx| tx.extend_lane(claimed, until).await);
        match timeout_at(lease.ends(), extended).await {
            Ok(Ok(())) => lease.extend(asked, outbox.pace),
            Ok(Err(error @ db::Error::LeaseLost)) => return error,
            Ok(Err(_)) | Err(_) if !lease.is_held() => return db::Error::LeaseLost,
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

async fn store(outbox: &Outbox, claimed: &ClaimedMessage, delivered: Delivered) -> db::Result<()> {
    let now = outbox.now();
    let end = match delivered {
        Delivered::Done => MessageEnd::Delivered,
        Delivered::Dead { why } => MessageEnd::Dead { why },
        Delivered::Gone { why } => MessageEnd::Closed { why },
        Delivered::Retry { why, after } => match redelivery::pause(claimed.failures, claimed.created_at, now, spread())
        {
            Some(pause) => MessageEnd::Retry { at: now + at_least(outbox, pause, after), why },
            None => MessageEnd::Dead { why: format!("Given up after {} tries: {why}", claimed.failures + 1) },
        },
    };
    tell(claimed, &end);
    outbox.db.write(async |tx| tx.finish_message(claimed, &end, now).await).await
}

/// The pause of the schedule, but not less than the target asks for and than is sensible in real time.
fn at_least(outbox: &Outbox, pause: TimeDelta, after: Option<Duration>) -> TimeDelta {
    let asked = after.and_then(|after| TimeDelta::from_std(after).ok()).unwrap_or_default();
    pause.max(outbox.timeline.stretch(asked.max(SHORTEST_PAUSE)))
}

fn tell(claimed: &ClaimedMessage, end: &MessageEnd) {
    let (message, target) = (claimed.id, &claimed.target);
    match end {
        MessageEnd::Delivered => info!(%message, target, "Told {target}"),
        MessageEnd::Retry { at, why } => warn!(%message, target, "{target} is told again at {at}: {why}"),
        MessageEnd::Dead { why } => {
            error!(%message, target, "{target} was not told: {why}. POST /v1/outbox/{message}/replay tries again")
        }
        MessageEnd::Closed { why } => {
            error!(%message, target, "{target} is not told any more: {why}. POST /v1/outbox/{message}/replay tries again")
        }
    }
}
