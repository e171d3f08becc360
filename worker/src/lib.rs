//! The worker: claims due steps and carries them out on Exchange and Windows.
//!
//! [`engine`] is the loop, `steps` what each step does, [`discovery`] how the state of an organization is read, `exchange` and `windows` the cmdlets,
//! [`connectors`] the wire. API and worker meet in the database only.

pub mod certificate;
mod connectivity;
pub mod connectors;
pub mod discovery;
pub mod engine;
mod exchange;
mod hybrid;
mod lease;
pub mod outbox;
pub mod pfx;
pub mod probe;
pub mod sealing;
mod steps;
pub mod tickets;
mod windows;

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Bounds, Db};
use domain::{Organization, OrganizationId, Timeline};

pub use crate::lease::Pace;
use crate::{
    connectors::{Endpoints, cloud::Cloud},
    sealing::Sealer,
    tickets::Tickets,
};

/// The shortest real time between two looks at something that takes its time.
const SHORTEST_PAUSE: TimeDelta = TimeDelta::milliseconds(200);

/// An organization with the way to it.
#[derive(Clone, Debug)]
pub struct Managed {
    /// The organization with its policy.
    pub organization: Organization,
    /// Its endpoints.
    pub endpoints: Endpoints,
    /// How much of it may be worked on at a time.
    pub bounds: Bounds,
    /// The way to its tenant; none without credentials for it.
    pub cloud: Option<Cloud>,
}

/// Everything that steps need.
#[derive(Debug)]
pub struct Worker {
    /// Where renewals and steps are.
    pub db: Db,
    /// How fast time goes.
    pub timeline: Timeline,
    /// Who acts, in audit entries: `worker:<instance>`.
    pub name: String,
    /// Seals new keys until every server has them.
    pub sealer: Sealer,
    /// How long a step is this worker's.
    pub pace: Pace,
    /// The ticket systems that are configured.
    pub tickets: Tickets,
    /// When it began: a database is put in the place of another while no worker runs (docs/operations.md).
    began: DateTime<Utc>,
    organizations: BTreeMap<OrganizationId, Managed>,
    bounds: Arc<BTreeMap<OrganizationId, Bounds>>,
}

impl Worker {
    /// A worker for these organizations.
    #[must_use]
    pub fn new(db: Db, timeline: Timeline, name: String, sealer: Sealer, organizations: Vec<Managed>) -> Self {
        let bounds = organizations.iter().map(|m| (m.organization.id.clone(), m.bounds)).collect();
        let organizations = organizations.into_iter().map(|m| (m.organization.id.clone(), m)).collect();
        Self {
            began: timeline.at(db.now()),
            db,
            timeline,
            name,
            sealer,
            pace: Pace::default(),
            tickets: Tickets::default(),
            organizations,
            bounds: Arc::new(bounds),
        }
    }

    /// The time that runs live in.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.timeline.at(self.db.now())
    }

    /// When something that takes its time is looked at again: after `span`, but not faster than is sensible in real time.
    fn later(&self, span: TimeDelta) -> DateTime<Utc> {
        self.now() + span.max(self.timeline.stretch(SHORTEST_PAUSE))
    }

    /// Gives the sessions of all organizations back to their servers. No step can run after that.
    pub async fn close_sessions(&self) {
        let closings = self.organizations.values().map(|managed| managed.endpoints.sessions.close());
        futures_util::future::join_all(closings).await;
    }

    fn managed(&self, id: &OrganizationId) -> Option<&Managed> {
        self.organizations.get(id)
    }
}
