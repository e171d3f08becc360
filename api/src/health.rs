//! `/healthz` and `/readyz`: for those who run the service.

use actix_web::{
    get,
    web::{Data, Json},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Problem, State};

/// That the service is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `alive` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// The version of the service.
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// Tell that the process is alive.
///
/// Looks at nothing else: restart the process when this does not answer.
#[utoipa::path(tag = "service", responses((status = 200, body = Health)))]
#[get("/healthz")]
pub(crate) async fn show_health() -> Json<Health> {
    Json(Health { status: "alive", version: env!("CARGO_PKG_VERSION") })
}

/// Tell whether requests can be served: the database answers and its schema is up to date.
#[utoipa::path(tag = "service", responses(
    (status = 200, body = Health),
    (status = 503, description = "Not ready: the database does not answer or is not migrated")
))]
#[get("/readyz")]
pub(crate) async fn show_readiness(state: Data<State>) -> Result<Json<Health>, Problem> {
    match state.db.is_migrated().await {
        Ok(true) => Ok(Json(Health { status: "ready", version: env!("CARGO_PKG_VERSION") })),
        Ok(false) => Err(Problem::not_ready("The database is not migrated to this version.")),
        Err(error) => {
            tracing::warn!(%error, "The database does not answer: {error}");
            Err(Problem::not_ready("The database does not answer."))
        }
    }
}
