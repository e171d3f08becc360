//! Table `audit`: the one function that writes it, and its readers. Nothing updates or deletes here.

use chrono::{DateTime, Utc};
use domain::{
    OrganizationId, Renewal, RenewalId,
    audit::{AuditEntry, NewAudit},
};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{Page, Result, Tx, connection::on};

const COLUMNS: &str = "id, renewal_id, organization_id, sequence, at, actor, action, detail";

impl Tx {
    /// Records something that belongs to a renewal, in the transaction of the change that it tells of.
    pub async fn audit(&mut self, renewal: &Renewal, new: NewAudit, now: DateTime<Utc>) -> Result<()> {
        self.append(renewal.id.0, Some(renewal.id), Some(&renewal.organization_id), new, now).await
    }

    /// Records something that belongs to no renewal.
    pub async fn audit_outside(
        &mut self,
        organization: Option<&OrganizationId>,
        new: NewAudit,
        now: DateTime<Utc>,
    ) -> Result<()> {
        self.append(Uuid::nil(), None, organization, new, now).await
    }

    async fn append(
        &mut self,
        stream: Uuid,
        renewal: Option<RenewalId>,
        organization: Option<&OrganizationId>,
        new: NewAudit,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let sequence: i64 = on!(self, |db| sqlx::query_scalar(
            "INSERT INTO audit_stream (stream, last_sequence) VALUES ($1, 1)
             ON CONFLICT (stream) DO UPDATE SET last_sequence = audit_stream.last_sequence + 1 RETURNING last_sequence"
        )
        .bind(stream)
        .fetch_one(db)
        .await)?;
        on!(self, |db| sqlx::query(
            "INSERT INTO audit (id, stream, sequence, renewal_id, organization_id, at, actor, action, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        )
        .bind(Uuid::now_v7())
        .bind(stream)
        .bind(sequence)
        .bind(renewal)
        .bind(organization)
        .bind(now)
        .bind(&new.actor)
        .bind(new.action)
        .bind(Json(&new.detail))
        .execute(db)
        .await
        .map(drop))?;
        Ok(())
    }

    /// The entries of a renewal after a sequence number, oldest first.
    pub async fn audit_of(&mut self, renewal: RenewalId, after: i64, limit: i64) -> Result<Vec<AuditEntry>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE stream = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"
        ));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(renewal.0).bind(after).bind(limit).fetch_all(db).await)?)
    }

    /// A page of all entries, newest first.
    pub async fn audit_page(&mut self, page: Page) -> Result<Vec<AuditEntry>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2"));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(page.end()).bind(page.limit).fetch_all(db).await)?)
    }
}
