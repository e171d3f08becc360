//! The programs in this folder, which nobody here wrote or which drive what others wrote, as tests start them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy.toml allows it in tests; this is for their helpers"
)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

/// A file of this folder.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A Python program of this folder, run by the Python that has its packages: `./test` names it, otherwise it is made here.
#[must_use]
pub fn python(program: &str) -> Command {
    let python = std::env::var("REKEY_PEER_PYTHON").unwrap_or_else(|_| {
        let made = Command::new(file("venv.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(made.status.success(), "no Python environment could be made: use ./test");
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    });
    let mut command = Command::new(python);
    command.arg(file(program));
    command
}

/// A JavaScript program of the folder `node`, run by the Node that has its packages: `./test` names it, otherwise they are installed here.
#[must_use]
pub fn node(program: &str) -> Command {
    let node = std::env::var("REKEY_PEER_NODE").unwrap_or_else(|_| {
        let made = Command::new(file("node.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(made.status.success(), "no Node packages could be installed: use ./test");
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    });
    let mut command = Command::new(node);
    command.arg(file("node").join(program));
    command
}

/// Runs a program to its end with a line of input: whether it succeeded, and all that it said.
#[must_use]
pub fn run(mut program: Command, input: &str) -> (bool, String) {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{input}").unwrap();
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&told).into_owned())
}

/// A program that says in one line of JSON where it listens; ended by its id when dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    ready: Value,
}

impl Server {
    /// Starts it; it listens when this returns.
    #[must_use]
    pub fn start(mut program: Command) -> Self {
        let mut process = program.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("it says where it listens: ./test installs what it needs");
        Self { process, ready }
    }

    /// A text that it said.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    /// A port that it said.
    #[must_use]
    pub fn port(&self, name: &str) -> u16 {
        u16::try_from(self.ready[name].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A real KDC of the realm EXAMPLE.COM that knows [`Kdc::ACCOUNT`] and the services `HTTP/<host>`.
#[derive(Debug)]
pub struct Kdc {
    server: Server,
    _folder: tempfile::TempDir,
}

impl Kdc {
    /// The account that it knows.
    pub const ACCOUNT: &str = "svc-rotate@EXAMPLE.COM";
    /// Its password.
    pub const PASSWORD: &str = "Passw0rd!";

    /// With services on these hosts; on `localhost` if there are none.
    #[must_use]
    pub fn start(hosts: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Command::new(file("kdc.sh"));
        program.arg(folder.path()).args(hosts);
        Self { server: Server::start(program), _folder: folder }
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port("port"))
    }

    /// The keys of its services.
    #[must_use]
    pub fn keytab(&self) -> &Path {
        Path::new(self.server.text("keytab"))
    }

    /// The key of [`Kdc::ACCOUNT`].
    #[must_use]
    pub fn user_keytab(&self) -> &Path {
        Path::new(self.server.text("user_keytab"))
    }

    /// What MIT's library finds it by, as `KRB5_CONFIG`.
    #[must_use]
    pub fn krb5_conf(&self) -> &Path {
        Path::new(self.server.text("krb5_conf"))
    }
}
