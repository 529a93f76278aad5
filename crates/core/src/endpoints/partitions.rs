//! Which process serves which endpoints: who takes, and who gives away, so that all have equal shares.
//!
//! Goes in: the leases as one process sees them, and who lives. Comes out: what this process takes, and what it gives away.
//! Every process decides for itself; a lease is taken by a compare-and-set, so two never hold the same. Those who see the
//! same take different ones.
//!
//! The shares differ by one at most. Whoever has the larger share keeps it: those who hold more come first, so that nothing
//! moves once all have their share.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Endpoints are shared out in so many parts. A lease is for a part.
pub const PARTITIONS: u16 = 32;

/// The lease of a partition, as a process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<'a> {
    /// The partition.
    pub partition: u16,
    /// Who holds it; none if nobody ever did, or it was given back.
    pub holder: Option<&'a str>,
    /// The holder has been silent for so long that others may take it.
    pub is_silent: bool,
}

/// What a process sees.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The process.
    pub me: &'a str,
    /// Who else lives, as far as is known.
    pub members: BTreeSet<&'a str>,
    /// The leases of all partitions.
    pub leases: Vec<Lease<'a>>,
}

/// What to do. At most one of the lists has entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Take these, which nobody holds who lives.
    pub take: Vec<u16>,
    /// Let these go, and give them back.
    pub give: Vec<u16>,
}

/// Decides for one process.
pub fn plan(view: &View<'_>) -> Plan {
    let (mut held, mut free) = (BTreeMap::from([(view.me, Vec::new())]), Vec::new());
    held.extend(view.members.iter().filter(|member| **member != view.me).map(|member| (*member, Vec::new())));
    for lease in &view.leases {
        match lease.holder {
            Some(holder) if !lease.is_silent || holder == view.me => {
                held.entry(holder).or_default().push(lease.partition);
            }
            _ => free.push(lease.partition),
        }
    }
    let mut order: Vec<(&str, Vec<u16>)> = held.into_iter().collect();
    order.sort_by_key(|(_, held)| Reverse(held.len()));
    let (share, larger) = (view.leases.len() / order.len(), view.leases.len() % order.len());
    free.sort_unstable();
    let mut free = free.into_iter();
    for (place, (holder, mut held)) in order.into_iter().enumerate() {
        let target = share + usize::from(place < larger);
        let take: Vec<u16> = free.by_ref().take(target.saturating_sub(held.len())).collect();
        if holder == view.me {
            held.sort_unstable();
            let give = held.split_off(target.min(held.len()));
            return Plan { take, give };
        }
    }
    Plan::default()
}

#[cfg(test)]
mod tests;
