//! `Test-OAuthConnectivity`, on either side: what decides, and what it says (cloud.md 1.6, domain.md 3.6).

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Cloud;
use crate::{
    organization::{AppPath, Role},
    server::{KeySet, Server},
    tenant::{EXCHANGE_ONLINE, dedicated_app_id},
    trust::signing_entry,
};

/// What comes of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct Tested {
    /// Whether it worked.
    pub verdict: Verdict,
    /// The log of it.
    pub detail: String,
}

/// `ResultType`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// 0
    Success,
    /// 2
    Error,
}

impl Verdict {
    /// How it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Error => "Error",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// `EWS`, `AutoD` or `Generic`.
    pub service: &'a str,
    /// Where the token is to be shown.
    pub target: &'a str,
    /// Whose.
    pub mailbox: &'a str,
    /// Whether the process reads its configuration first.
    pub reloads: bool,
}

impl Question<'_> {
    /// `Task`.
    #[must_use]
    pub fn task(&self) -> String {
        let service = match self.service.to_ascii_lowercase().as_str() {
            "autod" => "Autodiscover",
            "generic" => "Generic",
            _ => "EWS API",
        };
        format!("Checking {service} Call Under Oauth")
    }
}

/// A server asks Exchange Online. `keys` is what the process knows that runs the test.
#[must_use]
pub fn to_cloud(
    cloud: &Cloud,
    server: &Server,
    keys: &KeySet,
    question: &Question<'_>,
    replica: usize,
    now: DateTime<Utc>,
) -> Tested {
    let log = Log { question, loaded: Some(if question.reloads { now } else { keys.read }), now };
    let Ok(entry) = signing_entry(now, server, keys) else {
        let thumbprint = keys.current.as_ref().map_or("(none)", |thumbprint| thumbprint.as_str());
        return log.failed(&format!(
            "Microsoft.Exchange.Security.OAuth.OAuthTokenRequestFailedException: The certificate with thumbprint {thumbprint} is missing, has expired or has no private key that can be used."
        ));
    };
    let Some(path) = cloud.path() else {
        let log = Log { loaded: None, ..log };
        return log.failed("System.Net.WebException: The remote server returned an error: (403) Forbidden.");
    };
    let app_id = match path {
        AppPath::Dedicated => dedicated_app_id(),
        AppPath::Shared => EXCHANGE_ONLINE,
    };
    let known = cloud.tenant.verifying(path).is_some_and(|object| {
        let (keys, _) = cloud.tenant.trusted_keys(object, replica, now);
        keys.iter().any(|key| key.certificate.thumbprint == entry.certificate.thumbprint && key.is_valid_at(now))
    });
    if !known {
        return log.with_app(app_id).failed(
            "Microsoft.Exchange.Security.OAuth.OAuthTokenRequestFailedException: AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found.]",
        );
    }
    log.with_app(app_id).shown_to(&cloud.tenant.spec.test_mailbox)
}

/// Exchange Online asks the servers.
#[must_use]
pub fn to_servers(cloud: &Cloud, servers: &[Server], question: &Question<'_>, now: DateTime<Utc>) -> Tested {
    let log = Log { question, loaded: Some(now), now };
    if !servers.iter().any(|server| server.is_up() && server.spec.role != Role::Edge) {
        return log.failed("System.Net.WebException: Unable to connect to the remote server.");
    }
    if !cloud.servers_trust_the_tenant() {
        return log.failed(
            "System.Net.WebException: The remote server returned an error: (401) Unauthorized., diagnostics: 2000001;reason=\"The token has an invalid signature.\";error_category=\"invalid_signature\"",
        );
    }
    log.shown_to(&cloud.tenant.spec.cloud_test_mailbox)
}

/// The text of a test.
struct Log<'a> {
    question: &'a Question<'a>,
    /// When the configuration was read; never if none: the dedicated application is not in use (domain.md 3.6).
    loaded: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

impl<'a> Log<'a> {
    fn with_app(self, app: Uuid) -> Told<'a> {
        Told { app: Some(app), log: self }
    }

    fn failed(self, exception: &str) -> Tested {
        Told { app: None, log: self }.failed(exception)
    }

    fn shown_to(self, mailbox: &str) -> Tested {
        Told { app: None, log: self }.shown_to(mailbox)
    }
}

/// The same, with the application that the token was for.
struct Told<'a> {
    app: Option<Uuid>,
    log: Log<'a>,
}

impl Told<'_> {
    /// The service looks whom the token is about.
    fn shown_to(self, mailbox: &str) -> Tested {
        if self.log.question.mailbox.eq_ignore_ascii_case(mailbox) {
            let detail = self.text("HTTP response message: 200 OK", None);
            return Tested { verdict: Verdict::Success, detail };
        }
        self.failed(
            "System.Net.WebException: The remote server returned an error: (401) Unauthorized., diagnostics: 2000005;reason=\"The user specified by the user-context in the token does not exist.\";error_category=\"invalid_user\"",
        )
    }

    fn failed(self, exception: &str) -> Tested {
        Tested { verdict: Verdict::Error, detail: self.text("HTTP response message:", Some(exception)) }
    }

    fn text(&self, response: &str, exception: Option<&str>) -> String {
        let Log { question, loaded, now } = &self.log;
        let loaded =
            loaded.map_or_else(|| "01-01-0001 00:00:00".to_owned(), |at| at.format("%m-%d-%Y %H:%M:%S").to_string());
        let mut lines = vec![
            format!("The configuration was last successfully loaded at {loaded} UTC."),
            "The token cache is being cleared because \"use cached token\" was set to false.".to_owned(),
            "Exchange Outbound Oauth Log:".to_owned(),
            format!("Client request ID: {}", Uuid::new_v4()),
            format!("Information:[OAuthCredentials:Authenticate] entering at {}", now.format("%H:%M:%S")),
            format!("Information:[OAuthCredentials:Authenticate] challenge from '{}' received", question.target),
        ];
        lines.extend(
            self.app
                .map(|app| format!("Information:[OAuthTokenBuilder:GetAppToken] sending token request L:{app}-AS:")),
        );
        lines.extend(["Exchange Response Details:".to_owned(), response.to_owned()]);
        lines.extend(exception.map(|exception| format!("Exception:\r\n{exception}")));
        lines.join("\r\n")
    }
}
