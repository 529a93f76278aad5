//! How many requests a minute may go to quarantine, so that nobody fills it with nonsense.
//!
//! Goes in: share, source and address of a request, and its size. Comes out: whether it may be offered to the store. It
//! remembers a bounded number of senders; where there are more, those that are new share one allowance for each share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::limits::ReceiverLimits;
use crate::receive::received::Share;

/// Senders that are remembered one by one.
const MOST_SENDERS: usize = 4096;
const MINUTE_US: i64 = 60_000_000;

/// Who sends: of an IPv6 address, the network of 64 bits, because one machine may use all of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sender {
    share: Share,
    source: String,
    network: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since_us: i64,
    requests: u32,
    bytes: u64,
}

/// The allowances of all senders.
#[derive(Debug)]
pub(super) struct Rate {
    requests: u32,
    bytes: u64,
    windows: Mutex<HashMap<Sender, Window>>,
}

impl Rate {
    pub(super) fn new(limits: &ReceiverLimits) -> Rate {
        let (requests, bytes) = (limits.quarantine_per_minute, u64::from(limits.quarantine_bytes_per_minute));
        Rate { requests, bytes, windows: Mutex::default() }
    }

    /// Counts a request, and says whether it is within the allowance.
    pub(super) fn admit(&self, share: Share, source: &str, address: IpAddr, bytes: u64, now_us: i64) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sender = Sender { share, source: source.to_owned(), network: Some(network(address)) };
        let is_over = |window: &Window| !(0..MINUTE_US).contains(&(now_us - window.since_us));
        if !windows.contains_key(&sender) && windows.len() >= MOST_SENDERS {
            windows.retain(|_, window| !is_over(window));
            if windows.len() >= MOST_SENDERS {
                sender = Sender { share, source: String::new(), network: None };
            }
        }
        let window = windows.entry(sender).or_insert(Window { since_us: now_us, requests: 0, bytes: 0 });
        if is_over(window) {
            *window = Window { since_us: now_us, requests: 0, bytes: 0 };
        }
        let fits = window.requests < self.requests && window.bytes.saturating_add(bytes) <= self.bytes;
        if fits {
            window.requests += 1;
            window.bytes += bytes;
        }
        fits
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate() -> Rate {
        Rate::new(&ReceiverLimits { quarantine_per_minute: 2, quarantine_bytes_per_minute: 100, ..Default::default() })
    }

    #[test]
    fn each_sender_has_an_allowance_of_requests_and_bytes() {
        let rate = rate();
        let admit = |source: &str, address: [u8; 4], bytes, now_us| {
            rate.admit(Share::KnownSource, source, IpAddr::from(address), bytes, now_us)
        };
        assert!(admit("a", [1, 2, 3, 4], 1, 0) && admit("a", [1, 2, 3, 4], 1, 5));
        assert!(!admit("a", [1, 2, 3, 4], 1, MINUTE_US - 1), "the third in a minute");
        assert!(admit("b", [1, 2, 3, 4], 60, 6) && admit("a", [1, 2, 3, 5], 1, 6), "of another sender");
        assert!(!admit("b", [1, 2, 3, 4], 41, 6), "too many bytes");
        assert!(rate.admit(Share::KnownSender, "a", IpAddr::from([1, 2, 3, 4]), 1, 6), "another share");
        assert!(admit("a", [1, 2, 3, 4], 1, MINUTE_US), "in the next minute");
        assert!(admit("a", [1, 2, 3, 4], 1, -5), "after the clock was set back");
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 1, 1, 0, 0, 0, last]);
        let admit = |last| rate.admit(Share::KnownSource, "a", v6(last), 1, 0);
        assert_eq!([admit(1), admit(2), admit(3)], [true, true, false], "one network");
    }

    #[test]
    fn ever_more_senders_share_an_allowance() {
        let rate = rate();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let number = u32::try_from(MOST_SENDERS).unwrap();
        let admit = |number, now_us| rate.admit(Share::UnknownSource, "x", address(number), 1, now_us);
        assert!((0..number).all(|number| admit(number, 0)));
        let more: Vec<bool> = (number..number + 3).map(|number| admit(number, 0)).collect();
        assert_eq!(more, [true, true, false]);
        assert!(admit(0, 0), "who is known keeps its own");
        assert!(admit(number + 9, MINUTE_US), "old ones are forgotten");
        assert_eq!(rate.windows.lock().unwrap().len(), 1);
    }
}
