//! Table `sealed_key`: the only place for key material, sealed by the worker, until every server has the key.

use chrono::{DateTime, Utc};
use domain::{RenewalId, Thumbprint};

use crate::{Result, Tx, connection::on};

/// A sealed private key with its certificate.
#[derive(Clone, sqlx::FromRow)]
pub struct SealedKey {
    /// The certificate that it belongs to.
    pub thumbprint: Thumbprint,
    /// Ciphertext; what is inside is the worker's business.
    pub sealed: Vec<u8>,
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedKey").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

impl Tx {
    /// Keeps the sealed key of a renewal, which has none yet.
    pub async fn insert_sealed_key(&mut self, renewal: RenewalId, key: &SealedKey, now: DateTime<Utc>) -> Result<()> {
        on!(self, |db| sqlx::query(
            "INSERT INTO sealed_key (renewal_id, thumbprint, sealed, created_at) VALUES ($1, $2, $3, $4)"
        )
        .bind(renewal)
        .bind(&key.thumbprint)
        .bind(&key.sealed)
        .bind(now)
        .execute(db)
        .await
        .map(drop))?;
        Ok(())
    }

    /// The sealed key of a renewal.
    pub async fn sealed_key(&mut self, renewal: RenewalId) -> Result<Option<SealedKey>> {
        Ok(on!(self, |db| sqlx::query_as("SELECT thumbprint, sealed FROM sealed_key WHERE renewal_id = $1")
            .bind(renewal)
            .fetch_optional(db)
            .await)?)
    }

    /// Destroys the sealed key of a renewal. Says whether there was one.
    pub async fn destroy_sealed_key(&mut self, renewal: RenewalId) -> Result<bool> {
        Ok(on!(self, |db| sqlx::query("DELETE FROM sealed_key WHERE renewal_id = $1")
            .bind(renewal)
            .execute(db)
            .await
            .map(|done| done.rows_affected() > 0))?)
    }
}
