//! Configuration: one TOML file, then environment variables over it. Secrets only by reference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use db::Bounds;
use domain::{Organization, OrganizationId, Policy};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use worker::{
    Managed, Pace,
    connectors::{
        Account, Credentials, Endpoints, Identity, Kerberos, MAX_ENVELOPE_SIZE, MAX_SESSIONS, Pin, Proof, Sessions,
        Trust, WindowsLogon, WindowsProtocol, cloud::Way, split_username,
    },
    tickets::TicketSystem,
};

use crate::secrets::Reference;

mod cloud;
mod identity;
mod sources;
mod targets;
mod ticket_systems;

pub(crate) use cloud::cautions;

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
  concurrency = 16                REKEY_CONCURRENCY  how many steps one worker runs at the same time
  lease_seconds = 45              REKEY_LEASE_SECONDS  how long a worker may be silent before another one takes its steps, 5 to 600
  clock = \"real\"                  REKEY_CLOCK        \"lab\" takes the time of the lab; only if every organization is one
  log = \"info\"                    REKEY_LOG          error, warn, info, debug, or target=level,…
  log_format = \"text\"             REKEY_LOG_FORMAT   \"text\" or \"json\"

  [[ticket_system]]               one for each ServiceNow instance or Jira site: docs/ticket-systems.md
  id = \"acme\"                     the word in `ticket.system` of renewals and `ticket_system` of sources; 1 to 63 of a-z, 0-9, -
  kind = \"servicenow\"             servicenow or jira
  url = \"https://acme.service-now.com\"   needs no entry in allow of [outbound], unless it is on this machine
  username, password              Basic: an account and its password; for Jira a mail address and its API token
  client_id, client_secret        … or OAuth client credentials of ServiceNow (recommended there)
  api_key = \"env:…\"               … or an API key of ServiceNow
  token = \"env:…\"                 … or a token that does not change; all secrets by reference
  ca_file = \"proxy-ca.pem\"        trust the certificate authorities in this file only; default: those of the system
  organizations = [\"contoso\"]     only for these; default: all
  move_changes = true             move changes to Implement when the run begins, and close them at its end
  implement_state = \"-1\"          where to … Jira: Implementing
  review_state = \"0\"              … before it is closed; \"\": no such state. Jira: none
  closed_state = \"3\"              … when it is over. Jira: Completed
  failed_state = \"3\"              … when it did not come out well. Jira: Failed
  hold_field = \"customfield_10021\"  of Jira: filled while somebody holds the issue
  states = { \"build\" = \"ready\" }  what states mean where that is not the usual: ready, not_ready, on_hold, cancelled,
                                  approval_voided, closed
  fields = { organization = \"/fields/customfield_10050\" }  where records say something, where that is not the usual (JSON Pointer)
  query = \"u_organizationISNOTEMPTY\"  encoded query or JQL of the changes that are for rekey: those are asked for, so that one
                                  whose hook never came is taken in; default: none are asked for
  poll_seconds = 30               how often tickets of live renewals are read, and changes asked for
  fresh_seconds = 5               how old what was read may be for a step that changes something
  unanswered_minutes = 15         how long what was read last counts while the system does not answer; then nothing is changed

  [[source]]                      optional, one for each sender of POST /v1/hooks/<kind>/<id>: docs/integrations/
  id = \"acme\"                     1 to 40 of a-z, 0-9 and -; stands in URLs
  kind = \"servicenow\"             servicenow, jira, or generic: any JSON, and CloudEvents
  organization = \"contoso\"        of records that name none; default: the only one that is configured
  ticket_system = \"servicenow\"    what the tickets' system is called; default: the id
  accept = [\"signature\"]          how senders may show who they are; also basic, api_key, bearer, certificate
  secrets = [\"env:…\"]             what messages are signed with, any of several: whsec_ and base64 (Standard Webhooks), for jira any text
  tolerance_seconds = 300         how old a signed message may be, and how far ahead its sender's clock, 30 to 86400

  [source.fields]                 JSON Pointers into the record, for what stands at another place than usual: key, number,
  start = \"/fields/customfield_1\"  organization, reason, note, start, url, state, approval, on_hold, requested_by, mod_count, updated_at,
                                  change_type, risk, event, instance

  [source.states]                 what states of your own mean: ready, not_ready, on_hold, cancelled, approval_voided, closed;
  \"-1\" = \"ready\"                  the usual ones are known, and what nobody explains is not_ready

  [outbound]                      messages to the outside: docs/notifications.md
  public_url = \"https://…\"       where people reach this service: links in messages begin with it
  allow = [\"…\"]                 where messages may go: hosts, *.suffix, networks (10.1.0.0/16), each with or without :PORT or :*;
                                  default: nowhere. Loopback and link-local addresses must be listed as networks

  [[target]]                      one for each receiver of messages
  id = \"chat\"                   1 to 63 of a-z, 0-9 and -; stands in the outbox
  kind = \"webhook\"              webhook (signed, Standard Webhooks and CloudEvents), smtp, teams or slack
  organizations = [\"contoso\"]   tell it of these only; default: all
  events = [\"renewal.*\"]        tell it these only: events, or the beginning of one and *; default: all
  url = \"https://…\"             of a webhook; of teams and slack by reference (env:, file:), because it is a secret
  secrets = [\"env:…\"]           references to keys that sign webhooks (whsec_…), the newest first: each signs
  server = \"smtp.example\"       for smtp …
  port = 587                      … default: 587, or 465 for implicit, 25 for none
  tls = \"starttls\"              … starttls, implicit or none
  username, password              … to log on with, the password by reference
  from = \"rekey <…@…>\"          … who writes
  to = [\"…@…\"]                  … who is written to
  ca_file = \"ca.pem\"            trust the certificate authorities in this file only; default: those of the system

  [[organization]]                one for each Exchange organization
  id = \"contoso\"                  1 to 63 of a-z, 0-9 and -; stands in URLs
  name = \"Contoso Ltd\"            what people call it; default: the id
  lab = \"http://127.0.0.1:…\"      control address, if it is simulated by `rekey lab`
  servers_at_once = 8             how many of its servers are worked on at the same time, by all workers together
  servers_at_once_per_site = 4    … and how many of one Active Directory site; restarts go one by one in each

  test_mailbox = \"…@…\"          of a hybrid organization without [organization.cloud]: a mailbox on the servers for
                                  Test-OAuthConnectivity towards the cloud

  [organization.exchange]
  urls = [\"https://ex01.contoso.example/PowerShell/\"]
                                  tried in order for what concerns the organization as a whole; servers that are not
                                  listed are reached at the first one's scheme, port and path
  authentication = \"kerberos\"     kerberos: what Exchange accepts by default; negotiate: kerberos, else ntlm; ntlm; basic: over
                                  HTTPS, or plain HTTP on this machine; certificate. Over http:// kerberos, negotiate and
                                  ntlm seal every message
  username = \"CONTOSO\\\\svc-rekey\"  or svc-rekey@contoso.example; needs the roles View-Only Configuration, Exchange Server
                                  Certificates and Organization Client Access
  password = \"env:REKEY_CONTOSO_PASSWORD\"
  keytab = \"svc-rekey.keytab\"      for kerberos, in place of the password: a file with the account's key (ktpass, ktutil)
  realm = \"CONTOSO.EXAMPLE\"       Kerberos realm of the account; default: what the user name says
  kdc = \"dc01.contoso.example:88\" default: that of krb5.conf, or what the DNS says of the realm
  service_principal = \"HTTP/…\"    default: HTTP/ and the host of the URL; set it for a load balancer's name
  encryption = \"auto\"             always: seal messages inside HTTPS too
  certificate_file = \"rekey.pem\"  for certificate: the chain in PEM …
  certificate_key = \"file:rekey.key\"  … and a reference to its private key in PEM
  ca_file = \"contoso-ca.pem\"      trust the certificate authorities in this file only; default: those of the system
  pin_sha256 = [\"9f86d081…\"]      trust these server certificates only; host names are checked all the same
  max_sessions = 12               PowerShell sessions open at the same time, Windows endpoints included; Exchange allows an
                                  account 18 on a server
  max_envelope_kb = 500           MaxEnvelopeSizekb of the endpoints; 150 is found out, write down what is smaller

  [organization.windows]          optional; without it restarts and key checks are left to people
  url = \"https://{fqdn}:5986/wsman\"
  authentication, username, password, keytab, realm, kdc, service_principal, encryption   default: those of exchange

  [organization.connect_to]       optional: where an address is really found (tunnels, labs)
  \"ex01.contoso.example:443\" = \"127.0.0.1:8443\"

  [organization.cloud]            optional, for a hybrid organization: without it a person does the cloud half, and plans say what
  cloud = \"global\"               global (GCC too), us_gov_l4 (GCC High), us_gov_l5 (DoD), china, or custom
  tenant_id = \"7c9e6679-…\"       the tenant's GUID
  client_id = \"…\"               application (client) id that rekey signs in as: one of its own, which owns the dedicated hybrid
                                  application and has Application.ReadWrite.OwnedBy of Microsoft Graph
  certificate = \"file:entra.pem\" its certificate in PEM, registered with that application; not the Auth certificate
  certificate_key = \"file:entra.key\"  … and its private key, RSA, in PEM
  application_id = \"…\"          application (client) id of the dedicated hybrid application; default: the one that is named
                                  ExchangeServerApp- and the organization's GUID
  exchange_online = false         ask Exchange Online too, over an interface that Microsoft does not support for that; needs
                                  Exchange.ManageAsApp and the role Global Reader, or Exchange Administrator
  anchor_mailbox = \"UPN:…\"      what Exchange Online routes requests by; default: the tenant's system mailbox
  test_mailbox = \"…@…\"          a mailbox on the servers: Test-OAuthConnectivity towards the cloud
  cloud_test_mailbox = \"…@…\"    a mailbox in the cloud: the same towards the servers
  purge_shared_principal = false  take the keys out of the shared principal of Exchange Online at the end
  login_url = \"https://…\"       for custom: where Entra issues tokens …
  graph_url = \"https://…\"       … where Microsoft Graph is …
  outlook_url = \"https://…\"     … and where Exchange Online is
  ca_file = \"proxy-ca.pem\"      trust the certificate authorities in this file only; default: those of the system

  [organization.policy]           the rules of its renewals; part of every plan's digest
  staging_lead_hours = 49         between staging and the effective date; at least 48
  soak_hours = 24                 between publication and clearing the previous certificate; at least 24
  soak_max_hours = 168            after the soak began: evidence that still fails is a case for a person
  soak_check_minutes = 240        between two looks at the evidence while soaking
  key_size = 2048                 2048, 3072 or 4096
  lifetime_days = 1826            of the new certificate, 90 to 3653
  remove_old_certificate = true   take the old certificate off the servers at the end
  approval_hours = 336            how long a renewal waits for approval of its execute gate
  execute_quorum = 1              people who must approve the start
  publish_quorum = 1              … the publication; 0: evidence alone
  clear_previous_quorum = 1       … giving up the old certificate; 0: evidence alone
  after_publish_failure = \"ask\"   when restarts or checks after publication keep failing; roll_back: the old one signs again
  prune_failure = \"ask\"           when the old certificate cannot be removed from a server; skip: it stays
  executors = []                  who carries renewals out besides operators, for gates that exclude the executor
  break_glass = \"not_requester\"  who with the role break_glass may pass a gate alone: anyone, not_requester, off
  ticket = \"optional\"            required: nothing is changed unless the ticket system says that the ticket is ready
  time_zone = \"UTC\"             of windows and of blackouts that name none (IANA)
  precedence = \"blackout\"        expiry: windows and blackouts yield until publication when the old certificate would expire
  infeasible = \"refuse\"          a start time that is too late for the old certificate; or accept_at_risk

  [[organization.policy.window]]  weekly windows; without any, always
  days = [\"sat\"]                on which it opens: mon, tue, wed, thu, fri, sat, sun
  from = \"20:00\"                local time …
  to = \"04:00\"                  … on the next day if that is not after from

  [[organization.policy.blackout]]  when nothing is changed
  name = \"Year end\"
  from = \"2026-12-21\"           a local date, a local date and time, or RFC 3339
  to = \"2027-01-05\"             a date is its whole day

  [organization.policy.gates.execute]  or publish, clear_previous, trust_cloud: what the gate asks for
  quorum = 1                      instead of execute_quorum and its like
  groups = [{ group = \"exchange-admins\", approvals = 1 }]  each of them must approve; an approval counts for one group
  exclude = [\"plan_author\", \"executor\"]  who does not approve, besides the requester
  lifetime_hours = 72             how long an approval counts, until what it allows is done; default: for ever
  timeout_hours = 336             how long the gate waits; execute: default approval_hours
  on_timeout = \"expire\"         expire (execute only), escalate (recorded once, people are told), or wait

  [organization.policy.emergency]  for a compromised or expired certificate and emergency changes: what differs
  [organization.policy.standard]   for requests with change_type standard whose risk is not high: what differs
  gates.execute.quorum = 0        as above; 0 only for standard, with ticket = \"required\"
  ignore_calendar = false         windows and blackouts do not hold
  ticket = \"required\"

  [[identity.oidc]]               tokens of an OpenID Connect issuer are accepted, too (Entra ID, Keycloak, …)
  issuer = \"https://…\"            exactly as in iss; keys are found by discovery, and asked for again when they change
  audience = [\"api://rekey\"]      one of these must be in aud
  algorithms = [\"RS256\", \"PS256\", \"ES256\"]   … of RS256 to RS512, PS256 to PS512, ES256, ES384 and EdDSA
  jwks_url = \"https://…\"          where its keys are, if it has no discovery document
  subject_claim = \"sub\"           the name in the record: use what cannot change hands, and be the same name everywhere, or
                                  nobody notices who approves what they asked for; a JSON Pointer when it begins with /
  groups_claims = [\"groups\", \"roles\"]   where groups are; \"/realm_access/roles\" for Keycloak
  leeway_seconds = 60             how far clocks may differ, up to 300
  key_grace_minutes = 60          how long a key that it publishes no more is accepted, up to 1440
  ca_file = \"corp-ca.pem\"         trust the certificate authorities in this file only; default: those of the system
  [identity.oidc.roles]           the roles that a group brings; without a group nobody has any
  \"mail-admins\" = [\"requester\", \"operator\"]
  [identity.oidc.organizations]   optional: the organizations that a group reaches, and nobody else does
  \"mail-admins\" = [\"contoso\"]

  [[identity.basic]]              a sender that can do no more than Basic; over HTTPS (see proxy) or from this machine
  username = \"mid-server\"
  password = \"env:REKEY_MID_PASSWORD\"   12 characters or more
  roles = [\"requester\"]           requester, approver, operator, auditor, administrator
  groups = []                     groups that it belongs to
  organizations = [\"contoso\"]     the only ones that it reaches; default: all

  [identity.proxy]                the proxy in front of rekey, which is believed X-Forwarded-For and X-Forwarded-Proto
  addresses = [\"10.1.2.3/32\"]     where it connects from; it must set or remove each of the headers named here
  certificate_header = \"X-SSL-Client-S-DN\"   where it puts the subject of a client certificate; X-Forwarded-Client-Cert is
                                  read as Envoy writes it; from anybody else the header is refused
  verify_header = \"X-SSL-Client-Verify\"      must say SUCCESS, for proxies that pass on certificates which they did not accept
  [[identity.proxy.certificate]]  whom a certificate belongs to
  subject = \"CN=mid,O=Contoso\"    as the proxy writes it
  user = \"mid-server\"             the name in the record; roles, groups, organizations as above

  [limits]                        how much is answered; beyond it 429 says when to come again
  requests_per_minute = 6000      of one credential, in the long run
  burst = 1000                    … and at once
  failures_per_minute = 60        of one address without a valid credential
  streams = 100                   requests of one credential that wait for events

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
    pub(crate) pace: Pace,
    pub(crate) clock: Clock,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) organizations: Vec<Configured>,
    pub(crate) ticket_systems: Vec<Arc<TicketSystem>>,
    pub(crate) sources: Vec<api::Source>,
    pub(crate) outbound: targets::Outbound,
    pub(crate) identity: api::Identity,
    pub(crate) limits: api::Limits,
    /// The file that it was read from, if any.
    pub(crate) file: Option<PathBuf>,
}

/// An organization with the way to it.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) managed: Managed,
    /// Control address of the lab that simulates it.
    pub(crate) lab: Option<String>,
    /// The way to its tenant, in real time.
    pub(crate) cloud: Option<Way>,
}

/// Where the database is.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    Postgres(PostgresUrl),
    Sqlite,
}

/// The URL of a PostgreSQL database. Where it is referred to, only those commands read it that use the database.
#[derive(Clone, Debug)]
pub(crate) enum PostgresUrl {
    Referred(Reference),
    Written(SecretString),
}

impl PostgresUrl {
    pub(crate) fn read(&self) -> anyhow::Result<SecretString> {
        let url = match self {
            Self::Referred(reference) => reference.read().context("database")?,
            Self::Written(url) => url.clone(),
        };
        let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.expose_secret().starts_with(scheme));
        ensure!(is_postgres, "database is neither \"sqlite\" nor a postgres:// URL nor a reference to one");
        Ok(url)
    }
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
    lease_seconds: Option<u64>,
    clock: Option<Clock>,
    log: Option<String>,
    log_format: Option<LogFormat>,
    #[serde(default)]
    organization: Vec<FileOrganization>,
    #[serde(default)]
    ticket_system: Vec<ticket_systems::FileTicketSystem>,
    #[serde(default)]
    source: Vec<sources::FileSource>,
    #[serde(default)]
    outbound: targets::FileOutbound,
    #[serde(default)]
    target: Vec<targets::FileTarget>,
    #[serde(default)]
    identity: identity::FileIdentity,
    #[serde(default)]
    limits: identity::FileLimits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOrganization {
    id: OrganizationId,
    name: Option<String>,
    lab: Option<String>,
    test_mailbox: Option<String>,
    servers_at_once: Option<usize>,
    servers_at_once_per_site: Option<usize>,
    exchange: FileExchange,
    windows: Option<FileWindows>,
    cloud: Option<cloud::FileCloud>,
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
    username: Option<String>,
    password: Option<String>,
    realm: Option<String>,
    kdc: Option<String>,
    service_principal: Option<String>,
    #[serde(default)]
    encryption: Encryption,
    keytab: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    certificate_key: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    pin_sha256: Vec<String>,
    max_sessions: Option<usize>,
    max_envelope_kb: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Authentication {
    Basic,
    Certificate,
    Kerberos,
    Negotiate,
    Ntlm,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Encryption {
    Always,
    #[default]
    Auto,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileWindows {
    url: String,
    authentication: Option<Authentication>,
    username: Option<String>,
    password: Option<String>,
    keytab: Option<PathBuf>,
    realm: Option<String>,
    kdc: Option<String>,
    service_principal: Option<String>,
    encryption: Option<Encryption>,
}

/// How to log on, as written for one kind of endpoint.
#[derive(Clone)]
struct Logon {
    authentication: Authentication,
    username: Option<String>,
    password: Option<String>,
    keytab: Option<PathBuf>,
    encryption: Encryption,
    kerberos: Kerberos,
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
    toml::from_str(&text).map_err(|error| anyhow!("{}: {}", path.display(), without_values(&text, &error)))
}

/// What is wrong with a configuration and where, without the line itself and without the value: it may be a secret.
fn without_values(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(text));
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&char| char != '\n').count() + 1;
    let message = error.message();
    let message = match message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        // serde tells the kind first: string "…", integer `…`.
        Some((found, expected)) => {
            let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            format!("invalid type: {kind}, expected {expected}")
        }
        None => message.to_owned(),
    };
    format!("line {line}, column {column}: {message}")
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
    if let Some(value) = set("REKEY_LEASE_SECONDS") {
        file.lease_seconds =
            Some(value.parse().with_context(|| format!("REKEY_LEASE_SECONDS is `{value}`: use a number"))?);
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
    let concurrency = file.concurrency.unwrap_or(16);
    ensure!((1..=256).contains(&concurrency), "concurrency is {concurrency}: use 1 to 256");
    let lease = file.lease_seconds.unwrap_or_else(|| Pace::default().lease.as_secs());
    ensure!((5..=600).contains(&lease), "lease_seconds is {lease}: use 5 to 600");
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
    let ticket_systems = ticket_systems::all(file.ticket_system, folder, &ids, &file.outbound.allow()?)?;
    let sources = sources::build(file.source, &ids, folder)?;
    let ids: BTreeSet<OrganizationId> = ids.into_iter().cloned().collect();
    Ok(Config {
        ticket_systems,
        listen,
        data_dir: folder.join(file.data_dir.unwrap_or_else(|| "rekey-data".into())),
        database: database(file.database.as_deref(), folder)?,
        token_key: reference(file.token_key).context("token_key")?,
        seal_key: reference(file.seal_key).context("seal_key")?,
        concurrency,
        pace: Pace::of(Duration::from_secs(lease)),
        clock: file.clock.unwrap_or_default(),
        log: file.log.unwrap_or_else(|| "info".to_owned()),
        log_format: file.log_format.unwrap_or_default(),
        sources,
        organizations,
        outbound: targets::build(file.outbound, file.target, listen, folder)?,
        identity: file.identity.build(&ids, folder)?,
        limits: file.limits.build(),
        file: path.map(Path::to_path_buf),
    })
}

fn database(text: Option<&str>, folder: &Path) -> anyhow::Result<Database> {
    let Some(text) = text.filter(|text| *text != "sqlite") else { return Ok(Database::Sqlite) };
    if let Ok(reference) = Reference::parse(text, folder) {
        return Ok(Database::Postgres(PostgresUrl::Referred(reference)));
    }
    let url = PostgresUrl::Written(SecretString::from(text));
    url.read()?;
    Ok(Database::Postgres(url))
}

fn configured(file: FileOrganization, folder: &Path) -> anyhow::Result<Configured> {
    let faults = file.policy.faults();
    ensure!(faults.is_empty(), "policy: {}", faults.join("; "));
    ensure!(!file.exchange.urls.is_empty(), "exchange.urls is empty: name at least one server's PowerShell URL");
    let sessions = file.exchange.max_sessions.unwrap_or(MAX_SESSIONS);
    ensure!((1..=1024).contains(&sessions), "exchange.max_sessions is {sessions}: use 1 to 1024");
    let envelope = file.exchange.max_envelope_kb.unwrap_or(MAX_ENVELOPE_SIZE / 1024);
    ensure!((32..=65_536).contains(&envelope), "exchange.max_envelope_kb is {envelope}: use 32 to 65536");
    let bounds = bounds(&file)?;
    let trust = trust(&file.exchange, folder)?;
    let logon = Logon {
        authentication: file.exchange.authentication,
        username: file.exchange.username,
        password: file.exchange.password,
        keytab: file.exchange.keytab,
        encryption: file.exchange.encryption,
        kerberos: Kerberos {
            realm: file.exchange.realm,
            kdc: file.exchange.kdc,
            service_principal: file.exchange.service_principal,
        },
    };
    let credentials = logon.read(&trust, folder).context("exchange")?;
    let urls = file.exchange.urls.iter().map(|url| Endpoints::parse_url(url, &credentials));
    let exchange = urls.collect::<Result<_, _>>()?;
    let windows = file.windows.map(|windows| windows_endpoint(windows, logon, &trust, folder)).transpose()?;
    let cloud =
        file.cloud.map(|cloud| cloud::configured(cloud, &file.connect_to, folder)).transpose().context("cloud")?;
    let (settings, cloud) = cloud.unzip();
    cloud::check_mailbox(file.test_mailbox.as_deref(), settings.is_some())?;
    let organization = Organization {
        name: file.name.unwrap_or_else(|| file.id.to_string()),
        id: file.id,
        lab: file.lab.is_some(),
        windows: windows.is_some(),
        cloud: settings,
        test_mailbox: file.test_mailbox,
        policy: file.policy,
    };
    let endpoints = Endpoints {
        exchange,
        credentials,
        windows,
        connect_to: file.connect_to,
        tls: trust.build().context("exchange")?,
        max_envelope_size: envelope * 1024,
        sessions: Sessions::new(sessions),
    };
    Ok(Configured { managed: Managed { organization, endpoints, bounds, cloud: None }, lab: file.lab, cloud })
}

fn bounds(file: &FileOrganization) -> anyhow::Result<Bounds> {
    let usual = Bounds::default();
    let organization = file.servers_at_once.unwrap_or(usual.organization);
    ensure!((1..=256).contains(&organization), "servers_at_once is {organization}: use 1 to 256");
    let site = file.servers_at_once_per_site.unwrap_or_else(|| usual.site.min(organization));
    ensure!(
        (1..=organization).contains(&site),
        "servers_at_once_per_site is {site}: use 1 to servers_at_once, which is {organization}"
    );
    Ok(Bounds { organization, site })
}

impl Logon {
    fn read(&self, trust: &Trust, folder: &Path) -> anyhow::Result<Credentials> {
        let protocol = match self.authentication {
            Authentication::Certificate => {
                ensure!(
                    trust.identity.is_some(),
                    "certificate authentication needs certificate_file and certificate_key"
                );
                return Ok(Credentials::Certificate);
            }
            Authentication::Basic => return Ok(Credentials::Basic(self.account(folder)?)),
            Authentication::Kerberos => WindowsProtocol::Kerberos,
            Authentication::Negotiate => WindowsProtocol::Negotiate,
            Authentication::Ntlm => WindowsProtocol::Ntlm,
        };
        let username = self.username.clone().context("username is missing")?;
        let realm = self.kerberos.realm_of(&username);
        ensure!(
            protocol != WindowsProtocol::Kerberos || realm.is_some(),
            "kerberos needs the realm of the account: write username as DOMAIN\\user or user@domain, or set realm"
        );
        let proof = match &self.keytab {
            None => Proof::Password(self.password(folder)?),
            Some(_) if self.password.is_some() => bail!("password and keytab are both given: keep one"),
            Some(_) if protocol != WindowsProtocol::Kerberos => {
                bail!("a keytab is for authentication = \"kerberos\" only: the others need the password")
            }
            Some(file) => {
                let account = split_username(&username).0;
                Proof::Key(account_key(&folder.join(file), account, &realm.unwrap_or_default())?)
            }
        };
        let (always_seal, kerberos) = (self.encryption == Encryption::Always, self.kerberos.clone());
        Ok(Credentials::Windows(WindowsLogon { username, proof, protocol, always_seal, kerberos }))
    }

    fn account(&self, folder: &Path) -> anyhow::Result<Account> {
        let username = self.username.clone().context("username is missing")?;
        Ok(Account { username, password: self.password(folder)? })
    }

    fn password(&self, folder: &Path) -> anyhow::Result<SecretString> {
        let password = self.password.as_deref().context("password is missing")?;
        Reference::parse(password, folder)?.read().context("password")
    }
}

/// The account's key of a keytab. The error says whose keys it holds.
fn account_key(file: &Path, account: &str, realm: &str) -> anyhow::Result<keytab::Key> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read the keytab {}", file.display()))?;
    let keys = keytab::read(&bytes).with_context(|| format!("cannot use the keytab {}", file.display()))?;
    keytab::best(&keys, account, realm).cloned().with_context(|| {
        let held: BTreeSet<String> = keys.iter().map(keytab::Key::name).collect();
        let held = held.into_iter().collect::<Vec<_>>().join(", ");
        format!("the keytab {} holds no AES key of {account}@{realm}; it is for: {held}", file.display())
    })
}

fn windows_endpoint(
    file: FileWindows,
    exchange: Logon,
    trust: &Trust,
    folder: &Path,
) -> anyhow::Result<(String, Credentials)> {
    ensure!(file.url.contains("{fqdn}"), "windows.url is `{}`: it must contain {{fqdn}}", file.url);
    // Whoever gives one proof here does not mean the other one of exchange.
    let (password, keytab) = match (file.password, file.keytab) {
        (None, None) => (exchange.password, exchange.keytab),
        own => own,
    };
    let logon = Logon {
        authentication: file.authentication.unwrap_or(exchange.authentication),
        username: file.username.or(exchange.username),
        password,
        keytab,
        encryption: file.encryption.unwrap_or(exchange.encryption),
        kerberos: Kerberos {
            realm: file.realm.or(exchange.kerberos.realm),
            kdc: file.kdc.or(exchange.kerberos.kdc),
            service_principal: file.service_principal,
        },
    };
    let credentials = logon.read(trust, folder).context("windows")?;
    Endpoints::parse_url(&file.url.replace("{fqdn}", "server.example"), &credentials).context("windows.url")?;
    Ok((file.url, credentials))
}

fn trust(file: &FileExchange, folder: &Path) -> anyhow::Result<Trust> {
    let read = |path: &Path| {
        let path = folder.join(path);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let ca = file.ca_file.as_deref().map(read).transpose().context("ca_file")?;
    let pins = file.pin_sha256.iter().map(|text| Pin::parse(text)).collect::<Result<_, _>>().context("pin_sha256")?;
    let identity = match (&file.certificate_file, &file.certificate_key) {
        (Some(path), Some(key)) => {
            let key = Reference::parse(key, folder)?.read().context("certificate_key")?;
            let key = key.expose_secret().as_bytes().to_vec().into();
            Some(Identity { certificates: read(path).context("certificate_file")?, key })
        }
        (None, None) => None,
        _ => bail!("certificate_file and certificate_key go together"),
    };
    Ok(Trust { ca, pins, identity })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn parse(text: &str) -> anyhow::Result<Config> {
        let file: File = toml::from_str(text)?;
        build(file, Path::new("/nowhere"), None)
    }

    pub(crate) const ORGANIZATION: &str = r#"
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
    fn the_line_of_a_mistake_is_told_without_what_may_be_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rekey.toml");
        let cases = [
            ("log = \"info\"\ndatabase = \"postgres://rekey:hunter2secret@db/rekey\n", "line 2, column"),
            ("database = [\"hunter2secret\"]", "line 1, column 12: invalid type: sequence, expected a string"),
            ("concurrency = \"hunter2secret\"", "line 1, column 15: invalid type: string, expected usize"),
            ("token_key = hunter2secret", "line 1, column "),
            ("token_key = hunter2 secret", "line 1, column "),
            ("token_key = 'hunter2secret\"", "line 1, column "),
            ("seal_key = 48151623", "line 1, column 12: invalid type: integer, expected a string"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("48151623"), "{text}: {error}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let with = |from: &str, to: &str| ORGANIZATION.replace(from, to);
        let cases = [
            ("listen = \"8080\"".to_owned(), "use ADDRESS:PORT"),
            ("color = \"red\"".to_owned(), "unknown field `color`"),
            ("database = \"mysql://x\"".to_owned(), "neither \"sqlite\" nor a postgres:// URL"),
            ("concurrency = 0".to_owned(), "use 1 to 256"),
            ("lease_seconds = 1".to_owned(), "use 5 to 600"),
            (
                with("id =", "servers_at_once = 2\nservers_at_once_per_site = 3\nid ="),
                "use 1 to servers_at_once, which is 2",
            ),
            (format!("{ORGANIZATION}\n[organization.policy]\nprune_failure = \"roll_back\""), "use ask or skip"),
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
    fn who_uses_no_database_needs_no_url_of_one() {
        let config = parse("database = \"env:REKEY_NOT_SET_ANYWHERE\"").unwrap();
        let Database::Postgres(url) = config.database else { panic!("it is referred to") };
        assert!(format!("{:#}", url.read().unwrap_err()).contains("REKEY_NOT_SET_ANYWHERE is not set"));
        let elsewhere = parse("database = \"env:PATH\"").unwrap();
        let Database::Postgres(url) = elsewhere.database else { panic!("it is referred to") };
        assert!(url.read().unwrap_err().to_string().contains("nor a postgres:// URL"));
    }

    #[test]
    fn every_way_to_log_on_can_be_configured() {
        let with = |authentication: &str, more: &str| {
            let text = ORGANIZATION.replace("\"basic\"", &format!("\"{authentication}\""));
            parse(&format!("{text}\n{more}")).map(|config| config.organizations[0].managed.endpoints.clone())
        };
        for authentication in ["kerberos", "negotiate", "ntlm"] {
            let endpoints = with(authentication, "kdc = \"dc01:88\"\nrealm = \"contoso.example\"").unwrap();
            let Credentials::Windows(logon) = endpoints.credentials else { panic!("{authentication}") };
            assert_eq!(logon.kerberos.kdc.as_deref(), Some("dc01:88"));
        }
        let error = format!("{:#}", with("certificate", "").unwrap_err());
        assert!(error.contains("certificate_file and certificate_key"), "{error}");
        let error = format!("{:#}", with("basic", "pin_sha256 = [\"12\"]").unwrap_err());
        assert!(error.contains("64 hexadecimal digits"), "{error}");
        let error = format!("{:#}", with("kerberos", "realm = \"EXAMPLE.COM\"\nkeytab = \"svc.keytab\"").unwrap_err());
        assert!(error.contains("password and keytab are both given"), "{error}");
        let error = format!("{:#}", with("password", "").unwrap_err());
        assert!(error.contains("kerberos"), "it names what there is: {error}");
    }

    #[test]
    fn a_keytab_takes_the_place_of_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let keytab = |name: &str| {
            let mut entry = vec![0, 1, 0, 11];
            entry.extend(b"EXAMPLE.COM");
            entry.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
            entry.extend(name.as_bytes());
            entry.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 18, 0, 32]);
            entry.extend([7; 32]);
            let file = [&[5, 2], u32::try_from(entry.len()).unwrap().to_be_bytes().as_slice(), &entry].concat();
            std::fs::write(folder.path().join("svc.keytab"), file).unwrap();
        };
        let read = |authentication: &str| {
            let text = ORGANIZATION.replace("\"basic\"", &format!("\"{authentication}\""));
            let password = text.lines().find(|line| line.trim_start().starts_with("password")).unwrap();
            let keytab = format!("keytab = {:?}\nrealm = \"example.com\"", folder.path().join("svc.keytab"));
            parse(&text.replace(password, &keytab)).map(|config| config.organizations[0].managed.endpoints.clone())
        };
        let told = |authentication: &str| format!("{:#}", read(authentication).unwrap_err());
        assert!(told("kerberos").contains("cannot read the keytab"));
        keytab("other");
        assert!(told("kerberos").contains("no AES key of svc@EXAMPLE.COM; it is for: other@EXAMPLE.COM"));
        keytab("svc");
        let Credentials::Windows(logon) = read("kerberos").unwrap().credentials else { panic!("not Kerberos") };
        assert!(matches!(&logon.proof, Proof::Key(key) if key.key.as_slice() == [7; 32]));
        assert!(told("ntlm").contains("for authentication = \"kerberos\" only"));
    }

    #[test]
    fn passwords_are_not_configured_to_travel_in_the_clear() {
        let plain = ORGANIZATION.replace("https://", "http://");
        assert!(format!("{:#}", parse(&plain).unwrap_err()).contains("use https"));
        let sealed = plain.replace("\"basic\"", "\"kerberos\"").replace("\"svc\"", "\"svc@contoso.example\"");
        assert!(parse(&sealed).is_ok(), "Exchange's default: sealed over http");
    }

    #[test]
    fn every_key_is_in_the_help() {
        let keys = [
            "listen",
            "data_dir",
            "database",
            "token_key",
            "seal_key",
            "concurrency",
            "lease_seconds",
            "clock",
            "log",
            "log_format",
            "servers_at_once",
            "servers_at_once_per_site",
        ];
        let exchange = [
            "urls",
            "authentication",
            "username",
            "password",
            "keytab",
            "realm",
            "kdc",
            "service_principal",
            "encryption",
            "certificate_file",
            "certificate_key",
            "ca_file",
            "pin_sha256",
            "max_sessions",
            "max_envelope_kb",
        ];
        let cloud = [
            "cloud",
            "tenant_id",
            "client_id",
            "certificate",
            "certificate_key",
            "application_id",
            "exchange_online",
            "anchor_mailbox",
            "test_mailbox",
            "cloud_test_mailbox",
            "purge_shared_principal",
            "login_url",
            "graph_url",
            "outlook_url",
            "ca_file",
        ];
        let outbound = [
            "public_url",
            "allow",
            "id",
            "kind",
            "organizations",
            "events",
            "url",
            "secrets",
            "server",
            "port",
            "tls",
            "from",
            "to",
        ];
        let identity = [
            "issuer",
            "audience",
            "algorithms",
            "jwks_url",
            "subject_claim",
            "groups_claims",
            "leeway_seconds",
            "key_grace_minutes",
            "username",
            "password",
            "roles",
            "groups",
            "organizations",
            "addresses",
            "certificate_header",
            "verify_header",
            "subject",
            "user",
            "requests_per_minute",
            "burst",
            "failures_per_minute",
            "streams",
        ];
        let policy = serde_json::to_value(Policy::default()).unwrap();
        let policy = policy.as_object().unwrap().keys().map(String::as_str);
        for key in keys.into_iter().chain(exchange).chain(cloud).chain(outbound).chain(identity).chain(policy) {
            let is_table =
                || KEYS.contains(&format!("[organization.policy.{key}")) || KEYS.contains(&format!("policy.{key}]"));
            assert!(KEYS.contains(&format!("  {key} =")) || is_table(), "{key}");
        }
    }
}
