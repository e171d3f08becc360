//! API and worker as processes of their own, on one PostgreSQL database.

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
