//! `[outbound]` and `[[target]]`: where messages may go, and who is told what.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use domain::{
    OrganizationId,
    announcing::{News, PublicUrl},
};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use worker::{
    connectors::Trust,
    outbox::{
        AllowList, Chat, ChatKind, MailLogin, MailTarget, MailTls, Mailbox, SigningKey, Subscription, Target, Webhook,
    },
};

use crate::secrets::Reference;

/// `[outbound]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOutbound {
    public_url: Option<String>,
    #[serde(default)]
    allow: Vec<String>,
}

impl FileOutbound {
    /// Where connections may go.
    pub(super) fn allow(&self) -> anyhow::Result<AllowList> {
        AllowList::parse(self.allow.iter().map(String::as_str)).context("outbound: allow")
    }
}

/// A `[[target]]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTarget {
    id: String,
    kind: Kind,
    #[serde(default)]
    organizations: Vec<OrganizationId>,
    #[serde(default)]
    events: Vec<String>,
    url: Option<String>,
    #[serde(default)]
    secrets: Vec<String>,
    server: Option<String>,
    port: Option<u16>,
    tls: Option<Tls>,
    username: Option<String>,
    password: Option<String>,
    from: Option<String>,
    #[serde(default)]
    to: Vec<String>,
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Slack,
    Smtp,
    Teams,
    Webhook,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Tls {
    Implicit,
    None,
    Starttls,
}

/// What links in messages begin with, and who is told what.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    pub(crate) public_url: PublicUrl,
    pub(crate) subscriptions: Vec<Subscription>,
}

/// Reads both sections.
pub(super) fn build(
    outbound: FileOutbound,
    targets: Vec<FileTarget>,
    listen: std::net::SocketAddr,
    folder: &Path,
) -> anyhow::Result<Outbound> {
    let allow = outbound.allow()?;
    let named = outbound.public_url.is_some();
    let public_url = outbound.public_url.unwrap_or_else(|| format!("http://{listen}"));
    let public_url = PublicUrl::parse(&public_url).context("outbound: public_url")?;
    ensure!(
        named || targets.is_empty(),
        "outbound: set public_url: messages have links, which begin with the URL that people reach this service at"
    );
    let mut ids = BTreeSet::new();
    let mut subscriptions = Vec::with_capacity(targets.len());
    for target in targets {
        let id = target.id.clone();
        ensure!(
            OrganizationId::parse(&id).is_ok(),
            "target id `{id}`: use 1 to 63 of a-z, 0-9 and -, not at the edges"
        );
        ensure!(ids.insert(id.clone()), "target {id} stands there twice: give each its own id");
        let subscription = subscription(target, &public_url, &allow, folder);
        subscriptions.push(subscription.with_context(|| format!("target {id}"))?);
    }
    Ok(Outbound { public_url, subscriptions })
}

fn subscription(
    file: FileTarget,
    public_url: &PublicUrl,
    allow: &AllowList,
    folder: &Path,
) -> anyhow::Result<Subscription> {
    file.events.iter().try_for_each(|filter| check_filter(filter))?;
    let ca = file.ca_file.as_deref().map(|path| {
        let path = folder.join(path);
        std::fs::read(&path).with_context(|| format!("ca_file: cannot read {}", path.display()))
    });
    let ca = ca.transpose()?;
    let target: Arc<dyn Target> = match file.kind {
        Kind::Smtp => Arc::new(mail(&file, ca, public_url, allow, folder)?),
        Kind::Webhook => Arc::new(webhook(&file, ca, public_url, allow, folder)?),
        Kind::Slack => Arc::new(chat(&file, ChatKind::Slack, ca, allow, folder)?),
        Kind::Teams => Arc::new(chat(&file, ChatKind::Teams, ca, allow, folder)?),
    };
    let FileTarget { id, organizations, events, .. } = file;
    Ok(Subscription { id, organizations, events, ticket_system: None, target })
}

/// A filter that nothing fits is a mistake.
fn check_filter(filter: &str) -> anyhow::Result<()> {
    let fits = match filter.strip_suffix('*') {
        Some(beginning) => News::WORDS.iter().any(|word| word.starts_with(beginning)),
        None => News::WORDS.contains(&filter),
    };
    ensure!(fits, "events: nothing is called `{filter}`: use {} or the beginning of one and *", News::WORDS.join(", "));
    Ok(())
}

/// Keys that are for other kinds of targets.
fn refuse_others(file: &FileTarget) -> anyhow::Result<()> {
    let is_mail = file.kind == Kind::Smtp;
    let of_mail = [
        ("server", file.server.is_some()),
        ("port", file.port.is_some()),
        ("tls", file.tls.is_some()),
        ("username", file.username.is_some()),
        ("password", file.password.is_some()),
        ("from", file.from.is_some()),
        ("to", !file.to.is_empty()),
    ];
    for (key, is_set) in of_mail {
        ensure!(is_mail || !is_set, "{key} is for kind = \"smtp\" only");
    }
    ensure!(!is_mail || file.url.is_none(), "url is not for kind = \"smtp\": set server, port and tls");
    ensure!(file.kind == Kind::Webhook || file.secrets.is_empty(), "secrets are for kind = \"webhook\" only");
    Ok(())
}

fn read(key: &'static str, text: &str, folder: &Path) -> anyhow::Result<SecretString> {
    Reference::parse(text, folder).and_then(|found| found.read()).context(key)
}

/// The URL of a receiver that may be connected to. The error does not repeat it: it may be a secret.
fn allowed(text: &str, allow: &AllowList) -> anyhow::Result<Url> {
    let Ok(url) = Url::parse(text) else { bail!("url: it is not a URL like https://receiver.contoso.example/rekey") };
    allow.check_url(&url).context("url")?;
    Ok(url)
}

fn webhook(
    file: &FileTarget,
    ca: Option<Vec<u8>>,
    public_url: &PublicUrl,
    allow: &AllowList,
    folder: &Path,
) -> anyhow::Result<Webhook> {
    refuse_others(file)?;
    let text = file.url.as_deref().context("url is missing")?;
    let url = match text.starts_with("http") {
        true => allowed(text, allow)?,
        false => allowed(read("url", text, folder)?.expose_secret(), allow)?,
    };
    ensure!(
        !file.secrets.is_empty(),
        "secrets is missing: name at least one signing key by reference, the newest first"
    );
    let keys = file.secrets.iter().map(|text| Ok(SigningKey::parse(&read("secrets", text, folder)?)?));
    Ok(Webhook {
        client: allow.client(&Trust { ca, ..Trust::default() })?,
        url,
        keys: keys.collect::<anyhow::Result<_>>().context("secrets")?,
        public_url: public_url.clone(),
    })
}

fn chat(
    file: &FileTarget,
    kind: ChatKind,
    ca: Option<Vec<u8>>,
    allow: &AllowList,
    folder: &Path,
) -> anyhow::Result<Chat> {
    refuse_others(file)?;
    let text = file.url.as_deref().context("url is missing")?;
    let url = allowed(read("url", text, folder)?.expose_secret(), allow)?;
    let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    ensure!(url.scheme() == "https" || here, "url: use https, because whoever reads this URL can write to the chat");
    Ok(Chat::new(kind, allow.client(&Trust { ca, ..Trust::default() })?, &url))
}

fn mail(
    file: &FileTarget,
    ca: Option<Vec<u8>>,
    public_url: &PublicUrl,
    allow: &AllowList,
    folder: &Path,
) -> anyhow::Result<MailTarget> {
    refuse_others(file)?;
    let server = file.server.clone().context("server is missing")?;
    let tls = match file.tls {
        Some(Tls::Implicit) => MailTls::Implicit,
        Some(Tls::None) => MailTls::None,
        Some(Tls::Starttls) | None => MailTls::Starttls,
    };
    let port = file.port.unwrap_or(match tls {
        MailTls::Implicit => 465,
        MailTls::None => 25,
        MailTls::Starttls => 587,
    });
    allow.check_host(&server, port).context("server")?;
    let login = match (&file.username, &file.password) {
        (Some(username), Some(password)) => {
            Some(MailLogin { username: username.clone(), password: read("password", password, folder)? })
        }
        (None, None) => None,
        _ => bail!("username and password go together"),
    };
    ensure!(login.is_none() || tls != MailTls::None, "tls = \"none\" would send the password unprotected");
    let address = |key: &'static str, text: &str| {
        let plain = !text.chars().any(char::is_control);
        let read = text.parse::<Mailbox>().ok().filter(|_| plain);
        read.with_context(|| {
            format!("{key}: use an address like rekey@contoso.example or \"Mail team <mail@contoso.example>\"")
        })
    };
    ensure!(!file.to.is_empty(), "to is missing: name at least one address");
    Ok(MailTarget {
        allow: allow.clone(),
        server,
        port,
        tls,
        ca,
        login,
        from: address("from", file.from.as_deref().context("from is missing")?)?,
        to: file.to.iter().map(|text| address("to", text)).collect::<anyhow::Result<_>>()?,
        public_url: public_url.clone(),
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use crate::config::tests::parse;

    /// A folder with secrets, and sections that name them.
    fn sections() -> (TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        write("slack", "https://hooks.slack.com/services/T0/B0/hunter2");
        write("elsewhere", "https://elsewhere.example/hunter2");
        write("password", "hunter2");
        let place = folder.path().display();
        let text = format!(
            r#"
            [outbound]
            public_url = "https://rekey.contoso.example"
            allow = ["receiver.contoso.example", "hooks.slack.com", "*.mail.contoso.example"]
            [[target]]
            id = "cmdb"
            kind = "webhook"
            url = "https://receiver.contoso.example/rekey"
            secrets = ["file:{place}/key"]
            events = ["renewal.*", "decision.approved"]
            [[target]]
            id = "chat"
            kind = "slack"
            url = "file:{place}/slack"
            [[target]]
            id = "mail"
            kind = "smtp"
            server = "smtp.mail.contoso.example"
            username = "rekey"
            password = "file:{place}/password"
            from = "rekey <rekey@contoso.example>"
            to = ["exchange@contoso.example"]
            "#
        );
        (folder, text)
    }

    #[test]
    fn targets_are_read_and_show_no_secret() {
        let (_folder, text) = sections();
        let config = parse(&text).unwrap();
        let ids: Vec<&str> = config.outbound.subscriptions.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["cmdb", "chat", "mail"]);
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("MfKQ9r8"), "{shown}");
    }

    #[test]
    fn without_targets_nothing_has_to_be_said() {
        assert!(parse("").unwrap().outbound.subscriptions.is_empty());
    }

    #[test]
    fn mistakes_are_named_without_repeating_secrets() {
        let (folder, text) = sections();
        let place = folder.path().display();
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        };
        let cases = [
            (with("public_url = \"https://rekey.contoso.example\"", ""), "set public_url"),
            (with("https://rekey.contoso.example", "rekey"), "is not a URL"),
            (
                with("\"hooks.slack.com\", ", ""),
                "target chat: url: hooks.slack.com:443 is not allowed: add \"hooks.slack.com\"",
            ),
            (with("\"hooks.slack.com\", ", "\"*\", "), "`*` allows nothing"),
            (with("\"*.mail.contoso.example\"", ""), "server: smtp.mail.contoso.example:587 is not allowed"),
            (
                with(&format!("file:{place}/slack"), &format!("file:{place}/elsewhere")),
                "elsewhere.example:443 is not allowed",
            ),
            (with(&format!("file:{place}/slack"), "https://hooks.slack.com/services/hunter2"), "by reference only"),
            (with(&format!("file:{place}/key"), &format!("file:{place}/password")), "a signing key is whsec_"),
            (with(&format!("file:{place}/password"), "hunter2"), "by reference only"),
            (with("id = \"chat\"", "id = \"cmdb\""), "target cmdb stands there twice"),
            (with("id = \"chat\"", "id = \"Chat room\""), "use 1 to 63 of a-z"),
            (with("decision.approved", "decision.approve"), "nothing is called `decision.approve`"),
            (with("to = [\"exchange@contoso.example\"]", "to = []"), "to is missing"),
            (with("exchange@contoso.example", "nobody"), "use an address like"),
            (
                with("rekey <rekey@contoso.example>", "a@contoso.example\\r\\nBcc: b@evil.example"),
                "use an address like",
            ),
            (with("username = \"rekey\"", ""), "username and password go together"),
            (with("username = \"rekey\"", "username = \"rekey\"\ntls = \"none\"\nport = 25"), "unprotected"),
            (with("kind = \"slack\"", "kind = \"slack\"\nto = [\"a@b.example\"]"), "to is for kind = \"smtp\" only"),
            (with("kind = \"slack\"", "kind = \"pager\""), "unknown variant `pager`"),
            (with("kind = \"slack\"", "kind = \"slack\"\ncolor = 1"), "unknown field `color`"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(&text).expect_err(&text));
            assert!(error.contains(expected), "{expected} is not in: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
