//! Between a look for due work and the taking of it others write, and what a process knows of a run is only what it left there itself.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Bounds, Db, Moment, StepEnd};
use domain::{Outcome, Renewal, RenewalId, StepStatus, Trouble, snapshot::Key};
use futures_util::future::join_all;

use crate::support::{
    WORKER, claim, contoso, distributing, look_for, minutes, now, on_both, on_postgres, renewal, thumbprint,
};

fn distributed() -> StepEnd {
    StepEnd::Done(Outcome::Distributed { thumbprint: thumbprint('B'), pfx: None, key: Key::Csp, already_present: true })
}

fn wide() -> BTreeMap<domain::OrganizationId, Bounds> {
    BTreeMap::from([(contoso(), Bounds { organization: 100, site: 100 })])
}

/// A process that looks for work, and stands still before it takes any.
struct Slow {
    thread: JoinHandle<usize>,
    go: mpsc::Sender<()>,
}

impl Slow {
    /// Returns when it stands still.
    fn look(url: &str, at: DateTime<Utc>) -> Self {
        let (stands, standing) = mpsc::channel();
        let (go, going) = mpsc::channel();
        let (url, going, stood) = (url.to_owned(), Mutex::new(going), AtomicBool::new(false));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let db = Db::open(&url).await.unwrap().disturbed(move |moment| {
                    if moment == Moment::Commit && !stood.swap(true, Ordering::Relaxed) {
                        stands.send(()).unwrap();
                        going.lock().unwrap().recv().unwrap();
                    }
                    None
                });
                let claimed = look_for(&db, 8, &wide(), at).await;
                db.close().await;
                claimed.steps.len()
            })
        });
        standing.recv().unwrap();
        Self { thread, go }
    }

    /// How many steps it has taken.
    fn goes_on(self) -> usize {
        self.go.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

#[tokio::test]
async fn nothing_is_taken_of_a_renewal_that_was_paused_since_it_was_looked_at() {
    on_postgres(async |url| {
        let db = Db::open(&url).await.unwrap();
        let renewal = distributing(&db, "contoso", 2).await;
        let slow = Slow::look(&url, now());
        db.write(async |tx| tx.pause(renewal.id, None, "oscar", "a power cut", now()).await).await.unwrap();
        assert_eq!(slow.goes_on(), 0);
        let run = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
        assert!(!run.steps.iter().any(|step| step.status == StepStatus::Running), "{:?}", run.steps);
        let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 100).await).await.unwrap();
        let paused = entries.iter().position(|entry| entry.action == "renewal.paused").unwrap();
        assert!(!entries[paused..].iter().any(|entry| entry.action == "step.started"), "{entries:#?}");
        db.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_says_at_the_last_moment_that_it_is_alive_keeps_its_step() {
    on_postgres(async |url| {
        let db = Db::open(&url).await.unwrap();
        distributing(&db, "contoso", 1).await;
        let held = claim(&db, now()).await.unwrap();
        let later = now() + TimeDelta::minutes(6);
        let slow = Slow::look(&url, later);
        let until = later + TimeDelta::minutes(5);
        db.write(async |tx| tx.extend_lease(&held.step, until).await).await.unwrap();
        assert_eq!(slow.goes_on(), 0);
        db.finish(&held, WORKER, distributed(), later).await.unwrap();
        db.close().await;
    })
    .await;
}

#[tokio::test]
async fn of_two_processes_that_have_seen_the_same_one_gets_each_step() {
    on_postgres(async |url| {
        let db = Db::open(&url).await.unwrap();
        distributing(&db, "contoso", 6).await;
        let slow = Slow::look(&url, now());
        let fast = look_for(&db, 4, &wide(), now()).await.steps.len();
        assert_eq!((fast, slow.goes_on()), (4, 2), "the other one looks again, and takes what is left");
        db.close().await;
    })
    .await;
}

#[tokio::test]
async fn what_another_process_has_decided_counts_for_one_that_knew_the_run() {
    on_postgres(async |url| {
        let (db, other) = (Db::open(&url).await.unwrap(), Db::open(&url).await.unwrap());
        let renewal = distributing(&db, "contoso", 3).await;
        let first = claim(&db, now()).await.unwrap();
        db.finish(&first, WORKER, distributed(), now()).await.unwrap();
        let second = claim(&db, now()).await.unwrap();
        other.write(async |tx| tx.pause(renewal.id, None, "oscar", "a power cut", now()).await).await.unwrap();
        assert!(claim(&db, now()).await.is_none());
        db.finish(&second, WORKER, distributed(), now()).await.unwrap();
        other.write(async |tx| tx.resume(renewal.id, None, "oscar", now()).await).await.unwrap();
        assert!(claim(&db, now()).await.is_some());
        db.close().await;
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn what_another_worker_has_done_counts_for_one_that_knew_the_run() {
    on_postgres(async |url| {
        let (db, other) = (Db::open(&url).await.unwrap(), Db::open(&url).await.unwrap());
        distributing(&db, "contoso", 3).await;
        let first = claim(&db, now()).await.unwrap();
        db.finish(&first, WORKER, distributed(), now()).await.unwrap();
        // Nothing but steps changes here: the state of the renewal stays what it was.
        let theirs = claim(&other, now()).await.unwrap();
        other.finish(&theirs, WORKER, distributed(), now()).await.unwrap();
        let last = claim(&db, now()).await.unwrap();
        let seen = last.run.steps.iter().find(|step| step.id == theirs.step.id).unwrap();
        assert_eq!((seen.status, seen.attempt), (StepStatus::Succeeded, 1));
        db.close().await;
        other.close().await;
    })
    .await;
}

/// So many renewals whose preflights are to be tried again after a minute, in the order of their turns.
async fn tried_again(db: &Db, count: usize) -> Vec<RenewalId> {
    let raised: Vec<Renewal> = (0..count).map(|n| renewal(&format!("org-{n}"))).collect();
    for renewal in &raised {
        db.write(async |tx| tx.create_renewal(renewal, now()).await).await.unwrap();
    }
    let trouble = Trouble::new("server_unreachable", "ex01 does not answer", "Wait, or start it");
    let end = StepEnd::Retry { at: minutes(1), trouble };
    loop {
        let claimed = look_for(db, count, &wide(), now()).await.steps;
        if claimed.is_empty() {
            break;
        }
        join_all(claimed.iter().map(|step| db.finish(step, WORKER, end.clone(), now()))).await;
    }
    raised.into_iter().map(|renewal| renewal.id).collect()
}

#[tokio::test]
async fn of_more_than_a_look_shows_each_is_taken_once_but_what_has_changed_since_is_not() {
    on_postgres(async |url| {
        let (db, other) = (Db::open(&url).await.unwrap(), Db::open(&url).await.unwrap());
        let mut expected = tried_again(&db, 203).await;
        let mut taken = look_for(&db, 1, &wide(), minutes(2)).await.steps;
        // It was seen, and its turn would be next.
        let cancelled = expected.remove(1);
        other.write(async |tx| tx.cancel(cancelled, None, "oscar", "not needed", now()).await).await.unwrap();
        loop {
            let claimed = look_for(&db, 3, &wide(), minutes(2)).await;
            if claimed.is_idle() {
                break;
            }
            taken.extend(claimed.steps);
        }
        assert!(taken.iter().all(|step| step.step.attempt == 2));
        let taken: Vec<RenewalId> = taken.iter().map(|step| step.step.renewal_id).collect();
        assert_eq!(taken, expected);
        db.close().await;
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_worker_is_given_of_a_run_is_what_is_stored_of_it() {
    on_both(async |db| Box::pin(is_given_what_is_stored(db)).await).await;
}

async fn is_given_what_is_stored(db: Db) {
    let renewal = distributing(&db, "contoso", 4).await;
    let slow_server = || Trouble::new("server_unreachable", "ex01 does not answer", "Wait, or start it");
    let ends = [
        distributed(),
        StepEnd::Retry { at: minutes(1), trouble: slow_server() },
        StepEnd::Attention(slow_server()),
        StepEnd::Again { at: minutes(1), so_far: None },
        distributed(),
        distributed(),
    ];
    for (minute, end) in (0..).zip(ends) {
        let claimed = claim(&db, minutes(minute)).await.unwrap();
        let stored = db.read(async |tx| tx.load_run(renewal.id).await).await.unwrap();
        assert_eq!(claimed.run.steps, stored.steps);
        assert_eq!(claimed.run.decisions, stored.decisions);
        assert_eq!((&claimed.run.renewal, &claimed.run.plan), (&stored.renewal, &stored.plan));
        db.finish(&claimed, WORKER, end, minutes(minute)).await.unwrap();
        if minute == 3 {
            db.write(async |tx| tx.retry(renewal.id, None, "oscar", minutes(3)).await).await.unwrap();
        }
    }
}
