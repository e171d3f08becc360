//! Where the services of each Microsoft cloud are (cloud.md 1.1, domain.md 3.2).

use reqwest::Url;

/// The services of one cloud, and what tokens for them are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CloudEndpoints {
    /// Entra's token service, `https://login.microsoftonline.com/`.
    pub login: Url,
    /// Microsoft Graph, `https://graph.microsoft.com/`.
    pub graph: Url,
    /// Exchange Online, `https://outlook.office365.com/`.
    pub exchange_online: Url,
    /// What a token for Graph is asked for, without `/.default`.
    pub graph_resource: String,
    /// What a token for Exchange Online is asked for, without `/.default`.
    pub exchange_online_resource: String,
}

/// A URL that no cloud can have.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a URL like https://login.microsoftonline.com/: https, a host and no path")]
pub struct InvalidCloudUrl(String);

impl CloudEndpoints {
    /// The public cloud, also GCC.
    #[must_use]
    pub fn global() -> Self {
        Self::of("login.microsoftonline.com", "graph.microsoft.com", "outlook.office365.com")
    }

    /// GCC High (US Government L4).
    #[must_use]
    pub fn us_gov_l4() -> Self {
        Self::of("login.microsoftonline.us", "graph.microsoft.us", "outlook.office365.us")
    }

    /// DoD (US Government L5).
    #[must_use]
    pub fn us_gov_l5() -> Self {
        Self::of("login.microsoftonline.us", "dod-graph.microsoft.us", "outlook-dod.office365.us")
    }

    /// Operated by 21Vianet.
    #[must_use]
    pub fn china() -> Self {
        Self::of("login.partner.microsoftonline.cn", "microsoftgraph.chinacloudapi.cn", "outlook.office365.cn")
    }

    /// Other places, for labs and clouds that are not known here. Tokens are asked for as in the public cloud.
    pub fn custom(login: &str, graph: &str, exchange_online: &str) -> Result<Self, InvalidCloudUrl> {
        let global = Self::global();
        Ok(Self {
            login: base(login)?,
            graph: base(graph)?,
            exchange_online: base(exchange_online)?,
            graph_resource: global.graph_resource,
            exchange_online_resource: global.exchange_online_resource,
        })
    }

    fn of(login: &str, graph: &str, exchange_online: &str) -> Self {
        let url = |host: &str| base(&format!("https://{host}")).expect("a host makes a URL");
        Self {
            login: url(login),
            graph: url(graph),
            exchange_online: url(exchange_online),
            graph_resource: format!("https://{graph}"),
            exchange_online_resource: format!("https://{exchange_online}"),
        }
    }
}

fn base(text: &str) -> Result<Url, InvalidCloudUrl> {
    let invalid = || InvalidCloudUrl(text.to_owned());
    let url = Url::parse(text).map_err(|_| invalid())?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if url.scheme() == "https" && url.has_host() && bare { Ok(url) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_asked_for_at_the_cloud_that_they_are_for() {
        let dod = CloudEndpoints::us_gov_l5();
        assert_eq!(dod.login.as_str(), "https://login.microsoftonline.us/");
        assert_eq!(dod.graph_resource, "https://dod-graph.microsoft.us");
        assert_eq!(CloudEndpoints::china().exchange_online_resource, "https://outlook.office365.cn");
    }

    #[test]
    fn a_cloud_of_our_own_needs_https() {
        let lab = "https://localhost:18443";
        assert_eq!(CloudEndpoints::custom(lab, lab, lab).unwrap().graph.port(), Some(18443));
        for bad in ["http://localhost", "localhost", "https://localhost/v1.0", "https://user@localhost", ""] {
            assert!(CloudEndpoints::custom(bad, lab, lab).is_err(), "{bad}");
        }
    }
}
