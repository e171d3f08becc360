//! What ticket systems say of the tickets of renewals.

use chrono::{DateTime, Utc};
use domain::{Decision, Phase, Renewal, RenewalId, TicketStanding, TicketWord, audit::NewAudit, gate::Verb, progress};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::{LoadedRun, Result, Tx, connection::on, renewals::COLUMNS, steps::shared};

impl Tx {
    /// The live renewal of a ticket: `sys_id` is the stable key of its record in the system.
    pub async fn live_renewal_of_ticket(&mut self, system: &str, sys_id: &str) -> Result<Option<Renewal>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM renewal WHERE request->'ticket'->>'sys_id' = $1 AND request->'ticket'->>'system' = $2
             AND status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused')
             ORDER BY id DESC LIMIT 1"
        ));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(sys_id).bind(system).fetch_optional(db).await)?)
    }

    /// Takes note of what the ticket system says of a renewal's ticket, and lets everything follow: `by` is who has read it, as in audit entries. What
    /// it has said before is not recorded again.
    pub async fn ticket_said(
        &mut self,
        id: RenewalId,
        standing: TicketStanding,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Renewal> {
        let renewal = self.renewal(id).await?;
        let same = renewal.ticket_standing.as_ref().is_some_and(|before| standing.says_as(before));
        if same || !renewal.state.is_live() {
            self.store_standing(id, &standing).await?;
            return Ok(Renewal { ticket_standing: Some(standing), ..renewal });
        }
        let mut renewal = self.lock_renewal(id).await?;
        let before = renewal.ticket_standing.replace(standing.clone());
        self.store_standing(id, &standing).await?;
        let detail = json!({ "before": before, "standing": standing });
        self.audit(&renewal, NewAudit::new(by, "ticket.changed", detail), now).await?;
        let mut run = self.complete_run(renewal).await?;
        match standing.word {
            TicketWord::ApprovalVoided => self.void_approvals(&mut run, &standing, by, now).await?,
            TicketWord::Cancelled if can_be_cancelled(&run) => {
                return self.cancel_locked(run.renewal, by, &standing.detail, now).await;
            }
            _ => {}
        }
        Ok(self.settle_loaded(run, by, now).await?.renewal)
    }

    /// An operator goes on although the ticket was called off or closed, which a person decides after the publication.
    pub(crate) async fn overrule_ticket(
        &mut self,
        renewal: &mut Renewal,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let word = renewal.ticket_standing.as_ref().map(|standing| standing.word);
        if !matches!(word, Some(TicketWord::Cancelled | TicketWord::Closed))
            || renewal.involved.overruled == renewal.ticket_standing
        {
            return Ok(false);
        }
        renewal.involved.overruled.clone_from(&renewal.ticket_standing);
        self.store_involved(renewal).await?;
        let detail = json!({ "standing": renewal.ticket_standing });
        self.audit(renewal, NewAudit::new(by, "ticket.overruled", detail), now).await?;
        Ok(true)
    }

    /// Takes a run back whose ticket was called off while a publication was in the hands of a worker that has put it back since.
    pub(crate) async fn obey_ticket(&mut self, run: &mut LoadedRun, by: &str, now: DateTime<Utc>) -> Result<()> {
        let Some(standing) = run.renewal.ticket_standing.clone() else { return Ok(()) };
        let overruled = run.renewal.involved.overruled.as_ref().is_some_and(|before| standing.says_as(before));
        if standing.word == TicketWord::Cancelled && !overruled && run.renewal.state.is_live() && can_be_cancelled(run)
        {
            run.renewal = self.cancel_locked(run.renewal.clone(), by, &standing.detail, now).await?;
            run.steps = shared(self.steps(run.renewal.id).await?);
        }
        Ok(())
    }

    async fn store_standing(&mut self, id: RenewalId, standing: &TicketStanding) -> Result<()> {
        on!(self, |db| sqlx::query("UPDATE renewal SET ticket_standing = $2 WHERE id = $1")
            .bind(id)
            .bind(Json(standing))
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Takes back every approval of the current plan that stands, each with a row that says who did.
    async fn void_approvals(
        &mut self,
        run: &mut LoadedRun,
        standing: &TicketStanding,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        for void in run.as_run().standing_approvals() {
            let withdrawn = Decision {
                id: Uuid::now_v7(),
                verb: Verb::Withdraw,
                reason: format!("The approvals of the ticket are void: {}", standing.detail),
                decided_at: now,
                break_glass: false,
                voided_by: Some(by.to_owned()),
                ..void
            };
            self.insert_decision(&withdrawn).await?;
            let detail = json!({
                "gate": withdrawn.gate, "plan_digest": withdrawn.plan_digest, "decided_by": withdrawn.decided_by, "reason": withdrawn.reason
            });
            self.audit(&run.renewal, NewAudit::new(by, "decision.voided", detail), now).await?;
            run.decisions.push(withdrawn);
        }
        Ok(())
    }
}

/// Whether a run still has a way back that nobody needs to be asked for.
fn can_be_cancelled(run: &LoadedRun) -> bool {
    let undoing = run.renewal.state.phase() == Some(Phase::Undo);
    !undoing && progress::cancel_path(&run.steps).is_ok()
}
