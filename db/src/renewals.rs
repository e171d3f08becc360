//! Table `renewal`.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use domain::{OrganizationId, Renewal, RenewalId};
use sqlx::{QueryBuilder, types::Json};

use crate::{
    Error, Page, Result, Tx,
    connection::{On, is_usual, list, on},
};

pub(crate) const COLUMNS: &str = "id, organization_id, requested_by, request, state, plan_digest, ticket_standing, involved, at_risk, open_reviews, version,
    created_at, updated_at";

impl Tx {
    /// Adds renewals; a unique violation says that another one of an organization is live.
    pub(crate) async fn insert_renewals(&mut self, new: &[&Renewal]) -> Result<()> {
        on!(self, |db| {
            let mut insert = QueryBuilder::new(
                "INSERT INTO renewal (id, organization_id, requested_by, request, state, plan_digest, version, created_at, updated_at) ",
            );
            insert.push_values(new, |mut row, renewal| {
                row.push_bind(renewal.id).push_bind(&renewal.organization_id).push_bind(&renewal.requested_by);
                row.push_bind(Json(&renewal.request)).push_bind(Json(&renewal.state)).push_bind(&renewal.plan_digest);
                row.push_bind(renewal.version).push_bind(renewal.created_at).push_bind(renewal.updated_at);
            });
            insert.build().persistent(is_usual(new.len())).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    /// Stores whether a renewal is at risk.
    pub(crate) async fn store_risk(&mut self, renewal: &Renewal) -> Result<()> {
        on!(self, |db| sqlx::query("UPDATE renewal SET at_risk = $2 WHERE id = $1")
            .bind(renewal.id)
            .bind(renewal.at_risk.as_ref().map(Json))
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Stores who had a hand in a renewal.
    pub(crate) async fn store_involved(&mut self, renewal: &Renewal) -> Result<()> {
        on!(self, |db| sqlx::query("UPDATE renewal SET involved = $2 WHERE id = $1")
            .bind(renewal.id)
            .bind(Json(&renewal.involved))
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Notes that somebody operates a renewal.
    pub(crate) async fn operated(&mut self, renewal: &mut Renewal, by: &str) -> Result<()> {
        if renewal.involved.operated_by.iter().any(|known| known == by) {
            return Ok(());
        }
        renewal.involved.operated_by.push(by.to_owned());
        self.store_involved(renewal).await
    }

    /// The renewals that hold organizations.
    pub(crate) async fn live_renewals(
        &mut self,
        organizations: &[&OrganizationId],
    ) -> Result<HashMap<OrganizationId, RenewalId>> {
        // One look into the index for each. In a list of organizations PostgreSQL would rather read all that is live, of which it believes there is little.
        let held: Vec<(OrganizationId, Option<RenewalId>)> = on!(self, |db| {
            let mut look = QueryBuilder::new(
                "SELECT wanted.column1, (
                    SELECT id FROM renewal WHERE organization_id = wanted.column1
                    AND status IN ('requested', 'planning', 'awaiting_approval', 'scheduled', 'running', 'waiting', 'soaking', 'paused')
                ) FROM (",
            );
            look.push_values(organizations, |mut row, organization| {
                row.push_bind(*organization);
            });
            look.push(") AS wanted");
            look.build_query_as().persistent(is_usual(organizations.len())).fetch_all(db).await
        })?;
        Ok(held.into_iter().filter_map(|(organization, holder)| Some((organization, holder?))).collect())
    }

    /// The renewal of that id.
    pub async fn renewal(&mut self, id: RenewalId) -> Result<Renewal> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM renewal WHERE id = $1"));
        let row = on!(self, |db| sqlx::query_as(sql).bind(id).fetch_optional(db).await)?;
        row.ok_or(Error::NotFound("renewal"))
    }

    /// The renewal of that id, locked until the transaction ends, with its version raised: every change of it begins here.
    pub async fn lock_renewal(&mut self, id: RenewalId) -> Result<Renewal> {
        let sql =
            sqlx::AssertSqlSafe(format!("UPDATE renewal SET version = version + 1 WHERE id = $1 RETURNING {COLUMNS}"));
        let row = on!(self, |db| sqlx::query_as(sql).bind(id).fetch_optional(db).await)?;
        row.ok_or(Error::NotFound("renewal"))
    }

    /// As [`Tx::lock_renewal`], for several; those that are not there are left out. The order of the locks is that of the ids, so that nobody waits for
    /// each other.
    pub(crate) async fn lock_renewals(&mut self, ids: &BTreeSet<RenewalId>) -> Result<Vec<Renewal>> {
        // SQLite has one writer at a time, and no locks of rows.
        let lock = match self.on {
            On::Postgres(_) => " ORDER BY id FOR UPDATE",
            On::Sqlite(..) => "",
        };
        Ok(on!(self, |db| {
            let mut update = QueryBuilder::new(
                "UPDATE renewal SET version = version + 1 WHERE id IN (SELECT id FROM renewal WHERE id IN (",
            );
            let listed = list(&mut update, ids);
            update.push(format_args!("){lock}) RETURNING {COLUMNS}"));
            update.build_query_as().persistent(is_usual(listed)).fetch_all(db).await
        })?)
    }

    /// Locks those of these renewals that nobody else has locked. Waits for nobody. Their versions are as they were: see [`Tx::raise_versions`].
    pub(crate) async fn lock_free_renewals(&mut self, ids: &BTreeSet<RenewalId>) -> Result<Vec<Renewal>> {
        let lock = match self.on {
            On::Postgres(_) => " ORDER BY id FOR UPDATE SKIP LOCKED",
            On::Sqlite(..) => "",
        };
        Ok(on!(self, |db| {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM renewal WHERE id IN ("));
            let listed = list(&mut query, ids);
            query.push(format_args!("){lock}"));
            query.build_query_as().persistent(is_usual(listed)).fetch_all(db).await
        })?)
    }

    /// Raises the versions of renewals that are locked and have changed.
    pub(crate) async fn raise_versions(&mut self, ids: &BTreeSet<RenewalId>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        on!(self, |db| {
            let mut update = QueryBuilder::new("UPDATE renewal SET version = version + 1 WHERE id IN (");
            let listed = list(&mut update, ids);
            update.push(")").build().persistent(is_usual(listed)).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    /// Stores state, plan digest and wake-up time of a locked renewal.
    pub async fn save_renewal(&mut self, renewal: &Renewal, due_at: Option<DateTime<Utc>>) -> Result<()> {
        self.save_renewals(&[(renewal, due_at)]).await
    }

    /// As [`Tx::save_renewal`], for several.
    pub(crate) async fn save_renewals(&mut self, renewals: &[(&Renewal, Option<DateTime<Utc>>)]) -> Result<()> {
        if renewals.is_empty() {
            return Ok(());
        }
        on!(self, |db| {
            let mut save = QueryBuilder::new(
                "UPDATE renewal SET state = saved.column2, plan_digest = saved.column3, due_at = saved.column4,
                    updated_at = saved.column5 FROM (",
            );
            save.push_values(renewals, |mut row, (renewal, due_at)| {
                row.push_bind(renewal.id).push_bind(Json(&renewal.state)).push_bind(&renewal.plan_digest);
                row.push_bind(*due_at).push_bind(renewal.updated_at);
            });
            save.push(") AS saved WHERE id = saved.column1");
            save.build().persistent(is_usual(renewals.len())).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    /// A page of renewals, newest first, of one organization or of all, in one status or in any. The status is a part of the statement's text: where nearly
    /// all are in one status, another way is the best for that one than for the others, and the database chooses it by what it reads.
    pub async fn renewals(
        &mut self,
        organization: Option<&OrganizationId>,
        status: Option<&'static str>,
        page: Page,
    ) -> Result<Vec<Renewal>> {
        // Only the filters that are there: one text for all would use no index, whatever is asked.
        Ok(on!(self, |db| {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM renewal WHERE id < "));
            query.push_bind(page.end());
            if let Some(organization) = organization {
                query.push(" AND organization_id = ").push_bind(organization);
            }
            if let Some(status) = status {
                query.push(format_args!(" AND status = '{status}'"));
            }
            query.push(" ORDER BY id DESC LIMIT ").push_bind(page.limit);
            query.build_query_as().fetch_all(db).await
        })?)
    }

    /// The earliest timer after `now` of all renewals and steps: when work is due next if nothing else happens.
    pub async fn next_due(&mut self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let renewal: Option<DateTime<Utc>> =
            on!(self, |db| sqlx::query_scalar("SELECT MIN(due_at) FROM renewal WHERE due_at > $1")
                .bind(now)
                .fetch_one(db)
                .await)?;
        let step: Option<DateTime<Utc>> = on!(self, |db| sqlx::query_scalar(
            "SELECT MIN(due_at) FROM step WHERE status IN ('ready', 'running') AND due_at > $1"
        )
        .bind(now)
        .fetch_one(db)
        .await)?;
        Ok([renewal, step].into_iter().flatten().min())
    }
}
