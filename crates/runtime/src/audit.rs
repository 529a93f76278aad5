//! The audit line: who was turned away, and why. It is what fail2ban and its like act on.
//!
//! Goes in: a reason, and an address as far as it is known. Comes out: a log line at level `debug`, of a form that does not change
//! (docs/limits.md). Of each client and reason there are at most [`LINES`] a minute, so that a flood does not fill a disk;
//! what is not written is counted by the caller all the same.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bugfeed_core::admission::Client;
use bugfeed_protocol::log_event::LogEvent;

/// Lines a minute about one client and reason. More than fail2ban's usual number of tries, which is 5.
pub const LINES: u32 = 10;

/// So many clients and reasons are remembered. While there are more in a minute, no line is written about the others.
const MOST: usize = 4096;

const WINDOW: Duration = Duration::from_secs(60);

/// For `RUST_LOG`: `info,bugfeed::audit=debug` writes these lines and leaves the others as they are.
const TARGET: &str = "bugfeed::audit";

/// A reason and a client.
type Key = (&'static str, Option<Client>);

/// Writes audit lines.
#[derive(Debug, Default)]
pub struct Audit {
    /// When the minute of each began, and how many lines it has had.
    windows: Mutex<HashMap<Key, (Instant, u32)>>,
}

impl Audit {
    /// Somebody was turned away.
    pub fn turned_away(&self, kind: &'static str, from: Option<IpAddr>) {
        if let Some(address) = self.address(kind, from) {
            tracing::debug!(target: TARGET, %kind, %address, event = %LogEvent::ClientRefused, "turned away");
        }
    }

    /// Somebody has shown no token, or a bad one.
    pub fn access_refused(&self, kind: &'static str, from: Option<IpAddr>) {
        if let Some(address) = self.address(kind, from) {
            tracing::debug!(target: TARGET, %kind, %address, event = %LogEvent::AccessRefused, "turned away");
        }
    }

    /// The address as it stands in the line; `None` if there is to be none.
    fn address(&self, kind: &'static str, from: Option<IpAddr>) -> Option<String> {
        let is_wanted = tracing::enabled!(target: TARGET, tracing::Level::DEBUG);
        let address = || from.map_or_else(|| "unknown".to_owned(), |address| address.to_canonical().to_string());
        (is_wanted && self.admits(Instant::now(), kind, from)).then(address)
    }

    fn admits(&self, now: Instant, kind: &'static str, from: Option<IpAddr>) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, from.map(Client::of));
        if windows.len() >= MOST && !windows.contains_key(&key) {
            windows.retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
            if windows.len() >= MOST {
                return false;
            }
        }
        let (since, lines) = windows.entry(key).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= WINDOW {
            (*since, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        *lines <= LINES
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_few_lines_a_minute_about_each() {
        let (audit, begin) = (Audit::default(), Instant::now());
        let from = |host: u32| Some(IpAddr::V4(Ipv4Addr::from_bits(host)));
        let lines = |at: u64, kind, from| {
            (0..100).filter(|_| audit.admits(begin + Duration::from_secs(at), kind, from)).count()
        };
        assert_eq!(lines(0, "full", from(1)), LINES as usize);
        assert_eq!((lines(59, "full", from(1)), lines(59, "rate", from(1)), lines(59, "full", from(2))), (0, 10, 10));
        assert_eq!(lines(60, "full", from(1)), LINES as usize);
        assert_eq!(lines(60, "full", None), LINES as usize);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (audit, begin) = (Audit::default(), Instant::now());
        let from = |host: u32| Some(IpAddr::V4(Ipv4Addr::from_bits(host)));
        let most = u32::try_from(MOST).unwrap();
        assert!((0..most).all(|host| audit.admits(begin, "full", from(host))));
        assert!(!audit.admits(begin, "full", from(most)));
        assert!(audit.admits(begin, "full", from(0)), "those that are known go on");
        assert!(audit.admits(begin + WINDOW, "full", from(most)));
        assert_eq!(audit.windows.lock().unwrap().len(), 1);
    }
}
