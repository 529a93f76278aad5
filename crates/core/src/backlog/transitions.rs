//! Which phase of a session may follow which, and why: the tables that every change is checked against.
//!
//! `docs/design/session.md` shows both tables as diagrams. They are written by a test, which fails when they differ.

use std::fmt::Debug;

use super::Request;

/// The phases of a session by name. Those of a lagging session are [`Phase`](super::Phase)s; `Open` and `Ended` need no
/// data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// The session was sent everything.
    Open,
    /// [`Phase::Behind`](super::Phase::Behind).
    Behind,
    /// [`Phase::CatchUp`](super::Phase::CatchUp).
    CatchUp,
    /// [`Phase::Cut`](super::Phase::Cut).
    Cut,
    /// [`Phase::Conflation`](super::Phase::Conflation).
    Conflation,
    /// [`Phase::GapOwed`](super::Phase::GapOwed).
    GapOwed,
    /// [`Phase::Closing`](super::Phase::Closing).
    Closing,
    /// Nothing more is written; the connection was told to end.
    Ended,
}

/// The states of a lagging session's [`Request`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RequestName {
    /// [`Request::None`].
    None,
    /// [`Request::Deferred`].
    Deferred,
    /// [`Request::AwaitsFeed`].
    AwaitsFeed,
    /// [`Request::Answering`].
    Answering,
}

/// One change that may happen: from which phase, to which, and when.
pub(super) type Transition<N> = (N, N, &'static str);

/// Every change of a session's phase.
pub(super) const TRANSITIONS: [Transition<Name>; 22] = {
    use Name::{Behind, CatchUp, Closing, Conflation, Cut, Ended, GapOwed, Open};
    [
        (Open, Behind, "work came, or the socket took less than it was given"),
        (
            Open,
            GapOwed,
            "a gap is to be told, and the socket takes nothing, or an update shows that the client is on another history",
        ),
        (Open, Ended, "the peer is dead or too slow, or the gateway shuts down"),
        (Behind, Open, "everything was sent, and no work waits"),
        (
            Behind,
            CatchUp,
            "a command asks for changes, or some were missed without backpressure or by a client that is ahead, or of all bugs from before the ring",
        ),
        (Behind, Conflation, "changes were missed under backpressure"),
        (Behind, GapOwed, "continuity was lost, or what was missed is not known any more"),
        (Behind, Closing, "the connection asks for its end, or there is no room for its bugs"),
        (Behind, Ended, "the peer is dead or too slow, or the gateway shuts down"),
        (CatchUp, Behind, "all of it is encoded"),
        (CatchUp, CatchUp, "a page of all bugs is encoded, and the next one is looked up"),
        (CatchUp, Cut, "the session has to wait, and there is more than it may keep"),
        (CatchUp, GapOwed, "continuity was lost, or the rest is not known any more"),
        (CatchUp, Ended, "the peer is dead or too slow, or the gateway shuts down"),
        (Cut, CatchUp, "what was kept is encoded, and the rest is looked up again"),
        (Cut, GapOwed, "continuity was lost, or the rest is not known any more"),
        (Cut, Ended, "the peer is dead or too slow, or the gateway shuts down"),
        (Conflation, Behind, "all of it is encoded, or the session has to wait and drops the rest"),
        (Conflation, Ended, "the peer is dead"),
        (GapOwed, Behind, "the gap is encoded"),
        (GapOwed, Ended, "the peer is dead or too slow, or the gateway shuts down"),
        (Closing, Ended, "the close frame is written, or the peer is dead or too slow"),
    ]
};

/// Every change of the request of a lagging session.
pub(super) const REQUESTS: [Transition<RequestName>; 5] = {
    use RequestName::{Answering, AwaitsFeed, Deferred, None};
    [
        (None, Deferred, "the connection hands in work"),
        (Deferred, Answering, "everything before it is sent"),
        (Deferred, AwaitsFeed, "it is a resume, and it is not known whether this gateway missed changes"),
        (AwaitsFeed, Deferred, "that is known now, or it is the session's turn again"),
        (Answering, None, "the answer is sent, and the connection may hand in the next"),
    ]
};

/// Stops the process if a change is not in its table, because whatever the session did next would be a guess.
pub(super) fn check<N: Copy + Debug + PartialEq>(table: &[Transition<N>], from: N, to: N) {
    let listed = table.iter().any(|(before, after, _)| (*before, *after) == (from, to));
    assert!(listed, "a session went from {from:?} to {to:?}");
    #[cfg(test)]
    super::tests::note(&format!("{from:?} --> {to:?}"));
}

impl Request {
    pub(super) fn name(&self) -> RequestName {
        match self {
            Request::None => RequestName::None,
            Request::Deferred(_) => RequestName::Deferred,
            Request::AwaitsFeed(_) => RequestName::AwaitsFeed,
            Request::Answering => RequestName::Answering,
        }
    }
}
