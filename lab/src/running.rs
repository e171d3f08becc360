//! What all connections of a lab share: the world, the clock that drives it, and who may come in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use psrp::Secret;
use tokio::sync::watch;

use crate::{clock::Clock, faults::Fault, world::World};

/// A world in time.
#[derive(Debug)]
pub(crate) struct Running {
    inner: Mutex<(Clock, World)>,
    /// Changes with every fault, so that whoever waits for an answer looks again whether the server is still there.
    faults: watch::Sender<u64>,
    pub(crate) username: String,
    pub(crate) password: Secret,
}

impl Running {
    pub(crate) fn new(clock: Clock, world: World, username: String, password: Secret) -> Self {
        Self { inner: Mutex::new((clock, world)), faults: watch::Sender::new(0), username, password }
    }

    /// The world as it is by now.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let (clock, world) = &mut *self.lock();
        world.catch_up(clock.at(Utc::now()));
        work(world)
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

    /// Whether an `Authorization` header is that of the account.
    pub(crate) fn admits(&self, authorization: &str) -> bool {
        let Some((scheme, encoded)) = authorization.split_once(' ') else { return false };
        let expected = Secret::new(format!("{}:{}", self.username, self.password.expose()));
        let given = STANDARD.decode(encoded.trim()).unwrap_or_default();
        scheme.eq_ignore_ascii_case("Basic") && given == expected.expose().as_bytes()
    }

    /// A cmdlet that panicked has left the world as it was before or after one of its steps: go on.
    fn lock(&self) -> MutexGuard<'_, (Clock, World)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
