//! rekey's HTTP API: one route list, one file per noun, one error type.
//!
//! Handlers extract, call a transaction of `db`, and map the answer: what may happen is decided in `domain`, in the same transaction as the change.

#![expect(
    unused_qualifications,
    reason = "utoipa's path macro writes qualified names and gives them the spans of ours"
)]

mod audit;
mod caller;
mod certificate;
mod certificates;
mod control;
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
mod organizations;
mod outbox;
mod page;
mod plans;
mod problem;
mod renewals;
mod reviews;
mod runbook;
mod servicenow;
mod state;
mod steps;
mod tokens;

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::Server,
    middleware::from_fn,
    web::{self, Data},
};
use tokio_util::sync::CancellationToken;
use utoipa_actix_web::{AppExt, service_config::ServiceConfig};
use utoipa_swagger_ui::SwaggerUi;

pub use document::{openapi, openapi_3_0};
pub use hooks::source::{Accept, Source, SourceError};
pub(crate) use problem::Problem;
pub use state::State;
pub use tokens::{Claims, Role, TokenError, Tokens, UnknownRole};

/// Every route: what is served and what the document describes.
fn routes(config: &mut ServiceConfig<'_>) {
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
        .service(identity::show_identity)
        .service(health::show_health)
        .service(health::show_readiness);
}

/// Serves until `shutdown` is cancelled; then ends event streams, finishes open requests and returns. Expects a migrated database; `/readyz` answers
/// 503 until it is. The listener may be bound to port 0. Signals are the caller's business.
pub async fn serve(listener: std::net::TcpListener, state: State, shutdown: CancellationToken) -> std::io::Result<()> {
    let server = server(listener, State { shutdown: shutdown.clone(), ..state }, shutdown)?;
    server.await
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
            .into_utoipa_app()
            .configure(routes)
            .map(|app| app.service(SwaggerUi::new("/swagger-ui/{_:.*}").url("/openapi.json", openapi())))
            .map(|app| app.service(web::redirect("/swagger-ui", "/swagger-ui/")))
            .into_app()
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

async fn nothing_here(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let asked: String = request.path().chars().take(200).collect();
    Err(Problem::not_found(format!("There is no {} {asked}.", request.method())))
}

/// Handlers wait for the database, not for the processor.
const WORKERS: usize = 2;

const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

const SHUTDOWN_SECONDS: u64 = 10;
