//! Virtual time: it runs faster than real time and can be moved ahead.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

/// `virtual_origin + (real - real_origin) * scale`. Serializes to what `GET /clock` shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Clock {
    /// The real instant at which `virtual_origin` was true.
    pub real_origin: DateTime<Utc>,
    /// The virtual instant that belongs to `real_origin`.
    pub virtual_origin: DateTime<Utc>,
    /// Virtual seconds in a real second.
    pub scale: f64,
}

impl Clock {
    /// A clock that shows `virtual_origin` at `real_origin`.
    #[must_use]
    pub fn new(real_origin: DateTime<Utc>, virtual_origin: DateTime<Utc>, scale: f64) -> Self {
        Self { real_origin, virtual_origin, scale }
    }

    /// The virtual instant at a real one.
    #[must_use]
    pub fn at(&self, real: DateTime<Utc>) -> DateTime<Utc> {
        let elapsed = (real - self.real_origin).num_microseconds().unwrap_or(i64::MAX) as f64;
        self.virtual_origin + TimeDelta::microseconds((elapsed * self.scale) as i64)
    }

    /// Moves virtual time ahead, without touching its speed.
    pub fn advance(&mut self, span: TimeDelta) {
        self.virtual_origin += span;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_is_scaled_and_can_be_moved_ahead() {
        let real = DateTime::parse_from_rfc3339("2026-11-23T10:00:00Z").unwrap().to_utc();
        let mut clock = Clock::new(real, real, 14_400.0);
        assert_eq!(clock.at(real + TimeDelta::seconds(6)), real + TimeDelta::hours(24));
        clock.advance(TimeDelta::days(45));
        assert_eq!(clock.at(real), real + TimeDelta::days(45));
    }
}
