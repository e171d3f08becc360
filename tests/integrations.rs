//! The sender kits of docs/integrations/, executed as they stand there, against the binary.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use lab::{Lab, Options};
use serde_json::{Value as Json, json};
use tokio::process::Command;

use crate::support::{Rekey, people};

/// Base64 of 32 bytes.
const SECRET: &str = "whsec_YSBzZWNyZXQgb2YgMzIgYnl0ZXMsIG5vIG1vcmUuLi4=";

fn kit(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/integrations").join(file).canonicalize().unwrap()
}

/// A service on a lab that takes deliveries of one source.
struct Scene {
    lab: Lab,
    rekey: Rekey,
    config: PathBuf,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        let lab = Lab::start(Options { scale: 14_400.0, ..Options::default() }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = lab.write_files(folder.path()).unwrap().config;
        std::fs::write(config.with_file_name("acme.secret"), SECRET).unwrap();
        let source = "\n[[source]]\nid = \"acme\"\nkind = \"servicenow\"\norganization = \"contoso\"\nsecrets = [\"file:acme.secret\"]
[[source]]\nid = \"acme-jira\"\nkind = \"jira\"\norganization = \"contoso\"\naccept = [\"bearer\"]\n";
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{text}{source}")).unwrap();
        let rekey = Rekey::serve(&config).await;
        Self { lab, rekey, config, folder }
    }

    async fn run(&self, command: &mut Command) -> Output {
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command.output().await.unwrap()
    }

    async fn stop(mut self) {
        self.rekey.stop().await;
        self.lab.shutdown().await;
    }
}

fn record() -> Json {
    serde_json::from_str(include_str!("data/servicenow-change.json")).unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_playbook_raises_a_renewal_approves_as_somebody_else_waits_and_prints_the_evidence() {
    let scene = Scene::start().await;
    let [alice, bob] = people(&scene.config, [("alice", "requester"), ("bob", "approver")]).await;
    let evidence = scene.folder.path().join("evidence.json");
    let mut command = Command::new(peers::python("").get_program().to_owned());
    command.args(["-m", "ansible", "playbook"]).arg(kit("ansible/renew.yml"));
    command.args(["-e", &format!("rekey_url={}", scene.rekey.url())]);
    command.args(["-e", "rekey_organization=contoso", "-e", "rekey_change=CHG0030022", "-e", "rekey_poll_seconds=1"]);
    command.args(["-e", &format!("rekey_evidence={}", evidence.display())]);
    command.env("REKEY_REQUESTER_TOKEN", alice.token()).env("REKEY_APPROVER_TOKEN", bob.token());
    command
        .env("ANSIBLE_HOME", scene.folder.path().join("ansible"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("LC_ALL", "C.UTF-8");
    let output = scene.run(&mut command).await;
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("The renewal has succeeded") && said.contains("clear_previous"), "{said}");
    assert!(!said.contains(alice.token()) && !said.contains(bob.token()), "{said}");
    let kept: Json = serde_json::from_slice(&std::fs::read(&evidence).unwrap()).unwrap();
    assert_eq!(kept["renewal"]["state"]["status"], "succeeded");
    assert_eq!(kept["renewal"]["requested_by"], "alice");
    assert!(said.contains(kept["renewal"]["plan_digest"].as_str().unwrap()), "{said}");
    let decisions = kept["decisions"].as_array().unwrap();
    assert!(!decisions.is_empty() && decisions.iter().all(|decision| decision["decided_by"] == "bob"), "{decisions:?}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_curl_script_signs_a_change_that_is_taken_once() {
    let scene = Scene::start().await;
    let [vera] = people(&scene.config, [("vera", "auditor")]).await;
    let file = scene.folder.path().join("change.json");
    std::fs::write(&file, record().to_string()).unwrap();
    let send = async |secret: &str| {
        let mut command = Command::new("bash");
        command.arg(kit("curl/send-change.sh")).arg("servicenow/acme").arg(&file);
        scene.run(command.env("REKEY_URL", scene.rekey.url()).env("REKEY_SECRET", secret)).await
    };
    let (first, again) = (send(SECRET).await, send(SECRET).await);
    assert!(first.status.success() && first.stdout == again.stdout, "{}\n{}", text(&first), text(&again));
    let answer: Json = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!((&answer["verdict"], &answer["ticket"]), (&json!("accepted"), &json!("CHG0030022")));
    let refused = send(&SECRET.replace("Li4=", "ISE=")).await;
    assert!(!refused.status.success() && text(&refused).contains("bad_signature"), "{}", text(&refused));
    let renewals = vera.get(&scene.rekey, "/v1/renewals").await;
    assert_eq!(renewals["items"].as_array().unwrap().len(), 1);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_business_rule_signs_what_servicenow_holds_and_logs_what_is_refused() {
    let scene = Scene::start().await;
    let [vera] = people(&scene.config, [("vera", "auditor")]).await;
    let properties = |secret: &str| {
        json!({
            "instance_name": "acme", "rekey.url": scene.rekey.url(), "rekey.source": "acme", "rekey.secret": secret,
            "rekey.organization": "contoso"
        })
    };
    let rule = async |secret: &str, change: &Json| -> Vec<Json> {
        let mut command = Command::new("node");
        command.arg(peers::file("servicenow_rule.mjs")).arg(kit("servicenow/business-rule.js"));
        let output = scene.run(command.arg(properties(secret).to_string()).arg(change.to_string())).await;
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    // What forced substitution and XML escaping would have changed.
    let mut change = record();
    change["short_description"] = json!("Renew ${certificate} & tell {everybody}: \u{e4}\u{f6}\u{fc} \u{1f511}");
    let logged = rule(SECRET, &change).await;
    assert_eq!(logged[0]["status"], 202, "{logged:?}");
    let answer: Json = serde_json::from_str(logged[0]["body"].as_str().unwrap()).unwrap();
    let renewal = vera.get(&scene.rekey, answer["renewal"].as_str().unwrap()).await;
    assert_eq!(renewal["request"]["note"], change["short_description"]);
    assert_eq!(renewal["requested_by"], "dana.fox@acme.example");
    assert_eq!(renewal["request"]["not_before"], "2026-12-01T20:00:00Z");
    change["sys_mod_count"] = json!("8");
    change["on_hold"] = json!("true");
    rule(SECRET, &change).await;
    let held = vera.get(&scene.rekey, answer["renewal"].as_str().unwrap()).await;
    assert_eq!(held["ticket_standing"]["word"], "on_hold");
    let refused = rule(&SECRET.replace("Li4=", "ISE="), &change).await;
    assert_eq!((&refused[0]["status"], &refused[1]["level"]), (&json!(401), &json!("error")), "{refused:?}");
    assert!(!refused[1]["text"].as_str().unwrap().contains("whsec"));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jira_rule_sends_what_is_taken() {
    let scene = Scene::start().await;
    let [jira] = people(&scene.config, [("jira", "requester")]).await;
    let rule: Json = serde_json::from_slice(&std::fs::read(kit("jira/automation-rule.json")).unwrap()).unwrap();
    let action = &rule["rules"][0]["components"][0]["value"];
    let (_, path) = action["url"].as_str().unwrap().split_once(".example").unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.post(format!("{}{path}", scene.rekey.url()));
    for header in action["headers"].as_array().unwrap() {
        let value = header["value"].as_str().unwrap().replace("REKEY_TOKEN", jira.token());
        request = request.header(header["name"].as_str().unwrap(), value);
    }
    let issue = json!({
        "id": 10002, "key": "CHG-17", "self": "https://acme.atlassian.net/rest/api/2/issue/10002",
        "fields": {
            "summary": "Renew the Auth certificate", "status": {"name": "Planning"}, "updated": "2026-11-23T10:15:02.000+0100",
            "reporter": {"accountId": "5b10a2844c20165700ede21g"}
        }
    });
    let answer: Json = request.json(&issue).send().await.unwrap().json().await.unwrap();
    assert_eq!((&answer["verdict"], &answer["ticket"]), (&json!("accepted"), &json!("CHG-17")), "{answer:#}");
    scene.stop().await;
}
