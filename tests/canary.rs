//! Secrets stay where they belong: after a whole run none of them stands in a log, in the database, or in an answer.

use lab::{Lab, Options};
use serde_json::json;

use crate::support::{Rekey, people};

/// `AlgorithmIdentifier rsaEncryption, OCTET STRING`: stands in every PKCS#8 RSA private key, and in no public one (RFC 5958 2, RFC 8017 A.1).
const PRIVATE_KEY: [u8; 16] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x04];

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaves_its_place_in_a_whole_run() {
    let lab = Lab::start(Options { scale: 14_400.0, hybrid: true, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    add_targets(&files.config);
    let mut rekey = Rekey::serve(&files.config).await;
    let [alice, bob] = people(&files.config, [("alice", "requester"), ("bob", "approver")]).await;
    let raised = alice.post(&rekey, "/v1/renewals", &json!({ "organization": "contoso" })).await;
    let id = raised["id"].as_str().unwrap().to_owned();
    bob.approve_all(&rekey, &id).await;
    let mut answers = Vec::new();
    for part in ["", "/plan", "/steps", "/decisions", "/audit?limit=200", "/evidence"] {
        answers.push(bob.get(&rekey, &format!("/v1/renewals/{id}{part}")).await.to_string());
    }
    for part in ["", "/servers", "/certificates", "/auth-config", "/policy", "/hybrid"] {
        answers.push(bob.get(&rekey, &format!("/v1/organizations/contoso{part}")).await.to_string());
    }
    let outbox = bob.get(&rekey, "/v1/outbox").await;
    assert!(outbox["items"].as_array().unwrap().len() > 3, "there is much to tell: {outbox}");
    answers.push(outbox.to_string());
    let log = rekey.stop().await;
    assert!(log.contains("Finished distribute"), "the log tells of the run: {log}");
    assert!(log.contains("Finished trust_cloud"), "the tenant was signed in to: {log}");
    let database: Vec<u8> = ["rekey.db", "rekey.db-wal"]
        .iter()
        .filter_map(|name| std::fs::read(folder.path().join("rekey-data").join(name)).ok())
        .flatten()
        .collect();
    assert!(database.len() > 10_000);
    let secrets = secrets(&lab, folder.path(), &[alice.token(), bob.token()]);
    let places =
        [("the log", log.into_bytes()), ("an answer", answers.concat().into_bytes()), ("the database", database)];
    for (place, bytes) in places {
        for (name, secret) in &secrets {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{name} stands in {place}");
        }
    }
}

/// What the targets below are reached with.
const OF_TARGETS: [(&str, &str); 3] = [
    ("the signing key", "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LTAx"),
    ("the URL of the chat", "http://127.0.0.1:1/services/canary-of-the-chat"),
    ("the password of the mail server", "canary-of-the-mail-server"),
];

/// Targets of each kind, none of which answers: what fails is what is written about.
fn add_targets(config: &std::path::Path) {
    let folder = config.parent().unwrap();
    for (number, (_, secret)) in OF_TARGETS.iter().enumerate() {
        std::fs::write(folder.join(format!("target-{number}")), secret).unwrap();
    }
    let targets = r#"
        [outbound]
        public_url = "https://rekey.contoso.example"
        allow = ["127.0.0.0/8:*"]
        [[target]]
        id = "cmdb"
        kind = "webhook"
        url = "http://127.0.0.1:1/"
        secrets = ["file:target-0"]
        [[target]]
        id = "chat"
        kind = "slack"
        url = "file:target-1"
        [[target]]
        id = "mail"
        kind = "smtp"
        server = "127.0.0.1"
        port = 1
        username = "rekey"
        password = "file:target-2"
        from = "rekey@contoso.example"
        to = ["bob@contoso.example"]
    "#;
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{text}\n{targets}")).unwrap();
}

/// Everything that must not be found, as bytes and as hexadecimal digits.
fn secrets(lab: &Lab, folder: &std::path::Path, tokens: &[&str]) -> Vec<(String, Vec<u8>)> {
    let key = |name: &str| std::fs::read(folder.join("rekey-data").join(name)).unwrap();
    let mut found = vec![
        ("the password".to_owned(), lab.password().expose().as_bytes().to_vec()),
        ("the token key".to_owned(), key("token.key")),
        ("the seal key".to_owned(), key("seal.key")),
        ("a private key".to_owned(), PRIVATE_KEY.to_vec()),
        ("a private key in PEM".to_owned(), b"PRIVATE KEY".to_vec()),
        ("a private key in hexadecimal".to_owned(), domain::ids::hex(&PRIVATE_KEY).into_bytes()),
    ];
    found.extend(OF_TARGETS.map(|(name, secret)| (name.to_owned(), secret.as_bytes().to_vec())));
    let cloud = lab.cloud().unwrap().key_pem.expose();
    let line = cloud.lines().nth(3).unwrap();
    found.push(("the key for the tenant".to_owned(), line.as_bytes().to_vec()));
    // Assertions and access tokens: the beginnings of all headers with `typ` or `alg` first (RFC 7515 3.1).
    found.extend([b"eyJ0eXAiOi".to_vec(), b"eyJhbGciOi".to_vec()].map(|jwt| ("a JSON Web Token".to_owned(), jwt)));
    found.extend(tokens.iter().map(|token| ("a token".to_owned(), token.as_bytes().to_vec())));
    found
}
