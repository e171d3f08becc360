//! Where the endpoints of an organization are, and who logs on to them.

use std::{collections::BTreeMap, sync::Arc};

use hyper::Uri;
use psrp::client::Configuration;
use rustls::ClientConfig;

use super::{Credentials, Lease, Sessions, WireError};

/// The endpoints of one organization.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Exchange PowerShell, `https://ex01.contoso.example/PowerShell/`: tried in order for what concerns the organization as a whole. A server that
    /// is not listed is reached at the first one's scheme, port and path.
    pub exchange: Vec<Uri>,
    /// Who logs on to Exchange.
    pub credentials: Credentials,
    /// Windows PowerShell of a server, `https://{fqdn}:5986/wsman`, and who logs on there.
    pub windows: Option<(String, Credentials)>,
    /// Where `host:port` is really found, as `host:port`: for tunnels and labs.
    pub connect_to: BTreeMap<String, String>,
    /// Whom connections trust.
    pub tls: Arc<ClientConfig>,
    /// The largest envelope that the endpoints take, in bytes (`MaxEnvelopeSizekb` times 1024).
    pub max_envelope_size: usize,
    /// The sessions that are open.
    pub sessions: Sessions,
}

/// What Windows accepts by default since Server 2012 (`MaxEnvelopeSizekb` 500).
pub const MAX_ENVELOPE_SIZE: usize = 500 * 1024;
/// How many sessions an organization may hold: Exchange allows an account 18 on a server, and people need some too.
pub const MAX_SESSIONS: usize = 12;

/// One endpoint and how to get there.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its URL, with scheme and host.
    pub url: Uri,
    /// What runs there.
    pub configuration: Configuration,
    /// Who logs on.
    pub credentials: Credentials,
    /// Where the URL's `host:port` is really found.
    pub connect_to: String,
    /// Whom the connection trusts.
    pub tls: Arc<ClientConfig>,
    /// The largest envelope that it takes, in bytes.
    pub max_envelope_size: usize,
    /// The sessions of its organization.
    pub sessions: Sessions,
}

/// A URL that is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Basic credentials would be readable on the way.
    #[error(
        "{0} would send the password unprotected: use https, or authentication that seals (kerberos, negotiate, ntlm)"
    )]
    Insecure(String),
    /// Not a URL with scheme and host.
    #[error("`{0}` is not a URL like https://ex01.contoso.example/PowerShell/")]
    NotAUrl(String),
}

impl Endpoints {
    /// Reads the URL of an endpoint that is reached with these credentials.
    pub fn parse_url(text: &str, credentials: &Credentials) -> Result<Uri, InvalidEndpoint> {
        let url: Uri = text.parse().map_err(|_| InvalidEndpoint::NotAUrl(text.to_owned()))?;
        let host = url.host().unwrap_or_default();
        match url.scheme_str() {
            Some("https") if !host.is_empty() => Ok(url),
            Some("http") if matches!(host, "127.0.0.1" | "[::1]" | "localhost") => Ok(url),
            Some("http") if !host.is_empty() && credentials.protect_plain_http() => Ok(url),
            Some("http") if !host.is_empty() => Err(InvalidEndpoint::Insecure(text.to_owned())),
            _ => Err(InvalidEndpoint::NotAUrl(text.to_owned())),
        }
    }

    /// The Exchange endpoints for what concerns the organization as a whole, in the order in which they are tried.
    pub fn exchange(&self) -> impl Iterator<Item = Endpoint> {
        self.exchange.iter().map(|url| self.exchange_at(url.clone()))
    }

    /// The Exchange endpoint of one server.
    pub fn exchange_on(&self, fqdn: &str) -> Option<Endpoint> {
        let same = |url: &&Uri| url.host().is_some_and(|host| host.eq_ignore_ascii_case(fqdn));
        if let Some(url) = self.exchange.iter().find(same) {
            return Some(self.exchange_at(url.clone()));
        }
        let first = self.exchange.first()?;
        let port = first.port().map(|port| format!(":{port}")).unwrap_or_default();
        let url = format!("{}://{fqdn}{port}{}", first.scheme_str()?, first.path());
        Some(self.exchange_at(Self::parse_url(&url, &self.credentials).ok()?))
    }

    /// A document that a server offers over HTTPS, whatever its PowerShell endpoint speaks.
    pub(crate) fn document_on(&self, fqdn: &str, path: &str) -> Option<Endpoint> {
        let first = self.exchange_on(fqdn)?;
        let port =
            first.url.port_u16().filter(|_| !first.is_plain()).map(|port| format!(":{port}")).unwrap_or_default();
        Some(self.exchange_at(format!("https://{fqdn}{port}{path}").parse().ok()?))
    }

    /// The Windows endpoint of one server, if there are any.
    pub(crate) fn windows_on(&self, fqdn: &str) -> Option<Endpoint> {
        let (template, credentials) = self.windows.as_ref()?;
        let url = Self::parse_url(&template.replace("{fqdn}", fqdn), credentials).ok()?;
        Some(self.endpoint(url, Configuration::Windows, credentials.clone()))
    }

    fn exchange_at(&self, url: Uri) -> Endpoint {
        self.endpoint(url, Configuration::Exchange, self.credentials.clone())
    }

    fn endpoint(&self, url: Uri, configuration: Configuration, credentials: Credentials) -> Endpoint {
        let address = address(&url);
        let connect_to = self.connect_to.get(&address).cloned().unwrap_or(address);
        Endpoint {
            url,
            configuration,
            credentials,
            connect_to,
            tls: self.tls.clone(),
            max_envelope_size: self.max_envelope_size,
            sessions: self.sessions.clone(),
        }
    }
}

impl Endpoint {
    /// `host:port` of the URL, for messages.
    pub(crate) fn address(&self) -> String {
        address(&self.url)
    }

    /// A session there, when one more may be open.
    pub async fn session(&self) -> Result<Lease, WireError> {
        self.sessions.lease(self).await
    }

    /// What sessions on it are known by.
    pub(super) fn key(&self) -> String {
        self.url.to_string()
    }

    /// The host of the URL.
    pub(crate) fn host(&self) -> &str {
        self.url.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// Whether the connection is without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.url.scheme_str() == Some("http")
    }
}

fn address(url: &Uri) -> String {
    let port = url.port_u16().unwrap_or_else(|| if url.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", url.host().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::{super::*, *};

    fn basic() -> Credentials {
        Credentials::Basic(Account { username: "svc".to_owned(), password: SecretString::from("secret") })
    }

    fn ntlm() -> Credentials {
        Credentials::Windows(WindowsLogon {
            username: "svc".to_owned(),
            proof: Proof::Password(SecretString::from("secret")),
            protocol: WindowsProtocol::Ntlm,
            always_seal: false,
            kerberos: Kerberos::default(),
        })
    }

    #[test]
    fn passwords_are_not_sent_over_plain_http_to_another_machine() {
        for good in ["https://ex01.contoso.example/PowerShell/", "http://127.0.0.1:8080/PowerShell/"] {
            assert!(Endpoints::parse_url(good, &basic()).is_ok(), "{good}");
        }
        assert!(matches!(Endpoints::parse_url("http://ex01/PowerShell/", &basic()), Err(InvalidEndpoint::Insecure(_))));
        assert!(Endpoints::parse_url("http://ex01/PowerShell/", &ntlm()).is_ok(), "messages are sealed");
        for bad in ["ex01", "/PowerShell", "ftp://ex01/", ""] {
            assert!(matches!(Endpoints::parse_url(bad, &basic()), Err(InvalidEndpoint::NotAUrl(_))), "{bad}");
        }
    }
}
