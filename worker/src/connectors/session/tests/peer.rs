//! An independent server, and a KDC.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
};

use secrecy::SecretString;
use serde_json::{Value as Json, json};

use crate::connectors::{
    Account, Credentials, Endpoint, Endpoints, Identity, Kerberos, MAX_ENVELOPE_SIZE, MAX_SESSIONS, Sessions, Trust,
    WindowsLogon, WindowsProtocol,
};

pub(super) const PASSWORD: &str = "Passw0rd!";

/// A program of others that says in one line of JSON where it listens; ended by its id when dropped.
struct Program {
    process: Child,
    ready: Json,
}

impl Program {
    fn start(process: &mut Process) -> Self {
        let mut process = process.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("it says where it listens");
        Self { process, ready }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A real KDC.
pub(super) struct Kdc {
    program: Program,
    _folder: tempfile::TempDir,
}

impl Kdc {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(Process::new(peers().join("kdc.sh")).arg(folder.path()));
        Self { program, _folder: folder }
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.program.ready["port"])
    }
}

/// psrpcore's state machine behind a WS-Management layer that counts violations of the protocol.
pub(super) struct Peer {
    program: Program,
    _folder: tempfile::TempDir,
}

impl Peer {
    /// With Basic only, also over plain HTTP.
    pub(super) fn start(extra: &[&str]) -> Self {
        let basic = ["--auth", "basic", "--basic-over-http", "--allow-unencrypted"];
        Self::start_with(&[&basic, extra].concat(), None)
    }

    /// With these options; with a KDC, as its service `HTTP/localhost`.
    pub(super) fn start_with(options: &[&str], kdc: Option<&Kdc>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::new(peer_python());
        process.arg(peers().join("exchange_peer.py")).arg("--work-dir").arg(folder.path()).args(options);
        if let Some(kdc) = kdc {
            let ready = &kdc.program.ready;
            process.args(["--spn-host", "localhost", "--keytab", ready["keytab"].as_str().unwrap()]);
            process.env("KRB5_CONFIG", ready["krb5_conf"].as_str().unwrap());
        }
        Self { program: Program::start(&mut process), _folder: folder }
    }

    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/PowerShell/", self.program.ready[format!("{scheme}_port")])
    }

    pub(super) fn port(&self, scheme: &str) -> String {
        self.program.ready[format!("{scheme}_port")].to_string()
    }

    pub(super) fn trust(&self) -> Trust {
        Trust::ca(&self.file("ca.pem"))
    }

    /// A certificate that the peer takes for a logon.
    pub(super) fn identity(&self) -> Identity {
        Identity { certificates: self.file("client.pem"), key: self.file("client.key").into() }
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(Path::new(self.program.ready["work_dir"].as_str().unwrap()).join(name)).unwrap()
    }

    pub(super) fn endpoints(&self, url: &str, credentials: Credentials) -> Endpoints {
        Endpoints {
            exchange: vec![Endpoints::parse_url(url, &credentials).unwrap()],
            credentials,
            windows: None,
            connect_to: BTreeMap::new(),
            tls: self.trust().build().unwrap(),
            max_envelope_size: MAX_ENVELOPE_SIZE,
            sessions: Sessions::new(MAX_SESSIONS),
        }
    }

    pub(super) fn endpoint(&self, scheme: &str, credentials: Credentials) -> Endpoint {
        self.endpoints(&self.url(scheme), credentials).exchange().next().unwrap()
    }

    pub(super) fn https(&self) -> Endpoint {
        self.endpoint("https", basic(PASSWORD))
    }

    pub(super) fn http(&self) -> Endpoint {
        self.endpoint("http", basic(PASSWORD))
    }

    fn admin(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.program.ready["admin_port"])
    }

    pub(super) async fn ask(&self, path: &str) -> Json {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        http.get(self.admin(path)).send().await.unwrap().json().await.unwrap()
    }

    pub(super) async fn inject(&self, fault: Json) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        http.post(self.admin("/inject")).json(&fault).send().await.unwrap().error_for_status().unwrap();
    }

    pub(super) async fn has_nothing_to_object(&self) {
        assert_eq!(self.ask("/violations").await["violations"], json!([]));
    }

    pub(super) async fn has_no_shell(&self) {
        assert_eq!(self.ask("/state").await["shells"], json!({}), "a shell was left behind");
    }
}

pub(super) fn account(password: &str) -> Account {
    Account { username: "EXAMPLE\\svc-rotate".to_owned(), password: SecretString::from(password.to_owned()) }
}

pub(super) fn basic(password: &str) -> Credentials {
    Credentials::Basic(account(password))
}

pub(super) fn windows(protocol: WindowsProtocol) -> WindowsLogon {
    WindowsLogon { account: account(PASSWORD), protocol, always_seal: false, kerberos: Kerberos::default() }
}

/// With tickets from this KDC.
pub(super) fn kerberos(kdc: &Kdc, protocol: WindowsProtocol) -> WindowsLogon {
    let kerberos =
        Kerberos { realm: Some("EXAMPLE.COM".to_owned()), kdc: Some(kdc.address()), service_principal: None };
    WindowsLogon { kerberos, ..windows(protocol) }
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers")
}

/// The Python that has the peer's packages: `./test` names it, otherwise it is made here.
fn peer_python() -> String {
    std::env::var("REKEY_PEER_PYTHON").unwrap_or_else(|_| {
        let made = Process::new(peers().join("venv.sh")).output().unwrap();
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    })
}
