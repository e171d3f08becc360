//! The rekey binary as users start it, and people who call it.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Method, StatusCode, header};
use serde_json::{Value as Json, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

/// The longest that a test waits for anything; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(150);

/// A running rekey. Ended by its id when dropped.
pub(crate) struct Rekey {
    child: Child,
    base: String,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Rekey {
    /// A command of the binary with this configuration, on a free port.
    pub(crate) fn command(config: &Path, role: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rekey"));
        command.args([role, "--config"]).arg(config);
        command.env("REKEY_LISTEN", "127.0.0.1:0").env("REKEY_LOG", "debug").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `rekey serve`, once it listens.
    pub(crate) async fn serve(config: &Path) -> Self {
        Self::start(&mut Self::command(config, "serve")).await
    }

    /// A command that serves the API, once it listens.
    pub(crate) async fn start(command: &mut Command) -> Self {
        Self::until(command, "rekey listens on ").await
    }

    /// A command that serves no API, once it is ready.
    pub(crate) async fn start_worker(command: &mut Command) -> Self {
        Self::until(command, "Ready after").await
    }

    async fn until(command: &mut Command, sign: &'static str) -> Self {
        let mut child = command.spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (found, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let readers = vec![
            read(child.stdout.take().unwrap(), output.clone(), found.clone()),
            read(child.stderr.take().unwrap(), output.clone(), found),
        ];
        let waiting = async {
            while let Some(line) = lines.recv().await {
                if let Some((_, rest)) = line.split_once(sign) {
                    return rest.split_whitespace().next().unwrap_or_default().to_owned();
                }
            }
            panic!("ended early: {}", output.lock().unwrap());
        };
        let base = timeout(PATIENCE, waiting).await.expect("it is ready in time");
        Self { child, base, output, readers }
    }

    /// Where its API is.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.start_kill().unwrap();
    }

    /// Asks it to stop, and returns everything that it printed.
    pub(crate) async fn stop(&mut self) -> String {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").arg(id).status().await.unwrap().success());
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it stops in time").unwrap();
        assert!(status.success(), "{status}");
        for reader in self.readers.drain(..) {
            reader.await.unwrap();
        }
        self.output.lock().unwrap().clone()
    }
}

/// Waits until something is so, looking again and again.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        let mut tick = tokio::time::interval(Duration::from_millis(25));
        while !is_so().await {
            tick.tick().await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "in time: {what}");
}

/// Waits for a line that contains `sign`, and returns it.
pub(crate) async fn until_says(from: impl AsyncRead + Unpin, sign: &str) -> String {
    let waiting = async {
        let mut lines = BufReader::new(from).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(sign) {
                return line;
            }
        }
        panic!("ended before it said: {sign}");
    };
    timeout(PATIENCE, waiting).await.expect("it says so in time")
}

fn read(
    from: impl AsyncRead + Send + Unpin + 'static,
    output: Arc<Mutex<String>>,
    found: tokio::sync::mpsc::UnboundedSender<String>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            output.lock().unwrap().push_str(&format!("{line}\n"));
            // Nobody listens any more once it is ready.
            drop(found.send(line));
        }
    })
}

/// Somebody with a token.
pub(crate) struct Person {
    http: reqwest::Client,
    token: String,
    key: Option<String>,
}

/// People with tokens that `rekey token` has minted.
pub(crate) async fn people<const N: usize>(config: &Path, who: [(&str, &str); N]) -> [Person; N] {
    let mut people = Vec::new();
    for (name, role) in who {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rekey"));
        command.args(["token", "--subject", name, "--role", role, "--config"]).arg(config);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        people.push(Person { http: reqwest::Client::builder().no_proxy().build().unwrap(), token, key: None });
    }
    people.try_into().ok().expect("one for each name")
}

impl Person {
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) async fn get(&self, rekey: &Rekey, path: &str) -> Json {
        let (status, body) = self.call(rekey, Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {body:#}");
        body
    }

    /// An answer that is not JSON.
    pub(crate) async fn text(&self, rekey: &Rekey, path: &str) -> (header::HeaderMap, String) {
        let request = self.http.get(format!("{}{path}", rekey.base)).bearer_auth(&self.token);
        let response = request.send().await.unwrap().error_for_status().unwrap();
        (response.headers().clone(), response.text().await.unwrap())
    }

    pub(crate) async fn post(&self, rekey: &Rekey, path: &str, body: &Json) -> Json {
        let (status, body) = self.call(rekey, Method::POST, path, Some(body)).await;
        assert!(status.is_success(), "POST {path}: {body:#}");
        body
    }

    /// The same person, whose requests carry this idempotency key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { http: self.http.clone(), token: self.token.clone(), key: Some(key.to_owned()) }
    }

    pub(crate) async fn call(
        &self,
        rekey: &Rekey,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> (StatusCode, Json) {
        self.try_call(rekey, method, path, body).await.unwrap()
    }

    /// A call of a process that may be dying.
    pub(crate) async fn try_call(
        &self,
        rekey: &Rekey,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> reqwest::Result<(StatusCode, Json)> {
        let request = self.http.request(method, format!("{}{path}", rekey.base)).bearer_auth(&self.token);
        let request = request.header(header::ACCEPT, "application/json");
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let request = match &self.key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        let response = request.send().await?;
        Ok((response.status(), response.json().await?))
    }

    /// Approves a gate of the plan that the renewal is at.
    pub(crate) async fn approve(&self, rekey: &Rekey, id: &str, state: &Json) {
        let decision = json!({
            "gate": state["gate"], "verb": "approve", "plan_digest": state["digest"], "reason": "read"
        });
        self.post(rekey, &format!("/v1/renewals/{id}/decisions"), &decision).await;
    }

    /// Approves whatever is asked until the renewal has succeeded.
    pub(crate) async fn approve_all(&self, rekey: &Rekey, id: &str) {
        let approving = async {
            let mut after = 0;
            loop {
                let path = format!("/v1/renewals/{id}/events?after={after}&wait_seconds=20");
                for entry in self.get(rekey, &path).await["items"].as_array().unwrap() {
                    after = entry["sequence"].as_i64().unwrap();
                    match entry["action"].as_str().unwrap() {
                        "renewal.awaiting_approval" => self.approve(rekey, id, &entry["detail"]["state"]).await,
                        "renewal.succeeded" => return,
                        "step.needs_attention" | "renewal.failed" => panic!("{entry:#}"),
                        _ => {}
                    }
                }
            }
        };
        timeout(PATIENCE, approving).await.expect("the renewal ends in time");
    }
}

/// A small generator whose seed is printed, so that a failing run can be repeated.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn seeded() -> Self {
        let seed = std::env::var("REKEY_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        println!("repeat with REKEY_SEED={seed}");
        Self(seed | 1)
    }

    /// 1 to `most`.
    pub(crate) fn roll(&mut self, most: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most + 1) as usize
    }
}

/// A PostgreSQL database of a test's own.
pub(crate) struct Database {
    url: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let server = std::env::var("TEST_POSTGRES_URL").expect("run ./test, which starts a PostgreSQL and says where");
        let name = format!("rekey_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        let (base, _) = server.rsplit_once('/').expect("the URL names a database");
        Self { url: format!("{base}/{name}") }
    }

    /// Runs a text on it, behind everybody's back.
    pub(crate) async fn run(&self, sql: &'static str) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        connection.execute(sql).await.unwrap();
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where its server is: host:port.
    pub(crate) fn place(&self) -> String {
        let url = reqwest::Url::parse(&self.url).unwrap();
        format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432))
    }

    /// The same database, reached at a port of this machine.
    pub(crate) fn url_at(&self, port: u16) -> String {
        let mut url = reqwest::Url::parse(&self.url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(port)).unwrap();
        url.into()
    }
}
