//! Who may send next, of all endpoints of a process, and who looks again when.
//!
//! Goes in: who wants to send, in which [`Class`], and whose request has ended. Comes out: one endpoint after the other,
//! as long as there are places. Every operation takes constant time, or O(log n) where a time is set.
//!
//! - There is a bound of requests in flight, and one for each host. Of both, attempts at receivers that failed get a
//!   quarter at most, and together with those at slow receivers half. So a first attempt never waits behind probes or
//!   behind receivers that hang: those hold three quarters of nothing that it needs. A sixteenth is kept from first
//!   attempts, so that a probe waits no longer than a request lasts.
//! - Hosts take turns, and the endpoints of a host are served in the order in which they asked.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::endpoint::Class;
use crate::subscriptions::Slot;

/// How many classes there are.
const CLASSES: usize = 3;
const BY_RANK: [Class; CLASSES] = [Class::First, Class::Slow, Class::Again];

/// How many requests may be in flight.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all.
    pub places: usize,
    /// To one host.
    pub of_host: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { places: 2048, of_host: 256 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Idle,
    /// In the queue of its host.
    Waits(Class),
    /// Its request goes to this host.
    Sends(Class, u32),
}

#[derive(Debug)]
struct Entry {
    host: u32,
    /// Tells this wait from earlier ones, whose places in the queue are stale.
    wait: u32,
    turn: Turn,
    wake_us: Option<i64>,
}

/// Counts of requests in flight, by class.
#[derive(Clone, Copy, Debug, Default)]
struct Load([usize; CLASSES]);

impl Load {
    /// Whether one more request of this class fits into so many places.
    fn has_room(&self, class: Class, places: usize) -> bool {
        let [first, slow, again] = self.0;
        let share = |of: usize| (places / of).max(1);
        first + slow + again < places
            && match class {
                Class::First => places == 1 || first < places - share(16),
                Class::Slow => slow + again < share(2),
                Class::Again => again < share(4),
            }
    }
}

#[derive(Debug)]
struct Host {
    name: Arc<str>,
    endpoints: usize,
    load: Load,
    waiting: [VecDeque<(Slot, u32)>; CLASSES],
    /// Whether it stands in the ring of the class.
    in_ring: [bool; CLASSES],
}

/// The endpoints of a process.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    entries: Slab<Entry>,
    hosts: Slab<Host>,
    by_name: HashMap<Arc<str>, u32, foldhash::fast::FixedState>,
    /// Hosts to which somebody wants to send, and which may have a place.
    rings: [VecDeque<u32>; CLASSES],
    load: Load,
    times: BTreeSet<(i64, Slot)>,
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("there are fewer endpoints than 2^32")
}

impl Schedule {
    /// A schedule without endpoints.
    pub fn new(limits: Limits) -> Schedule {
        Schedule {
            limits,
            entries: Slab::new(),
            hosts: Slab::new(),
            by_name: HashMap::default(),
            rings: Default::default(),
            load: Load::default(),
            times: BTreeSet::new(),
        }
    }

    /// Adds an endpoint whose URL has this host (with its port).
    pub fn add(&mut self, host: &str) -> Slot {
        let host = self.host(host);
        number(self.entries.insert(Entry { host, wait: 0, turn: Turn::Idle, wake_us: None }))
    }

    /// The host of this name, which has one endpoint more.
    fn host(&mut self, name: &str) -> u32 {
        if let Some(&host) = self.by_name.get(name) {
            self.hosts[host as usize].endpoints += 1;
            return host;
        }
        let name: Arc<str> = name.into();
        let (waiting, in_ring) = (Default::default(), [false; CLASSES]);
        let host = Host { name: Arc::clone(&name), endpoints: 1, load: Load::default(), waiting, in_ring };
        let host = number(self.hosts.insert(host));
        self.by_name.insert(name, host);
        host
    }

    fn leave(&mut self, host: u32) {
        let left = &mut self.hosts[host as usize];
        left.endpoints -= 1;
        self.forget(host);
    }

    /// Forgets a host that has no endpoint, no request and no place in a ring.
    fn forget(&mut self, host: u32) {
        let at = &self.hosts[host as usize];
        if at.endpoints == 0 && at.load.0 == [0; CLASSES] && at.in_ring == [false; CLASSES] {
            self.by_name.remove(&at.name);
            self.hosts.remove(host as usize);
        }
    }

    /// The URL of an endpoint has another host now.
    pub fn move_to(&mut self, slot: Slot, host: &str) {
        let waits = match self.entries[slot as usize].turn {
            Turn::Waits(class) => Some(class),
            _ => None,
        };
        self.cancel(slot);
        let host = self.host(host);
        let old = std::mem::replace(&mut self.entries[slot as usize].host, host);
        self.leave(old);
        if let Some(class) = waits {
            self.want(slot, class);
        }
    }

    /// Removes an endpoint. A request of it that is in flight must have been aborted.
    pub fn remove(&mut self, slot: Slot) {
        self.cancel(slot);
        self.done(slot);
        self.wake(slot, None);
        let entry = self.entries.remove(slot as usize);
        self.leave(entry.host);
    }

    /// An endpoint wants to send. It waits once; one that waits or sends already is left as it is.
    pub fn want(&mut self, slot: Slot, class: Class) {
        let entry = &mut self.entries[slot as usize];
        if entry.turn != Turn::Idle {
            return;
        }
        entry.turn = Turn::Waits(class);
        let (host, wait) = (entry.host, entry.wait);
        self.hosts[host as usize].waiting[class as usize].push_back((slot, wait));
        self.line_up(host, class);
    }

    fn line_up(&mut self, host: u32, class: Class) {
        let at = &mut self.hosts[host as usize];
        let waits = !at.waiting[class as usize].is_empty();
        if waits && !at.in_ring[class as usize] && at.load.has_room(class, self.limits.of_host) {
            at.in_ring[class as usize] = true;
            self.rings[class as usize].push_back(host);
        }
    }

    /// An endpoint does not want to send any more.
    pub fn cancel(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        if let Turn::Waits(_) = entry.turn {
            // Its place in the queue is stale, and is passed over.
            entry.turn = Turn::Idle;
            entry.wait = entry.wait.wrapping_add(1);
        }
    }

    /// The next endpoint that may send, if there is one and a place for it. Its place is taken until [`Schedule::done`].
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: after the end there may be a place again")]
    pub fn next(&mut self) -> Option<Slot> {
        BY_RANK.into_iter().find_map(|class| {
            while self.load.has_room(class, self.limits.places) {
                let host = self.rings[class as usize].pop_front()?;
                self.hosts[host as usize].in_ring[class as usize] = false;
                let slot = self.take(host, class);
                self.line_up(host, class);
                if slot.is_some() {
                    return slot;
                }
                self.forget(host);
            }
            None
        })
    }

    fn take(&mut self, host: u32, class: Class) -> Option<Slot> {
        let at = &mut self.hosts[host as usize];
        if !at.load.has_room(class, self.limits.of_host) {
            return None;
        }
        while let Some((slot, wait)) = at.waiting[class as usize].pop_front() {
            let waits =
                |entry: &&mut Entry| entry.wait == wait && entry.turn == Turn::Waits(class) && entry.host == host;
            let Some(entry) = self.entries.get_mut(slot as usize).filter(waits) else { continue };
            entry.wait = entry.wait.wrapping_add(1);
            entry.turn = Turn::Sends(class, host);
            at.load.0[class as usize] += 1;
            self.load.0[class as usize] += 1;
            return Some(slot);
        }
        None
    }

    /// The request of an endpoint has ended, or its place was not needed.
    pub fn done(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        let Turn::Sends(class, host) = entry.turn else { return };
        entry.turn = Turn::Idle;
        self.hosts[host as usize].load.0[class as usize] -= 1;
        self.load.0[class as usize] -= 1;
        for class in BY_RANK {
            self.line_up(host, class);
        }
        self.forget(host);
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        self.load.0.iter().sum()
    }

    /// Sets when an endpoint is to look again, or that it need not.
    pub fn wake(&mut self, slot: Slot, at_us: Option<i64>) {
        let before = std::mem::replace(&mut self.entries[slot as usize].wake_us, at_us);
        if before == at_us {
            return;
        }
        if let Some(before_us) = before {
            self.times.remove(&(before_us, slot));
        }
        if let Some(at_us) = at_us {
            self.times.insert((at_us, slot));
        }
    }

    /// The next endpoint whose time has come; its time is taken.
    pub fn due(&mut self, now_us: i64) -> Option<Slot> {
        let &(at_us, slot) = self.times.first()?;
        if at_us > now_us {
            return None;
        }
        self.wake(slot, None);
        Some(slot)
    }

    /// When the next endpoint's time comes.
    pub fn next_us(&self) -> Option<i64> {
        self.times.first().map(|&(at_us, _)| at_us)
    }
}

#[cfg(test)]
mod tests;
