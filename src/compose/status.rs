//! What a process that serves clients tells of itself on `/status`, beside what every process does.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugfeed_gateway::events::Events;
use bugfeed_gateway::feed::Feed;
use bugfeed_runtime::admin::Facts;
use serde_json::{Value, json};

use super::serving::ServingOptions;

/// Clients, the newest number of each feed, and what bounds clients.
pub(super) fn facts(options: &ServingOptions, feeds: &BTreeMap<String, Arc<Feed>>, events: &Arc<Events>) -> Facts {
    let (feeds, events) = (feeds.clone(), Arc::clone(events));
    let session = options.feed.session;
    let limits = json!({
        "connections": options.limits.connections,
        "subscriptions of a client": session.subscriptions,
        "bytes of a message": session.message_bytes,
        "changes of a catch-up": session.catch_up,
        "changes kept": options.feed.replay.max,
        "seconds they are kept": options.feed.replay.age_s,
    });
    Arc::new(move || {
        let head = |feed: &Arc<Feed>| feed.tap().head().map_or(Value::Null, |cursor| cursor.to_string().into());
        let heads: serde_json::Map<String, Value> =
            feeds.iter().map(|(name, feed)| (name.clone(), head(feed))).collect();
        json!({ "clients": events.clients(), "heads": heads, "limits": limits })
    })
}
