//! Where messages may go. A list of what is allowed, because internal receivers are legitimate: "public addresses only" would be the wrong rule here.
//!
//! A host is allowed by its name, or by its addresses if all of them are in allowed networks. Addresses that only this machine or its cloud has (loopback,
//! link-local with the metadata service) must be in an allowed network, whatever the name says. Names are resolved here and nowhere else, so that what
//! was checked is what is connected to.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use ipnet::IpNet;
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};

use crate::connectors::Trust;

/// Ports that a rule without one allows: HTTP, HTTPS and those of SMTP.
const USUAL_PORTS: [u16; 5] = [25, 80, 443, 465, 587];
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);

/// What may be connected to. Empty, it allows nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AllowList(Vec<Rule>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Rule {
    place: Place,
    ports: Ports,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    /// This name.
    Host(String),
    /// Names that end in it, which begins with a dot.
    Suffix(String),
    /// Addresses.
    Network(IpNet),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ports {
    Any,
    One(u16),
    Usual,
}

/// Somewhere that messages may not go.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place} is not allowed: {why}")]
pub struct NotAllowed {
    place: String,
    why: String,
}

/// Text that is not a rule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{0}` allows nothing: use a host (itsm.contoso.example), *.contoso.example or a network (10.1.0.0/16), each with or without :PORT or :*"
)]
pub struct InvalidRule(String);

impl Rule {
    fn allows_port(&self, port: Option<u16>) -> bool {
        match (self.ports, port) {
            (Ports::Any, _) | (_, None) => true,
            (Ports::One(one), Some(port)) => one == port,
            (Ports::Usual, Some(port)) => USUAL_PORTS.contains(&port),
        }
    }

    fn names(&self, host: &str) -> bool {
        match &self.place {
            Place::Host(name) => name == host,
            Place::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Place::Network(_) => false,
        }
    }

    fn holds(&self, address: IpAddr) -> bool {
        matches!(self.place, Place::Network(network) if network.contains(&address))
    }
}

impl FromStr for Rule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let invalid = || InvalidRule(text.chars().take(80).collect());
        let (place, ports) = split_port(text).ok_or_else(invalid)?;
        let place = place.to_ascii_lowercase();
        let place = if let Ok(network) = place.parse::<IpNet>() {
            Place::Network(network.trunc())
        } else if let Ok(address) = place.parse::<IpAddr>() {
            Place::Network(address.into())
        } else if let Some(suffix) = place.strip_prefix('*') {
            let name = suffix.strip_prefix('.').filter(|name| is_name(name) && name.contains('.'));
            Place::Suffix(name.map(|_| suffix.to_owned()).ok_or_else(invalid)?)
        } else if is_name(&place) {
            Place::Host(place)
        } else {
            return Err(invalid());
        };
        Ok(Self { place, ports })
    }
}

/// The place and its ports: `host:443`, `10.0.0.0/8:*`, `[fd00::/8]:443`, `::1`.
fn split_port(text: &str) -> Option<(&str, Ports)> {
    let (place, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (place, port) = rest.split_once(']')?;
            (place, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None if text.matches(':').count() == 1 => text.split_once(':').map(|(place, port)| (place, Some(port)))?,
        None => (text, None),
    };
    let ports = match port {
        None => Ports::Usual,
        Some("*") => Ports::Any,
        Some(port) => Ports::One(port.parse().ok().filter(|port| *port > 0)?),
    };
    Some((place, ports))
}

fn is_name(text: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    // What ends in a number would be read as an address elsewhere.
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 253 && text.split('.').all(label) && !text.split('.').next_back().is_some_and(number)
}

impl AllowList {
    /// Reads the rules.
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidRule> {
        rules.into_iter().map(str::parse).collect::<Result<_, _>>().map(Self)
    }

    /// The same and the host of this URL at its port. Addresses of this machine or its cloud must be in a network of the list all the same.
    #[must_use]
    pub fn and_host_of(&self, url: &Url) -> Self {
        let host = plain(url.host_str().unwrap_or_default());
        let place = match host.parse::<IpAddr>() {
            Ok(address) if forms(address).iter().any(|form| is_special(*form)) => return self.clone(),
            Ok(address) => Place::Network(address.into()),
            Err(_) => Place::Host(host),
        };
        let ports = url.port_or_known_default().map_or(Ports::Usual, Ports::One);
        Self(self.0.iter().cloned().chain([Rule { place, ports }]).collect())
    }

    /// Whether a request may go to this URL, as far as that can be said before its name is resolved.
    pub fn check_url(&self, url: &Url) -> Result<(), NotAllowed> {
        let port = url.port_or_known_default().unwrap_or(0);
        let place = || format!("{}:{port}", url.host_str().unwrap_or_default());
        let refused = |why: &str| NotAllowed { place: place(), why: why.to_owned() };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("only http and https are spoken"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("a user name or password in a URL would stand in logs; give it by reference"));
        }
        self.check_host(url.host_str().unwrap_or_default(), port)
    }

    /// As [`AllowList::check_url`], for a host and port.
    pub fn check_host(&self, host: &str, port: u16) -> Result<(), NotAllowed> {
        let host = plain(host);
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.check_address(&host, address, Some(port), false);
        }
        let by_name = self.0.iter().any(|rule| rule.names(&host) && rule.allows_port(Some(port)));
        let by_address =
            self.0.iter().any(|rule| matches!(rule.place, Place::Network(_)) && rule.allows_port(Some(port)));
        if by_name || by_address {
            return Ok(());
        }
        let why = format!("add \"{host}{}\" to allow in [outbound] if messages may go there", port_of_a_rule(port));
        Err(NotAllowed { place: format!("{host}:{port}"), why })
    }

    /// Whether an address that `host` has may be connected to; `by_name`: whether its name is allowed.
    fn check_address(&self, host: &str, address: IpAddr, port: Option<u16>, by_name: bool) -> Result<(), NotAllowed> {
        let mut forms = forms(address);
        let listed = |address: &IpAddr| self.0.iter().any(|rule| rule.holds(*address) && rule.allows_port(port));
        if forms.iter().any(listed) || (by_name && !forms.iter().any(|form| is_special(*form))) {
            return Ok(());
        }
        let told = forms.pop().unwrap_or(address);
        let why = if is_special(told) {
            format!("{told} belongs to this machine or its cloud; add it to allow in [outbound] if that is meant")
        } else {
            format!("neither its name nor {told} is in allow in [outbound]")
        };
        Err(NotAllowed { place: host.to_owned(), why })
    }

    /// The addresses of a host, if all of them are allowed.
    pub async fn resolve(&self, host: &str, port: Option<u16>) -> Result<Vec<std::net::SocketAddr>, Unresolved> {
        let host = plain(host);
        let found = tokio::net::lookup_host((host.as_str(), port.unwrap_or(0))).await;
        let found: Vec<_> = found.map_err(|error| Unresolved::NotFound(host.clone(), error.to_string()))?.collect();
        let by_name = self.0.iter().any(|rule| rule.names(&host) && rule.allows_port(port));
        for address in &found {
            self.check_address(&host, address.ip(), port, by_name)?;
        }
        if found.is_empty() { Err(Unresolved::NotFound(host, "it has no address".to_owned())) } else { Ok(found) }
    }

    /// A client that connects to nothing else. It follows no redirect and takes no proxy from the environment, which would resolve names by itself. The
    /// port is for [`AllowList::check_url`].
    pub fn client(&self, trust: &Trust) -> Result<Client, NoClient> {
        let tls = trust.build()?;
        let builder = Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .user_agent(concat!("rekey/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Guard(self.clone())));
        Ok(builder.build()?)
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// Whom to trust cannot be used.
    #[error(transparent)]
    Trust(#[from] crate::connectors::InvalidTrust),
    /// The HTTP library says no.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

/// Why a host has no address that may be connected to.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unresolved {
    /// It has none, or the DNS does not answer.
    #[error("{0} is not found: {1}")]
    NotFound(String, String),
    /// One of them is not allowed.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
}

/// Resolves names to allowed addresses only.
#[derive(Debug)]
struct Guard(AllowList);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (list, name) = (self.0.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found = list.resolve(&name, None).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A host as rules name it: an address without brackets, a name without its last dot.
fn plain(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

fn port_of_a_rule(port: u16) -> impl fmt::Display {
    if USUAL_PORTS.contains(&port) { String::new() } else { format!(":{port}") }
}

/// An address and those that are hidden in it: IPv4 written as IPv6 (mapped, compatible, NAT64, 6to4) reaches the same machine.
fn forms(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else { return vec![address] };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::from([a, b, c, d])
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => vec![v4(high, low)],
        // ::1 and :: are themselves.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => vec![address, v4(high, low)],
        [0x64, 0xff9b, _, _, _, _, high, low] => vec![address, v4(high, low)],
        [0x2002, high, low, ..] => vec![address, v4(high, low)],
        _ => vec![address],
    }
}

/// Whether an address means this machine, its link, its cloud's metadata service, or nobody.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
                // Metadata of Alibaba and of Azure's wire server.
                || matches!(v4.octets(), [100, 100, 100, 200] | [168, 63, 129, 16])
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.segments()[..7] == [0xfd00, 0xec2, 0, 0, 0, 0, 0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[&str]) -> AllowList {
        AllowList::parse(rules.iter().copied()).unwrap()
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn rules_are_hosts_suffixes_and_networks_with_ports() {
        for good in [
            "itsm.contoso.example",
            "localhost",
            "*.service-now.com",
            "10.0.0.0/8",
            "10.1.2.3",
            "10.1.2.3:8443",
            "host:*",
            "::1",
            "[::1]:8080",
            "fd00::/8",
            "[fd00::/8]:*",
            "127.0.0.0/8:*",
            "HOOKS.Slack.com",
        ] {
            assert!(AllowList::parse([good]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.",
            "*.com",
            "http://a",
            "a/b",
            "a b",
            "host:0",
            "host:99999",
            "host:",
            "10.0.0.0/33",
            "1.2.3",
            "[::1",
            "*a.example",
            "0x7f.1",
        ] {
            assert!(AllowList::parse([bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_rule_names_is_refused_with_what_to_add() {
        let allow = list(&["hooks.slack.com", "*.contoso.example", "build.example:8443"]);
        for good in [
            "https://hooks.slack.com/x",
            "https://HOOKS.slack.COM./x",
            "https://a.contoso.example",
            "http://a.b.contoso.example/",
            "https://build.example:8443/",
        ] {
            assert_eq!(allow.check_url(&url(good)), Ok(()), "{good}");
        }
        for bad in [
            "https://contoso.example",
            "https://evilcontoso.example",
            "https://hooks.slack.com.evil.example",
            "https://hooks.slack.com:8080",
            "https://build.example",
            "https://10.0.0.1/",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://user@hooks.slack.com/",
            "ftp://hooks.slack.com/",
            "https://hooks.slack.com@evil.example/",
        ] {
            assert!(allow.check_url(&url(bad)).is_err(), "{bad}");
        }
        let told = allow.check_url(&url("https://itsm.fabrikam.example:8443")).unwrap_err().to_string();
        assert!(told.contains("add \"itsm.fabrikam.example:8443\" to allow"), "{told}");
    }

    #[test]
    fn addresses_of_this_machine_and_its_cloud_must_be_listed_themselves() {
        let named = list(&["itsm.contoso.example"]);
        let listed = list(&["itsm.contoso.example", "127.0.0.0/8:*", "169.254.169.254"]);
        let special = [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::127.0.0.1",
        ];
        for text in special {
            let address: IpAddr = text.parse().unwrap();
            assert!(named.check_address("itsm.contoso.example", address, None, true).is_err(), "{text}");
            assert!(listed.check_address("itsm.contoso.example", address, None, true).is_ok(), "{text}");
        }
        for text in [
            "::1",
            "::",
            "0.0.0.0",
            "0.1.2.3",
            "fe80::1",
            "ff02::1",
            "224.0.0.1",
            "255.255.255.255",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert!(named.check_address("itsm.contoso.example", address, None, true).is_err(), "{text}");
        }
        for text in ["10.0.0.1", "192.168.1.1", "203.0.113.7", "2001:db8::1", "fd12::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert!(
                named.check_address("itsm.contoso.example", address, None, true).is_ok(),
                "{text}: an internal system is legitimate"
            );
            assert!(named.check_address("other.example", address, None, false).is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_allows_what_is_in_it_however_it_is_written() {
        let allow = list(&["10.1.0.0/16", "[fd12::/16]:8443"]);
        assert!(allow.check_url(&url("https://10.1.2.3/")).is_ok());
        assert!(allow.check_url(&url("https://[::ffff:10.1.2.3]/")).is_ok());
        assert!(allow.check_url(&url("https://10.2.0.1/")).is_err());
        assert!(allow.check_url(&url("https://10.1.2.3:8443/")).is_err());
        assert!(allow.check_url(&url("https://[fd12::9]:8443/")).is_ok());
        assert!(allow.check_url(&url("https://[fd12::9]/")).is_err());
    }

    #[test]
    fn a_host_that_is_configured_is_allowed_at_its_port_unless_it_is_this_machine() {
        let of = |text: &str| list(&["hooks.slack.com"]).and_host_of(&url(text));
        let acme = of("https://ACME.service-now.com/");
        assert!(acme.check_url(&url("https://acme.service-now.com/api")).is_ok());
        assert!(acme.check_url(&url("https://hooks.slack.com/")).is_ok(), "the others stay");
        for other in ["https://acme.service-now.com:8443/", "https://other.service-now.com/", "https://10.1.2.3/"] {
            assert!(acme.check_url(&url(other)).is_err(), "{other}");
        }
        assert!(of("https://10.1.2.3:8443/").check_url(&url("https://10.1.2.3:8443/api")).is_ok());
        for special in
            ["https://127.0.0.1:8443/", "https://[::1]/", "https://169.254.169.254/", "https://[::ffff:127.0.0.1]/"]
        {
            let refused = of(special).check_url(&url(special)).unwrap_err();
            assert!(refused.to_string().contains("belongs to this machine or its cloud"), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_configured_name_that_leads_to_this_machine_is_not_followed() {
        let place = url("https://localhost:8443/");
        let refused = list(&[]).and_host_of(&place).resolve("localhost", Some(8443)).await.unwrap_err();
        assert!(matches!(refused, Unresolved::NotAllowed(_)), "{refused}");
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_not_followed() {
        let refused = list(&["localhost"]).resolve("localhost", Some(443)).await.unwrap_err();
        assert!(matches!(refused, Unresolved::NotAllowed(_)), "{refused}");
        let found = list(&["localhost", "127.0.0.0/8", "::1"]).resolve("localhost", Some(443)).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
    }
}
