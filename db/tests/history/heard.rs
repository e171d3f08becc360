//! The statements that sqlx says it runs.

use std::sync::{Mutex, Once, PoisonError};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

static TEXTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static LISTENING: Once = Once::new();

/// Every different statement that reads or changes rows while `work` runs.
pub(crate) async fn heard(work: impl Future<Output = ()>) -> Vec<String> {
    LISTENING.call_once(|| tracing::subscriber::set_global_default(Listener).unwrap());
    drop(take());
    work.await;
    let mut texts = take();
    texts.retain(|text| ["SELECT", "UPDATE", "DELETE"].iter().any(|word| text.starts_with(word)));
    // What sqlx asks PostgreSQL about names of types is no statement of ours.
    texts.retain(|text| !text.contains("pg_type"));
    texts.sort();
    texts.dedup();
    texts
}

fn take() -> Vec<String> {
    std::mem::take(&mut *TEXTS.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let whole = if text.whole.is_empty() { text.beginning } else { text.whole };
        TEXTS.lock().unwrap_or_else(PoisonError::into_inner).push(whole.trim().to_owned());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Short statements are all in the summary.
#[derive(Default)]
struct Text {
    beginning: String,
    whole: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => self.beginning = value.to_owned(),
            "db.statement" => self.whole = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
