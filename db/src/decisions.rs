//! Table `decision`: rows are added, never changed.

use domain::{Decision, RenewalId};
use sqlx::{QueryBuilder, types::Json};

use crate::{
    Result, Tx,
    connection::{is_usual, list, on},
};

impl Tx {
    /// Adds a decision.
    pub async fn insert_decision(&mut self, new: &Decision) -> Result<()> {
        on!(self, |db| {
            sqlx::query(
            "INSERT INTO decision (id, renewal_id, gate, plan_digest, verb, decided_by, reason, decided_at, decided_groups, break_glass, voided_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
        )
        .bind(new.id)
        .bind(new.renewal_id)
        .bind(new.gate)
        .bind(&new.plan_digest)
        .bind(new.verb)
        .bind(&new.decided_by)
        .bind(&new.reason)
        .bind(new.decided_at)
        .bind(Json(&new.decided_groups))
        .bind(new.break_glass)
        .bind(&new.voided_by)
        .execute(db)
        .await
        .map(drop)
        })?;
        Ok(())
    }

    /// Every decision on a renewal, oldest first.
    pub async fn decisions(&mut self, renewal: RenewalId) -> Result<Vec<Decision>> {
        self.decisions_of([renewal]).await
    }

    /// As [`Tx::decisions`], for several renewals.
    pub(crate) async fn decisions_of(
        &mut self,
        renewals: impl IntoIterator<Item = RenewalId>,
    ) -> Result<Vec<Decision>> {
        Ok(on!(self, |db| {
            let mut query = QueryBuilder::new(
                "SELECT id, renewal_id, gate, plan_digest, verb, decided_by, reason, decided_at, decided_groups, break_glass, voided_by
                 FROM decision WHERE renewal_id IN (",
            );
            let listed = list(&mut query, renewals);
            query.push(") ORDER BY id").build_query_as().persistent(is_usual(listed)).fetch_all(db).await
        })?)
    }
}
