//! The only SQL of rekey: SQLite and PostgreSQL through one set of statements.
//!
//! [`Db::read`] and [`Db::write`] run a closure in a transaction: commit on `Ok`, rollback on `Err` or drop. The statements are methods of [`Tx`],
//! one file per table. Never hold a transaction across network I/O.

mod api_keys;
mod audit;
mod claim;
mod clock;
mod connection;
mod decisions;
mod deliveries;
mod disturbance;
mod error;
mod finishing;
mod gathering;
mod idempotency;
mod intake;
mod known_runs;
mod outbox;
mod page;
mod plans;
mod raising;
mod renewals;
mod reviews;
mod run;
mod sealed_keys;
mod settling;
mod skipping;
mod snapshots;
mod sqlite;
mod steps;
mod ticket_polls;
mod tickets;
mod watch;

pub use api_keys::{ApiKey, Grants};
pub use claim::{Bounds, Claimed, ClaimedStep, FreeHands, HandedOver, Offer, Wanted};
pub use connection::{AsRetryable, Db, Kind, Schema, Tx};
pub use deliveries::{Arrival, Delivered, DeliveryAnswer, DeliveryFilter, STRANGERS_KEPT};
pub use disturbance::{Fault, Moment};
pub use error::{Error, Result};
pub use idempotency::{Answer, IdempotencyKey};
pub use intake::{Ignored, Taken, Taker};
pub use outbox::{ClaimedMessage, MessageEnd, Unexpanded};
pub use page::Page;
pub use raising::{Feasible, Raise, Raised};
pub use run::LoadedRun;
pub use sealed_keys::SealedKey;
pub use snapshots::Purpose;
pub use steps::StepEnd;
pub use ticket_polls::TicketPoll;
