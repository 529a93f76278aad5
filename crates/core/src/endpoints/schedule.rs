//! Who may send next, of all endpoints of a process, and who looks again when.
//!
//! Goes in: who wants to send, in which [`Class`], whose request has ended, the time. Comes out: one endpoint after the other,
//! as long as there are places. Every operation takes constant time, or O(log n) where a time is set.
//!
//! - There are places for requests in all, and of each host. Of both, attempts at receivers that failed get a quarter at
//!   most, and together with those at slow receivers half; receivers that have taken nothing yet get half; all of these
//!   three quarters. So a first attempt at a receiver that is known to be well never waits behind the others. A sixteenth is
//!   kept from such attempts, so that a probe waits no longer than a request lasts.
//! - A first attempt that has no answer after [`YOUNG_US`] gives its place back, and goes on: it may be at a receiver that
//!   hangs, which nobody could know. So a thousand such receivers hold up others for a moment only, also on one host. What
//!   bounds memory and connections is the larger number of requests in flight.
//! - Hosts take turns, and the endpoints of a host are served in the order in which they asked.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::endpoint::Class;
use crate::subscriptions::Slot;

/// How many classes there are.
const CLASSES: usize = 4;
const BY_RANK: [Class; CLASSES] = [Class::First, Class::New, Class::Slow, Class::Again];
/// So long a first attempt holds its place, in microseconds, if no answer comes before.
pub const YOUNG_US: i64 = 100_000;

/// How many requests may be in flight.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Places in all.
    pub places: usize,
    /// Places of one host.
    pub of_host: usize,
    /// Requests in flight in all, also those that have given their places back. One host may have half of them.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { places: 2048, of_host: 256, in_flight: 4096 }
    }
}

/// How much there is room for.
#[derive(Clone, Copy, Debug)]
struct Room {
    places: usize,
    in_flight: usize,
}

impl Limits {
    fn in_all(&self) -> Room {
        Room { places: self.places, in_flight: self.in_flight.max(self.places) }
    }

    fn of_host(&self) -> Room {
        Room { places: self.of_host, in_flight: (self.in_flight / 2).max(self.of_host) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Idle,
    /// In the queue of its host.
    Waits(Class),
    /// Its request goes to this host.
    Sends(Class, u32),
    /// The same, without a place.
    Lingers(u32),
}

#[derive(Debug)]
struct Entry {
    host: u32,
    /// Tells this wait from earlier ones, whose places in the queue are stale.
    wait: u32,
    /// The number of its last request.
    request: u64,
    turn: Turn,
    wake_us: Option<i64>,
}

/// Counts of requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    /// Those that have places, by class.
    placed: [usize; CLASSES],
    /// The others.
    lingering: usize,
}

impl Load {
    fn in_flight(&self) -> usize {
        self.placed.iter().sum::<usize>() + self.lingering
    }

    /// Whether there is room for one more request of this class.
    fn has_room(&self, class: Class, Room { places, in_flight }: Room) -> bool {
        let [first, new, slow, again] = self.placed;
        let share = |of: usize| (places / of).max(1);
        let others = places == 1 || new + slow + again < places - share(4);
        first + new + slow + again < places
            && self.in_flight() < in_flight
            && match class {
                Class::First => places == 1 || first < places - share(16),
                Class::New => others && new < share(2),
                Class::Slow => others && slow + again < share(2),
                Class::Again => others && again < share(4),
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
    /// How many endpoints wait.
    waiting: usize,
    /// First attempts by the time of their beginning, until they are settled.
    young: VecDeque<(i64, Slot, u64)>,
    /// Numbers the requests.
    requests: u64,
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
            waiting: 0,
            young: VecDeque::new(),
            requests: 0,
            times: BTreeSet::new(),
        }
    }

    /// Adds an endpoint whose URL has this host (with its port).
    pub fn add(&mut self, host: &str) -> Slot {
        let host = self.host(host);
        number(self.entries.insert(Entry { host, wait: 0, request: 0, turn: Turn::Idle, wake_us: None }))
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
        if at.endpoints == 0 && at.load == Load::default() && at.in_ring == [false; CLASSES] {
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
        self.waiting += 1;
        let (host, wait) = (entry.host, entry.wait);
        self.hosts[host as usize].waiting[class as usize].push_back((slot, wait));
        self.line_up(host, class);
    }

    fn line_up(&mut self, host: u32, class: Class) {
        let at = &mut self.hosts[host as usize];
        let waits = !at.waiting[class as usize].is_empty();
        if waits && !at.in_ring[class as usize] && at.load.has_room(class, self.limits.of_host()) {
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
            self.waiting -= 1;
        }
    }

    /// The next endpoint that may send, if there is one and a place for it. Its place is taken until [`Schedule::done`], or for
    /// [`YOUNG_US`].
    pub fn next(&mut self, now_us: i64) -> Option<Slot> {
        self.settle(now_us);
        BY_RANK.into_iter().find_map(|class| {
            while self.load.has_room(class, self.limits.in_all()) {
                let host = self.rings[class as usize].pop_front()?;
                self.hosts[host as usize].in_ring[class as usize] = false;
                let slot = self.take(host, class, now_us);
                self.line_up(host, class);
                if slot.is_some() {
                    return slot;
                }
                self.forget(host);
            }
            None
        })
    }

    fn take(&mut self, host: u32, class: Class, now_us: i64) -> Option<Slot> {
        let at = &mut self.hosts[host as usize];
        if !at.load.has_room(class, self.limits.of_host()) {
            return None;
        }
        while let Some((slot, wait)) = at.waiting[class as usize].pop_front() {
            let waits =
                |entry: &&mut Entry| entry.wait == wait && entry.turn == Turn::Waits(class) && entry.host == host;
            let Some(entry) = self.entries.get_mut(slot as usize).filter(waits) else { continue };
            entry.wait = entry.wait.wrapping_add(1);
            entry.turn = Turn::Sends(class, host);
            self.waiting -= 1;
            at.load.placed[class as usize] += 1;
            self.load.placed[class as usize] += 1;
            if matches!(class, Class::First | Class::New) {
                self.requests += 1;
                entry.request = self.requests;
                self.young.push_back((now_us, slot, self.requests));
            }
            return Some(slot);
        }
        None
    }

    /// First attempts that have lasted for some time give their places back.
    fn settle(&mut self, now_us: i64) {
        while let Some(&(begun_us, slot, request)) = self.young.front() {
            // One that has begun in the future has done so before the clock was set back.
            if (now_us - YOUNG_US + 1..=now_us).contains(&begun_us) {
                return;
            }
            self.young.pop_front();
            let Some(entry) = self.entries.get_mut(slot as usize).filter(|entry| entry.request == request) else {
                continue;
            };
            let Turn::Sends(class, host) = entry.turn else { continue };
            entry.turn = Turn::Lingers(host);
            for load in [&mut self.load, &mut self.hosts[host as usize].load] {
                load.placed[class as usize] -= 1;
                load.lingering += 1;
            }
            BY_RANK.into_iter().for_each(|class| self.line_up(host, class));
        }
    }

    /// The request of an endpoint has ended, or its place was not needed.
    pub fn done(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        let (host, class) = match entry.turn {
            Turn::Sends(class, host) => (host, Some(class)),
            Turn::Lingers(host) => (host, None),
            Turn::Idle | Turn::Waits(_) => return,
        };
        entry.turn = Turn::Idle;
        for load in [&mut self.load, &mut self.hosts[host as usize].load] {
            match class {
                Some(class) => load.placed[class as usize] -= 1,
                None => load.lingering -= 1,
            }
        }
        BY_RANK.into_iter().for_each(|class| self.line_up(host, class));
        self.forget(host);
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        self.load.in_flight()
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

    /// When the next endpoint's time comes, or there may be a place for one that waits.
    pub fn next_us(&self) -> Option<i64> {
        let place_us = self.young.front().filter(|_| self.waiting > 0).map(|(begun_us, ..)| begun_us + YOUNG_US);
        self.times.first().map(|&(at_us, _)| at_us).into_iter().chain(place_us).min()
    }
}

#[cfg(test)]
mod tests;
