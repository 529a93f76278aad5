//! The numbers and texts that stand in the tables for the words of the core.
//!
//! Goes in: a word, an identifier, a lane. Comes out: what a column holds, and back. A code that was ever written is
//! never given another meaning; a test has the list.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bugfeed_core::hooks::arrival::DedupKey;
use bugfeed_core::hooks::event::{ContentHash, DropReason, ErrorClass, EventId, State, Trigger};
use bugfeed_core::hooks::lane::LaneKey;
use ring::digest::{SHA256, digest};

use crate::receive::mapped::MAX_ITEMS;
use crate::receive::received::RequestId;

/// A word that a column holds as a number.
pub(super) trait Code: Copy + PartialEq + 'static {
    /// All words, at the place of their number.
    const WORDS: &'static [Self];

    /// The number of this word.
    fn code(self) -> i64 {
        let place = Self::WORDS.iter().position(|word| *word == self);
        place.and_then(|place| i64::try_from(place).ok()).unwrap_or(-1)
    }

    /// The word of this number.
    fn of(code: i64) -> Option<Self> {
        usize::try_from(code).ok().and_then(|place| Self::WORDS.get(place)).copied()
    }
}

impl Code for State {
    const WORDS: &'static [State] = &[
        State::Queued,
        State::Processing,
        State::Completed,
        State::Duplicate,
        State::Dropped,
        State::Canceled,
        State::Errored,
        State::Disabled,
    ];
}

impl Code for ErrorClass {
    const WORDS: &'static [ErrorClass] = &[ErrorClass::Mapping, ErrorClass::Tracker, ErrorClass::Ours];
}

impl Code for Trigger {
    const WORDS: &'static [Trigger] =
        &[Trigger::Live, Trigger::Retry, Trigger::Drain, Trigger::Replay, Trigger::Reconcile, Trigger::Manual];
}

impl Code for DropReason {
    const WORDS: &'static [DropReason] = &[
        DropReason::Private,
        DropReason::Unknown,
        DropReason::NotMapped,
        DropReason::ProjectMismatch,
        DropReason::Older,
        DropReason::Expired,
        DropReason::ByHand,
        DropReason::Ignored,
    ];
}

/// Reads an identifier as it is stored: the 36 characters of a UUID.
pub(super) fn event_id(text: &str) -> Option<EventId> {
    RequestId::parse(text).map(|id| EventId(id.0))
}

/// The request of an event: see [`RequestId::event`].
pub(super) fn request_of(event: EventId, item: u32) -> RequestId {
    RequestId(event.0.wrapping_sub(u128::from(item)).wrapping_sub(1))
}

/// The last identifier that an event of this request can have.
pub(super) fn last_event(request: RequestId) -> EventId {
    request.event(u32::try_from(MAX_ITEMS).unwrap_or(u32::MAX))
}

/// The lowest identifier that a request of this time can have.
pub(super) fn lowest_id(at_us: i64) -> EventId {
    let ms = u128::from(at_us.max(0).unsigned_abs() / 1000) & 0xffff_ffff_ffff;
    EventId(ms << 80)
}

/// When the identifier was made, in microseconds since 1970, to the millisecond.
pub(super) fn time_of(id: EventId) -> i64 {
    i64::try_from(id.0 >> 80).unwrap_or(i64::MAX / 1000).saturating_mul(1000)
}

/// The first 63 bits of the SHA-256 of these parts; each is set off from the next.
pub(super) fn number(parts: &[&[u8]]) -> i64 {
    let mut bytes = Vec::with_capacity(96);
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let hash = digest(&SHA256, &bytes);
    let first = hash.as_ref().iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    (first >> 1).cast_signed()
}

/// The number of a lane.
pub(super) fn lane(key: &LaneKey) -> i64 {
    match key {
        LaneKey::Bug(feed, bug) => number(&[b"bug", feed.as_bytes(), &bug.get().to_le_bytes()]),
        LaneKey::Alone(id) => number(&[b"alone", &id.0.to_le_bytes()]),
    }
}

/// The number of a dedup key of this source; `None` if the event repeats nothing.
pub(super) fn dedup(source: &str, key: &DedupKey) -> Option<i64> {
    match key {
        DedupKey::Delivery(id, item) => {
            Some(number(&[b"delivery", source.as_bytes(), id.as_bytes(), &item.to_le_bytes()]))
        }
        DedupKey::Content(hash) => Some(number(&[b"content", source.as_bytes(), &hash.0])),
        DedupKey::Own(_) => None,
    }
}

/// A hash as 43 characters.
pub(super) fn hash_text(hash: &ContentHash) -> String {
    STANDARD_NO_PAD.encode(hash.0)
}

/// Reads such a hash.
pub(super) fn hash_of(text: &str) -> Option<ContentHash> {
    let bytes: [u8; 32] = STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()?;
    Some(ContentHash(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bugfeed_protocol::BugId;

    use super::*;

    /// What stands in stores that exist.
    #[test]
    fn codes_never_change() {
        fn check<T: Code + std::fmt::Display>(want: &str) {
            let got: Vec<String> = T::WORDS.iter().map(|word| format!("{} {word}", word.code())).collect();
            assert_eq!(got.join(", "), want);
        }
        check::<State>(
            "0 queued, 1 processing, 2 completed, 3 duplicate, 4 dropped, 5 canceled, 6 errored, 7 disabled",
        );
        check::<ErrorClass>("0 mapping, 1 tracker, 2 ours");
        check::<Trigger>("0 live, 1 retry, 2 drain, 3 replay, 4 reconcile, 5 manual");
        check::<DropReason>(
            "0 private, 1 unknown, 2 not_mapped, 3 project_mismatch, 4 older, 5 expired, 6 by_hand, 7 ignored",
        );
        let bug = LaneKey::Bug(Arc::from("default"), BugId::new(7).unwrap());
        assert_eq!(lane(&bug), 725_242_516_041_320_596);
        assert_eq!(dedup("s", &DedupKey::Delivery(Arc::from("d"), 1)), Some(2_294_423_455_890_069_353));
    }

    #[test]
    fn every_word_of_the_core_has_a_code() {
        assert!(State::ALL.iter().all(|word| State::of(word.code()) == Some(*word)));
        assert!(ErrorClass::ALL.iter().all(|word| ErrorClass::of(word.code()) == Some(*word)));
        assert!(Trigger::ALL.iter().all(|word| Trigger::of(word.code()) == Some(*word)));
        assert!(DropReason::ALL.iter().all(|word| DropReason::of(word.code()) == Some(*word)));
        assert_eq!(State::of(-1), None);
    }

    #[test]
    fn identifiers_lead_to_requests_and_times() {
        let request = RequestId::new(1_795_000_000_123_456, [255; 10]);
        let event = request.event(499);
        assert_eq!(request_of(event, 499), request);
        assert_eq!(time_of(event), 1_795_000_000_123_000);
        assert!(lowest_id(1_795_000_000_123_456) < event && lowest_id(1_795_000_000_124_000) > event);
        assert_eq!(event_id(&event.to_string()), Some(event));
        let hash = ContentHash([200; 32]);
        assert_eq!((hash_of(&hash_text(&hash)), hash_text(&hash).len()), (Some(hash), 43));
    }
}
