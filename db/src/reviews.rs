//! Table `review`: what an auditor has to look at after a gate was broken; and who was faster where two could not both win.

use chrono::{DateTime, Utc};
use domain::{
    Decision, Renewal, RenewalId, Trouble,
    audit::{AuditEntry, NewAudit},
    review::{Review, ReviewVerdict},
};
use serde_json::json;
use uuid::Uuid;

use crate::{Error, Result, Tx, connection::on};

const COLUMNS: &str =
    "id, renewal_id, decision_id, gate, broken_by, reason, broken_at, verdict, finding, reviewed_by, reviewed_at";

impl Tx {
    /// Notes that a gate was broken, and that somebody has to look at it.
    pub(crate) async fn ask_for_review(
        &mut self,
        renewal: &mut Renewal,
        decision: &Decision,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let id = Uuid::now_v7();
        on!(self, |db| {
            sqlx::query(
            "INSERT INTO review (id, renewal_id, decision_id, gate, broken_by, reason, broken_at) VALUES ($1, $2, $3, $4, $5, $6, $7)"
        )
        .bind(id)
        .bind(decision.renewal_id)
        .bind(decision.id)
        .bind(decision.gate)
        .bind(&decision.decided_by)
        .bind(&decision.reason)
        .bind(now)
        .execute(db)
        .await
        .map(drop)
        })?;
        self.count_open_reviews(renewal, 1).await?;
        let detail = json!({ "gate": decision.gate, "plan_digest": decision.plan_digest, "reason": decision.reason, "review": id });
        self.audit(renewal, NewAudit::new(&decision.decided_by, "gate.broken_glass", detail), now).await
    }

    /// The broken gates of a renewal, oldest first.
    pub async fn reviews(&mut self, renewal: RenewalId) -> Result<Vec<Review>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM review WHERE renewal_id = $1 ORDER BY id"));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(renewal).fetch_all(db).await)?)
    }

    /// Stores what an auditor thinks of a broken gate.
    pub async fn review(
        &mut self,
        (renewal, id): (RenewalId, Uuid),
        verdict: ReviewVerdict,
        finding: &str,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Review> {
        let mut renewal = self.lock_renewal(renewal).await?;
        let review = self.reviews(renewal.id).await?.into_iter().find(|review| review.id == id);
        let mut review = review.ok_or(Error::NotFound("review"))?;
        if review.broken_by == by {
            let message = "Who broke the glass does not review it";
            return Err(Error::Refused(Trouble::new("own_review", message, "Ask another auditor")));
        }
        if let Some(other) = &review.reviewed_by {
            let message = format!("{other} has reviewed it");
            return Err(Error::Refused(Trouble::new("already_reviewed", message, "Nothing to do")));
        }
        on!(self, |db| sqlx::query(
            "UPDATE review SET verdict = $2, finding = $3, reviewed_by = $4, reviewed_at = $5 WHERE id = $1"
        )
        .bind(id)
        .bind(verdict)
        .bind(finding)
        .bind(by)
        .bind(now)
        .execute(db)
        .await
        .map(drop))?;
        self.count_open_reviews(&mut renewal, -1).await?;
        let detail = json!({ "gate": review.gate, "review": id, "verdict": verdict, "finding": finding });
        self.audit(&renewal, NewAudit::new(by, "gate.reviewed", detail), now).await?;
        (review.verdict, review.finding) = (Some(verdict), Some(finding.to_owned()));
        (review.reviewed_by, review.reviewed_at) = (Some(by.to_owned()), Some(now));
        Ok(review)
    }

    async fn count_open_reviews(&mut self, renewal: &mut Renewal, more: i32) -> Result<()> {
        renewal.open_reviews += more;
        on!(self, |db| sqlx::query("UPDATE renewal SET open_reviews = $2 WHERE id = $1")
            .bind(renewal.id)
            .bind(renewal.open_reviews)
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Makes an error of a refusal: one that says who was faster, where somebody was.
    pub(crate) async fn refused(&mut self, renewal: RenewalId, trouble: Trouble) -> Result<Error> {
        if !["gate_passed", "gate_not_open", "not_possible_now"].contains(&trouble.code.as_str()) {
            return Ok(Error::Refused(trouble));
        }
        Ok(match self.faster(renewal).await? {
            None => Error::Refused(trouble),
            Some(by) => {
                let told = format!("{}; {} by {} at {}", trouble.message, by.action, by.actor, by.at.to_rfc3339());
                Error::Overtaken { trouble: Trouble { message: told, ..trouble }, by: Box::new(by) }
            }
        })
    }

    /// What somebody, or a timer, did last that others may have wanted to do.
    async fn faster(&mut self, renewal: RenewalId) -> Result<Option<AuditEntry>> {
        const CONTENDING: [&str; 8] = [
            "decision.approved",
            "decision.rejected",
            "gate.broken_glass",
            "renewal.cancel_asked",
            "renewal.rollback_asked",
            "renewal.expired",
            "renewal.paused",
            "renewal.failed",
        ];
        let sql = sqlx::AssertSqlSafe(
            "SELECT id, renewal_id, organization_id, sequence, at, actor, action, detail FROM audit WHERE stream = $1
             ORDER BY sequence DESC LIMIT 200"
                .to_owned(),
        );
        let last: Vec<AuditEntry> = on!(self, |db| sqlx::query_as(sql).bind(renewal.0).fetch_all(db).await)?;
        Ok(last.into_iter().find(|entry| CONTENDING.contains(&entry.action.as_str())))
    }
}
