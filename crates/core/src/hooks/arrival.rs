//! What becomes of an arriving item: [`receive`].
//!
//! Goes in: the item after authentication and mapping, the events that the store has of the same delivery, content and
//! time, and the settings of its source. Comes out: the event to insert, in its first state, with its links. Work of
//! microseconds: it is done before the sender is answered.
//!
//! - **Identity** is (source, delivery id, item index), with the content's hash: same id and same content is a repeat; same
//!   id and other content are two events. Without a delivery id, an equal hash within [`SAME_CONTENT_US`] is a repeat, but
//!   not of an item that was dated by arrival. With `duplicates = "by-time"`, an equal (bug, time) is a repeat, too.
//! - **A repeat is a duplicate only of an event that is queued, processing, disabled or completed.** A repeat of an errored
//!   one is a new event, whose arrival tries the chain at once; when it is its turn, it becomes a duplicate if the first one
//!   was announced meanwhile ([`Event::repeat_of`]). So it is needed where the first one expires, or was never kept. A
//!   repeat of a dropped or canceled one is a new event with a link.
//! - **Two processes may receive the same item at once**, and neither sees the other's event. So each event has a
//!   [`DedupKey`] and a generation, unique in the store: the second insert fails, and is decided anew.

use std::sync::Arc;

use super::SECOND_US;
use super::action::Action;
use super::event::{
    AT_ONCE, ContentHash, Delivery, DropReason, ErrorClass, Event, EventId, Link, LinkKind, Progress, State, Trigger,
    WhenOrigin, words,
};
use super::lane::{Private, Settings};
use super::schedule::{LONGEST_US, Schedule, expires_us};
use super::states::Cause;
use std::fmt;

/// An equal hash without a delivery id counts as a repeat within this time of receipt: ten minutes, in microseconds.
pub const SAME_CONTENT_US: i64 = 600 * SECOND_US;
/// A time that lies further ahead of the receipt than this is not believed: five minutes, in microseconds. The item is
/// then dated by arrival.
pub const AHEAD_US: i64 = 300 * SECOND_US;
/// A repeat tries an errored event that has no bug at most so often, in microseconds.
const REPEAT_TRIES_US: i64 = super::processor::DRAIN_EVERY_US;

words! {
    /// What counts as a repeat where the delivery ids differ or are missing.
    Duplicates {
        /// The same content.
        ByContent = "by-content",
        /// The same bug and time: for trackers with fine clocks.
        ByTime = "by-time",
    }
}

/// What the mapping made of the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It has all that is needed.
    Fits,
    /// No rule applies to this kind of item.
    NotMapped,
    /// The key is not allowed for the item's project.
    ProjectMismatch,
    /// It does not fit the rule, for example because it has no bug number.
    Failed,
}

/// What makes an event unique in its source, with a generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DedupKey {
    /// The delivery id, and the item index.
    Delivery(Arc<str>, u32),
    /// The content.
    Content(ContentHash),
    /// Nothing: it is dated by arrival and has no delivery id, so it repeats nothing.
    Own(EventId),
}

impl DedupKey {
    /// The key of this event.
    pub fn of(event: &Event) -> DedupKey {
        match &event.delivery {
            Some(Delivery { id, item }) => DedupKey::Delivery(Arc::clone(id), *item),
            None if event.origin == WhenOrigin::Tracker => DedupKey::Content(event.hash),
            None => DedupKey::Own(event.id),
        }
    }
}

/// What the store knows when an item arrives. All three may be read with one query for many items.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Events of the source with the same [`DedupKey`], newest first. A bound of 16 is enough.
    pub same_key: Vec<Event>,
    /// The generation of a new event with that key: one more than the highest one stored, 0 if there is none. (Not their
    /// number: old events are removed.)
    pub generation: u32,
    /// Events of the source with the same feed, bug and time, dated by the tracker, newest first. A bound of 16 is enough.
    pub same_time: Vec<Event>,
}

/// Decides about a new event. Its `progress` must be new, with the trigger (`live`, `replay` or `reconcile`); its state, its
/// expiry and `repeat_of` are decided here. For a replay by hand, `replays` is the event it came from.
///
/// The actions are one transaction. If a compare-and-set or the unique index fails, look the item up again, and call it
/// again.
pub fn receive(
    mut event: Event,
    mapping: Mapping,
    known: &Known,
    settings: &Settings,
    duplicates: Duplicates,
    replays: Option<EventId>,
) -> Vec<Action> {
    let now_us = event.received_us;
    event.expires_us = expires_us(event.when.as_micros(), now_us);
    let repeated = if replays.is_some() { None } else { repeated(&event, known, duplicates) };
    let mut links: Vec<Link> = replays.map(|to| Link { kind: LinkKind::SameDeliveryAs, to }).into_iter().collect();
    let mut also = Vec::new();
    let cause = if let Some(first) = repeated.filter(|first| first.progress.state.has_duplicates()) {
        links.push(Link { kind: LinkKind::DuplicateOf, to: first.id });
        Cause::Repeated
    } else {
        if let Some(first) = repeated {
            links.push(Link { kind: LinkKind::SameDeliveryAs, to: first.id });
            if first.progress.state == State::Errored {
                event.repeat_of = Some(first.family());
                also.extend(try_alone(first, now_us));
            }
        } else if replays.is_none() {
            links.extend(beside(&event, known));
        }
        first_cause(&event, mapping, settings)
    };
    event.progress = first_progress(&event, cause, settings.retry);
    let (of, key) = (event.id, DedupKey::of(&event));
    let insert = Action::Insert { event: Box::new(event), key, generation: known.generation, cause };
    let links = links.into_iter().map(|link| Action::Link { of, link });
    std::iter::once(insert).chain(links).chain(also).collect()
}

/// What becomes of an event whose request a person received again, when its item came through as the event `by`: a dead
/// letter is canceled by that one, and those behind it go on. The actions belong to the transaction of `by`'s arrival.
pub fn replayed(old: &Event, by: EventId, now_us: i64) -> Vec<Action> {
    if old.progress.state != State::Errored {
        return Vec::new();
    }
    vec![Action::Step(Box::new(super::rules::canceled(old, by, now_us))), Action::Unblock { by: old.id }]
}

/// The event that this one repeats.
fn repeated<'a>(event: &Event, known: &'a Known, duplicates: Duplicates) -> Option<&'a Event> {
    let dated = event.origin == WhenOrigin::Tracker;
    let is_repeat = |other: &&Event| match event.delivery {
        Some(_) => event.is_same_item(other),
        None => {
            let within = event.received_us.abs_diff(other.received_us) <= SAME_CONTENT_US.unsigned_abs();
            dated && other.origin == WhenOrigin::Tracker && within && event.is_same_item(other)
        }
    };
    let at_one_time = known.same_time.iter().filter(|_| dated && duplicates == Duplicates::ByTime);
    // Of several, one that is alive or was announced counts.
    let all = || known.same_key.iter().filter(is_repeat).chain(at_one_time.clone());
    let alive = all().find(|other| other.progress.state.has_duplicates());
    // The oldest one, because a newer one may be a replay by hand, which is of no family.
    let errored = || all().rfind(|other| other.progress.state == State::Errored);
    alive.or_else(errored).or_else(|| all().find(|other| other.progress.state != State::Duplicate))
}

/// The other events of its delivery, or of its time.
fn beside(event: &Event, known: &Known) -> Option<Link> {
    let same_delivery = known.same_key.iter().filter(|_| event.delivery.is_some());
    let first = same_delivery.filter(|other| other.progress.state != State::Duplicate).map(|other| other.id).next();
    if let Some(to) = first {
        return Some(Link { kind: LinkKind::SameDeliveryAs, to });
    }
    let lives = |other: &&Event| !matches!(other.progress.state, State::Duplicate | State::Dropped | State::Canceled);
    let same_time = known.same_time.iter().filter(|_| event.origin == WhenOrigin::Tracker).find(lives)?;
    Some(Link { kind: LinkKind::SameTimeAs, to: same_time.id })
}

/// The cause of the first state of an event that is no duplicate.
fn first_cause(event: &Event, mapping: Mapping, settings: &Settings) -> Cause {
    match mapping {
        Mapping::NotMapped => Cause::NotMapped,
        Mapping::ProjectMismatch => Cause::ProjectMismatch,
        Mapping::Failed => Cause::MappingFailed,
        Mapping::Fits if event.private && settings.private == Private::Drop => Cause::Private,
        Mapping::Fits if event.bug.is_none() => Cause::MappingFailed,
        Mapping::Fits if !settings.on => Cause::SwitchedOff,
        Mapping::Fits => Cause::Accepted,
    }
}

fn first_progress(event: &Event, cause: Cause, retry: Schedule) -> Progress {
    let now_us = event.received_us;
    let of = |state| Progress::new(state, event.progress.trigger);
    let dropped = |reason| Progress { drop: Some(reason), ended_us: Some(now_us), ..of(State::Dropped) };
    match cause {
        Cause::Repeated => Progress { ended_us: Some(now_us), ..of(State::Duplicate) },
        Cause::Private => dropped(DropReason::Private),
        Cause::NotMapped => dropped(DropReason::NotMapped),
        Cause::ProjectMismatch => dropped(DropReason::ProjectMismatch),
        Cause::SwitchedOff => of(State::Disabled),
        Cause::MappingFailed => mapping_failed(event, retry),
        _ => Progress { due_us: Some(AT_ONCE), ..of(State::Queued) },
    }
}

fn mapping_failed(event: &Event, retry: Schedule) -> Progress {
    let wait_us = if event.retryable { retry.delay_us(1) } else { LONGEST_US };
    let due_us = event.received_us.saturating_add(wait_us);
    Progress {
        class: Some(ErrorClass::Mapping),
        attempts: 1,
        step: 1,
        due_us: Some(due_us.min(event.expires_us)),
        ..Progress::new(State::Errored, Trigger::Retry)
    }
}

/// An errored event without a bug is in no chain that the new event's arrival would try, so it is tried for itself.
fn try_alone(first: &Event, now_us: i64) -> Option<Action> {
    let last = first.progress.drained_us;
    let too_soon = last.is_some_and(|last| last <= now_us && now_us - last < REPEAT_TRIES_US);
    if first.bug.is_some() || too_soon {
        return None;
    }
    let mended = super::orders::Order::Mended(ErrorClass::Mapping);
    super::orders::carry_out(mended, first, now_us).ok()?.into_iter().next()
}

#[cfg(test)]
mod tests;
