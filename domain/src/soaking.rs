//! How long a soak may fail before a person is asked. A server that stays down is waited for without an end, and checks that pass now and then begin the
//! waiting time anew: neither ends by itself.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{Plan, Step, StepKind, Trouble};

/// Code of the trouble of a soak that has failed for too long.
pub const SOAK_TOO_LONG: &str = "soak_too_long";

impl Plan {
    /// What a person is told of a step that has just failed with `trouble`, if it is a soak that began longer ago than the plan lets it fail.
    #[must_use]
    pub fn soaks_too_long(&self, step: &Step, trouble: &Trouble, now: DateTime<Utc>) -> Option<Trouble> {
        let longest = self.soak_max_hours.filter(|_| step.kind == StepKind::Soak)?;
        let since = step.started_at.filter(|since| now - *since > TimeDelta::hours(i64::from(longest)))?;
        Some(Trouble::new(
            SOAK_TOO_LONG,
            format!(
                "The soak began at {} and still fails after {longest} hours: {}",
                since.to_rfc3339(),
                trouble.message.trim_end_matches('.')
            ),
            format!(
                "{}. Then retry: when the checks pass the waiting time starts again. Or roll back",
                trouble.action.trim_end_matches('.')
            ),
        ))
    }
}
