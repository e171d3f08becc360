//! Table `plan`: the exact text that the digest covers.

use chrono::{DateTime, Utc};
use domain::{Digest, Plan, RenewalId};

use crate::{Result, Tx, connection::on};

impl Tx {
    /// Stores a plan as canonical JSON; the same plan again changes nothing.
    pub async fn insert_plan(&mut self, renewal: RenewalId, plan: &Plan, now: DateTime<Utc>) -> Result<Digest> {
        let digest = plan.digest();
        on!(self, |db| {
            sqlx::query("INSERT INTO plan (renewal_id, digest, body, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (renewal_id, digest) DO NOTHING")
            .bind(renewal)
            .bind(&digest)
            .bind(plan.canonical())
            .bind(now)
            .execute(db)
            .await
            .map(drop)
        })?;
        Ok(digest)
    }

    /// A plan by its digest.
    pub async fn plan(&mut self, renewal: RenewalId, digest: &Digest) -> Result<Option<Plan>> {
        let body = self.plan_text(renewal, digest).await?;
        Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
    }

    /// The canonical JSON of a plan: the bytes that its digest covers.
    pub async fn plan_text(&mut self, renewal: RenewalId, digest: &Digest) -> Result<Option<String>> {
        Ok(on!(self, |db| sqlx::query_scalar("SELECT body FROM plan WHERE renewal_id = $1 AND digest = $2")
            .bind(renewal)
            .bind(digest)
            .fetch_optional(db)
            .await)?)
    }
}
