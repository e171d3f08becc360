//! What all connections of a lab share: the world, the clock that drives it, and who may come in.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use psrp::Pipeline;
use tokio::sync::watch;

use crate::{
    admission::Admission,
    clock::Clock,
    cmdlets::{self, Reaction, Session},
    faults::Fault,
    world::World,
};

/// A world in time.
#[derive(Debug)]
pub(crate) struct Running {
    inner: Mutex<(Clock, World)>,
    /// Changes with every fault, so that whoever waits for an answer looks again whether the server is still there.
    faults: watch::Sender<u64>,
    cmdlets: watch::Sender<Cmdlets>,
    pub(crate) admission: Admission,
    /// How long every request is on its way.
    pub(crate) latency: Duration,
    shells: Mutex<Shells>,
}

/// How many cmdlets were asked for so far, and requests to the cloud.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cmdlets {
    /// All cmdlets.
    pub asked: usize,
    /// All requests to the cloud.
    pub cloud: usize,
    /// Those of both that never end.
    pub held: usize,
}

/// Shells of all endpoints together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shells {
    /// Those that are open.
    pub(crate) open: usize,
    /// The most that were open at a time.
    pub(crate) most: usize,
}

impl Running {
    pub(crate) fn new(clock: Clock, world: World, admission: Admission, latency: Duration) -> Self {
        let (inner, shells) = (Mutex::new((clock, world)), Mutex::default());
        Self { inner, faults: watch::Sender::new(0), cmdlets: watch::Sender::default(), admission, latency, shells }
    }

    /// The world as it is by now.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let (clock, world) = &mut *self.lock();
        world.catch_up(clock.at(Utc::now()));
        work(world)
    }

    /// Runs a pipeline.
    pub(crate) fn run(&self, session: &Session, pipeline: &Pipeline) -> Reaction {
        let reaction = self.with(|world| cmdlets::run(world, session, pipeline));
        self.cmdlets.send_modify(|cmdlets| {
            cmdlets.asked += 1;
            cmdlets.held += usize::from(reaction == Reaction::Held);
        });
        reaction
    }

    /// Takes note of a request to the cloud, and whether it is never answered.
    pub(crate) fn count_cloud(&self, held: bool) {
        self.cmdlets.send_modify(|cmdlets| {
            cmdlets.cloud += 1;
            cmdlets.held += usize::from(held);
        });
    }

    pub(crate) fn cmdlets(&self) -> watch::Receiver<Cmdlets> {
        self.cmdlets.subscribe()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.lock().0
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock().at(Utc::now())
    }

    /// Moves virtual time ahead; everything that is due happens on the way.
    pub(crate) fn advance(&self, span: TimeDelta) {
        self.lock().0.advance(span);
        self.with(|_| ());
    }

    pub(crate) fn apply(&self, fault: Fault) -> anyhow::Result<()> {
        let applied = self.with(|world| world.apply(fault));
        self.faults.send_modify(|count| *count += 1);
        applied
    }

    pub(crate) fn heal(&self) {
        self.with(World::heal);
        self.faults.send_modify(|count| *count += 1);
    }

    pub(crate) fn faults(&self) -> watch::Receiver<u64> {
        self.faults.subscribe()
    }

    pub(crate) fn is_up(&self, server: usize) -> bool {
        self.with(|world| world.server(server).is_up())
    }

    pub(crate) fn shells(&self) -> Shells {
        *self.shells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that an endpoint has now so many shells.
    pub(crate) fn count_shells(&self, before: usize, now: usize) {
        let mut shells = self.shells.lock().unwrap_or_else(PoisonError::into_inner);
        shells.open = shells.open + now - before;
        shells.most = shells.most.max(shells.open);
    }

    /// A cmdlet that panicked has left the world as it was before or after one of its steps: go on.
    fn lock(&self) -> MutexGuard<'_, (Clock, World)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
