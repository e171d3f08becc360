//! Cmdlets of Exchange Online over `InvokeCommand`.
//!
//! **Microsoft has not published this interface.** Its own PowerShell module speaks it, and what is known of it comes from watching that module and its
//! users (cloud.md 1). It may change on any day. Therefore nothing else than this module knows it, a renewal never depends on it, and whoever calls takes
//! a failure for "not checked". The Admin API that Microsoft does publish (`adminapi/v2.0`) has none of the cmdlets that are needed here.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{StatusCode, Url, header};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{
    Cloud, CloudError, Failure, Scope,
    assertion::redact,
    error::Result,
    http::{Reply, send},
};
use crate::connectivity::{self, Tested};

/// The mailbox of an organization that app-only requests are routed by (cloud.md 1.2).
const SYSTEM_MAILBOX: &str = "SystemMailbox{bb558c35-97f1-4cb9-8ff7-d53741dc928c}";
/// How long a cmdlet may take: Microsoft's module waits 960 s, and Test-OAuthConnectivity needs up to minutes (cloud.md 1.4).
const ANSWER: Duration = Duration::from_secs(300);
/// How often one request may be sent elsewhere.
const REDIRECTS: usize = 5;
/// How many pages of an answer are read at most: a million objects.
const PAGES: usize = 1000;

/// A cmdlet with its parameters. All of them only read, and may be tried again.
struct Cmdlet {
    name: &'static str,
    parameters: Map<String, Json>,
}

/// Where the front door has sent us to, and what it gave us to show there.
#[derive(Default)]
pub(super) struct Region {
    host: Option<Url>,
    cookies: BTreeMap<String, String>,
}

/// One object that a cmdlet wrote, without annotations.
type Object = Map<String, Json>;

/// An organization relationship as Exchange Online has it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct OnlineRelationship {
    /// `Name`.
    pub name: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `DomainNames`.
    pub domain_names: Vec<String>,
    /// `TargetApplicationUri`.
    pub target_application_uri: Option<String>,
    /// `TargetAutodiscoverEpr`.
    pub target_autodiscover_epr: Option<String>,
    /// `TargetSharingEpr`.
    pub target_sharing_epr: Option<String>,
}

/// An intra-organization connector as Exchange Online has it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase", default)]
pub struct OnlineConnector {
    /// `Name`.
    pub name: String,
    /// `Enabled`.
    pub enabled: bool,
    /// `TargetAddressDomains`.
    pub target_address_domains: Vec<String>,
    /// `DiscoveryEndpoint`.
    pub discovery_endpoint: Option<String>,
    /// `TargetSharingEpr`.
    pub target_sharing_epr: Option<String>,
}

/// What `Test-OAuthConnectivity` asks for on-premises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServiceUnderTest {
    /// Exchange Web Services.
    Ews,
    /// Autodiscover.
    Autodiscover,
}

impl ServiceUnderTest {
    /// The value of `-Service`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ews => "EWS",
            Self::Autodiscover => "AutoD",
        }
    }
}

/// A test of OAuth from Exchange Online to the servers on-premises.
#[derive(Clone, Debug)]
pub struct OnlineTest<'a> {
    /// Which service is asked for.
    pub service: ServiceUnderTest,
    /// The URL on-premises, as it is known outside.
    pub target: &'a str,
    /// A mailbox in the cloud.
    pub mailbox: &'a str,
}

/// An answer with `value` and what may stand beside it.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    value: Vec<Json>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
    #[serde(rename = "@adminapi.errors", default)]
    errors: Vec<Json>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Failed {
    error: Said,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    code: String,
    message: String,
    details: Vec<Detail>,
    innererror: Inner,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Inner {
    internalexception: Detail,
}

/// Routes by a domain when the tenant is known by one, else by its id.
pub(super) fn default_anchor(tenant: &str) -> String {
    let kind = if uuid::Uuid::parse_str(tenant).is_ok() { "APP" } else { "UPN" };
    format!("{kind}:{SYSTEM_MAILBOX}@{tenant}")
}

impl Cmdlet {
    fn new(name: &'static str) -> Self {
        Self { name, parameters: Map::new() }
    }

    fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.parameters.insert(name.to_owned(), value.into());
        self
    }
}

impl Cloud {
    /// `Get-OrganizationRelationship`.
    pub async fn online_relationships(&self) -> Result<Vec<OnlineRelationship>> {
        self.objects(Cmdlet::new("Get-OrganizationRelationship")).await
    }

    /// `Get-IntraOrganizationConnector`.
    pub async fn online_connectors(&self) -> Result<Vec<OnlineConnector>> {
        self.objects(Cmdlet::new("Get-IntraOrganizationConnector")).await
    }

    /// `Test-OAuthConnectivity`: whether Exchange Online is let in on-premises.
    pub(crate) async fn test_from_cloud(&self, test: &OnlineTest<'_>) -> Result<Tested> {
        let cmdlet = Cmdlet::new("Test-OAuthConnectivity")
            .with("Service", test.service.as_str())
            .with("TargetUri", test.target)
            .with("Mailbox", test.mailbox)
            .with("ReloadConfig", true);
        let written = self.invoke(&cmdlet).await?;
        let tested = written.first().and_then(connectivity::of_json);
        tested.ok_or_else(|| CloudError::unexpected("Test-OAuthConnectivity", "no ResultType"))
    }

    async fn objects<T: serde::de::DeserializeOwned>(&self, cmdlet: Cmdlet) -> Result<Vec<T>> {
        let written = self.invoke(&cmdlet).await?;
        let read = |object: Object| {
            // A property that is null counts as absent.
            let object = object.into_iter().filter(|(_, value)| !value.is_null()).collect();
            serde_json::from_value(Json::Object(object))
        };
        let read: serde_json::Result<Vec<T>> = written.into_iter().map(read).collect();
        read.map_err(|error| CloudError::unexpected(cmdlet.name, error))
    }

    /// Everything that a cmdlet wrote, all pages of it: a list that is cut off would be a lie.
    async fn invoke(&self, cmdlet: &Cmdlet) -> Result<Vec<Object>> {
        let mut path = self.shared.endpoints.exchange_online.clone();
        path.set_path(&format!("/adminapi/beta/{}/InvokeCommand", self.shared.tenant));
        let mut url = match &self.region().host {
            Some(region) => at(region, &path),
            None => path,
        };
        let body = json!({ "CmdletInput": { "CmdletName": cmdlet.name, "Parameters": cmdlet.parameters } });
        let mut written = Vec::new();
        let mut seen = Vec::new();
        loop {
            let page = self.patiently(async || self.page(cmdlet, &url, &body).await).await;
            let page =
                page.map_err(|error| if seen.is_empty() { error } else { cut_off(cmdlet, seen.len(), error) })?;
            if let Some(error) = page.errors.first() {
                return Err(explain(
                    cmdlet,
                    "",
                    &error.as_str().map_or_else(|| error.to_string(), str::to_owned),
                    None,
                ));
            }
            written.extend(page.value.into_iter().filter_map(without_annotations));
            let Some(next) = page.next else { return Ok(written) };
            let next = self.next_page(&next).filter(|next| !seen.contains(next) && *next != url);
            seen.push(url);
            url = next.filter(|_| seen.len() < PAGES).ok_or_else(|| {
                CloudError::unexpected(
                    "Exchange Online",
                    format_args!("a next page of {} that cannot be followed", cmdlet.name),
                )
            })?;
        }
    }

    async fn page(&self, cmdlet: &Cmdlet, url: &Url, body: &Json) -> Result<Page> {
        let mut replaced = false;
        loop {
            let token = self.token(Scope::ExchangeOnline).await?;
            let reply = self.post(cmdlet, url.clone(), body, token.expose_secret()).await?;
            if reply.status.is_success() {
                return reply.json();
            }
            if reply.status != StatusCode::UNAUTHORIZED || replaced {
                return Err(failed(cmdlet, &reply));
            }
            self.forget_token(Scope::ExchangeOnline, &token);
            replaced = true;
        }
    }

    /// Posts, also at the regional host that the answer names: the same body, and the token only if that host is of the service.
    async fn post(&self, cmdlet: &Cmdlet, mut url: Url, body: &Json, token: &str) -> Result<Reply> {
        let mut been = Vec::new();
        loop {
            let reply = send(self.request(cmdlet, &url, body, token)).await?;
            if !reply.status.is_redirection() {
                if !been.is_empty() {
                    self.region().host = Some(url);
                }
                return Ok(reply);
            }
            self.take_cookies(&reply);
            let next = self.redirected(&url, reply.header("location"))?;
            been.push(url);
            if been.contains(&next) || been.len() > REDIRECTS {
                return Err(redirect("it is sent round in circles", next.as_str()));
            }
            url = next;
        }
    }

    fn request(&self, cmdlet: &Cmdlet, url: &Url, body: &Json, token: &str) -> reqwest::RequestBuilder {
        let request = self
            .shared
            .http
            .post(url.clone())
            .bearer_auth(token)
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_LANGUAGE, "en-US")
            .header("X-AnchorMailbox", &self.shared.anchor)
            .header("X-CmdletName", cmdlet.name)
            .header("X-ResponseFormat", "json")
            .header("X-SerializationLevel", "Partial")
            .header("Prefer", "odata.maxpagesize=1000")
            .header("client-request-id", uuid::Uuid::new_v4().to_string())
            .timeout(ANSWER)
            .json(body);
        let pairs: Vec<String> = self.region().cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { request } else { request.header(header::COOKIE, pairs.join("; ")) }
    }

    fn take_cookies(&self, reply: &Reply) {
        for cookie in reply.headers.get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.region().cookies.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
    }

    /// Where a redirect leads. Elsewhere than to the service itself nothing is sent: neither the token nor what was asked.
    fn redirected(&self, from: &Url, location: &str) -> Result<Url> {
        let mut next = from.join(location).map_err(|_| redirect("the place is no URL", location))?;
        // Front doors name an internal port; a service at a port of its own means what it says.
        if next.port() == Some(446)
            && self.shared.endpoints.exchange_online.port().is_none()
            && next.set_port(None).is_err()
        {
            return Err(redirect("the place has no port", location));
        }
        if self.is_of_service(&next) { Ok(next) } else { Err(redirect("that is no host of Exchange Online", location)) }
    }

    fn next_page(&self, link: &str) -> Option<Url> {
        Url::parse(link).ok().filter(|next| self.is_of_service(next))
    }

    fn is_of_service(&self, url: &Url) -> bool {
        let service = &self.shared.endpoints.exchange_online;
        let host = |url: &Url| url.host_str().unwrap_or_default().to_ascii_lowercase();
        let (ours, theirs) = (host(service), host(url));
        url.scheme() == "https" && !ours.is_empty() && (theirs == ours || theirs.ends_with(&format!(".{ours}")))
    }
}

/// The same path at another host.
fn at(host: &Url, path: &Url) -> Url {
    let mut url = host.clone();
    url.set_path(path.path());
    url.set_query(path.query());
    url
}

/// An object without the keys that only tell types. A void cmdlet may write one null.
fn without_annotations(value: Json) -> Option<Object> {
    match cleaned(value) {
        Json::Object(object) => Some(object),
        _ => None,
    }
}

fn cleaned(value: Json) -> Json {
    match value {
        Json::Object(object) => {
            let told = object.into_iter().filter(|(name, _)| !name.contains("@odata.") && !name.contains("@data."));
            Json::Object(told.map(|(name, value)| (name, cleaned(value))).collect())
        }
        Json::Array(list) => list.into_iter().map(cleaned).collect(),
        other => other,
    }
}

fn redirect(why: &str, place: &str) -> CloudError {
    CloudError::refused(
        "cloud_redirected",
        format!("Exchange Online sends the request to {place}, and {why}"),
        "Check the name of the cloud and proxies on the way; the renewal does not depend on it",
    )
}

fn cut_off(cmdlet: &Cmdlet, pages: usize, error: CloudError) -> CloudError {
    let message = format!("What {} wrote is cut off after {pages} pages: {}", cmdlet.name, error.trouble.message);
    CloudError { trouble: domain::Trouble { message, ..error.trouble }, ..error }
}

/// What an answer means that is no success (cloud.md 1.4).
fn failed(cmdlet: &Cmdlet, reply: &Reply) -> CloudError {
    let request = reply.header("request-id");
    let request = if request.is_empty() { String::new() } else { format!(" (request {request})") };
    let said = serde_json::from_slice::<Failed>(&reply.body).unwrap_or_default().error;
    let detail = said.details.first().map(|detail| detail.message.as_str()).unwrap_or_default();
    let texts = [detail, &said.innererror.internalexception.message, &said.message];
    let text = texts.into_iter().find(|text| !text.trim().is_empty()).unwrap_or(&said.code);
    match reply.status {
        StatusCode::UNAUTHORIZED => CloudError::refused(
            "exchange_online_token_refused",
            format!("Exchange Online does not take the token for {}{request}", cmdlet.name),
            "Give rekey's application the role Exchange.ManageAsApp of Office 365 Exchange Online, with admin consent, and a directory role such as Global Reader",
        ),
        // Also what an unknown cmdlet looks like: often no text at all.
        StatusCode::FORBIDDEN => {
            let why = match (reply.header("x-ms-diagnostics"), text) {
                ("", "") => "no reason given".to_owned(),
                ("", text) => redact(text, None),
                (diagnostics, _) => redact(diagnostics, None),
            };
            CloudError::refused(
                "exchange_online_permission_missing",
                format!("Exchange Online refuses {}: {why}{request}", cmdlet.name),
                "Give rekey's application a directory role (Global Reader to read, Exchange Administrator to change) or an Exchange role group that has the cmdlet",
            )
        }
        // Throttled, whatever it says.
        StatusCode::TOO_MANY_REQUESTS => overload(reply, cmdlet),
        _ if text.is_empty() => overload(reply, cmdlet),
        _ => explain(cmdlet, &request, text, Some(reply)),
    }
}

fn overload(reply: &Reply, cmdlet: &Cmdlet) -> CloudError {
    reply.overload().unwrap_or_else(|| CloudError::unexpected(cmdlet.name, reply.status))
}

/// Trouble of Exchange's own that passes, by the .NET type of its exception (cloud.md 1.4).
const PASSING: [&str; 9] = [
    "DCOverloadedException",
    "SuitabilityDirectoryException",
    "ServerInMMException",
    "ADServerSettingsChangedException",
    "StorageTransientException",
    "CmdletProxyNotAvailableFailure",
    "ServerBusyException",
    "TransientException",
    "BackendCommunicationException",
];

/// `errorId|.NET exception type|text`: the type decides, because the same one is told with different statuses.
fn explain(cmdlet: &Cmdlet, request: &str, said: &str, reply: Option<&Reply>) -> CloudError {
    let mut parts = said.splitn(3, '|');
    let (kind, text) = match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(kind), Some(text)) => (kind.trim(), text),
        _ => ("", said),
    };
    let kind = kind.rsplit('.').next().unwrap_or_default();
    let text = redact(text.trim(), None);
    let message = format!("{}: {text} [{kind}]{request}", cmdlet.name);
    let passing = PASSING.iter().any(|name| kind == *name || said.contains(name));
    let action = "Nothing to do: it is asked again by itself, and the renewal does not depend on it";
    if passing {
        return CloudError::again("exchange_online_busy", message, action);
    }
    match kind {
        "ManagementObjectNotFoundException" => CloudError {
            failure: Failure::NotFound,
            trouble: domain::Trouble::new(
                "exchange_online_object_missing",
                message,
                "Check the name; the Hybrid Configuration Wizard creates what belongs to a hybrid organization",
            ),
        },
        "" => match reply.and_then(Reply::overload) {
            Some(error) => error,
            None => CloudError::refused("exchange_online_failed", message, "Repair what it says, then retry"),
        },
        _ => CloudError::refused("exchange_online_failed", message, "Repair what it says, then retry"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cmdlet() -> Cmdlet {
        Cmdlet::new("Get-OrganizationRelationship")
    }

    #[test]
    fn the_exceptions_type_decides_and_not_the_status() {
        let missing = "Ex6F9304|Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException|The object 'x' couldn't be found on 'DC'.";
        let error = explain(&cmdlet(), "", missing, None);
        assert_eq!(error.failure, Failure::NotFound);
        assert!(error.trouble.message.contains("The object 'x'"));
        let busy =
            explain(&cmdlet(), "", "|Microsoft.Exchange.Data.Directory.SuitabilityDirectoryException|Busy.", None);
        assert!(busy.may_pass());
        let other = explain(&cmdlet(), "", "|Microsoft.Exchange.X.YException|a|b", None);
        assert_eq!(other.failure, Failure::Refused);
        assert!(other.trouble.message.contains("a|b"), "the text may hold the mark: {other}");
    }

    #[test]
    fn annotations_are_dropped_wherever_they_stand() {
        let written = json!({
            "DomainNames@odata.type": "#Collection(String)", "DomainNames": ["contoso.com"], "X@data.type": "System.Int16",
            "X": 0, "Inner": { "Guid@odata.type": "#Guid", "Guid": "1" }, "None": null
        });
        let expected = json!({ "DomainNames": ["contoso.com"], "X": 0, "Inner": { "Guid": "1" }, "None": null });
        assert_eq!(without_annotations(written).map(Json::Object), Some(expected));
        assert_eq!(without_annotations(Json::Null), None);
    }

    #[test]
    fn requests_are_routed_by_a_mailbox_that_every_organization_has() {
        let by_id = default_anchor("6b1f5b5e-7a0d-4f57-9a1d-0d7c8a3f2b11");
        assert!(
            by_id.starts_with("APP:SystemMailbox{bb558c35-")
                && by_id.ends_with("@6b1f5b5e-7a0d-4f57-9a1d-0d7c8a3f2b11")
        );
        assert!(default_anchor("contoso.onmicrosoft.com").starts_with("UPN:SystemMailbox{"));
    }
}
