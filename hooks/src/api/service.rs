//! What the process around the API does for it: it knows the configuration, talks to trackers, and
//! serves endpoints.
//!
//! The composition of the process implements this. No call waits for long, except the questions to a tracker, which have
//! bounds of their own.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bugfeed_core::endpoints::question::{Since, Told};
use bugfeed_protocol::{BugId, Cursor};
use serde_json::Value;

use crate::config::HooksConfig;
use crate::deliver::address::Rules;
use crate::deliver::template::Link;
use crate::receive::received::Failure;
use crate::store::endpoints::EndpointId;
use crate::store::notes::Switch;

/// What is being done.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What: a few words, such as `tracker`.
    pub what: String,
    /// Whether it is good.
    pub is_good: bool,
    /// What was found, in a sentence.
    pub says: String,
}

/// The process around the API.
pub trait Service: Send + Sync + 'static {
    /// The configuration by which it goes now.
    fn config(&self) -> Arc<HooksConfig>;

    /// Keys were made, changed or revoked: the table in memory is to be read again.
    fn keys_changed(&self);

    /// Something is due now that was not before: retried or received again.
    fn wake(&self);

    /// A source or feed was switched off or on, in the store. When it was switched on, the events that wait are to be
    /// moved: see [`super::switch_on`]. Returns at once.
    fn switched(&self, what: Switch, name: &str, is_on: bool);

    /// Asks a source's tracker what changed, now instead of at the next turn. Returns once that has been begun, not when
    /// it has ended.
    fn reconcile<'a>(&'a self, source: &'a str) -> Doing<'a, Result<(), Failure>>;

    /// Looks whether what a source needs is there: above all, whether its tracker answers.
    fn test<'a>(&'a self, source: &'a str) -> Doing<'a, Vec<Check>>;

    /// What is known of the sender's own state, such as Bugzilla's list of webhooks; null where nothing is.
    fn sender(&self, source: &str) -> Value;

    /// Warnings and errors as `/readyz` has them, a sentence each.
    fn warnings(&self) -> Vec<String>;

    /// The feeds that an endpoint may name: those that are served here.
    fn feeds(&self) -> Vec<String> {
        self.config().feeds().into_iter().map(str::to_owned).collect()
    }

    /// Where requests to endpoints may go.
    fn rules(&self) -> Rules {
        Rules::default()
    }

    /// The addresses that a name has now; none where nobody looks it up.
    fn addresses<'a>(&'a self, _host: &'a str) -> Doing<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Where the bugs of a feed can be looked at, if that is known.
    fn link(&self, _feed: &str) -> Option<Link> {
        None
    }

    /// Where an endpoint begins in a feed that it gets at this time, in microseconds since 1970: a cursor if that is known,
    /// else the time. Never at [`Since::Head`]: that would begin anew in a process that takes over before anything is
    /// stored, and what changed until then would be missed.
    fn begin(&self, feed: &str, now_us: i64) -> Since;

    /// Whether a feed has changes of this bug after a cursor. `None`: that cannot be told, because the feed is not here, or
    /// not current, or does not reach back so far.
    fn has_after(&self, _feed: &str, _bug: BugId, _since: &Since) -> Option<bool> {
        None
    }

    /// The newest change of this bug that a feed knows, whoever brought it. `None`: it knows of none, or cannot tell.
    fn newest(&self, _feed: &str, _bug: BugId) -> Option<Told> {
        None
    }

    /// Whether a feed can go on from this cursor, or would have to say that changes may be missing; `None` while it cannot
    /// tell.
    fn knows(&self, _feed: &str, _cursor: &Cursor) -> Option<bool> {
        None
    }

    /// An endpoint was made, changed or deleted, in the store: whoever serves it here need not wait until it is noticed.
    /// Returns at once.
    fn endpoint_changed(&self, _id: &EndpointId) {}
}
