//! Table `snapshot`: what discovery saw.

use domain::{OrganizationId, RenewalId, Snapshot};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{Result, Tx, connection::on};

/// When in a run a snapshot was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Purpose {
    /// At the end.
    After,
    /// At the beginning: what the plan is made from.
    Before,
    /// In between.
    Check,
}

impl Tx {
    /// Keeps a snapshot.
    pub async fn insert_snapshot(
        &mut self,
        renewal: Option<RenewalId>,
        purpose: Purpose,
        snapshot: &Snapshot,
    ) -> Result<()> {
        on!(self, |db| {
            sqlx::query("INSERT INTO snapshot (id, organization_id, renewal_id, purpose, body, taken_at) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(Uuid::now_v7())
            .bind(&snapshot.organization)
            .bind(renewal)
            .bind(purpose)
            .bind(Json(snapshot))
            .bind(snapshot.taken_at)
            .execute(db)
            .await
            .map(drop)
        })?;
        Ok(())
    }

    /// The newest snapshot of an organization.
    pub async fn latest_snapshot(&mut self, organization: &OrganizationId) -> Result<Option<Snapshot>> {
        let body: Option<Json<Snapshot>> = on!(self, |db| sqlx::query_scalar(
            "SELECT body FROM snapshot WHERE organization_id = $1 ORDER BY id DESC LIMIT 1"
        )
        .bind(organization)
        .fetch_optional(db)
        .await)?;
        Ok(body.map(|Json(snapshot)| snapshot))
    }

    /// The newest snapshot of a renewal with that purpose.
    pub async fn snapshot_of(&mut self, renewal: RenewalId, purpose: Purpose) -> Result<Option<Snapshot>> {
        let body: Option<Json<Snapshot>> = on!(self, |db| sqlx::query_scalar(
            "SELECT body FROM snapshot WHERE renewal_id = $1 AND purpose = $2 ORDER BY id DESC LIMIT 1"
        )
        .bind(renewal)
        .bind(purpose)
        .fetch_optional(db)
        .await)?;
        Ok(body.map(|Json(snapshot)| snapshot))
    }
}
