//! The proxy in front of the service: what it is believed of a request, and nobody else is.

use std::{collections::BTreeMap, net::IpAddr};

use actix_web::http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::{Cause, Rejected, one};
use crate::{
    Grants,
    caller::{Caller, Credential},
};

/// A proxy that is believed what it says of its clients.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it connects from.
    pub addresses: Vec<IpNet>,
    /// The header in which it passes on the subject of a client certificate that it has checked, if it does.
    pub certificate_header: Option<HeaderName>,
    /// The header in which it says `SUCCESS` when it has checked the certificate, for proxies that pass on the subject of others, too.
    pub verify_header: Option<HeaderName>,
    /// Whom subjects belong to.
    pub certificates: BTreeMap<String, CertifiedUser>,
}

/// Whom a client certificate belongs to.
#[derive(Clone, Debug)]
pub struct CertifiedUser {
    /// Their name in the record.
    pub subject: String,
    /// What they may do.
    pub grants: Grants,
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ENVOY: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

impl Proxy {
    fn trusts(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|network| network.contains(&address))
    }

    /// Who the proxy's client is: the last address of `X-Forwarded-For` that is not a proxy of ours. What stands before it the client may have written.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let values: Vec<&str> = headers.get_all(FORWARDED_FOR).filter_map(|value| value.to_str().ok()).collect();
        let hops = values.iter().flat_map(|value| value.split(',')).rev();
        let mut client = peer;
        for hop in hops {
            let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
            client = address.to_canonical();
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// The subject of the client's certificate. An error when somebody else than the proxy names one.
    pub(super) fn certified(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<Option<String>, Rejected> {
        let Some(name) = &self.certificate_header else { return Ok(None) };
        if !headers.contains_key(name) {
            return Ok(None);
        }
        if !peer.is_some_and(|peer| self.trusts(peer)) {
            return Err(Cause::NotTrustedProxy.into());
        }
        let text = one(headers, name)?.unwrap_or_default();
        let subject = if *name == ENVOY { envoy_subject(text).unwrap_or_default() } else { text.to_owned() };
        if subject.is_empty() {
            return Ok(None);
        }
        let verified = self.verify_header.as_ref().map(|name| one(headers, name)).transpose()?;
        match verified {
            Some(word) if word != Some("SUCCESS") => Err(Cause::UnverifiedCertificate.into()),
            _ => Ok(Some(subject)),
        }
    }

    /// The headers that only a proxy may send: nobody else's are seen by anything behind.
    pub(crate) fn own_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.certificate_header.iter().chain(&self.verify_header)
    }

    pub(super) fn caller(&self, subject: &str) -> Result<Caller, Rejected> {
        let user = self.certificates.get(subject).ok_or_else(|| {
            let printable = subject.chars().filter(|c| !c.is_control()).take(200).collect();
            Cause::UnknownCertificate(printable)
        })?;
        Ok(Caller {
            subject: user.subject.clone(),
            grants: user.grants.clone(),
            credential: Credential::ClientCertificate,
            expires_at: None,
            notice: None,
        })
    }
}

/// Whether nobody on the way could read a request: it came from this machine, or a trusted proxy says that it came over HTTPS.
pub(super) fn is_protected(proxy: Option<&Proxy>, peer: Option<IpAddr>, headers: &HeaderMap) -> bool {
    let Some(peer) = peer else { return false };
    let said: Vec<&str> = headers.get_all(FORWARDED_PROTO).filter_map(|value| value.to_str().ok()).collect();
    if proxy.is_some_and(|proxy| proxy.trusts(peer)) {
        return said == ["https"];
    }
    // A program on this machine that passes on a request says so.
    peer.is_loopback() && said.is_empty() && !headers.contains_key(FORWARDED_FOR)
}

/// The subject of the last element of `X-Forwarded-Client-Cert`, which the nearest proxy has added: `Hash=…;Subject="CN=a,O=b"`.
fn envoy_subject(text: &str) -> Option<String> {
    let element = quoted_split(text, ',').pop()?;
    let pairs = quoted_split(element, ';');
    let value = pairs.into_iter().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("subject").then_some(value.trim())
    })?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    Some(value.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// The parts between separators that do not stand in quotes.
fn quoted_split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + character.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn proxy() -> Proxy {
        let subject = CertifiedUser { subject: "mid-server".to_owned(), grants: Grants::default() };
        Proxy {
            addresses: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
            certificate_header: Some(HeaderName::from_static("x-ssl-client-s-dn")),
            verify_header: Some(HeaderName::from_static("x-ssl-client-verify")),
            certificates: [("CN=mid,O=Contoso".to_owned(), subject)].into(),
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_password_is_taken_from_this_machine_or_over_https_only() {
        let (plain, https) = (headers(&[]), headers(&[("x-forwarded-proto", "https")]));
        let twice = headers(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]);
        let passed_on = headers(&[("x-forwarded-for", "203.0.113.9")]);
        let cases = [
            (None, "127.0.0.1", &plain, true),
            (None, "127.0.0.1", &https, false),
            (None, "127.0.0.1", &passed_on, false),
            (None, "203.0.113.9", &plain, false),
            (None, "203.0.113.9", &https, false),
            (Some(proxy()), "203.0.113.9", &https, false),
            (Some(proxy()), "10.1.2.3", &https, true),
            (Some(proxy()), "10.1.2.3", &plain, false),
            (Some(proxy()), "10.1.2.3", &twice, false),
            (Some(proxy()), "fd00::1", &https, true),
            (Some(proxy()), "::1", &plain, true),
        ];
        for (proxy, peer, headers, expected) in cases {
            assert_eq!(is_protected(proxy.as_ref(), Some(ip(peer)), headers), expected, "{peer} {headers:?}");
        }
        assert!(!is_protected(None, None, &plain));
    }

    #[test]
    fn the_client_is_the_last_address_that_no_proxy_of_ours_has() {
        let cases = [
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
            ("10.1.2.3", "", "10.1.2.3"),
            ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
            ("10.1.2.3", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
            ("10.1.2.3", "198.51.100.1, 10.1.9.9", "198.51.100.1"),
            ("10.1.2.3", "198.51.100.1, nonsense", "10.1.2.3"),
        ];
        for (peer, forwarded, client) in cases {
            let headers = if forwarded.is_empty() { headers(&[]) } else { headers(&[("x-forwarded-for", forwarded)]) };
            assert_eq!(proxy().client(ip(peer), &headers), ip(client), "{peer} {forwarded}");
        }
    }

    #[test]
    fn only_the_proxy_names_a_certificate_and_only_one_that_it_has_checked() {
        let name = ("x-ssl-client-s-dn", "CN=mid,O=Contoso");
        let good = headers(&[name, ("x-ssl-client-verify", "SUCCESS")]);
        let certified = |peer: &str, headers: &HeaderMap| proxy().certified(Some(ip(peer)), headers);
        assert_eq!(certified("10.1.2.3", &good).unwrap().as_deref(), Some("CN=mid,O=Contoso"));
        assert_eq!(certified("203.0.113.9", &good).unwrap_err().cause, Cause::NotTrustedProxy);
        assert_eq!(proxy().certified(None, &good).unwrap_err().cause, Cause::NotTrustedProxy);
        for word in ["NONE", "FAILED:self-signed certificate"] {
            let bad = headers(&[name, ("x-ssl-client-verify", word)]);
            assert_eq!(certified("10.1.2.3", &bad).unwrap_err().cause, Cause::UnverifiedCertificate, "{word}");
        }
        let twice = headers(&[name, ("x-ssl-client-s-dn", "CN=root"), ("x-ssl-client-verify", "SUCCESS")]);
        assert!(certified("10.1.2.3", &twice).is_err());
        assert_eq!(certified("10.1.2.3", &headers(&[])).unwrap(), None);
        assert!(proxy().caller("CN=mid,O=Contoso").is_ok());
        assert_eq!(proxy().caller("CN=eve").unwrap_err().cause, Cause::UnknownCertificate("CN=eve".to_owned()));
    }

    #[test]
    fn of_envoys_elements_the_last_one_counts() {
        let element = r#"By=spiffe://a;Hash=0123;Subject="CN=mid,O=Contoso, \"Ltd\"";URI=spiffe://b"#;
        assert_eq!(envoy_subject(element).as_deref(), Some(r#"CN=mid,O=Contoso, "Ltd""#));
        let two = format!(r#"Subject="CN=root";Hash=1,{element}"#);
        assert_eq!(envoy_subject(&two).as_deref(), Some(r#"CN=mid,O=Contoso, "Ltd""#));
        assert_eq!(envoy_subject("Hash=1").as_deref(), None);
        assert_eq!(envoy_subject(r#"Subject="CN=a;Subject=CN=root""#).as_deref(), Some("CN=a;Subject=CN=root"));
    }
}
