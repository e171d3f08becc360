//! The OpenAPI document, and what holds for every operation in it.

use expect_test::expect_file;
use reqwest::Method;
use serde_json::Value;

use crate::support::{Answer, Service};

#[test]
fn the_committed_openapi_document_is_current() {
    expect_file!["../../openapi/v1.json"].assert_eq(&format!("{}\n", api::openapi().to_pretty_json().unwrap()));
}

#[test]
fn the_committed_document_for_importers_is_current_and_simple() {
    let document = api::openapi_3_0();
    expect_file!["../../openapi/v1-3.0.json"]
        .assert_eq(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap()));
    assert_simple(&document, "");
    for reference in references(&document) {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} leads nowhere");
    }
    assert!(document["paths"].as_object().unwrap().len() >= 10, "{:#}", document["paths"]);
}

/// Nothing that OpenAPI 3.0 or ServiceNow's importer does not know.
fn assert_simple(value: &Value, place: &str) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let known = !["oneOf", "anyOf", "allOf", "const", "examples"].contains(&name.as_str());
                assert!(known, "{place}/{name}");
                assert!(name != "type" || !member.is_array(), "{place}/{name}");
                if name != "example" {
                    assert_simple(member, &format!("{place}/{name}"));
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| assert_simple(item, place)),
        _ => {}
    }
}

#[test]
fn an_independent_reader_finds_both_documents_valid() {
    for file in ["v1.json", "v1-3.0.json"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi").join(file);
        let (valid, told) = peers::run(validate(&path), "");
        assert!(valid, "{file}: {told}");
    }
}

fn validate(document: &std::path::Path) -> std::process::Command {
    let mut program = peers::python("validate_openapi.py");
    program.arg(document);
    program
}

/// Every operation under `/v1`, with ids that name nothing.
fn operations() -> Vec<(Method, String)> {
    let document: Value = serde_json::to_value(api::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap().clone();
    let operations = paths.iter().flat_map(|(path, item)| {
        let id = if path.contains("organizations") { "contoso" } else { "019361b2-7f3a-7c61-9a55-0c7be3b0f4d1" };
        let path = path.replace("{id}", id);
        let methods =
            item.as_object().unwrap().keys().map(|m| m.to_uppercase().parse().unwrap()).collect::<Vec<Method>>();
        methods.into_iter().map(move |method| (method, path.clone()))
    });
    // Hooks take signatures too, and say nothing of sources to anybody: hooks.rs.
    operations.filter(|(_, path)| path.starts_with("/v1/") && !path.starts_with("/v1/hooks/")).collect()
}

#[tokio::test]
async fn no_operation_answers_without_a_token() {
    let service = Service::start().await;
    assert!(operations().len() > 2);
    for (method, path) in operations() {
        let answer = Answer::of(service.anonymous(method.clone(), &path).send().await.unwrap()).await;
        let problem = answer.problem(401, "unauthenticated");
        assert!(problem["detail"].as_str().unwrap().contains("carries no token"), "{method} {path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"rekey\"");
    }
    service.stop().await;
}

#[test]
fn every_operation_asks_for_a_bearer_token_and_documents_its_problems() {
    let document: Value = serde_json::to_value(api::openapi()).unwrap();
    assert_eq!(document["openapi"].as_str().unwrap().split('.').take(2).collect::<Vec<_>>(), ["3", "1"]);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let protected = operation["security"][0].get("bearer").is_some();
            assert_eq!(protected, path.starts_with("/v1/"), "{method} {path}");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/ProblemDetails", "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert!(operation["tags"][0].is_string(), "{method} {path} has no tag");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{method} {path} {status} is not described");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swagger_ui_and_the_document_are_served() {
    let service = Service::start().await;
    let document = Answer::of(service.anonymous(Method::GET, "/openapi.json").send().await.unwrap()).await.expect(200);
    assert_eq!(document, serde_json::to_value(api::openapi()).unwrap());
    for path in ["/swagger-ui/", "/swagger-ui"] {
        let page = Answer::of(service.anonymous(Method::GET, path).send().await.unwrap()).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.text.contains("swagger-ui"), "{path}: {}", page.text);
    }
    service.stop().await;
}

/// Every `$ref` in a value.
fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(members) => {
            let here = members.get("$ref").and_then(Value::as_str);
            here.into_iter().chain(members.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    for reference in references(&document) {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

/// Where an example is missing in a schema: each has one itself, or every value in it has one or speaks for itself.
fn without_example(schema: &Value, place: &str) -> Vec<String> {
    let shown = |name: &str| schema.get(name).is_some();
    let speaks = ["example", "examples", "$ref", "enum"].iter().any(|name| shown(name));
    if speaks || schema["type"] == "boolean" || schema["type"] == "null" {
        return Vec::new();
    }
    let variants = ["oneOf", "allOf", "anyOf"].iter().filter_map(|name| schema[name].as_array()).flatten();
    let mut parts: Vec<(String, &Value)> = variants.map(|part| (place.to_owned(), part)).collect();
    if let Some(properties) = schema["properties"].as_object() {
        parts.extend(properties.iter().map(|(name, part)| (format!("{place}/{name}"), part)));
    }
    if schema["type"] == "array" {
        parts.push((format!("{place}[]"), &schema["items"]));
    }
    if parts.is_empty() {
        return vec![place.to_owned()];
    }
    parts.iter().flat_map(|(place, part)| without_example(part, place)).collect()
}

#[test]
fn every_schema_has_an_example() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let missing: Vec<_> = schemas.iter().flat_map(|(name, schema)| without_example(schema, name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn examples_are_what_the_service_would_send_or_take() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let example = |name: &str| document["components"]["schemas"][name]["examples"][0].clone();
    let plan: domain::Plan = serde_json::from_value(example("Plan")).unwrap();
    let renewal: domain::Renewal = serde_json::from_value(example("Renewal")).unwrap();
    assert_eq!(renewal.plan_digest, Some(plan.digest()));
    let request: domain::Request = serde_json::from_value(example("Request")).unwrap();
    assert!(request.faults().is_empty());
}
