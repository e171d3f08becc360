//! Skipping steps: what a person gives up, as one transaction.

use chrono::{DateTime, Utc};
use domain::{Renewal, RenewalId, audit::NewAudit};
use serde_json::json;

use crate::{
    Error, LoadedRun, Result, Tx,
    run::{require_live, step_detail},
};

impl Tx {
    /// Lets the run go on without failing steps: those of these ordinals, or all that may be skipped.
    pub async fn skip(
        &mut self,
        id: RenewalId,
        expected_version: Option<i64>,
        by: &str,
        reason: &str,
        ordinals: Option<&[i32]>,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let renewal = self.lock_expected(id, expected_version).await?;
        require_live(&renewal, "skip")?;
        let loaded = self.complete_run(renewal).await?;
        let renewal = &loaded.renewal;
        let run = loaded.as_run();
        for step in run.skippable(ordinals).map_err(Error::Refused)? {
            let outcome = run.skipped_by(step, by, reason);
            self.skip_step(step.id, &outcome, now).await?;
            let detail = step_detail(step, json!(outcome));
            self.audit(renewal, NewAudit::new(by, "step.skipped", detail), now).await?;
        }
        let LoadedRun { renewal, .. } = loaded;
        Ok(self.settle_run(renewal, by, now).await?.renewal)
    }
}
