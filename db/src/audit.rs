//! Table `audit`: the one function that writes it, and its readers. Nothing updates or deletes here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use chrono::{DateTime, Utc};
use domain::{
    OrganizationId, Renewal, RenewalId,
    announcing::{Announcement, announced},
    audit::{AuditEntry, NewAudit},
};
use sqlx::{AssertSqlSafe, QueryBuilder, types::Json};
use uuid::Uuid;

use crate::{
    Db, Page, Result, Tx,
    connection::{On, ROWS_AT_ONCE, is_usual, on},
};

const COLUMNS: &str = "id, renewal_id, organization_id, sequence, at, actor, action, detail";

/// Adds the rows of `entry`, each with the next number of its stream, in the order of their places; `numbered` has the last numbers. PostgreSQL only.
pub(crate) const APPENDING: &str = "
    numbered AS (
        INSERT INTO audit_stream (stream, last_sequence) SELECT stream, COUNT(*) FROM entry GROUP BY stream ORDER BY stream
        ON CONFLICT (stream) DO UPDATE SET last_sequence = audit_stream.last_sequence + excluded.last_sequence
        RETURNING stream, last_sequence
    ), appended AS (
        INSERT INTO audit (id, stream, sequence, renewal_id, organization_id, at, actor, action, detail)
        SELECT id, stream, last_sequence + 1 - ROW_NUMBER() OVER (PARTITION BY stream ORDER BY place DESC), renewal_id, organization_id, at,
            actor, action, detail
        FROM entry JOIN numbered USING (stream)
    )";

/// Adds entries. One text however many they are.
static APPEND: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH entry AS (
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::jsonb[])
                WITH ORDINALITY AS entry (id, stream, renewal_id, organization_id, at, actor, action, detail, place)
        ), {APPENDING}
        SELECT stream, last_sequence FROM numbered"
    )
});

/// An entry that has no number yet.
struct Unnumbered<'a> {
    stream: Uuid,
    renewal: Option<&'a Renewal>,
    organization: Option<&'a OrganizationId>,
    new: NewAudit,
    at: DateTime<Utc>,
}

impl<'a> Unnumbered<'a> {
    fn of(renewal: &'a Renewal, new: NewAudit, at: DateTime<Utc>) -> Self {
        let organization = Some(&renewal.organization_id);
        Self { stream: renewal.id.0, renewal: Some(renewal), organization, new, at }
    }
}

/// Gives entries their numbers, in order: the last of each stream has the `last` one of it.
fn numbered<'a, 'b>(entries: &'b [Unnumbered<'a>], mut last: HashMap<Uuid, i64>) -> Vec<(&'b Unnumbered<'a>, i64)> {
    let mut numbered = Vec::with_capacity(entries.len());
    for entry in entries.iter().rev() {
        let left = last.entry(entry.stream).or_default();
        numbered.push((entry, *left));
        *left -= 1;
    }
    numbered.reverse();
    numbered
}

/// What of these entries is announced: with the renewal as it is at that entry, which others of them may have changed further.
fn announcements(entries: &[(&Unnumbered<'_>, i64)]) -> Vec<Announcement> {
    let told = announced(entries.iter().map(|(entry, _)| (entry.renewal, &entry.new)));
    let of = |told: domain::announcing::Announced| {
        let (entry, sequence) = entries.get(told.entry)?;
        let renewal = entry.renewal.map(|renewal| match told.state {
            Some(state) => Renewal { state, ..renewal.clone() },
            None => renewal.clone(),
        });
        Some(Announcement {
            id: Uuid::now_v7(),
            stream: entry.stream,
            sequence: *sequence,
            at: entry.at,
            actor: entry.new.actor.clone(),
            organization_id: entry.organization.cloned(),
            news: told.news,
            renewal,
        })
    };
    told.into_iter().filter_map(of).collect()
}

/// How often a record is tried again when the database asks for it.
const RETRIES: u32 = 5;

impl Db {
    /// Records things that belong to no renewal, in this order, in a transaction of their own. A task of its own may do it: it borrows nothing that its
    /// future could not carry to another thread.
    pub async fn record_outside(&self, new: &[NewAudit], now: DateTime<Utc>) -> Result<()> {
        for _ in 0..RETRIES {
            match self.try_to_record(new, now).await {
                Err(error) if error.is_retryable() => {}
                result => return result,
            }
        }
        self.try_to_record(new, now).await
    }

    async fn try_to_record(&self, new: &[NewAudit], now: DateTime<Utc>) -> Result<()> {
        let mut tx = self.begin_writing().await?;
        for new in new {
            tx.audit_outside(None, new.clone(), now).await?;
        }
        self.commit(tx).await
    }
}

impl Tx {
    /// Records something that belongs to a renewal, in the transaction of the change that it tells of.
    pub async fn audit(&mut self, renewal: &Renewal, new: NewAudit, now: DateTime<Utc>) -> Result<()> {
        self.append(&[Unnumbered::of(renewal, new, now)]).await
    }

    /// As [`Tx::audit`], for several things of several renewals, in this order.
    pub(crate) async fn audit_all<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a Renewal, NewAudit, DateTime<Utc>)>,
    ) -> Result<()> {
        let entries: Vec<_> = entries.into_iter().map(|(renewal, new, at)| Unnumbered::of(renewal, new, at)).collect();
        self.append(&entries).await
    }

    /// Records something that belongs to no renewal.
    pub async fn audit_outside(
        &mut self,
        organization: Option<&OrganizationId>,
        new: NewAudit,
        now: DateTime<Utc>,
    ) -> Result<()> {
        self.append(&[Unnumbered { stream: Uuid::nil(), renewal: None, organization, new, at: now }]).await
    }

    async fn append(&mut self, entries: &[Unnumbered<'_>]) -> Result<()> {
        for entries in entries.chunks(ROWS_AT_ONCE) {
            self.append_some(entries).await?;
        }
        Ok(())
    }

    async fn append_some(&mut self, entries: &[Unnumbered<'_>]) -> Result<()> {
        let last = match self.on {
            On::Postgres(_) => self.append_at_once(entries).await?,
            On::Sqlite(..) => self.number_and_append(entries).await?,
        };
        self.insert_announcements(&announcements(&numbered(entries, last))).await
    }

    /// Takes numbers for these entries and adds them, in one statement: [`APPEND`]. Returns the last number of each stream.
    async fn append_at_once(&mut self, entries: &[Unnumbered<'_>]) -> Result<HashMap<Uuid, i64>> {
        let On::Postgres(db) = &mut self.on else { return Ok(HashMap::new()) };
        let last: Vec<(Uuid, i64)> = sqlx::query_as(AssertSqlSafe(APPEND.as_str()))
            .bind(entries.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.stream).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.renewal.map(|renewal| renewal.id.0)).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.organization.map(OrganizationId::as_str)).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.at).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.new.actor.as_str()).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.new.action).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| Json(&entry.new.detail)).collect::<Vec<_>>())
            .fetch_all(&mut **db)
            .await?;
        Ok(last.into_iter().collect())
    }

    /// As [`Tx::append_at_once`], where a statement writes to one table only.
    async fn number_and_append(&mut self, entries: &[Unnumbered<'_>]) -> Result<HashMap<Uuid, i64>> {
        let last = self.number(entries).await?;
        let numbered = numbered(entries, last.clone());
        on!(self, |db| {
            let mut insert = QueryBuilder::new(
                "INSERT INTO audit (id, stream, sequence, renewal_id, organization_id, at, actor, action, detail) ",
            );
            insert.push_values(&numbered, |mut row, (entry, sequence)| {
                row.push_bind(Uuid::now_v7()).push_bind(entry.stream).push_bind(*sequence);
                row.push_bind(entry.renewal.map(|renewal| renewal.id))
                    .push_bind(entry.organization)
                    .push_bind(entry.at);
                row.push_bind(&entry.new.actor).push_bind(entry.new.action).push_bind(Json(&entry.new.detail));
            });
            insert.build().persistent(is_usual(numbered.len())).execute(db).await.map(drop)
        })?;
        Ok(last)
    }

    /// Takes numbers for these entries. Returns the last one of each stream.
    async fn number(&mut self, entries: &[Unnumbered<'_>]) -> Result<HashMap<Uuid, i64>> {
        let mut wanted = BTreeMap::<Uuid, i64>::new();
        for entry in entries {
            *wanted.entry(entry.stream).or_default() += 1;
        }
        let last: Vec<(Uuid, i64)> = on!(self, |db| {
            let mut take = QueryBuilder::new("INSERT INTO audit_stream (stream, last_sequence) ");
            take.push_values(&wanted, |mut row, (stream, count)| {
                row.push_bind(*stream).push_bind(*count);
            });
            take.push(
                " ON CONFLICT (stream) DO UPDATE SET last_sequence = audit_stream.last_sequence + excluded.last_sequence
                 RETURNING stream, last_sequence",
            );
            take.build_query_as().persistent(is_usual(wanted.len())).fetch_all(db).await
        })?;
        Ok(last.into_iter().collect())
    }

    /// The entries of a renewal after a sequence number, oldest first.
    pub async fn audit_of(&mut self, renewal: RenewalId, after: i64, limit: i64) -> Result<Vec<AuditEntry>> {
        let sql = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE stream = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"
        ));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(renewal.0).bind(after).bind(limit).fetch_all(db).await)?)
    }

    /// A page of all entries, newest first.
    pub async fn audit_page(&mut self, page: Page) -> Result<Vec<AuditEntry>> {
        let sql = AssertSqlSafe(format!("SELECT {COLUMNS} FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2"));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(page.end()).bind(page.limit).fetch_all(db).await)?)
    }
}
