//! How a database would run a statement, whatever its parameters are.

use db::Kind;
use domain::RenewalId;
use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, SqliteConnection};

use crate::support::Database;

/// What grows with every renewal and is kept.
const HISTORY: [&str; 15] = [
    "renewal",
    "plan",
    "decision",
    "review",
    "step",
    "snapshot",
    "audit",
    "audit_stream",
    "idempotency",
    "delivery",
    "ticket_record",
    "api_key",
    "announcement",
    "outbox",
    "outbox_lane",
];

/// What is kept of a renewal, and its columns in a copy.
const COPIED: [(&str, &str, &str); 11] = [
    ("plan", "renewal_id, digest, body, created_at", "r.id, o.digest, o.body, o.created_at"),
    (
        "decision",
        "id, renewal_id, gate, plan_digest, verb, decided_by, reason, decided_at",
        "{id}, r.id, o.gate, o.plan_digest, o.verb, o.decided_by, o.reason, o.decided_at",
    ),
    (
        "review",
        "id, renewal_id, decision_id, gate, broken_by, reason, broken_at",
        "{id}, r.id, o.decision_id, o.gate, o.broken_by, o.reason, o.broken_at",
    ),
    (
        "step",
        "id, renewal_id, ordinal, phase, kind, target, site, status, attempt, failures, outcome",
        "{id}, r.id, o.ordinal, o.phase, o.kind, o.target, o.site, o.status, o.attempt, o.failures, o.outcome",
    ),
    (
        "snapshot",
        "id, organization_id, renewal_id, purpose, body, taken_at",
        "{id}, o.organization_id, r.id, o.purpose, o.body, o.taken_at",
    ),
    (
        "audit",
        "id, stream, sequence, renewal_id, organization_id, at, actor, action, detail",
        "{id}, r.id, o.sequence, r.id, o.organization_id, o.at, o.actor, o.action, o.detail",
    ),
    (
        "delivery",
        "id, source, sender, received_at, verdict, status, size, ticket_number, renewal_id, answer",
        "{id}, o.source, o.sender, o.received_at, o.verdict, o.status, o.size, o.ticket_number, r.id, o.answer",
    ),
    ("ticket_record", "system, key, renewal_id", "o.system, o.key || r.id, r.id"),
    (
        "announcement",
        "id, stream, sequence, renewal_id, organization_id, ticket_system, subject, event, actor, at, news, renewal, expanded",
        "{id}, r.id, o.sequence, r.id, o.organization_id, o.ticket_system, o.subject, o.event, o.actor, o.at, o.news, o.renewal, o.expanded",
    ),
    (
        "outbox",
        "id, announcement_id, target, lane, stream, sequence, renewal_id, organization_id, event, status, failures, created_at, finished_at",
        "{id}, o.announcement_id, 'copy' || {text}, o.lane || {text}, r.id, o.sequence, r.id, o.organization_id, o.event, o.status, o.failures,
         o.created_at, o.finished_at",
    ),
    (
        "outbox_lane",
        "lane, target, attempt, held, due_at",
        "o.lane || {text}, o.target, 7, o.held, o.due_at",
    ),
];

/// A connection of its own to a database whose statements are explained.
pub(crate) enum Explainer {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Explainer {
    pub(crate) async fn open(database: &Database) -> Self {
        match database.db.kind() {
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&database.url).await.unwrap();
                // What a pool's connection comes to after some runs of the same statement.
                connection.execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
                Self::Postgres(connection)
            }
            Kind::Sqlite => Self::Sqlite(SqliteConnection::connect(&database.url).await.unwrap()),
        }
    }

    /// Makes renewals that are over in the same way, with all that belongs to them.
    pub(crate) async fn copy(&mut self, model: RenewalId, copies: i32) {
        let (id, text, literal) = match self {
            Self::Postgres(_) => ("gen_random_uuid()", "CAST(r.id AS TEXT)", format!("'{model}'")),
            Self::Sqlite(_) => ("randomblob(16)", "hex(r.id)", format!("x'{}'", model.0.simple())),
        };
        self.run(format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {copies})
             INSERT INTO renewal (id, organization_id, requested_by, request, state, plan_digest, version, created_at, updated_at)
             SELECT {id}, 'org' || (i % 20), 'copy of {model}', request, state, plan_digest, version, created_at, updated_at
             FROM renewal CROSS JOIN n WHERE id = {literal}"
        ))
        .await;
        for (table, columns, values) in COPIED {
            let values = values.replace("{id}", id).replace("{text}", text);
            let whose = match table {
                "audit" => format!("o.stream = {literal}"),
                "outbox_lane" => format!("o.lane = 'chat/{model}'"),
                _ => format!("o.renewal_id = {literal}"),
            };
            self.run(format!(
                "INSERT INTO {table} ({columns}) SELECT {values} FROM {table} AS o CROSS JOIN renewal AS r
                 WHERE {whose} AND r.requested_by = 'copy of {model}'"
            ))
            .await;
        }
    }

    /// Lets PostgreSQL know how much there is, as it does by itself. SQLite never looks, in production neither.
    pub(crate) async fn analyze(&mut self) {
        if let Self::Postgres(_) = self {
            self.run("ANALYZE".to_owned()).await;
        }
    }

    async fn run(&mut self, sql: String) {
        let sql = AssertSqlSafe(sql);
        match self {
            Self::Postgres(connection) => drop(connection.execute(sql).await.unwrap()),
            Self::Sqlite(connection) => drop(connection.execute(sql).await.unwrap()),
        }
    }

    /// A list reads what it shows: its filters are all in the index, which has its order too.
    pub(crate) async fn check_list(&mut self, text: &str) {
        match self {
            Self::Postgres(connection) => {
                let nodes = nodes_of(connection, text).await;
                for node in &nodes {
                    let indexed = node["Node Type"] == "Limit" || node.get("Index Cond").is_some();
                    assert!(indexed && node.get("Filter").is_none(), "{text}\n{nodes:#?}");
                }
            }
            Self::Sqlite(connection) => {
                let lines = lines_of(connection, text).await;
                let [line] = lines.as_slice() else { panic!("{text}\n{lines:#?}") };
                let (asked, limit) = text.split_once("ORDER BY").unwrap();
                assert!(line.starts_with("SEARCH") && limit.contains("LIMIT"), "{text}\n{line}");
                let filters = asked.matches(" AND ").count() + 1;
                assert_eq!(line.matches('?').count(), filters, "{text}\n{line}");
            }
        }
    }

    /// A statement of a live renewal finds its rows by an index.
    pub(crate) async fn check(&mut self, text: &str) {
        match self {
            Self::Postgres(connection) => {
                let nodes = nodes_of(connection, text).await;
                for node in &nodes {
                    let reads = node["Node Type"] != "ModifyTable";
                    let of_history = node["Relation Name"].as_str().is_some_and(|table| HISTORY.contains(&table));
                    let found = !(reads && of_history)
                        || node.get("Index Cond").is_some()
                        || node.get("Recheck Cond").is_some();
                    assert!(found, "{text}\n{nodes:#?}");
                }
            }
            Self::Sqlite(connection) => {
                let lines = lines_of(connection, text).await;
                let scanned = |line: &String| {
                    let table = line.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
                    table.is_some_and(|table| HISTORY.contains(&table))
                };
                assert!(!lines.iter().any(scanned), "{text}\n{lines:#?}");
            }
        }
    }

    pub(crate) async fn close(self) {
        match self {
            Self::Postgres(connection) => connection.close().await.unwrap(),
            Self::Sqlite(connection) => connection.close().await.unwrap(),
        }
    }
}

/// What PostgreSQL cannot tell by itself: the types of rows that a statement brings with it. sqlx says them with the statement.
const ROWS: [(&str, &[&str]); 7] = [
    ("'paused')\n                ) FROM (VALUES ", &["text"]),
    ("ORDER BY id DESC LIMIT 1) FROM (VALUES ", &["text"]),
    ("updated_at = saved.column5 FROM (VALUES ", &["uuid", "jsonb", "text", "timestamptz", "timestamptz"]),
    ("due_at = NULL FROM (VALUES ", &["uuid", "bigint"]),
    (") FROM (VALUES ", &["uuid", "bigint"]),
    ("due_at = due.column2 FROM (VALUES ", &["uuid", "timestamptz"]),
    ("FROM (VALUES ", &["uuid", "bigint", "text", "timestamptz", "jsonb", "jsonb", "integer", "timestamptz"]),
];

/// The types of a statement's parameters as PREPARE takes them, as far as they must be said.
fn types_of(text: &str) -> String {
    let Some((before, columns)) = ROWS.iter().find_map(|(start, types)| Some((text.split_once(start)?.0, *types)))
    else {
        return String::new();
    };
    let (before, all) = (before.matches('$').count(), text.matches('$').count());
    let types = std::iter::repeat_n(&"unknown", before).chain(columns.iter().cycle()).take(all);
    format!("({})", types.copied().collect::<Vec<_>>().join(", "))
}

/// The nodes of the plan that PostgreSQL keeps for a statement when it knows no parameter.
async fn nodes_of(connection: &mut PgConnection, text: &str) -> Vec<Json> {
    let types = types_of(text);
    let prepared = connection.execute(AssertSqlSafe(format!("PREPARE asked {types} AS {text}"))).await;
    prepared.unwrap_or_else(|error| panic!("{error}: {types} {text}"));
    let count = "SELECT COALESCE(array_length(parameter_types, 1), 0) FROM pg_prepared_statements WHERE name = 'asked'";
    let count: i32 = sqlx::query_scalar(count).fetch_one(&mut *connection).await.unwrap();
    let nulls = vec!["NULL"; usize::try_from(count).unwrap()].join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let explain = AssertSqlSafe(format!("EXPLAIN (FORMAT JSON) EXECUTE asked {arguments}"));
    let row = connection.fetch_one(explain).await.unwrap();
    connection.execute("DEALLOCATE asked").await.unwrap();
    let mut nodes = Vec::new();
    collect(&row.get::<Json, _>(0)[0]["Plan"], &mut nodes);
    nodes
}

fn collect(node: &Json, nodes: &mut Vec<Json>) {
    for below in node["Plans"].as_array().into_iter().flatten() {
        collect(below, nodes);
    }
    let mut node = node.clone();
    node.as_object_mut().unwrap().remove("Plans");
    nodes.push(node);
}

async fn lines_of(connection: &mut SqliteConnection, text: &str) -> Vec<String> {
    let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
    let rows = connection.fetch_all(explain).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail")).collect()
}
