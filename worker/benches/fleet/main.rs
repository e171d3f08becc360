//! A certificate for 500 servers, through a bounded number of sessions: see `benches/README.md`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark ends when anything fails, and prints")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
    time::{Duration, Instant},
};

use chrono::Utc;
use futures_util::{StreamExt as _, stream};
use lab::{Lab, Options, Secret, organization::Organization};
use psrp::{Command, Value};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value as Json, json};
use worker::{
    certificate::{AuthCertificate, KeySize, Request},
    connectors::{Account, Credentials, Endpoints, MAX_ENVELOPE_SIZE, Session, Sessions, Trust},
    pfx,
};

const SERVERS: usize = 500;
/// Sessions at a time, the default of the configuration.
const SESSIONS: usize = worker::connectors::MAX_SESSIONS;
/// How long each request is on its way.
const LATENCY: Duration = Duration::from_millis(20);
const USER: &str = "rekey@contoso.example";
const PASSWORD: &str = "Passw0rd!";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match std::env::args().nth(1).as_deref() {
        Some("--lab") => runtime.block_on(serve_lab()),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(distribute()),
    }
}

async fn distribute() {
    let mut lab = LabProcess::start();
    let endpoints = endpoints(&lab.told);
    let made = AuthCertificate::generate(&Request { key_size: KeySize::Rsa2048, lifetime_days: 1826, now: Utc::now() });
    let made = made.unwrap();
    let begun = Instant::now();
    let names: Vec<String> = (1..=SERVERS).map(fqdn).collect();
    // More at a time than there may be sessions: the sessions are the bound.
    let done = stream::iter(&names).map(|name| bring(&endpoints, name, &made)).buffer_unordered(2 * SESSIONS);
    assert_eq!(done.count().await, SERVERS);
    let wall = begun.elapsed();
    endpoints.sessions.close().await;
    let seen = lab.report();
    let requests = seen["requests"].as_u64().unwrap();
    let least = LATENCY * u32::try_from(requests).unwrap() / u32::try_from(SESSIONS).unwrap();
    println!("servers                            {SERVERS}");
    println!("imports that changed a store       {}", seen["imports"]);
    println!("requests                           {requests}");
    println!("requests x latency / sessions      {:.1} s ({LATENCY:?}, {SESSIONS} sessions)", least.as_secs_f64());
    println!("wall                               {:.1} s", wall.as_secs_f64());
    println!("ratio                              {:.2}", wall.as_secs_f64() / least.as_secs_f64());
    println!("most shells open at a time         {}", seen["most_shells"]);
    println!("shells left behind                 {}", seen["shells"]);
    println!("largest resident set of the client {} kB", peak_resident_set());
}

/// What a step of a renewal does on each server: look, look, import, look.
async fn bring(endpoints: &Endpoints, name: &str, made: &AuthCertificate) {
    let endpoint = endpoints.exchange_on(name).unwrap();
    let mut session = endpoint.session().await.unwrap();
    let thumbprint = made.thumbprint.as_str();
    let look = || Command::new("Get-ExchangeCertificate").with("Server", name).with("Thumbprint", thumbprint);
    let config = session.invoke(Command::new("Get-AuthConfig")).await.unwrap();
    assert_eq!(config.output.len(), 1);
    assert!(session.invoke(look()).await.unwrap().output.is_empty());
    import(&mut session, name, made).await;
    let held = session.invoke(look()).await.unwrap();
    let der = held.output[0].property("RawData").and_then(Value::as_bytes).unwrap();
    assert_eq!(der, made.certificate_der);
}

async fn import(session: &mut Session, name: &str, made: &AuthCertificate) {
    let friendly_name = pfx::FriendlyName::parse("Microsoft Exchange Server Auth Certificate").unwrap();
    let contents = pfx::Contents {
        certificate_der: &made.certificate_der,
        private_key_pkcs8: &made.private_key_pkcs8,
        friendly_name: &friendly_name,
    };
    let password = pfx::random_password().unwrap();
    let file = pfx::encode(&contents, &password, pfx::Algorithm::Aes256Sha256).unwrap();
    let command = Command::new("Import-ExchangeCertificate")
        .with("Server", name)
        .with("FileData", file.to_vec())
        .with_secret("Password", Secret::new(password.expose_secret()));
    let answer = session.invoke(command).await.unwrap();
    assert!(answer.errors.is_empty(), "{answer:?}");
}

fn endpoints(told: &Json) -> Endpoints {
    let account = Account { username: USER.to_owned(), password: SecretString::from(PASSWORD) };
    let credentials = Credentials::Basic(account);
    let url = format!("https://{}/PowerShell/", fqdn(1));
    let place = |(name, place): (&String, &Json)| (name.clone(), place.as_str().unwrap().to_owned());
    Endpoints {
        exchange: vec![Endpoints::parse_url(&url, &credentials).unwrap()],
        credentials,
        windows: None,
        connect_to: told["places"].as_object().unwrap().iter().map(place).collect::<BTreeMap<_, _>>(),
        tls: Trust::ca(told["ca"].as_str().unwrap().as_bytes()).build().unwrap(),
        max_envelope_size: MAX_ENVELOPE_SIZE,
        sessions: Sessions::new(SESSIONS),
    }
}

fn fqdn(number: usize) -> String {
    format!("ex{number:03}.contoso.example")
}

/// VmHWM of this process, kB.
fn peak_resident_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The lab in a process of its own: says where its servers are, then for each line what it has seen.
struct LabProcess {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    told: Json,
}

impl LabProcess {
    fn start() -> Self {
        let mut program = Process::new(std::env::current_exe().unwrap());
        let mut process = program.arg("--lab").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let told = read(&mut output);
        Self { process, input, output, told }
    }

    fn report(&mut self) -> Json {
        writeln!(self.input).unwrap();
        read(&mut self.output)
    }
}

impl Drop for LabProcess {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn read(output: &mut BufReader<ChildStdout>) -> Json {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).expect("the lab answers")
}

async fn serve_lab() {
    let mut organization = Organization::contoso();
    let model = organization.servers[2].clone();
    organization.servers = (1..=SERVERS)
        .map(|number| lab::organization::ServerSpec {
            name: format!("EX{number:03}"),
            fqdn: fqdn(number),
            ..model.clone()
        })
        .collect();
    organization.auth_admin_host = "EX001".to_owned();
    // A quarter of a million pairs of servers are not looked at after every change.
    organization.trust_probe = false;
    let lab = Lab::start(Options {
        organization,
        latency: LATENCY,
        username: USER.to_owned(),
        password: Some(Secret::new(PASSWORD)),
        ..Options::default()
    });
    let lab = lab.await.unwrap();
    let places: BTreeMap<String, String> =
        lab.servers().iter().map(|server| (format!("{}:443", server.fqdn), server.https.to_string())).collect();
    println!("{}", json!({ "places": places, "ca": lab.ca_pem() }));
    let lines = tokio::task::spawn_blocking(move || {
        for _ in std::io::stdin().lines() {
            let report = lab.report();
            let imports = report.counts[&lab::journal::EffectKind::Import].changed;
            println!(
                "{}",
                json!({
                    "requests": report.requests.len(), "imports": imports,
                    "most_shells": lab.most_shells(), "shells": lab.shells(),
                })
            );
        }
    });
    lines.await.unwrap();
}
