//! API and worker as processes of their own, on one PostgreSQL database.

use std::os::unix::fs::PermissionsExt as _;

use lab::{Lab, Options};
use serde_json::json;

use crate::support::{Database, Rekey, people};

#[tokio::test(flavor = "multi_thread")]
async fn api_and_workers_share_a_renewal_on_postgresql() {
    let lab = Lab::start(Options { scale: 14_400.0, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let database = Database::create().await;
    let on_postgres = |role: &str| {
        let mut command = Rekey::command(&files.config, role);
        command.env("REKEY_DATABASE", database.url());
        command
    };
    let refused = on_postgres("api").output().await.unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("rekey migrate"), "{refused:?}");
    let migrated = on_postgres("migrate").output().await.unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    // From here on all of them are of the version before: the database is that of a newer one.
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'newer', true, '', 0);
        ALTER TABLE renewal ADD COLUMN later TEXT; ALTER TABLE step ADD COLUMN later TEXT";
    database.run(newer).await;
    let untouched = on_postgres("migrate").output().await.unwrap();
    assert!(String::from_utf8_lossy(&untouched.stdout).contains("newer than this version"), "{untouched:?}");
    let refused = on_postgres("backup").arg(folder.path().join("copy.db")).output().await.unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("pg_dump"), "{refused:?}");
    let rekey = Rekey::start(&mut on_postgres("api")).await;
    let _first = Rekey::start_worker(&mut on_postgres("worker")).await;
    let _second = Rekey::start_worker(&mut on_postgres("worker")).await;
    let [alice, bob] = people(&files.config, [("alice", "requester"), ("bob", "approver")]).await;
    let raised = alice.post(&rekey, "/v1/renewals", &json!({ "organization": "contoso" })).await;
    let id = raised["id"].as_str().unwrap().to_owned();
    bob.approve_all(&rekey, &id).await;
    let report = lab.report();
    assert_eq!(report.trust.refused, 0, "{:#?}", report.trust.refusals);
    assert!(report.effects.iter().all(|effect| effect.changed), "nothing was done twice: {:#?}", report.effects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lets_nobody_in_is_named_with_the_reason_and_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("rekey.toml");
    std::fs::write(&config, "").unwrap();
    // Nobody listens there: who frees a port does not get it again at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for role in ["worker", "migrate"] {
        let url = format!("postgres://rekey:hunter2@127.0.0.1:{port}/renewals");
        let refused = Rekey::command(&config, role).env("REKEY_DATABASE", url).output().await.unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && !said.contains("hunter2"), "{said}");
        for part in [&format!("127.0.0.1:{port}"), "database renewals", "Connection refused", "start the server"] {
            assert!(said.contains(part), "{role}, {part}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_reads_the_database_whoever_made_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("rekey.toml"), folder.path().join("given"));
    std::fs::write(&config, "data_dir = \"given\"\n").unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _rekey = Rekey::serve(&config).await;
    for entry in std::fs::read_dir(&data).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || name == "rekey.lock", "{name:?}: {mode:o}");
    }
    assert!(data.join("rekey.db").exists());
}
