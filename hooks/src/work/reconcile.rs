//! What the reconciler needs of the store: marks, what is known of bugs, and where it puts what is missing.
//!
//! Goes in: the words of [`crate::tracker::reconcile`]. Comes out: notes, and requests with the trigger `reconcile`, which
//! go the way of all requests. What a webhook brings later of the same change is announced again, which is harmless.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::Trigger;
use bugfeed_core::hooks::reconcile::{Known, Mark, Missing, Seen};
use bugfeed_protocol::When;

use super::Shared;
use crate::receive::identity::{Hasher, Sha256};
use crate::receive::mapped::MAX_ITEMS;
use crate::receive::received::{Envelope, ReceivedItem, ReceivedRequest, RequestId};
use crate::store::StoreError;
use crate::store::known::RECONCILED;
use crate::tracker::Trouble;
use crate::tracker::reconcile::{Away, Desk};

/// The store, as the reconciler sees it.
pub(super) struct StoreDesk(pub(super) Arc<Shared>);

/// The names of notes have at most 100 characters.
fn note(source: &str, project: &str) -> String {
    let mut hasher = Hasher::new();
    hasher.text(source);
    hasher.text(project);
    let hash = hasher.finish().to_string();
    format!("mark {} {}", source, &hash[..24])
}

fn away(error: &StoreError) -> Away {
    Away(error.to_string())
}

fn write(mark: Mark) -> String {
    format!("{} {} {}", mark.since.as_micros(), mark.asked_us, mark.first.as_micros())
}

fn read(text: &str) -> Option<Mark> {
    let mut numbers = text.split(' ').map(|number| number.parse::<i64>().ok());
    let mut next = || numbers.next().flatten();
    let (since, asked_us, first) = (next()?, next()?, next()?);
    Some(Mark { since: When::from_micros(since)?, asked_us, first: When::from_micros(first)? })
}

impl Desk for StoreDesk {
    async fn mark(&self, source: &str, project: &str) -> Result<Option<Mark>, Away> {
        let text = self.0.store.note(&note(source, project)).await.map_err(|error| away(&error))?;
        // One that cannot be read is as none: the first round begins anew.
        Ok(text.as_deref().and_then(read))
    }

    async fn keep_mark(&self, source: &str, project: &str, mark: Mark) -> Result<(), Away> {
        self.0.store.set_note(&note(source, project), &write(mark)).await.map_err(|error| away(&error))
    }

    async fn known(&self, source: &str, bugs: &[Seen]) -> Result<Vec<Known>, Away> {
        self.0.store.known(source, bugs).await.map_err(|error| away(&error))
    }

    async fn insert(&self, source: &str, missing: &[Missing]) -> Result<(), Away> {
        for missing in missing.chunks(MAX_ITEMS) {
            let request = request(source, missing, self.0.now_us());
            self.0.store.accept(&[&request]).await.map_err(|error| away(&error))?;
            self.0.wake.notify_one();
        }
        Ok(())
    }

    fn missed(&self, source: &str, missed: &[Missing], more: u64) {
        let count = more + missed.len() as u64;
        self.0.events.missed(source, count);
        let first = missed.first().map_or_else(String::new, |first| format!(", for example of bug {}", first.bug));
        let text = format!("{count} changes of source {source} were found that no webhook has brought{first}");
        self.0.alerts.raise("sender", Some(source), "missed", text);
    }

    fn troubled(&self, source: &str, project: &str, trouble: Option<&Trouble>) {
        self.0.events.reconciled(source, project, trouble.map(|trouble| trouble.reason.as_str()));
    }
}

/// A request that nobody sent.
fn request(source: &str, missing: &[Missing], now_us: i64) -> ReceivedRequest {
    let items = (0..).zip(missing).map(|(index, missing)| item(source, index, missing)).collect();
    ReceivedRequest {
        envelope: Envelope {
            id: RequestId::new(now_us, rand::random()),
            source: source.to_owned(),
            received_us: now_us,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            key_id: None,
            path: RECONCILED.to_owned(),
            headers: Vec::new(),
            size: 0,
            body_hash: None,
            body: None,
            status: 200,
        },
        trigger: Trigger::Reconcile,
        replays: None,
        failure: None,
        items,
        answered: Vec::new(),
    }
}

fn item(source: &str, index: u32, missing: &Missing) -> ReceivedItem {
    ReceivedItem {
        index,
        mapping: Mapping::Fits,
        failure: None,
        feed: missing.feed.to_string(),
        bug: Some(missing.bug),
        when_us: missing.changed.as_micros(),
        is_dated: true,
        has_wrong_clock: false,
        kind: RECONCILED.to_owned(),
        project: None,
        delivery: None,
        hash: hash(source, missing),
        is_private: missing.private,
        kept: None,
    }
}

fn hash(source: &str, missing: &Missing) -> Sha256 {
    let mut hasher = Hasher::new();
    for part in [RECONCILED, source, &missing.feed, &missing.bug.to_string(), &missing.changed.to_string()] {
        hasher.text(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let when = |us| When::from_micros(us).unwrap();
        let mark = Mark { since: when(1_000_001), asked_us: 2, first: when(3) };
        assert_eq!(read(&write(mark)), Some(mark));
        for bad in ["", "1 2", "x 2 3"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert!(note(&"x".repeat(64), &"y".repeat(300)).len() <= 100);
        assert_ne!(note("a", "b"), note("a", "c"));
    }
}
