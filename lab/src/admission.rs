//! Who may come in: the one account of a lab, and the proofs that are asked of it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use psrp::Secret;
use sspi::{AuthIdentity, AuthIdentityBuffers, Username, UsernameParts};

/// A key with which a service opens tickets.
#[derive(Clone, Debug)]
pub(crate) struct ServiceKey {
    /// The components of the service's name, as `HTTP` and `ex01.contoso.example`.
    pub(crate) principal: Vec<String>,
    /// AES-256, 32 bytes.
    pub(crate) key: sspi::Secret<Vec<u8>>,
}

impl ServiceKey {
    /// The key of a keytab, if it is of the kind that KDCs prefer here.
    pub(crate) fn of(key: &keytab::Key) -> Option<Self> {
        let is_aes256 = key.is_usable() && key.encryption == keytab::Encryption::Aes256;
        is_aes256.then(|| Self { principal: key.principal.clone(), key: sspi::Secret::new(key.key.to_vec()) })
    }
}

/// What logons are checked against.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// `user@domain` or `DOMAIN\user`.
    pub(crate) username: String,
    pub(crate) password: Secret,
    /// What opens Kerberos tickets; none if Kerberos is not offered.
    pub(crate) service_keys: Vec<ServiceKey>,
    /// Extended Protection: whether a logon inside TLS must name the TLS channel.
    pub(crate) require_channel_binding: bool,
}

impl Admission {
    /// Whether the credentials of a Basic logon are those of the account (RFC 7617).
    pub(crate) fn admits_basic(&self, credentials: &str) -> bool {
        let expected = Secret::new(format!("{}:{}", self.username, self.password.expose()));
        STANDARD.decode(credentials.trim()).is_ok_and(|given| given == expected.expose().as_bytes())
    }

    /// Whether Kerberos may be tried. sspi does not tell whether a ticket's authenticator names the TLS channel: where it must, NTLM is left.
    pub(crate) fn offers_kerberos(&self, inside_tls: bool) -> bool {
        let can_be_checked = !(self.require_channel_binding && inside_tls);
        can_be_checked && !self.service_keys.is_empty()
    }

    /// Whether this name, that somebody has proven to have, is the account's. A domain goes by its full or its short name.
    pub(crate) fn is_account(&self, name: &Username) -> bool {
        let (user, domain) = self.parts();
        let same_domain = |other: &str| {
            let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
            domain.is_empty() || other.eq_ignore_ascii_case(domain) || short(domain) == other.to_ascii_lowercase()
        };
        let other = match name.parts() {
            UsernameParts::UserPrincipalName(name) => Some(name.suffix()),
            UsernameParts::DownLevelLogonName(name) => name.netbios_domain(),
        };
        let same_user = name.account_name().eq_ignore_ascii_case(user);
        same_user && other.is_none_or(|other| other.is_empty() || same_domain(other))
    }

    /// The password for whatever name an NTLM proof is made with: the name is looked at when it is proven.
    pub(crate) fn proof(&self) -> AuthIdentityBuffers {
        AuthIdentityBuffers::from_utf8("", "", self.password.expose())
    }

    /// The account under every name that SPNEGO may carry.
    pub(crate) fn identities(&self) -> Vec<AuthIdentity> {
        let (user, domain) = self.parts();
        let short = domain.split('.').next().unwrap_or_default();
        let names = [
            Username::parse(&self.username),
            Username::new_upn(user, domain),
            Username::new_down_level_logon_name(user, domain),
            Username::new_down_level_logon_name(user, short),
            Username::new(user, None),
        ];
        let identity = |username| AuthIdentity { username, password: self.password.expose().to_owned().into() };
        names.into_iter().flatten().map(identity).collect()
    }

    /// The user and the domain; the latter may be empty.
    fn parts(&self) -> (&str, &str) {
        match (self.username.split_once('\\'), self.username.split_once('@')) {
            (Some((domain, user)), _) | (None, Some((user, domain))) => (user, domain),
            (None, None) => (&self.username, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(username: &str) -> Admission {
        Admission {
            username: username.to_owned(),
            password: Secret::new("correct horse"),
            service_keys: Vec::new(),
            require_channel_binding: false,
        }
    }

    #[test]
    fn the_account_is_known_by_all_its_names_and_nobody_else_is() {
        for account in ["rekey@contoso.example", "CONTOSO.EXAMPLE\\rekey"] {
            let known = |name: &str| admission(account).is_account(&Username::parse(name).unwrap());
            for name in ["rekey@CONTOSO.example", "CONTOSO\\Rekey", "rekey"] {
                assert!(known(name), "{name}");
            }
            for name in ["rekey@fabrikam.example", "FABRIKAM\\rekey", "alice@contoso.example", "guest"] {
                assert!(!known(name), "{name}");
            }
        }
    }

    #[test]
    fn basic_credentials_must_be_exactly_those_of_the_account() {
        let admits = |text: &str| admission("rekey@contoso.example").admits_basic(&STANDARD.encode(text));
        assert!(admits("rekey@contoso.example:correct horse"));
        assert!(!admits("rekey@contoso.example:correct horse ") && !admits(""));
        assert!(!admission("rekey").admits_basic("not base64"));
    }
}
