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

use bugfeed_protocol::When;
use bugfeed_protocol::client::WhichBugs;
use bugfeed_protocol::close::Close;

use super::cursor_hold::CursorHold;
use super::frame;
use super::input::Work;
use super::replay::{Found, Pos};
use transitions::{Name, REQUESTS, TRANSITIONS, check};

/// The most changes of a catch-up that a waiting session keeps. The others are looked up again later.
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
    /// Whether the session is sent only the newest change of each bug, of the changes that it missed (conflation). This
    /// begins under backpressure, when the socket refuses bytes. It ends when everything is sent and the next piece of
    /// work begins. A session that lags only because it is the turn of other sessions of its shard is sent every change
    /// that it missed.
    conflates: bool,
}

/// What a lagging session is owed once its outgoing bytes are written.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing is in hand. Everything up to `after` was encoded. If the shard has processed later changes, the session
    /// has missed them, and they are looked up next; if not, it is the turn of the connection's request.
    Behind {
        /// Everything up to this position was encoded.
        after: Pos,
        /// The hold on the cursor that a dropped conflation has left. The next conflation goes on with it.
        hold: Option<CursorHold>,
    },
    /// A catch-up was looked up, because a command asked for it, because a session without backpressure missed changes, or
    /// because what a session with all bugs missed has left the ring. The batch holds all changes that were found and are
    /// not encoded yet; of a catch-up for all bugs, those of one page.
    CatchUp {
        /// What was looked up.
        query: Query,
        /// The changes that were found.
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
        /// The position up to which the replay cache was searched. Of a session that watches all bugs, that is one page.
        upto: Pos,
        /// The changes that were found.
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
    /// The position of the last change that was encoded. Before there is one: the position after which the search
    /// began.
    pub(super) sent: Pos,
    /// As long as this hold lasts, a change is sent with another cursor than its own.
    pub(super) hold: Option<CursorHold>,
    /// The position up to which the search has come. It ends early only where it is for all bugs: they are searched a
    /// page at a time.
    pub(super) searched: Pos,
}

/// What a catch-up asks the replay cache for. It is kept for as long as it may have to be asked again.
#[derive(Debug)]
pub(super) struct Query {
    /// The bugs.
    pub(super) bugs: WhichBugs,
    /// Only changes up to and including this position.
    pub(super) upto: Pos,
    /// Only changes after this position.
    pub(super) after: Pos,
    /// The time, if the client named one. It decides about changes that have left the ring.
    pub(super) since: Option<When>,
    /// How many changes may be found one by one; 0 asks for the newest of each bug.
    pub(super) limit: usize,
}

/// The one piece of work that a connection may have handed in. The connection hands in no other before
/// [`Peer::ready`](super::session::Peer::ready) is called.
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
    /// The answer to the work is in the outgoing bytes and the phase. Once all of that is sent, the connection is told
    /// to go on.
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

    /// Notes that the socket took `count` of the outgoing bytes. Returns whether it took all; if not, backpressure
    /// begins.
    pub(super) fn socket_took(&mut self, count: usize) -> bool {
        let all = self.outgoing.took(count);
        self.conflates |= !all;
        all
    }

    /// Goes on with another phase.
    pub(super) fn enter(&mut self, next: Phase) {
        self.turn(|_| next);
    }

    /// Goes on with another phase, which is made from the present one.
    pub(super) fn turn(&mut self, next: impl FnOnce(Phase) -> Phase) {
        let from = self.phase.name();
        // `GapOwed` is only a placeholder here while `next` runs.
        self.phase = next(std::mem::replace(&mut self.phase, Phase::GapOwed));
        check(&TRANSITIONS, from, self.phase.name());
        self.assert_holds();
    }

    /// Continuity was lost: the client is told before it is sent anything else. A client whose session is closing is
    /// not told.
    pub(super) fn owe_gap(&mut self) {
        if !matches!(self.phase, Phase::GapOwed | Phase::Closing) {
            self.enter(Phase::GapOwed);
        }
    }

    /// Ends the session once the outgoing bytes are written, of which a close frame is the last.
    pub(super) fn close(&mut self, close: Close) {
        self.outgoing.buffer().extend_from_slice(&frame::close(close));
        self.enter(Phase::Closing);
    }

    /// The phase's batch of changes, if it has one, and the buffer to which their frames are appended.
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

    /// Makes the deferred resume wait until it is known whether this gateway missed changes.
    pub(super) fn await_feed(&mut self) {
        self.turn_request(|request| match request {
            Request::Deferred(work) => Request::AwaitsFeed(work),
            other => other,
        });
    }

    /// Takes up a resume again that waited for the gateway.
    pub(super) fn defer_again(&mut self) {
        if self.awaits_feed() {
            self.turn_request(|request| match request {
                Request::AwaitsFeed(work) => Request::Deferred(work),
                other => other,
            });
        }
    }

    /// Takes the deferred work, if any, so that it is answered now. The socket took everything that came before it, so
    /// changes that the session misses from here on are sent one by one.
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

    /// Notes that everything was sent. Returns whether an answer was among it, so that the connection must be told.
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

    /// Frees the memory that the session does not need while it waits for its turn.
    pub(super) fn compact(&mut self) {
        self.outgoing.compact();
        match &self.phase {
            Phase::Conflation { .. } => self.turn(Phase::drop_conflation),
            // A page of all bugs may be kept, because to look it up again may cost a pass over the table of all bugs.
            Phase::CatchUp { query, batch } if batch.left() > KEEP && !query.bugs.is_all() => self.turn(Phase::cut),
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

    /// Checks what must hold in each phase, between one step and the next.
    fn assert_holds(&self) {
        match &self.phase {
            Phase::Behind { after, hold } => {
                assert!(hold.is_none_or(|hold| hold.until > *after), "the hold has ended: {self:?}");
                assert!(hold.is_none() || self.conflates, "only a conflation leaves a hold: {self:?}");
            }
            Phase::CatchUp { query, batch } => batch.assert_holds(query.upto),
            Phase::Cut { query, batch } => {
                batch.assert_holds(query.upto);
                assert!(batch.left() <= KEEP, "a cut batch is short");
            }
            Phase::Conflation { upto, batch } => {
                batch.assert_holds(*upto);
                assert!(self.conflates, "without backpressure every change is sent: {self:?}");
            }
            Phase::GapOwed => {}
            Phase::Closing => {
                assert!(matches!(self.request, Request::Answering), "only work closes a session: {self:?}");
            }
        }
        if self.awaits_feed() {
            assert!(self.outgoing.is_empty(), "it is sent everything before it waits for the gateway: {self:?}");
            let idle = matches!(self.phase, Phase::Behind { .. } | Phase::GapOwed);
            assert!(idle, "nothing is in hand while it waits for the gateway: {self:?}");
        }
    }
}

impl Phase {
    /// Nothing is in hand, and everything up to a position is encoded.
    pub(super) fn behind(after: Pos) -> Phase {
        Phase::Behind { after, hold: None }
    }

    /// All of a conflation is encoded. A late change that is yet to come, because the search has not come so far, goes on
    /// holding the cursor back.
    pub(super) fn conflated(upto: Pos, batch: &Batch) -> Phase {
        Phase::Behind { after: upto, hold: batch.hold.filter(|hold| hold.until > upto) }
    }

    /// Drops a conflation. What it has left is not worth the memory: the newest changes can be looked up again, and may
    /// be newer then.
    fn drop_conflation(self) -> Phase {
        match self {
            Phase::Conflation { upto, batch } if batch.left() == 0 => Phase::conflated(upto, &batch),
            Phase::Conflation { batch, .. } => Phase::Behind { after: batch.sent, hold: batch.hold_left() },
            other => other,
        }
    }

    /// Cuts a catch-up to its first [`KEEP`] changes; the others are looked up again later.
    fn cut(self) -> Phase {
        match self {
            Phase::CatchUp { query, mut batch } => {
                batch.found.truncate(batch.next + KEEP);
                Phase::Cut { query, batch }
            }
            other => other,
        }
    }

    /// The phase's batch of changes, if it has one.
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
    /// An empty batch, before a look-up of what lies after the position `sent`.
    pub(super) fn after(sent: Pos) -> Batch {
        Batch { sent, ..Batch::default() }
    }

    /// How many changes are not encoded yet.
    pub(super) fn left(&self) -> usize {
        self.found.len() - self.next
    }

    /// The hold on the cursor; `None` once the change that it waits for is encoded.
    pub(super) fn hold_left(&self) -> Option<CursorHold> {
        self.hold.filter(|hold| hold.until > self.sent)
    }

    /// An empty batch for the next look-up, which begins after the last change of this one.
    pub(super) fn next_batch(mut self) -> Batch {
        self.hold = self.hold_left();
        self.found.clear();
        self.next = 0;
        self
    }

    /// An empty batch for the next page, which begins where the search of this one ended.
    pub(super) fn next_page(self) -> Batch {
        let searched = self.searched;
        Batch { sent: searched, ..self }.next_batch()
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
    /// How many of the bytes the socket has taken. When it has taken all of them, the buffer is emptied and this is 0.
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

    /// Notes that the socket took `count` bytes more. Returns whether it has taken all.
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

/// Checks that a session may end now. `backlog` is what it has yet to be sent; `None` if it is open.
pub(super) fn assert_may_end(backlog: Option<&Backlog>) {
    check(&TRANSITIONS, backlog.map_or(Name::Open, |backlog| backlog.phase.name()), Name::Ended);
}

mod transitions;

#[cfg(test)]
pub(super) mod tests;
