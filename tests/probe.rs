//! `rekey probe`: what an administrator runs first.

use lab::{Lab, Options, faults::Fault, server::Power};

use crate::support::Rekey;

/// What it prints, and its exit code.
async fn probe(config: &std::path::Path) -> (String, i32) {
    let output = Rekey::command(config, "probe").arg("contoso").output().await.unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_says_what_is_there_what_is_missing_and_how_to_mend_it() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = lab.write_files(folder.path()).unwrap();
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 0, "{said}");
    for expected in
        ["Basic over https", "Exchange 15.1.2507.61", "Windows Server 2022", "clock agrees", "6 of 6 endpoints"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    lab.apply(Fault::Permission { cmdlet: "Set-AuthConfig".to_owned(), granted: false }).unwrap();
    lab.apply(Fault::Power { server: "EX03".to_owned(), power: Power::Down }).unwrap();
    lab.apply(Fault::ClockSkew { server: "EX02".to_owned(), seconds: 900 }).unwrap();
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 1, "{said}");
    for expected in [
        "may not run Set-AuthConfig",
        "Organization Client",
        "server_unreachable",
        "s ahead",
        "w32tm",
        "1 of 6 endpoints",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    let text = std::fs::read_to_string(&files.config).unwrap().replace("file:lab-password", "env:PATH");
    std::fs::write(&files.config, text).unwrap();
    let (said, code) = probe(&files.config).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("[credentials_refused]") && said.contains("-> Correct username and password"), "{said}");
    assert!(!said.contains(&std::env::var("PATH").unwrap()), "the password is not repeated");
    lab.shutdown().await;
}
