//! What the receiver hands to the store: a request with its items, or a request for quarantine.
//!
//! Goes in: what was authenticated and mapped. Comes out: plain data, which the store writes, the spool keeps as JSON,
//! and [`crate::receive`]'s other parts only read. Nothing here is a key, a secret or a signature that fits, except
//! [`Proof`], which says what it keeps of them.
//!
//! **Identifiers follow from the request's.** The event of item N has the identifier of its request plus N + 1
//! ([`RequestId::event`]), so they rise with the index of the item, and an answer can name events that no store knows yet.
//!
//! **A request may be handed over twice**: when the store's word did not arrive, it goes through the spool, with the same
//! identifiers. A store that has the request already must answer as it did the first time, and write nothing.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{
    ContentHash, Delivery, DropReason, Event, EventId, Link, Progress, State, Trigger, WhenOrigin,
};
use bugfeed_protocol::{BugId, When};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::identity::Sha256;
use super::mapped::Kept;

/// The identifier of a request: a UUIDv7, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

impl RequestId {
    /// Makes an identifier of the time and random bytes. The highest of its last 32 bits is 0, so that the identifiers
    /// of up to 2³¹ items can follow it.
    pub fn new(now_us: i64, random: [u8; 10]) -> RequestId {
        let now_us = now_us.max(0).unsigned_abs();
        let now_ms = u128::from(now_us / 1000) & 0xffff_ffff_ffff;
        // RFC 9562, 6.2, method 3: so that identifiers of one process rise within a millisecond, too.
        let fraction = u128::from((now_us % 1000) * 4096 / 1000);
        let random = random.iter().fold(0_u128, |number, byte| (number << 8) | u128::from(*byte));
        let (version, variant) = (0x7_u128 << 76, 0b10_u128 << 62);
        RequestId((now_ms << 80) | version | (fraction << 64) | variant | (random & 0x3fff_ffff_7fff_ffff))
    }

    /// When it was made, to the millisecond, in microseconds since 1970.
    pub fn made_us(self) -> i64 {
        i64::try_from(self.0 >> 80).unwrap_or(0).saturating_mul(1000)
    }

    /// The identifier of the event of this item, counting from 0.
    pub fn event(self, item: u32) -> EventId {
        EventId(self.0.wrapping_add(u128::from(item)).wrapping_add(1))
    }

    /// Reads the 36 characters of a UUID.
    pub fn parse(text: &str) -> Option<RequestId> {
        let good = |(index, byte): (usize, u8)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        };
        let is_uuid = text.len() == 36 && text.bytes().enumerate().all(good);
        is_uuid.then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok().map(RequestId)).flatten()
    }
}

impl fmt::Display for RequestId {
    /// As a UUID is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&EventId(self.0), f)
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RequestId, D::Error> {
        let text = String::deserialize(deserializer)?;
        RequestId::parse(&text).ok_or_else(|| serde::de::Error::custom("this is no UUID"))
    }
}

/// What is known of a request, whatever becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Its identifier.
    pub id: RequestId,
    /// The name of the source. Of a request to a source that does not exist: the name that the sender used, at most 64
    /// bytes, or empty where it may be a secret.
    pub source: String,
    /// When its head was received, in microseconds since 1970.
    pub received_us: i64,
    /// The sender's address, as the socket says.
    pub address: IpAddr,
    /// The part ID of the key with which it came, if it had the form of a key. In a [`ReceivedRequest`] it was valid.
    pub key_id: Option<String>,
    /// The path, without what may be a key, and without the query.
    pub path: String,
    /// The headers, at most 40 of at most 300 bytes each. Those that may hold a secret are left out.
    pub headers: Vec<(String, String)>,
    /// The size of the body as it came, in bytes. Of a body that was over the limit: what it declared, or what was read.
    pub size: u64,
    /// The hash of the body after decompression. `None`: it was not read to its end.
    pub body_hash: Option<Sha256>,
    /// The whole body, after decompression, where it is to be kept. The spool writes it beside the JSON.
    #[serde(skip)]
    pub body: Option<Bytes>,
    /// The status of our answer.
    pub status: u16,
}

/// A request from somebody who may send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedRequest {
    /// What is known of it as a whole.
    pub envelope: Envelope,
    /// What caused it: `live`, `replay` or `reconcile`; `drain` where a reload has it received again.
    #[serde(with = "trigger")]
    pub trigger: Trigger,
    /// The request that a person received again. Item N of this one then replays item N of that one.
    pub replays: Option<RequestId>,
    /// Why nothing at all was taken from it. It has one item then, which is errored and says the same.
    pub failure: Option<Failure>,
    /// The items that become events.
    pub items: Vec<ReceivedItem>,
    /// The items that are no change of a bug. They become no events.
    pub answered: Vec<AnsweredItem>,
}

/// What is wrong, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is wrong.
    pub error: String,
    /// How to mend it.
    pub fix: String,
}

/// An item that becomes an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedItem {
    /// Its index in the request, from 0, counting those that become no events.
    pub index: u32,
    /// What the mapping made of it.
    #[serde(with = "mapping")]
    pub mapping: Mapping,
    /// What is wrong with it, where `mapping` is [`Mapping::Failed`]; otherwise a remark, as on a date that cannot be read.
    pub failure: Option<Failure>,
    /// The feed; the source's first one where the mapping did not get so far. Empty where there is none for its project,
    /// so that it is dropped.
    pub feed: String,
    /// The bug, if one was found.
    pub bug: Option<BugId>,
    /// When it changed, in microseconds since 1970.
    pub when_us: i64,
    /// Whether the tracker gave that time; otherwise it is the time of arrival.
    pub is_dated: bool,
    /// The tracker gave a time too far ahead, so one of the clocks is wrong.
    pub has_wrong_clock: bool,
    /// The sender's word for what happened. At most 200 bytes.
    pub kind: String,
    /// The tracker's project. At most 200 bytes.
    pub project: Option<String>,
    /// The sender's identifier of the delivery. At most 200 bytes.
    pub delivery: Option<String>,
    /// The hash of the content.
    pub hash: Sha256,
    /// The bug is private.
    pub is_private: bool,
    /// What is needed to map it once more. The store may have no room for it: then the event is not retryable.
    pub kept: Option<Kept>,
}

/// An item that is no change of a bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredItem {
    /// Its index in the request, from 0.
    pub index: u32,
    /// It is a ping or a test, by which the sender shows that it is connected; otherwise it is ignored.
    pub is_connected: bool,
    /// The sender's word for what happened. At most 200 bytes.
    pub kind: String,
    /// The sender's identifier of the delivery. At most 200 bytes.
    pub delivery: Option<String>,
}

impl ReceivedRequest {
    /// The event of an item as it arrives, for [`bugfeed_core::hooks::arrival::receive`]. `is_kept`: the store has room
    /// for the item.
    pub fn event(&self, item: &ReceivedItem, is_kept: bool) -> Event {
        let envelope = &self.envelope;
        Event {
            id: envelope.id.event(item.index),
            source: Arc::from(envelope.source.as_str()),
            feed: Arc::from(item.feed.as_str()),
            bug: item.bug,
            when: item.when(),
            origin: if item.is_dated { WhenOrigin::Tracker } else { WhenOrigin::Arrival },
            received_us: envelope.received_us,
            kind: Arc::from(item.kind.as_str()),
            delivery: item.delivery.as_deref().map(|id| Delivery { id: Arc::from(id), item: item.index }),
            hash: ContentHash(item.hash.0),
            private: item.is_private,
            retryable: is_kept && item.kept.is_some(),
            // Decided on arrival.
            expires_us: 0,
            repeat_of: None,
            progress: Progress::new(State::Queued, self.trigger),
        }
    }

    /// The event that this item replays by hand.
    pub fn replayed(&self, item: &ReceivedItem) -> Option<EventId> {
        self.replays.map(|request| request.event(item.index))
    }
}

impl ReceivedItem {
    /// When it changed.
    pub fn when(&self) -> When {
        When::from_micros(self.when_us).unwrap_or_else(|| When::from_system_time(std::time::UNIX_EPOCH))
    }
}

/// What became of a request in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// For each of [`ReceivedRequest::items`], in their order, what became of it.
    pub items: Vec<AcceptedItem>,
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedItem {
    /// Its event.
    pub event: EventId,
    /// The event's first state.
    pub state: State,
    /// Why it was dropped, if it was.
    pub dropped: Option<DropReason>,
    /// Whether the item is kept, so that a failed mapping can be tried again.
    pub is_retryable: bool,
    /// Its links.
    pub links: Vec<Link>,
}

/// A request that nobody vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRequest {
    /// What is known of it as a whole.
    pub envelope: Envelope,
    /// In which share of the quarantine it is.
    pub share: Share,
    /// Why it is there.
    pub failure: Failure,
    /// What is needed to check it again.
    pub proof: Proof,
}

/// The shares of the quarantine. They never evict one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// A known source, and a key that exists (expired, revoked, of another source), or a wrong signature.
    KnownSender,
    /// A known source, without a known key.
    KnownSource,
    /// An unknown source. Only the head and the body's hash are kept.
    UnknownSource,
}

impl Share {
    /// All of them.
    pub const ALL: [Share; 3] = [Share::KnownSender, Share::KnownSource, Share::UnknownSource];

    /// The text that store, metrics and API use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Share::KnownSender => "known_sender",
            Share::KnownSource => "known_source",
            Share::UnknownSource => "unknown_source",
        }
    }
}

/// What is kept of keys and signatures, so that a request in quarantine can be checked again with the keys and secrets
/// of that day. No API shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The hash of what had the form of a key. A key has 110 random bits, so its hash gives nothing away.
    pub key: Option<Sha256>,
    /// The headers with the signature: hashes over the body. A header that is the secret itself
    /// ([`crate::config::auth::Signature::Token`]) is kept as its SHA-256, in hexadecimal digits.
    pub signature: Vec<(String, String)>,
}

/// What became of a request for quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantined {
    /// It was kept.
    Kept,
    /// Its share, or its sender's part of it, is full; the oldest ones stay.
    Full,
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sha256, D::Error> {
        let text = String::deserialize(deserializer)?;
        Sha256::parse(&text).ok_or_else(|| serde::de::Error::custom("these are no 64 hexadecimal digits"))
    }
}

/// The texts of [`Trigger`].
mod trigger {
    use bugfeed_core::hooks::event::Trigger;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(trigger: &Trigger, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(trigger.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Trigger, D::Error> {
        let text = String::deserialize(deserializer)?;
        Trigger::parse(&text).ok_or_else(|| serde::de::Error::custom("this is no trigger"))
    }
}

/// Texts for [`Mapping`].
mod mapping {
    use bugfeed_core::hooks::arrival::Mapping;
    use serde::{Deserialize, Deserializer, Serializer};

    const WORDS: [(&str, Mapping); 4] = [
        ("fits", Mapping::Fits),
        ("not_mapped", Mapping::NotMapped),
        ("project_mismatch", Mapping::ProjectMismatch),
        ("failed", Mapping::Failed),
    ];

    pub(super) fn serialize<S: Serializer>(mapping: &Mapping, serializer: S) -> Result<S::Ok, S::Error> {
        let found = WORDS.iter().find(|(_, word)| word == mapping);
        serializer.serialize_str(found.map_or("failed", |(text, _)| text))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mapping, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, mapping)| *mapping).ok_or_else(|| serde::de::Error::custom("this is no outcome of a mapping"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_a_request_rise() {
        let id = RequestId::new(1_795_000_000_123_456, [255; 10]);
        assert_eq!(id.to_string(), "01a1ee56-5e7b-774b-bfff-ffff7fffffff");
        assert_eq!(id.event(0).to_string(), "01a1ee56-5e7b-774b-bfff-ffff80000000");
        assert_eq!(id.made_us(), 1_795_000_000_123_000);
        assert!(id.event(0) < id.event(1) && id.event(1) < id.event(499));
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
        let low = RequestId::new(0, [0; 10]);
        assert_eq!(low.to_string(), "00000000-0000-7000-8000-000000000000");
        for bad in ["", "01a1ee56-5e7b-774b-bfff-ffff7ffffff", "01a1ee56-5e7b-774b-bfff+ffff7fffffff"] {
            assert_eq!(RequestId::parse(bad), None, "{bad}");
        }
    }
}
