//! Faults of ticket systems: what happens to some requests to them, or to their answers.

use serde::{Deserialize, Serialize};

use super::TicketSystem;
use crate::faults::{due, once};

/// Requests to ticket systems, some of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TicketRequests {
    /// Only those to this system. Any if none.
    #[serde(default)]
    pub system: Option<TicketSystem>,
    /// Only those of this method. Any if none.
    #[serde(default)]
    pub method: Option<String>,
    /// Only those whose path and query hold this text. Any if none.
    #[serde(default)]
    pub about: Option<String>,
    /// How many to let pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many after that.
    #[serde(default = "once")]
    pub times: u32,
}

/// What happens to a request or to its answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketDisturbance {
    /// A business rule aborts it: it is answered as if it were carried out, and nothing is.
    Abort,
    /// It is answered later, by so many milliseconds of real time.
    Delay(u32),
    /// The connection is cut before anything is done.
    Drop,
    /// It is carried out, then the connection is cut.
    DropAfter,
    /// It is never answered; nothing is done.
    Hold,
    /// It is answered 202, "session reuse queue overflow"; nothing is done.
    SessionQueue,
    /// It is answered with this status; nothing is done.
    Status(u16),
    /// It is answered 429, with `Retry-After` in seconds; nothing is done.
    Throttle(u32),
}

/// The requests that are disturbed.
#[derive(Clone, Debug, Default)]
pub(crate) struct TicketDisturbances(Vec<(TicketRequests, TicketDisturbance)>);

impl TicketDisturbances {
    pub(crate) fn add(&mut self, requests: TicketRequests, disturbance: TicketDisturbance) {
        self.0.push((requests, disturbance));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts a request, and says what happens to it: the first disturbance that is due.
    pub(super) fn meet(&mut self, system: TicketSystem, method: &str, about: &str) -> Option<TicketDisturbance> {
        let met = self.0.iter_mut().find_map(|(requests, disturbance)| {
            let meant = requests.matches(system, method, about);
            (meant && due(&mut requests.skip, &mut requests.times)).then(|| disturbance.clone())
        });
        self.0.retain(|(requests, _)| requests.times > 0);
        met
    }
}

impl TicketRequests {
    fn matches(&self, system: TicketSystem, method: &str, about: &str) -> bool {
        self.system.is_none_or(|wanted| wanted == system)
            && self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.about.as_deref().is_none_or(|wanted| about.contains(wanted))
    }
}
