//! `[organization.cloud]`: the tenant of a hybrid organization, and the way to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use domain::{CloudSettings, Timeline, cloud::CloudName};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use uuid::Uuid;
use worker::connectors::{
    Trust,
    cloud::{AppCredentials, Cloud, CloudEndpoints, Patience, Signer, Way},
};

use crate::secrets::Reference;

/// The section as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileCloud {
    #[serde(default)]
    cloud: CloudName,
    tenant_id: String,
    client_id: String,
    certificate: String,
    certificate_key: String,
    application_id: Option<String>,
    #[serde(default)]
    exchange_online: bool,
    anchor_mailbox: Option<String>,
    test_mailbox: Option<String>,
    cloud_test_mailbox: Option<String>,
    #[serde(default)]
    purge_shared_principal: bool,
    login_url: Option<String>,
    graph_url: Option<String>,
    outlook_url: Option<String>,
    ca_file: Option<PathBuf>,
}

/// What plans need to know of the tenant, and the way that a worker goes to it: in real time, which whoever makes the worker may change.
pub(super) fn configured(
    file: FileCloud,
    connect_to: &BTreeMap<String, String>,
    folder: &Path,
) -> anyhow::Result<(CloudSettings, Way)> {
    let tenant = id("tenant_id", &file.tenant_id)?;
    let client = id("client_id", &file.client_id)?;
    ensure!(
        client != tenant,
        "client_id is tenant_id: use the application (client) id of rekey's own app registration"
    );
    let application_id = file.application_id.as_deref().map(|text| id("application_id", text)).transpose()?;
    ensure!(
        application_id.as_ref() != Some(&client),
        "application_id is client_id: rekey signs in as an application of its own, whose key can then do nothing in mailboxes"
    );
    for (key, is_set) in
        [("anchor_mailbox", file.anchor_mailbox.is_some()), ("cloud_test_mailbox", file.cloud_test_mailbox.is_some())]
    {
        ensure!(
            !is_set || file.exchange_online,
            "{key} is for Exchange Online: set exchange_online = true, or leave it out"
        );
    }
    for (key, mailbox) in [("test_mailbox", &file.test_mailbox), ("cloud_test_mailbox", &file.cloud_test_mailbox)] {
        check_address(key, mailbox.as_deref())?;
    }
    // It becomes a header of requests.
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    ensure!(
        file.anchor_mailbox.as_deref().is_none_or(plain),
        "anchor_mailbox: use something like APP:SystemMailbox{{bb558c35-97f1-4cb9-8ff7-d53741dc928c}}@<tenant id>, without spaces"
    );
    let way = Way {
        endpoints: endpoints(&file)?,
        tenant: tenant.clone(),
        credentials: AppCredentials { client_id: client, signer: signer(&file, folder)? },
        tls: trust(file.ca_file.as_deref(), folder)?.build().context("ca_file")?,
        connect_to: connect_to.clone(),
        anchor: file.anchor_mailbox,
        timeline: Timeline::real(),
        patience: Patience::default(),
    };
    Cloud::new(way.clone())?;
    let settings = CloudSettings {
        cloud: file.cloud,
        graph_url: file.graph_url.map(|url| url.trim_end_matches('/').to_owned()),
        tenant_id: tenant,
        application_id,
        exchange_online: file.exchange_online,
        test_mailbox: file.test_mailbox,
        cloud_test_mailbox: file.cloud_test_mailbox,
        purge_shared_principal: file.purge_shared_principal,
    };
    Ok((settings, way))
}

/// A certificate with fewer days than this is told.
const FEW_DAYS: i64 = 30;

/// What works now, and is better known: about the certificate that signs in, and tests that will not be made.
pub(crate) fn cautions(settings: &CloudSettings, not_after: DateTime<Utc>, now: DateTime<Utc>) -> Vec<String> {
    let mut told = Vec::new();
    let days = (not_after - now).num_days();
    if days < FEW_DAYS {
        told.push(format!(
            "the certificate ends in {days} days: register a new one beside it, name it here, then take the old one out"
        ));
    }
    if settings.test_mailbox.is_none() {
        told.push(
            "without test_mailbox no server tests whether Exchange Online lets it in with the new key: name a mailbox on the servers"
                .to_owned(),
        );
    }
    if settings.exchange_online && settings.cloud_test_mailbox.is_none() {
        told.push("without cloud_test_mailbox the way from Exchange Online to the servers is not tested".to_owned());
    }
    told
}

/// A GUID in the form in which Entra and Exchange write it.
fn id(key: &str, text: &str) -> anyhow::Result<String> {
    let parsed = Uuid::try_parse(text).ok().filter(|id| text.len() == 36 && !id.is_nil());
    parsed.map(|id| id.to_string()).with_context(|| {
        format!("{key} is `{text}`: use the GUID that the Microsoft Entra admin center shows, like 7c9e6679-7425-40de-944b-e07fc1f90ae7")
    })
}

fn check_address(key: &str, mailbox: Option<&str>) -> anyhow::Result<()> {
    ensure!(mailbox.is_none_or(is_mailbox), "{key}: use an address like oauth-test@contoso.example");
    Ok(())
}

/// The mailbox of an organization, whose tests are made without its tenant.
pub(super) fn check_mailbox(mailbox: Option<&str>, with_tenant: bool) -> anyhow::Result<()> {
    ensure!(mailbox.is_none() || !with_tenant, "test_mailbox: with [organization.cloud] it belongs there");
    check_address("test_mailbox", mailbox)
}

fn is_mailbox(text: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && !part.chars().any(|c| c.is_whitespace() || c.is_control());
    text.split_once('@').is_some_and(|(name, domain)| plain(name) && plain(domain) && !domain.contains('@'))
}

fn endpoints(file: &FileCloud) -> anyhow::Result<CloudEndpoints> {
    let known = match file.cloud {
        CloudName::Custom => None,
        CloudName::Global => Some(CloudEndpoints::global()),
        CloudName::UsGovL4 => Some(CloudEndpoints::us_gov_l4()),
        CloudName::UsGovL5 => Some(CloudEndpoints::us_gov_l5()),
        CloudName::China => Some(CloudEndpoints::china()),
    };
    match (known, &file.login_url, &file.graph_url, &file.outlook_url) {
        (Some(known), None, None, None) => Ok(known),
        (Some(_), ..) => bail!("login_url, graph_url and outlook_url are for cloud = \"custom\" only"),
        (None, Some(login), Some(graph), Some(outlook)) => Ok(CloudEndpoints::custom(login, graph, outlook)?),
        (None, ..) => bail!("cloud = \"custom\" needs login_url, graph_url and outlook_url"),
    }
}

fn signer(file: &FileCloud, folder: &Path) -> anyhow::Result<Signer> {
    let read =
        |key: &'static str, text: &str| Reference::parse(text, folder).and_then(|found| found.read()).context(key);
    let certificate = read("certificate", &file.certificate)?;
    let key = read("certificate_key", &file.certificate_key)?;
    let signer = Signer::from_pem(certificate.expose_secret().as_bytes(), key.expose_secret().as_bytes());
    signer.context("certificate and certificate_key")
}

fn trust(ca: Option<&Path>, folder: &Path) -> anyhow::Result<Trust> {
    let read = |path: &Path| {
        let path = folder.join(path);
        std::fs::read(&path).with_context(|| format!("ca_file: cannot read {}", path.display()))
    };
    Ok(Trust { ca: ca.map(read).transpose()?, pins: Vec::new(), identity: None })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use domain::Organization;
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
    use tempfile::TempDir;

    use super::*;
    use crate::config::tests::{ORGANIZATION, parse};

    /// A key of 1024 bits, which protects nothing.
    const SHORT: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBAN/uynpFk6YuR9qm\n\
EWSJCK3pjR3Vw/2BqryaRIyyGb9wBB2j+JbtZ0nMkRSGFfTXqDINihsRJGt+o1jk\n\
jcLdkAVYsK57cNrh4knSrv2d7yIkinvgNtV3lLzsRj5GN1fu/jxd7vguBDWoZ4Cz\n\
BhUPrML+nmZwzoNb9ONy4KSFhy2ZAgMBAAECgYB67fKXRuS0AIoPfMTlhNiP6DtA\n\
mp3555nb6XAiMI8z6YFI6D/KUs810yf9tVIOU+kQeSBMlY+Bt0ZiwS0VQV4SmikK\n\
vgbx/ArfsFi5OqeLfx5h1ALwFCJ32pfoH9o3eMzdVh43uQykoQnp+t45pzjEavs9\n\
oSDL4PhDxxInlLuRAQJBAPoqQ/xWN4YQVgFvURJM371q2jxBMkYigauE54cTtk6W\n\
lNuH4hc/r5KxfkRol++Uewk3XtvcTmpAxue2U0c8o+ECQQDlJ+RuDqJIx5Y5O+fd\n\
sXUVOvaI2byAxliBRkwCxWV6UctHqLNtrs1M8ipGMmFUFC9eYdaESQvWstjB6eUJ\n\
TMC5AkAf4IjfO6FBnQ1Ii4W6Hj+YZGhAq1Ibq8P4NixGgxWE+B0pyCvgKIZX2/Qq\n\
BWXu6m2vI/Ybb/wx/+UYm5wLBMghAkB65Bvi0cJCGZb8dp3wDBzoF8jitzIaNUR9\n\
f39/9PBo2riTY2tmJNpAq5X0M0xy1Khai0mJg8rvhtYrmA2WIS0xAkEA0K8PMuBn\n\
/vVwtL1fikHV1eZIrAuWWp7kkCpBNpqVaYosBf3fPHoK1yXu1OpJiOnx1GmqcatM\n\
S6F8Wk4L3OpSNg==\n\
-----END PRIVATE KEY-----\n";

    /// A folder with a certificate and its key, and those of another one, with the section that names them.
    fn section() -> (TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["rekey", "other"] {
            let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
            let certificate = CertificateParams::default().self_signed(&key).unwrap();
            std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        std::fs::write(folder.path().join("short.key"), SHORT).unwrap();
        let place = folder.path().display();
        let section = format!(
            r#"{ORGANIZATION}
            [organization.cloud]
            tenant_id = "7C9E6679-7425-40de-944b-e07fc1f90ae7"
            client_id = "11111111-2222-4333-8444-555555555555"
            certificate = "file:{place}/rekey.pem"
            certificate_key = "file:{place}/rekey.key"
            "#
        );
        (folder, section)
    }

    fn organization(text: &str) -> Organization {
        parse(text).unwrap().organizations.remove(0).managed.organization
    }

    #[test]
    fn what_will_be_missed_later_is_told_now() {
        let (_folder, section) = section();
        let mut settings = organization(&section).cloud.unwrap();
        let now = Utc::now();
        let about = |settings: &CloudSettings, days| cautions(settings, now + TimeDelta::days(days), now).join("\n");
        let told = about(&settings, 9);
        assert!(told.contains("ends in 9 days") && told.contains("without test_mailbox"), "{told}");
        settings.test_mailbox = Some("here@contoso.example".to_owned());
        assert_eq!(about(&settings, 400), "");
        settings.exchange_online = true;
        assert!(about(&settings, 400).contains("cloud_test_mailbox"));
    }

    #[test]
    fn without_a_section_the_cloud_half_is_left_to_people() {
        let config = parse(ORGANIZATION).unwrap();
        assert_eq!(config.organizations[0].managed.organization.cloud, None);
        assert!(config.organizations[0].cloud.is_none());
    }

    #[test]
    fn a_tenant_needs_no_more_than_who_asks_and_where() {
        let (_folder, section) = section();
        let settings = organization(&section).cloud.unwrap();
        assert_eq!(settings.tenant_id, "7c9e6679-7425-40de-944b-e07fc1f90ae7");
        assert_eq!((settings.cloud, settings.exchange_online), (CloudName::Global, false));
        let way = parse(&section).unwrap().organizations.remove(0).cloud.unwrap();
        assert_eq!(way.endpoints, CloudEndpoints::global());
        let shown = format!("{way:?}");
        assert!(shown.contains("11111111-2222-4333-8444-555555555555") && !shown.contains("PRIVATE KEY"), "{shown}");
    }

    #[test]
    fn everything_can_be_somewhere_else() {
        let (_folder, section) = section();
        let section = format!(
            r#"{section}
            cloud = "custom"
            login_url = "https://login.lab.example"
            graph_url = "https://graph.lab.example"
            outlook_url = "https://outlook.lab.example:8443"
            application_id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
            exchange_online = true
            anchor_mailbox = "APP:SystemMailbox"
            test_mailbox = "here@contoso.example"
            cloud_test_mailbox = "there@contoso.example"
            purge_shared_principal = true
            [organization.connect_to]
            "graph.lab.example:443" = "127.0.0.1:18443"
            "#
        );
        let mut config = parse(&section).unwrap();
        let configured = config.organizations.remove(0);
        let settings = configured.managed.organization.cloud.unwrap();
        assert!(settings.purge_shared_principal && settings.exchange_online);
        assert_eq!(settings.cloud_test_mailbox.as_deref(), Some("there@contoso.example"));
        let way = configured.cloud.unwrap();
        assert_eq!(way.endpoints.exchange_online.port(), Some(8443));
        assert_eq!(way.connect_to["graph.lab.example:443"], "127.0.0.1:18443");
        assert_eq!(way.anchor.as_deref(), Some("APP:SystemMailbox"));
    }

    #[test]
    fn mistakes_are_named_without_repeating_secrets() {
        let (folder, section) = section();
        let place = folder.path().display();
        let with = |from: &str, to: &str| {
            assert!(section.contains(from), "{from}");
            section.replace(from, to)
        };
        let and = |more: &str| format!("{section}\n{more}");
        let cases = [
            (
                with("7C9E6679-7425-40de-944b-e07fc1f90ae7", "contoso.onmicrosoft.com"),
                "tenant_id is `contoso.onmicrosoft.com`: use the GUID",
            ),
            (with("11111111-2222-4333-8444-555555555555", "rekey"), "client_id is `rekey`: use the GUID"),
            (and("application_id = \"ExchangeServerApp\""), "application_id is `ExchangeServerApp`: use the GUID"),
            (and("application_id = \"11111111-2222-4333-8444-555555555555\""), "an application of its own"),
            (with(&format!("file:{place}/rekey.key"), "hunter2"), "by reference only"),
            (
                with(&format!("file:{place}/rekey.key"), "env:REKEY_NOT_SET_ANYWHERE"),
                "REKEY_NOT_SET_ANYWHERE is not set",
            ),
            (
                with(&format!("file:{place}/rekey.key"), &format!("file:{place}/other.key")),
                "belongs to another certificate",
            ),
            (
                with(&format!("file:{place}/rekey.key"), &format!("file:{place}/rekey.pem")),
                "it must be RSA with 2048 to 8192 bits, in PEM form, unencrypted",
            ),
            (
                with(&format!("file:{place}/rekey.pem"), &format!("file:{place}/rekey.key")),
                "the certificate cannot be read",
            ),
            (
                with("7C9E6679-7425-40de-944b-e07fc1f90ae7", "00000000-0000-0000-0000-000000000000"),
                "tenant_id is `00000000-0000-0000-0000-000000000000`: use the GUID",
            ),
            (
                with("11111111-2222-4333-8444-555555555555", "7C9E6679-7425-40de-944b-e07fc1f90ae7"),
                "client_id is tenant_id",
            ),
            (
                with(&format!("file:{place}/rekey.key"), &format!("file:{place}/short.key")),
                "it must be RSA with 2048 to 8192 bits",
            ),
            (and("cloud = \"mars\""), "unknown variant `mars`"),
            (and("cloud = \"custom\""), "needs login_url, graph_url and outlook_url"),
            (and("login_url = \"https://login.example\""), "for cloud = \"custom\" only"),
            (
                and(
                    "cloud = \"custom\"\nlogin_url = \"http://a.example\"\ngraph_url = \"https://b.example\"\noutlook_url = \"https://c.example\"",
                ),
                "`http://a.example` is not a URL",
            ),
            (and("cloud_test_mailbox = \"a@contoso.example\""), "set exchange_online = true"),
            (and("anchor_mailbox = \"UPN:a\""), "set exchange_online = true"),
            (and("exchange_online = true\nanchor_mailbox = \"a\\r\\nX: y\""), "anchor_mailbox"),
            (and("test_mailbox = \"nobody\""), "use an address like"),
            (and("ca_file = \"nowhere.pem\""), "ca_file: cannot read /nowhere/nowhere.pem"),
            (
                section.replacen(
                    "[organization.exchange]",
                    "test_mailbox = \"a@contoso.example\"\n[organization.exchange]",
                    1,
                ),
                "it belongs there",
            ),
            (and("client_secret = \"x\""), "unknown field `client_secret`"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(&text).expect_err(&text));
            assert!(error.contains(expected), "{expected} is not in: {error}");
            assert!(!error.contains("PRIVATE KEY"), "{error}");
        }
    }
}
