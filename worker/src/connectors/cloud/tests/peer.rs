//! An independent tenant.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{TimeDelta, Utc};
use domain::Timeline;
use peers::Server;
use serde_json::{Value as Json, json};

use super::super::*;
use crate::{
    certificate::{AuthCertificate, KeySize, Request},
    connectors::Trust,
    sealing::KeyPair,
};

pub(super) const TENANT: &str = "6b1f5b5e-7a0d-4f57-9a1d-0d7c8a3f2b11";
/// rekey's own application.
pub(super) const CLIENT: &str = "0f3e7f0e-6f1c-4b0e-9a58-5c6d3f0a7e21";
/// The application that Exchange uses.
pub(super) const EXCHANGE_APP: &str = "8f5bb4b0-9a3f-4a0f-9d3b-8f4a9c3b2a10";
pub(super) const OBJECT: &str = "c0ffee00-1111-4222-8333-444455556666";

pub(super) struct Peer {
    server: Server,
    folder: tempfile::TempDir,
    /// rekey's own certificate.
    pub(super) own: KeyPair,
    http: Client,
}

/// A certificate with its key that begins so many days ago and stands so many.
pub(super) fn pair_of(begins: i64, days: u32) -> KeyPair {
    let now = Utc::now() - TimeDelta::days(begins);
    let made = AuthCertificate::generate(&Request { key_size: KeySize::Rsa2048, lifetime_days: days, now }).unwrap();
    KeyPair { certificate_der: made.certificate_der, private_key_pkcs8: made.private_key_pkcs8 }
}

pub(super) fn pair() -> KeyPair {
    pair_of(0, 1826)
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(super) fn certificate_pem(pair: &KeyPair) -> String {
    pem("CERTIFICATE", &pair.certificate_der)
}

impl Peer {
    /// With rekey's own application, which has its certificate.
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut program = peers::python("cloud_peer.py");
        program.arg("--work-dir").arg(folder.path());
        for name in ["outlook.example", "eur01.outlook.example", "elsewhere.example"] {
            program.args(["--name", name]);
        }
        let server = Server::start(program);
        let own = pair();
        std::fs::write(folder.path().join("own.pem"), certificate_pem(&own)).unwrap();
        std::fs::write(folder.path().join("own.key"), pem("PRIVATE KEY", &own.private_key_pkcs8)).unwrap();
        let http = Client::builder().no_proxy().build().unwrap();
        let peer = Self { server, folder, own, http };
        peer.client(CLIENT, &[&peer.own]).await;
        peer
    }

    pub(super) fn base(&self) -> String {
        format!("https://localhost:{}", self.server.port("https_port"))
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// The way there, as a worker that was configured with PEM files goes it.
    pub(super) fn way(&self) -> Way {
        let read = |name: &str| std::fs::read(self.file(name)).unwrap();
        let port = self.server.port("https_port");
        let hosts = ["outlook.example", "eur01.outlook.example", "elsewhere.example", "localhost"];
        let at = |host: &&str| (format!("{host}:443"), format!("127.0.0.1:{port}"));
        let outlook = "https://outlook.example";
        Way {
            endpoints: CloudEndpoints::custom(&self.base(), &self.base(), outlook).unwrap(),
            tenant: TENANT.to_owned(),
            credentials: AppCredentials {
                client_id: CLIENT.to_owned(),
                signer: Signer::from_pem(&read("own.pem"), &read("own.key")).unwrap(),
            },
            tls: Trust::ca(&read("ca.pem")).build().unwrap(),
            connect_to: hosts.iter().map(at).collect(),
            anchor: None,
            timeline: Timeline::real(),
            patience: Patience {
                tries: 5,
                first: Duration::from_millis(5),
                longest: Duration::from_secs(3),
                apart: Duration::from_millis(1),
            },
        }
    }

    pub(super) fn cloud(&self) -> Cloud {
        Cloud::new(self.way()).unwrap()
    }

    pub(super) async fn tell(&self, path: &str, what: Json) {
        let url = format!("http://127.0.0.1:{}{path}", self.server.port("admin_port"));
        self.http.post(url).json(&what).send().await.unwrap().error_for_status().unwrap();
    }

    pub(super) async fn client(&self, id: &str, pairs: &[&KeyPair]) {
        let certificates: Vec<String> = pairs.iter().map(|pair| certificate_pem(pair)).collect();
        self.tell("/clients", json!({ "client_id": id, "certificates": certificates })).await;
    }

    /// The application that Exchange uses, with these certificates.
    pub(super) async fn application(&self, pairs: &[&KeyPair]) {
        let certificates: Vec<String> = pairs.iter().map(|pair| certificate_pem(pair)).collect();
        let object = json!({
            "id": OBJECT, "appId": EXCHANGE_APP, "displayName": "ExchangeServerApp-a", "createdDateTime": "2025-05-01T00:00:00Z"
        });
        self.tell("/objects", json!({ "kind": "applications", "object": object, "certificates": certificates })).await;
    }

    pub(super) async fn fault(&self, fault: Json) {
        self.tell("/faults", fault).await;
    }

    /// What was asked of one of the services.
    pub(super) async fn asked(&self, on: &str, method: &str) -> Vec<Json> {
        let url = format!("http://127.0.0.1:{}/requests", self.server.port("admin_port"));
        let all: Vec<Json> = self.http.get(url).send().await.unwrap().json().await.unwrap();
        all.into_iter().filter(|asked| asked["on"] == on && asked["method"] == method).collect()
    }
}
