//! The feeds of a process, as endpoints are served from them.
//!
//! Goes in: feeds as sessions have them. Comes out: what the executor of endpoints asks. It knows nothing of where the
//! changes come from.

use std::collections::{BTreeMap, BTreeSet};
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

/// Refuses an address for a feed that is not served here: nobody would notice that its links are missing.
///
/// # Errors
/// Names the feed of `--tracker-url`, and those that there are.
pub(super) fn check_trackers<'a>(
    trackers: &BTreeMap<String, String>,
    served: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<()> {
    let served: BTreeSet<&str> = served.into_iter().collect();
    if let Some(unknown) = trackers.keys().find(|name| !served.contains(name.as_str())) {
        let served: Vec<&str> = served.into_iter().collect();
        anyhow::bail!(
            "--tracker-url is for the feed '{unknown}', which is not served here; for another one, write --tracker-url \
             NAME=URL; served are: {}",
            served.join(", ")
        );
    }
    Ok(())
}

/// The tap of a feed. `trackers` says where people read about its bugs, by feed: an address with `{bug}` for the number.
pub(super) fn tap(feed: &Feed, trackers: &BTreeMap<String, String>) -> Arc<dyn FeedTap> {
    // The option was read with the same rule, so no pattern is lost here.
    let link = trackers.get(&feed.name).and_then(|pattern| Link::parse(pattern).ok());
    Arc::new(FeedOfProcess { tap: feed.tap(), link })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_of_no_feed_is_refused() {
        let trackers = BTreeMap::from([("kdee".to_owned(), "https://bugs.example.org/{bug}".to_owned())]);
        check_trackers(&trackers, ["kdee", "default"]).unwrap();
        let error = check_trackers(&trackers, ["kde", "default"]).unwrap_err().to_string();
        assert!(error.contains("'kdee'") && error.ends_with("served are: default, kde"), "{error}");
    }
}
