//! Upgrades: what the version before has begun is gone on with, and processes of both versions get along on one database.

use chrono::{DateTime, Utc};
use db::{Db, Kind, LoadedRun, Page, Purpose, Schema, StepEnd};
use domain::{
    Decision, Gate, Outcome, RenewalId, StepKind, StepStatus, gate::Verb, progress::Permit, snapshot::Key,
    step::Publisher,
};
use futures_util::future::join_all;

use crate::support::{
    Database, WORKER, approved, claim, each_database, look, new_databases, now, raised, renewal, thumbprint,
};

/// The migrations of the version before. Files that were released never change.
const BEFORE: [&str; 3] = [
    include_str!("../migrations/0001_renewals.sql"),
    include_str!("../migrations/0002_audit.sql"),
    include_str!("../migrations/0003_idempotency.sql"),
];

/// What sqlx notes its migrations in.
const NOTES: &str = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)";

/// Rows as the version before wrote them, what the renewal was at, and the step that comes next.
const ROWS: [(&str, &str, &str, StepKind); 4] = [
    (
        "awaiting_execute",
        include_str!("../../tests/data/previous/awaiting_execute.sql"),
        "awaiting_approval",
        StepKind::Generate,
    ),
    ("distributing", include_str!("../../tests/data/previous/distributing.sql"), "waiting", StepKind::Distribute),
    (
        "awaiting_publish",
        include_str!("../../tests/data/previous/awaiting_publish.sql"),
        "awaiting_approval",
        StepKind::Publish,
    ),
    ("soaking", include_str!("../../tests/data/previous/soaking.sql"), "soaking", StepKind::Soak),
];

/// Runs a text on a connection of its own.
async fn run(database: &Database, sql: &str) {
    let sql = match database.db.kind() {
        Kind::Postgres => in_postgres(sql),
        Kind::Sqlite => sql.to_owned(),
    };
    database.execute(sql).await.unwrap();
}

/// SQLite writes ids and bytes as blobs, PostgreSQL each in its own way.
fn in_postgres(sql: &str) -> String {
    let (mut text, mut rest) = (String::new(), sql);
    while let Some(at) = [" X'", "(X'"].iter().filter_map(|sign| rest.find(sign)).min() {
        let (before, blob) = rest.split_at(at + 1);
        let (hex, after) = blob[2..].split_once('\'').unwrap();
        let prefix = if hex.len() == 32 { "" } else { "\\x" };
        text.push_str(&format!("{before}'{prefix}{hex}'"));
        rest = after;
    }
    text + rest
}

/// The renewal with everything that belongs to it, all of which can be read.
async fn everything(db: &Db) -> LoadedRun {
    let read = async |tx: &mut db::Tx| {
        let rows = tx.renewals(None, None, Page { before: None, limit: 10 }).await?;
        let [renewal] = rows.as_slice() else { panic!("{rows:?}") };
        let run = tx.load_run(renewal.id).await?;
        let digest = renewal.plan_digest.as_ref().unwrap();
        assert_eq!(run.plan.as_ref().unwrap().digest(), *digest, "the plan has kept its form");
        let audit = tx.audit_of(renewal.id, 0, 1_000).await?;
        assert!((1..).zip(&audit).all(|(n, entry)| entry.sequence == n));
        assert_eq!(tx.audit_page(Page { before: None, limit: 1_000 }).await?.len(), audit.len());
        assert!(tx.snapshot_of(renewal.id, Purpose::Before).await?.is_some());
        let phases = tx.progress(renewal.id).await?;
        assert_eq!(usize::try_from(phases.iter().map(|phase| phase.total).sum::<i64>()).unwrap(), run.steps.len());
        db::Result::Ok(run)
    };
    db.read(read).await.unwrap()
}

async fn approve(db: &Db, id: RenewalId, gate: Gate, at: DateTime<Utc>) {
    let digest = db.read(async |tx| tx.renewal(id).await).await.unwrap().plan_digest.unwrap();
    let yes = Decision {
        id: uuid::Uuid::now_v7(),
        renewal_id: id,
        gate,
        plan_digest: digest,
        verb: Verb::Approve,
        decided_by: "carol".to_owned(),
        reason: "read".to_owned(),
        decided_at: at,
        decided_groups: Vec::new(),
        break_glass: false,
        voided_by: None,
    };
    db.write(async |tx| tx.decide(&yes, None, at).await).await.unwrap();
}

/// What a worker makes of a step.
fn outcome(kind: StepKind, at: DateTime<Utc>) -> Outcome {
    let domain_controllers = Vec::new();
    match kind {
        StepKind::Generate => Outcome::Generated {
            thumbprint: thumbprint('B'),
            not_before: at,
            not_after: at,
            adopted: false,
            certificate: None,
            exchange_publishes_at: None,
        },
        StepKind::Distribute => {
            Outcome::Distributed { thumbprint: thumbprint('B'), pfx: None, key: Key::Csp, already_present: true }
        }
        StepKind::Stage => Outcome::Staged { effective_at: at, domain_controllers },
        StepKind::Publish => {
            Outcome::Published { published_at: at, by: Publisher::Rekey, domain_controllers, lacking: Vec::new() }
        }
        StepKind::ClearPrevious => Outcome::ClearedPrevious { domain_controllers },
        StepKind::Prune => Outcome::Removed { thumbprint: thumbprint('A'), already_gone: false },
        _ => Outcome::not_done("played"),
    }
}

/// Plays people and workers until the renewal is over. Returns the kinds of steps that were taken.
async fn finish(db: &Db, id: RenewalId) -> Vec<StepKind> {
    let mut taken = Vec::new();
    let mut at = db.read(async |tx| tx.renewal(id).await).await.unwrap().updated_at;
    loop {
        let renewal = db.read(async |tx| tx.renewal(id).await).await.unwrap();
        if let Some(gate) = renewal.state.open_gate() {
            approve(db, id, gate, at).await;
        } else if !renewal.state.is_live() {
            assert_eq!(renewal.state.status(), "succeeded");
            return taken;
        }
        if let Some(step) = claim(db, at).await {
            assert_eq!(step.permit, Permit::Run);
            let end = StepEnd::Done(outcome(step.step.kind, at));
            db.write(async |tx| tx.finish_step(&step, WORKER, &end, at).await).await.unwrap();
            taken.push(step.step.kind);
        } else if let Some(due) = db.read(async |tx| tx.next_due(at).await).await.unwrap() {
            at = due;
        }
    }
}

#[tokio::test]
async fn what_the_version_before_has_begun_is_finished_by_this_one() {
    for (name, rows, status, next) in ROWS {
        for database in new_databases().await {
            for text in BEFORE.into_iter().chain([NOTES, rows]) {
                run(&database, text).await;
            }
            let db = &database.db;
            assert_eq!(db.schema().await.unwrap(), Schema::Older, "{name}");
            assert_eq!(db.migrate().await.unwrap(), Schema::Current, "{name}");
            let before = everything(db).await;
            assert_eq!(before.renewal.state.status(), status, "{name}");
            let taken = finish(db, before.renewal.id).await;
            assert_eq!((taken.first(), taken.last()), (Some(&next), Some(&StepKind::Close)), "{name}");
            let after = everything(db).await;
            assert!(after.steps.iter().all(|step| step.status == StepStatus::Succeeded), "{name}: {after:#?}");
            database.drop().await;
        }
    }
}

#[tokio::test]
async fn of_many_processes_that_migrate_at_once_one_does_it() {
    for database in new_databases().await {
        let migrate = async || {
            let db = Db::open(&database.url).await.unwrap();
            let schema = db.migrate().await;
            db.close().await;
            schema
        };
        for schema in join_all((0..8).map(|_| migrate())).await {
            assert_eq!(schema.unwrap(), Schema::Current);
        }
        database.drop().await;
    }
}

#[tokio::test]
async fn a_process_of_the_version_before_works_on_what_a_newer_one_has_added() {
    for database in each_database().await {
        let newer = "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
            SELECT 9999, 'newer', installed_on, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1;
            ALTER TABLE renewal ADD COLUMN later TEXT; ALTER TABLE step ADD COLUMN later TEXT; CREATE TABLE later (id TEXT)";
        run(&database, newer).await;
        let db = &database.db;
        assert_eq!(db.migrate().await.unwrap(), Schema::Newer);
        assert!(db.is_migrated().await.unwrap());
        let (renewal, _) = approved(db).await;
        assert_eq!(finish(db, renewal.id).await.last(), Some(&StepKind::Close));
        database.drop().await;
    }
}

#[tokio::test]
async fn what_only_a_newer_version_knows_is_left_alone_and_is_in_nobodys_way() {
    for database in each_database().await {
        let db = &database.db;
        for number in 0..60 {
            let new = renewal(&format!("newer-{number}"));
            db.write(async |tx| tx.create_renewal(&new, now()).await).await.unwrap();
        }
        let unknown = "UPDATE step SET kind = 'reach_for_moon';
            UPDATE step SET phase = 'reach_for_moon' WHERE ordinal = 0;
            UPDATE renewal SET state = '{\"status\":\"waiting\",\"phase\":\"reach_for_moon\",\"reason\":{\"waiting_for\":\"moon\"}}'
            WHERE organization_id = 'newer-7'";
        run(&database, unknown).await;
        assert!(look(db, now()).await.is_idle(), "nothing that it knows is due");
        let known = raised(db).await;
        let taken = claim(db, now()).await.unwrap();
        assert_eq!(taken.step.renewal_id, known.id);
        assert!(look(db, now()).await.is_idle());
        database.drop().await;
    }
}

#[tokio::test]
async fn a_plan_whose_stored_text_was_altered_is_not_carried_out() {
    for database in each_database().await {
        let (renewal, _) = approved(&database.db).await;
        run(&database, "UPDATE plan SET body = body || ' '").await;
        let db = Db::open(&database.url).await.unwrap();
        let loaded = db.read(async |tx| tx.load_run(renewal.id).await).await;
        assert!(matches!(loaded, Err(db::Error::PlanAltered)), "{loaded:?}");
        db.close().await;
        database.drop().await;
    }
}
