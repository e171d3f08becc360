//! Exchange Online's unpublished `InvokeCommand` (cloud.md 1): cmdlets by REST.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Ask, Reply};
use crate::{
    http::with_body,
    hybrid::{
        Class, Field, Thing,
        connectivity::{self, Question},
    },
    journal::EffectKind,
    organization::{Permission, Region},
    tenant::{Resource, Tenant},
    world::{Outcome, World},
};

/// What a caller sends.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sent {
    cmdlet_input: Input,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    cmdlet_name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// What a cmdlet comes to: objects and warnings, or why not.
type Came = Result<(Vec<Value>, Vec<String>), Failure>;

/// Status, `error.code`, .NET class and text.
struct Failure(StatusCode, &'static str, &'static str, String);

/// How many objects a page has at most.
const PAGE: usize = 1000;
/// How long a link to the next page stands (cloud.md 1.3).
const LINK: TimeDelta = TimeDelta::minutes(5);
const NOT_FOUND: &str = "Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException";
const BINDING: &str = "System.Management.Automation.ParameterBindingException";

/// The cmdlet that a body asks for, for the journal.
pub(super) fn cmdlet(body: &[u8]) -> String {
    serde_json::from_slice::<Sent>(body).map(|sent| sent.cmdlet_input.cmdlet_name).unwrap_or_default()
}

pub(super) fn answer(world: &mut World, ask: &Ask) -> Reply {
    let segments: Vec<_> = ask.path.split('/').skip(2).collect();
    let [version, tenant, endpoint] = segments.as_slice() else { return Reply::not_found() };
    let Some(cloud) = &world.cloud else { return Reply::not_found() };
    if !endpoint.eq_ignore_ascii_case("InvokeCommand") || !cloud.tenant.is_named(tenant) {
        return Reply::not_found();
    }
    if !version.eq_ignore_ascii_case("beta") || ask.method != Method::POST {
        return Reply::method_not_allowed();
    }
    if let Some(elsewhere) = sent_on(ask, cloud.tenant.spec.region) {
        return Reply::refusal(crate::http::status(StatusCode::FOUND), "302").with_header("location", &elsewhere);
    }
    match admitted(&cloud.tenant, ask, world.now()) {
        Ok(app) => invoke(world, ask, &app)
            .unwrap_or_else(|| failed(StatusCode::BAD_REQUEST, "", BINDING, "The body is not understood.")),
        Err(barred) => barred.into(),
    }
}

fn sent_on(ask: &Ask, region: Region) -> Option<String> {
    let elsewhere = ask.region.as_deref()?;
    let place = match region {
        Region::Here => return None,
        Region::Elsewhere => elsewhere.to_owned(),
        Region::Loop => ask.base.clone(),
        Region::Foreign if elsewhere.contains("//127.0.0.1:") => elsewhere.replace("127.0.0.1", "localhost"),
        Region::Foreign => elsewhere.replace("localhost", "127.0.0.1"),
    };
    Some(format!("{place}{}", ask.path_and_query()))
}

/// Why a caller may not come in (cloud.md 1.5).
enum Barred {
    /// Without a token, or without the application role in it.
    Unauthorized,
    /// With that role alone.
    Forbidden,
}

impl From<Barred> for Reply {
    fn from(barred: Barred) -> Self {
        let challenge = "Bearer client_id=\"00000002-0000-0ff1-ce00-000000000000\", trusted_issuers=\"00000001-0000-0000-c000-000000000000@*\"";
        match barred {
            Barred::Forbidden => nul_bytes(),
            Barred::Unauthorized => Self::refusal(crate::http::status(StatusCode::UNAUTHORIZED), "unauthorized")
                .with_request_id()
                .with_header("www-authenticate", challenge),
        }
    }
}

/// The application that calls, if it may.
fn admitted(tenant: &Tenant, ask: &Ask, now: DateTime<Utc>) -> Result<String, Barred> {
    let caller = ask.bearer().and_then(|token| tenant.caller(token, Resource::ExchangeOnline, now));
    let role = Permission::ExchangeManageAsApp.role().unwrap_or_default();
    let caller = caller.filter(|caller| caller.roles.contains(role)).ok_or(Barred::Unauthorized)?;
    let has_role = tenant.permissions.contains(&Permission::ExchangeAdministrator);
    if has_role { Ok(caller.app_id.to_string()) } else { Err(Barred::Forbidden) }
}

fn invoke(world: &mut World, ask: &Ask, app: &str) -> Option<Reply> {
    let Sent { cmdlet_input: Input { cmdlet_name, parameters } } = serde_json::from_slice(&ask.body).ok()?;
    let parameters: Map<_, _> = parameters.into_iter().filter(|(name, _)| !name.contains('@')).collect();
    let came = match cmdlet_name.to_ascii_lowercase().as_str() {
        "get-authserver" => read(world, Class::AuthServer, &parameters),
        "get-intraorganizationconnector" => read(world, Class::IntraOrganizationConnector, &parameters),
        "get-intraorganizationconfiguration" => read(world, Class::IntraOrganizationConfiguration, &parameters),
        "get-onpremisesorganization" => read(world, Class::OnPremisesOrganization, &parameters),
        "get-organizationrelationship" => read(world, Class::OrganizationRelationship, &parameters),
        "set-organizationrelationship" => set_relationship(world, &parameters, app),
        "test-oauthconnectivity" => test_connectivity(world, &parameters),
        // A name that is not known is answered like one that may not be run.
        _ => return Some(nul_bytes()),
    };
    Some(match came {
        Ok((values, warnings)) => page(ask, &values, &warnings, world.now()),
        Err(Failure(status, code, class, text)) => failed(status, code, class, &text),
    })
}

fn read(world: &World, class: Class, parameters: &Map<String, Value>) -> Came {
    let Some(cloud) = &world.cloud else { return Ok(Default::default()) };
    let name = text(parameters, "Identity").or_else(|| text(parameters, "OrganizationGuid"));
    let wanted = |thing: &&Thing| name.is_none_or(|name| thing.is_called(name));
    let found: Vec<_> = cloud.exchange_online.of(class).filter(wanted).map(shown).collect();
    match name {
        Some(name) if found.is_empty() => Err(not_found(name)),
        _ => Ok((found, Vec::new())),
    }
}

fn set_relationship(world: &mut World, parameters: &Map<String, Value>, by: &str) -> Came {
    let name = text(parameters, "Identity").ok_or_else(|| missing("Identity"))?.to_owned();
    let changes = parameters.iter().filter(|(key, _)| !["Identity", "Confirm", "Force"].contains(&key.as_str()));
    let changes: Map<_, _> = changes.map(|(key, value)| (key.clone(), value.clone())).collect();
    let cloud = world.cloud.as_mut();
    let thing = cloud.and_then(|cloud| cloud.exchange_online.find_mut(Class::OrganizationRelationship, &name));
    let thing = thing.ok_or_else(|| not_found(&name))?;
    let changed = thing.set(&changes).map_err(|property| {
        let message =
            format!("A parameter cannot be found that matches parameter name '{property}', or its value does not fit.");
        Failure(StatusCode::BAD_REQUEST, "BadRequest", BINDING, message)
    })?;
    let outcome = Outcome::of(changed);
    world.record_with(EffectKind::SetOrganizationRelationship, "Exchange Online", None, outcome, by, &name);
    let warning = format!("The command completed successfully but no settings of '{name}' have been modified.");
    Ok((Vec::new(), (!changed).then_some(warning).into_iter().collect()))
}

fn test_connectivity(world: &World, parameters: &Map<String, Value>) -> Came {
    let needed = |name| text(parameters, name).ok_or_else(|| missing(name));
    let (service, target, mailbox) = (needed("Service")?, needed("TargetUri")?, needed("Mailbox")?);
    let Some(cloud) = &world.cloud else { return Ok(Default::default()) };
    if !mailbox.to_ascii_lowercase().contains("@contoso.") {
        return Err(not_found(mailbox));
    }
    let question = Question { service, target, mailbox, reloads: true };
    let tested = connectivity::to_servers(cloud, world.servers(), &question, world.now());
    let node = json!({
        "Task": question.task(),
        "Detail": tested.detail,
        "ResultType": tested.verdict.name(),
        "Identity": "Microsoft.Exchange.Security.OAuth.ValidationResultNodeId",
        "IsValid": true,
        "ObjectState": "New",
    });
    Ok((vec![node], Vec::new()))
}

fn text<'a>(parameters: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.and_then(|(_, value)| value.as_str()).filter(|text| !text.is_empty())
}

fn not_found(name: &str) -> Failure {
    let text = format!(
        "The operation couldn't be performed because object '{name}' couldn't be found on 'AM0PR01DC001.EURPR01A001.prod.outlook.com'."
    );
    Failure(StatusCode::NOT_FOUND, "NotFound", NOT_FOUND, text)
}

fn missing(name: &str) -> Failure {
    let text = format!("Cannot process command because of one or more missing mandatory parameters: {name}.");
    Failure(StatusCode::BAD_REQUEST, "BadRequest", BINDING, text)
}

/// An object with the annotations that the service adds (cloud.md 1.3).
fn shown(thing: &Thing) -> Value {
    let mut object = Map::new();
    for (name, field) in &thing.fields {
        let (kind, value) = match field {
            Field::Address(url) if url.is_empty() => (None, Value::Null),
            Field::Address(url) => (None, json!(url)),
            Field::Flag(value) => (Some(("@data.type", "System.Boolean")), json!(value)),
            Field::Id(id) => (Some(("@odata.type", "#Guid")), json!(id)),
            Field::Text(text) => (None, json!(text)),
            Field::Texts(texts) => (Some(("@odata.type", "#Collection(String)")), json!(texts)),
        };
        object.extend(kind.map(|(suffix, kind)| (format!("{name}{suffix}"), json!(kind))));
        object.insert(name.clone(), value);
    }
    object.insert("Identity".to_owned(), json!(thing.name()));
    object.insert("IsValid@data.type".to_owned(), json!("System.Boolean"));
    object.insert("IsValid".to_owned(), json!(true));
    Value::Object(object)
}

/// The page that a caller asks for; the rest waits behind a link.
fn page(ask: &Ask, values: &[Value], warnings: &[String], now: DateTime<Utc>) -> Reply {
    let offset = match ask.query("$skiptoken").map(|token| skipped(&token, now)) {
        None => 0,
        Some(Some(offset)) => offset,
        Some(None) => {
            return failed(
                StatusCode::BAD_REQUEST,
                "",
                "Microsoft.Exchange.Admin.OData.Core.ODataServiceException",
                "The continuation token is invalid or has expired.",
            );
        }
    };
    let preferred = ask.header("prefer").and_then(|prefer| prefer.split("odata.maxpagesize=").nth(1));
    let size =
        preferred.and_then(|size| size.split([',', ';']).next()?.trim().parse().ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let rest = values.get(offset..).unwrap_or_default();
    let shown: Vec<_> = rest.iter().take(size).map(|value| selected(ask, value)).collect();
    let context = format!("{}{}/$metadata#Collection(Exchange.GenericHashTable)", ask.base, parent(&ask.path));
    let mut told = json!({
        "@odata.context": context,
        "adminapi.warnings@odata.type": "#Collection(String)",
        "@adminapi.warnings": warnings,
        "value": shown,
    });
    if rest.len() > size {
        let token = URL_SAFE_NO_PAD.encode(format!("{} {}", offset + size, (now + LINK).timestamp()));
        told["@odata.nextLink"] = format!("{}{}?$skiptoken={token}", ask.base, ask.path).into();
    }
    let text = serde_json::to_vec(&told).unwrap_or_default();
    let answer = with_body(StatusCode::OK, JSON, text.into());
    Reply::of(answer)
        .with_request_id()
        .with_header("rate-limit-limit", "30000")
        .with_header("rate-limit-remaining", "29999")
        .with_header("rate-limit-reset", &(now + TimeDelta::minutes(5)).to_rfc3339_opts(SecondsFormat::Millis, true))
        .with_header("preference-applied", "odata.include-annotations=\"*\"")
        .with_header("x-exchangeversion", "15.20.9999.999")
        .with_header("strict-transport-security", "max-age=31536000; includeSubDomains; preload")
}

fn skipped(token: &str, now: DateTime<Utc>) -> Option<usize> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (offset, until) = text.split_once(' ')?;
    (until.parse::<i64>().ok()? >= now.timestamp()).then(|| offset.parse().ok())?
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(parent, _)| parent)
}

fn selected(ask: &Ask, value: &Value) -> Value {
    let (Some(select), Value::Object(fields)) = (ask.query("$select"), value) else { return value.clone() };
    let wanted: Vec<_> = select.split(',').map(str::trim).collect();
    let meant = |name: &str| wanted.contains(&name.split('@').next().unwrap_or(name));
    Value::Object(
        fields.iter().filter(|(name, _)| meant(name)).map(|(name, value)| (name.clone(), value.clone())).collect(),
    )
}

/// The error of a cmdlet (cloud.md 1.4). What it was is in `details`, by its .NET class.
pub(super) fn failed(status: StatusCode, code: &str, class: &str, text: &str) -> Reply {
    let code = match code {
        "" if status == StatusCode::NOT_FOUND => "NotFound",
        "" if status == StatusCode::BAD_REQUEST => "BadRequest",
        "" => "InternalServerError",
        code => code,
    };
    let told = json!({
        "error": {
            "code": code,
            "message": "Error executing cmdlet",
            "details": [{ "code": "Client", "target": "", "message": format!("Ex6F9304|{class}|{text}") }],
            "innererror": {
                "message": "Error executing cmdlet",
                "type": "Microsoft.Exchange.Admin.OData.Core.ODataServiceException",
                "stacktrace": "   at Microsoft.Exchange.AdminApi.CommandInvocation.CommandInvocation.InvokeCommand(QueryContext queryContext)",
                "internalexception": {
                    "message": "Exception of type 'Microsoft.Exchange.Management.PSDirectInvoke.DirectInvokeCmdletExecutionException' was thrown.",
                    "type": "Microsoft.Exchange.Management.PSDirectInvoke.DirectInvokeCmdletExecutionException",
                    "stacktrace": "",
                },
            },
        }
    });
    let body = serde_json::to_vec(&told).unwrap_or_default();
    let name = class.rsplit('.').next().unwrap_or(class);
    Reply::refusal(with_body(status, JSON, body.into()), name).with_request_id()
}

/// What a caller without a role hears: nothing that could be read, and it claims to be packed (cloud.md 1.4).
pub(super) fn nul_bytes() -> Reply {
    let answer = with_body(StatusCode::FORBIDDEN, JSON, Bytes::from_static(&[0; 64]));
    Reply::refusal(answer, "forbidden")
        .with_request_id()
        .with_header("content-encoding", "gzip")
        .with_header("x-ms-diagnostics", "2000008;reason=\"The role assigned to application isn't supported in this scenario.\";error_category=\"invalid_grant\"")
}

/// Throttled, or not there for a while.
pub(super) fn unavailable(status: StatusCode) -> Reply {
    let class = match status {
        StatusCode::TOO_MANY_REQUESTS => "Microsoft.Exchange.Data.Storage.ServerBusyException",
        _ => "Microsoft.Exchange.Data.Storage.StorageTransientException",
    };
    failed(status, "", class, "The service is too busy to answer now.")
}

const JSON: &str = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8";
