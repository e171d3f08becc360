//! Table `delivery`: what sources have sent, and what became of it.

use chrono::{DateTime, Utc};
use domain::{Delivery, DeliveryId, DeliveryVerdict, RenewalId, audit::NewAudit, intake::Intake};
use serde_json::json;
use sqlx::QueryBuilder;

use crate::{Db, Error, Page, Result, Taken, Taker, Tx, connection::on};

const COLUMNS: &str = "id, source, delivery_id, received_at, sender, retry, verdict, status, problem, detail, size, ticket_number, ticket_key, mod_count,
    renewal_id, repeats";

/// Of those whose senders nobody knows, so many are kept for each source.
pub const STRANGERS_KEPT: i64 = 100;

/// Something that came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// A new id.
    pub id: DeliveryId,
    /// The source in whose name it came.
    pub source: String,
    /// What its sender calls it.
    pub delivery_id: Option<String>,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// How its sender has shown who they are.
    pub sender: Option<String>,
    /// How often its sender says that they had sent it before.
    pub retry: Option<i32>,
    /// How many bytes came.
    pub size: i64,
    /// What came, as far as it is kept.
    pub body: Vec<u8>,
    /// What it is by itself, whoever sends it how often. None for what is taken whether or not it came before.
    pub natural_key: Option<String>,
    /// The delivery that an operator replays with it.
    pub replays: Option<DeliveryId>,
}

/// What is answered to a delivery, and kept with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeliveryAnswer {
    /// What became of it.
    pub verdict: DeliveryVerdict,
    /// HTTP status.
    pub status: i32,
    /// Why it was refused or ignored, a word for programs.
    pub problem: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
    /// Response body, JSON.
    pub body: String,
}

/// What a delivery came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivered {
    /// It had come before, and gets the answer of then.
    Before {
        /// HTTP status.
        status: i32,
        /// Response body, JSON.
        body: String,
        /// The renewal that it was about.
        renewal: Option<RenewalId>,
    },
    /// It was taken in, and this followed.
    Now(Box<Taken>),
}

/// A delivery that came before.
#[derive(Debug, sqlx::FromRow)]
struct First {
    id: DeliveryId,
    status: i32,
    answer: String,
    renewal_id: Option<RenewalId>,
}

/// Which deliveries to list.
#[derive(Clone, Copy, Debug)]
pub enum DeliveryFilter<'a> {
    /// Those about a ticket, by its number.
    Ticket(&'a str),
    /// Those of a source, with a verdict, or both.
    Of {
        /// The source.
        source: Option<&'a str>,
        /// The verdict.
        verdict: Option<DeliveryVerdict>,
    },
}

impl Db {
    /// Takes a delivery in, with all that follows from it, or finds what it was answered before. `answer` says what is answered, and kept.
    pub async fn deliver(
        &self,
        arrival: &Arrival,
        intake: &Intake,
        taker: Taker<'_>,
        answer: impl Fn(&Taken) -> DeliveryAnswer,
    ) -> Result<Delivered> {
        let delivering = async |tx: &mut Tx| tx.deliver(arrival, intake, taker, &answer).await;
        match Box::pin(self.write(delivering)).await {
            // Race: on PostgreSQL somebody else has raised a renewal of the organization. A second look finds it.
            Err(error) if error.is_unique_violation() => Box::pin(self.write(delivering)).await,
            result => result,
        }
    }
}

impl Tx {
    async fn deliver(
        &mut self,
        arrival: &Arrival,
        intake: &Intake,
        taker: Taker<'_>,
        answer: &impl Fn(&Taken) -> DeliveryAnswer,
    ) -> Result<Delivered> {
        // Order: copies of a delivery are about the same record, so they come here one after the other.
        self.lock_record_of(intake).await?;
        if let Some(first) = self.first_of(arrival).await? {
            let told = DeliveryAnswer {
                verdict: DeliveryVerdict::Duplicate,
                status: first.status,
                problem: None,
                detail: None,
                body: first.answer,
            };
            let copy = Arrival { natural_key: None, body: Vec::new(), ..arrival.clone() };
            self.insert_delivery(&copy, Some(intake), &told, first.renewal_id, Some(first.id)).await?;
            return Ok(Delivered::Before { status: told.status, body: told.body, renewal: first.renewal_id });
        }
        let taken = self.take_in(intake, taker, arrival.received_at).await?;
        let told = answer(&taken);
        let taken_in = matches!(told.verdict, DeliveryVerdict::Accepted | DeliveryVerdict::Ignored);
        // What was refused may be sent again when it can be taken.
        let kept = Arrival { natural_key: arrival.natural_key.clone().filter(|_| taken_in), ..arrival.clone() };
        self.insert_delivery(&kept, Some(intake), &told, taken.renewal(), arrival.replays).await?;
        self.audit_replay(arrival, &told).await?;
        if let Taken::Raised(renewal) | Taken::Said(renewal) = &taken {
            let detail = json!({
                "source": arrival.source, "delivery": arrival.id, "sender": arrival.sender, "event": intake.event,
                "ticket": intake.ticket.number, "mod_count": intake.revision.mod_count
            });
            self.audit(renewal, NewAudit::new(taker.by, "delivery.accepted", detail), arrival.received_at).await?;
        }
        Ok(Delivered::Now(Box::new(taken)))
    }

    /// The delivery that this one is a copy of.
    async fn first_of(&mut self, arrival: &Arrival) -> Result<Option<First>> {
        let Some(key) = &arrival.natural_key else { return Ok(None) };
        let by_key = "SELECT id, status, answer, renewal_id FROM delivery WHERE source = $1 AND natural_key = $2";
        let found: Option<First> =
            on!(self, |db| sqlx::query_as(by_key).bind(&arrival.source).bind(key).fetch_optional(db).await)?;
        let (None, Some(id)) = (&found, &arrival.delivery_id) else { return Ok(found) };
        let by_id = "SELECT id, status, answer, renewal_id FROM delivery
             WHERE source = $1 AND delivery_id = $2 AND natural_key IS NOT NULL ORDER BY id LIMIT 1";
        Ok(on!(self, |db| sqlx::query_as(by_id).bind(&arrival.source).bind(id).fetch_optional(db).await)?)
    }

    /// Keeps a delivery that could not be read, or whose sender is not known. Of those of strangers only the newest are kept.
    pub async fn keep_refused(&mut self, arrival: &Arrival, told: &DeliveryAnswer) -> Result<()> {
        let kept = Arrival { natural_key: None, ..arrival.clone() };
        self.insert_delivery(&kept, None, told, None, arrival.replays).await?;
        self.audit_replay(arrival, told).await?;
        if arrival.sender.is_some() {
            return Ok(());
        }
        let forget = "DELETE FROM delivery WHERE source = $1 AND sender IS NULL AND id <= (
                SELECT id FROM delivery WHERE source = $1 AND sender IS NULL ORDER BY id DESC LIMIT 1 OFFSET $2)";
        on!(self, |db| sqlx::query(forget).bind(&arrival.source).bind(STRANGERS_KEPT).execute(db).await.map(drop))?;
        Ok(())
    }

    /// What an operator does in place of a sender is recorded, whatever comes of it.
    async fn audit_replay(&mut self, arrival: &Arrival, told: &DeliveryAnswer) -> Result<()> {
        let (Some(replayed), Some(operator)) = (arrival.replays, &arrival.sender) else { return Ok(()) };
        let detail = json!({
            "delivery": replayed, "as": arrival.id, "source": arrival.source, "verdict": told.verdict, "problem": told.problem
        });
        self.audit_outside(None, NewAudit::new(operator, "delivery.replayed", detail), arrival.received_at).await
    }

    async fn insert_delivery(
        &mut self,
        arrival: &Arrival,
        intake: Option<&Intake>,
        told: &DeliveryAnswer,
        renewal: Option<RenewalId>,
        repeats: Option<DeliveryId>,
    ) -> Result<()> {
        let body = Some(&arrival.body).filter(|body| !body.is_empty());
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO delivery ({COLUMNS}, natural_key, body, answer)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"
        ));
        on!(self, |db| sqlx::query(sql)
            .bind(arrival.id)
            .bind(&arrival.source)
            .bind(&arrival.delivery_id)
            .bind(arrival.received_at)
            .bind(&arrival.sender)
            .bind(arrival.retry)
            .bind(told.verdict)
            .bind(told.status)
            .bind(&told.problem)
            .bind(&told.detail)
            .bind(arrival.size)
            .bind(intake.map(|intake| &intake.ticket.number))
            .bind(intake.map(Intake::key))
            .bind(intake.and_then(|intake| intake.revision.mod_count))
            .bind(renewal)
            .bind(repeats)
            .bind(&arrival.natural_key)
            .bind(body)
            .bind(&told.body)
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// The delivery of that id.
    pub async fn delivery(&mut self, id: DeliveryId) -> Result<Delivery> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM delivery WHERE id = $1"));
        let row = on!(self, |db| sqlx::query_as(sql).bind(id).fetch_optional(db).await)?;
        row.ok_or(Error::NotFound("delivery"))
    }

    /// What came with a delivery, as far as it is kept, and what was answered.
    pub async fn delivery_content(&mut self, id: DeliveryId) -> Result<(Option<Vec<u8>>, String)> {
        let sql = "SELECT body, answer FROM delivery WHERE id = $1";
        let row = on!(self, |db| sqlx::query_as(sql).bind(id).fetch_optional(db).await)?;
        row.ok_or(Error::NotFound("delivery"))
    }

    /// A page of deliveries, newest first.
    pub async fn deliveries(&mut self, filter: DeliveryFilter<'_>, page: Page) -> Result<Vec<Delivery>> {
        // Only the filters that are there: one text for all would use no index, whatever is asked.
        Ok(on!(self, |db| {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM delivery WHERE id < "));
            query.push_bind(page.end());
            match filter {
                DeliveryFilter::Ticket(number) => drop(query.push(" AND ticket_number = ").push_bind(number)),
                DeliveryFilter::Of { source, verdict } => {
                    if let Some(source) = source {
                        query.push(" AND source = ").push_bind(source);
                    }
                    if let Some(verdict) = verdict {
                        query.push(format_args!(" AND verdict = '{}'", verdict.as_str()));
                    }
                }
            }
            query.push(" ORDER BY id DESC LIMIT ").push_bind(page.limit);
            query.build_query_as().fetch_all(db).await
        })?)
    }
}
