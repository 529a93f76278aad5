//! Whether this process can do its work, part by part: what `/readyz` answers.
//!
//! Goes in: each part's word on itself. Comes out: "ready", or the reasons why not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The parts' words, shared. Cloning shares.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, String>>>);

impl Health {
    /// A process whose parts have not said anything is ready.
    pub fn new() -> Health {
        Health::default()
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
        self.parts().iter().map(|(part, reason)| format!("{part}: {reason}")).collect()
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().expect("nobody panics holding it")
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
