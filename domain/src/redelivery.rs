//! When a message that did not arrive is sent again: at first within seconds, then for days.

use chrono::{DateTime, TimeDelta, Utc};

/// Pauses between tries. A receiver may be away for a long weekend; what was short is over soon.
const PAUSES: [TimeDelta; 11] = [
    TimeDelta::seconds(5),
    TimeDelta::seconds(30),
    TimeDelta::minutes(2),
    TimeDelta::minutes(10),
    TimeDelta::hours(1),
    TimeDelta::hours(3),
    TimeDelta::hours(6),
    TimeDelta::hours(12),
    TimeDelta::hours(24),
    TimeDelta::hours(24),
    TimeDelta::hours(24),
];
/// How long a message is worth sending. One that has waited for another in its lane has the rest of it.
const LIFETIME: TimeDelta = TimeDelta::hours(120);
/// Tries that every message has, however old it is when its turn comes.
const LEAST: usize = 4;

/// How long to wait before a message is sent again that has failed `failures` times before this time and was written at `created_at`; none when it is
/// given up. `spread`, 0 to 1, is chosen by chance: it makes a pause longer by up to a fifth, so that what failed together does not come back together.
#[must_use]
pub fn pause(failures: i32, created_at: DateTime<Utc>, now: DateTime<Utc>, spread: f64) -> Option<TimeDelta> {
    let failures = usize::try_from(failures).unwrap_or(0);
    let pause = PAUSES.get(failures)?;
    let longer = pause.num_milliseconds() as f64 * spread.clamp(0.0, 1.0) / 5.0;
    let pause = *pause + TimeDelta::milliseconds(longer as i64);
    (failures < LEAST || now + pause <= created_at + LIFETIME).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tries of a message that never arrives, from when its turn came.
    fn tries(created_at: DateTime<Utc>, mut now: DateTime<Utc>, spread: f64) -> (usize, TimeDelta) {
        let begun = now;
        for failures in 0.. {
            match pause(failures, created_at, now, spread) {
                Some(pause) => now += pause,
                None => return (usize::try_from(failures).unwrap() + 1, now - begun),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_message_is_tried_for_days() {
        let at = DateTime::UNIX_EPOCH;
        for spread in [0.0, 0.5, 1.0] {
            let (tries, span) = tries(at, at, spread);
            assert_eq!(tries, PAUSES.len() + 1);
            assert!((TimeDelta::days(3)..=TimeDelta::days(6)).contains(&span), "{span}");
        }
        assert_eq!(pause(0, at, at, 0.0), Some(TimeDelta::seconds(5)));
        assert_eq!(pause(0, at, at, 1.0), Some(TimeDelta::seconds(6)));
    }

    #[test]
    fn one_that_waited_for_another_is_not_tried_for_days_again() {
        let (created, turn) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH + TimeDelta::days(6));
        let (tries, span) = tries(created, turn, 0.5);
        assert_eq!(tries, LEAST + 1);
        assert!(span < TimeDelta::hours(1), "{span}");
    }
}
