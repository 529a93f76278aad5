//! A receiver: what it does with a request, what it knows, and what it checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugfeed_core::endpoints::batch::{Batch, Kind};
use bugfeed_core::endpoints::policy::Outcome;
use bugfeed_protocol::BugId;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::feed::Ledger;

/// How a receiver is just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Answers anything.
    Odd,
    /// Never answers.
    Hangs,
    Refuses,
    Broken,
    Gone,
    /// Asks for time.
    Busy,
}

#[derive(Debug)]
pub struct Receiver {
    pub mood: Mood,
    /// The number of the newest change that it was brought, by feed and bug; or that it read at the tracker after a gap.
    pub known: BTreeMap<(usize, BugId), u64>,
    /// The highest cursor that it was sent, by feed, and in which recovery.
    highest: BTreeMap<usize, (u32, u64)>,
    tests: Vec<u32>,
    /// Refusals and other failures since the last success that was stored: what it has answered, whoever heard it.
    pub refused: u32,
    pub failed: u32,
    /// Its policy was changed.
    pub mixed: bool,
}

impl Receiver {
    pub fn new() -> Receiver {
        Receiver {
            mood: Mood::Well,
            known: BTreeMap::new(),
            highest: BTreeMap::new(),
            tests: Vec::new(),
            refused: 0,
            failed: 0,
            mixed: false,
        }
    }

    /// What it answers, and whether it takes what it was sent. None: not yet.
    pub fn answer(&self, random: &mut SmallRng) -> Option<(Outcome, bool)> {
        let server = Outcome::Server { retry_after_us: None };
        let wish = Some(random.random_range(0..7_200) * 1_000_000);
        let taken = random.random_bool(0.5);
        Some(match self.mood {
            Mood::Well => (Outcome::Success, true),
            Mood::Hangs => return None,
            Mood::Refuses => (Outcome::Refused, false),
            Mood::Broken => (server, false),
            Mood::Gone => (Outcome::Gone, false),
            Mood::Busy => (Outcome::Busy { retry_after_us: wish }, false),
            Mood::Odd => match random.random_range(0..9) {
                0 => (Outcome::Redirect, false),
                1 => (Outcome::Fault, taken),
                2 => (server, taken),
                3 => (Outcome::Server { retry_after_us: wish }, false),
                4 => (Outcome::Nameless, false),
                5 => (Outcome::Refused, false),
                6 => (Outcome::Ours, false),
                _ => (Outcome::Success, true),
            },
        })
    }

    pub fn answered(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Success => {}
            Outcome::Refused | Outcome::Gone => self.refused += 1,
            _ => self.failed += 1,
        }
    }

    /// Another holder sends to it from now on, which knows of this cursor of a feed only. What it was sent beyond that, and
    /// nobody stored, may come again in smaller pieces.
    pub fn begin_at(&mut self, feed: usize, stored: u64) {
        if let Some((_, highest)) = self.highest.get_mut(&feed) {
            *highest = (*highest).min(stored);
        }
    }

    /// It takes a batch. `turn`: how often the feed was recovered by hand when it was sent.
    pub fn take(&mut self, feed: usize, batch: &Arc<Batch>, turn: u32, ledger: &Ledger) -> Result<(), String> {
        let last = batch.last();
        if batch.kind == Kind::Gap {
            // It asks the tracker about everything.
            for change in &ledger.changes {
                let newest = ledger.newest(change.bug).unwrap();
                self.known.insert((feed, change.bug), newest);
            }
            self.highest.insert(feed, (turn, last));
            return Ok(());
        }
        let (of_turn, highest) = self.highest.get(&feed).copied().unwrap_or((turn, 0));
        if of_turn == turn && last < highest {
            return Err(format!("the cursor fell from {highest} to {last}"));
        }
        if of_turn <= turn {
            self.highest.insert(feed, (turn, last));
        }
        let mut before = 0;
        for told in &batch.changes {
            if told.cursor.seq < before {
                return Err(format!("cursors fall within a request: {batch:?}"));
            }
            before = told.cursor.seq;
            let number = ledger.changes.iter().position(|change| *change == told.change).unwrap() as u64 + 1;
            let known = self.known.entry((feed, told.change.bug)).or_insert(0);
            // Whoever is told of a bug asks for it, and the cursor says that nothing up to it is still to come. So a late change
            // may stand for one with a higher number.
            *known = (*known).max(number).max(told.cursor.seq);
        }
        if before != last {
            return Err(format!("the cursor of a request is that of its last change: {batch:?}"));
        }
        Ok(())
    }

    pub fn take_test(&mut self, generation: u32) -> Result<(), String> {
        if self.tests.contains(&generation) && self.tests.last() != Some(&generation) {
            return Err(format!("test {generation} came again after another one"));
        }
        self.tests.push(generation);
        Ok(())
    }
}
