//! Taking steps without a lock between looking and taking: what is due is read as it stands, and one statement takes it if nothing of its renewals has
//! changed since. That is two trips to the database in place of ten wherever nothing but taking is to be done, which is nearly always. PostgreSQL only:
//! SQLite has no trips, and one writer.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use domain::{RenewalId, Step};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, types::Json};
use uuid::Uuid;

use super::{Chosen, Claimed, Due, Wanted, choose_all, is_begun};
use crate::{
    Db, LoadedRun, Moment, Result, Tx,
    audit::APPENDING,
    connection::On,
    run::step_detail,
    steps::{COLUMNS, NOT_PUT_AWAY, shared},
};

impl Db {
    /// Takes steps of these renewals, of which only steps are due. `None`: something else is to be done, or others were faster; nothing is done.
    pub(super) async fn take_as_seen(
        &self,
        look: &mut Tx,
        asked: &[(&Due, usize)],
        wanted: &Wanted<'_>,
    ) -> Result<Option<Claimed>> {
        self.disturbance.at(Moment::Begin).await?;
        let mut runs = look.runs_as_seen(asked, wanted).await?;
        let shares = asked.iter().map(|(due, share)| (due.renewal_id, *share)).collect();
        let Chosen { parked, taken } = choose_all(runs.iter().map(|run| &**run), &shares, wanted);
        if !parked.is_empty() {
            return Ok(None);
        }
        let (wants, permits): (Vec<Arc<Step>>, Vec<_>) =
            taken.into_iter().map(|(step, permit)| (step.clone(), permit)).unzip();
        if wants.is_empty() {
            return Ok(Some(Claimed::default()));
        }
        self.disturbance.at(Moment::Commit).await?;
        let On::Postgres(connection) = &mut look.on else { return Ok(None) };
        let steps = take(connection, &runs, &wants, wanted).await?;
        self.disturbance.at(Moment::Committed).await?;
        if steps.is_empty() {
            return Ok(None);
        }
        let changed: BTreeSet<RenewalId> = steps.iter().map(|step| step.renewal_id).collect();
        for run in runs.iter_mut().filter(|run| changed.contains(&run.renewal.id)) {
            let run = Arc::make_mut(run);
            run.put_in(&steps);
            run.renewal.version += 1;
        }
        self.known_runs.keep(runs.iter().cloned());
        let permits = wants.iter().map(|step| step.id).zip(permits).collect();
        Ok(Some(Claimed::of(steps, &permits, &runs, false)))
    }
}

impl Tx {
    /// The runs of what is due: as this process left them, as they came with the look, or read.
    async fn runs_as_seen(&mut self, asked: &[(&Due, usize)], wanted: &Wanted<'_>) -> Result<Vec<Arc<LoadedRun>>> {
        let (mut runs, mut unknown) = (Vec::with_capacity(asked.len()), Vec::new());
        for (due, _) in asked {
            let Some(renewal) = &due.renewal else { continue };
            let known = self.known_runs.get(renewal, renewal.version).filter(|run| !wanted.finds_left(run));
            match (known, &due.rest) {
                // What belongs to the renewal alone may have changed with its version untouched: what was read last counts.
                (Some(known), _) if known.renewal == *renewal => runs.push(known),
                (Some(known), _) => runs.push(Arc::new(known.with(renewal.clone()))),
                (None, Some((steps, decisions))) => {
                    let plan = self.plan_of(renewal).await?;
                    let (steps, decisions) = (steps.clone(), decisions.clone());
                    runs.push(Arc::new(LoadedRun { renewal: renewal.clone(), plan, steps, decisions }));
                }
                (None, None) => unknown.push(renewal.clone()),
            }
        }
        runs.extend(self.read_runs(unknown).await?.into_iter().map(Arc::new));
        Ok(runs)
    }
}

/// Gives steps to a worker, tells that they begin, and raises the versions of their renewals. $1 and $2 are the renewals as they were seen, $3 to $7 the
/// steps with what is to be told of them, if something is. Entries that are announced to people are not among these (`domain::announcing`).
static TAKE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH seen AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS seen (id, version)
        ), free AS (
            SELECT renewal.id, renewal.organization_id FROM seen JOIN renewal ON renewal.id = seen.id AND renewal.version = seen.version
            ORDER BY renewal.id FOR UPDATE OF renewal SKIP LOCKED
        ), wanted AS (
            SELECT * FROM unnest($3::uuid[], $4::uuid[], $5::bigint[], $6::uuid[], $7::jsonb[]) WITH ORDINALITY
                AS wanted (step_id, of_renewal, seen_attempt, entry_id, detail, place)
        ), taken AS (
            UPDATE step SET status = 'running', attempt = attempt + 1, due_at = $8, started_at = COALESCE(started_at, $9)
            FROM wanted JOIN free ON free.id = of_renewal
            WHERE step.id = step_id AND attempt = seen_attempt AND {NOT_PUT_AWAY} AND due_at <= $9
            RETURNING step.*, organization_id, entry_id, detail, place
        ), raised AS (
            UPDATE renewal SET version = version + 1 FROM (SELECT DISTINCT renewal_id FROM taken) AS begun WHERE id = renewal_id
        ), entry AS (
            SELECT entry_id AS id, renewal_id AS stream, renewal_id, organization_id, $9 AS at, $10 AS actor, 'step.started' AS action, detail, place
            FROM taken WHERE detail IS NOT NULL
        ), {APPENDING}
        SELECT {COLUMNS} FROM taken ORDER BY place"
    )
});

async fn take(
    connection: &mut PgConnection,
    runs: &[Arc<LoadedRun>],
    wants: &[Arc<Step>],
    wanted: &Wanted<'_>,
) -> Result<Vec<Arc<Step>>> {
    let told = |step: &Arc<Step>| {
        let begun = Step { attempt: step.attempt + 1, ..Step::clone(step) };
        is_begun(&begun).then(|| Json(step_detail(&begun, json!({}))))
    };
    let steps = sqlx::query_as(AssertSqlSafe(TAKE.as_str()))
        .bind(runs.iter().map(|run| run.renewal.id.0).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.renewal.version).collect::<Vec<_>>())
        .bind(wants.iter().map(|step| step.id.0).collect::<Vec<_>>())
        .bind(wants.iter().map(|step| step.renewal_id.0).collect::<Vec<_>>())
        .bind(wants.iter().map(|step| step.attempt).collect::<Vec<_>>())
        .bind(wants.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(wants.iter().map(told).collect::<Vec<_>>())
        .bind(wanted.lease_ends)
        .bind(wanted.now)
        .bind(wanted.worker);
    Ok(shared(steps.fetch_all(connection).await?))
}
