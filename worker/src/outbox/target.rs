//! What a target of messages is: the interface between the dispatcher, which knows about order, tries and leases, and those who know how to tell.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use domain::announcing::{Announcement, Text};
use futures_util::future::BoxFuture;
use uuid::Uuid;

/// A message for one target.
#[derive(Clone, Debug)]
pub struct Message {
    /// UUIDv7, the same at each try: who gets it twice can tell by it.
    pub id: Uuid,
    /// What it is ordered by: messages of a lane arrive in order, and the next one only after this one was delivered or given up.
    pub lane: String,
    /// What happened, with the renewal as it was then (`announcement.renewal`), and the sequence number of the audit entry.
    pub announcement: Announcement,
    /// The same in words, with links.
    pub text: Text,
    /// Tries that have failed before.
    pub failures: i32,
    /// The time of this try, in the time that renewals live in.
    pub now: DateTime<Utc>,
}

/// What came of a try. No text in it may hold a secret: it is stored and shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Delivered {
    /// The target has it.
    Done,
    /// It may go better later: no connection, an overloaded service, a ticket that is locked. Tried again over days.
    Retry {
        /// What happened, for people.
        why: String,
        /// How long the target asks to be left alone, at least. Real time.
        after: Option<Duration>,
    },
    /// Trying again does not help: the target refuses this message. The lane goes on with the next one.
    Dead {
        /// What happened and what to do, for people.
        why: String,
    },
    /// The target is no more (HTTP 410): nothing more is sent in this lane.
    Gone {
        /// What happened, for people.
        why: String,
    },
}

impl Delivered {
    /// To be tried again, when the schedule says.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry { why: why.into(), after: None }
    }

    /// Not to be tried again.
    pub fn dead(why: impl Into<String>) -> Self {
        Self::Dead { why: why.into() }
    }
}

/// Somebody who is told. One target is asked by several lanes at a time, but by each lane one message after the other. A try may be cut off at any time,
/// and is repeated when nobody knows whether it went well: a target looks for the message's id first where it can.
pub trait Target: fmt::Debug + Send + Sync {
    /// Tries to deliver a message. Cut off after [`super::LONGEST_DELIVERY`].
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Delivered>;
}
