//! The time that everybody who shares a database agrees on.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};

/// Reads the database's clock between two looks at it: leases and timers that one machine writes and another reads must not depend on how well their
/// own clocks agree. Without a look it is this machine's clock.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: Mutex<Option<Look>>,
}

/// A look at the database's clock.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// When it was, by a clock that nobody sets.
    at: Instant,
    /// What it said.
    told: DateTime<Utc>,
}

impl Clock {
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last {
            Some(Look { at, told }) => told + TimeDelta::from_std(at.elapsed()).unwrap_or_default(),
            None => Utc::now(),
        }
    }

    /// Takes over what the database said between `asked` and now. Returns how far it is ahead of what was thought.
    pub(crate) fn set(&self, asked: Instant, told: DateTime<Utc>) -> TimeDelta {
        let at = asked + asked.elapsed() / 2;
        let ahead = told - (self.now() - TimeDelta::from_std(at.elapsed()).unwrap_or_default());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Look { at, told });
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_this_machines_clock_until_the_database_was_asked() {
        let clock = Clock::default();
        let (before, now, after) = (Utc::now(), clock.now(), Utc::now());
        assert!((before..=after).contains(&now));
        let told = Utc::now() - TimeDelta::hours(3);
        let ahead = clock.set(Instant::now(), told);
        assert!(ahead < TimeDelta::minutes(-179), "{ahead}");
        let now = clock.now();
        assert!(now >= told && now < told + TimeDelta::minutes(1), "{now}");
    }
}
