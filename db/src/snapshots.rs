//! Table `snapshot`: what discovery saw.

use std::{collections::HashMap, sync::Arc};

use domain::{OrganizationId, RenewalId, Snapshot};
use sqlx::{QueryBuilder, types::Json};
use uuid::Uuid;

use crate::{
    Db, Result, Tx,
    connection::{is_usual, on},
    gathering::{Gathering, all_or_each},
};

/// Snapshots that are asked for together, at most: what is usual is prepared.
const MOST: usize = 32;
/// How many ask the database at the same time.
const LEADERS: usize = 2;

/// Who asks for the newest snapshots of organizations.
pub(crate) type Seeing = Gathering<(), OrganizationId, Result<Option<Arc<Snapshot>>>>;

pub(crate) fn seeing() -> Seeing {
    Gathering::new(LEADERS, MOST)
}

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

impl Db {
    /// The newest snapshot of an organization. Who asks at the same time asks together.
    pub(crate) async fn last_seen(&self, organization: &OrganizationId) -> Result<Option<Arc<Snapshot>>> {
        let organization = organization.clone();
        let served = self
            .seeing
            .serve((), organization.clone(), async |all| all_or_each(all, async |some| self.see(some).await).await);
        match served.await {
            Some(seen) => seen,
            // Who would have told has gone away.
            None => Ok(self.see(&[organization]).await?.pop().transpose()?.flatten()),
        }
    }

    async fn see(&self, all: &[OrganizationId]) -> Result<Vec<Result<Option<Arc<Snapshot>>>>> {
        let seen = self.look(async |tx| tx.latest_snapshots(all).await).await?;
        Ok(all.iter().map(|organization| Ok(seen.get(organization).cloned())).collect())
    }
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

    /// As [`Tx::latest_snapshot`], for several organizations. Those that nobody has looked at are not in it.
    async fn latest_snapshots(
        &mut self,
        organizations: &[OrganizationId],
    ) -> Result<HashMap<OrganizationId, Arc<Snapshot>>> {
        let found: Vec<(OrganizationId, Json<Snapshot>)> = on!(self, |db| {
            let mut look = QueryBuilder::new(
                "SELECT organization_id, body FROM snapshot WHERE id IN (
                    SELECT (SELECT id FROM snapshot WHERE organization_id = wanted.column1 ORDER BY id DESC LIMIT 1) FROM (",
            );
            look.push_values(organizations, |mut row, organization| {
                row.push_bind(organization);
            });
            look.push(") AS wanted)").build_query_as().persistent(is_usual(organizations.len())).fetch_all(db).await
        })?;
        Ok(found.into_iter().map(|(organization, Json(snapshot))| (organization, Arc::new(snapshot))).collect())
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
