//! What a lagging session has yet to be sent, as an explicit state machine.
//!
//! Goes in: a [`Phase`] to begin with, later a piece of work from the connection, or the news that continuity was lost.
//! Comes out: what the shard does next for the session. Never writes to a socket and never reads the replay cache: the
//! shard does both, and says with [`Backlog::enter`] what the session's next phase is.
//!
//! A backlog has three parts, and they change independently of each other:
//!
//! - [`Outgoing`]: bytes of encoded frames. Whatever the phase is, they are written before anything else is done.
//! - [`Phase`]: what the session is owed once those bytes are written.
//! - [`Request`]: the one piece of work that the connection may have handed in.
//!
//! All changes of phase are listed in [`TRANSITIONS`], all changes of the request in [`REQUESTS`]. A change that is not
//! listed stops the process. `docs/design/session.md` shows both tables, and a test compares it with them.

use bugfeed_protocol::close::Close;
use bugfeed_protocol::{BugId, When};

use super::frame;
use super::input::Work;
use super::replay::{Found, Pos};
use transitions::{Name, REQUESTS, TRANSITIONS, check};

/// A waiting session keeps at most so many changes that a catch-up found; the others are looked up again.
pub(super) const KEEP: usize = 2048;

/// Everything a lagging session has yet to be sent.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Encoded bytes, which are written first.
    pub(super) outgoing: Outgoing,
    /// What is owed after them.
    phase: Phase,
    /// What the connection has handed in.
    request: Request,
    /// Whether the session is sent only the newest change of each bug of those that it misses. It is so under
    /// backpressure: once the socket refused bytes, until all is sent and the next piece of work begins. A session that
    /// lags only because other sessions of its shard have their turn first is sent every change that it misses.
    conflates: bool,
}

/// What a lagging session is owed once its outgoing bytes are written.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing is in hand. Everything up to `after` was encoded; whatever the shard processed later was missed, and is
    /// looked up next. Where nothing was missed, it is the turn of the connection's request.
    Behind {
        /// The last position that is done with.
        after: Pos,
        /// A conflation that was dropped held the cursor back, and the next one has to go on with that.
        hold: Option<CursorHold>,
    },
    /// A catch-up was looked up: one that a command asked for, or what a session without backpressure missed. All that
    /// it found and that is not encoded yet is in the batch.
    CatchUp {
        /// What was looked up.
        query: Query,
        /// What it found.
        batch: Batch,
    },
    /// A catch-up whose batch holds only the first [`KEEP`] changes, because the session had to wait. After them the query
    /// is asked again, for what comes after the last change that was encoded.
    Cut {
        /// What was looked up, and will be again.
        query: Query,
        /// The first changes that it found.
        batch: Batch,
    },
    /// The newest change of each bug that changed while the session lagged. It lasts only as long as the socket takes
    /// bytes: a session that has to wait drops it, and looks for newer changes later.
    Conflation {
        /// The position up to which was looked.
        upto: Pos,
        /// What was found.
        batch: Batch,
    },
    /// Changes may have been lost, and the client must be told so before anything else. Nothing that was found before
    /// is worth sending: the client will ask the tracker for everything.
    GapOwed,
    /// The last bytes are a close frame: the session ends once they are written.
    Closing,
}

/// Changes that were found, and how many of them are encoded.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In order of their positions; those before `next` are encoded.
    pub(super) found: Vec<Found>,
    /// The index of the first one that is not encoded.
    pub(super) next: usize,
    /// The position of the last one that was encoded; before there is one, the position after which was looked.
    pub(super) sent: Pos,
    /// While it holds, another cursor than the change's own is told.
    pub(super) hold: Option<CursorHold>,
}

/// Holds the cursor back that is told with the changes of a batch.
///
/// A cursor claims that its client has every change with a number up to it. The newest change of a bug may have come
/// late: it has a low number, but lies behind changes with higher numbers. Where only the newest change of that bug is
/// sent, it replaces those others, and until it is sent no cursor may claim them. Example: changes 7, 8 and 9 were
/// recorded in the order 8, 9, 7, and 8 and 7 are of one bug. Only 9 and 7 are sent. With 9 the client must not be told
/// cursor 9: it has nothing of that bug yet, and a gateway to which 7 came in time would send it nothing after 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CursorHold {
    /// The cursor that is told is the one of this position.
    pub(super) at: Pos,
    /// A gap right after that position was told, and its cursor: a cursor below that one would fall back.
    pub(super) gap_told: bool,
    /// The position of the last change that came late. From it on, each change is told with its own cursor.
    pub(super) until: Pos,
}

/// What a catch-up asks the replay cache for. It is kept for as long as it may have to be asked again.
#[derive(Debug)]
pub(super) struct Query {
    /// Of which bugs.
    pub(super) bugs: Vec<BugId>,
    /// Up to and including this position.
    pub(super) upto: Pos,
    /// After this position.
    pub(super) after: Pos,
    /// Where the client named a time: that time, for changes that have left the ring.
    pub(super) since: Option<When>,
    /// How many changes may be found one by one; 0 asks for the newest of each bug.
    pub(super) limit: usize,
}

/// The one piece of work that a connection may have handed in: it hands in no other before
/// [`Peer::ready`](super::session::Peer::ready).
#[derive(Debug, Default)]
pub(super) enum Request {
    /// The connection has handed in nothing, and may do so at any time.
    #[default]
    None,
    /// Deferred until the session is sent everything that came before it.
    Deferred(Work),
    /// A resume that cannot be answered, though everything before it is sent: it is not known yet whether this gateway
    /// missed changes. It waits until [`Input::Hold`](super::shard::Input::Hold) ends, not for the socket.
    AwaitsFeed(Work),
    /// Its answer is in the outgoing bytes and the phase. Once all of that is sent, the connection is told to go on.
    Answering,
}

impl Backlog {
    /// The backlog of a session that was open and begins to lag. What it misses is conflated.
    // Not inlined into the loops that write to open sessions.
    #[inline(never)]
    pub(super) fn new(phase: Phase, bytes: Vec<u8>) -> Box<Backlog> {
        check(&TRANSITIONS, Name::Open, phase.name());
        Box::new(Backlog { outgoing: Outgoing { bytes, written: 0 }, phase, request: Request::None, conflates: true })
    }

    /// The backlog of an open session whose connection hands in work. Everything up to `processed` has been sent.
    pub(super) fn with_work(work: Work, processed: Pos) -> Box<Backlog> {
        let mut backlog = Backlog::new(Phase::behind(processed), Vec::new());
        backlog.conflates = false;
        backlog.hand_in(work);
        backlog
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    /// Whether what the session misses is conflated.
    pub(super) fn conflates(&self) -> bool {
        self.conflates
    }

    /// The socket took so many of the outgoing bytes. Whether it took all; otherwise there is backpressure from here on.
    pub(super) fn socket_took(&mut self, count: usize) -> bool {
        let all = self.outgoing.took(count);
        self.conflates |= !all;
        all
    }

    /// Goes on with another phase.
    pub(super) fn enter(&mut self, next: Phase) {
        self.turn(|_| next);
    }

    /// Goes on with another phase, made of what the present one holds.
    pub(super) fn turn(&mut self, next: impl FnOnce(Phase) -> Phase) {
        let from = self.phase.name();
        // The gap stands here only while `next` runs.
        self.phase = next(std::mem::replace(&mut self.phase, Phase::GapOwed));
        check(&TRANSITIONS, from, self.phase.name());
        self.assert_holds();
    }

    /// Continuity was lost: the client is told before it is sent anything else. One that is closed is not told.
    pub(super) fn owe_gap(&mut self) {
        if !matches!(self.phase, Phase::GapOwed | Phase::Closing) {
            self.enter(Phase::GapOwed);
        }
    }

    /// Ends the session once it is written the outgoing bytes, of which a close frame is the last.
    pub(super) fn close(&mut self, close: Close) {
        self.outgoing.buffer().extend_from_slice(&frame::close(close));
        self.enter(Phase::Closing);
    }

    /// The changes that are encoded next, where the phase has any, and where their frames are appended.
    pub(super) fn batch_and_buffer(&mut self) -> Option<(&mut Batch, &mut Vec<u8>)> {
        Some((self.phase.batch()?, self.outgoing.buffer()))
    }

    /// Takes a piece of work from the connection.
    pub(super) fn hand_in(&mut self, work: Work) {
        self.turn_request(|_| Request::Deferred(work));
    }

    /// Whether the session waits for the gateway, and not for its socket.
    pub(super) fn awaits_feed(&self) -> bool {
        matches!(self.request, Request::AwaitsFeed(_))
    }

    /// Leaves the resume that was deferred until it is known whether this gateway missed changes.
    pub(super) fn await_feed(&mut self) {
        self.turn_request(|request| match request {
            Request::Deferred(work) => Request::AwaitsFeed(work),
            other => other,
        });
    }

    /// A resume that waited for the gateway is looked at again.
    pub(super) fn defer_again(&mut self) {
        if self.awaits_feed() {
            self.turn_request(|request| match request {
                Request::AwaitsFeed(work) => Request::Deferred(work),
                other => other,
            });
        }
    }

    /// The work that was deferred, if any: it is answered now. The socket took everything that came before it, so what is
    /// missed from here on is sent change by change.
    pub(super) fn begin_work(&mut self) -> Option<Work> {
        let mut begun = None;
        if matches!(self.request, Request::Deferred(_)) {
            self.conflates = false;
            self.turn_request(|request| {
                if let Request::Deferred(work) = request {
                    begun = Some(work);
                }
                Request::Answering
            });
        }
        begun
    }

    /// All of an answer was sent, if there was one: whether the connection must be told.
    pub(super) fn end_work(&mut self) -> bool {
        let answering = matches!(self.request, Request::Answering);
        if answering {
            self.turn_request(|_| Request::None);
        }
        answering
    }

    fn turn_request(&mut self, next: impl FnOnce(Request) -> Request) {
        let from = self.request.name();
        self.request = next(std::mem::take(&mut self.request));
        check(&REQUESTS, from, self.request.name());
        self.assert_holds();
    }

    /// Keeps as little in memory as will do while the session waits for its turn.
    pub(super) fn compact(&mut self) {
        self.outgoing.compact();
        match &self.phase {
            Phase::Conflation { .. } => self.turn(Phase::drop_conflation),
            Phase::CatchUp { batch, .. } if batch.left() > KEEP => self.turn(Phase::cut),
            _ => {}
        }
        if let Some(batch) = self.phase.batch() {
            batch.found.drain(..batch.next);
            batch.found.shrink_to_fit();
            batch.next = 0;
        }
        self.assert_holds();
    }

    #[cfg(test)]
    pub(super) fn found_capacity(&self) -> usize {
        match &self.phase {
            Phase::CatchUp { batch, .. } | Phase::Cut { batch, .. } | Phase::Conflation { batch, .. } => {
                batch.found.capacity()
            }
            Phase::Behind { .. } | Phase::GapOwed | Phase::Closing => 0,
        }
    }

    /// Checks that the session may be open again.
    pub(super) fn assert_sent(&self) {
        assert!(self.outgoing.is_empty(), "bytes were left: {self:?}");
        assert!(matches!(self.request, Request::None), "work was left: {self:?}");
        check(&TRANSITIONS, self.phase.name(), Name::Open);
    }

    /// What holds in each phase, between one step and the next.
    fn assert_holds(&self) {
        match &self.phase {
            Phase::Behind { after, hold } => {
                assert!(hold.is_none_or(|hold| hold.until > *after), "it is over: {self:?}");
                assert!(hold.is_none() || self.conflates, "only a conflation is dropped: {self:?}");
            }
            Phase::CatchUp { query, batch } => batch.assert_holds(query.upto),
            Phase::Cut { query, batch } => {
                batch.assert_holds(query.upto);
                assert!(batch.left() <= KEEP, "this is what it was cut for");
            }
            Phase::Conflation { upto, batch } => {
                batch.assert_holds(*upto);
                assert!(self.conflates, "without backpressure every change is sent: {self:?}");
            }
            Phase::GapOwed => {}
            Phase::Closing => assert!(matches!(self.request, Request::Answering), "closed by no work: {self:?}"),
        }
        if self.awaits_feed() {
            assert!(self.outgoing.is_empty(), "it is sent everything before it waits for the gateway: {self:?}");
            let idle = matches!(self.phase, Phase::Behind { .. } | Phase::GapOwed);
            assert!(idle, "nothing is in hand while it waits for the gateway: {self:?}");
        }
    }
}

impl Phase {
    /// Everything up to a position is encoded, and nothing is in hand.
    pub(super) fn behind(after: Pos) -> Phase {
        Phase::Behind { after, hold: None }
    }

    /// A conflation is dropped: what it has left is not worth memory, since the newest changes can be found again, and
    /// may be newer then.
    fn drop_conflation(self) -> Phase {
        match self {
            Phase::Conflation { upto, batch } if batch.left() == 0 => Phase::behind(upto),
            Phase::Conflation { batch, .. } => Phase::Behind { after: batch.sent, hold: batch.hold_left() },
            other => other,
        }
    }

    /// A catch-up keeps its first [`KEEP`] changes, and looks the others up again.
    fn cut(self) -> Phase {
        match self {
            Phase::CatchUp { query, mut batch } => {
                batch.found.truncate(batch.next + KEEP);
                Phase::Cut { query, batch }
            }
            other => other,
        }
    }

    /// The changes that are encoded next.
    fn batch(&mut self) -> Option<&mut Batch> {
        match self {
            Phase::CatchUp { batch, .. } | Phase::Cut { batch, .. } | Phase::Conflation { batch, .. } => Some(batch),
            Phase::Behind { .. } | Phase::GapOwed | Phase::Closing => None,
        }
    }

    fn name(&self) -> Name {
        match self {
            Phase::Behind { .. } => Name::Behind,
            Phase::CatchUp { .. } => Name::CatchUp,
            Phase::Cut { .. } => Name::Cut,
            Phase::Conflation { .. } => Name::Conflation,
            Phase::GapOwed => Name::GapOwed,
            Phase::Closing => Name::Closing,
        }
    }
}

impl Batch {
    /// An empty one, before a look-up of what lies after a position.
    pub(super) fn after(sent: Pos) -> Batch {
        Batch { sent, ..Batch::default() }
    }

    /// How many changes are not encoded yet.
    pub(super) fn left(&self) -> usize {
        self.found.len() - self.next
    }

    /// The hold on the cursor, as far as the change that it waits for is not encoded yet.
    pub(super) fn hold_left(&self) -> Option<CursorHold> {
        self.hold.filter(|hold| hold.until > self.sent)
    }

    /// An empty one for the next look-up, of what lies after the last change of this one.
    pub(super) fn next_batch(mut self) -> Batch {
        self.hold = self.hold_left();
        self.found.clear();
        self.next = 0;
        self
    }

    fn assert_holds(&self, upto: Pos) {
        assert!(self.next <= self.found.len(), "more is encoded than was found");
        assert!(self.found.last().is_none_or(|last| last.pos <= upto), "found beyond what was asked for");
        let next = self.found.get(self.next);
        assert!(next.is_none_or(|next| next.pos > self.sent), "found before what is sent");
        assert!(self.hold.is_none_or(|hold| hold.at < hold.until), "{:?}", self.hold);
        debug_assert!(self.found.is_sorted_by(|one, next| one.pos < next.pos), "out of order");
    }
}

/// Encoded frames on their way to the socket.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// The socket took those before. Always less than there are, or 0.
    written: usize,
}

impl Outgoing {
    /// What the socket has not taken yet.
    pub(super) fn left(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where further frames are appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The socket took so many bytes more. Whether it has taken all.
    fn took(&mut self, count: usize) -> bool {
        self.written += count;
        assert!(self.written <= self.bytes.len(), "the socket took more than it was given");
        let all = self.written == self.bytes.len();
        if all {
            self.bytes.clear();
            self.written = 0;
        }
        all
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.written);
        self.bytes.shrink_to_fit();
        self.written = 0;
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Checks that a session may end, with what it has yet to be sent, if anything.
pub(super) fn assert_may_end(backlog: Option<&Backlog>) {
    check(&TRANSITIONS, backlog.map_or(Name::Open, |backlog| backlog.phase.name()), Name::Ended);
}

mod transitions;

#[cfg(test)]
pub(super) mod tests;
