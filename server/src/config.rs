//! Configuration: one TOML file, then environment variables over it. Secrets only by reference.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use domain::{Organization, OrganizationId, Policy};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use worker::{
    Managed,
    connectors::{Credentials, Endpoints, trust_ca, trust_system},
};

use crate::secrets::Reference;

/// What `rekey config --help` prints: every key.
pub(crate) const KEYS: &str = "\
The file is TOML: the one named by --config or REKEY_CONFIG, else rekey.toml in the working directory, else none (all
defaults). A key that rekey does not know is an error. Secrets stand in it by reference only: \"env:NAME\" reads an
environment variable, \"file:PATH\" a file; relative paths start at the folder of the configuration file.

  listen = \"127.0.0.1:8080\"       REKEY_LISTEN       where the API listens; port 0 takes a free one
  data_dir = \"rekey-data\"         REKEY_DATA_DIR     SQLite database, token key and seal key (made when missing)
  database = \"sqlite\"             REKEY_DATABASE     \"sqlite\" (a file in data_dir), or a secret reference to, or the text of,
                                                     postgres://user@host/name
  token_key = \"file:…\"            REKEY_TOKEN_KEY    32 bytes in hexadecimal that sign tokens; default: a file in data_dir
  seal_key = \"file:…\"             REKEY_SEAL_KEY     32 bytes in hexadecimal that seal new private keys; default: a file in data_dir
  concurrency = 4                 REKEY_CONCURRENCY  how many steps one worker runs at the same time
  clock = \"real\"                  REKEY_CLOCK        \"lab\" takes the time of the lab; only if every organization is one
  log = \"info\"                    REKEY_LOG          error, warn, info, debug, or target=level,…
  log_format = \"text\"             REKEY_LOG_FORMAT   \"text\" or \"json\"

  [[organization]]                one for each Exchange organization
  id = \"contoso\"                  1 to 63 of a-z, 0-9 and -; stands in URLs
  name = \"Contoso Ltd\"            what people call it; default: the id
  lab = \"http://127.0.0.1:…\"      control address, if it is simulated by `rekey lab`

  [organization.exchange]
  urls = [\"https://ex01.contoso.example/PowerShell/\"]
                                  tried in order for what concerns the organization as a whole; servers that are not
                                  listed are reached at the first one's scheme, port and path
  authentication = \"basic\"        the only way in this version: over HTTPS, or plain HTTP on this machine
  username = \"CONTOSO\\\\svc-rekey\"  needs the roles View-Only Configuration, Exchange Server Certificates and
                                  Organization Client Access
  password = \"env:REKEY_CONTOSO_PASSWORD\"
  ca_file = \"contoso-ca.pem\"      trust the certificate authorities in this file only; default: those of the system

  [organization.windows]          optional; without it restarts and key checks are left to people
  url = \"https://{fqdn}:5986/wsman\"
  username = …, password = …      default: those of exchange

  [organization.connect_to]       optional: where an address is really found (tunnels, labs)
  \"ex01.contoso.example:443\" = \"127.0.0.1:8443\"

  [organization.policy]           the rules of its renewals; part of every plan's digest
  staging_lead_hours = 49         between staging and the effective date; at least 48
  soak_hours = 24                 between publication and clearing the previous certificate; at least 24
  soak_check_minutes = 240        between two looks at the evidence while soaking
  key_size = 2048                 2048, 3072 or 4096
  lifetime_days = 1826            of the new certificate, 90 to 3653
  remove_old_certificate = true   take the old certificate off the servers at the end
  approval_hours = 336            how long a renewal waits for approval of its execute gate
  execute_quorum = 1              people who must approve the start
  publish_quorum = 1              … the publication; 0: evidence alone
  clear_previous_quorum = 1       … giving up the old certificate; 0: evidence alone

Examples:
  rekey config check --config /etc/rekey/rekey.toml
  REKEY_DATABASE=env:DATABASE_URL rekey migrate
";

/// The configuration, read and checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) database: Database,
    pub(crate) token_key: Option<Reference>,
    pub(crate) seal_key: Option<Reference>,
    pub(crate) concurrency: usize,
    pub(crate) clock: Clock,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) organizations: Vec<Configured>,
    /// The file that it was read from, if any.
    pub(crate) file: Option<PathBuf>,
}

/// An organization with the way to it.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) managed: Managed,
    /// Control address of the lab that simulates it.
    pub(crate) lab: Option<String>,
}

/// Where the database is.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    Postgres(SecretString),
    Sqlite,
}

/// Whose time runs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Clock {
    Lab,
    #[default]
    Real,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    Json,
    #[default]
    Text,
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    data_dir: Option<PathBuf>,
    database: Option<String>,
    token_key: Option<String>,
    seal_key: Option<String>,
    concurrency: Option<usize>,
    clock: Option<Clock>,
    log: Option<String>,
    log_format: Option<LogFormat>,
    #[serde(default)]
    organization: Vec<FileOrganization>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOrganization {
    id: OrganizationId,
    name: Option<String>,
    lab: Option<String>,
    exchange: FileExchange,
    windows: Option<FileWindows>,
    #[serde(default)]
    connect_to: BTreeMap<String, String>,
    #[serde(default)]
    policy: Policy,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileExchange {
    urls: Vec<String>,
    authentication: Authentication,
    username: String,
    password: String,
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Authentication {
    Basic,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileWindows {
    url: String,
    username: Option<String>,
    password: Option<String>,
}

/// Reads the configuration: the file (named, or `rekey.toml` if there is one), then the environment over it.
pub(crate) fn load(named: Option<&Path>) -> anyhow::Result<Config> {
    let default = Path::new("rekey.toml");
    let path = named.or_else(|| default.exists().then_some(default));
    let file = match path {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let folder = path.and_then(Path::parent).map_or_else(PathBuf::new, Path::to_path_buf);
    let config = build(with_environment(file)?, &folder, path);
    config
        .with_context(|| path.map_or_else(|| "in the environment".to_owned(), |path| format!("in {}", path.display())))
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))
}

fn with_environment(mut file: File) -> anyhow::Result<File> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let word = |name: &str, value: String| {
        toml::Value::String(value.clone()).try_into().with_context(|| format!("{name} is `{value}`"))
    };
    file.listen = set("REKEY_LISTEN").or(file.listen);
    file.data_dir = set("REKEY_DATA_DIR").map(PathBuf::from).or(file.data_dir);
    file.database = set("REKEY_DATABASE").or(file.database);
    file.token_key = set("REKEY_TOKEN_KEY").or(file.token_key);
    file.seal_key = set("REKEY_SEAL_KEY").or(file.seal_key);
    file.log = set("REKEY_LOG").or(file.log);
    if let Some(value) = set("REKEY_CONCURRENCY") {
        file.concurrency =
            Some(value.parse().with_context(|| format!("REKEY_CONCURRENCY is `{value}`: use a number"))?);
    }
    if let Some(value) = set("REKEY_CLOCK") {
        file.clock = Some(word("REKEY_CLOCK", value)?);
    }
    if let Some(value) = set("REKEY_LOG_FORMAT") {
        let value = toml::Value::String(value);
        file.log_format = Some(value.try_into().context("REKEY_LOG_FORMAT: use text or json")?);
    }
    Ok(file)
}

fn build(file: File, folder: &Path, path: Option<&Path>) -> anyhow::Result<Config> {
    let listen = file.listen.as_deref().unwrap_or("127.0.0.1:8080");
    let listen = listen.parse().with_context(|| format!("listen is `{listen}`: use ADDRESS:PORT"))?;
    let concurrency = file.concurrency.unwrap_or(4);
    ensure!((1..=256).contains(&concurrency), "concurrency is {concurrency}: use 1 to 256");
    let reference = |text: Option<String>| text.map(|text| Reference::parse(&text, folder)).transpose();
    let organizations: Vec<Configured> = file
        .organization
        .into_iter()
        .map(|o| {
            let id = o.id.clone();
            configured(o, folder).with_context(|| format!("organization {id}"))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut ids: Vec<&OrganizationId> = organizations.iter().map(|c| &c.managed.organization.id).collect();
    ids.sort();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("organization {} stands there twice: give each its own id", twice[0]);
    }
    Ok(Config {
        listen,
        data_dir: folder.join(file.data_dir.unwrap_or_else(|| "rekey-data".into())),
        database: database(file.database.as_deref(), folder)?,
        token_key: reference(file.token_key).context("token_key")?,
        seal_key: reference(file.seal_key).context("seal_key")?,
        concurrency,
        clock: file.clock.unwrap_or_default(),
        log: file.log.unwrap_or_else(|| "info".to_owned()),
        log_format: file.log_format.unwrap_or_default(),
        organizations,
        file: path.map(Path::to_path_buf),
    })
}

fn database(text: Option<&str>, folder: &Path) -> anyhow::Result<Database> {
    let Some(text) = text.filter(|text| *text != "sqlite") else { return Ok(Database::Sqlite) };
    let url = match Reference::parse(text, folder) {
        Ok(reference) => reference.read().context("database")?,
        Err(_) => SecretString::from(text),
    };
    let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.expose_secret().starts_with(scheme));
    ensure!(is_postgres, "database is neither \"sqlite\" nor a postgres:// URL nor a reference to one");
    Ok(Database::Postgres(url))
}

fn configured(file: FileOrganization, folder: &Path) -> anyhow::Result<Configured> {
    let Authentication::Basic = file.exchange.authentication;
    let faults = file.policy.faults();
    ensure!(faults.is_empty(), "policy: {}", faults.join("; "));
    ensure!(!file.exchange.urls.is_empty(), "exchange.urls is empty: name at least one server's PowerShell URL");
    let exchange = file.exchange.urls.iter().map(|url| Endpoints::parse_url(url)).collect::<Result<_, _>>();
    let credentials = Credentials {
        username: file.exchange.username,
        password: Reference::parse(&file.exchange.password, folder)?.read().context("exchange.password")?,
    };
    let windows = file.windows.map(|windows| windows_endpoint(windows, &credentials, folder)).transpose()?;
    let organization = Organization {
        name: file.name.unwrap_or_else(|| file.id.to_string()),
        id: file.id,
        lab: file.lab.is_some(),
        windows: windows.is_some(),
        policy: file.policy,
    };
    let endpoints = Endpoints {
        exchange: exchange?,
        credentials,
        windows,
        connect_to: file.connect_to,
        tls: trust(file.exchange.ca_file.as_deref(), folder)?,
    };
    Ok(Configured { managed: Managed { organization, endpoints }, lab: file.lab })
}

fn windows_endpoint(file: FileWindows, exchange: &Credentials, folder: &Path) -> anyhow::Result<(String, Credentials)> {
    ensure!(file.url.contains("{fqdn}"), "windows.url is `{}`: it must contain {{fqdn}}", file.url);
    Endpoints::parse_url(&file.url.replace("{fqdn}", "server.example")).context("windows.url")?;
    let password = match &file.password {
        Some(reference) => Reference::parse(reference, folder)?.read().context("windows.password")?,
        None => exchange.password.clone(),
    };
    let username = file.username.unwrap_or_else(|| exchange.username.clone());
    Ok((file.url, Credentials { username, password }))
}

fn trust(ca_file: Option<&Path>, folder: &Path) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let Some(path) = ca_file else { return trust_system().context("the system's certificate authorities") };
    let path = folder.join(path);
    let pem = std::fs::read(&path).with_context(|| format!("ca_file: cannot read {}", path.display()))?;
    trust_ca(&pem).with_context(|| format!("ca_file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Config> {
        let file: File = toml::from_str(text)?;
        build(file, Path::new("/nowhere"), None)
    }

    const ORGANIZATION: &str = r#"
        [[organization]]
        id = "contoso"
        [organization.exchange]
        urls = ["https://ex01.contoso.example/PowerShell/"]
        authentication = "basic"
        username = "svc"
        password = "env:PATH"
    "#;

    #[test]
    fn an_empty_configuration_is_the_single_machine_product() {
        let config = parse("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert!(matches!(config.database, Database::Sqlite));
        assert!(config.organizations.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let with = |from: &str, to: &str| ORGANIZATION.replace(from, to);
        let cases = [
            ("listen = \"8080\"".to_owned(), "use ADDRESS:PORT"),
            ("color = \"red\"".to_owned(), "unknown field `color`"),
            ("database = \"mysql://x\"".to_owned(), "neither \"sqlite\" nor a postgres:// URL"),
            ("concurrency = 0".to_owned(), "use 1 to 256"),
            (with("contoso\"", "Contoso\""), "is not an organization id"),
            (with("env:PATH", "hunter2"), "by reference"),
            (with("env:PATH", "env:REKEY_NOT_SET_ANYWHERE"), "REKEY_NOT_SET_ANYWHERE is not set"),
            (with("https://", "http://"), "would send the password unprotected"),
            (with("basic", "kerberos"), "kerberos"),
            (format!("{ORGANIZATION}\n[organization.policy]\nsoak_hours = 1"), "use at least 24"),
            (format!("{ORGANIZATION}\n{ORGANIZATION}"), "stands there twice"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(&text).expect_err(&text));
            assert!(error.contains(expected), "{text}\n{error}");
            assert!(!error.contains("hunter2"), "a password in clear is not repeated: {error}");
        }
    }

    #[test]
    fn every_key_is_in_the_help() {
        let keys =
            ["listen", "data_dir", "database", "token_key", "seal_key", "concurrency", "clock", "log", "log_format"];
        let policy = serde_json::to_value(Policy::default()).unwrap();
        let policy = policy.as_object().unwrap().keys().map(String::as_str);
        for key in keys.into_iter().chain(policy) {
            assert!(KEYS.contains(&format!("  {key} =")), "{key}");
        }
    }
}
