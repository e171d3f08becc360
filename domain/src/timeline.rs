//! How fast time goes. A lab runs days in seconds; everything else runs at scale 1.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// Maps real time to the time that a run lives in: `virtual_origin + (real - real_origin) * scale`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Timeline {
    /// The real instant at which `virtual_origin` was true.
    pub real_origin: DateTime<Utc>,
    /// The virtual instant that belongs to `real_origin`.
    pub virtual_origin: DateTime<Utc>,
    /// Virtual seconds in a real second. 1 is real time.
    pub scale: f64,
}

impl Timeline {
    /// Real time.
    #[must_use]
    pub fn real() -> Self {
        Self { real_origin: DateTime::UNIX_EPOCH, virtual_origin: DateTime::UNIX_EPOCH, scale: 1.0 }
    }

    /// The virtual instant at a real one, cut to the microseconds that every database keeps.
    #[must_use]
    pub fn at(&self, real: DateTime<Utc>) -> DateTime<Utc> {
        if self.scale == 1.0 {
            return micros(self.virtual_origin + (real - self.real_origin));
        }
        let elapsed = (real - self.real_origin).num_microseconds().unwrap_or(i64::MAX) as f64;
        micros(self.virtual_origin + TimeDelta::microseconds((elapsed * self.scale) as i64))
    }

    /// How much virtual time passes in a real span: leases and back-off are meant in real time.
    #[must_use]
    pub fn stretch(&self, real: TimeDelta) -> TimeDelta {
        TimeDelta::microseconds((real.num_microseconds().unwrap_or(i64::MAX) as f64 * self.scale) as i64)
    }

    /// The virtual instant at which a real span is over that begins at a real one: when a lease ends.
    #[must_use]
    pub fn after(&self, real: DateTime<Utc>, span: Duration) -> DateTime<Utc> {
        self.at(real) + self.stretch(TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX))
    }

    /// How much real time a virtual span takes.
    #[must_use]
    pub fn shrink(&self, span: TimeDelta) -> TimeDelta {
        TimeDelta::microseconds((span.num_microseconds().unwrap_or(i64::MAX) as f64 / self.scale) as i64)
    }
}

/// Cuts an instant to whole microseconds: PostgreSQL keeps no more.
#[must_use]
pub fn micros(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_timeline_runs_hours_in_seconds() {
        let origin = DateTime::parse_from_rfc3339("2026-11-23T10:00:00Z").unwrap().to_utc();
        let lab = Timeline { real_origin: origin, virtual_origin: origin, scale: 3600.0 };
        assert_eq!(lab.at(origin + TimeDelta::seconds(2)), origin + TimeDelta::hours(2));
        assert_eq!(lab.stretch(TimeDelta::seconds(1)), TimeDelta::hours(1));
        assert_eq!(lab.after(origin + TimeDelta::seconds(2), Duration::from_secs(45)), origin + TimeDelta::hours(47));
        assert_eq!(lab.shrink(TimeDelta::hours(49)), TimeDelta::seconds(49));
        assert_eq!(Timeline::real().at(origin), origin);
    }
}
