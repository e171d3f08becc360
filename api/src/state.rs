//! What every handler has at hand.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use domain::{Organization, OrganizationId, Timeline};
use tokio_util::sync::CancellationToken;

use crate::{Problem, Source, Tokens};

/// What the API serves from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) db: db::Db,
    pub(crate) tokens: Tokens,
    pub(crate) organizations: Arc<BTreeMap<OrganizationId, Organization>>,
    /// What may send deliveries, by id.
    pub(crate) sources: Arc<BTreeMap<String, Source>>,
    pub(crate) timeline: Timeline,
    /// Ends event streams when the service stops.
    pub(crate) shutdown: CancellationToken,
}

impl State {
    /// Serves these organizations from this database, at the pace of `timeline`.
    #[must_use]
    pub fn new(db: db::Db, organizations: Vec<Organization>, tokens: Tokens, timeline: Timeline) -> Self {
        let organizations = organizations.into_iter().map(|o| (o.id.clone(), o)).collect();
        Self {
            db,
            tokens,
            organizations: Arc::new(organizations),
            sources: Arc::default(),
            timeline,
            shutdown: CancellationToken::new(),
        }
    }

    /// The same, taking deliveries of these sources.
    #[must_use]
    pub fn with_sources(self, sources: Vec<Source>) -> Self {
        let sources = sources.into_iter().map(|source| (source.id().to_owned(), source)).collect();
        Self { sources: Arc::new(sources), ..self }
    }

    /// The time that renewals live in.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.timeline.at(self.db.now())
    }

    /// The configured organization of that id.
    pub(crate) fn organization(&self, id: &OrganizationId) -> Result<&Organization, Problem> {
        self.organizations.get(id).ok_or_else(|| {
            Problem::not_found(format!("There is no organization `{id}`: GET /v1/organizations lists them."))
        })
    }
}
