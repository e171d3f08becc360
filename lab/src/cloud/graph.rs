//! Microsoft Graph, as far as keys of applications and principals need it (cloud.md 2).

use chrono::{DateTime, Utc};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ask, Reply};
use crate::{
    hybrid::Cloud,
    organization::Permission,
    tenant::{Caller, DirectoryObject, GraphError, ObjectKind, Resource, Shown, Tenant},
    world::World,
};

pub(super) fn answer(world: &mut World, ask: &Ask) -> Reply {
    match route(world, ask) {
        Ok(reply) => traced(ask, reply),
        Err(error) => refused(ask, &error, world.now()),
    }
}

pub(super) fn refused(ask: &Ask, error: &GraphError, now: DateTime<Utc>) -> Reply {
    let request = Uuid::new_v4();
    let client = ask.header("client-request-id").map_or_else(|| request.to_string(), str::to_owned);
    let date = now.format("%Y-%m-%dT%H:%M:%S").to_string();
    let mut told = json!({
        "code": error.code,
        "message": error.message,
        "innerError": { "date": date, "request-id": request, "client-request-id": client },
    });
    if !error.details.is_null() {
        told["details"] = error.details.clone();
    }
    let answer = crate::http::json(super::status_of(error.status), &json!({ "error": told }));
    let reply = traced(ask, Reply::refusal(answer, error.code.as_str()));
    match error.retry_after {
        Some(seconds) => reply.with_header("retry-after", &seconds.to_string()),
        None => reply,
    }
}

fn traced(ask: &Ask, reply: Reply) -> Reply {
    let reply = reply.with_request_id();
    match ask.header("client-request-id") {
        Some(id) => reply.with_header("client-request-id", id),
        None => reply,
    }
}

/// What a path names.
enum Named {
    /// All of a kind.
    All(ObjectKind),
    /// One, and what of it.
    One(usize, String),
    DefaultPolicy,
}

fn route(world: &mut World, ask: &Ask) -> Result<Reply, GraphError> {
    let now = world.now();
    let tenant = tenant(world)?;
    let token = ask.bearer().ok_or_else(|| GraphError::unauthorized("Access token is empty."))?;
    let caller = tenant.caller(token, Resource::Graph, now);
    let caller = caller.ok_or_else(|| GraphError::unauthorized("Access token validation failure."))?;
    match (ask.method.clone(), named(tenant, &decoded(&ask.path))?) {
        (Method::GET, Named::All(kind)) => list(world, ask, &caller, kind),
        (Method::GET, Named::One(object, rest)) if rest.is_empty() => show(world, ask, &caller, object),
        (Method::GET, Named::One(object, rest)) if rest == "appManagementPolicies" => {
            permitted(&caller, &[Permission::PolicyReadAll])?;
            Ok(Reply::json(StatusCode::OK, &json!({ "value": tenant.assigned_policies(object) })))
        }
        (Method::GET, Named::DefaultPolicy) => {
            permitted(&caller, &[Permission::PolicyReadAll])?;
            Ok(Reply::json(StatusCode::OK, &tenant.default_policy()))
        }
        (Method::PATCH, Named::One(object, rest)) if rest.is_empty() => patch(world, ask, &caller, object),
        (Method::POST, Named::One(object, rest)) if rest == "addKey" => add_key(world, ask, &caller, object),
        (Method::POST, Named::One(object, rest)) if rest == "removeKey" => remove_key(world, ask, &caller, object),
        (_, Named::One(_, rest)) if !rest.is_empty() => {
            Err(GraphError::bad_request(format!("Resource not found for the segment '{rest}'.")))
        }
        _ => Err(GraphError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "Request_BadRequest",
            "Specified HTTP method is not allowed for the request target.",
        )),
    }
}

fn tenant(world: &World) -> Result<&Tenant, GraphError> {
    world.cloud.as_ref().map(|Cloud { tenant, .. }| tenant).ok_or_else(|| GraphError::not_found("tenant"))
}

fn decoded(path: &str) -> String {
    let path = format!("p={path}");
    form_urlencoded::parse(path.as_bytes()).next().map(|(_, path)| path.into_owned()).unwrap_or_default()
}

fn named(tenant: &Tenant, path: &str) -> Result<Named, GraphError> {
    let path = path.trim_start_matches('/').split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
    if path.eq_ignore_ascii_case("policies/defaultAppManagementPolicy") {
        return Ok(Named::DefaultPolicy);
    }
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let kinds = [ObjectKind::Application, ObjectKind::ServicePrincipal];
    let kind_of = |name: &str| kinds.into_iter().find(|kind| kind.collection().eq_ignore_ascii_case(name));
    let unknown = || GraphError::bad_request(format!("Resource not found for the segment '{first}'."));
    if let Some(kind) = kind_of(first) {
        let (id, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if id.is_empty() {
            return Ok(Named::All(kind));
        }
        let found = Uuid::parse_str(id).ok().and_then(|id| tenant.find(kind, id));
        return found.map(|object| Named::One(object, rest.to_owned())).ok_or_else(|| GraphError::not_found(id));
    }
    let (name, key) = first.split_once("(appId=").ok_or_else(unknown)?;
    let kind = kind_of(name).ok_or_else(unknown)?;
    let id = key.trim_end_matches(')').trim_matches('\'');
    let found = Uuid::parse_str(id).ok().and_then(|id| tenant.find_app(kind, id));
    found.map(|object| Named::One(object, rest.to_owned())).ok_or_else(|| GraphError::not_found(id))
}

fn permitted(caller: &Caller, any: &[Permission]) -> Result<(), GraphError> {
    let has = |permission: &Permission| permission.role().is_some_and(|role| caller.roles.contains(role));
    if any.iter().any(has) { Ok(()) } else { Err(GraphError::denied()) }
}

const READERS: &[Permission] = &[Permission::ApplicationReadWriteOwnedBy, Permission::ApplicationReadWriteAll];

fn list(world: &mut World, ask: &Ask, caller: &Caller, kind: ObjectKind) -> Result<Reply, GraphError> {
    permitted(caller, READERS)?;
    let wanted = ask.query("$filter").map(|filter| Filter::parse(&filter)).transpose()?;
    let (view, now) = (ask.view(world), world.now());
    let tenant = tenant(world)?;
    let of_kind = tenant.objects().iter().enumerate().filter(|(_, object)| object.kind == kind);
    let meant = of_kind.filter(|(_, object)| wanted.as_ref().is_none_or(|filter| filter.takes(object)));
    let shown = |(index, object): (usize, &DirectoryObject)| {
        selected(ask, object.json(tenant.keys(index, view, now), Shown::WithoutKey))
    };
    let value: Vec<_> = meant.map(shown).collect();
    let context = format!("{}/v1.0/$metadata#{}", ask.base, kind.collection());
    Ok(Reply::json(StatusCode::OK, &json!({ "@odata.context": context, "value": value })))
}

/// The keys themselves are told only to who selects them (cloud.md 2.1).
fn show(world: &mut World, ask: &Ask, caller: &Caller, object: usize) -> Result<Reply, GraphError> {
    permitted(caller, READERS)?;
    let (view, now) = (ask.view(world), world.now());
    let tenant = tenant(world)?;
    let chosen =
        ask.query("$select").is_some_and(|select| select.split(',').any(|name| name.trim() == "keyCredentials"));
    let shown = if chosen { Shown::WithKey } else { Shown::WithoutKey };
    let object_read = &tenant.objects()[object];
    let mut told = selected(ask, object_read.json(tenant.keys(object, view, now), shown));
    told["@odata.context"] = format!("{}/v1.0/$metadata#{}/$entity", ask.base, object_read.kind.collection()).into();
    Ok(Reply::json(StatusCode::OK, &told))
}

fn selected(ask: &Ask, mut object: Value) -> Value {
    let Some(select) = ask.query("$select") else { return object };
    if let Value::Object(fields) = &mut object {
        let wanted: Vec<_> = select.split(',').map(str::trim).collect();
        fields.retain(|name, _| wanted.contains(&name.as_str()));
    }
    object
}

fn patch(world: &mut World, ask: &Ask, caller: &Caller, object: usize) -> Result<Reply, GraphError> {
    writable(world, caller, object)?;
    let Value::Object(fields) = read(ask)? else { return Err(GraphError::bad_request("The body must be an object.")) };
    let known = |name: &&String| ["@odata.type", "keyCredentials"].contains(&name.as_str());
    if let Some(other) = fields.keys().find(|name| !known(name)) {
        return Err(GraphError::bad_request(format!("The lab writes keyCredentials only, not '{other}'.")));
    }
    let keys = fields.get("keyCredentials").ok_or_else(|| GraphError::bad_request("There is nothing to update."))?;
    world.replace_cloud_keys(object, keys, &caller.app_id.to_string())?;
    Ok(Reply::of(crate::http::status(StatusCode::NO_CONTENT)))
}

fn add_key(world: &mut World, ask: &Ask, caller: &Caller, object: usize) -> Result<Reply, GraphError> {
    writable(world, caller, object)?;
    let body = read(ask)?;
    let key = world.add_cloud_key(object, &body["keyCredential"], text(&body, "proof")?, &caller.app_id.to_string())?;
    let mut told = key.json(Shown::WithoutKey);
    told["@odata.context"] = format!("{}/v1.0/$metadata#microsoft.graph.keyCredential", ask.base).into();
    Ok(Reply::json(StatusCode::OK, &told))
}

fn remove_key(world: &mut World, ask: &Ask, caller: &Caller, object: usize) -> Result<Reply, GraphError> {
    writable(world, caller, object)?;
    let body = read(ask)?;
    let key = Uuid::parse_str(text(&body, "keyId")?).map_err(|_| GraphError::bad_request("keyId is no GUID."))?;
    world.remove_cloud_key(object, key, text(&body, "proof")?, &caller.app_id.to_string())?;
    Ok(Reply::of(crate::http::status(StatusCode::NO_CONTENT)))
}

/// An application may always roll its own keys, as far as it can prove that it holds one (cloud.md 2.3).
fn writable(world: &World, caller: &Caller, object: usize) -> Result<(), GraphError> {
    let tenant = tenant(world)?;
    let own = tenant.objects()[object].app_id == caller.app_id;
    if own || tenant.may_write(&caller.roles, object) { Ok(()) } else { Err(GraphError::denied()) }
}

fn read(ask: &Ask) -> Result<Value, GraphError> {
    serde_json::from_slice(&ask.body).map_err(|_| GraphError::bad_request("Unable to read JSON request payload."))
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, GraphError> {
    body[name].as_str().ok_or_else(|| GraphError::bad_request(format!("{name} is missing.")))
}

/// The few filters that clients of keys need.
enum Filter {
    AppId(String),
    Name(String),
    NameStart(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, GraphError> {
        let unsupported = || {
            GraphError::new(StatusCode::BAD_REQUEST, "Request_UnsupportedQuery", format!("Unsupported Query: {text}"))
        };
        let quoted = |text: &str| Some(text.trim().strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'"));
        let start = text.strip_prefix("startswith(displayName,").and_then(|rest| rest.strip_suffix(')'));
        if let Some(start) = start {
            return quoted(start).map(Self::NameStart).ok_or_else(unsupported);
        }
        let (name, value) = text.split_once(" eq ").ok_or_else(unsupported)?;
        let value = quoted(value).ok_or_else(unsupported)?;
        match name.trim() {
            "appId" => Ok(Self::AppId(value)),
            "displayName" => Ok(Self::Name(value)),
            _ => Err(unsupported()),
        }
    }

    fn takes(&self, object: &DirectoryObject) -> bool {
        match self {
            Self::AppId(id) => object.app_id.to_string().eq_ignore_ascii_case(id),
            Self::Name(name) => object.display_name.eq_ignore_ascii_case(name),
            Self::NameStart(start) => object.display_name.to_lowercase().starts_with(&start.to_lowercase()),
        }
    }
}
