//! How a lab is to be.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use chrono::{DateTime, Utc};
use psrp::Secret;

use crate::organization::Organization;

/// How a lab is to be. The default is Contoso, in real time, on ports that happen to be free.
#[derive(Clone, Debug)]
pub struct Options {
    /// The organization at the beginning.
    pub organization: Organization,
    /// Whether it shares its users with a tenant: one like Contoso's, if the organization names none of its own.
    pub hybrid: bool,
    /// Whether it has ticket systems: an instance of ServiceNow and a site of Jira.
    pub tickets: bool,
    /// Days until the current certificate expires; negative if it has.
    pub days_left: i64,
    /// Virtual seconds in a real second.
    pub scale: f64,
    /// Virtual time at the beginning; now if none.
    pub start: Option<DateTime<Utc>>,
    /// The real instant at which it is that time; now if none. Labs that agree in all three have the same time.
    pub since: Option<DateTime<Utc>>,
    /// The address to listen on.
    pub listen: IpAddr,
    /// The first of the ports to listen on, so that a lab that is started again is found again: one for the control API,
    /// then four for every server, then two for the cloud of a hybrid organization, then two
    /// for ticket systems. Free ports if none.
    pub base_port: Option<u16>,
    /// How long every request is on its way to a server.
    pub latency: Duration,
    /// Shells that may be open at an endpoint at a time; Exchange allows 18 to an account.
    pub max_shells: usize,
    /// The account that may do everything.
    pub username: String,
    /// Its password; a random one if none.
    pub password: Option<Secret>,
    /// What the written configuration logs on by. The lab takes every kind all the time.
    pub authentication: Authentication,
    /// A keytab with the keys of `HTTP/<server>`: offers Kerberos, too.
    pub keytab: Option<PathBuf>,
    /// The KDC of that keytab, `host:port`, for the written configuration.
    pub kdc: Option<String>,
    /// Extended Protection: a logon inside TLS must name the TLS channel. Only NTLM can, here.
    pub require_channel_binding: bool,
}

/// A way to log on, in the words of the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authentication {
    /// Name and password inside TLS.
    Basic,
    /// Messages sealed over plain HTTP.
    Ntlm,
    /// The same with Kerberos if there is a ticket.
    Negotiate,
    /// The same with Kerberos only.
    Kerberos,
}

impl Authentication {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Ntlm => "ntlm",
            Self::Negotiate => "negotiate",
            Self::Kerberos => "kerberos",
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            organization: Organization::contoso(),
            hybrid: false,
            tickets: false,
            days_left: 45,
            scale: 1.0,
            start: None,
            since: None,
            listen: Ipv4Addr::LOCALHOST.into(),
            base_port: None,
            latency: Duration::ZERO,
            max_shells: 18,
            username: "rekey@contoso.example".to_owned(),
            password: None,
            authentication: Authentication::Basic,
            keytab: None,
            kdc: None,
            require_channel_binding: false,
        }
    }
}
