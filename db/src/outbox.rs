//! Tables `announcement`, `outbox` and `outbox_lane`: what is told to the outside, in order, until it has arrived.
//!
//! The transaction that writes an audit entry writes the announcement of it. A worker, which knows whom to tell, makes a message for each target of it,
//! once. Messages of a lane leave one after the other: whoever has the lane has its first message. `attempt` fences what is written about a lane, its row
//! is locked by everybody who adds to it or takes from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use domain::{
    OrganizationId, RenewalId,
    announcing::{Announcement, News},
    audit::NewAudit,
    outbox::{OutboxMessage, OutboxStatus},
};
use serde_json::{Value, json};
use sqlx::{FromRow, QueryBuilder, types::Json};
use uuid::Uuid;

use crate::{
    Db, Error, Page, Result, Tx,
    connection::{On, is_usual, list, on},
};

/// Announcements that are looked at in one transaction.
const EXPANDED_AT_ONCE: i64 = 50;

const COLUMNS: &str = "id, target, lane, event, organization_id, renewal_id, sequence, status, failures, last_error, created_at, finished_at";

/// An announcement of which no message was made yet.
#[derive(Clone, Debug, FromRow)]
pub struct Unexpanded {
    id: Uuid,
    stream: Uuid,
    sequence: i64,
    renewal_id: Option<RenewalId>,
    /// The organization, if it belongs to one.
    pub organization_id: Option<OrganizationId>,
    /// The system of the renewal's ticket, if it has one.
    pub ticket_system: Option<String>,
    /// What it is about: a ticket or a renewal.
    subject: String,
    /// What happened.
    pub event: String,
}

impl Unexpanded {
    fn lane(&self, target: &str) -> String {
        format!("{target}/{}", self.subject)
    }
}

/// A message that a worker may deliver, with the lane that it holds.
#[derive(Debug)]
pub struct ClaimedMessage {
    /// The message's own id.
    pub id: Uuid,
    /// The target's id in the configuration.
    pub target: String,
    /// What it is ordered by.
    pub lane: String,
    /// The fence of every write about the lane.
    pub attempt: i64,
    /// Tries that have failed before.
    pub failures: i32,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// What is told; an error if only a newer version can read it.
    pub announcement: Result<Announcement>,
}

/// How a try to deliver ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MessageEnd {
    /// The target has it.
    Delivered,
    /// To be tried again.
    Retry {
        /// When.
        at: DateTime<Utc>,
        /// Why.
        why: String,
    },
    /// Given up; the lane goes on.
    Dead {
        /// Why.
        why: String,
    },
    /// Given up with all others of the lane, now and later.
    Closed {
        /// Why.
        why: String,
    },
}

#[derive(FromRow)]
struct LaneRow {
    lane: String,
    closed: Option<String>,
}

#[derive(FromRow)]
struct HeldLane {
    lane: String,
    attempt: i64,
}

#[derive(FromRow)]
struct Told {
    id: Uuid,
    target: String,
    failures: i32,
    created_at: DateTime<Utc>,
    announcement_id: Uuid,
    stream: Uuid,
    sequence: i64,
    at: DateTime<Utc>,
    actor: String,
    organization_id: Option<OrganizationId>,
    #[sqlx(json)]
    news: Value,
    #[sqlx(json(nullable))]
    renewal: Option<Value>,
}

impl Told {
    fn announcement(self) -> Result<Announcement> {
        Ok(Announcement {
            id: self.announcement_id,
            stream: self.stream,
            sequence: self.sequence,
            at: self.at,
            actor: self.actor,
            organization_id: self.organization_id,
            news: serde_json::from_value(self.news)?,
            renewal: self.renewal.map(serde_json::from_value).transpose()?,
        })
    }
}

impl Db {
    /// Makes messages of what was announced: one for each target that `targets` names of an announcement. Each announcement is looked at once, in order,
    /// whoever looks. Returns whether there was anything.
    pub async fn expand_announcements(
        &self,
        targets: impl Fn(&Unexpanded) -> Vec<String>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        // Looking takes no lock.
        if !self.read(async |tx| tx.has_announcements().await).await? {
            return Ok(false);
        }
        self.write_silently(async |tx| tx.expand(&targets, now).await).await
    }

    /// Takes lanes of a target that are due, at most so many, each with its first message. Until `lease_ends` they are the caller's.
    pub async fn claim_messages(
        &self,
        target: &str,
        most: i64,
        lease_ends: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Vec<ClaimedMessage>> {
        self.write_silently(async |tx| tx.take_lanes(target, most, lease_ends, now).await).await
    }
}

impl Tx {
    /// Adds what is announced, in the transaction that writes the entries that it tells of.
    pub(crate) async fn insert_announcements(&mut self, new: &[Announcement]) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        on!(self, |db| {
            let mut insert = QueryBuilder::new(
                "INSERT INTO announcement (id, stream, sequence, renewal_id, organization_id, ticket_system, subject, event, actor, at, news, renewal, expanded) ",
            );
            insert.push_values(new, |mut row, new| {
                let ticket = new.renewal.as_ref().and_then(|renewal| renewal.request.ticket.as_ref());
                row.push_bind(new.id).push_bind(new.stream).push_bind(new.sequence);
                row.push_bind(new.renewal.as_ref().map(|renewal| renewal.id)).push_bind(&new.organization_id);
                row.push_bind(ticket.map(|ticket| &ticket.system)).push_bind(new.subject());
                row.push_bind(new.news.word()).push_bind(&new.actor).push_bind(new.at);
                row.push_bind(Json(&new.news)).push_bind(new.renewal.as_ref().map(Json)).push_bind(false);
            });
            insert.build().persistent(is_usual(new.len())).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    async fn has_announcements(&mut self) -> Result<bool> {
        let first: Option<Uuid> =
            on!(self, |db| sqlx::query_scalar("SELECT id FROM announcement WHERE NOT expanded LIMIT 1")
                .fetch_optional(db)
                .await)?;
        Ok(first.is_some())
    }

    async fn expand(&mut self, targets: &impl Fn(&Unexpanded) -> Vec<String>, now: DateTime<Utc>) -> Result<bool> {
        let new = self.lock_announcements().await?;
        let mut messages: Vec<(&Unexpanded, String)> = Vec::new();
        let mut unheard = Vec::new();
        for announcement in &new {
            // A target that is named twice is told once.
            let targets: BTreeSet<String> = targets(announcement).into_iter().collect();
            if targets.is_empty() {
                unheard.push(announcement.id);
            }
            messages.extend(targets.into_iter().map(|target| (announcement, target)));
        }
        self.insert_messages(&messages, now).await?;
        self.forget_announcements(&unheard).await?;
        let told: BTreeSet<Uuid> = messages.iter().map(|(announcement, _)| announcement.id).collect();
        self.mark_expanded(&told).await?;
        Ok(!new.is_empty())
    }

    /// What is to be expanded, in order. Who comes second waits, and finds it done: lanes would else be filled out of order.
    async fn lock_announcements(&mut self) -> Result<Vec<Unexpanded>> {
        let lock = match self.on {
            On::Postgres(_) => " FOR UPDATE",
            On::Sqlite(..) => "",
        };
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT id, stream, sequence, renewal_id, organization_id, ticket_system, subject, event FROM announcement
             WHERE NOT expanded ORDER BY stream, sequence LIMIT $1{lock}"
        ));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(EXPANDED_AT_ONCE).fetch_all(db).await)?)
    }

    async fn insert_messages(&mut self, messages: &[(&Unexpanded, String)], now: DateTime<Utc>) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let lanes = messages.iter().map(|(announcement, target)| (announcement.lane(target), target.as_str()));
        let closed = self.open_lanes(&lanes.collect(), now).await?;
        on!(self, |db| {
            let mut insert = QueryBuilder::new(
                "INSERT INTO outbox (id, announcement_id, target, lane, stream, sequence, renewal_id, organization_id, event, status, failures, last_error, created_at, finished_at) ",
            );
            insert.push_values(messages, |mut row, (announcement, target)| {
                let lane = announcement.lane(target);
                let closed = closed.get(&lane);
                let status = if closed.is_some() { OutboxStatus::Dead } else { OutboxStatus::Pending };
                row.push_bind(Uuid::now_v7()).push_bind(announcement.id).push_bind(target);
                row.push_bind(lane).push_bind(announcement.stream).push_bind(announcement.sequence);
                row.push_bind(announcement.renewal_id).push_bind(&announcement.organization_id);
                row.push_bind(&announcement.event)
                    .push_bind(status.as_str())
                    .push_bind(0_i32)
                    .push_bind(closed.cloned());
                row.push_bind(now).push_bind(closed.map(|_| now));
            });
            insert.build().persistent(is_usual(messages.len())).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    /// Sees to it that lanes are there and due, and locks them. Returns those that are closed, and why.
    async fn open_lanes(
        &mut self,
        lanes: &BTreeMap<String, &str>,
        now: DateTime<Utc>,
    ) -> Result<HashMap<String, String>> {
        let rows: Vec<LaneRow> = on!(self, |db| {
            let mut open = QueryBuilder::new("INSERT INTO outbox_lane (lane, target, attempt, held, due_at) ");
            open.push_values(lanes, |mut row, (lane, target)| {
                row.push_bind(lane).push_bind(*target).push_bind(0_i64).push_bind(false).push_bind(now);
            });
            open.push(
                " ON CONFLICT (lane) DO UPDATE SET due_at =
                    CASE WHEN outbox_lane.closed IS NULL THEN COALESCE(outbox_lane.due_at, excluded.due_at) END
                 RETURNING lane, closed",
            );
            open.build_query_as().persistent(is_usual(lanes.len())).fetch_all(db).await
        })?;
        Ok(rows.into_iter().filter_map(|row| Some((row.lane, row.closed?))).collect())
    }

    async fn forget_announcements(&mut self, ids: &[Uuid]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        on!(self, |db| {
            let mut delete = QueryBuilder::new("DELETE FROM announcement WHERE id IN (");
            let listed = list(&mut delete, ids);
            delete.push(")").build().persistent(is_usual(listed)).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    async fn mark_expanded(&mut self, ids: &BTreeSet<Uuid>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        on!(self, |db| {
            let mut update = QueryBuilder::new("UPDATE announcement SET expanded = TRUE WHERE id IN (");
            let listed = list(&mut update, ids);
            update.push(")").build().persistent(is_usual(listed)).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    /// The targets of which a lane is due.
    pub async fn due_targets(&mut self, now: DateTime<Utc>) -> Result<BTreeSet<String>> {
        let due: Vec<String> =
            on!(self, |db| sqlx::query_scalar("SELECT DISTINCT target FROM outbox_lane WHERE due_at <= $1")
                .bind(now)
                .fetch_all(db)
                .await)?;
        Ok(due.into_iter().collect())
    }

    /// When the next lane is due after `now`, if nothing else happens.
    pub async fn next_message_due(&mut self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        Ok(on!(self, |db| sqlx::query_scalar("SELECT MIN(due_at) FROM outbox_lane WHERE due_at > $1")
            .bind(now)
            .fetch_one(db)
            .await)?)
    }

    async fn take_lanes(
        &mut self,
        target: &str,
        most: i64,
        lease_ends: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Vec<ClaimedMessage>> {
        let lock = match self.on {
            On::Postgres(_) => " FOR UPDATE SKIP LOCKED",
            On::Sqlite(..) => "",
        };
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE outbox_lane SET attempt = attempt + 1, held = TRUE, due_at = $1 WHERE lane IN (
                SELECT lane FROM outbox_lane WHERE target = $2 AND due_at <= $3 ORDER BY due_at LIMIT $4{lock}
             ) RETURNING lane, attempt"
        ));
        let lanes: Vec<HeldLane> =
            on!(self, |db| sqlx::query_as(sql).bind(lease_ends).bind(target).bind(now).bind(most).fetch_all(db).await)?;
        let mut claimed = Vec::with_capacity(lanes.len());
        for HeldLane { lane, attempt } in lanes {
            match self.first_message(&lane).await? {
                Some(told) => {
                    let (id, target) = (told.id, told.target.clone());
                    let (failures, created_at) = (told.failures, told.created_at);
                    let announcement = told.announcement();
                    claimed.push(ClaimedMessage { id, target, lane, attempt, failures, created_at, announcement });
                }
                // Its messages were dropped.
                None => self.leave_lane(&lane, None).await?,
            }
        }
        Ok(claimed)
    }

    async fn first_message(&mut self, lane: &str) -> Result<Option<Told>> {
        Ok(on!(self, |db| {
            sqlx::query_as(
            "SELECT o.id, o.target, o.failures, o.created_at, a.id AS announcement_id, a.stream, a.sequence, a.at, a.actor,
                a.organization_id, a.news, a.renewal
             FROM outbox AS o JOIN announcement AS a ON a.id = o.announcement_id
             WHERE o.lane = $1 AND o.status = 'pending' ORDER BY o.stream, o.sequence LIMIT 1"
        )
        .bind(lane)
        .fetch_optional(db)
        .await
        })?)
    }

    /// Says that a lane is still being worked on.
    pub async fn extend_lane(&mut self, claimed: &ClaimedMessage, until: DateTime<Utc>) -> Result<()> {
        let sql = "UPDATE outbox_lane SET due_at = $1 WHERE lane = $2 AND attempt = $3 AND held";
        self.of_held_lane(sql, claimed, Some(until)).await
    }

    async fn of_held_lane(
        &mut self,
        sql: &'static str,
        claimed: &ClaimedMessage,
        at: Option<DateTime<Utc>>,
    ) -> Result<()> {
        let changed = on!(self, |db| sqlx::query(sql)
            .bind(at)
            .bind(&claimed.lane)
            .bind(claimed.attempt)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))?;
        if changed == 0 { Err(Error::LeaseLost) } else { Ok(()) }
    }

    /// Stores how a try ended, and lets the lane go on.
    pub async fn finish_message(
        &mut self,
        claimed: &ClaimedMessage,
        end: &MessageEnd,
        now: DateTime<Utc>,
    ) -> Result<()> {
        // Locks the lane: what is added to it from now on comes after, and what was added before is seen.
        let sql = "UPDATE outbox_lane SET held = FALSE, due_at = $1 WHERE lane = $2 AND attempt = $3 AND held";
        self.of_held_lane(sql, claimed, None).await?;
        let (status, failed, why) = match end {
            MessageEnd::Delivered => (OutboxStatus::Delivered, 0, None),
            MessageEnd::Retry { why, .. } => (OutboxStatus::Pending, 1, Some(why)),
            MessageEnd::Dead { why } | MessageEnd::Closed { why } => (OutboxStatus::Dead, 1, Some(why)),
        };
        let finished = (status != OutboxStatus::Pending).then_some(now);
        on!(self, |db| {
            sqlx::query(
            "UPDATE outbox SET status = $1, failures = failures + $2, last_error = COALESCE($3, last_error), finished_at = $4
             WHERE id = $5 AND status = 'pending'"
        )
        .bind(status.as_str())
        .bind(failed)
        .bind(why)
        .bind(finished)
        .bind(claimed.id)
        .execute(db)
        .await
        .map(drop)
        })?;
        match end {
            MessageEnd::Retry { at, .. } => self.leave_lane(&claimed.lane, Some(*at)).await,
            MessageEnd::Closed { why } => self.close_lane(&claimed.lane, why, now).await,
            _ => self.leave_lane(&claimed.lane, Some(now)).await,
        }
    }

    /// The next time of a lane that is locked, if there is anything in it.
    async fn leave_lane(&mut self, lane: &str, at: Option<DateTime<Utc>>) -> Result<()> {
        let at = if self.has_messages(lane).await? { at } else { None };
        on!(self, |db| sqlx::query("UPDATE outbox_lane SET held = FALSE, due_at = $1 WHERE lane = $2")
            .bind(at)
            .bind(lane)
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    async fn has_messages(&mut self, lane: &str) -> Result<bool> {
        let first: Option<Uuid> =
            on!(self, |db| sqlx::query_scalar("SELECT id FROM outbox WHERE lane = $1 AND status = 'pending' LIMIT 1")
                .bind(lane)
                .fetch_optional(db)
                .await)?;
        Ok(first.is_some())
    }

    /// Gives up all of a lane that is locked, and what comes into it.
    async fn close_lane(&mut self, lane: &str, why: &str, now: DateTime<Utc>) -> Result<()> {
        on!(self, |db| sqlx::query("UPDATE outbox_lane SET closed = $1, due_at = NULL WHERE lane = $2")
            .bind(why)
            .bind(lane)
            .execute(db)
            .await
            .map(drop))?;
        on!(self, |db| {
            sqlx::query(
            "UPDATE outbox SET status = 'dead', last_error = $1, finished_at = $2 WHERE lane = $3 AND status = 'pending'"
        )
        .bind(why)
        .bind(now)
        .bind(lane)
        .execute(db)
        .await
        .map(drop)
        })?;
        Ok(())
    }

    /// Makes lanes due that are in the hands of somebody. For a database of one process, when that process begins.
    pub(crate) async fn let_lanes_go(&mut self, now: DateTime<Utc>) -> Result<()> {
        on!(self, |db| sqlx::query("UPDATE outbox_lane SET held = FALSE, due_at = $1 WHERE due_at > $1 AND held")
            .bind(now)
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// A page of messages, newest first, in one status or in any, for one target or for all.
    pub async fn outbox(
        &mut self,
        status: Option<OutboxStatus>,
        target: Option<&str>,
        page: Page,
    ) -> Result<Vec<OutboxMessage>> {
        Ok(on!(self, |db| {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM outbox WHERE id < "));
            query.push_bind(page.end());
            if let Some(target) = target {
                query.push(" AND target = ").push_bind(target);
            }
            if let Some(status) = status {
                query.push(format_args!(" AND status = '{}'", status.as_str()));
            }
            query.push(" ORDER BY id DESC LIMIT ").push_bind(page.limit);
            query.build_query_as().fetch_all(db).await
        })?)
    }

    /// One message.
    pub async fn outbox_message(&mut self, id: Uuid) -> Result<OutboxMessage> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM outbox WHERE id = $1"));
        let row = on!(self, |db| sqlx::query_as(sql).bind(id).fetch_optional(db).await)?;
        row.ok_or(Error::NotFound("message"))
    }

    /// What a message tells.
    pub async fn outbox_news(&mut self, id: Uuid) -> Result<News> {
        let row: Option<(Json<News>,)> = on!(self, |db| sqlx::query_as(
            "SELECT a.news FROM outbox AS o JOIN announcement AS a ON a.id = o.announcement_id WHERE o.id = $1"
        )
        .bind(id)
        .fetch_optional(db)
        .await)?;
        row.map(|(Json(news),)| news).ok_or(Error::NotFound("message"))
    }

    /// When a lane is tried next, and why nothing leaves on it if it is closed.
    pub async fn outbox_lane(&mut self, lane: &str) -> Result<(Option<DateTime<Utc>>, Option<String>)> {
        let row = on!(self, |db| sqlx::query_as("SELECT due_at, closed FROM outbox_lane WHERE lane = $1")
            .bind(lane)
            .fetch_optional(db)
            .await)?;
        row.ok_or(Error::NotFound("lane"))
    }

    /// Sends a message again from the beginning of its schedule, whatever became of it; one that is still to be tried, now. In its lane it keeps its place.
    pub async fn replay_message(
        &mut self,
        id: Uuid,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<OutboxMessage> {
        let message = self.lock_message(id).await?;
        on!(self, |db| sqlx::query(
            "UPDATE outbox SET status = 'pending', failures = 0, finished_at = NULL, created_at = $1 WHERE id = $2"
        )
        .bind(now)
        .bind(id)
        .execute(db)
        .await
        .map(drop))?;
        // A try that is under way goes on: it has this message, or one before it.
        on!(self, |db| sqlx::query(
            "UPDATE outbox_lane SET closed = NULL, due_at = CASE WHEN held THEN due_at ELSE $1 END WHERE lane = $2"
        )
        .bind(now)
        .bind(&message.lane)
        .execute(db)
        .await
        .map(drop))?;
        self.audit_of_message("outbox.replayed", &message, by, reason, now).await?;
        self.outbox_message(id).await
    }

    /// Gives a message up. One that is being delivered may arrive all the same.
    pub async fn drop_message(
        &mut self,
        id: Uuid,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<OutboxMessage> {
        let message = self.lock_message(id).await?;
        if !matches!(message.status, OutboxStatus::Pending | OutboxStatus::Dead) {
            return Err(Error::Refused(domain::Trouble::new(
                "message_is_over",
                format!("The message is {} already", message.status.as_str()),
                "Nothing to do",
            )));
        }
        on!(self, |db| sqlx::query("UPDATE outbox SET status = 'dropped', finished_at = $1 WHERE id = $2")
            .bind(now)
            .bind(id)
            .execute(db)
            .await
            .map(drop))?;
        // What waited behind it has not to wait for its next try.
        on!(self, |db| sqlx::query(
            "UPDATE outbox_lane SET due_at = CASE WHEN held THEN due_at ELSE $1 END WHERE lane = $2 AND closed IS NULL"
        )
        .bind(now)
        .bind(&message.lane)
        .execute(db)
        .await
        .map(drop))?;
        self.audit_of_message("outbox.dropped", &message, by, reason, now).await?;
        self.outbox_message(id).await
    }

    /// A message whose lane is locked until the transaction ends: as it is then.
    async fn lock_message(&mut self, id: Uuid) -> Result<OutboxMessage> {
        let message = self.outbox_message(id).await?;
        on!(self, |db| sqlx::query("UPDATE outbox_lane SET held = held WHERE lane = $1")
            .bind(&message.lane)
            .execute(db)
            .await
            .map(drop))?;
        self.outbox_message(id).await
    }

    async fn audit_of_message(
        &mut self,
        action: &'static str,
        message: &OutboxMessage,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let detail = json!({
            "message": message.id, "target": message.target, "event": message.event,
            "was": message.status, "last_error": message.last_error, "reason": reason,
        });
        let new = NewAudit::new(by, action, detail);
        match message.renewal_id {
            Some(renewal) => {
                let renewal = self.renewal(renewal).await?;
                self.audit(&renewal, new, now).await
            }
            None => self.audit_outside(message.organization_id.as_ref(), new, now).await,
        }
    }
}
