//! Trackers in the test process that speak as the real ones do, that do not, and what becomes of it.

mod fake;
mod kinds;
mod lies;
mod looks;
mod rounds;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{Asker, Clock, Tracker};
use crate::client::{Client, Options};
use crate::config::HooksConfig;
use crate::config::source::Source;

/// 2026-11-26T12:00:00Z.
const NOON_US: i64 = 1_795_694_400_000_000;
const SECOND_US: i64 = 1_000_000;

/// A clock that a test sets.
#[derive(Clone)]
struct TestClock(Arc<AtomicI64>);

impl TestClock {
    fn noon() -> TestClock {
        TestClock(Arc::new(AtomicI64::new(NOON_US)))
    }

    fn now_us(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * SECOND_US, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now_us())
    }
}

/// The source `s` of this preset, with further members.
fn source(preset: &str, members: &str) -> Source {
    let text = format!("[[source]]\nname = \"s\"\npreset = \"{preset}\"\n{members}\n");
    let config = HooksConfig::read("hooks.toml", &text, &|_| Err("no file".to_owned()));
    config.unwrap_or_else(|error| panic!("{error}")).sources.remove(0)
}

fn asker(source: &Source, clock: &TestClock) -> Asker {
    let tracker = Tracker::of(source).unwrap_or_else(|error| panic!("{error}"));
    Asker::new(tracker, Client::new(Options::default()), source.tracker_key_file.clone(), clock.clock())
}
