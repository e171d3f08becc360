//! What rekey knows about renewing the Exchange Auth certificate: words, plans, gates and the renewal state machine.
//!
//! Nothing here does I/O, reads a clock or is asynchronous: functions take `now` and data and return data.

pub mod announcing;
pub mod audit;
pub mod calendar;
pub mod cloud;
mod deciding;
pub mod delivery;
pub mod feasibility;
pub mod gate;
pub mod hold;
pub mod hybrid;
pub mod ids;
pub mod intake;
pub mod organization;
pub mod outbox;
pub mod place;
pub mod plan;
pub mod planning;
pub mod progress;
pub mod redelivery;
pub mod renewal;
pub mod request;
pub mod retry;
pub mod review;
mod skipping;
pub mod snapshot;
mod soaking;
pub mod step;
pub mod storable;
pub mod thumbprint;
pub mod ticket;
pub mod timeline;
pub mod trouble;

pub use cloud::{CloudSettings, Tenant};
pub use delivery::{Delivery, DeliveryVerdict};
pub use gate::{Decision, Gate, GateRule, Verdict};
pub use hybrid::HybridObjects;
pub use ids::{DeliveryId, Digest, OrganizationId, RenewalId, StepId};
pub use organization::{Organization, Policy};
pub use place::Place;
pub use plan::Plan;
pub use renewal::{Event, IllegalTransition, Involved, Phase, Renewal, State};
pub use request::{ChangeType, Reason, Request, Risk, Ticket};
pub use snapshot::Snapshot;
pub use soaking::SOAK_TOO_LONG;
pub use step::{Outcome, Step, StepKind, StepStatus};
pub use thumbprint::Thumbprint;
pub use ticket::{TicketStanding, TicketWord};
pub use timeline::Timeline;
pub use trouble::Trouble;
