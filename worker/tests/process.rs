//! A worker in a process of its own, as far as a test can have one: a runtime that can be killed with everything in it.

use std::sync::{Arc, Condvar, Mutex};

use db::{Db, Fault, Kind, Moment};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use worker::{Worker, engine};

use crate::database::Database;

pub(crate) struct Process {
    /// Nobody else holds it; none when it has ended.
    runtime: Option<Runtime>,
    stop: CancellationToken,
    running: JoinHandle<()>,
    pub(crate) writes: Arc<Writes>,
    /// Closed when nothing of the worker is left.
    gone: mpsc::Receiver<()>,
}

impl Process {
    /// Starts a worker, `make`d with its own way to the database. SQLite is used by one process only: there it shares that way with `ours`.
    pub(crate) async fn start(database: &Database, ours: &Db, steps: usize, make: impl FnOnce(Db) -> Worker) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let db = match database.kind() {
            Kind::Postgres => {
                let url = database.url().to_owned();
                runtime.spawn(async move { Db::open(&url).await }).await.unwrap().unwrap()
            }
            Kind::Sqlite => ours.clone(),
        };
        let writes = Arc::new(Writes::default());
        let (alive, gone) = mpsc::channel::<()>(1);
        let watched = writes.clone();
        let db = db.disturbed(move |moment| {
            let _alive = &alive;
            watched.meet(moment)
        });
        let listening = db.clone();
        runtime.spawn(async move { listening.watch().await });
        let stop = CancellationToken::new();
        let running = runtime.spawn(engine::run(Arc::new(make(db)), steps, stop.clone()));
        Self { runtime: Some(runtime), stop, running, writes, gone }
    }

    /// Lets its steps end, and waits for that.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.running).await.unwrap();
    }

    /// Ends it as `kill -9` does: in the middle of whatever it is at, and without a word to anybody.
    pub(crate) async fn kill(mut self) {
        self.writes.end();
        self.runtime.take().unwrap().shutdown_background();
        assert!(self.gone.recv().await.is_none());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop.cancel();
        self.writes.thaw();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The writing transactions of a process, and what is to go wrong with one of them.
#[derive(Default)]
pub(crate) struct Writes {
    state: Mutex<State>,
    /// Whether the process stands still, and only waits to be killed.
    still: watch::Sender<bool>,
    /// Whether it stands still, and waits to go on.
    frozen: watch::Sender<bool>,
    thawed: Condvar,
}

#[derive(Default)]
struct State {
    seen: Seen,
    trap: Option<Trap>,
    sprung: bool,
    frozen: bool,
}

/// How often each moment came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) begun: usize,
    pub(crate) to_commit: usize,
    pub(crate) committed: usize,
}

/// What is to go wrong: at such a moment, after so many of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    pub(crate) moment: Moment,
    pub(crate) skip: usize,
    pub(crate) blow: Blow,
}

/// How it goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Blow {
    /// The database has trouble, or the process is about to be killed.
    Fault(Fault),
    /// The process stands still for longer than its leases last, then goes on: a virtual machine that is moved.
    Freeze,
}

impl Writes {
    pub(crate) fn set(&self, trap: Trap) {
        self.state.lock().unwrap().trap = Some(trap);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.state.lock().unwrap().seen
    }

    /// Whether what was to go wrong did.
    pub(crate) fn sprung(&self) -> bool {
        self.state.lock().unwrap().sprung
    }

    pub(crate) fn stands_still(&self) -> watch::Receiver<bool> {
        self.still.subscribe()
    }

    pub(crate) fn is_frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// Lets a process go on that is frozen.
    pub(crate) fn thaw(&self) {
        self.state.lock().unwrap().frozen = false;
        self.frozen.send_replace(false);
        self.thawed.notify_all();
    }

    /// Nothing is written from now on.
    fn end(&self) {
        self.still.send_replace(true);
        self.thaw();
    }

    fn meet(&self, moment: Moment) -> Option<Fault> {
        if *self.still.borrow() {
            return Some(Fault::Stall);
        }
        let mut state = self.state.lock().unwrap();
        state.seen.count(moment);
        let trap = state.trap.as_mut().filter(|trap| trap.moment == moment)?;
        if trap.skip > 0 {
            trap.skip -= 1;
            return None;
        }
        let blow = trap.blow;
        (state.trap, state.sprung) = (None, true);
        match blow {
            Blow::Freeze => {
                state.frozen = true;
                self.frozen.send_replace(true);
                // All that a worker does it does on this thread.
                drop(self.thawed.wait_while(state, |state| state.frozen).unwrap());
                None
            }
            Blow::Fault(fault) => {
                drop(state);
                if fault == Fault::Stall {
                    self.end();
                }
                Some(fault)
            }
        }
    }
}

impl Seen {
    fn count(&mut self, moment: Moment) {
        *match moment {
            Moment::Begin => &mut self.begun,
            Moment::Commit => &mut self.to_commit,
            Moment::Committed => &mut self.committed,
        } += 1;
    }
}
