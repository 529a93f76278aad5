//! The end of a run: everything works again, time passes, and everything must end.

use bugfeed_core::hooks::event::ErrorClass;
use bugfeed_core::hooks::orders::Order;

use super::worker::Job;
use super::{Checked, World};

/// How many steps coming to rest may take.
const STEPS: usize = 60_000;

impl World {
    pub fn heal(&mut self) -> Checked {
        self.say(|| "heals".to_owned());
        for source in 0..self.sources.len() {
            (self.sources[source].up, self.sources[source].mapping_fits) = (true, true);
            self.sources[source].settings.on = true;
            self.order_all(source, Order::SwitchOn)?;
            self.order_all(source, Order::Mended(ErrorClass::Mapping))?;
        }
        let mut idle = 0;
        for _ in 0..STEPS {
            let before = self.store.commits;
            if let Some(worker) = self.jobs.iter().position(|job| *job != Job::Idle) {
                self.work(worker)?;
            } else if !self.store.due(self.now_us).is_empty() {
                self.work(0)?;
            } else if let Some(next_us) = self.store.next_due(self.now_us) {
                self.now_us = next_us;
            } else {
                return Ok(());
            }
            idle = if self.store.commits == before { idle + 1 } else { 0 };
            if idle > 50 {
                // What is due waits for a token.
                self.now_us += 100_000;
            }
        }
        let open: Vec<_> = self.store.events.values().filter(|event| !event.progress.state.is_terminal()).collect();
        self.say(|| format!("{open:#?}"));
        Err(format!("{} events do not end: {:?}", open.len(), open.first()))
    }
}
