//! Hears from the driver (`sqlx`) of each statement that it sends.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The lines so far. The driver of SQLite works in a thread of its own, so there is one list for the whole process.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// One scenario at a time.
static TURN: AsyncMutex<()> = AsyncMutex::const_new(());

/// One scenario's statements, in the order in which they were sent.
pub(crate) struct Recorder {
    _turn: MutexGuard<'static, ()>,
}

impl Recorder {
    pub(crate) async fn begin() -> Recorder {
        static LISTENING: OnceLock<()> = OnceLock::new();
        LISTENING.get_or_init(|| tracing::subscriber::set_global_default(Listener).unwrap());
        let turn = TURN.lock().await;
        lines().clear();
        Recorder { _turn: turn }
    }

    /// What happens next.
    pub(crate) fn section(&self, title: &str) {
        lines().push(format!("\n-- {title}"));
    }

    /// Everything, with a word for the name of this process.
    pub(crate) fn text(&self) -> String {
        let mut text = lines().join("\n").trim_start().to_owned();
        text.push('\n');
        let holder = format!("pid {} on ", std::process::id());
        while let Some(at) = text.find(&holder) {
            let end = text[at..].find('\'').map_or(text.len(), |end| at + end);
            text.replace_range(at..end, "HOLDER");
        }
        text
    }
}

/// Each line once, in the order of the alphabet.
pub(crate) fn sorted(text: &str) -> String {
    let lines: BTreeSet<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("-- ")).collect();
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

fn lines() -> std::sync::MutexGuard<'static, Vec<String>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what the driver logs of its statements, and nothing else.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut statement = Statement::default();
        event.record(&mut statement);
        let whole = if statement.whole.is_empty() { statement.summary } else { statement.whole };
        lines().push(whole.trim().to_owned());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The driver gives a short statement as its summary only.
#[derive(Default)]
struct Statement {
    summary: String,
    whole: String,
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.whole),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "summary" {
            let _ = write!(self.summary, "{value:?}");
        }
    }
}
