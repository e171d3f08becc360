//! A whole lab, over its ports: driven by pypsrp, a client by others, and by plain HTTP.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

use std::{path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use lab::{
    Lab, Options,
    faults::{
        Fault,
        wire::{Action, Disturbance, Requests},
    },
    journal::EffectKind,
    server::Power,
};
use peers::Kdc;
use psrp::{
    Command as Cmdlet, Secret,
    client::{ClientError, Configuration, Event, Pool},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_by_others_drives_the_lab() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let server = &lab.servers()[0];
    let mut verifier = peers::python("verify_lab.py");
    verifier
        .args(["--url", &format!("https://{}/PowerShell/", server.https)])
        .args(["--windows-url", &format!("https://{}/wsman", server.windows)])
        .args(["--control", &lab.control_url(), "--user", lab.username(), "--ca"])
        .arg(&files.ca);
    let password = lab.password().expose().to_owned();
    let (passed, told) = tokio::task::spawn_blocking(move || peers::run(verifier, &password)).await.unwrap();
    assert!(passed, "{told}");
    let report = lab.report();
    assert_eq!(report.counts[&EffectKind::Publish].changed, 1);
    assert!(report.cmdlets.iter().all(|asked| asked.parameters.iter().all(|(_, value)| !value.contains("sesame"))));
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_by_others_logs_on_in_every_way() {
    let kdc = Kdc::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::start(Options { keytab: Some(kdc.keytab().to_owned()), ..account() }).await.unwrap();
    let mut verifier = logons(&lab, folder.path());
    verifier.env("KRB5_CONFIG", kdc.krb5_conf());
    let (passed, told) = tokio::task::spawn_blocking(move || peers::run(verifier, Kdc::PASSWORD)).await.unwrap();
    assert!(passed && told.contains("kerberos over HTTP, sealed"), "{told}");
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_microsofts_sign_in_to_the_tenant_and_roll_keys() {
    let lab = Lab::start(Options { hybrid: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let (cloud, keys) = (lab.cloud().unwrap(), files.cloud.unwrap());
    let mut verifier = peers::python("verify_cloud.py");
    verifier
        .args(["--url", &cloud.url, "--control", &lab.control_url()])
        .args(["--tenant", &cloud.tenant_id.to_string(), "--client", &cloud.client_id.to_string()])
        .arg("--certificate")
        .arg(keys.certificate)
        .arg("--key")
        .arg(keys.key)
        .arg("--ca")
        .arg(&files.ca);
    let (passed, told) = tokio::task::spawn_blocking(move || peers::run(verifier, "")).await.unwrap();
    assert!(passed, "{told}");
    let report = lab.report();
    assert_eq!(report.counts[&EffectKind::AddCloudKey].changed, 2);
    assert_eq!(report.counts[&EffectKind::RemoveCloudKey].changed, 2);
    assert_eq!(report.trust.refused, 0, "{:#?}", report.trust.refusals);
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_servicenow_takes_the_lab_for_an_instance() {
    let lab = Lab::start(Options { tickets: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let tickets = lab.tickets().unwrap();
    // The second time it meets what the first has left there.
    for time in ["first", "second"] {
        let mut verifier = peers::python("verify_servicenow.py");
        let (url, user) = (&tickets.servicenow_url, &tickets.servicenow_user);
        verifier.args(["--url", url, "--control", &lab.control_url(), "--user", user]).arg("--ca").arg(&files.ca);
        let password = tickets.servicenow_password.expose().to_owned();
        let (passed, told) = tokio::task::spawn_blocking(move || peers::run(verifier, &password)).await.unwrap();
        assert!(passed, "the {time} time: {told}");
    }
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_jira_takes_the_lab_for_a_site() {
    let lab = Lab::start(Options { tickets: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let tickets = lab.tickets().unwrap();
    let mut verifier = peers::node("verify_jira.mjs");
    verifier.args([&tickets.jira_url, &lab.control_url(), &tickets.jira_user]).env("NODE_EXTRA_CA_CERTS", &files.ca);
    let token = tickets.jira_token.expose().to_owned();
    let (passed, told) = tokio::task::spawn_blocking(move || peers::run(verifier, &token)).await.unwrap();
    assert!(passed, "{told}");
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_with_extended_protection_wants_the_channel_named() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::start(Options { require_channel_binding: true, ..account() }).await.unwrap();
    let mut verifier = logons(&lab, folder.path());
    verifier.arg("--only-bound");
    let (passed, told) = tokio::task::spawn_blocking(move || peers::run(verifier, Kdc::PASSWORD)).await.unwrap();
    assert!(passed, "{told}");
    lab.shutdown().await;
}

#[tokio::test]
async fn a_keytab_that_is_none_is_told_before_anything_listens() {
    let folder = tempfile::tempdir().unwrap();
    let keytab = folder.path().join("http.keytab");
    let start = || Lab::start(Options { keytab: Some(keytab.clone()), ..account() });
    let told = format!("{:#}", start().await.unwrap_err());
    assert!(told.contains("http.keytab") && told.contains("No such file"), "{told}");
    std::fs::write(&keytab, "PK").unwrap();
    let told = format!("{:#}", start().await.unwrap_err());
    assert!(told.contains("http.keytab") && told.contains("no keytab of format 0x0502"), "{told}");
}

/// The account that the KDC knows.
fn account() -> Options {
    let (username, password) = (Kdc::ACCOUNT.to_owned(), Some(Secret::new(Kdc::PASSWORD)));
    Options { username, password, ..Options::default() }
}

fn logons(lab: &Lab, folder: &Path) -> Command {
    let server = &lab.servers()[0];
    let mut verifier = peers::python("verify_lab_logons.py");
    verifier
        .args(["--https", &format!("https://{}/PowerShell/", server.https)])
        .args(["--http", &format!("http://{}/PowerShell/", server.http)])
        .args(["--windows-http", &format!("http://{}/wsman", server.windows_http)])
        .args(["--user", lab.username(), "--ca"])
        .arg(lab.write_files(folder).unwrap().ca);
    verifier
}

#[tokio::test]
async fn the_control_api_shows_and_moves_the_lab() {
    let lab = Lab::start(Options { scale: 60.0, ..Options::default() }).await.unwrap();
    let clock = control(&lab, "GET", "/clock", None).await.1;
    assert_eq!(clock["scale"], 60.0);
    assert!(clock["real_origin"].is_string() && clock["virtual_origin"].is_string() && clock["now"].is_string());
    let before = lab.now();
    assert_eq!(control(&lab, "POST", "/clock/advance", Some(json!({ "seconds": 86_400 }))).await.0, 204);
    assert!(lab.now() - before >= TimeDelta::days(1));
    let probe = control(&lab, "GET", "/probe", None).await.1;
    assert!(probe["checked"].as_u64().unwrap() > 1_000 && probe["refused"] == 0, "{probe}");
    let state = control(&lab, "GET", "/state", None).await.1;
    assert_eq!(state["controllers"][1]["fqdn"], "dc02.contoso.example");
    assert_eq!(state["servers"][2]["certificates"][0]["provider"]["kind"], "csp");
}

#[tokio::test]
async fn the_control_api_shows_the_tenant_and_takes_its_knobs() {
    let lab = Lab::start(Options { hybrid: true, ..Options::default() }).await.unwrap();
    let tenant = control(&lab, "GET", "/state", None).await.1["tenant"].take();
    assert_eq!(tenant["path"], "dedicated");
    assert_eq!(tenant["objects"][0]["replicas"].as_array().unwrap().len(), 3, "{tenant}");
    let faults = json!([
        { "kind": "cloud", "service": "graph", "method": "PATCH", "skip": 1, "do": { "throttle": 5 } },
        { "kind": "cloud", "do": { "exception": { "status": 500, "class": "DCOverloadedException" } } },
        { "kind": "cloud_keys", "change": "add" },
        { "kind": "cloud_permission", "permission": "exchange_administrator", "granted": false },
        { "kind": "hybrid_object", "class": "auth_server", "name": "EvoSts*", "set": { "Enabled": false } },
        { "kind": "hybrid_object", "side": "exchange_online", "class": "organization_relationship" },
        { "kind": "key_lifetime", "max": "P180D", "scope": "application" },
        { "kind": "region", "to": "elsewhere" },
        { "kind": "tenant_lag", "replica_seconds": 600 },
    ]);
    let (status, told) = control(&lab, "POST", "/faults", Some(faults)).await;
    assert_eq!(status, 204, "{told}");
    let tenant = control(&lab, "GET", "/state", None).await.1["tenant"].take();
    assert!(tenant["path"].is_null(), "{tenant}");
    assert_eq!(tenant["objects"][0]["replicas"][0].as_array().unwrap().len(), 3, "{tenant}");
    assert_eq!(tenant["objects"][0]["replicas"][2].as_array().unwrap().len(), 2, "{tenant}");
    let probe = control(&lab, "GET", "/probe", None).await.1;
    assert!(probe["legs"]["dedicated"]["checked"].as_u64().unwrap() > 0, "{probe}");
    assert_eq!(control(&lab, "GET", "/cloud", None).await.1, json!([]));
    let unknown = json!({ "kind": "hybrid_object", "class": "auth_server", "name": "Nobody" });
    assert_eq!(control(&lab, "POST", "/faults", Some(unknown)).await.0, 400);
    let alone = Lab::start(Options::default()).await.unwrap();
    assert_eq!(control(&alone, "POST", "/faults", Some(json!({ "kind": "cloud_keys", "change": "add" }))).await.0, 400);
    assert!(control(&alone, "GET", "/state", None).await.1["tenant"].is_null());
}

#[tokio::test]
async fn faults_come_and_go_over_the_control_api() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let faults = json!([
        { "kind": "power", "server": "EX03", "power": "down" },
        { "kind": "operator_change" },
        { "kind": "wire", "action": "create", "do": "drop" },
    ]);
    assert_eq!(control(&lab, "POST", "/faults", Some(faults)).await.0, 204);
    let effects = control(&lab, "GET", "/effects", None).await.1;
    assert_eq!(effects["counts"]["set_auth_config_next"], json!({ "total": 1, "changed": 1 }));
    assert_eq!(lab.state().servers[2].power, Power::Down);
    assert_eq!(ask(&lab, "Get-AuthConfig").await, "cut");
    let requests = control(&lab, "GET", "/requests", None).await.1;
    let first =
        json!({ "server": "ex01.contoso.example", "endpoint": "exchange", "action": "create", "disturbed": true });
    assert_eq!(requests, json!([first]));
    for bad in [
        json!({ "kind": "flood" }),
        json!({ "kind": "power", "server": "EX09", "power": "up" }),
        json!({ "kind": "wire", "server": "EX09", "do": "drop" }),
        json!(7),
    ] {
        let (status, told) = control(&lab, "POST", "/faults", Some(bad)).await;
        assert!(status == 400 && told["error"].is_string(), "{told}");
    }
    assert_eq!(control(&lab, "POST", "/clock/advance", Some(json!({ "seconds": -1 }))).await.0, 400);
    assert_eq!(control(&lab, "DELETE", "/faults", None).await.0, 204);
    assert_eq!(lab.state().servers[2].power, Power::Up);
    assert_eq!(control(&lab, "PUT", "/faults", None).await.0, 405);
    assert_eq!(control(&lab, "GET", "/", None).await.0, 404);
}

#[tokio::test]
async fn a_server_that_is_down_answers_nothing_and_one_that_is_up_asks_for_a_password() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let post = "POST /PowerShell/ HTTP/1.1\r\nHost: ex01\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let server = lab.servers()[0].http;
    let told = exchange(server, post).await;
    assert!(told.starts_with("HTTP/1.1 401 ") && told.to_lowercase().contains("www-authenticate: basic"), "{told}");
    lab.apply(Fault::Power { server: "EX01".to_owned(), power: Power::Down }).unwrap();
    assert_eq!(exchange(server, post).await, "");
    lab.heal();
    assert!(exchange(server, post).await.starts_with("HTTP/1.1 401 "));
}

#[tokio::test]
async fn a_request_that_is_disturbed_is_answered_as_the_fault_says() {
    let fault = |code| Disturbance::Fault { code, subcode: "w:AccessDenied".to_owned(), reason: "No.".to_owned() };
    for (action, disturbance, expected, shells) in [
        (Action::Create, Disturbance::Drop, "cut", 0),
        (Action::Create, Disturbance::DropAfter, "cut", 1),
        (Action::Create, Disturbance::Status(503), "HTTP status 503", 0),
        (Action::Create, fault(5), "No. (w:AccessDenied, 5)", 0),
        (Action::Create, Disturbance::Malformed, "protocol error", 1),
        (Action::Receive, Disturbance::Timeout, "ended", 1),
        (Action::Receive, Disturbance::Delay(1), "ended", 1),
        (Action::Receive, Disturbance::KillShell, "the shell is gone", 0),
        (Action::Receive, Disturbance::Duplicate, "protocol error: object 1 came after object 1", 1),
        (Action::Receive, Disturbance::OutOfOrder, "protocol error: object 2 came after object 3", 1),
        (Action::Command, Disturbance::DropAfter, "cut", 1),
    ] {
        let lab = Lab::start(Options::default()).await.unwrap();
        let requests = Requests { action: Some(action), ..Requests::default() };
        let case = format!("{disturbance:?} at {action:?}");
        lab.apply(Fault::Wire { requests, disturbance }).unwrap();
        let heard = ask(&lab, "Get-AuthConfig").await;
        assert!(heard.starts_with(expected), "{case}: {heard}");
        assert_eq!(lab.shells(), shells, "{case}");
        assert_eq!(lab.report().requests.iter().filter(|asked| asked.disturbed).count(), 1, "{case}");
    }
}

#[tokio::test]
async fn the_only_fragment_of_an_answer_comes_as_two_in_the_wrong_order() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let requests = Requests { action: Some(Action::Receive), skip: 1, ..Requests::default() };
    lab.apply(Fault::Wire { requests, disturbance: Disturbance::OutOfOrder }).unwrap();
    // No such cmdlet: all that is answered is how it ended.
    let heard = ask(&lab, "Get-Nothing").await;
    assert_eq!(heard, "protocol error: fragment 1 of object 4 came before fragment 0");
}

/// What a client hears that runs a cmdlet: that it ended, or what went wrong.
async fn ask(lab: &Lab, cmdlet: &str) -> String {
    let options = psrp::client::Options::new("http://ex01.contoso.example/PowerShell/", Configuration::Exchange);
    let mut pool = Pool::new(options);
    pool.start(Cmdlet::new(cmdlet).into()).unwrap();
    loop {
        while let Some(event) = pool.poll_event() {
            if let Event::Ended { .. } = event {
                return "ended".to_owned();
            }
        }
        let body = String::from_utf8(pool.poll_transmit().unwrap().body).unwrap();
        match answer(&mut pool, &post(lab, &body).await) {
            Ok(()) => {}
            Err(why) => return why,
        }
    }
}

fn answer(pool: &mut Pool, told: &str) -> Result<(), String> {
    let (head, body) = told.split_once("\r\n\r\n").ok_or("cut")?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    pool.handle_response(status, body.as_bytes()).map_err(|error: ClientError| error.to_string())
}

async fn post(lab: &Lab, body: &str) -> String {
    let logon = STANDARD.encode(format!("{}:{}", lab.username(), lab.password().expose()));
    let request = format!(
        "POST /PowerShell/ HTTP/1.1\r\nHost: ex01\r\nAuthorization: Basic {logon}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    exchange(lab.servers()[0].http, &request).await
}

#[tokio::test]
async fn a_lab_that_is_started_again_is_found_where_it_was() {
    let (lab, base_port) = lab_on_fixed_ports().await;
    let places = |lab: &Lab| lab.servers().iter().map(|s| (s.https, s.http, s.windows)).collect::<Vec<_>>();
    let before = places(&lab);
    assert_eq!(lab.control_url(), format!("http://127.0.0.1:{base_port}"));
    lab.shutdown().await;
    let lab = Lab::start(Options { base_port: Some(base_port), ..Options::default() }).await.unwrap();
    assert_eq!(places(&lab), before);
}

/// Below the ports that systems give away by themselves, so that only a fixed one can be in the way.
async fn lab_on_fixed_ports() -> (Lab, u16) {
    for base_port in (21_000..32_000).step_by(16) {
        if let Ok(lab) = Lab::start(Options { base_port: Some(base_port), ..Options::default() }).await {
            return (lab, base_port);
        }
    }
    panic!("no ten ports in a row are free")
}

#[tokio::test]
async fn the_files_for_rekey_hold_no_password_but_say_where_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(&folder.path().join("new")).unwrap();
    let text = std::fs::read_to_string(&files.config).unwrap();
    assert!(!text.contains(lab.password().expose()));
    assert_eq!(std::fs::read_to_string(&files.password).unwrap(), lab.password().expose());
    assert_eq!(std::fs::metadata(&files.password).unwrap().permissions().mode() & 0o777, 0o600);
    let configuration: toml::Table = toml::from_str(&text).unwrap();
    let organization = &configuration["organization"][0];
    assert_eq!(organization["exchange"]["urls"].as_array().unwrap().len(), 3);
    assert_eq!(organization["windows"]["url"].as_str(), Some("https://{fqdn}:5986/wsman"));
    let place = organization["connect_to"]["ex02.contoso.example:5986"].as_str().unwrap();
    assert_eq!(place, lab.servers()[1].windows.to_string());
}

#[tokio::test]
async fn the_files_of_a_hybrid_lab_say_where_the_tenant_is_and_hold_no_key_but_in_a_file_of_its_own() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::start(Options { hybrid: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let text = std::fs::read_to_string(&files.config).unwrap();
    assert!(!text.contains("PRIVATE KEY"));
    let configuration: toml::Table = toml::from_str(&text).unwrap();
    let cloud = &configuration["organization"][0]["cloud"];
    let told = lab.cloud().unwrap();
    assert_eq!(cloud["tenant_id"].as_str(), Some(told.tenant_id.to_string().as_str()));
    for name in ["login_url", "graph_url", "outlook_url"] {
        assert_eq!(cloud[name].as_str(), Some(told.url.as_str()), "{name}");
    }
    let references = ["certificate", "certificate_key"].map(|name| cloud[name].as_str().unwrap());
    assert_eq!(references, ["file:lab-cloud.pem", "file:lab-cloud-key.pem"]);
    let written = files.cloud.unwrap();
    assert!(std::fs::read_to_string(&written.certificate).unwrap().starts_with("-----BEGIN CERTIFICATE-----\nMII"));
    assert!(std::fs::read_to_string(&written.key).unwrap().starts_with("-----BEGIN PRIVATE KEY-----\nMII"));
    assert_eq!(std::fs::metadata(&written.key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Lab::start(Options::default()).await.unwrap().cloud().is_none());
}

/// Sends a request as it is and reads until the other side closes; nothing if it was cut.
async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    // A lab that cuts the connection may do so before all is written or read.
    if stream.write_all(request.as_bytes()).await.is_ok() {
        stream.read_to_end(&mut answer).await.ok();
    }
    String::from_utf8(answer).unwrap()
}

async fn control(lab: &Lab, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let address = lab.control_url().trim_start_matches("http://").parse().unwrap();
    let answer = exchange(address, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}
