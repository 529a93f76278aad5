//! The places of the admin port's connections.
//!
//! Goes in: connections that begin, are asked something, and end. Comes out: when all places are taken, the connection that
//! has had nothing to do for the longest time; it gives way. So connections that are only held open never close the port.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// The places. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Grows with each rest that begins.
    rests: AtomicU64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    all: BTreeMap<u64, (Arc<Activity>, Option<AbortHandle>)>,
}

/// What a connection does: 0 while it is asked something, and otherwise the number of its rest.
#[derive(Debug, Default)]
struct Activity(AtomicU64);

/// One connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    id: u64,
    activity: Arc<Activity>,
}

/// A request is being answered; the rest of its connection begins when this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Place>);

impl Places {
    /// A place for a connection that has not asked anything yet. With `most` taken, the one that has rested for the longest
    /// time is ended, and `evicted` is true. `None` if none of them rests.
    pub(super) fn take(&self, most: usize) -> Option<(Place, bool)> {
        let mut taken = self.taken();
        let is_full = taken.all.len() >= most;
        if is_full {
            let resting = taken.all.iter().map(|(id, (activity, _))| (activity.0.load(Ordering::Relaxed), *id));
            let (_, longest) = resting.filter(|(rest, _)| *rest > 0).min()?;
            if let Some((_, Some(task))) = taken.all.remove(&longest) {
                task.abort();
            }
        }
        let (id, activity) = (taken.next, Arc::new(Activity::default()));
        activity.0.store(self.next_rest(), Ordering::Relaxed);
        taken.next += 1;
        taken.all.insert(id, (Arc::clone(&activity), None));
        Some((Place { places: self.clone(), id, activity }, is_full))
    }

    /// The task that serves the connection at this place.
    pub(super) fn served_by(&self, id: u64, task: AbortHandle) {
        if let Some((_, slot)) = self.taken().all.get_mut(&id) {
            *slot = Some(task);
        }
    }

    fn next_rest(&self) -> u64 {
        self.0.rests.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Its number.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The connection is asked something.
    pub(super) fn busy(self: &Arc<Place>) -> Busy {
        self.activity.0.store(0, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.activity.0.store(self.0.places.next_rest(), Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_rests_longest_gives_way_and_a_busy_one_never() {
        let places = Places::default();
        let take = || places.take(3).map(|(place, evicted)| (Arc::new(place), evicted));
        let (one, two, three) = (take().unwrap().0, take().unwrap().0, take().unwrap().0);
        let has = |place: &Arc<Place>| places.taken().all.contains_key(&place.id);
        drop(one.busy());
        let (four, evicted) = take().unwrap();
        assert!(evicted && !has(&two) && has(&one) && has(&three), "two rests longest: one was asked something since");
        let busy = [one.busy(), three.busy()];
        let (five, _) = take().unwrap();
        assert!(!has(&four) && has(&five));
        let more = five.busy();
        assert!(take().is_none(), "all are busy");
        drop((busy, more));
        assert!(take().is_some_and(|(_, evicted)| evicted));
        drop(three);
        assert!(take().is_some_and(|(_, evicted)| !evicted));
    }
}
