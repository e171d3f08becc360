//! Who logs on to an endpoint, and how.

use std::fmt;

use secrecy::SecretString;

/// Who logs on, and how.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The password itself, with every request: over TLS, or on this machine.
    Basic(Account),
    /// The certificate of the TLS configuration; the server maps it to an account.
    Certificate,
    /// Windows' own protocols. The password never travels, and over plain HTTP every message is sealed.
    Windows(WindowsLogon),
}

/// A user name and its password.
#[derive(Clone)]
pub struct Account {
    /// `CONTOSO\svc-rekey`, `svc-rekey@contoso.example` or a plain name.
    pub username: String,
    /// Its password.
    pub password: SecretString,
}

/// A logon by Kerberos or NTLM.
#[derive(Clone, Debug)]
pub struct WindowsLogon {
    /// Who: `CONTOSO\svc-rekey` or `svc-rekey@contoso.example`.
    pub username: String,
    /// By what.
    pub proof: Proof,
    /// By which protocol.
    pub protocol: WindowsProtocol,
    /// Seals messages inside TLS too.
    pub always_seal: bool,
    /// Where tickets come from.
    pub kerberos: Kerberos,
}

/// What proves who somebody is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The password.
    Password(SecretString),
    /// A key that was made of it, from a keytab: for Kerberos only.
    Key(keytab::Key),
}

/// The protocols of Windows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WindowsProtocol {
    /// Kerberos; NTLM where there is no KDC or no such service.
    Negotiate,
    /// Kerberos only.
    Kerberos,
    /// NTLM only.
    Ntlm,
}

/// Where tickets come from and whom they are for.
#[derive(Clone, Debug, Default)]
pub struct Kerberos {
    /// The realm of the account. Default: what stands before `\` or behind `@` in the user name.
    pub realm: Option<String>,
    /// `host:port` of the KDC. Default: that of krb5.conf, or what the DNS says (`_kerberos._tcp.REALM`).
    pub kdc: Option<String>,
    /// The service principal, e.g. `HTTP/mail.contoso.example` for a load balancer's name. Default: `HTTP/` and the host of the URL.
    pub service_principal: Option<String>,
}

impl Credentials {
    /// Whether nothing readable goes over a connection without TLS.
    pub(crate) const fn protect_plain_http(&self) -> bool {
        matches!(self, Self::Windows(_))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("username", &self.username).finish_non_exhaustive()
    }
}

impl WindowsLogon {
    /// The name without what qualifies it.
    #[must_use]
    pub fn name(&self) -> &str {
        split_username(&self.username).0
    }

    /// The realm that the account is of; `None` when nothing says so.
    #[must_use]
    pub fn realm(&self) -> Option<String> {
        self.kerberos.realm_of(&self.username)
    }
}

impl Kerberos {
    /// The realm that an account is of; `None` when nothing says so.
    #[must_use]
    pub fn realm_of(&self, username: &str) -> Option<String> {
        let realm = self.realm.as_deref().unwrap_or_else(|| split_username(username).1);
        (!realm.is_empty()).then(|| realm.to_ascii_uppercase())
    }
}

/// The name, and the domain or realm that qualifies it, which may be empty.
#[must_use]
pub fn split_username(username: &str) -> (&str, &str) {
    if let Some((domain, name)) = username.split_once('\\') {
        return (name, domain);
    }
    username.rsplit_once('@').unwrap_or((username, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_realm_is_what_the_user_name_says_unless_it_is_given() {
        let logon = |username: &str, realm: Option<&str>| WindowsLogon {
            username: username.to_owned(),
            proof: Proof::Password(SecretString::from("secret")),
            protocol: WindowsProtocol::Kerberos,
            always_seal: false,
            kerberos: Kerberos { realm: realm.map(str::to_owned), ..Kerberos::default() },
        };
        assert_eq!(logon("CONTOSO\\svc", None).realm().as_deref(), Some("CONTOSO"));
        assert_eq!(logon("svc@contoso.example", None).realm().as_deref(), Some("CONTOSO.EXAMPLE"));
        assert_eq!(logon("CONTOSO\\svc", Some("contoso.example")).realm().as_deref(), Some("CONTOSO.EXAMPLE"));
        assert_eq!(logon("svc", None).realm(), None);
        assert!(!format!("{:?}", logon("svc", None)).contains("secret"));
    }
}
