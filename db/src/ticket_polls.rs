//! Table `ticket_poll`: whose turn it is to ask a ticket system what has changed, and from where on.

use chrono::{DateTime, Utc};
use domain::Renewal;

use crate::{Result, Tx, connection::on, renewals::COLUMNS};

/// A turn at asking a ticket system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TicketPoll {
    /// Until when its records were seen; none before the first time.
    pub seen_until: Option<DateTime<Utc>>,
}

impl Tx {
    /// Takes the turn at asking a system if it is due, so that of all workers one asks; the next turn comes at `next`. Times are real ones.
    pub async fn take_ticket_poll(
        &mut self,
        system: &str,
        next: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<TicketPoll>> {
        let sql = "INSERT INTO ticket_poll (system, due_at) VALUES ($1, $2)
             ON CONFLICT (system) DO UPDATE SET due_at = excluded.due_at WHERE ticket_poll.due_at <= $3 RETURNING seen_until";
        let row: Option<Option<DateTime<Utc>>> =
            on!(self, |db| sqlx::query_scalar(sql).bind(system).bind(next).bind(now).fetch_optional(db).await)?;
        Ok(row.map(|seen_until| TicketPoll { seen_until }))
    }

    /// The records of a system were seen until then, in the time that it writes into them.
    pub async fn ticket_polled(&mut self, system: &str, until: DateTime<Utc>) -> Result<()> {
        let sql = "UPDATE ticket_poll SET seen_until = $2 WHERE system = $1";
        on!(self, |db| sqlx::query(sql).bind(system).bind(until).execute(db).await.map(drop))?;
        Ok(())
    }

    /// The live renewals of tickets of a system; an organization has one at most. In no order.
    pub async fn live_renewals_of_system(&mut self, system: &str) -> Result<Vec<Renewal>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM renewal WHERE request->'ticket'->>'system' = $1
             AND status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused')"
        ));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(system).fetch_all(db).await)?)
    }
}
