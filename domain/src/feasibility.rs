//! Whether a renewal can be done before its certificate expires: from the end of its validity, the waits and the calendar.

use chrono::{DateTime, TimeDelta, Utc};

use crate::calendar::Calendar;

/// Time for bringing the certificate to servers before it is staged.
const PREPARATION: TimeDelta = TimeDelta::hours(1);

/// The furthest that a latest start is looked for before the expiry.
const HORIZON: TimeDelta = TimeDelta::days(400);

/// What a run has to fit in.
#[derive(Clone, Copy, Debug)]
pub struct Waits<'a> {
    /// When something may be changed.
    pub calendar: &'a Calendar,
    /// Between staging and the effective date.
    pub lead: TimeDelta,
    /// Between publication and giving up the old certificate, which must be valid until then: it may be needed again.
    pub soak: TimeDelta,
}

/// What comes of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Feasibility {
    /// The first time at which it may start.
    pub starts_at: Option<DateTime<Utc>>,
    /// Whether the old certificate is valid until the soak is over, when it starts then.
    pub in_time: bool,
    /// The last time at which it may start so that it is.
    pub latest_safe_start: Option<DateTime<Utc>>,
}

impl Waits<'_> {
    /// The effective date of a certificate that is staged at a time: the first open time after the lead.
    #[must_use]
    pub fn effective_at(&self, staged: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.calendar.opens_at(staged + self.lead)
    }

    /// When the soak of a run is over that may start at a time.
    #[must_use]
    pub fn soaked_at(&self, start: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let staged = self.calendar.opens_at(self.calendar.opens_at(start)? + PREPARATION)?;
        Some(self.effective_at(staged)? + self.soak)
    }

    /// Whether a run that may start at `from` is in time for a certificate that expires at `expires`.
    #[must_use]
    pub fn feasibility(&self, expires: DateTime<Utc>, from: DateTime<Utc>) -> Feasibility {
        Feasibility {
            starts_at: self.calendar.opens_at(from),
            in_time: self.is_in_time(expires, from),
            latest_safe_start: self.latest_safe_start(expires),
        }
    }

    fn is_in_time(&self, expires: DateTime<Utc>, from: DateTime<Utc>) -> bool {
        self.soaked_at(from).is_some_and(|over| over <= expires)
    }

    /// The last minute from which on a run is in time: a later start is never over earlier.
    #[must_use]
    pub fn latest_safe_start(&self, expires: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let last = expires - self.lead - self.soak - PREPARATION;
        let minutes_before = |minutes: i64| last - TimeDelta::minutes(minutes);
        let (mut safe, mut unsafe_) = (HORIZON.num_minutes(), -1);
        if !self.is_in_time(expires, minutes_before(safe)) {
            return None;
        }
        while safe - unsafe_ > 1 {
            let middle = unsafe_ + (safe - unsafe_) / 2;
            if self.is_in_time(expires, minutes_before(middle)) { safe = middle } else { unsafe_ = middle }
        }
        Some(minutes_before(safe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{Blackout, Day, Window};

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn the_latest_safe_start_leaves_time_for_everything_that_must_come_before_the_expiry() {
        let saturdays = Calendar {
            windows: vec![Window {
                days: vec![Day::Sat],
                from: "20:00:00".parse().unwrap(),
                to: "23:00:00".parse().unwrap(),
            }],
            ..Calendar::default()
        };
        let frozen = Calendar {
            blackouts: vec![Blackout {
                name: "Year end".to_owned(),
                from: "2026-12-20".to_owned(),
                to: "2027-01-06".to_owned(),
            }],
            ..Calendar::default()
        };
        let always = Calendar::default();
        let expires = at("2027-01-10T00:00:00Z");
        let latest = |calendar| {
            Waits { calendar, lead: TimeDelta::hours(49), soak: TimeDelta::hours(24) }.latest_safe_start(expires)
        };
        assert_eq!(latest(&always), Some(at("2027-01-06T22:00:00Z")));
        // Published on Saturday, 2027-01-02, staged on the one before, and an hour of that is for bringing it to servers.
        assert_eq!(latest(&saturdays), Some(at("2026-12-26T21:59:00Z")));
        let waits = Waits { calendar: &frozen, lead: TimeDelta::hours(49), soak: TimeDelta::hours(24) };
        let late = waits.feasibility(at("2027-01-05T00:00:00Z"), at("2026-12-20T00:00:00Z"));
        assert!(!late.in_time);
        assert_eq!(late.starts_at, Some(at("2027-01-07T00:00:00Z")));
        // Published at the last minute before the blackout.
        assert_eq!(late.latest_safe_start, Some(at("2026-12-17T21:59:00Z")));
        assert!(late.latest_safe_start.is_some_and(|latest| latest < at("2026-12-20T00:00:00Z")));
    }
}
