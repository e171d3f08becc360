//! rekey's HTTP API: one route list, one file per noun, one error type.
//!
//! Handlers extract, call a transaction of `db`, and map the answer: what may happen is decided in `domain`, in the same transaction as the change.

#![expect(
    unused_qualifications,
    reason = "utoipa's path macro writes qualified names and gives them the spans of ours"
)]

mod api_keys;
mod audit;
mod caller;
mod certificate;
mod certificates;
mod control;
mod credentials;
mod decisions;
mod deliveries;
mod document;
mod events;
mod evidence;
mod examples;
mod frame;
mod health;
mod hooks;
mod idempotency;
mod identity;
mod input;
mod limits;
mod organizations;
mod outbox;
mod page;
mod plans;
mod problem;
mod refusals;
mod renewals;
mod reviews;
mod runbook;
mod servicenow;
mod state;
mod steps;
mod tokens;

use std::{collections::BTreeSet, sync::LazyLock};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::{HttpServiceFactory, ResourceDef, Server},
    guard,
    http::header::ContentType,
    middleware::from_fn,
    web::{self, Data},
};
use tokio_util::sync::CancellationToken;
use utoipa_actix_web::{OpenApiFactory, service_config::ServiceConfig as Described};
use utoipa_swagger_ui::{Config, SwaggerUi};

pub use caller::Grants;
pub use credentials::{
    BasicUser, CertifiedUser, Claim, Identity, IdentityError, Issuer, Pace, Proxy, SignatureAlgorithm,
};
pub use document::{openapi, openapi_3_0};
pub use hooks::source::{Accept, Source, SourceError};
pub use ipnet::IpNet;
pub use limits::Limits;
pub(crate) use problem::Problem;
pub use state::State;
pub use tokens::{Claims, Role, TokenError, Tokens, UnknownRole};

/// What takes routes: those who serve them, and the document. To describe them takes many times the memory that serving them does, and every server thread
/// would do it.
trait Routes {
    fn service(&mut self, route: impl HttpServiceFactory + OpenApiFactory + 'static) -> &mut Self;
}

impl Routes for web::ServiceConfig {
    fn service(&mut self, route: impl HttpServiceFactory + OpenApiFactory + 'static) -> &mut Self {
        Self::service(self, route)
    }
}

impl Routes for Described<'_> {
    fn service(&mut self, route: impl HttpServiceFactory + OpenApiFactory + 'static) -> &mut Self {
        Self::service(self, route)
    }
}

/// Every route: what is served and what the document describes.
fn routes(config: &mut impl Routes) {
    config
        .service(renewals::create_renewal)
        .service(renewals::list_renewals)
        .service(servicenow::create_renewal_from_servicenow)
        .service(renewals::show_renewal)
        .service(plans::show_plan)
        .service(plans::show_runbook)
        .service(certificate::show_certificate)
        .service(steps::list_steps)
        .service(decisions::list_decisions)
        .service(decisions::create_decision)
        .service(reviews::list_reviews)
        .service(reviews::review_broken_gate)
        .service(audit::list_renewal_audit)
        .service(events::follow_renewal)
        .service(evidence::show_evidence)
        .service(control::cancel_renewal)
        .service(control::pause_renewal)
        .service(control::resume_renewal)
        .service(control::retry_renewal)
        .service(control::replan_renewal)
        .service(control::skip_steps)
        .service(control::roll_back_renewal)
        .service(organizations::list_organizations)
        .service(organizations::show_organization)
        .service(organizations::list_servers)
        .service(organizations::list_certificates)
        .service(organizations::show_auth_config)
        .service(organizations::show_hybrid)
        .service(organizations::show_policy)
        .service(hooks::receive_from_servicenow)
        .service(hooks::receive_from_jira)
        .service(hooks::receive_from_anybody)
        .service(deliveries::list_deliveries)
        .service(deliveries::show_delivery)
        .service(deliveries::replay_delivery)
        .service(audit::list_audit)
        .service(outbox::list_outbox)
        .service(outbox::show_outbox_message)
        .service(outbox::replay_outbox_message)
        .service(outbox::drop_outbox_message)
        .service(api_keys::create_api_key)
        .service(api_keys::list_api_keys)
        .service(api_keys::revoke_api_key)
        .service(identity::show_identity)
        .service(health::show_health)
        .service(health::show_readiness);
}

/// Serves until `shutdown` is cancelled; then ends event streams, finishes open requests and returns. Expects a migrated database; `/readyz` answers
/// 503 until it is. The listener may be bound to port 0. Signals are the caller's business.
pub async fn serve(listener: std::net::TcpListener, state: State, shutdown: CancellationToken) -> std::io::Result<()> {
    let state = State { shutdown: shutdown.clone(), ..state };
    let server = server(listener, state.clone(), shutdown)?;
    let served = tokio::select! {
        served = server => served,
        never = refusals::keep_writing(state.clone()) => match never {},
    };
    refusals::write_rest(state).await;
    served
}

/// Apart from [`serve`], because only the finished server may move between threads.
fn server(listener: std::net::TcpListener, state: State, shutdown: CancellationToken) -> std::io::Result<Server> {
    let state = Data::new(state);
    let application = move || {
        App::new()
            .app_data(state.clone())
            .app_data(web::PayloadConfig::new(input::BODY_LIMIT))
            .app_data(input::path_config())
            .wrap(from_fn(frame::frame))
            .configure(routes)
            .service(web::resource(document::PATH).guard(guard::Get()).to(show_document))
            .service(SwaggerUi::new("/swagger-ui/{_:.*}").config(Config::from(document::PATH)))
            .service(web::redirect("/swagger-ui", "/swagger-ui/"))
            .default_service(web::to(nothing_here))
    };
    let server = HttpServer::new(application)
        .workers(WORKERS)
        .client_request_timeout(HEADER_TIMEOUT)
        .shutdown_signal(shutdown.cancelled_owned())
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .listen(listener)?;
    Ok(server.run())
}

async fn show_document() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(document::JSON.clone())
}

async fn nothing_here(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let allowed = methods_of(request.path());
    if !allowed.is_empty() {
        let allowed = allowed.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Problem::method_not_allowed(request.method().as_str(), &allowed));
    }
    let asked: String = request.path().chars().take(200).collect();
    Err(Problem::not_found(format!("There is no {} {asked}.", request.method())))
}

/// The methods that a path takes.
fn methods_of(path: &str) -> BTreeSet<&'static str> {
    KNOWN_PATHS
        .iter()
        .filter(|(known, _)| known.is_match(path))
        .flat_map(|(_, methods)| methods.iter().copied())
        .collect()
}

/// Every path of the document, and its methods. What takes GET takes HEAD ([`frame`]).
static KNOWN_PATHS: LazyLock<Vec<(ResourceDef, Vec<&'static str>)>> = LazyLock::new(|| {
    let methods = |item: &utoipa::openapi::PathItem| {
        let all = [
            (&item.get, &["GET", "HEAD"][..]),
            (&item.post, &["POST"]),
            (&item.put, &["PUT"]),
            (&item.patch, &["PATCH"]),
            (&item.delete, &["DELETE"]),
        ];
        all.into_iter().filter(|(operation, _)| operation.is_some()).flat_map(|(_, methods)| methods).copied().collect()
    };
    openapi().paths.paths.iter().map(|(path, item)| (ResourceDef::new(path.as_str()), methods(item))).collect()
});

/// Handlers wait for the database, not for the processor.
const WORKERS: usize = 2;

const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

const SHUTDOWN_SECONDS: u64 = 10;
