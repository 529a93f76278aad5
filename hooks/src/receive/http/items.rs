//! From what the mapping says to what the store is given.
//!
//! Goes in: a source, the outcome of its mapping, and the key's feeds. Comes out: the request's items. It is pure.

use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_protocol::{BugId, When};

use super::keys::KeyRow;
use crate::config::Source;
use crate::config::feed::DEFAULT_FEED;
use crate::config::mapping::Answer;
use crate::config::source::Bodies;
use crate::receive::identity::{Hasher, Sha256};
use crate::receive::mapped::{About, DropReason, Kept, Mapped, RequestError, Time, TimeOrigin};
use crate::receive::received::{AnsweredItem, Failure, ReceivedItem, RequestId};

/// No item is kept for another try that is longer, in bytes.
const LONGEST_KEPT: usize = 256 * 1024;

/// The items of a request, and why nothing was taken from it, where that is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Items {
    pub(super) failure: Option<Failure>,
    pub(super) items: Vec<ReceivedItem>,
    pub(super) answered: Vec<AnsweredItem>,
}

impl Items {
    /// Of a request that was mapped. `key`: with which it came.
    pub(super) fn of(source: &Source, mapped: Vec<Mapped>, key: Option<&KeyRow>) -> Items {
        let mut items = Items::default();
        for (index, mapped) in (0..).zip(mapped) {
            match mapped {
                Mapped::Answered { answer, about } => items.answered.push(AnsweredItem {
                    index,
                    is_connected: answer == Answer::Connected,
                    kind: about.kind,
                    delivery: about.delivery,
                }),
                mapped => items.items.push(item(source, index, mapped)),
            }
        }
        if let Some(key) = key {
            items.restrict(key);
        }
        items
    }

    /// Of a request of which nothing can be taken. It has one item, so that it is seen among the events. `arrived` is the
    /// time of arrival, and `hash` tells it from other requests.
    pub(super) fn failed(source: &Source, failure: Failure, arrived: When, hash: Sha256) -> Items {
        let about = About { kind: String::new(), delivery: None, project: None };
        let time = Time { when: arrived, origin: TimeOrigin::Arrival };
        let mut item = blank(source, 0, time, about);
        (item.mapping, item.hash, item.failure) = (Mapping::Failed, hash, Some(failure.clone()));
        Items { failure: Some(failure), items: vec![item], answered: Vec::new() }
    }

    /// Says of a request of which nothing can be taken what can be done once its cause is mended. `is_kept`: its body is.
    /// `is_too_much`: it can be taken in parts only.
    pub(super) fn advise(&mut self, request: RequestId, is_kept: bool, is_too_much: bool) {
        let then = match (is_kept, is_too_much) {
            (true, false) => {
                format!(
                    "the request is kept: once this is mended, `bugfeed requests replay {request}` receives it again"
                )
            }
            (true, true) => {
                format!("the request is kept: `bugfeed requests show {request} --body` prints it, to be sent in parts")
            }
            (false, _) => "the request is not kept, so its sender must send it again".to_owned(),
        };
        for failure in self.failure.iter_mut().chain(self.items.iter_mut().filter_map(|item| item.failure.as_mut())) {
            failure.fix = format!("{}; {then}", failure.fix);
        }
    }

    /// Marks the items whose project goes to a feed to which the key may not send.
    fn restrict(&mut self, key: &KeyRow) {
        for item in &mut self.items {
            restrict(item, key);
        }
    }

    /// Whether anything is errored, so that the body may be needed.
    pub(super) fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.mapping == Mapping::Failed)
    }
}

/// Marks an item if it goes to a feed to which the key may not send.
pub(super) fn restrict(item: &mut ReceivedItem, key: &KeyRow) {
    if item.mapping == Mapping::Fits && !key.may_feed(&item.feed) {
        item.mapping = Mapping::ProjectMismatch;
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        Failure { error: error.error, fix: error.fix }
    }
}

fn blank(source: &Source, index: u32, time: Time, about: About) -> ReceivedItem {
    ReceivedItem {
        index,
        mapping: Mapping::Fits,
        failure: None,
        feed: source.feeds().first().copied().unwrap_or(DEFAULT_FEED).to_owned(),
        bug: None,
        when_us: time.when.as_micros(),
        is_dated: time.origin.is_tracker(),
        has_wrong_clock: time.origin == TimeOrigin::ArrivalClock,
        kind: about.kind,
        project: about.project,
        delivery: about.delivery,
        hash: Sha256([0; 32]),
        is_private: false,
        kept: None,
    }
}

fn item(source: &Source, index: u32, mapped: Mapped) -> ReceivedItem {
    match mapped {
        Mapped::Item(item) => ReceivedItem {
            feed: item.feed,
            bug: Some(item.bug),
            hash: item.identity,
            is_private: item.is_private,
            failure: item.unreadable,
            ..blank(source, index, item.time, item.about)
        },
        Mapped::Dropped(dropped) => {
            let is_private = dropped.reason == DropReason::Private;
            let mapping = if is_private { Mapping::Fits } else { Mapping::NotMapped };
            let hash = hash(source, "dropped", dropped.bug, dropped.time, &dropped.about, dropped.kept.as_ref());
            let kept = dropped.kept.filter(|kept| may_keep(source, kept));
            let blank = blank(source, index, dropped.time, dropped.about);
            // Numbers are per project: what goes to no feed must not stand beside another project's bug.
            let feed = dropped.feed.unwrap_or_default();
            ReceivedItem { mapping, feed, bug: dropped.bug, hash, is_private, kept, ..blank }
        }
        Mapped::Errored(errored) => {
            let hash = hash(source, "errored", None, errored.time, &errored.about, Some(&errored.kept));
            let failure = Some(Failure { error: errored.error, fix: errored.fix });
            let kept = Some(errored.kept).filter(|kept| may_keep(source, kept));
            let blank = blank(source, index, errored.time, errored.about);
            ReceivedItem { mapping: Mapping::Failed, failure, hash, kept, ..blank }
        }
        // These become no events; whoever calls has taken them out.
        Mapped::Answered { about, .. } => {
            let time = Time { when: When::from_system_time(std::time::UNIX_EPOCH), origin: TimeOrigin::Arrival };
            ReceivedItem { mapping: Mapping::NotMapped, ..blank(source, index, time, about) }
        }
    }
}

fn may_keep(source: &Source, kept: &Kept) -> bool {
    let headers: usize = kept.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    source.bodies != Bodies::None && kept.item.len() + headers <= LONGEST_KEPT
}

/// By what a repeat of an item is known that is no change.
fn hash(source: &Source, what: &str, bug: Option<BugId>, time: Time, about: &About, kept: Option<&Kept>) -> Sha256 {
    let mut hasher = Hasher::new();
    hasher.text(what);
    hasher.text(&source.name);
    hasher.text(&bug.map_or(String::new(), |bug| bug.to_string()));
    hasher.text(&if time.origin.is_tracker() { time.when.to_string() } else { String::new() });
    hasher.text(&about.kind);
    hasher.text(about.project.as_deref().unwrap_or_default());
    hasher.text(kept.map_or("", |kept| &kept.item));
    hasher.finish()
}
