//! The part of the document that ticket systems call, as OpenAPI 3.0.3: ServiceNow's importer takes no later version, and no `oneOf`, `const` or
//! lists of types (itsm.md 5.4).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// What ticket systems and orchestration tools call.
const PATHS: [&str; 10] = [
    "/v1/hooks/servicenow/{source}",
    "/v1/hooks/jira/{source}",
    "/v1/hooks/generic/{source}",
    "/v1/renewals",
    "/v1/renewals/from-servicenow",
    "/v1/renewals/{id}",
    "/v1/renewals/{id}/decisions",
    "/v1/renewals/{id}/cancel",
    "/v1/renewals/{id}/pause",
    "/v1/renewals/{id}/resume",
];

/// The OpenAPI 3.0.3 document of what ticket systems call.
#[must_use]
pub fn openapi_3_0() -> Value {
    let whole = serde_json::to_value(super::openapi()).expect("the document is JSON");
    let mut paths = Map::new();
    for path in PATHS {
        let Some(item) = whole["paths"].get(path) else { continue };
        paths.insert(path.to_owned(), simplified(item, &whole));
    }
    let mut paths = Value::Object(paths);
    only_json(&mut paths);
    let schemas = reachable(&paths, &whole);
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": whole["info"]["title"],
            "version": whole["info"]["version"],
            "description": "What ticket systems call of rekey, in the words of OpenAPI 3.0. The whole API: /openapi.json",
            "license": { "name": whole["info"]["license"]["name"] }
        },
        "servers": whole["servers"],
        "tags": whole["tags"],
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": whole["components"]["securitySchemes"] }
    })
}

/// Streams and the like are not for importers.
fn only_json(paths: &mut Value) {
    let operations = paths.as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in operations.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        let responses = operation["responses"].as_object_mut();
        for content in responses.into_iter().flat_map(Map::values_mut).filter_map(|one| one.get_mut("content")) {
            if let Some(content) = content.as_object_mut() {
                content.retain(|kind, _| kind.ends_with("json"));
            }
        }
    }
}

/// The schemas that something refers to, simplified.
fn reachable(from: &Value, whole: &Value) -> Map<String, Value> {
    let mut wanted: Vec<String> = references(from);
    let (mut seen, mut schemas) = (BTreeSet::new(), Map::new());
    while let Some(name) = wanted.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let schema = simplified(&whole["components"]["schemas"][&name], whole);
        wanted.extend(references(&schema));
        schemas.insert(name, schema);
    }
    schemas
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => {
            let here = members.get("$ref").and_then(Value::as_str).and_then(|text| text.rsplit('/').next());
            here.map(str::to_owned).into_iter().chain(members.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// A value of the document in simpler words. Examples stay as they are.
fn simplified(value: &Value, whole: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| simplified(item, whole)).collect(),
        Value::Object(members) => simpler(members, whole),
        other => other.clone(),
    }
}

fn simpler(members: &Map<String, Value>, whole: &Value) -> Value {
    // Nothing may stand beside a reference in 3.0.
    if let Some(reference) = members.get("$ref") {
        return json!({ "$ref": reference });
    }
    let chosen = ["oneOf", "anyOf", "allOf"].iter().find_map(|word| Some((*word, members.get(*word)?.as_array()?)));
    if let Some((word, variants)) = chosen {
        return joined(members, variants, word == "allOf", whole);
    }
    let mut simple = Map::new();
    for (name, member) in members {
        match (name.as_str(), member) {
            ("example", example) => drop(simple.insert("example".to_owned(), example.clone())),
            ("examples", Value::Array(examples)) => {
                simple.extend(examples.first().map(|example| ("example".to_owned(), example.clone())));
            }
            ("const", only) => drop(simple.insert("enum".to_owned(), json!([only]))),
            ("type", Value::Array(types)) => {
                let named = types.iter().find(|one| *one != "null").cloned();
                simple.extend(named.map(|named| ("type".to_owned(), named)));
                if types.iter().any(|one| one == "null") {
                    simple.insert("nullable".to_owned(), Value::Bool(true));
                }
            }
            ("propertyNames", _) => {}
            _ => drop(simple.insert(name.clone(), simplified(member, whole))),
        }
    }
    Value::Object(simple)
}

/// One object with what any of the variants has; what not every variant has may be left out, unless all of them hold at the same time.
fn joined(members: &Map<String, Value>, variants: &[Value], all: bool, whole: &Value) -> Value {
    let described = |mut schema: Value| {
        if let (Some(schema), Some(description)) = (schema.as_object_mut(), members.get("description")) {
            schema.entry("description").or_insert_with(|| description.clone());
        }
        schema
    };
    let real: Vec<&Value> = variants.iter().filter(|variant| variant["type"] != "null").collect();
    if let [only] = real.as_slice() {
        let mut schema = simplified(only, whole);
        if real.len() < variants.len() && schema.get("$ref").is_none() {
            schema["nullable"] = Value::Bool(true);
        }
        return if schema.get("$ref").is_some() { schema } else { described(schema) };
    }
    let parts: Vec<Value> = real.iter().map(|part| simplified(&resolved(part, whole), whole)).collect();
    if parts.iter().all(|part| part["type"] == "string") {
        let words: Vec<Value> = parts.iter().filter_map(|part| part["enum"].as_array()).flatten().cloned().collect();
        return described(json!({ "type": "string", "enum": words }));
    }
    let (mut properties, mut required) = (Map::new(), None::<BTreeSet<String>>);
    for part in &parts {
        for (name, schema) in part["properties"].as_object().into_iter().flatten() {
            merge(properties.entry(name.clone()).or_insert_with(|| schema.clone()), schema);
        }
        let names = part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        let names: BTreeSet<String> = names.collect();
        required = Some(match required {
            None => names,
            Some(before) if all => &before | &names,
            Some(before) => &before & &names,
        });
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if let Some(required) = required.filter(|required| !required.is_empty()) {
        schema["required"] = json!(required);
    }
    if let Some(example) = members.get("examples").and_then(|all| all.get(0)).or_else(|| members.get("example")) {
        schema["example"] = example.clone();
    }
    described(schema)
}

/// The words that a property may have in any of the variants.
fn merge(into: &mut Value, other: &Value) {
    let Some(words) = into.get_mut("enum").and_then(Value::as_array_mut) else { return };
    for word in other["enum"].as_array().into_iter().flatten() {
        if !words.contains(word) {
            words.push(word.clone());
        }
    }
}

fn resolved(schema: &Value, whole: &Value) -> Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.rsplit('/').next());
    name.map_or_else(|| schema.clone(), |name| whole["components"]["schemas"][name].clone())
}
