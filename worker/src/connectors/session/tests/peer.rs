//! An independent server, and a KDC.

use std::{collections::BTreeMap, path::Path};

use peers::{Kdc, Server};
use secrecy::SecretString;
use serde_json::{Value as Json, json};

use crate::connectors::{
    Account, Credentials, Endpoint, Endpoints, Identity, Kerberos, MAX_ENVELOPE_SIZE, MAX_SESSIONS, Proof, Sessions,
    Trust, WindowsLogon, WindowsProtocol,
};

pub(super) const PASSWORD: &str = Kdc::PASSWORD;

/// psrpcore's state machine behind a WS-Management layer that counts violations of the protocol.
pub(super) struct Peer {
    server: Server,
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
        let mut program = peers::python("exchange_peer.py");
        program.arg("--work-dir").arg(folder.path()).args(options);
        if let Some(kdc) = kdc {
            program.args(["--spn-host", "localhost", "--keytab"]).arg(kdc.keytab());
            program.env("KRB5_CONFIG", kdc.krb5_conf());
        }
        Self { server: Server::start(program), _folder: folder }
    }

    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/PowerShell/", self.port(scheme))
    }

    pub(super) fn port(&self, scheme: &str) -> String {
        self.server.port(&format!("{scheme}_port")).to_string()
    }

    pub(super) fn trust(&self) -> Trust {
        Trust::ca(&self.file("ca.pem"))
    }

    /// A certificate that the peer takes for a logon.
    pub(super) fn identity(&self) -> Identity {
        Identity { certificates: self.file("client.pem"), key: self.file("client.key").into() }
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(Path::new(self.server.text("work_dir")).join(name)).unwrap()
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
        format!("http://127.0.0.1:{}{path}", self.server.port("admin_port"))
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

pub(super) fn password(text: &str) -> Proof {
    Proof::Password(SecretString::from(text.to_owned()))
}

pub(super) fn basic(password: &str) -> Credentials {
    Credentials::Basic(account(password))
}

pub(super) fn windows(protocol: WindowsProtocol) -> WindowsLogon {
    let (Account { username, .. }, proof) = (account(PASSWORD), password(PASSWORD));
    WindowsLogon { username, proof, protocol, always_seal: false, kerberos: Kerberos::default() }
}

/// With tickets from this KDC.
pub(super) fn kerberos(kdc: &Kdc, protocol: WindowsProtocol) -> WindowsLogon {
    let kerberos =
        Kerberos { realm: Some("EXAMPLE.COM".to_owned()), kdc: Some(kdc.address()), service_principal: None };
    WindowsLogon { kerberos, ..windows(protocol) }
}
