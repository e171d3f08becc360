//! `rekey config check`: reads and asks what a start would, and changes nothing.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, ensure};
use chrono::Utc;
use db::Schema;
use worker::connectors::cloud::Way;

use crate::{
    config::{self, Config, Database},
    output::say,
    secrets, service, telemetry,
};

/// Says what the configuration comes to; fails with the first thing that a start would fail with.
pub(crate) async fn run(config: &Config) -> anyhow::Result<()> {
    telemetry::filter(&config.log)?;
    check_data_dir(&config.data_dir)?;
    secrets::check(config.token_key.as_ref(), &config.data_dir, "token.key")?;
    secrets::check(config.seal_key.as_ref(), &config.data_dir, "seal.key")?;
    config.identity.check().context("identity")?;
    let timeline = service::timeline(config).await?;
    for configured in &config.organizations {
        let id = &configured.managed.organization.id;
        service::managed(configured, timeline).with_context(|| format!("organization {id}"))?;
    }
    let caution = check_database(config).await?;
    tell(config)?;
    if let Some(told) = caution {
        say!("  note: {told}");
    }
    Ok(())
}

/// The folder itself, or where it is to be made.
fn check_data_dir(data_dir: &Path) -> anyhow::Result<()> {
    let found = data_dir.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("."));
    ensure!(found.is_dir(), "data_dir {}: {} is no folder", data_dir.display(), found.display());
    Ok(())
}

/// Returns what is to be done before a start or by it.
async fn check_database(config: &Config) -> anyhow::Result<Option<&'static str>> {
    let url = match &config.database {
        Database::Sqlite => return check_sqlite(&config.data_dir.join("rekey.db")).map(|()| None),
        Database::Postgres(url) => url,
    };
    let db = service::open_postgres(url).await?;
    let schema = db.schema().await?;
    db.close().await;
    Ok(match schema {
        Schema::Older => Some(
            "the database's schema is not that of this version: run `rekey migrate`; `rekey serve` does it by itself",
        ),
        Schema::Current | Schema::Newer => None,
    })
}

/// To be opened by SQLite it would have to be changed.
fn check_sqlite(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let opened = File::options().read(true).write(true).open(path);
    let mut head = Vec::new();
    opened
        .and_then(|file| file.take(16).read_to_end(&mut head))
        .with_context(|| format!("cannot open {}", path.display()))?;
    ensure!(head.is_empty() || head == b"SQLite format 3\0", "{} is not a SQLite database", path.display());
    Ok(())
}

fn tell(config: &Config) -> anyhow::Result<()> {
    let file = config.file.as_ref().map_or_else(|| "no file, all defaults".to_owned(), |f| f.display().to_string());
    say!("{file}: good, {} organization(s)", config.organizations.len());
    for configured in &config.organizations {
        let organization = &configured.managed.organization;
        let kind = if organization.lab { ", a lab" } else { "" };
        say!("  {} ({}{kind}), policy {}", organization.id, organization.name, organization.policy.digest());
        if let Some(way) = &configured.cloud {
            check_tenant(way).with_context(|| format!("organization {}: cloud", organization.id))?;
            let not_after = way.credentials.signer.not_after();
            for told in organization.cloud.iter().flat_map(|cloud| config::cautions(cloud, not_after, Utc::now())) {
                say!("    note: {told}");
            }
        }
    }
    for target in &config.outbound.subscriptions {
        let events = if target.events.is_empty() { "all events".to_owned() } else { target.events.join(", ") };
        say!("  target {}: {events}", target.id);
    }
    Ok(())
}

/// Says who signs in to a tenant; fails when Entra would not let them.
fn check_tenant(way: &Way) -> anyhow::Result<()> {
    let (signer, now) = (&way.credentials.signer, Utc::now());
    let (thumbprint, until) = (signer.thumbprint(), signer.not_after());
    ensure!(
        now < until,
        "the certificate {thumbprint} expired at {until}: make another one, register it with application {} and name it here",
        way.credentials.client_id
    );
    say!(
        "    tenant {}, as {} with certificate {thumbprint}, valid until {until}",
        way.tenant,
        way.credentials.client_id
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{ORGANIZATION, parse};

    async fn told(text: &str) -> Option<String> {
        run(&parse(text).unwrap()).await.err().map(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn what_a_start_would_fail_with_is_found_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        for (name, text) in [("keys", "token.key"), ("seals", "seal.key"), ("data", "rekey.db")] {
            std::fs::create_dir(path(name)).unwrap();
            std::fs::write(path(name).join(text), "neither a key nor a database").unwrap();
        }
        let data_dir = |name: &str| format!("data_dir = {:?}\n", path(name));
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cases = [
            (data_dir("file"), "is no folder"),
            (data_dir("file/below"), "is no folder"),
            (data_dir("keys"), "token.key must be 64 hexadecimal digits"),
            (data_dir("seals"), "seal.key must be 64 hexadecimal digits"),
            (data_dir("data"), "is not a SQLite database"),
            (data_dir("new") + "clock = \"lab\"", "there is no organization"),
            (data_dir("new") + "clock = \"lab\"" + ORGANIZATION, "is not a lab"),
            (data_dir("new") + "log = \"rekey=loud\"", "use a level like info"),
            (data_dir("new") + "database = \"env:REKEY_NOT_SET_ANYWHERE\"", "REKEY_NOT_SET_ANYWHERE is not set"),
            (data_dir("new") + &format!("database = \"postgres://{closed}/rekey\""), "Connection refused"),
        ];
        for (text, expected) in cases {
            let error = told(&text).await.expect(&text);
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }

    #[tokio::test]
    async fn what_is_still_to_be_made_is_no_mistake_and_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("data_dir = {:?}\n{ORGANIZATION}", folder.path().join("rekey/data"));
        assert_eq!(told(&text).await, None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
