//! Messages to the outside: who is told what, and the loop that tells them. Whom to tell is configuration; what is to be told, in which order and when
//! it is tried again is in the database (`db/src/outbox.rs`).

mod target;

use std::{sync::Arc, time::Duration};

use domain::OrganizationId;

pub use target::{Delivered, Message, Target};

/// The longest that a try to deliver may take, in real time.
pub const LONGEST_DELIVERY: Duration = Duration::from_secs(120);

/// A target with what it is told.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its id in the configuration.
    pub id: String,
    /// The organizations that it is told about; all if there are none.
    pub organizations: Vec<OrganizationId>,
    /// The events that it is told: words, or the beginning of words and `*`; all if there are none.
    pub events: Vec<String>,
    /// The ticket system that it is, if it is one: it is told about renewals that belong to tickets there, and no others.
    pub ticket_system: Option<String>,
    /// The way to it.
    pub target: Arc<dyn Target>,
}
