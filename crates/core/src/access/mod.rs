//! Who may see what: the decisions about tokens, without signatures, files and clocks.
//!
//! Goes in: what a token says ([`Claims`], or an entry of a file), and the time as an argument. Comes out: a [`Grant`], or the
//! reason why there is none ([`Refused`]); whether a grant covers a subscription; when a session is over. Never sees a token
//! itself: whoever checks its signature, or looks for its hash, comes before.

mod claims;
mod refused;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bugfeed_protocol::client::WhichBugs;
use bugfeed_protocol::{BugId, When};

pub use claims::{Claims, Policy};
pub use refused::Refused;

/// The SHA-256 of a token in a file. It stands for the token wherever the token is to be found again.
pub type TokenId = [u8; 32];

/// The feeds that a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedScope {
    /// All of them.
    All,
    /// Those with these names.
    These(BTreeSet<String>),
}

/// The bugs that a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BugScope {
    /// All of them, also those that do not exist yet.
    All,
    /// These.
    These(BTreeSet<BugId>),
}

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The feeds that it is for.
    pub feeds: FeedScope,
    /// The bugs of those feeds that it is for.
    pub bugs: BugScope,
    /// How many bugs a session may watch with it, if it says that. "All bugs" is more than any number.
    pub max_subscriptions: Option<usize>,
    /// When it expires, as clients are told.
    pub expires: Option<When>,
    /// When its sessions end: the same, and what clocks may differ by.
    pub ends: Option<When>,
    /// By which it is found again in the file, if it stands in one. It may be taken away while a session runs.
    pub id: Option<TokenId>,
}

impl Grant {
    /// Whether the token is for this feed.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_feed(&self, feed: &str) -> Result<(), Refused> {
        match &self.feeds {
            FeedScope::All => Ok(()),
            FeedScope::These(names) if names.contains(feed) => Ok(()),
            FeedScope::These(_) => Err(Refused::Feed),
        }
    }

    /// Whether a session that watches `watched` may watch these bugs in addition.
    ///
    /// # Errors
    /// Why not, in a sentence for whoever asked. Names no more than one bug, which is one of those asked for.
    pub fn check_bugs(&self, more: &WhichBugs, watched: &[BugId], watches_all: bool) -> Result<(), String> {
        match (more, &self.bugs) {
            (WhichBugs::All, BugScope::These(_)) => return Err("this token is not for all bugs".to_owned()),
            (WhichBugs::These(bugs), BugScope::These(scope)) => {
                if let Some(bug) = bugs.iter().find(|bug| !scope.contains(bug)) {
                    return Err(format!("this token is not for bug {}", bug.get()));
                }
            }
            (_, BugScope::All) => {}
        }
        let Some(most) = self.max_subscriptions else { return Ok(()) };
        let fits = match more {
            WhichBugs::All => false,
            WhichBugs::These(bugs) => {
                let new = bugs.iter().filter(|bug| watched.binary_search(bug).is_err()).count();
                !watches_all && watched.len() + new <= most
            }
        };
        if fits { Ok(()) } else { Err(format!("this token may watch at most {most} bugs")) }
    }

    /// Whether a session on this feed that watches these bugs may go on with this token.
    ///
    /// # Errors
    /// Why not.
    pub fn check_session(&self, feed: &str, watched: &[BugId], watches_all: bool) -> Result<(), String> {
        self.check_feed(feed).map_err(|refused| refused.text().to_owned())?;
        if watches_all {
            self.check_bugs(&WhichBugs::All, &[], false)?;
        }
        self.check_bugs(&WhichBugs::These(watched.to_vec()), &[], false)
    }
}

/// What a session may do, and until when. A session on a gateway that wants no tokens has none.
#[derive(Clone, Debug)]
pub struct Pass {
    /// What its token allows. `None`: it has shown none yet.
    pub grant: Option<Arc<Grant>>,
    /// When the session is over, in the milliseconds of the shard's clock.
    pub ends_ms: u64,
}

impl Pass {
    /// The pass of a session that has to show a token until then.
    pub fn awaited(until_ms: u64) -> Pass {
        Pass { grant: None, ends_ms: until_ms }
    }

    /// The pass of a session with this grant. `now_ms` is the shard's clock, `now` the date.
    pub fn granted(grant: Arc<Grant>, now_ms: u64, now: When) -> Pass {
        let left_us = |ends: When| u64::try_from(ends.as_micros() - now.as_micros()).unwrap_or(0);
        let ends_ms = grant.ends.map_or(u64::MAX, |ends| now_ms.saturating_add(left_us(ends).div_ceil(1000)));
        Pass { grant: Some(grant), ends_ms }
    }
}

/// The passes of all tokens that stand in the file now, by which running sessions are compared with it.
pub type Tokens = HashMap<TokenId, Pass>;

#[cfg(test)]
mod tests;
