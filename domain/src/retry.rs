//! How a step that failed is tried again, and what happens when that has no end.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    StepKind, Trouble,
    progress::{KDC_UNREACHABLE, SERVER_UNREACHABLE},
};

/// What becomes of a step that was tried as often as its policy allows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exhausted {
    /// A person is asked, who may retry, skip what may be skipped, cancel or roll back.
    #[default]
    Ask,
    /// The run goes on without it.
    Skip,
    /// The old certificate is made to sign again.
    RollBack,
}

impl Exhausted {
    /// Whether it is what every step does of which a plan says nothing.
    #[must_use]
    pub fn is_ask(&self) -> bool {
        *self == Self::Ask
    }
}

/// How a step is tried again. Each kind of step has its own: [`StepKind::retry`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    /// Real time before the second try; doubled with each one after it.
    pub first: TimeDelta,
    /// The longest real time between two tries.
    pub longest: TimeDelta,
    /// Failures in a row after which the step is exhausted. A server, or KDC, that does not answer is waited for without end: it may be down for days.
    pub limit: i32,
    /// The same for what rarely helps: a cmdlet that says no.
    pub limit_refused: i32,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// To be tried again after this real time.
    After(TimeDelta),
    /// It was tried often enough.
    Exhausted,
}

/// Troubles of a tenant that pass by themselves, be it after hours.
const PASSING: [&str; 6] = [
    "cloud_key_not_accepted",
    "cloud_key_not_visible",
    "cloud_keys_unsettled",
    "cloud_throttled",
    "cloud_unavailable",
    "cloud_unreachable",
];

/// Whether a trouble of a tenant passes by itself.
#[must_use]
pub fn passes_by_itself(trouble: &Trouble) -> bool {
    PASSING.contains(&trouble.code.as_str())
}

impl StepKind {
    /// How a step of this kind is tried again.
    #[must_use]
    pub fn retry(self) -> RetryPolicy {
        let usual =
            RetryPolicy { first: TimeDelta::seconds(1), longest: TimeDelta::seconds(60), limit: 8, limit_refused: 2 };
        match self {
            // Somebody waits for the answer.
            Self::Preflight => RetryPolicy { longest: TimeDelta::seconds(15), limit: 6, ..usual },
            // A day of soaking does not fail for an hour's trouble.
            Self::Soak => RetryPolicy { longest: TimeDelta::minutes(5), limit: 16, limit_refused: 4, ..usual },
            // A service that is slow to come up.
            Self::Restart => RetryPolicy { limit_refused: 4, ..usual },
            // What Graph has stored is accepted everywhere within minutes, rarely within hours (cloud.md 2.4); nothing depends on being quick.
            Self::TrustCloud | Self::RefreshHybrid => {
                RetryPolicy { longest: TimeDelta::minutes(2), limit: 40, limit_refused: 4, ..usual }
            }
            Self::PruneCloud | Self::PurgeSharedPrincipal | Self::RemoveCloudKey => {
                RetryPolicy { longest: TimeDelta::minutes(5), limit: 16, limit_refused: 4, ..usual }
            }
            _ => usual,
        }
    }
}

impl RetryPolicy {
    /// What follows when a step has failed with `trouble` after `failures` earlier failures in a row. `spread`, 0 to 1, is chosen by chance: it shortens
    /// the pause by up to a half, so that what failed together does not come back together.
    #[must_use]
    pub fn next(self, failures: i32, trouble: &Trouble, spread: f64) -> Next {
        let limit = match trouble.code.as_str() {
            SERVER_UNREACHABLE | KDC_UNREACHABLE => i32::MAX,
            // A tenant passes its troubles by itself, and nothing is announced before it has (cloud.md 2.4).
            _ if passes_by_itself(trouble) => i32::MAX,
            "cmdlet_failed" | "no_effect" => self.limit_refused,
            _ => self.limit,
        };
        if failures >= limit {
            return Next::Exhausted;
        }
        let doubled = self.first * (1 << failures.clamp(0, 16));
        let whole = doubled.min(self.longest).num_milliseconds() as f64;
        Next::After(TimeDelta::milliseconds((whole * (1.0 - spread.clamp(0.0, 1.0) / 2.0)) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(code: &str) -> Trouble {
        Trouble::new(code, "It failed", "Look at it")
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        let policy = StepKind::Distribute.retry();
        let pause = |failures, spread| policy.next(failures, &trouble("protocol"), spread);
        assert_eq!(pause(0, 0.0), Next::After(TimeDelta::seconds(1)));
        assert_eq!(pause(3, 0.0), Next::After(TimeDelta::seconds(8)));
        assert_eq!(pause(3, 1.0), Next::After(TimeDelta::seconds(4)));
        assert_eq!(pause(7, 0.5), Next::After(TimeDelta::seconds(45)));
        assert_eq!(pause(8, 0.0), Next::Exhausted);
    }

    #[test]
    fn a_server_that_is_down_is_waited_for_and_a_cmdlet_that_says_no_is_not() {
        let policy = StepKind::Distribute.retry();
        let longest = Next::After(TimeDelta::seconds(60));
        assert_eq!(policy.next(i32::MAX - 1, &trouble(SERVER_UNREACHABLE), 0.0), longest);
        assert_eq!(policy.next(i32::MAX - 1, &trouble(KDC_UNREACHABLE), 0.0), longest);
        assert_eq!(policy.next(2, &trouble("cmdlet_failed"), 0.0), Next::Exhausted);
    }

    #[test]
    fn a_tenant_that_does_not_accept_the_key_yet_is_waited_for() {
        let policy = StepKind::TrustCloud.retry();
        let longest = Next::After(TimeDelta::minutes(2));
        for code in PASSING {
            assert_eq!(policy.next(1_000, &trouble(code), 0.0), longest, "{code}");
        }
        assert_eq!(policy.next(40, &trouble("cloud_conflict"), 0.0), Next::Exhausted);
    }
}
