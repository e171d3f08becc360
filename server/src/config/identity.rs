//! `[identity]` and `[limits]`: who is let in besides the owners of rekey's own tokens and keys, and how much each may ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use api::{
    BasicUser, CertifiedUser, Claim, Grants, Identity, IpNet, Issuer, Limits, Pace, Proxy, Role, SignatureAlgorithm,
};
use domain::OrganizationId;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use crate::secrets::Reference;

/// `[identity]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileIdentity {
    oidc: Vec<FileIssuer>,
    basic: Vec<FileBasic>,
    proxy: Option<FileProxy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIssuer {
    issuer: String,
    audience: Vec<String>,
    #[serde(default = "usual_algorithms")]
    algorithms: Vec<SignatureAlgorithm>,
    jwks_url: Option<String>,
    subject_claim: Option<Claim>,
    groups_claims: Option<Vec<Claim>>,
    leeway_seconds: Option<u64>,
    key_grace_minutes: Option<u64>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    roles: BTreeMap<String, Vec<Role>>,
    organizations: Option<BTreeMap<String, BTreeSet<OrganizationId>>>,
}

fn usual_algorithms() -> Vec<SignatureAlgorithm> {
    vec![SignatureAlgorithm::Rs256, SignatureAlgorithm::Ps256, SignatureAlgorithm::Es256]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBasic {
    username: String,
    password: String,
    roles: Vec<Role>,
    #[serde(default)]
    groups: Vec<String>,
    organizations: Option<BTreeSet<OrganizationId>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProxy {
    addresses: Vec<String>,
    certificate_header: Option<String>,
    verify_header: Option<String>,
    #[serde(default)]
    certificate: Vec<FileCertificate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCertificate {
    subject: String,
    user: String,
    roles: Vec<Role>,
    #[serde(default)]
    groups: Vec<String>,
    organizations: Option<BTreeSet<OrganizationId>>,
}

/// `[limits]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileLimits {
    requests_per_minute: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
    failures_per_minute: Option<NonZeroU32>,
    streams: Option<u32>,
}

impl FileLimits {
    pub(super) fn build(self) -> Limits {
        let usual = Limits::default();
        Limits {
            requests_per_minute: self.requests_per_minute.unwrap_or(usual.requests_per_minute),
            burst: self.burst.unwrap_or(usual.burst),
            failures_per_minute: self.failures_per_minute.unwrap_or(usual.failures_per_minute),
            streams: self.streams.unwrap_or(usual.streams),
        }
    }
}

impl FileIdentity {
    /// `configured`: the organizations that there are.
    pub(super) fn build(self, configured: &BTreeSet<OrganizationId>, folder: &Path) -> anyhow::Result<Identity> {
        let build = Build { configured, folder };
        let issuers = self.oidc.into_iter().map(|file| {
            let issuer = file.issuer.clone();
            build.issuer(file).with_context(|| format!("identity.oidc {issuer}"))
        });
        let basic = self.basic.into_iter().map(|file| {
            let username = file.username.clone();
            build.basic(file).with_context(|| format!("identity.basic {username}"))
        });
        let (issuers, basic) =
            (issuers.collect::<anyhow::Result<Vec<_>>>()?, basic.collect::<anyhow::Result<Vec<_>>>()?);
        let mut names: Vec<&str> = basic.iter().map(|user| user.username.as_str()).collect();
        once(&mut names).context("identity.basic")?;
        let mut names: Vec<&str> = issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
        once(&mut names).context("identity.oidc")?;
        let proxy = self.proxy.map(|file| build.proxy(file)).transpose().context("identity.proxy")?;
        Ok(Identity { issuers, basic, proxy })
    }
}

fn once(names: &mut [&str]) -> anyhow::Result<()> {
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    ensure!(twice.is_none(), "{} stands there twice", twice.map_or("", |pair| pair[0]));
    Ok(())
}

/// The shortest password that is taken, in characters: it is a program that sends it.
const SHORTEST_PASSWORD: usize = 12;

/// What the parts are built with.
struct Build<'a> {
    configured: &'a BTreeSet<OrganizationId>,
    folder: &'a Path,
}

impl Build<'_> {
    fn issuer(&self, file: FileIssuer) -> anyhow::Result<Issuer> {
        ensure!(!file.audience.is_empty(), "audience is empty: name what tokens for rekey carry as aud");
        ensure!(!file.algorithms.is_empty(), "algorithms is empty: name one, such as RS256");
        let leeway = file.leeway_seconds.unwrap_or(60);
        ensure!(leeway <= 300, "leeway_seconds is {leeway}: use 0 to 300");
        let grace = file.key_grace_minutes.unwrap_or(60);
        ensure!(grace <= 1440, "key_grace_minutes is {grace}: use 0 to 1440");
        for organization in file.organizations.iter().flat_map(BTreeMap::values).flatten() {
            self.check(organization)?;
        }
        let ca = file.ca_file.map(|path| {
            let path = self.folder.join(path);
            std::fs::read(&path).with_context(|| format!("cannot read ca_file {}", path.display()))
        });
        Ok(Issuer {
            issuer: file.issuer,
            audiences: file.audience,
            algorithms: file.algorithms,
            jwks_url: file.jwks_url,
            subject_claim: file.subject_claim.unwrap_or_else(|| Claim("sub".to_owned())),
            groups_claims: file
                .groups_claims
                .unwrap_or_else(|| vec![Claim("groups".to_owned()), Claim("roles".to_owned())]),
            roles: file.roles,
            organizations: file.organizations,
            leeway: Duration::from_secs(leeway),
            ca: ca.transpose()?,
            pace: Pace { grace: Duration::from_secs(60 * grace), ..Pace::default() },
        })
    }

    fn basic(&self, file: FileBasic) -> anyhow::Result<BasicUser> {
        ensure!(!file.username.contains(':'), "a username holds no colon");
        name(&file.username).context("username")?;
        let password = Reference::parse(&file.password, self.folder)?.read().context("password")?;
        let length = password.expose_secret().chars().count();
        ensure!(length >= SHORTEST_PASSWORD, "the password has {length} characters: use {SHORTEST_PASSWORD} or more");
        let grants = self.grants(file.roles, file.groups, file.organizations)?;
        ensure!(!grants.roles.contains(&Role::BreakGlass), "roles: no sender with a password breaks the glass");
        Ok(BasicUser { username: file.username, password, grants })
    }

    fn proxy(&self, file: FileProxy) -> anyhow::Result<Proxy> {
        ensure!(!file.addresses.is_empty(), "addresses is empty: name where the proxy connects from");
        let header = |text: Option<String>, key: &str| {
            text.map(|text| text.parse().with_context(|| format!("{key} is `{text}`, which is not a header")))
                .transpose()
        };
        let certificate_header = header(file.certificate_header, "certificate_header")?;
        ensure!(
            certificate_header.is_some() || file.certificate.is_empty(),
            "certificate is given, but no certificate_header: name the header that the proxy writes the subject into"
        );
        let certificates = file.certificate.into_iter().map(|file| {
            name(&file.user).context("user")?;
            let grants = self.grants(file.roles, file.groups, file.organizations)?;
            Ok((file.subject, CertifiedUser { subject: file.user, grants }))
        });
        Ok(Proxy {
            addresses: file.addresses.iter().map(|text| network(text)).collect::<anyhow::Result<_>>()?,
            certificate_header,
            verify_header: header(file.verify_header, "verify_header")?,
            certificates: certificates.collect::<anyhow::Result<_>>()?,
        })
    }

    fn grants(
        &self,
        roles: Vec<Role>,
        groups: Vec<String>,
        organizations: Option<BTreeSet<OrganizationId>>,
    ) -> anyhow::Result<Grants> {
        for organization in organizations.iter().flatten() {
            self.check(organization)?;
        }
        Ok(Grants { roles, groups, organizations })
    }

    fn check(&self, organization: &OrganizationId) -> anyhow::Result<()> {
        ensure!(self.configured.contains(organization), "organizations names {organization}, which is not configured");
        Ok(())
    }
}

/// `10.1.0.0/16`, or a single address.
fn network(text: &str) -> anyhow::Result<IpNet> {
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(single).with_context(|| format!("addresses holds `{text}`: use ADDRESS or ADDRESS/BITS"))
}

/// What stands in records as a person's name is none of rekey's own.
fn name(text: &str) -> anyhow::Result<()> {
    let length = text.chars().count();
    ensure!((1..=200).contains(&length) && !text.chars().any(char::is_control), "use 1 to 200 characters");
    let reserved = ["worker:", "api_key:"].iter().any(|prefix| text.starts_with(prefix)) || text == "anonymous";
    ensure!(!reserved, "`{text}` is a name of rekey's own: use another");
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{ORGANIZATION, parse};

    const OIDC: &str = r#"
        [[identity.oidc]]
        issuer = "https://login.example/realms/corp"
        audience = ["rekey"]
        subject_claim = "preferred_username"
        groups_claims = ["/realm_access/roles"]
        [identity.oidc.roles]
        mail-admins = ["operator", "requester"]
        [identity.oidc.organizations]
        mail-admins = ["contoso"]
    "#;
    const BASIC: &str = r#"
        [[identity.basic]]
        username = "mid-server"
        password = "env:CARGO_MANIFEST_DIR"
        roles = ["requester"]
        organizations = ["contoso"]
    "#;
    const PROXY: &str = r#"
        [identity.proxy]
        addresses = ["10.0.0.0/8", "127.0.0.1/32"]
        certificate_header = "X-SSL-Client-S-DN"
        verify_header = "X-SSL-Client-Verify"
        [[identity.proxy.certificate]]
        subject = "CN=mid,O=Contoso"
        user = "mid-server"
        roles = ["requester"]
    "#;

    #[test]
    fn every_way_in_can_be_configured() {
        let config = parse(&format!("{ORGANIZATION}{OIDC}{BASIC}{PROXY}[limits]\nburst = 7\nstreams = 3")).unwrap();
        let identity = config.identity;
        assert_eq!(identity.issuers[0].algorithms.len(), 3, "RS256, PS256 and ES256 if nothing else is said");
        assert_eq!(identity.basic[0].username, "mid-server");
        assert_eq!(identity.proxy.unwrap().certificates["CN=mid,O=Contoso"].subject, "mid-server");
        assert_eq!((config.limits.burst.get(), config.limits.streams), (7, 3));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (OIDC.replace("[\"rekey\"]", "[]"), "audience is empty"),
            (format!("{OIDC}\n{OIDC}"), "stands there twice"),
            (OIDC.replace("audience", "algorithms = [\"HS256\"]\naudience"), "unknown variant `HS256`"),
            (OIDC.replace("audience", "algorithms = [\"none\"]\naudience"), "unknown variant `none`"),
            (OIDC.replace("audience", "leeway_seconds = 3600\naudience"), "use 0 to 300"),
            (OIDC.replace("[\"contoso\"]", "[\"northwind\"]"), "northwind, which is not configured"),
            (OIDC.replace("\"operator\"", "\"root\""), "unknown variant `root`"),
            (BASIC.replace("env:CARGO_MANIFEST_DIR", "hunter2"), "by reference"),
            (BASIC.replace("env:CARGO_MANIFEST_DIR", "env:CARGO_PKG_NAME"), "use 12 or more"),
            (BASIC.replace("mid-server", "anonymous"), "name of rekey's own"),
            (BASIC.replace("[\"requester\"]", "[\"break_glass\"]"), "no sender with a password breaks the glass"),
            (BASIC.replace("mid-server", "a:b"), "no colon"),
            (PROXY.replace("10.0.0.0/8", "10.0.0.0/99"), "use ADDRESS or ADDRESS/BITS"),
            (PROXY.replace("certificate_header = \"X-SSL-Client-S-DN\"", ""), "no certificate_header"),
            (PROXY.replace("X-SSL-Client-Verify", "no header"), "not a header"),
            ("[limits]\nburst = 0".to_owned(), "nonzero"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(&format!("{ORGANIZATION}{text}")).expect_err(&text));
            assert!(error.contains(expected), "{text}\n{error}");
            assert!(!error.contains("hunter2"), "a password in clear is not repeated: {error}");
        }
    }
}
