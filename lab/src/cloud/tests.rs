//! The services as they answer, error by error (cloud.md 1.4, 1.5, 2.4).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use serde_json::{Value, json};

use super::*;
use crate::{
    bench::{Bench, Made},
    faults::{Fault, cloud::CloudRequests},
    organization::{Hybrid, Permission, Region},
    tenant::Shown,
};

const BASE: &str = "https://127.0.0.1:1";

/// A caller of the cloud.
struct Client {
    bench: Bench,
    region: Option<String>,
}

/// What it hears.
#[derive(Debug)]
struct Heard {
    status: u16,
    headers: HeaderMap,
    body: Value,
    bytes: Bytes,
}

impl Heard {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Client {
    fn new() -> Self {
        Self::of(Hybrid::contoso())
    }

    fn of(spec: Hybrid) -> Self {
        Self { bench: Bench::hybrid(spec), region: None }
    }

    /// None if the connection was cut.
    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Option<Heard> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut ask = Ask {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: HeaderMap::new(),
            body: match body {
                Value::Null => Bytes::new(),
                Value::String(form) => form.clone().into(),
                json => json.to_string().into(),
            },
            service: service_of(path),
            base: BASE.to_owned(),
            region: self.region.clone(),
            stale: false,
        };
        for (name, value) in headers {
            ask.headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let subject = ask.subject();
        let world = &mut self.bench.world;
        let about = format!("{} {subject}", ask.path);
        let met = world.cloud_disturbances.meet(ask.service, ask.method.as_str(), &about);
        let answer = disturbed(world, ask, &subject, met).ok()?;
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Some(Heard { status: head.status.as_u16(), headers: head.headers, body, bytes })
    }

    async fn token(&mut self, resource: &str) -> String {
        let heard = self.ask_for_token(resource).await;
        heard.body["access_token"].as_str().unwrap_or_else(|| panic!("{heard:?}")).to_owned()
    }

    async fn ask_for_token(&mut self, resource: &str) -> Heard {
        let now = self.bench.world.now();
        let tenant = self.bench.tenant();
        let ((certificate, key), client) = (tenant.client(), tenant.spec.client_id);
        let endpoint = format!("{BASE}/{}/oauth2/v2.0/token", tenant.spec.tenant_id);
        let header = json!({ "alg": "RS256", "x5t": crate::trust::x5t(certificate.thumbprint.as_str()) });
        let exp = (now + TimeDelta::minutes(10)).timestamp();
        let claims = json!({ "aud": endpoint, "iss": client, "sub": client, "exp": exp });
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()).unwrap());
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", &client.to_string())
            .append_pair("scope", &format!("{resource}/.default"))
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            .append_pair("client_assertion", &format!("{text}.{signature}"))
            .finish();
        let path = endpoint.strip_prefix(BASE).unwrap().to_owned();
        self.send("POST", &path, &[], &form.into()).await.unwrap()
    }

    async fn graph(&mut self, method: &str, path: &str, body: &Value) -> Heard {
        let bearer = format!("Bearer {}", self.token("https://graph.microsoft.com").await);
        self.send(method, path, &[("authorization", &bearer), ("client-request-id", "me")], body).await.unwrap()
    }

    async fn exchange(&mut self, cmdlet: &str, parameters: Value, headers: &[(&str, &str)]) -> Heard {
        let path = format!("/adminapi/beta/{}/InvokeCommand", self.bench.tenant().spec.tenant_id);
        self.exchange_at(&path, cmdlet, parameters, headers).await
    }

    async fn exchange_at(&mut self, path: &str, cmdlet: &str, parameters: Value, headers: &[(&str, &str)]) -> Heard {
        let bearer = format!("Bearer {}", self.token("https://outlook.office365.com").await);
        let body = json!({ "CmdletInput": { "CmdletName": cmdlet, "Parameters": parameters } });
        let headers = [headers, &[("authorization", bearer.as_str())]].concat();
        self.send("POST", path, &headers, &body).await.unwrap()
    }

    fn disturb(&mut self, service: CloudService, disturbance: CloudDisturbance) {
        let requests = CloudRequests { service: Some(service), ..CloudRequests::default() };
        self.bench.world.apply(Fault::Cloud { requests, disturbance }).unwrap();
    }

    fn permit(&mut self, permission: Permission, granted: bool) {
        self.bench.world.apply(Fault::CloudPermission { permission, granted }).unwrap();
    }

    /// The path of the dedicated application.
    fn application(&self) -> String {
        format!("/v1.0/applications/{}", self.bench.tenant().objects()[self.bench.application()].id)
    }
}

#[tokio::test]
async fn a_list_holds_no_keys_and_a_single_object_does_if_they_are_selected() {
    let mut client = Client::new();
    let name = client.bench.tenant().spec.application_name();
    let list =
        client.graph("GET", &format!("/v1.0/applications?$filter=displayName%20eq%20'{name}'"), &Value::Null).await;
    assert_eq!((list.status, list.header("client-request-id")), (200, "me"));
    let [found] = list.body["value"].as_array().unwrap().as_slice() else { panic!("{list:?}") };
    assert_eq!(found["displayName"], name.as_str());
    assert!(found["keyCredentials"].as_array().unwrap().iter().all(|key| key["key"].is_null()), "{found}");
    let path = client.application();
    let plain = client.graph("GET", &path, &Value::Null).await.body;
    assert!(plain["keyCredentials"][0]["key"].is_null(), "{plain}");
    let chosen = client.graph("GET", &format!("{path}?$select=id,appId,keyCredentials"), &Value::Null).await.body;
    assert!(chosen["keyCredentials"][0]["key"].is_string() && chosen["displayName"].is_null(), "{chosen}");
    let by_app = format!("/v1.0/applications(appId='{}')", crate::tenant::dedicated_app_id());
    assert_eq!(client.graph("GET", &by_app, &Value::Null).await.body["id"], chosen["id"]);
    let shared = "/v1.0/servicePrincipals?$filter=appId%20eq%20'00000002-0000-0ff1-ce00-000000000000'&$select=id,appDisplayName,keyCredentials";
    let shared = client.graph("GET", shared, &Value::Null).await.body;
    assert_eq!(
        (&shared["value"][0]["appDisplayName"], &shared["value"][0]["keyCredentials"]),
        (&json!("Office 365 Exchange Online"), &json!([]))
    );
}

#[tokio::test]
async fn keys_are_written_and_seen_later_by_reads_that_meet_a_slow_replica() {
    let mut client = Client::new();
    let path = client.application();
    let keys: Vec<_> = client.bench.cloud_keys().iter().map(|key| key.json(Shown::WithoutKey)).collect();
    let all: Vec<_> = keys.into_iter().chain([Made::number(0).credential()]).collect();
    let body = json!({ "@odata.type": "#microsoft.graph.application", "keyCredentials": all });
    assert_eq!(client.graph("PATCH", &path, &body).await.status, 204);
    let select = format!("{path}?$select=keyCredentials");
    let mut counts = Vec::new();
    for _ in 0..3 {
        counts.push(client.graph("GET", &select, &Value::Null).await.body["keyCredentials"].as_array().unwrap().len());
    }
    counts.sort_unstable();
    assert_eq!(counts, [2, 2, 3]);
    client.bench.pass(TimeDelta::minutes(6));
    assert_eq!(client.graph("GET", &select, &Value::Null).await.body["keyCredentials"].as_array().unwrap().len(), 3);
    client.disturb(CloudService::Graph, CloudDisturbance::Stale);
    assert_eq!(client.graph("GET", &select, &Value::Null).await.body["keyCredentials"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn graph_tells_errors_in_its_shape() {
    let mut client = Client::new();
    let path = client.application();
    let nobody = "/v1.0/applications/00000000-0000-0000-0000-000000000001";
    for (method, path, body, expected) in [
        ("GET", nobody, Value::Null, (404, "Request_ResourceNotFound")),
        ("PATCH", path.as_str(), json!({ "keyCredentials": {} }), (400, "Request_BadRequest")),
        ("PATCH", path.as_str(), json!({ "displayName": "x" }), (400, "Request_BadRequest")),
        ("PATCH", path.as_str(), json!("no json"), (400, "Request_BadRequest")),
        ("GET", "/v1.0/applications?$filter=id%20ne%20'x'", Value::Null, (400, "Request_UnsupportedQuery")),
        ("GET", "/v1.0/nothing", Value::Null, (400, "Request_BadRequest")),
        ("DELETE", path.as_str(), Value::Null, (405, "Request_BadRequest")),
    ] {
        let heard = client.graph(method, path, &body).await;
        let error = &heard.body["error"];
        assert_eq!((heard.status, error["code"].as_str().unwrap()), expected, "{method} {path}");
        assert!(error["message"].is_string() && error["innerError"]["request-id"].is_string(), "{error}");
        assert_eq!(error["innerError"]["client-request-id"], "me");
    }
    for (disturbance, expected) in [
        (CloudDisturbance::Throttle(7), (429, "TooManyRequests")),
        (CloudDisturbance::Conflict, (409, "Directory_ConcurrencyViolation")),
        (CloudDisturbance::Status(503), (503, "serviceNotAvailable")),
        (
            CloudDisturbance::Graph {
                status: 400,
                code: "KeyCredentialsInvalidEndDate".to_owned(),
                message: String::new(),
            },
            (400, "KeyCredentialsInvalidEndDate"),
        ),
    ] {
        client.disturb(CloudService::Graph, disturbance.clone());
        let heard = client.graph("GET", &path, &Value::Null).await;
        assert_eq!((heard.status, heard.body["error"]["code"].as_str().unwrap()), expected, "{disturbance:?}");
        assert_eq!(heard.header("retry-after") == "7", heard.status == 429);
    }
    assert_eq!(client.graph("GET", &path, &Value::Null).await.status, 200);
}

#[tokio::test]
async fn who_may_not_is_refused_by_graph() {
    let mut client = Client::new();
    let path = client.application();
    let unknown = client.send("GET", &path, &[("authorization", "Bearer x.y.z")], &Value::Null).await.unwrap();
    assert_eq!((unknown.status, unknown.body["error"]["code"].as_str()), (401, Some("InvalidAuthenticationToken")));
    assert_eq!(client.send("GET", &path, &[], &Value::Null).await.unwrap().status, 401);
    let shared = &client.bench.tenant().objects()
        [client.bench.tenant().verifying(crate::organization::AppPath::Shared).unwrap()];
    let shared = format!("/v1.0/servicePrincipals/{}", shared.id);
    let purge = client.graph("PATCH", &shared, &json!({ "keyCredentials": [] })).await;
    assert_eq!((purge.status, purge.body["error"]["code"].as_str()), (403, Some("Authorization_RequestDenied")));
    assert_eq!(client.graph("GET", "/v1.0/policies/defaultAppManagementPolicy", &Value::Null).await.status, 200);
    client.permit(Permission::PolicyReadAll, false);
    assert_eq!(client.graph("GET", "/v1.0/policies/defaultAppManagementPolicy", &Value::Null).await.status, 403);
    assert_eq!(client.graph("GET", &format!("{path}/appManagementPolicies"), &Value::Null).await.status, 403);
    client.permit(Permission::ApplicationReadWriteOwnedBy, false);
    assert_eq!(client.graph("GET", &path, &Value::Null).await.status, 403);
}

#[tokio::test]
async fn exchange_online_answers_with_annotations_and_limits() {
    let mut client = Client::new();
    let heard = client.exchange("Get-OrganizationRelationship", json!({}), &[]).await;
    assert_eq!((heard.status, heard.header("rate-limit-limit")), (200, "30000"));
    assert!(!heard.header("request-id").is_empty() && heard.header("rate-limit-reset").ends_with('Z'));
    let value = &heard.body["value"][0];
    assert_eq!(value["DomainNames"], json!(["contoso.example"]));
    assert_eq!(value["DomainNames@odata.type"], "#Collection(String)");
    assert_eq!(heard.body["@adminapi.warnings"], json!([]));
    let name = value["Name"].clone();
    let set = json!({ "Identity": name, "Enabled": true, "DomainNames": { "@odata.type": "x" } });
    assert_eq!(client.exchange("Set-OrganizationRelationship", set, &[]).await.status, 400);
    let same = json!({ "Identity": name, "Enabled": true });
    let unchanged = client.exchange("Set-OrganizationRelationship", same, &[]).await.body;
    assert!(unchanged["value"] == json!([]) && unchanged["@adminapi.warnings"][0].is_string(), "{unchanged}");
    let set = json!({ "Identity": name, "Enabled": false });
    assert_eq!(client.exchange("Set-OrganizationRelationship", set, &[]).await.body["@adminapi.warnings"], json!([]));
    let path = "/adminapi/beta/contoso.onmicrosoft.com/InvokeCommand?$select=Enabled";
    let chosen = client.exchange_at(path, "Get-OrganizationRelationship", json!({ "Identity": name }), &[]).await.body;
    assert_eq!(chosen["value"], json!([{ "Enabled": false, "Enabled@data.type": "System.Boolean" }]));
    for cmdlet in [
        "Get-IntraOrganizationConnector",
        "Get-IntraOrganizationConfiguration",
        "Get-OnPremisesOrganization",
        "Get-AuthServer",
    ] {
        assert_eq!(
            client.exchange(cmdlet, json!({}), &[]).await.body["value"].as_array().unwrap().len(),
            1,
            "{cmdlet}"
        );
    }
}

#[tokio::test]
async fn pages_are_fetched_by_the_same_request_at_another_address_that_does_not_stand_for_long() {
    let mut client = Client::new();
    let relationships = &mut client.bench.world.cloud.as_mut().unwrap().exchange_online;
    let one = relationships.of(crate::hybrid::Class::OrganizationRelationship).next().unwrap().clone();
    relationships.0.extend([one.clone(), one]);
    let prefer = [("prefer", "odata.maxpagesize=2")];
    let first = client.exchange("Get-OrganizationRelationship", json!({}), &prefer).await.body;
    assert_eq!(first["value"].as_array().unwrap().len(), 2);
    let next = first["@odata.nextLink"].as_str().unwrap().strip_prefix(BASE).unwrap().to_owned();
    let second = client.exchange_at(&next, "Get-OrganizationRelationship", json!({}), &prefer).await.body;
    assert!(second["value"].as_array().unwrap().len() == 1 && second["@odata.nextLink"].is_null(), "{second}");
    client.bench.pass(TimeDelta::minutes(6));
    let late = client.exchange_at(&next, "Get-OrganizationRelationship", json!({}), &prefer).await;
    assert_eq!((late.status, late.body["error"]["code"].as_str()), (400, Some("BadRequest")));
}

#[tokio::test]
async fn exchange_online_wants_both_the_role_of_the_token_and_one_in_the_directory() {
    let mut client = Client::new();
    let (app, directory) = (Permission::ExchangeManageAsApp, Permission::ExchangeAdministrator);
    for (has_app, has_directory, expected) in
        [(true, true, 200), (true, false, 403), (false, false, 401), (false, true, 401)]
    {
        client.permit(app, has_app);
        client.permit(directory, has_directory);
        let heard = client.exchange("Get-AuthServer", json!({}), &[]).await;
        assert_eq!(heard.status, expected, "{has_app} {has_directory}");
        if expected == 403 {
            assert!(heard.bytes.iter().all(|byte| *byte == 0) && heard.header("content-encoding") == "gzip");
            assert!(heard.header("x-ms-diagnostics").contains("invalid_grant"));
        }
    }
    client.permit(app, true);
    let unknown = client.exchange("Get-Nothing", json!({}), &[]).await;
    assert_eq!((unknown.status, unknown.bytes.len()), (403, 64));
}

#[tokio::test]
async fn exchange_online_tells_errors_by_their_class() {
    let mut client = Client::new();
    let heard = client.exchange("Get-OrganizationRelationship", json!({ "Identity": "nobody" }), &[]).await;
    let error = &heard.body["error"];
    assert_eq!((heard.status, &error["code"]), (404, &json!("NotFound")));
    let detail = error["details"][0]["message"].as_str().unwrap();
    let parts: Vec<_> = detail.splitn(3, '|').collect();
    assert_eq!(parts[1], "Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException");
    assert!(
        parts[2].contains("'nobody'") && error["innererror"]["internalexception"]["message"].is_string(),
        "{error}"
    );
    let class = "Microsoft.Exchange.Data.Directory.SuitabilityDirectoryException".to_owned();
    let text = "no domain controller".to_owned();
    client
        .disturb(CloudService::ExchangeOnline, CloudDisturbance::Exception { status: 400, class: class.clone(), text });
    let heard = client.exchange("Get-AuthServer", json!({}), &[]).await;
    assert!(heard.status == 400 && heard.body["error"]["details"][0]["message"].as_str().unwrap().contains(&class));
    client.disturb(CloudService::ExchangeOnline, CloudDisturbance::Throttle(3));
    let heard = client.exchange("Get-AuthServer", json!({}), &[]).await;
    assert_eq!((heard.status, heard.header("retry-after")), (429, "3"));
    let stable = format!("/adminapi/v1.0/{}/InvokeCommand", client.bench.tenant().spec.tenant_id);
    assert_eq!(client.exchange_at(&stable, "Get-AuthServer", json!({}), &[]).await.status, 405);
}

#[tokio::test]
async fn the_front_door_sends_callers_to_their_region() {
    let mut client = Client::new();
    client.region = Some("https://127.0.0.1:2".to_owned());
    for (region, expected) in [
        (Region::Here, ""),
        (Region::Elsewhere, "https://127.0.0.1:2/adminapi/beta/"),
        (Region::Foreign, "https://localhost:2/adminapi/beta/"),
        (Region::Loop, "https://127.0.0.1:1/adminapi/beta/"),
    ] {
        client.bench.world.apply(Fault::Region { to: region }).unwrap();
        let heard = client.exchange("Get-AuthServer", json!({}), &[]).await;
        assert!(heard.header("location").starts_with(expected), "{region:?}: {heard:?}");
        assert_eq!(heard.status, if region == Region::Here { 200 } else { 302 });
    }
    client.region = None;
    assert_eq!(client.exchange("Get-AuthServer", json!({}), &[]).await.status, 200, "the region itself answers");
}

#[tokio::test]
async fn the_way_to_the_servers_is_tested_from_the_cloud() {
    let mut client = Client::new();
    let ask = |mailbox: &str| json!({ "Service": "EWS", "TargetUri": "https://mail.contoso.example/ews", "Mailbox": mailbox });
    let mailbox = client.bench.tenant().spec.cloud_test_mailbox.clone();
    let heard = client.exchange("Test-OAuthConnectivity", ask(&mailbox), &[]).await.body;
    assert_eq!((&heard["value"][0]["ResultType"], &heard["value"][0]["IsValid"]), (&json!("Success"), &json!(true)));
    let heard = client.exchange("Test-OAuthConnectivity", ask("other@contoso.example"), &[]).await.body;
    assert!(
        heard["value"][0]["ResultType"] == "Error" && heard["value"][0]["Detail"].as_str().unwrap().contains("2000005")
    );
    assert_eq!(client.exchange("Test-OAuthConnectivity", ask("x@fabrikam.example"), &[]).await.status, 404);
}

#[tokio::test]
async fn entra_tells_errors_in_its_shape_and_describes_itself() {
    let mut client = Client::new();
    client.disturb(CloudService::Token, CloudDisturbance::Aadsts(700_027));
    let heard = client.ask_for_token("https://graph.microsoft.com").await;
    assert_eq!((heard.status, &heard.body["error_codes"]), (401, &json!([700_027])));
    assert!(heard.body["error_description"].as_str().unwrap().contains("\r\nTrace ID: "), "{heard:?}");
    client.disturb(CloudService::Token, CloudDisturbance::Throttle(2));
    let heard = client.ask_for_token("https://graph.microsoft.com").await;
    assert_eq!((heard.status, heard.header("retry-after")), (429, "2"));
    let about = "/contoso.onmicrosoft.com/v2.0/.well-known/openid-configuration";
    let told = client.send("GET", about, &[], &Value::Null).await.unwrap().body;
    let tenant = client.bench.tenant().spec.tenant_id;
    assert_eq!(told["token_endpoint"], format!("{BASE}/{tenant}/oauth2/v2.0/token"));
    let unknown =
        client.send("GET", "/fabrikam/v2.0/.well-known/openid-configuration", &[], &Value::Null).await.unwrap();
    assert_eq!((unknown.status, &unknown.body["error_codes"]), (400, &json!([90_002])));
    let metadata = client.send("GET", &format!("/{tenant}/metadata/json/1"), &[], &Value::Null).await.unwrap().body;
    let signing = client.bench.tenant().signing_certificate().thumbprint.clone();
    assert_eq!(metadata["keys"][0]["keyinfo"]["x5t"], crate::trust::x5t(signing.as_str()));
    let keys = client.send("GET", &format!("/{tenant}/discovery/v2.0/keys"), &[], &Value::Null).await.unwrap().body;
    assert_eq!(keys["keys"][0]["kid"], crate::trust::x5t(signing.as_str()));
}

#[tokio::test]
async fn requests_are_written_down_with_what_became_of_them() {
    let mut client = Client::new();
    let path = client.application();
    let token = client.token("https://graph.microsoft.com").await;
    client.disturb(CloudService::Graph, CloudDisturbance::Drop);
    let bearer = format!("Bearer {token}");
    assert!(client.send("GET", &path, &[("authorization", &bearer)], &Value::Null).await.is_none());
    client.disturb(CloudService::Graph, CloudDisturbance::DropAfter);
    let nothing = json!({ "keyCredentials": [] });
    assert!(client.send("PATCH", &path, &[("authorization", &bearer)], &nothing).await.is_none());
    assert!(client.bench.cloud_keys().is_empty(), "it was carried out");
    let told: Vec<_> = client
        .bench
        .world
        .journal
        .cloud
        .iter()
        .map(|asked| (asked.method.as_str(), asked.status, asked.disturbed))
        .collect();
    assert_eq!(told, [("POST", 200, false), ("GET", 0, true), ("PATCH", 204, true)]);
    let written = serde_json::to_string(&client.bench.world.journal).unwrap();
    assert!(!written.contains(&token), "no token is written down");
}
