//! The one table of allowed transitions. Store, API, console and documents are made from it or checked against it.
//!
//! A terminal state has no way out. A row of the table whose two states are equal moves a time or a link of the event,
//! and leaves no line in its history.
//!
//! | from | cause | to |
//! |---|---|---|
//! | new | `accepted` | queued |
//! | new | `repeated` | duplicate |
//! | new | `private`, `not_mapped`, `project_mismatch` | dropped |
//! | new | `mapping_failed` | errored |
//! | new | `switched_off` | disabled |
//! | queued | `claimed` | processing |
//! | queued, processing, errored | `announced` | completed |
//! | queued, processing, errored | `repeated` | duplicate |
//! | queued, processing, errored | `private`, `older` | dropped |
//! | processing | `unknown`, `not_mapped`, `project_mismatch`, `ignored` | dropped |
//! | queued, errored, disabled | `by_hand` | dropped |
//! | errored | `expired`, `ignored` | dropped |
//! | queued, processing, errored, disabled | `superseded` | canceled |
//! | queued, errored, disabled | `pruned` | canceled |
//! | processing | `failed` | errored |
//! | processing | `leases_lost` | errored |
//! | processing | `lease_ran_out`, `given_back`, `mapped` | queued |
//! | errored | `claimed` | processing |
//! | errored | `retried` | queued |
//! | queued, errored | `switched_off` | disabled |
//! | disabled | `switched_on` | queued |
//! | queued | `blocked`, `unblocked`, `postponed` | queued |
//! | errored | `blocked`, `unblocked`, `postponed`, `hastened`, `released` | errored |

use super::event::{State, words};
use std::fmt;

words! {
    /// Why an event changes its state.
    Cause {
        /// It was stored, and waits to be processed.
        Accepted = "accepted",
        /// It repeats another event.
        Repeated = "repeated",
        /// The bug is private.
        Private = "private",
        /// No rule of the mapping applies.
        NotMapped = "not_mapped",
        /// The key is not allowed for the item's project.
        ProjectMismatch = "project_mismatch",
        /// A repeated mapping says that the item concerns no bug; or, of an event that stands for a whole request, that nothing
        /// of the request does.
        Ignored = "ignored",
        /// The mapping failed on arrival.
        MappingFailed = "mapping_failed",
        /// Its source or feed is switched off.
        SwitchedOff = "switched_off",
        /// Its source or feed is switched on again.
        SwitchedOn = "switched_on",
        /// A worker took it, under a lease.
        Claimed = "claimed",
        /// Its row was written, in the same transaction.
        Announced = "announced",
        /// A newer event of the bug was announced.
        Older = "older",
        /// The tracker said twice that there is no such bug, or that it is not visible.
        Unknown = "unknown",
        /// A person dropped it.
        ByHand = "by_hand",
        /// It failed until it expired.
        Expired = "expired",
        /// Another event makes it pointless: a newer one was announced, and its source's dead letters are superseded; one was
        /// announced that repeats it; or a person received its request again, and its item came through.
        Superseded = "superseded",
        /// It was pruned.
        Pruned = "pruned",
        /// Processing failed.
        Failed = "failed",
        /// Its worker was gone once more: it may be what ends workers.
        LeasesLost = "leases_lost",
        /// Its worker was gone.
        LeaseRanOut = "lease_ran_out",
        /// Its worker ended in order, before it had an answer.
        GivenBack = "given_back",
        /// A repeated mapping succeeded. It goes to the lane of its bug.
        Mapped = "mapped",
        /// A person wants it tried again.
        Retried = "retried",
        /// It waits behind a dead letter.
        Blocked = "blocked",
        /// The dead letter is settled or released.
        Unblocked = "unblocked",
        /// Its tracker is not to be asked before a certain time.
        Postponed = "postponed",
        /// It is tried earlier than its schedule says.
        Hastened = "hastened",
        /// A person let those behind it go on.
        Released = "released",
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    /// The state before; `None` for an event that is new.
    pub from: Option<State>,
    /// Why.
    pub cause: Cause,
    /// The state after.
    pub to: State,
}

const fn line(from: Option<State>, cause: Cause, to: State) -> Transition {
    Transition { from, cause, to }
}

const NEW: Option<State> = None;
const QUEUED: Option<State> = Some(State::Queued);
const PROCESSING: Option<State> = Some(State::Processing);
const ERRORED: Option<State> = Some(State::Errored);
const DISABLED: Option<State> = Some(State::Disabled);

/// Every allowed transition.
pub const TRANSITIONS: &[Transition] = &[
    line(NEW, Cause::Accepted, State::Queued),
    line(NEW, Cause::Repeated, State::Duplicate),
    line(NEW, Cause::Private, State::Dropped),
    line(NEW, Cause::NotMapped, State::Dropped),
    line(NEW, Cause::ProjectMismatch, State::Dropped),
    line(NEW, Cause::MappingFailed, State::Errored),
    line(NEW, Cause::SwitchedOff, State::Disabled),
    line(QUEUED, Cause::Claimed, State::Processing),
    line(QUEUED, Cause::Announced, State::Completed),
    line(QUEUED, Cause::Repeated, State::Duplicate),
    line(QUEUED, Cause::Private, State::Dropped),
    line(QUEUED, Cause::Older, State::Dropped),
    line(QUEUED, Cause::ByHand, State::Dropped),
    line(QUEUED, Cause::Superseded, State::Canceled),
    line(QUEUED, Cause::Pruned, State::Canceled),
    line(QUEUED, Cause::SwitchedOff, State::Disabled),
    line(QUEUED, Cause::Blocked, State::Queued),
    line(QUEUED, Cause::Unblocked, State::Queued),
    line(QUEUED, Cause::Postponed, State::Queued),
    line(PROCESSING, Cause::Announced, State::Completed),
    line(PROCESSING, Cause::Repeated, State::Duplicate),
    line(PROCESSING, Cause::Superseded, State::Canceled),
    line(PROCESSING, Cause::Private, State::Dropped),
    line(PROCESSING, Cause::Older, State::Dropped),
    line(PROCESSING, Cause::Unknown, State::Dropped),
    line(PROCESSING, Cause::NotMapped, State::Dropped),
    line(PROCESSING, Cause::ProjectMismatch, State::Dropped),
    line(PROCESSING, Cause::Ignored, State::Dropped),
    line(PROCESSING, Cause::Failed, State::Errored),
    line(PROCESSING, Cause::LeasesLost, State::Errored),
    line(PROCESSING, Cause::LeaseRanOut, State::Queued),
    line(PROCESSING, Cause::GivenBack, State::Queued),
    line(PROCESSING, Cause::Mapped, State::Queued),
    line(ERRORED, Cause::Claimed, State::Processing),
    line(ERRORED, Cause::Announced, State::Completed),
    line(ERRORED, Cause::Repeated, State::Duplicate),
    line(ERRORED, Cause::Private, State::Dropped),
    line(ERRORED, Cause::Older, State::Dropped),
    line(ERRORED, Cause::ByHand, State::Dropped),
    line(ERRORED, Cause::Expired, State::Dropped),
    line(ERRORED, Cause::Ignored, State::Dropped),
    line(ERRORED, Cause::Superseded, State::Canceled),
    line(ERRORED, Cause::Pruned, State::Canceled),
    line(ERRORED, Cause::Retried, State::Queued),
    line(ERRORED, Cause::SwitchedOff, State::Disabled),
    line(ERRORED, Cause::Blocked, State::Errored),
    line(ERRORED, Cause::Unblocked, State::Errored),
    line(ERRORED, Cause::Postponed, State::Errored),
    line(ERRORED, Cause::Hastened, State::Errored),
    line(ERRORED, Cause::Released, State::Errored),
    line(DISABLED, Cause::SwitchedOn, State::Queued),
    line(DISABLED, Cause::ByHand, State::Dropped),
    line(DISABLED, Cause::Superseded, State::Canceled),
    line(DISABLED, Cause::Pruned, State::Canceled),
];

/// Whether the table has this transition.
pub fn is_allowed(from: Option<State>, cause: Cause, to: State) -> bool {
    TRANSITIONS.contains(&line(from, cause, to))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_terminal_state_has_no_way_out_and_is_reached() {
        for state in State::ALL {
            let leaves = TRANSITIONS.iter().any(|line| line.from == Some(*state));
            assert_eq!(leaves, !state.is_terminal(), "{state}");
            assert!(TRANSITIONS.iter().any(|line| line.to == *state), "{state}");
        }
    }

    #[test]
    fn from_and_cause_decide_where_it_goes() {
        for (index, one) in TRANSITIONS.iter().enumerate() {
            for other in &TRANSITIONS[index + 1..] {
                assert!((one.from, one.cause) != (other.from, other.cause), "{one:?} {other:?}");
            }
        }
        let used: BTreeSet<Cause> = TRANSITIONS.iter().map(|line| line.cause).collect();
        assert_eq!(used.len(), Cause::ALL.len(), "every cause has a line");
    }

    /// The table of the module's documentation, as lines.
    fn documented() -> BTreeSet<(String, String, String)> {
        let mut found = BTreeSet::new();
        for line in include_str!("states.rs").lines().filter_map(|line| line.strip_prefix("//! | ")) {
            let cells: Vec<&str> = line.trim_end_matches(" |").split(" | ").collect();
            let [from, causes, to] = cells[..] else { continue };
            for from in from.split(", ").filter(|_| causes.starts_with('`')) {
                for cause in causes.split(", ") {
                    found.insert((from.to_owned(), cause.trim_matches('`').to_owned(), to.to_owned()));
                }
            }
        }
        found
    }

    #[test]
    fn the_documented_table_is_the_table() {
        let table = TRANSITIONS.iter().map(|line| {
            let from = line.from.map_or("new", State::as_str);
            (from.to_owned(), line.cause.as_str().to_owned(), line.to.as_str().to_owned())
        });
        assert_eq!(documented(), table.collect());
    }
}
