//! Looks that may be used again, and looks under way.
//!
//! A look counts for an event only if it began after the event was received: the tracker may have hidden the bug in
//! between. So one look serves all events of a bug that had been received when it began (one edit makes several), and
//! whoever needs the same look waits for the one under way. That a bug is *not* visible is never used again, because
//! that is what a second look is for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bugfeed_core::hooks::SECOND_US;
use bugfeed_protocol::BugId;

use super::api::Look;

/// A look is used for so long.
const FRESH_US: i64 = 60 * SECOND_US;
/// So many bugs at most.
const MOST: usize = 10_000;

/// A look, and when it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    pub(super) began_us: i64,
    pub(super) look: Look,
}

/// The place of a bug. Whoever holds its lock asks.
type Place = Arc<tokio::sync::Mutex<Option<Looked>>>;

#[derive(Debug, Default)]
pub(super) struct Cache {
    places: Mutex<HashMap<(String, BugId), Place>>,
}

impl Cache {
    pub(super) fn place(&self, project: &str, bug: BugId, now_us: i64) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MOST {
            places.retain(|_, place| Arc::strong_count(place) > 1 || is_fresh(place, now_us));
        }
        if places.len() >= MOST {
            // Those that somebody waits for stay.
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        Arc::clone(places.entry((project.to_owned(), bug)).or_default())
    }
}

fn is_fresh(place: &Place, now_us: i64) -> bool {
    place.try_lock().is_ok_and(|looked| looked.is_some_and(|looked| looked.is_usable(i64::MIN, now_us)))
}

impl Looked {
    /// Whether it serves an event that was received then.
    pub(super) fn is_usable(&self, received_us: i64, now_us: i64) -> bool {
        let age_us = now_us - self.began_us;
        self.look != Look::NotVisible && self.began_us >= received_us && (0..FRESH_US).contains(&age_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_serves_what_was_received_before_it_began() {
        let changed = bugfeed_protocol::When::from_micros(0).unwrap();
        let looked = Looked { began_us: 100 * SECOND_US, look: Look::Visible { changed } };
        let usable = |received, now| looked.is_usable(received * SECOND_US, now * SECOND_US);
        assert!(usable(100, 100) && usable(1, 159));
        assert!(!usable(101, 102), "received after it began");
        assert!(!usable(1, 160), "too old");
        assert!(!usable(1, 99), "the clock was set back");
        let hidden = Looked { look: Look::NotVisible, ..looked };
        assert!(!hidden.is_usable(1, 101), "a second look must be a look");
    }

    #[test]
    fn the_number_of_places_is_bounded() {
        let cache = Cache::default();
        let bug = |number: usize| BugId::new(u64::try_from(number).unwrap() + 1).unwrap();
        let held = cache.place("", bug(0), 0);
        for number in 0..3 * MOST {
            cache.place("", bug(number), 0);
        }
        assert!(cache.places.lock().unwrap().len() <= MOST);
        assert!(Arc::ptr_eq(&held, &cache.place("", bug(0), 0)));
    }
}
