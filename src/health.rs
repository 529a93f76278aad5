//! Whether this process can do its work, part by part: what `/readyz` answers.
//!
//! Goes in: each part's word on itself. Comes out: "ready", or the reasons why not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bugfeed_shim::events::Telemetry;

/// The parts' words, shared. Cloning shares.
#[derive(Clone, Debug, Default)]
pub struct Health {
    down: Arc<Mutex<BTreeMap<String, String>>>,
    /// The relay of the all-in-one, which keeps its own books.
    relay: Option<Arc<Telemetry>>,
}

impl Health {
    /// A process whose parts have not said anything is ready.
    pub fn new() -> Health {
        Health::default()
    }

    /// Like [`Health::new`], and the relay has a word too.
    pub fn with_relay(relay: Arc<Telemetry>) -> Health {
        Health { relay: Some(relay), ..Health::default() }
    }

    /// The part cannot do its work; `reason` is for people.
    pub fn down(&self, part: &str, reason: impl Into<String>) {
        self.parts().insert(part.to_owned(), reason.into());
    }

    /// The part works.
    pub fn up(&self, part: &str) {
        self.parts().remove(part);
    }

    /// One line for each part that does not work; none means ready.
    pub fn complaints(&self) -> Vec<String> {
        let parts: Vec<_> = self.parts().iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
        let relay = self.relay.as_ref().and_then(|relay| relay.ready().err());
        parts.into_iter().chain(relay).collect()
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.down.lock().expect("nobody panics holding it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_nobody_complains() {
        let health = Health::new();
        assert!(health.complaints().is_empty());
        health.down("feed x", "no broker");
        health.clone().down("relay", "no table");
        health.down("feed x", "still no broker");
        assert_eq!(health.complaints(), ["feed x: still no broker", "relay: no table"]);
        health.up("feed x");
        health.up("relay");
        health.up("relay");
        assert!(health.complaints().is_empty());
    }
}
