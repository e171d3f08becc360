//! `rekey backup`, while the service runs.

use std::os::unix::fs::PermissionsExt as _;

use lab::{Lab, Options};
use serde_json::json;

use crate::support::{Rekey, people};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_service_is_a_database_to_go_on_with() {
    let lab = Lab::start(Options { scale: 14_400.0, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let mut rekey = Rekey::serve(&files.config).await;
    let [alice, bob] = people(&files.config, [("alice", "requester"), ("bob", "approver")]).await;
    let raised = alice.post(&rekey, "/v1/renewals", &json!({ "organization": "contoso" })).await;
    let path = format!("/v1/renewals/{}", raised["id"].as_str().unwrap());
    let copy = folder.path().join("copy.db");
    let backup = async || Rekey::command(&files.config, "backup").arg(&copy).output().await.unwrap();
    let made = backup().await;
    assert!(made.status.success(), "{made:?}");
    let told = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(told.contains("seal.key") && told.contains("token.key"), "{told}");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let length = std::fs::metadata(&copy).unwrap().len();
    let refused = backup().await;
    assert!(!refused.status.success() && std::fs::metadata(&copy).unwrap().len() == length, "{refused:?}");
    rekey.stop().await;
    let data = folder.path().join("rekey-data");
    for old in
        ["rekey.db", "rekey.db-wal", "rekey.db-shm"].map(|name| data.join(name)).iter().filter(|old| old.exists())
    {
        std::fs::remove_file(old).unwrap();
    }
    std::fs::copy(&copy, data.join("rekey.db")).unwrap();
    let rekey = Rekey::serve(&files.config).await;
    bob.approve_all(&rekey, raised["id"].as_str().unwrap()).await;
    assert_eq!(alice.get(&rekey, &path).await["state"]["status"], "succeeded");
}
