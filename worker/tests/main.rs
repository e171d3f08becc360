//! Whole renewals: a real worker on a real database against the lab, over the real wire.

mod refusals;
mod runs;
mod support;
mod troubles;
mod undoing;
