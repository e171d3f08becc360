//! Where the endpoints of an organization are, and who logs on to them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use hyper::Uri;
use psrp::client::Configuration;
use rustls::ClientConfig;
use secrecy::SecretString;

/// Who logs on (Basic).
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: SecretString,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

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
}

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
}

/// A URL that is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Basic credentials would be readable on the way.
    #[error("{0} would send the password unprotected: use https (plain http is accepted on this machine only)")]
    Insecure(String),
    /// Not a URL with scheme and host.
    #[error("`{0}` is not a URL like https://ex01.contoso.example/PowerShell/")]
    NotAUrl(String),
}

impl Endpoints {
    /// Reads the URL of an endpoint.
    pub fn parse_url(text: &str) -> Result<Uri, InvalidEndpoint> {
        let url: Uri = text.parse().map_err(|_| InvalidEndpoint::NotAUrl(text.to_owned()))?;
        let host = url.host().unwrap_or_default();
        match url.scheme_str() {
            Some("https") if !host.is_empty() => Ok(url),
            Some("http") if matches!(host, "127.0.0.1" | "[::1]" | "localhost") => Ok(url),
            Some("http") if !host.is_empty() => Err(InvalidEndpoint::Insecure(text.to_owned())),
            _ => Err(InvalidEndpoint::NotAUrl(text.to_owned())),
        }
    }

    /// The Exchange endpoints for what concerns the organization as a whole, in the order in which they are tried.
    pub(crate) fn exchange(&self) -> impl Iterator<Item = Endpoint> {
        self.exchange.iter().map(|url| self.exchange_at(url.clone()))
    }

    /// The Exchange endpoint of one server.
    pub(crate) fn exchange_on(&self, fqdn: &str) -> Option<Endpoint> {
        let same = |url: &&Uri| url.host().is_some_and(|host| host.eq_ignore_ascii_case(fqdn));
        if let Some(url) = self.exchange.iter().find(same) {
            return Some(self.exchange_at(url.clone()));
        }
        let first = self.exchange.first()?;
        let port = first.port().map(|port| format!(":{port}")).unwrap_or_default();
        let url = format!("{}://{fqdn}{port}{}", first.scheme_str()?, first.path());
        Some(self.exchange_at(Self::parse_url(&url).ok()?))
    }

    /// The Windows endpoint of one server, if there are any.
    pub(crate) fn windows_on(&self, fqdn: &str) -> Option<Endpoint> {
        let (template, credentials) = self.windows.as_ref()?;
        let url = Self::parse_url(&template.replace("{fqdn}", fqdn)).ok()?;
        Some(self.endpoint(url, Configuration::Windows, credentials.clone()))
    }

    fn exchange_at(&self, url: Uri) -> Endpoint {
        self.endpoint(url, Configuration::Exchange, self.credentials.clone())
    }

    fn endpoint(&self, url: Uri, configuration: Configuration, credentials: Credentials) -> Endpoint {
        let address = address(&url);
        let connect_to = self.connect_to.get(&address).cloned().unwrap_or(address);
        Endpoint { url, configuration, credentials, connect_to, tls: self.tls.clone() }
    }
}

impl Endpoint {
    /// `host:port` of the URL, for messages.
    pub(crate) fn address(&self) -> String {
        address(&self.url)
    }

    /// The same server and way, another path, for documents that it serves.
    pub(crate) fn with_path(&self, path: &'static str) -> Self {
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = Some(path.parse().expect("paths are written in this crate"));
        Self { url: Uri::from_parts(parts).expect("only the path was changed"), ..self.clone() }
    }
}

fn address(url: &Uri) -> String {
    let port = url.port_u16().unwrap_or_else(|| if url.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", url.host().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_sent_over_plain_http_to_another_machine() {
        for good in ["https://ex01.contoso.example/PowerShell/", "http://127.0.0.1:8080/PowerShell/"] {
            assert!(Endpoints::parse_url(good).is_ok(), "{good}");
        }
        assert!(matches!(Endpoints::parse_url("http://ex01/PowerShell/"), Err(InvalidEndpoint::Insecure(_))));
        for bad in ["ex01", "/PowerShell", "ftp://ex01/", ""] {
            assert!(matches!(Endpoints::parse_url(bad), Err(InvalidEndpoint::NotAUrl(_))), "{bad}");
        }
    }
}
