//! Our client and pypsrp, side by side against the same servers: see `benches/README.md`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark ends when anything fails, and prints")]

mod relay;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use lab::{Lab, Options, Secret};
use psrp::Command;
use rustix::time::{ClockId, clock_gettime};
use secrecy::SecretString;
use serde_json::{Value as Json, json};
use worker::connectors::{
    Account, Credentials, Endpoint, Endpoints, Kerberos, MAX_ENVELOPE_SIZE, MAX_SESSIONS, Proof, Session, Sessions,
    Trust, WindowsLogon, WindowsProtocol,
};

use self::relay::{Relay, Traffic};

/// How often each client does each thing; they take turns.
const ROUNDS: usize = 9;
/// Cmdlets on a warm pool in each round.
const CALLS: usize = 50;
const USER: &str = "EXAMPLE\\svc-rotate";
const PASSWORD: &str = "Passw0rd!";
const SERVER: &str = "ex03.contoso.example";
const PFX_PASSWORD: &str = "open sesame";

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match std::env::args().nth(1).as_deref() {
        Some("--client") => client(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()),
        Some("--lab") => runtime.block_on(serve_lab()),
        _ => runtime.block_on(compare()),
    }
}

async fn compare() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = Vec::new();
    for (name, server) in [("exchange_peer.py", peer(folder.path())), ("lab", lab_process())] {
        for (scheme, authentication) in [("https", "basic"), ("http", "ntlm")] {
            let relay = Relay::before(format!("127.0.0.1:{}", server.port(&format!("{scheme}_port")))).await;
            let to = json!({ "connect": {
                "url": format!("{scheme}://localhost:{}/PowerShell/", relay.port),
                "authentication": authentication,
                "username": USER,
                "password": PASSWORD,
                "ca": server.text("ca"),
                "server": SERVER,
            } });
            let way = format!("{name}, {authentication} over {scheme}");
            table.extend(rounds(&way, &to, &relay, &folder.path().join(way.replace([' ', ','], "-"))));
        }
    }
    print(&table);
}

/// One thing, done by one client: the middle of all rounds.
struct Row {
    what: String,
    client: &'static str,
    measured: Measured,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    traffic: Traffic,
    wall_ms: f64,
    cpu_ms: f64,
}

fn rounds(way: &str, to: &Json, relay: &Relay, folder: &Path) -> Vec<Row> {
    std::fs::create_dir(folder).unwrap();
    let mut clients = [("rekey", Driven::ours()), ("pypsrp", Driven::theirs())];
    clients[1].1.tell(&json!({ "files": { "folder": folder, "count": 2 * ROUNDS } }));
    clients.iter_mut().for_each(|(_, client)| drop(client.tell(to)));
    let mut seen: BTreeMap<(usize, usize), Vec<Measured>> = BTreeMap::new();
    for round in 0..ROUNDS {
        for (number, (_, client)) in clients.iter_mut().enumerate() {
            let file = |size: &str| json!({ "import": folder.join(format!("{size}-{}.pfx", 2 * round + number)) });
            seen.entry((0, number)).or_default().push(client.measure(relay, &file("4k")));
            seen.entry((1, number)).or_default().push(client.measure(relay, &file("200k")));
            client.tell(&json!({ "open": true }));
            // The first call of a pool may cost more.
            client.tell(&json!({ "calls": 1 }));
            let calls = client.measure(relay, &json!({ "calls": CALLS }));
            seen.entry((2, number)).or_default().push(calls.each(CALLS));
            client.tell(&json!({ "close": true }));
        }
    }
    let names = ["import of 4 kB, with its session", "import of 200 kB, with its session", "cmdlet on a warm session"];
    let row = |((what, client), all): ((usize, usize), Vec<Measured>)| Row {
        what: format!("{way}: {}", names[what]),
        client: clients[client].0,
        measured: Measured::middle(&all),
    };
    seen.into_iter().map(row).collect()
}

impl Measured {
    fn each(self, count: usize) -> Self {
        let (n, many) = (count as u64, count as f64);
        let Traffic { round_trips, sent, received } = self.traffic;
        let traffic = Traffic { round_trips: round_trips / n, sent: sent / n, received: received / n };
        Self { traffic, wall_ms: self.wall_ms / many, cpu_ms: self.cpu_ms / many }
    }

    fn middle(all: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let whole = |of: fn(&Self) -> f64| middle(of) as u64;
        let traffic = Traffic {
            // A TLS session ticket that crosses a request looks like an answer in the middle of it: there can be turns too many, never too few.
            round_trips: all.iter().map(|m| m.traffic.round_trips).min().unwrap_or(0),
            sent: whole(|m| m.traffic.sent as f64),
            received: whole(|m| m.traffic.received as f64),
        };
        Self { traffic, wall_ms: middle(|m| m.wall_ms), cpu_ms: middle(|m| m.cpu_ms) }
    }
}

fn print(table: &[Row]) {
    println!("| what | client | round trips | sent | received | wall ms | CPU ms |\n|---|---|---|---|---|---|---|");
    for pair in table.chunks(2) {
        for Row { what, client, measured: Measured { traffic, wall_ms, cpu_ms } } in pair {
            let Traffic { round_trips, sent, received } = traffic;
            println!("| {what} | {client} | {round_trips} | {sent} | {received} | {wall_ms:.2} | {cpu_ms:.2} |");
        }
        let [ours, theirs] = [&pair[0].measured, &pair[1].measured];
        let ratio = |of: fn(&Measured) -> f64| format!("{:.2}", of(ours) / of(theirs));
        println!(
            "| | ratio | {} | {} | {} | {} | {} |",
            ratio(|m| m.traffic.round_trips as f64),
            ratio(|m| m.traffic.sent as f64),
            ratio(|m| m.traffic.received as f64),
            ratio(|m| m.wall_ms),
            ratio(|m| m.cpu_ms)
        );
    }
}

/// A client in a process of its own, which does what it is told line by line.
struct Driven {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Driven {
    fn ours() -> Self {
        let mut program = Process::new(std::env::current_exe().unwrap());
        program.arg("--client");
        Self::start(program)
    }

    fn theirs() -> Self {
        let mut program = peers::python("../../worker/benches/wire/pypsrp_client.py");
        program.env("PYTHONDONTWRITEBYTECODE", "1");
        Self::start(program)
    }

    fn start(mut program: Process) -> Self {
        let mut process = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    fn tell(&mut self, what: &Json) -> Json {
        writeln!(self.input, "{what}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the client has ended at {what}"))
    }

    fn measure(&mut self, relay: &Relay, what: &Json) -> Measured {
        let before = relay.traffic();
        let told = self.tell(what);
        let number = |name: &str| told[name].as_f64().unwrap();
        Measured { traffic: relay.traffic() - before, wall_ms: number("wall_ms"), cpu_ms: number("cpu_ms") }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Our side: the same lines as `pypsrp_client.py`.
fn client(runtime: &tokio::runtime::Runtime) {
    let (mut to, mut endpoint, mut held) = (Json::Null, None, None);
    for line in std::io::stdin().lines() {
        let line: Json = serde_json::from_str(&line.unwrap()).unwrap();
        let (act, what) = line.as_object().unwrap().iter().next().unwrap();
        let (wall, cpu) = (Instant::now(), cpu_time());
        match act.as_str() {
            "connect" => (to, endpoint) = (what.clone(), Some(endpoint_at(what))),
            "open" => held = Some(runtime.block_on(Session::open(endpoint.as_ref().unwrap())).unwrap()),
            "calls" => {
                let session = held.as_mut().unwrap();
                (0..what.as_u64().unwrap())
                    .for_each(|_| runtime.block_on(call(session, Command::new("Get-AuthConfig"))));
            }
            "close" => runtime.block_on(held.take().unwrap().close()),
            "import" => runtime.block_on(import(&to, endpoint.as_ref().unwrap(), what.as_str().unwrap())),
            other => panic!("`{other}` is not understood"),
        }
        let (wall, cpu) = (wall.elapsed().as_secs_f64(), (cpu_time() - cpu).as_secs_f64());
        println!("{}", json!({ "wall_ms": wall * 1000.0, "cpu_ms": cpu * 1000.0 }));
    }
}

/// What this process has used of the processors.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

async fn import(to: &Json, endpoint: &Endpoint, file: &str) {
    let data = std::fs::read(file).unwrap();
    let mut session = Session::open(endpoint).await.unwrap();
    let command = Command::new("Import-ExchangeCertificate")
        .with("Server", to["server"].as_str().unwrap())
        .with("FileData", data)
        .with_secret("Password", Secret::new(PFX_PASSWORD));
    call(&mut session, command).await;
    session.close().await;
}

async fn call(session: &mut Session, command: Command) {
    let answer = session.invoke(command).await.unwrap();
    assert!(answer.errors.is_empty() && !answer.output.is_empty(), "{answer:?}");
}

fn endpoint_at(to: &Json) -> Endpoint {
    let text = |name: &str| to[name].as_str().unwrap().to_owned();
    let password = SecretString::from(text("password"));
    let credentials = match text("authentication").as_str() {
        "basic" => Credentials::Basic(Account { username: text("username"), password }),
        _ => Credentials::Windows(WindowsLogon {
            username: text("username"),
            proof: Proof::Password(password),
            protocol: WindowsProtocol::Ntlm,
            always_seal: false,
            kerberos: Kerberos::default(),
        }),
    };
    let endpoints = Endpoints {
        exchange: vec![Endpoints::parse_url(&text("url"), &credentials).unwrap()],
        credentials,
        windows: None,
        connect_to: BTreeMap::new(),
        tls: Trust::ca(&std::fs::read(text("ca")).unwrap()).build().unwrap(),
        max_envelope_size: MAX_ENVELOPE_SIZE,
        sessions: Sessions::new(MAX_SESSIONS),
    };
    endpoints.exchange().next().unwrap()
}

/// The peer of the tests: a server by others.
fn peer(folder: &Path) -> peers::Server {
    let mut program = peers::python("exchange_peer.py");
    program.args(["--auth", "basic,ntlm,negotiate", "--server-name", SERVER]);
    program.arg("--work-dir").arg(folder.join("peer"));
    peers::Server::start(program)
}

/// The lab, in a process of its own.
fn lab_process() -> peers::Server {
    let mut program = Process::new(std::env::current_exe().unwrap());
    program.arg("--lab");
    peers::Server::start(program)
}

async fn serve_lab() {
    let (username, password) = (USER.to_owned(), Some(Secret::new(PASSWORD)));
    let lab = Arc::new(Lab::start(Options { username, password, ..Options::default() }).await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let server = &lab.servers()[2];
    println!("{}", json!({ "https_port": server.https.port(), "http_port": server.http.port(), "ca": files.ca }));
    std::future::pending::<()>().await;
}
