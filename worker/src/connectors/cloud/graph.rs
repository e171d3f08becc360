//! Microsoft Graph: applications, service principals and their keys (cloud.md 2, domain.md 3.2 and 3.3).

use std::fmt;

use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::{
    Cloud, CloudError, Credential, Failure, KeyLifetime, Scope,
    assertion::redact,
    error::Result,
    http::{Reply, send},
    policy::{OwnPolicy, TenantPolicy, key_lifetime},
    well_known,
};

/// How many pages of a list are read at most.
const PAGES: usize = 20;

/// What holds keys, by its object id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Holder {
    /// An application.
    Application(String),
    /// A service principal.
    ServicePrincipal(String),
}

/// An application with its keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// Object id.
    pub id: String,
    /// The id that tokens name.
    pub app_id: String,
    /// Its name.
    #[serde(default)]
    pub display_name: String,
    /// When it was created.
    #[serde(default)]
    pub created_date_time: Option<DateTime<Utc>>,
    /// Its keys.
    #[serde(default)]
    pub key_credentials: Vec<Credential>,
}

/// A service principal with its keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    /// Object id.
    pub id: String,
    /// The id that tokens name.
    pub app_id: String,
    /// Its keys.
    #[serde(default)]
    pub key_credentials: Vec<Credential>,
}

#[derive(Deserialize)]
struct List<T> {
    value: Vec<T>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
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
    #[serde(rename = "innerError")]
    inner: Json,
}

impl Holder {
    pub(super) fn path(&self) -> String {
        match self {
            Self::Application(id) => format!("applications/{id}"),
            Self::ServicePrincipal(id) => format!("servicePrincipals/{id}"),
        }
    }
}

impl Cloud {
    /// The application with this id (`appId`); `None` when there is none.
    pub async fn application(&self, app_id: &str) -> Result<Option<Application>> {
        self.find_application("appId", app_id).await
    }

    /// The application with this name; `None` when there is none. Two of the same name are refused: Exchange's tools find it by name, too.
    pub async fn application_named(&self, display_name: &str) -> Result<Option<Application>> {
        self.find_application("displayName", display_name).await
    }

    async fn find_application(&self, property: &str, value: &str) -> Result<Option<Application>> {
        let filter = filter(property, value);
        let query = format!("$filter={filter}&$select=id,appId,displayName");
        let mut found: Vec<Application> = self.list("applications", &query).await?;
        match (found.pop(), found.is_empty()) {
            (None, _) => Ok(None),
            (Some(one), true) => {
                let query = "$select=id,appId,displayName,createdDateTime,keyCredentials";
                self.get_known(&Holder::Application(one.id).path(), query).await.map(Some)
            }
            (Some(_), false) => Err(CloudError::refused(
                "application_ambiguous",
                format!("The tenant has more than one application whose {property} is {value}"),
                "Find out which one Exchange uses (Get-AuthServer: ApplicationIdentifier), and name it as application_id in the configuration",
            )),
        }
    }

    /// The principal that the classic hybrid wizard shares between all servers of a tenant; `None` when there is none.
    pub async fn shared_principal(&self) -> Result<Option<Principal>> {
        let query = format!("$filter={}&$select=id,appId", filter("appId", well_known::EXCHANGE));
        let mut found: Vec<Principal> = self.list("servicePrincipals", &query).await?;
        let Some(one) = found.pop() else { return Ok(None) };
        self.get_known(&Holder::ServicePrincipal(one.id).path(), "$select=id,appId,keyCredentials").await.map(Some)
    }

    /// The keys of an application or principal, with their certificates.
    pub async fn keys(&self, holder: &Holder) -> Result<Vec<Credential>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Keys {
            #[serde(default)]
            key_credentials: Vec<Credential>,
        }
        let read: Keys = self.get_known(&holder.path(), "$select=id,keyCredentials").await?;
        Ok(read.key_credentials)
    }

    /// How long a key of this application may stand, as the tenant's policies say.
    pub async fn key_lifetime(&self, application: &Application) -> Result<KeyLifetime> {
        let own = format!("applications/{}/appManagementPolicies", application.id);
        let read = async {
            let tenant: TenantPolicy = self.get("policies/defaultAppManagementPolicy", "").await?;
            let own: Vec<OwnPolicy> = self.list(&own, "").await?;
            Ok(key_lifetime(&tenant, &own, application.created_date_time))
        };
        match read.await {
            // Without a premium license or the permission, the rest works all the same.
            Err(CloudError { failure: Failure::Refused | Failure::NotFound, trouble }) => {
                Ok(KeyLifetime::NotChecked(trouble.message))
            }
            read => read,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<T> {
        let url = self.url(path, query);
        self.patiently(async || self.read(&url).await).await
    }

    /// Of an object that is there: where a replica has not heard of it yet, another is asked.
    async fn get_known<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<T> {
        let url = self.url(path, query);
        self.patiently(async || self.read(&url).await.map_err(known)).await
    }

    async fn list<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Vec<T>> {
        let mut url = self.url(path, query);
        let mut all = Vec::new();
        for _ in 0..PAGES {
            let page: List<T> = self.patiently(async || self.read(&url).await).await?;
            all.extend(page.value);
            let Some(next) = page.next else { return Ok(all) };
            let next = Url::parse(&next).ok().filter(|next| next.origin() == url.origin());
            url = next.ok_or_else(|| CloudError::unexpected("Graph", "a next page elsewhere"))?;
        }
        Err(CloudError::unexpected("Graph", format_args!("more than {PAGES} pages of {path}")))
    }

    async fn read<T: DeserializeOwned>(&self, url: &Url) -> Result<T> {
        let reply = self.ask(Method::GET, url.clone(), None).await?;
        if reply.status.is_success() { reply.json() } else { Err(failed(&reply, url.path())) }
    }

    /// One request. A token that is refused is replaced, once: nothing was done with it.
    pub(super) async fn ask(&self, method: Method, url: Url, body: Option<&Json>) -> Result<Reply> {
        let mut replaced = false;
        loop {
            let token = self.token(Scope::Graph).await?;
            let request = self.shared.http.request(method.clone(), url.clone());
            let request = request
                .bearer_auth(secrecy::ExposeSecret::expose_secret(&token))
                .header("client-request-id", uuid::Uuid::new_v4().to_string());
            let request = match body {
                Some(body) => request.json(body),
                None => request,
            };
            let reply = send(request).await?;
            if reply.status != StatusCode::UNAUTHORIZED || replaced {
                return Ok(reply);
            }
            self.forget_token(Scope::Graph, &token);
            replaced = true;
        }
    }

    pub(super) fn url(&self, path: &str, query: &str) -> Url {
        let mut url = self.shared.endpoints.graph.clone();
        url.set_path(&format!("/v1.0/{path}"));
        url.set_query((!query.is_empty()).then_some(query));
        url
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application(id) => write!(f, "application {id}"),
            Self::ServicePrincipal(id) => write!(f, "service principal {id}"),
        }
    }
}

/// A quote in a value is doubled (OData), and what would end the query is percent-encoded.
fn filter(property: &str, value: &str) -> String {
    let mut quoted = String::new();
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '&' | '#' | '+' | '%' => quoted.push_str(&format!("%{:02X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    format!("{property} eq '{quoted}'")
}

/// An object that is known to be there is found after a while (cloud.md 2.4).
pub(super) fn known(error: CloudError) -> CloudError {
    match error.failure {
        Failure::NotFound => CloudError { failure: Failure::Again { after: None }, ..error },
        _ => error,
    }
}

/// The code of a trouble that says that Graph refused a request, for a reason that is not known here.
pub(super) const REFUSED: &str = "cloud_refused";

/// What Graph's error means (cloud.md 2.4).
pub(super) fn failed(reply: &Reply, what: &str) -> CloudError {
    let said = serde_json::from_slice::<Failed>(&reply.body).unwrap_or_default().error;
    let request = said.inner.get("request-id").and_then(Json::as_str).unwrap_or_else(|| reply.header("request-id"));
    let text = redact(&said.message, None);
    let request = if request.is_empty() { String::new() } else { format!(" (request {request})") };
    let message = format!("{what}: {} {}: {text}{request}", reply.status.as_u16(), said.code);
    if let Some(mut error) = reply.overload() {
        error.trouble.message = message;
        return error;
    }
    match (reply.status, said.code.as_str()) {
        (StatusCode::CONFLICT, _) => CloudError::again(
            "cloud_conflict",
            message,
            "Nothing to do: the keys are read again, and it is tried again by itself",
        ),
        (StatusCode::NOT_FOUND, _) => CloudError {
            failure: Failure::NotFound,
            trouble: domain::Trouble::new(
                "cloud_object_missing",
                message,
                "Find out whether somebody has deleted it; what was just created is found after a while: retry",
            ),
        },
        (StatusCode::UNAUTHORIZED, _) => CloudError::refused(
            "cloud_token_refused",
            message,
            "Check that tenant and cloud belong together and that the application of rekey is not disabled",
        ),
        (StatusCode::FORBIDDEN, _) => CloudError::refused(
            "cloud_permission_missing",
            message,
            "Give rekey's application the Graph permission Application.ReadWrite.OwnedBy and make it an owner of the Exchange application, or Application.ReadWrite.All; for policies Policy.Read.All; for the shared principal Application.ReadWrite.All and the role that owns it. Each with admin consent",
        ),
        // Clocks of replicas differ: seen for keys that are right (cloud.md 2.2).
        (_, "KeyCredentialsInvalidEndDate") => CloudError::again(
            "cloud_key_dates_refused",
            message,
            "If it stays: the tenant's policy allows keys of a shorter life only; cancel and raise a renewal with a shorter lifetime",
        ),
        (_, code) if code.starts_with("CredentialInvalidLifetime") => CloudError::refused(
            "key_lifetime_refused",
            message,
            "Except the Exchange application from the tenant's app management policy, then retry; or cancel, set lifetime_days in the policy of the organization to what the tenant allows, and raise a new renewal",
        ),
        // The key is there already: whoever reads again sees it.
        (_, "KeyNotUpdatable") => {
            CloudError::again("cloud_key_there", message, "Nothing to do: the keys are read again")
        }
        _ if said.message.contains("Update to existing credential") => {
            CloudError::again("cloud_key_there", message, "Nothing to do: the keys are read again")
        }
        _ => CloudError::refused(REFUSED, message, "Repair what it says, then retry"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        assert_eq!(filter("displayName", "O'Neil & Söhne"), "displayName eq 'O''Neil %26 Söhne'");
    }
}
