//! The walk-through of README.md, executed as it stands there; only port and speed differ.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use crate::support::until_says;

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_of_the_readme_works_as_it_is_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("tests"), folder.path().join("tests")).unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = walk_through(&readme);
    let (background, script): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|block| block.starts_with("# terminal"));
    let [lab, serve] = background.try_into().expect("the lab and the service");
    let (_lab, _) = start(folder.path(), &lab.replace("--scale 3600", "--scale 14400"), "Ctrl-C ends it").await;
    let (_serve, line) = start(folder.path(), &serve, "rekey listens on ").await;
    let address = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let script = script.join("\n");
    assert!(script.contains("REKEY=http://127.0.0.1:8080"));
    let script = script.replace("http://127.0.0.1:8080", &address);
    let output = bash(folder.path(), &format!("set -euo pipefail\n{script}")).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    check(&said, folder.path());
}

#[test]
fn cargo_run_and_the_image_find_what_they_build() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = std::process::Command::new(env!("CARGO"));
    let told = cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(&root);
    let told: serde_json::Value = serde_json::from_slice(&told.output().unwrap().stdout).unwrap();
    let packages = told["packages"].as_array().unwrap();
    let by_default = told["workspace_default_members"].as_array().unwrap();
    let targets = packages.iter().filter(|package| by_default.contains(&package["id"]));
    let targets = targets.flat_map(|package| package["targets"].as_array().unwrap());
    let runs: Vec<_> =
        targets.filter(|target| target["kind"][0] == "bin").map(|target| target["name"].as_str().unwrap()).collect();
    assert_eq!(runs, ["rekey"], "`cargo run` of README.md knows which to run");
    let ignored = std::fs::read_to_string(root.join(".dockerignore")).unwrap();
    let workspace = PathBuf::from(told["workspace_root"].as_str().unwrap());
    for package in packages {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest.strip_prefix(&workspace).unwrap().components().next().unwrap();
        let admitted = format!("!{}", folder.as_os_str().to_str().unwrap());
        assert!(
            ignored.lines().any(|line| line == admitted),
            "cargo reads {manifest:?}: `{admitted}` in .dockerignore"
        );
    }
}

fn check(said: &str, folder: &Path) {
    assert!(said.contains("urn:rekey:problem:self_approval"), "Alice cannot approve: {said}");
    assert!(said.contains("event: renewal.requested"), "{said}");
    let digest = said.lines().find_map(|line| line.strip_suffix("  is what people approve")).unwrap();
    let sum = said.lines().find_map(|line| line.strip_suffix("  plan.json")).unwrap();
    assert_eq!(digest, format!("sha256:{sum}"));
    let evidence: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("evidence.json")).unwrap()).unwrap();
    assert_eq!(evidence["renewal"]["state"]["status"], "succeeded");
    assert_eq!(evidence["renewal"]["request"]["ticket"]["number"], "CHG0030022");
}

/// The shell blocks of the section, in order.
fn walk_through(readme: &str) -> Vec<String> {
    let (_, section) = readme.split_once("## Walk through it").expect("the section is there");
    let (section, _) = section.split_once("\n## ").expect("another section follows");
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Starts the one command of a terminal's block and waits for a line that it prints.
async fn start(folder: &Path, block: &str, sign: &'static str) -> (Child, String) {
    let command = block.lines().find(|line| !line.starts_with('#')).unwrap();
    let mut child = bash(folder, &format!("exec {command}")).stderr(Stdio::null()).spawn().unwrap();
    let line = until_says(child.stdout.take().unwrap(), sign).await;
    (child, line)
}

fn bash(folder: &Path, script: &str) -> Command {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_rekey"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(folder).env("PATH", path).env("REKEY_LISTEN", "127.0.0.1:0");
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}
