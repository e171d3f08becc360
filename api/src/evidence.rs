//! `/v1/renewals/{id}/evidence`: everything that an auditor needs, in one document.

use std::sync::Arc;

use actix_web::{
    get,
    web::{Data, Json, Path},
};
use chrono::{DateTime, Utc};
use db::Purpose;
use domain::{Decision, Digest, Renewal, RenewalId, Snapshot, Step, audit::AuditEntry};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Problem, State,
    caller::{May, Read},
    decisions::{GateStanding, standings},
};

/// What proves what was done, by whom it was approved, and how it came out.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvidencePack {
    /// `rekey.evidence/1`.
    #[schema(example = "rekey.evidence/1")]
    format: &'static str,
    /// When it was put together.
    #[schema(example = "2026-11-26T09:00:00Z")]
    taken_at: DateTime<Utc>,
    /// The renewal.
    renewal: Renewal,
    /// The plan that was approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanText>,
    /// Every decision, oldest first.
    decisions: Vec<Decision>,
    /// Where the gates of the plan stand.
    gates: Vec<GateStanding>,
    /// Every step with its outcome.
    steps: Vec<Step>,
    /// What was seen of the organization in the course of the run.
    snapshots: Snapshots,
    /// Every audit entry of the renewal, in order.
    audit: Vec<AuditEntry>,
}

/// A plan as the text that its digest covers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanText {
    /// What people approved.
    digest: Digest,
    /// The canonical JSON of the plan: the SHA-256 of these characters in UTF-8 is the digest.
    #[schema(example = "{\"approval_hours\":336,\"…\":\"…\"}")]
    canonical: String,
}

/// What was seen of the organization. Absent where nothing was looked at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshots {
    /// Before: what the plan was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Snapshot>,
    /// The newest one in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Snapshot>,
    /// At the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Snapshot>,
}

/// Show everything that proves a renewal, in one document.
#[utoipa::path(tag = "audit", params(("id" = RenewalId, Path)), responses((status = 200, body = EvidencePack)))]
#[get("/v1/renewals/{id}/evidence")]
pub(crate) async fn show_evidence(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
) -> Result<Json<EvidencePack>, Problem> {
    let now = state.now();
    Ok(Json(state.db.read(async |tx| gather(tx, *id, now).await).await?))
}

/// One transaction, so that the parts tell of the same moment.
async fn gather(tx: &mut db::Tx, id: RenewalId, now: DateTime<Utc>) -> db::Result<EvidencePack> {
    let run = tx.load_run(id).await?;
    let plan = match &run.renewal.plan_digest {
        Some(digest) => tx.plan_text(id, digest).await?.map(|canonical| PlanText { digest: digest.clone(), canonical }),
        None => None,
    };
    let snapshots = Snapshots {
        before: tx.snapshot_of(id, Purpose::Before).await?,
        check: tx.snapshot_of(id, Purpose::Check).await?,
        after: tx.snapshot_of(id, Purpose::After).await?,
    };
    let audit = whole_audit(tx, id).await?;
    let gates = standings(&run, now);
    let db::LoadedRun { renewal, steps, decisions, .. } = run;
    let steps = steps.into_iter().map(Arc::unwrap_or_clone).collect();
    Ok(EvidencePack { format: FORMAT, taken_at: now, renewal, plan, decisions, gates, steps, snapshots, audit })
}

async fn whole_audit(tx: &mut db::Tx, id: RenewalId) -> db::Result<Vec<AuditEntry>> {
    let mut entries: Vec<AuditEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |entry| entry.sequence);
        let more = tx.audit_of(id, after, BATCH).await?;
        if more.is_empty() {
            return Ok(entries);
        }
        entries.extend(more);
    }
}

const FORMAT: &str = "rekey.evidence/1";

const BATCH: i64 = 500;
