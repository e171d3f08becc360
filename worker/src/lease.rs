//! The lease of a step as its worker knows it. The database says who may write about a step; what a worker does outside of the database it must know by
//! itself: without word from the database it stops before its lease is over, and lets another worker go on.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a worker has a step, in real time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// How long a worker may be silent before its step is somebody else's.
    pub lease: Duration,
    /// How often a worker says that it is alive.
    pub heartbeat: Duration,
}

impl Pace {
    /// Leases of this length, with several heartbeats in each: one may be lost.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        Self { lease, heartbeat: lease / 4 }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::of(Duration::from_secs(45))
    }
}

/// The lease of one step.
#[derive(Debug)]
pub(crate) struct Lease {
    ends: Mutex<Instant>,
}

impl Lease {
    /// A lease that was asked for at that time.
    pub(crate) fn asked_at(asked: Instant, pace: Pace) -> Self {
        Self { ends: Mutex::new(surely_ends(asked, pace)) }
    }

    /// It was extended, as asked for at that time.
    pub(crate) fn extend(&self, asked: Instant, pace: Pace) {
        *self.lock() = surely_ends(asked, pace);
    }

    /// Until when nobody else has the step.
    pub(crate) fn ends(&self) -> Instant {
        *self.lock()
    }

    /// Whether nobody else has the step yet.
    pub(crate) fn is_held(&self) -> bool {
        Instant::now() < self.ends()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A little before the lease is over for others: what is sent last must arrive.
fn surely_ends(asked: Instant, pace: Pace) -> Instant {
    asked + pace.lease - pace.lease / 10
}
