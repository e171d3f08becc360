//! Messages to the outside: who is told what, and the loop that tells them. Whom to tell is configuration; what is to be told, in which order and when
//! it is tried again is in the database (`db/src/outbox.rs`).
//!
//! To add a kind of target: a file here that implements [`Target`], and its configuration in `server/src/config/targets.rs`. Whatever it connects to goes
//! through [`AllowList`].

mod allow;
mod chat;
mod dispatcher;
mod http;
mod mail;
mod target;
mod webhook;

use std::{sync::Arc, time::Duration};

use db::Unexpanded;
use domain::OrganizationId;

pub use allow::{AllowList, InvalidRule, NoClient, NotAllowed, Unresolved};
pub use chat::{Chat, ChatKind};
pub use dispatcher::{Outbox, run};
pub use lettre::message::Mailbox;
pub use mail::{MailLogin, MailTarget, MailTls};
pub use target::{Delivered, Message, Target};
pub use webhook::{InvalidSigningKey, SigningKey, Webhook};

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

impl Subscription {
    fn wants(&self, announcement: &Unexpanded) -> bool {
        let organization = || announcement.organization_id.as_ref().is_some_and(|id| self.organizations.contains(id));
        let event = |filter: &String| match filter.strip_suffix('*') {
            Some(beginning) => announcement.event.starts_with(beginning),
            None => announcement.event == *filter,
        };
        (self.organizations.is_empty() || organization())
            && (self.events.is_empty() || self.events.iter().any(event))
            && (self.ticket_system.is_none() || self.ticket_system == announcement.ticket_system)
    }
}
