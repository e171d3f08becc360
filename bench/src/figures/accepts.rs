//! Durable accepts over HTTP, beside pgbench committing the same rows.

use std::{
    fmt::Write as _,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::{
    Settings,
    database::{Database, Server},
    http::{Connection, post},
    process::{NO_LIMITS, Rekey},
    report::{Aim, Row, Spread},
    workload::organization,
};

/// Connections, and clients of pgbench.
const CLIENTS: u64 = 32;
/// One renewal of an organization can be live at a time: so many are accepted, then ended, then accepted again.
const ORGANIZATIONS: u64 = 4_000;
/// How often in a round.
const BURSTS: u64 = 3;
const SUBJECT: &str = "alice@contoso.example";
/// Ends what was accepted, so that the next is accepted. Both sides get it.
const END: &str = "
    UPDATE step SET status = 'skipped', due_at = NULL WHERE status = 'ready';
    UPDATE renewal SET state = '{\"status\": \"cancelled\", \"at\": \"2026-11-23T10:00:00Z\"}' WHERE status = 'requested';
    VACUUM ANALYZE renewal, step, audit, audit_stream, announcement, idempotency";
/// What pgbench commits: the rows of an accept, their texts bound as parameters.
const SCRIPT: &str = include_str!("../sql/accept.pgbench");

pub(crate) async fn measure(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let (ours, _db) = server.create_ours("accepts").await?;
    let (floor, _db) = server.create_ours("floor").await?;
    let organizations = settings.amount(ORGANIZATIONS, 320);
    let rekey = Rekey::start(settings, "api", &configuration(organizations)?, Some(&ours)).await?;
    let token = rekey.token(settings, &ours, SUBJECT).await?;
    let mut load = Load { address: rekey.address.clone(), token, organizations, sent: 0 };
    // The first burst warms up and shows what rows an accept makes.
    load.burst(&ours).await?;
    let script = Script::of(&ours).await?;
    let (mut accepts, mut floors) = (Vec::new(), Vec::new());
    let (mut middles, mut tails) = (Spread::default(), Spread::default());
    for round in 0..settings.rounds() {
        let (mut rate, mut floor_rate, mut latencies) = (0.0, 0.0, Vec::new());
        let bursts = settings.amount(BURSTS, 1);
        for burst in 0..bursts {
            server.settle().await?;
            let (seconds, more) = load.burst(&ours).await?;
            latencies.extend(more);
            rate += organizations as f64 / seconds / bursts as f64;
            server.settle().await?;
            floor_rate += script.run(settings, &floor, organizations, round * bursts + burst).await? / bursts as f64;
        }
        eprintln!("bench: round {round}: {rate:.0} accepts/s, pgbench {floor_rate:.0}/s");
        let latencies: Spread = latencies.into_iter().collect();
        middles.push(latencies.quantile(0.5));
        tails.push(latencies.quantile(0.99));
        accepts.push(rate);
        floors.push(floor_rate);
    }
    rekey.end().await?;
    server.drop(&ours).await?;
    server.drop(&floor).await?;
    let figure = "durable accepts over HTTP, 32 connections";
    let spread = accepts.iter().copied().collect();
    Ok(vec![
        Row::value(figure, "rekey api: POST /v1/renewals", spread, "/s", Aim::Report),
        Row::beside(figure, "pgbench: the same rows in one transaction", &accepts, &floors, "/s", Aim::AtLeast(1.0)),
        Row::value(figure, "rekey api: p50 of an answer", middles, "ms", Aim::Report),
        Row::value(figure, "rekey api: p99 of an answer", tails, "ms", Aim::Report),
    ])
}

/// So many organizations that nobody connects to. Each trusts one authority: to read those of the system for each takes long.
pub(crate) fn configuration(organizations: u64) -> anyhow::Result<String> {
    let mut text = NO_LIMITS.to_owned();
    for number in 1..=organizations {
        let id = organization(number);
        write!(
            text,
            "[[organization]]\nid = \"{id}\"\n[organization.exchange]\nurls = [\"http://127.0.0.1:9/PowerShell/\"]\n\
             authentication = \"ntlm\"\nusername = 'EXAMPLE\\svc-rekey'\npassword = \"file:password\"\nca_file = \"ca.pem\"\n"
        )?;
    }
    Ok(text)
}

/// Who sends requests.
struct Load {
    address: String,
    token: String,
    organizations: u64,
    /// Bursts so far: no idempotency key is used twice.
    sent: u64,
}

impl Load {
    /// Has one renewal of every organization accepted, counts them in the database and ends them. Returns how long it took, and each answer, in ms.
    async fn burst(&mut self, database: &Database) -> anyhow::Result<(f64, Vec<f64>)> {
        self.sent += 1;
        let before = rows(database).await?;
        let next = Arc::new(AtomicU64::new(1));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(self.client(Connection::open(&self.address).await?, next.clone()));
        }
        let begun = Instant::now();
        let clients: Vec<_> = clients.into_iter().map(tokio::spawn).collect();
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.await??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let wanted = before.map(|rows| rows + self.organizations.cast_signed());
        ensure!(rows(database).await? == wanted, "not every accept has left all of its rows");
        database.run(END).await?;
        Ok((seconds, latencies))
    }

    fn client(
        &self,
        mut connection: Connection,
        next: Arc<AtomicU64>,
    ) -> impl Future<Output = anyhow::Result<Vec<f64>>> + Send + use<> {
        let (token, organizations, burst) = (self.token.clone(), self.organizations, self.sent);
        async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number > organizations {
                    return Ok(latencies);
                }
                let key = format!("Idempotency-Key: \"8e03978e-40d5-43dd-{burst:04}-{number:012}\"\r\n");
                let id = organization(number);
                let body = format!(
                    r#"{{"organization":"{id}","reason":"expiring","note":"Auth certificate expires on 2027-01-07"}}"#
                );
                let request = post("/v1/renewals", &token, &key, &body);
                let sent = Instant::now();
                connection.expect(&request, 202).await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
}

/// The tables that an accept writes a row to.
const TABLES: [&str; 6] = ["renewal", "step", "audit_stream", "audit", "announcement", "idempotency"];

/// How many rows there are in each of them.
async fn rows(database: &Database) -> anyhow::Result<[i64; 6]> {
    let mut counts = [0; 6];
    for (count, table) in counts.iter_mut().zip(TABLES) {
        *count = database.number(&format!("SELECT count(*) FROM {table}")).await?;
    }
    Ok(counts)
}

/// What pgbench is given.
struct Script {
    /// Texts as long as those that an accept has stored.
    texts: Vec<(&'static str, String)>,
}

impl Script {
    async fn of(database: &Database) -> anyhow::Result<Self> {
        let mut texts = Vec::new();
        for (name, query) in [
            ("request", "SELECT request::text FROM renewal LIMIT 1"),
            ("subject", "SELECT requested_by FROM renewal LIMIT 1"),
            ("action", "SELECT action FROM audit LIMIT 1"),
            ("detail", "SELECT detail::text FROM audit LIMIT 1"),
            ("event", "SELECT event FROM announcement LIMIT 1"),
            ("news", "SELECT news::text FROM announcement LIMIT 1"),
            ("renewal", "SELECT renewal::text FROM announcement LIMIT 1"),
            ("caller", "SELECT caller FROM idempotency LIMIT 1"),
            ("hash", "SELECT request_hash FROM idempotency LIMIT 1"),
            ("body", "SELECT body FROM idempotency LIMIT 1"),
        ] {
            let text = database.texts(query).await?.into_iter().next();
            texts.push((name, text.with_context(|| format!("there is no {name}"))?));
        }
        Ok(Self { texts })
    }

    /// Commits so many accepts, and returns how many in a second. `burst` tells runs apart.
    async fn run(&self, settings: &Settings, database: &Database, accepts: u64, burst: u64) -> anyhow::Result<f64> {
        let before = rows(database).await?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("accept.pgbench");
        std::fs::write(&file, SCRIPT)?;
        let output = self.command(settings, &file, accepts, burst).arg(&database.url).output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "pgbench: {said}{}", String::from_utf8_lossy(&output.stderr));
        let wanted = before.map(|rows| rows + accepts.cast_signed());
        ensure!(rows(database).await? == wanted, "pgbench has not committed all: {said}");
        database.run(END).await?;
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = rate.and_then(|line| line.split_whitespace().next()).context("pgbench says no rate")?;
        Ok(rate.parse()?)
    }

    fn command(&self, settings: &Settings, file: &Path, accepts: u64, burst: u64) -> Command {
        let mut command = Command::new(&settings.pgbench);
        command.args(["--no-vacuum", "--protocol=prepared", "--jobs=2"]).arg(format!("--client={CLIENTS}"));
        command.arg(format!("--transactions={}", accepts / CLIENTS)).arg("--file").arg(file);
        command.arg(format!("--define=n={}", burst * ORGANIZATIONS));
        for (name, text) in &self.texts {
            command.arg(format!("--define={name}={text}"));
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use db::{Answer, IdempotencyKey, Raise};

    use super::*;
    use crate::workload::renewal;

    /// The rows of all tables.
    async fn all_rows(database: &Database) -> BTreeMap<String, i64> {
        let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
        let mut rows = BTreeMap::new();
        for table in database.texts(tables).await.unwrap() {
            let count = database.number(&format!("SELECT count(*) FROM {table}")).await.unwrap();
            rows.insert(table, count);
        }
        rows
    }

    /// What pgbench would send for one accept.
    fn script(texts: &[(&'static str, String)]) -> String {
        let lines = SCRIPT.lines().filter(|line| !line.starts_with('\\') && !line.starts_with("--"));
        let mut sql = lines.collect::<Vec<_>>().join("\n");
        for (name, text) in texts {
            sql = sql.replace(&format!(":{name}"), &format!("'{}'", text.replace('\'', "''")));
        }
        sql.replace(":org", "'7'")
    }

    /// Where there is a server: `./test` starts one.
    #[tokio::test]
    async fn the_floor_commits_the_rows_of_an_accept_and_no_others() {
        let Ok(url) = std::env::var("TEST_POSTGRES_URL") else { return };
        let server = Server::new(&url).await.unwrap();
        let (database, db) = server.create_ours("test_accept").await.unwrap();
        let empty = all_rows(&database).await;
        let renewal = renewal("contoso", db.now()).unwrap();
        let key = IdempotencyKey {
            caller: SUBJECT.to_owned(),
            key: "8e03978e-40d5-43dd-9d2c-1f9a2d0c5c7e".to_owned(),
            request_hash: "sha256:of the request".to_owned(),
        };
        let (request_hash, renewal_id) = (key.request_hash.clone(), renewal.id);
        let answer = Answer { request_hash, renewal_id, status: 202, body: "{}".to_owned() };
        db.raise(Raise { renewal, keyed: Some((key, answer)) }).await.unwrap();
        let accepted = all_rows(&database).await;
        database.run(&script(&Script::of(&database).await.unwrap().texts)).await.unwrap();
        let committed = all_rows(&database).await;
        let more = |rows: &BTreeMap<String, i64>, before: &BTreeMap<String, i64>| {
            let more = rows.iter().map(|(table, count)| (table.clone(), count - before[table]));
            more.filter(|(_, count)| *count != 0).collect::<BTreeMap<_, _>>()
        };
        let of_accept = more(&accepted, &empty);
        assert_eq!(more(&committed, &accepted), of_accept);
        assert_eq!(of_accept.keys().map(String::as_str).collect::<BTreeSet<_>>(), TABLES.into_iter().collect());
        db.close().await;
        server.drop(&database).await.unwrap();
    }
}
