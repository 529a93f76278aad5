//! Who is let in: bounds on connections, and on new ones a second, of all clients together and of each client.
//!
//! Goes in: that a connection came, that its client became known, that it left; and the time. Comes out: whether it is let in,
//! or why not and when to come back. It has no clock, and looks at no socket.
//!
//! A client is an IPv4 address, or the /64 of an IPv6 address, because who has one address of a /64 usually has all of them.
//! The new connections of a second are counted by token buckets: so many a second, and so many at once after a pause. A
//! refusal takes nothing, and what one client is refused costs the others nothing: its own bounds are looked at first.
//!
//! **Memory.** A client that has no connection and whose bucket is full is as good as never seen, and is forgotten. Those that
//! cannot be forgotten have a connection, or had one within the time that a bucket takes to fill. At most so many clients
//! are known as there may be connections, and [`SPARE_CLIENTS`] more. When one more comes, the one without a connection
//! whose bucket is full first is forgotten: it may then do again at once what it would have had to wait for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// So many clients without a connection are remembered at least.
pub const SPARE_CLIENTS: usize = 4096;

/// How long who finds no place is asked to stay away, in seconds: about the time in which some client leaves.
const FULL_RETRY_S: u32 = 5;

/// The same for a client that has all the connections it may have: they are its own, and it may have forgotten some.
const CLIENT_FULL_RETRY_S: u32 = 30;

const SECOND_NS: u64 = 1_000_000_000;

/// What stands for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// An IPv4 address, also one that is written as IPv6 (`::ffff:192.0.2.1`).
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl Client {
    /// The client that has this address.
    pub fn of(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(v4) => Client::V4(v4.to_bits()),
            IpAddr::V6(v6) => Client::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

impl Client {
    /// An address of this client: of IPv6 the first one of its /64.
    pub fn address(self) -> IpAddr {
        match self {
            Client::V4(bits) => Ipv4Addr::from_bits(bits).into(),
            Client::V6(bits) => Ipv6Addr::from_bits(u128::from(bits) << 64).into(),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::V4(bits) => write!(f, "{}", Ipv4Addr::from_bits(*bits)),
            Client::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*bits) << 64)),
        }
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back each second; at least 1.
    pub per_second: u32,
    /// Tokens of a full bucket; at least 1.
    pub burst: u32,
}

/// Bounds of a listener. `None` is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time of one client.
    pub connections_per_client: Option<u32>,
    /// New connections of all clients.
    pub rate: Option<Rate>,
    /// New connections of one client, and its further requests on a connection.
    pub rate_per_client: Option<Rate>,
}

impl AdmissionLimits {
    /// So many connections at a time, and no other bound.
    pub const fn connections(connections: usize) -> AdmissionLimits {
        AdmissionLimits { connections, connections_per_client: None, rate: None, rate_per_client: None }
    }

    /// Whether one client has bounds of its own.
    pub const fn has_bounds_per_client(&self) -> bool {
        self.connections_per_client.is_some() || self.rate_per_client.is_some()
    }
}

impl Default for AdmissionLimits {
    /// No bound at all.
    fn default() -> AdmissionLimits {
        AdmissionLimits::connections(usize::MAX)
    }
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All places are taken.
    Full,
    /// Too many new connections a second.
    Rate,
    /// The client has as many connections as one may have.
    ClientFull,
    /// Too many new connections a second of this client.
    ClientRate,
}

impl Reason {
    /// How it is counted.
    pub const fn kind(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Rate => "rate",
            Reason::ClientFull => "address_full",
            Reason::ClientRate => "address_rate",
        }
    }
}

/// Somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// When to come back, in seconds; at least 1.
    pub retry_after_s: u32,
}

/// A bucket's arithmetic (GCRA). Of a bucket itself only the time is kept at which it is full.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long one token takes to come back, in ns.
    every_ns: u64,
    /// How long all tokens but one take.
    ahead_ns: u64,
}

impl Pace {
    fn of(rate: Rate) -> Pace {
        let every_ns = SECOND_NS / u64::from(rate.per_second.max(1));
        Pace { every_ns, ahead_ns: every_ns * u64::from(rate.burst.max(1) - 1) }
    }

    /// Takes a token. Returns when the bucket is full then, or how long until there is a token, in ns.
    fn take(&self, full_at_ns: u64, now_ns: u64) -> Result<u64, u64> {
        let full_at_ns = full_at_ns.max(now_ns);
        match (full_at_ns - now_ns).checked_sub(self.ahead_ns) {
            None | Some(0) => Ok(full_at_ns + self.every_ns),
            Some(wait_ns) => Err(wait_ns),
        }
    }
}

/// What is remembered of a client.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    open: u32,
    full_at_ns: u64,
}

/// The planner of one listener.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    pace: Option<Pace>,
    client_pace: Option<Pace>,
    open: usize,
    full_at_ns: u64,
    clients: BTreeMap<Client, Known>,
    /// Those of them without a connection, by when their bucket is full.
    idle: BTreeSet<(u64, Client)>,
}

impl Admission {
    /// Nobody is connected, and all buckets are full.
    pub fn new(limits: AdmissionLimits) -> Admission {
        Admission {
            limits,
            pace: limits.rate.map(Pace::of),
            client_pace: limits.rate_per_client.map(Pace::of),
            open: 0,
            full_at_ns: 0,
            clients: BTreeMap::new(),
            idle: BTreeSet::new(),
        }
    }

    /// A connection came; `client` is who it is of, where that is known. If it is let in, it has a place of all and, if the
    /// client is known, one of the client's: [`disconnect`](Admission::disconnect) and [`leave`](Admission::leave) give
    /// them back.
    ///
    /// # Errors
    /// Says why it is not let in.
    pub fn connect(&mut self, now_ns: u64, client: Option<Client>) -> Result<(), Refusal> {
        let known = client.map(|client| self.look_at(now_ns, client, 1)).transpose()?;
        if self.open >= self.limits.connections {
            return Err(Refusal { reason: Reason::Full, retry_after_s: FULL_RETRY_S });
        }
        if let Some(pace) = &self.pace {
            self.full_at_ns = pace.take(self.full_at_ns, now_ns).map_err(|wait| refusal(Reason::Rate, wait))?;
        }
        self.open += 1;
        if let (Some(client), Some(known)) = (client, known) {
            self.remember(now_ns, client, known);
        }
        Ok(())
    }

    /// The client of a connection that was let in has become known. It has a place of the client's then, which
    /// [`leave`](Admission::leave) gives back.
    ///
    /// # Errors
    /// Says why it is not let in.
    pub fn join(&mut self, now_ns: u64, client: Client) -> Result<(), Refusal> {
        let known = self.look_at(now_ns, client, 1)?;
        self.remember(now_ns, client, known);
        Ok(())
    }

    /// A client that has a place asks for something more: one token.
    ///
    /// # Errors
    /// Says why it does not get it.
    pub fn ask(&mut self, now_ns: u64, client: Client) -> Result<(), Refusal> {
        let known = self.look_at(now_ns, client, 0)?;
        self.remember(now_ns, client, known);
        Ok(())
    }

    /// A place of this client's is free again.
    pub fn leave(&mut self, client: Client) {
        let Some(known) = self.clients.get_mut(&client) else { return };
        let was_open = known.open > 0;
        known.open = known.open.saturating_sub(1);
        if was_open && known.open == 0 {
            self.idle.insert((known.full_at_ns, client));
        }
    }

    /// A place of all is free again.
    pub fn disconnect(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Places that are taken, and places that there are.
    pub fn places(&self) -> (usize, usize) {
        (self.open, self.limits.connections)
    }

    /// Clients that are remembered.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// What would be known of a client if it took `more` places and a token.
    fn look_at(&self, now_ns: u64, client: Client, more: u32) -> Result<Known, Refusal> {
        let mut known = self.clients.get(&client).copied().unwrap_or_default();
        if self.limits.connections_per_client.is_some_and(|most| more > 0 && known.open >= most) {
            return Err(Refusal { reason: Reason::ClientFull, retry_after_s: CLIENT_FULL_RETRY_S });
        }
        known.open += more;
        if let Some(pace) = &self.client_pace {
            known.full_at_ns = pace.take(known.full_at_ns, now_ns).map_err(|wait| refusal(Reason::ClientRate, wait))?;
        }
        Ok(known)
    }

    fn remember(&mut self, now_ns: u64, client: Client, known: Known) {
        if !self.limits.has_bounds_per_client() {
            return;
        }
        self.forget(now_ns);
        match self.clients.insert(client, known) {
            Some(before) if before.open == 0 => drop(self.idle.remove(&(before.full_at_ns, client))),
            Some(_) => {}
            None if self.clients.len() > self.limits.connections.saturating_add(SPARE_CLIENTS) => {
                if let Some((_, first)) = self.idle.pop_first() {
                    self.clients.remove(&first);
                }
            }
            None => {}
        }
        if known.open == 0 {
            self.idle.insert((known.full_at_ns, client));
        }
    }

    /// Forgets the clients that are as good as never seen.
    fn forget(&mut self, now_ns: u64) {
        while let Some(&(full_at_ns, client)) = self.idle.first() {
            if full_at_ns > now_ns {
                return;
            }
            self.idle.pop_first();
            self.clients.remove(&client);
        }
    }
}

fn refusal(reason: Reason, wait_ns: u64) -> Refusal {
    Refusal { reason, retry_after_s: u32::try_from(wait_ns.div_ceil(SECOND_NS)).unwrap_or(u32::MAX).max(1) }
}

#[cfg(test)]
mod tests;
