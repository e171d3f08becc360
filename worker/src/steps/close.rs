//! Look at everything once more and close the record.

use db::{Purpose, StepEnd};
use domain::{Outcome, Place, Trouble};

use super::{Context, Ended, Result, StepError, evidence};

pub(super) async fn run(context: &Context<'_>) -> Result<Ended> {
    let found = evidence::collect(context, Purpose::After, Place::Cleared).await?;
    let failed: Vec<String> =
        evidence::failures(&found).map(|e| format!("{} {}: {}", e.check, e.target, e.detail)).collect();
    if failed.is_empty() {
        return Ok(Ended::With(StepEnd::Done(Outcome::Closed { evidence: found })));
    }
    Err(StepError::Retry(Trouble::new(
        "check_failed",
        format!("The final check found: {}", failed.join("; ")),
        "Repair it; the check is made again by itself, or retry",
    )))
}
