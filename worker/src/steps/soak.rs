//! Wait, and look at the evidence on a schedule. A failed check is told at once, and the waiting time starts again when it passes.

use chrono::TimeDelta;
use db::{Purpose, StepEnd};
use domain::{Outcome, Place, State, Trouble};

use super::{Context, Ended, Result, StepError, evidence};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    let found = evidence::collect(context, Purpose::Check, Place::Published).await?;
    let failed: Vec<String> =
        evidence::failures(&found).map(|e| format!("{} {}: {}", e.check, e.target, e.detail)).collect();
    if !failed.is_empty() {
        return Err(StepError::Retry(Trouble::new(
            "check_failed",
            format!("The evidence speaks against clearing the old certificate: {}", failed.join("; ")),
            "Repair it; checks go on by themselves, and the waiting time starts again. Or roll back",
        )));
    }
    let outcome = Outcome::Soaked { checks: checks(context) + 1, evidence: found };
    match context.claimed.run.renewal.state {
        State::Soaking { until, .. } if until <= context.now() => Ok(Ended::With(StepEnd::Done(outcome))),
        State::Soaking { until, .. } => {
            let next = context.now() + TimeDelta::minutes(i64::from(context.plan()?.soak_check_minutes));
            Ok(Ended::With(StepEnd::Again { at: next.min(until), so_far: Some(outcome) }))
        }
        // The waiting time starts when this look is stored.
        _ => Ok(context.again(TimeDelta::seconds(1), Some(outcome))),
    }
}

fn checks(context: &Context<'_>) -> u32 {
    match context.step().outcome.as_deref() {
        Some(Outcome::Soaked { checks, .. }) if context.step().failures == 0 => *checks,
        _ => 0,
    }
}
