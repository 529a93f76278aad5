//! Tickets: what a page gets for its token, to put into the URL of an `EventSource`, which can send no header.
//!
//! Goes in: a grant and a feed. Comes out: a text that opens that feed once, within [`LIFE_S`] seconds. A ticket is sealed, so it
//! says nothing and cannot be made by others; it holds no token. Gateways that share a key take one another's tickets, each of
//! them once.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bugfeed_core::access::{BugScope, FeedScope, Grant, Refused};
use bugfeed_protocol::{BugId, When};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::file::Table;

/// How long a ticket is good, in seconds.
pub const LIFE_S: u64 = 30;

/// The longest ticket, in bytes: the head of a request has room for 16 KiB.
const LONGEST: usize = 12 * 1024;

/// So many tickets that were used are remembered, as long as they would be good. Beyond that none is taken.
const MOST_USED: usize = 100_000;

/// The shortest key in a file, in bytes.
const SHORTEST_KEY: usize = 32;

/// Gives tickets and takes them.
pub(super) struct Tickets {
    key: LessSafeKey,
    random: SystemRandom,
    /// The tickets that were used, and until when they would be good, in milliseconds since 1970.
    used: Mutex<HashMap<[u8; NONCE_LEN], u64>>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

/// What is in a ticket.
#[derive(Serialize, Deserialize)]
struct Sealed {
    /// Until when it is good, in milliseconds since 1970.
    until_ms: u64,
    feed: String,
    rights: Rights,
}

/// A token in a file may name many bugs, and may be taken away: its ticket only says which one it is.
#[derive(Serialize, Deserialize)]
enum Rights {
    InFile([u8; 32]),
    Signed {
        feeds: Option<Vec<String>>,
        bugs: Option<Vec<u64>>,
        max_subscriptions: Option<usize>,
        expires_us: Option<i64>,
        ends_us: Option<i64>,
    },
}

impl Tickets {
    /// With a key of its own, or with the one in a file.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(super) fn new(key: Option<&Path>) -> Result<Tickets, String> {
        let random = SystemRandom::new();
        let mut bytes = [0; 32];
        match key {
            None => random.fill(&mut bytes).map_err(|_| "the system gives no random numbers".to_owned())?,
            Some(path) => {
                let told = |error: String| format!("--ticket-key-file {}: {error}", path.display());
                let text = fs::read(path).map_err(|error| told(error.to_string()))?;
                if text.trim_ascii().len() < SHORTEST_KEY {
                    return Err(told(format!(
                        "a key has at least {SHORTEST_KEY} bytes; make one with `openssl rand -hex 32`"
                    )));
                }
                bytes.copy_from_slice(digest::digest(&digest::SHA256, text.trim_ascii()).as_ref());
            }
        }
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| "no key for tickets".to_owned())?;
        Ok(Tickets { key: LessSafeKey::new(key), random, used: Mutex::default() })
    }

    /// A ticket for this feed.
    ///
    /// # Errors
    /// If what it would have to say is too long for a URL, or the system gives no random numbers.
    pub(super) fn give(&self, grant: &Grant, feed: &str, now_ms: u64) -> Result<String, String> {
        let sealed = Sealed { until_ms: now_ms + LIFE_S * 1000, feed: feed.to_owned(), rights: rights_of(grant) };
        let mut text = serde_json::to_vec(&sealed).map_err(|error| error.to_string())?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| "the system gives no random numbers".to_owned())?;
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .map_err(|_| "the ticket could not be sealed".to_owned())?;
        let ticket = URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat());
        match ticket.len() <= LONGEST {
            true => Ok(ticket),
            false => Err("this token names too many bugs for a ticket; send it in the header Authorization".to_owned()),
        }
    }

    /// Takes a ticket for this feed, and what it allows. `table` has the tokens that stand in the file now.
    ///
    /// # Errors
    /// If it was used, is too old, is for another feed, or is none; or if its token was taken away.
    pub(super) fn take(&self, ticket: &str, feed: &str, table: &Table, now_ms: u64) -> Result<Arc<Grant>, Refused> {
        let bytes = Some(ticket).filter(|ticket| ticket.len() <= LONGEST);
        let mut bytes = bytes.and_then(|ticket| URL_SAFE_NO_PAD.decode(ticket).ok()).ok_or(Refused::Ticket)?;
        let (nonce, text) = bytes.split_first_chunk_mut::<NONCE_LEN>().ok_or(Refused::Ticket)?;
        let nonce = *nonce;
        let text = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), text)
            .map_err(|_| Refused::Ticket)?;
        let sealed: Sealed = serde_json::from_slice(text).map_err(|_| Refused::Ticket)?;
        if sealed.until_ms <= now_ms || sealed.feed != feed || !self.is_first(nonce, sealed.until_ms, now_ms) {
            return Err(Refused::Ticket);
        }
        match sealed.rights {
            Rights::InFile(id) => table.get(&id).cloned().ok_or(Refused::Unknown),
            Rights::Signed { feeds, bugs, max_subscriptions, expires_us, ends_us } => Ok(Arc::new(Grant {
                feeds: feeds.map_or(FeedScope::All, |names| FeedScope::These(names.into_iter().collect())),
                bugs: bugs
                    .map_or(BugScope::All, |bugs| BugScope::These(bugs.into_iter().filter_map(BugId::new).collect())),
                max_subscriptions,
                expires: expires_us.and_then(When::from_micros),
                ends: ends_us.and_then(When::from_micros),
                id: None,
            })),
        }
    }

    /// Whether the ticket is used for the first time. It is remembered.
    fn is_first(&self, nonce: [u8; NONCE_LEN], until_ms: u64, now_ms: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MOST_USED {
            used.retain(|_, until_ms| *until_ms > now_ms);
        }
        used.len() < MOST_USED && used.insert(nonce, until_ms).is_none()
    }

    /// Forgets the tickets that would not be good any more.
    pub(super) fn forget_old(&self, now_ms: u64) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until_ms| *until_ms > now_ms);
    }
}

fn rights_of(grant: &Grant) -> Rights {
    if let Some(id) = grant.id {
        return Rights::InFile(id);
    }
    Rights::Signed {
        feeds: match &grant.feeds {
            FeedScope::All => None,
            FeedScope::These(names) => Some(names.iter().cloned().collect()),
        },
        bugs: match &grant.bugs {
            BugScope::All => None,
            BugScope::These(bugs) => Some(bugs.iter().map(|bug| bug.get()).collect()),
        },
        max_subscriptions: grant.max_subscriptions,
        expires_us: grant.expires.map(When::as_micros),
        ends_us: grant.ends.map(When::as_micros),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn grant(bugs: std::ops::Range<u64>) -> Grant {
        Grant {
            feeds: FeedScope::These(["kde".to_owned()].into()),
            bugs: BugScope::These(bugs.filter_map(BugId::new).collect()),
            max_subscriptions: Some(5),
            expires: When::from_micros(7),
            ends: When::from_micros(8),
            id: None,
        }
    }

    #[test]
    fn a_ticket_is_taken_once_in_time_and_for_its_feed() {
        let (tickets, table) = (Tickets::new(None).unwrap(), Table::new());
        let give = || tickets.give(&grant(1..3), "kde", 1000).unwrap();
        let ticket = give();
        assert!(ticket.len() < 300 && !ticket.contains("kde"));
        assert_eq!(*tickets.take(&ticket, "kde", &table, 1000).unwrap(), grant(1..3));
        assert_eq!(tickets.take(&ticket, "kde", &table, 1001), Err(Refused::Ticket), "once");
        let (late, last) = (give(), give());
        assert_eq!(tickets.take(&late, "kde", &table, 31_000), Err(Refused::Ticket));
        assert!(tickets.take(&last, "kde", &table, 30_999).is_ok());
        assert_eq!(tickets.take(&give(), "default", &table, 1000), Err(Refused::Ticket));
        let forged = give().replace(['A', 'b'], "c");
        for bad in ["", "x", "AAAA", &forged, &"A".repeat(100_000)] {
            assert_eq!(tickets.take(bad, "kde", &table, 1000), Err(Refused::Ticket));
        }
        let other = Tickets::new(None).unwrap();
        assert_eq!(other.take(&give(), "kde", &table, 1000), Err(Refused::Ticket), "another gateway");
        tickets.forget_old(31_000);
        assert!(tickets.used.lock().unwrap().is_empty());
    }

    #[test]
    fn a_token_that_was_taken_away_takes_its_tickets_along() {
        let tickets = Tickets::new(None).unwrap();
        let stands = Arc::new(Grant { id: Some([7; 32]), ..grant(1..100_000) });
        let give = || tickets.give(&stands, "kde", 1000).unwrap();
        let table = Table::from([([7; 32], Arc::clone(&stands))]);
        assert_eq!(tickets.take(&give(), "kde", &table, 1000), Ok(Arc::clone(&stands)));
        assert_eq!(tickets.take(&give(), "kde", &Table::new(), 1000), Err(Refused::Unknown));
        assert!(tickets.give(&grant(1..100_000), "kde", 1000).unwrap_err().contains("too many bugs"));
    }

    #[test]
    fn gateways_that_share_a_key_take_one_anothers() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert!(Tickets::new(Some(file.path())).unwrap_err().contains("openssl rand"));
        writeln!(file, "{}", "0123456789abcdef".repeat(4)).unwrap();
        let [one, two] = [0; 2].map(|_| Tickets::new(Some(file.path())).unwrap());
        let ticket = one.give(&grant(1..3), "kde", 1000).unwrap();
        assert!(two.take(&ticket, "kde", &Table::new(), 1000).is_ok());
    }
}
