//! Table `audit`: the one function that writes it, and its readers. Nothing updates or deletes here.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use domain::{
    OrganizationId, Renewal, RenewalId,
    announcing::{Announcement, announced},
    audit::{AuditEntry, NewAudit},
};
use sqlx::{QueryBuilder, types::Json};
use uuid::Uuid;

use crate::{
    Page, Result, Tx,
    connection::{ROWS_AT_ONCE, is_usual, on},
};

const COLUMNS: &str = "id, renewal_id, organization_id, sequence, at, actor, action, detail";

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
        let mut next = self.number(entries).await?;
        let mut sequence = |entry: &Unnumbered<'_>| {
            let next = next.entry(entry.stream).or_default();
            *next += 1;
            *next
        };
        let entries: Vec<(&Unnumbered<'_>, i64)> = entries.iter().map(|entry| (entry, sequence(entry))).collect();
        on!(self, |db| {
            let mut insert = QueryBuilder::new(
                "INSERT INTO audit (id, stream, sequence, renewal_id, organization_id, at, actor, action, detail) ",
            );
            insert.push_values(&entries, |mut row, (entry, sequence)| {
                row.push_bind(Uuid::now_v7()).push_bind(entry.stream).push_bind(*sequence);
                row.push_bind(entry.renewal.map(|renewal| renewal.id))
                    .push_bind(entry.organization)
                    .push_bind(entry.at);
                row.push_bind(&entry.new.actor).push_bind(entry.new.action).push_bind(Json(&entry.new.detail));
            });
            insert.build().persistent(is_usual(entries.len())).execute(db).await.map(drop)
        })?;
        self.insert_announcements(&announcements(&entries)).await
    }

    /// Takes numbers for these entries. Returns the last one that was taken before, for each stream.
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
        Ok(last.into_iter().map(|(stream, last)| (stream, last - wanted[&stream])).collect())
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
