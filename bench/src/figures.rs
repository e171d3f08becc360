//! The figures: each measures its sides in turn, round by round, and gives lines of the table.

mod accepts;
mod history;
mod memory;
mod start;
mod steps;
mod waiting;

use crate::{Figure, Settings, database::Server, report::Row};

/// Measures one.
pub(crate) async fn measure(figure: Figure, settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    match figure {
        Figure::Accepts => accepts::measure(settings, server).await,
        Figure::Steps => steps::measure(settings, server).await,
        Figure::Start => start::measure(settings, server).await,
        Figure::History => Box::pin(history::measure(settings, server)).await,
        Figure::Memory => memory::measure(settings, server).await,
        Figure::Waiting => waiting::measure(settings, server).await,
    }
}
