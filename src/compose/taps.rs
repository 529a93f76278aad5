//! The feeds of a process, as endpoints are served from them.
//!
//! Goes in: feeds as sessions have them. Comes out: what the executor of endpoints asks. It knows nothing of where the
//! changes come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugfeed_core::endpoints::question::{Answer, Ask};
use bugfeed_gateway::feed::{Feed, Tap};
use bugfeed_hooks::deliver::template::Link;
use bugfeed_hooks::endpoints::FeedTap;
use bugfeed_protocol::BugId;
use tokio::sync::watch;

/// One feed.
struct FeedOfProcess {
    tap: Tap,
    link: Option<Link>,
}

impl FeedTap for FeedOfProcess {
    fn name(&self) -> &Arc<str> {
        self.tap.name()
    }

    fn ask(&self, ask: &Ask<'_>) -> Answer {
        self.tap.ask(ask)
    }

    fn seen(&self) -> watch::Receiver<u64> {
        self.tap.seen()
    }

    fn bugs_since(&self, pos: u64) -> Option<(Vec<BugId>, u64)> {
        self.tap.bugs_since(pos)
    }

    fn head(&self) -> u64 {
        self.tap.mark()
    }

    fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }
}

/// The tap of a feed. `trackers` says where people read about its bugs, by feed: an address with `{bug}` for the number.
pub(super) fn tap(feed: &Feed, trackers: &BTreeMap<String, String>) -> Arc<dyn FeedTap> {
    let link = trackers.get(&feed.name).and_then(|pattern| Link::parse(pattern).ok());
    Arc::new(FeedOfProcess { tap: feed.tap(), link })
}
