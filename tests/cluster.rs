//! A PostgreSQL server of a test's own, which it may mistreat.

use std::{
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::process::Command;

/// A server with its data in a folder of its own. Ended when dropped.
pub(crate) struct Cluster {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("rekey-cluster").tempdir_in("/tmp").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Self { programs: programs(), folder, port };
        if is_root() {
            // PostgreSQL refuses root: it runs as the user that its package made.
            let given = Command::new("chown").arg("postgres").arg(cluster.folder.path()).status().await.unwrap();
            assert!(given.success());
        }
        let data = cluster.data();
        cluster
            .run("initdb", &["--username=rekey", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D", &data])
            .await;
        cluster.pg_ctl(&["start"]).await;
        cluster
    }

    /// Ends all its processes at once and starts it again: what was committed must be there, what was not must not.
    pub(crate) async fn restart_immediately(&self) {
        self.pg_ctl(&["-m", "immediate", "restart"]).await;
    }

    /// A database that `initdb` has made.
    pub(crate) fn url(&self) -> String {
        format!("postgres://rekey@127.0.0.1:{}/postgres", self.port)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    async fn pg_ctl(&self, arguments: &[&str]) {
        let log = self.folder.path().join("log").display().to_string();
        let options = format!("-p {} -k {} -c max_connections=300", self.port, self.folder.path().display());
        self.run("pg_ctl", &[&["-w", "-t", "120", "-D", &self.data(), "-l", &log, "-o", &options], arguments].concat())
            .await;
    }

    async fn run(&self, program: &str, arguments: &[&str]) {
        let status = as_its_user(&self.programs.join(program)).args(arguments).stdout(Stdio::null()).status().await;
        assert!(status.unwrap().success(), "{program} {arguments:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut ending = as_its_user(&self.programs.join("pg_ctl")).into_std();
        drop(ending.args(["-m", "immediate", "-D", &self.data(), "stop"]).stdout(Stdio::null()).status());
    }
}

fn as_its_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["--user", "postgres", "--"]).arg(program).current_dir("/");
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The folder of `initdb` and `pg_ctl`: the newest that Debian has, which are not on the path, else what is on the path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        versions.filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path())));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&on_path).filter(|folder| folder.join("pg_ctl").exists());
    let newest = newest.max().map(|(_, path)| path.join("bin"));
    newest.or_else(|| on_path.next()).expect("PostgreSQL is installed: ./test sees to it")
}
