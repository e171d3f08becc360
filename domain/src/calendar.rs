//! When a run may change something: weekly windows in a time zone, and blackouts.

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc, Weekday};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When a run may change something. Without windows always, but for blackouts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[schema(example = json!({
    "time_zone": "Europe/Berlin",
    "windows": [{"days": ["sat"], "from": "20:00:00", "to": "04:00:00"}],
    "blackouts": [{"name": "Year end", "from": "2026-12-21", "to": "2027-01-05"}]
}))]
pub struct Calendar {
    /// The IANA time zone of windows and of blackouts that name none.
    #[schema(value_type = String, example = "Europe/Berlin")]
    pub time_zone: Tz,
    /// Weekly windows. None: always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// When nothing is changed, whatever the windows say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blackouts: Vec<Blackout>,
}

impl Default for Calendar {
    fn default() -> Self {
        Self { time_zone: Tz::UTC, windows: Vec::new(), blackouts: Vec::new() }
    }
}

/// A window that comes every week, in local time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it begins.
    pub days: Vec<Day>,
    /// When it opens.
    #[schema(value_type = String, example = "20:00:00")]
    pub from: NaiveTime,
    /// When it closes: on the next day when that is not after `from`.
    #[schema(value_type = String, example = "04:00:00")]
    pub to: NaiveTime,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn is(self, weekday: Weekday) -> bool {
        self as u32 == weekday.num_days_from_monday()
    }
}

/// A time in which nothing is changed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// What people call it.
    #[schema(example = "Year end")]
    pub name: String,
    /// When it begins: RFC 3339, or a local date or date and time.
    #[schema(example = "2026-12-21")]
    pub from: String,
    /// When it is over. A date is its whole day.
    #[schema(example = "2027-01-05")]
    pub to: String,
}

/// The longest that a next opening is looked for.
const HORIZON: TimeDelta = TimeDelta::days(800);

impl Calendar {
    /// Whether it forbids nothing.
    #[must_use]
    pub fn is_always_open(&self) -> bool {
        self.windows.is_empty() && self.blackouts.is_empty()
    }

    /// Whether nothing is configured.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a run may change something at that time.
    #[must_use]
    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        self.is_always_open() || (self.blackout_at(at).is_none() && self.is_in_window(at))
    }

    /// The blackout that holds at a time.
    #[must_use]
    pub fn blackout_at(&self, at: DateTime<Utc>) -> Option<&Blackout> {
        self.blackouts.iter().find(|blackout| self.span_of(blackout).is_some_and(|(from, to)| from <= at && at < to))
    }

    /// The first time from `at` on at which a run may change something. None within two years.
    #[must_use]
    pub fn opens_at(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = at;
        while from <= at + HORIZON {
            if let Some((_, until)) = self.blackout_at(from).and_then(|blackout| self.span_of(blackout)) {
                from = until;
            } else if self.is_in_window(from) {
                return Some(from);
            } else {
                from = self.next_window(from)?;
            }
        }
        None
    }

    /// What is wrong with it, in words.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for window in &self.windows {
            if window.days.is_empty() {
                faults.push("window: days is empty: name at least one of mon, tue, wed, thu, fri, sat, sun".to_owned());
            }
        }
        for blackout in &self.blackouts {
            match self.span_of(blackout) {
                None => faults.push(format!(
                    "blackout {}: write from and to as 2026-12-21, 2026-12-21T18:00 (local time) or 2026-12-21T18:00:00+01:00",
                    blackout.name
                )),
                Some((from, to)) if to <= from => faults.push(format!("blackout {}: to is not after from", blackout.name)),
                Some(_) => {}
            }
        }
        if faults.is_empty() && self.opens_at(DateTime::UNIX_EPOCH).is_none() {
            faults.push("the windows never open".to_owned());
        }
        faults
    }

    fn is_in_window(&self, at: DateTime<Utc>) -> bool {
        self.windows.is_empty() || self.around(at).any(|(from, to)| from <= at && at < to)
    }

    fn next_window(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.around(at).filter(|(from, to)| *from > at && from < to).map(|(from, _)| from).min()
    }

    /// The windows that begin from two days before `at` until nine days after it.
    fn around(&self, at: DateTime<Utc>) -> impl Iterator<Item = (DateTime<Utc>, DateTime<Utc>)> {
        let today = at.with_timezone(&self.time_zone).date_naive();
        let days = (-2..=9).filter_map(move |days| today.checked_add_signed(TimeDelta::days(days)));
        days.flat_map(move |day| {
            let begin = self.windows.iter().filter(move |window| window.days.iter().any(|one| one.is(day.weekday())));
            begin.map(move |window| {
                let last = if window.to > window.from { day } else { day + TimeDelta::days(1) };
                (self.begins(day.and_time(window.from)), self.ends(last.and_time(window.to)))
            })
        })
    }

    /// A local time that comes twice (clocks are set back) begins the first time; one that never comes, when clocks have been set forward.
    fn begins(&self, local: NaiveDateTime) -> DateTime<Utc> {
        self.exists(local).earliest().unwrap_or_default()
    }

    /// A local time that comes twice ends the second time.
    fn ends(&self, local: NaiveDateTime) -> DateTime<Utc> {
        self.exists(local).latest().unwrap_or_default()
    }

    /// The instants of a local time, or of the first one after it that there is.
    fn exists(&self, local: NaiveDateTime) -> chrono::LocalResult<DateTime<Utc>> {
        let minutes = (0..=24 * 60).map(TimeDelta::minutes);
        let found = minutes.map(|later| self.time_zone.from_local_datetime(&(local + later)));
        let found = found.into_iter().find(|found| found.earliest().is_some());
        found.map_or(chrono::LocalResult::None, |found| found.map(|at| at.to_utc()))
    }

    fn span_of(&self, blackout: &Blackout) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let from = self.moment(&blackout.from, 0)?.earliest()?;
        Some((from, self.moment(&blackout.to, 1)?.latest()?))
    }

    /// Reads an instant, a local date and time, or the local midnight so many days after a date.
    fn moment(&self, text: &str, days: i64) -> Option<chrono::LocalResult<DateTime<Utc>>> {
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Some(chrono::LocalResult::Single(at.to_utc()));
        }
        if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return Some(self.exists(date.checked_add_signed(TimeDelta::days(days))?.and_time(NaiveTime::MIN)));
        }
        let formats = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"];
        let local = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
        Some(self.exists(local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin(windows: &[(&[Day], &str, &str)], blackouts: &[(&str, &str)]) -> Calendar {
        let windows = windows.iter().map(|(days, from, to)| Window {
            days: days.to_vec(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        });
        let blackouts = blackouts.iter().map(|(from, to)| Blackout {
            name: "frozen".to_owned(),
            from: (*from).to_owned(),
            to: (*to).to_owned(),
        });
        Calendar { time_zone: Tz::Europe__Berlin, windows: windows.collect(), blackouts: blackouts.collect() }
    }

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn windows_are_local_time_over_midnight_and_over_the_change_of_clocks() {
        let night = berlin(&[(&[Day::Sat], "22:00", "04:00")], &[]);
        let hours = berlin(&[(&[Day::Sun], "02:00", "03:00")], &[]);
        let gap = berlin(&[(&[Day::Sun], "02:30", "04:00")], &[]);
        // 2026-10-25 03:00 becomes 02:00; 2027-03-28 02:00 becomes 03:00.
        let cases = [
            (&night, "2026-11-28T20:59:59Z", false),
            (&night, "2026-11-28T21:00:00Z", true),
            (&night, "2026-11-29T02:59:59Z", true),
            (&night, "2026-11-29T03:00:00Z", false),
            (&night, "2026-07-25T20:00:00Z", true),
            (&hours, "2026-10-25T00:00:00Z", true),
            (&hours, "2026-10-25T01:59:59Z", true),
            (&hours, "2026-10-25T02:00:00Z", false),
            (&hours, "2027-03-28T01:00:00Z", false),
            (&hours, "2027-03-28T00:59:59Z", false),
            (&gap, "2027-03-28T00:59:59Z", false),
            (&gap, "2027-03-28T01:00:00Z", true),
            (&gap, "2027-03-28T02:00:00Z", false),
        ];
        for (calendar, when, open) in cases {
            assert_eq!(calendar.is_open(at(when)), open, "{when} {:?}", calendar.windows);
        }
        assert_eq!(
            hours.opens_at(at("2027-03-27T12:00:00Z")),
            Some(at("2027-04-04T00:00:00Z")),
            "there is no such hour"
        );
    }

    #[test]
    fn a_blackout_closes_windows_and_a_date_is_its_whole_day() {
        let calendar = berlin(&[(&[Day::Sat, Day::Sun], "00:00", "00:00")], &[("2026-12-19", "2027-01-03")]);
        assert_eq!(calendar.opens_at(at("2026-12-14T00:00:00Z")), Some(at("2027-01-08T23:00:00Z")));
        assert!(calendar.is_open(at("2026-12-13T22:59:59Z")));
        let hours = berlin(&[], &[("2026-12-24T18:00", "2026-12-24T20:00:00Z")]);
        assert_eq!(hours.opens_at(at("2026-12-24T17:30:00Z")), Some(at("2026-12-24T20:00:00Z")));
        assert!(hours.faults().is_empty());
        assert!(berlin(&[], &[("tomorrow", "2026-12-24")]).faults()[0].contains("2026-12-21T18:00"));
        assert!(!berlin(&[], &[("2026-12-25", "2026-12-23")]).faults().is_empty());
        assert!(!berlin(&[(&[], "00:00", "01:00")], &[]).faults().is_empty());
    }
}
