//! The OpenAPI document: what the routes say of themselves, and what holds for all of them.

mod importable;

use std::sync::LazyLock;

use actix_web::{App, web::Bytes};
use serde_json::Value;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{
        Components, ContentBuilder, Ref, RefOr, Response, ResponseBuilder, Schema,
        path::Operation,
        schema::ArrayItems,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_actix_web::AppExt;

pub use importable::openapi_3_0;

use crate::{
    examples::examples,
    problem::{FieldError, ProblemDetails},
    renewals::Status,
    routes,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "rekey",
        description = "Renews the Exchange Server OAuth (\"Auth\") certificate as a change: plan, approval of exactly that plan, execution without a gap in trust, evidence.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "This service")),
    tags(
        (name = "renewals", description = "Raise a renewal and follow it"),
        (name = "decisions", description = "Decide on exactly what was planned"),
        (name = "control", description = "Hold, let go, stop, take back"),
        (name = "hooks", description = "What ticket systems send by themselves"),
        (name = "organizations", description = "What is configured, and what was seen of it"),
        (name = "audit", description = "Who did what"),
        (name = "outbox", description = "Messages to ticket systems, mail, chats and webhooks"),
        (name = "service", description = "The service itself")
    )
)]
struct Head;

/// Where the document is served.
pub(crate) const PATH: &str = "/openapi.json";

/// The document as it is served: made once, when somebody first asks for it.
pub(crate) static JSON: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&openapi()).expect("the document is JSON").into());

/// The OpenAPI 3.1 document of every route.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) =
        App::new().into_utoipa_app().openapi(Head::openapi()).configure(|config| routes(config)).split_for_parts();
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(ProblemDetails::name().into_owned(), ProblemDetails::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    components.schemas.insert(Status::name().into_owned(), Status::schema());
    for (name, example) in examples() {
        components.schemas.entry(name.to_owned()).and_modify(|schema| show(schema, example));
    }
    for (name, schema) in &mut components.schemas {
        refer_to_items(name, schema);
    }
    for (name, scheme) in credentials() {
        components.security_schemes.insert(name.to_owned(), RefOr::T(scheme));
    }
    components.security_schemes.insert("signature".to_owned(), RefOr::T(signature()));
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            complete(operation, path);
        }
    }
    document
}

fn show(schema: &mut RefOr<Schema>, example: Value) {
    match schema {
        RefOr::T(Schema::Object(object)) => object.examples = vec![example],
        RefOr::T(Schema::OneOf(variants)) => variants.examples = vec![example],
        RefOr::T(Schema::AllOf(parts)) => parts.examples = vec![example],
        _ => {}
    }
}

/// `List_Step` and its like would repeat the schema of a step.
fn refer_to_items(name: &str, schema: &mut RefOr<Schema>) {
    let Some(item) = name.strip_prefix("List_").or_else(|| name.strip_prefix("Page_")) else { return };
    let RefOr::T(Schema::Object(list)) = schema else { return };
    if let Some(RefOr::T(Schema::Array(items))) = list.properties.get_mut("items") {
        items.items = ArrayItems::RefOrSchema(Box::new(RefOr::Ref(Ref::from_schema_name(item))));
    }
}

/// What a request may carry. A client certificate is not listed: it is the business of the proxy.
fn credentials() -> [(&'static str, SecurityScheme); 3] {
    let bearer = "A token minted by `rekey token`, a token of a configured OpenID Connect issuer, or an API key. Paste it without the word Bearer.";
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(bearer));
    let basic = "Name and password of a sender that the configuration names, over HTTPS.";
    let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some(basic));
    let key = ApiKeyValue::with_description("X-API-Key", "An API key, as `POST /v1/api-keys` answers it.");
    [
        ("bearer", SecurityScheme::Http(bearer.build())),
        ("api_key", SecurityScheme::ApiKey(ApiKey::Header(key))),
        ("basic", SecurityScheme::Http(basic.build())),
    ]
}

fn signature() -> SecurityScheme {
    let about =
        "Standard Webhooks 1.0 (webhook-id, webhook-timestamp and webhook-signature); from Jira X-Hub-Signature.";
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("webhook-signature", about)))
}

/// Adds what holds for every operation: its errors, and the credentials that it takes.
fn complete(operation: &mut Operation, path: &str) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if status.starts_with(['4', '5']) {
            response.content = problem("").content;
        }
        // OpenAPI wants a description of every response.
        if response.description.is_empty() {
            response.description = "What was asked for".to_owned();
        }
    }
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem("Any other problem (RFC 9457)")));
    if path.starts_with("/v1/") {
        let any = ["bearer", "api_key", "basic"].map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
        operation.security = Some(any.into());
        let unauthenticated = problem("The credential is missing or not valid; `detail` says why");
        operation.responses.responses.insert("401".to_owned(), RefOr::T(unauthenticated));
        let limited = problem(
            "Too many requests of this credential, or too many failed ones of this address: wait as `Retry-After` says",
        );
        operation.responses.responses.insert("429".to_owned(), RefOr::T(limited));
    }
    if path.starts_with("/v1/hooks/") {
        let signed = SecurityRequirement::new("signature", Vec::<String>::new());
        operation.security.get_or_insert_default().push(signed);
        let refused = problem("The signature or the credential is missing or not valid; `detail` says why");
        operation.responses.responses.insert("401".to_owned(), RefOr::T(refused));
    }
}

fn problem(about: &str) -> Response {
    let schema = Ref::from_schema_name(ProblemDetails::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(about).content("application/problem+json", content).build()
}
