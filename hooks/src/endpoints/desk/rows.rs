//! Endpoints come, change and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugfeed_core::endpoints::endpoint::{Endpoint, Fence, Input};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::subscriptions::Slot;

use super::{Desk, Owed, Served, Word};
use crate::endpoints::feeds::Interested;
use crate::endpoints::target::Target;
use crate::endpoints::when;
use crate::store::endpoints::{FeedChoice, Stored};

impl Desk {
    /// A row that people have changed was read: of an endpoint that is served, or of one that is to be served from now on.
    pub(super) fn found(&mut self, stored: Stored) {
        let partition = stored.id.partition();
        if let Some(&slot) = self.by_id.get(&stored.id) {
            return self.changed(slot, stored);
        }
        let Some(held) = self.partitions.get_mut(&partition).filter(|_| self.ending.is_none()) else { return };
        if held.is_loaded {
            // It is new: otherwise it would have been among those that were read.
            let term = held.term;
            self.add(partition, term, stored);
        } else {
            // It may have been read before the partition was taken, and the holder before may have changed it since.
            held.early.push(stored);
        }
    }

    /// A row of a partition was read under these terms.
    pub(super) fn taken(&mut self, terms: &BTreeMap<u16, u64>, stored: Stored) {
        let partition = stored.id.partition();
        let term = terms.get(&partition).copied().unwrap_or(0);
        let is_held = self.partitions.get(&partition).is_some_and(|held| held.term == term);
        match self.by_id.get(&stored.id) {
            Some(&slot) => self.changed(slot, stored),
            None if is_held && self.ending.is_none() => self.add(partition, term, stored),
            None => {}
        }
    }

    /// All rows of these partitions were read.
    pub(super) fn all_taken(&mut self, terms: &BTreeMap<u16, u64>) {
        for (partition, term) in terms {
            let held = self.partitions.get_mut(partition).filter(|held| held.term == *term);
            let Some(held) = held else { continue };
            held.is_loaded = true;
            for stored in std::mem::take(&mut held.early) {
                self.found(stored);
            }
        }
    }

    fn add(&mut self, partition: u16, term: u64, stored: Stored) {
        let Stored { id, settings, row, .. } = stored;
        if row.deleted {
            return self.say(Word::Remove(id));
        }
        let now_us = self.now_us();
        let target = Arc::new(Target::of(&settings, &self.parts.options.rules));
        let slot = self.schedule.add(&target.host);
        // The fence is kept by the monotonic clock: see `partitions`.
        let fence = Fence { term, from_us: i64::MIN, until_us: i64::MAX };
        let (interested, version) = (Interested::of(&row), row.version);
        self.feeds.join(slot, &interested, None);
        self.serials += 1;
        let served = Served {
            id: id.clone(),
            serial: self.serials,
            partition,
            term,
            planner: Endpoint::new(row, fence, self.parts.options.bound, rand::random(), now_us),
            target,
            settings_version: version,
            wants_all: settings.feeds == FeedChoice::All,
            interested,
            flight: None,
            ended: Vec::new(),
            attempts: Vec::new(),
            told: ((0, 0), Vec::new()),
            owed: Owed::default(),
        };
        let at = slot as usize;
        if self.endpoints.len() <= at {
            self.endpoints.resize_with(at + 1, || None);
        }
        self.endpoints[at] = Some(Box::new(served));
        self.by_id.insert(id, slot);
        self.complete_feeds(&[slot]);
        self.step(slot, Input::Tick);
    }

    fn changed(&mut self, slot: Slot, stored: Stored) {
        let rules = &self.parts.options.rules;
        let Some(served) = self.endpoints.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let was_disabled = is_disabled(served.planner.row());
        // A page that was read before a later change was may come after it.
        if stored.row.version > served.settings_version {
            served.settings_version = stored.row.version;
            served.wants_all = stored.settings.feeds == FeedChoice::All;
            let target = Arc::new(Target::of(&stored.settings, rules));
            let moved = target.host != served.target.host;
            served.target = target;
            if moved {
                let host = Arc::clone(&served.target.host);
                self.schedule.move_to(slot, &host);
            }
        }
        self.step(slot, Input::Changed(Box::new(stored.row)));
        if let Some(served) = self.endpoints.get(slot as usize).and_then(Option::as_deref)
            && was_disabled
            && !is_disabled(served.planner.row())
        {
            self.parts.events.enabled(&served.id, &served.target.host, &self.parts.raise);
        }
        self.complete_feeds(&[slot]);
    }

    /// Forgets an endpoint. A request of it that is in flight is aborted.
    pub(super) fn forget(&mut self, slot: Slot) {
        let Some(served) = self.endpoints.get_mut(slot as usize).and_then(Option::take) else { return };
        let mut served = *served;
        if let Some(flight) = served.flight.take() {
            flight.abort();
        }
        self.schedule.remove(slot);
        self.feeds.leave(slot, &served.interested);
        self.by_id.remove(&served.id);
        if served.planner.row().deleted {
            self.say(Word::Remove(served.id));
        }
    }

    /// Those of these endpoints that want all feeds get lines for those that they lack.
    pub(super) fn complete_feeds(&mut self, slots: &[Slot]) {
        let lacks = |slot: &Slot| {
            let served = self.endpoints.get(*slot as usize)?.as_deref().filter(|served| served.wants_all)?;
            let lines = &served.planner.row().lines;
            let lacks = self.feeds.names().any(|name| !lines.iter().any(|line| line.feed == *name));
            lacks.then(|| served.id.clone())
        };
        let lacking: Vec<_> = slots.iter().filter_map(lacks).collect();
        if !lacking.is_empty() {
            // From now on their changes concern these endpoints, whenever the row is written.
            self.say(Word::Feeds(lacking, self.feeds.begins(when(self.now_us()))));
        }
    }
}

fn is_disabled(row: &Row) -> bool {
    row.health.disabled(row.policy).is_some()
}
