//! Limits log lines that senders can cause, for each source by itself, so that a flood at one hides nothing of another.
//!
//! Goes in: the name of a source, the time. Comes out: whether to log in full, and how many lines were left out. Names that
//! senders make up must not come here: they share the empty name. A bounded number of sources is remembered; further ones
//! share one allowance.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many sources are told apart.
const MOST_SOURCES: usize = 1000;
/// The allowance is for so long.
const EVERY: Duration = Duration::from_secs(60);

/// What a source has used of its allowance.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    count: u64,
}

/// The allowances of all sources for one kind of line.
#[derive(Debug)]
pub(super) struct Hush {
    burst: u64,
    windows: Mutex<BTreeMap<String, Window>>,
}

impl Hush {
    /// Lets so many lines of each source through in a minute.
    pub(super) fn new(burst: u64) -> Hush {
        Hush { burst, windows: Mutex::default() }
    }

    /// Counts a line, and says whether it may be logged.
    pub(super) fn admits(&self, source: &str) -> bool {
        self.admits_at(source, Instant::now())
    }

    /// For each source whose minute is over, how many lines were left out of it, where any were. To be called every few
    /// seconds.
    pub(super) fn left_out(&self) -> Vec<(String, u64)> {
        self.left_out_at(Instant::now())
    }

    fn admits_at(&self, source: &str, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = windows.len() >= MOST_SOURCES && !windows.contains_key(source);
        let name = if is_full { "" } else { source };
        if let Some(window) = windows.get_mut(name) {
            window.count += 1;
            return window.count <= self.burst;
        }
        windows.insert(name.to_owned(), Window { since: now, count: 1 });
        true
    }

    fn left_out_at(&self, now: Instant) -> Vec<(String, u64)> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = Vec::new();
        windows.retain(|source, window| {
            let is_over = now.saturating_duration_since(window.since) >= EVERY;
            if is_over && window.count > self.burst {
                left_out.push((source.clone(), window.count - self.burst));
            }
            !is_over
        });
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_allowance_and_what_is_left_out_is_told() {
        let (hush, begin) = (Hush::new(2), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let flood: Vec<bool> = (0..40).map(|_| hush.admits_at("flooded", at(1))).collect();
        assert_eq!(flood.iter().filter(|admitted| **admitted).count(), 2);
        assert!(hush.admits_at("quiet", at(30)), "another source has an allowance of its own");
        assert_eq!(hush.left_out_at(at(60)), []);
        assert_eq!(hush.left_out_at(at(61)), [("flooded".to_owned(), 38)]);
        assert_eq!(hush.left_out_at(at(62)), [], "told once");
        assert!(hush.admits_at("flooded", at(62)));
        assert_eq!(hush.left_out_at(at(130)), [], "nothing was left out");
    }

    #[test]
    fn a_bounded_number_of_sources_is_remembered() {
        let (hush, now) = (Hush::new(1), Instant::now());
        for number in 0..2 * MOST_SOURCES {
            hush.admits_at(&number.to_string(), now);
        }
        assert!(hush.windows.lock().unwrap().len() <= MOST_SOURCES + 1);
        let left_out = hush.left_out_at(now + EVERY);
        assert_eq!(left_out, [(String::new(), MOST_SOURCES as u64 - 1)], "the rest share one");
    }
}
