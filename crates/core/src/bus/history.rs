//! How history is read: a marker, the stream up to it, once more from its first message, and when to give up.
//!
//! Goes in: what became of each request, and what the stream delivers. Comes out: the next request ([`Ask`]), what to do with
//! a message ([`Met`]), and how the reading ended ([`End`]). Never decides when history is read (that is the plan's), or
//! what a message means (the sequencer's).
//!
//! The phases of a reading, and what leads from one to the next:
//!
//! | phase | event | next |
//! |---|---|---|
//! | - | the plan wants history | `Marking`, and asks for a marker |
//! | `Marking` | the marker is in the stream | `Reading` from where the next number should lie; asks for deliveries |
//! | `Reading` | its own marker, and what was sought is found | -, [`End::Read`] |
//! | `Reading` | its own marker, and it is not found | `Marking`, from the first message on |
//! | `Reading` | what is met first shows another stream; or nothing comes from an offset that may lie beyond the end | the same |
//! | `Marking`, `Reading` | the broker refuses, or nothing comes for 5 s | `Resting`; or -, [`End::Failed`] |
//! | `Resting` | its time has come | `Marking`, from where the next number should lie by now |
//! | any | the connection is lost | - |
//!
//! Why a marker: a stream has no end that a consumer is told of. Gateways pass over the markers of others.

use bugfeed_protocol::Cursor;
use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::bus::BusMessage;

use super::offsets::{Met, Offsets, Reading, Start};
use super::words::Ask;

/// How long the stream may take to send the next message. One that is just being recovered may never send it: ask again.
const PATIENCE_MS: u64 = 5_000;
/// How long it may take to send the first message from an offset that may lie beyond its end.
const FIRST_PATIENCE_MS: u64 = 3_000;
/// Messages that one acknowledgement covers. A consumer of a stream is sent no more than its prefetch count ahead, which must
/// be larger.
const ACKNOWLEDGE_EVERY: u32 = 500;

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything was read up to the marker.
    Read { messages: u64, proven: bool },
    /// It was given up. `silent`: nothing came, rather than a refusal.
    Failed { for_good: bool, silent: bool },
}

#[derive(Debug)]
enum Phase {
    Marking,
    Reading { marker: String, heard_ms: u64, begun: bool, unacknowledged: u32 },
    Resting { until_ms: u64 },
}

/// A reading under way.
#[derive(Debug)]
struct Task {
    phase: Phase,
    reading: Reading,
    /// Only what came since the last reading is wanted.
    from_mark: bool,
    /// It may fail, and be tried again, until then.
    deadline_ms: u64,
    backoff: Backoff,
}

/// What is known of a feed's history, and how far a reading of it is.
#[derive(Debug, Default)]
pub(super) struct History {
    places: Offsets,
    task: Option<Task>,
}

impl History {
    /// Begins to read. `head` is the newest number taken in.
    pub(super) fn begin(&mut self, deadline_ms: u64, from_mark: bool, head: Option<Cursor>, out: &mut Vec<Ask>) {
        let reading = Reading::new(self.start(from_mark, head.as_ref()), head);
        self.task = Some(Task { phase: Phase::Marking, reading, from_mark, deadline_ms, backoff: Backoff::SERVER });
        out.push(Ask::Mark);
    }

    fn start(&self, from_mark: bool, head: Option<&Cursor>) -> Start {
        if from_mark { self.places.start_at_mark(head) } else { self.places.start(head) }
    }

    /// The queue has delivered a message with this newest number.
    pub(super) fn delivered(&mut self, cursor: &Cursor) {
        self.places.delivered(cursor);
    }

    /// The connection is lost, and the reading with it.
    pub(super) fn lost(&mut self) {
        self.task = None;
    }

    /// The reading under way.
    pub(super) fn reading(&self) -> Option<&Reading> {
        self.task.as_ref().map(|task| &task.reading)
    }

    /// The same, to say what became of a message.
    pub(super) fn reading_mut(&mut self) -> Option<&mut Reading> {
        self.task.as_mut().map(|task| &mut task.reading)
    }

    /// When [`History::due`] has something to do.
    pub(super) fn due_ms(&self) -> Option<u64> {
        match &self.task.as_ref()?.phase {
            Phase::Marking => None,
            Phase::Reading { heard_ms, .. } if self.may_be_beyond() => Some(heard_ms + FIRST_PATIENCE_MS),
            Phase::Reading { heard_ms, .. } => Some(heard_ms + PATIENCE_MS),
            Phase::Resting { until_ms } => Some(*until_ms),
        }
    }

    /// Whether it was begun at an offset that may lie beyond the end, and nothing has come.
    fn may_be_beyond(&self) -> bool {
        let waits = |task: &Task| matches!(task.phase, Phase::Reading { begun: false, .. });
        self.task.as_ref().is_some_and(|task| waits(task) && *task.reading.start() != Start::First)
    }

    /// The marker is in the stream.
    pub(super) fn marked(&mut self, now_ms: u64, marker: String, out: &mut Vec<Ask>) {
        let Some(task) = &mut self.task else { return };
        task.phase = Phase::Reading { marker, heard_ms: now_ms, begun: false, unacknowledged: 0 };
        out.push(Ask::Consume(task.reading.start().offset()));
    }

    /// A message came from the stream.
    pub(super) fn heard(&mut self, now_ms: u64, out: &mut Vec<Ask>) {
        if let Some(Task { phase: Phase::Reading { heard_ms, begun, unacknowledged, .. }, .. }) = &mut self.task {
            (*heard_ms, *begun, *unacknowledged) = (now_ms, true, *unacknowledged + 1);
            if *unacknowledged == ACKNOWLEDGE_EVERY {
                *unacknowledged = 0;
                out.push(Ask::AcknowledgeRead);
            }
        }
    }

    /// A change came. What is new is to be taken in.
    pub(super) fn change(&mut self, message: &BusMessage, offset: i64, out: &mut Vec<Ask>) -> Met {
        let Some(task) = &mut self.task else { return Met::Old };
        let met = task.reading.message(message, offset, &mut self.places);
        if met == Met::Useless {
            self.begin_anew(out);
        }
        met
    }

    /// A marker came. `is_found`: whether what history is read for has come by now. How the reading ended, if it did.
    pub(super) fn marker(
        &mut self,
        now_ms: u64,
        name: &str,
        offset: i64,
        is_found: bool,
        out: &mut Vec<Ask>,
    ) -> Option<End> {
        self.heard(now_ms, out);
        let Task { phase: Phase::Reading { marker, .. }, reading, .. } = self.task.as_mut()? else { return None };
        if marker != name {
            if reading.marker(name) == Met::Useless {
                self.begin_anew(out);
            }
            return None;
        }
        if reading.end(name, offset, &mut self.places) == Met::Useless {
            self.begin_anew(out);
            return None;
        }
        if !is_found && *reading.start() != Start::First {
            // It may lie before what was read first.
            self.read_all(out);
            return None;
        }
        let end = End::Read { messages: reading.read, proven: reading.proven };
        self.task = None;
        out.extend([Ask::AcknowledgeRead, Ask::Cancel]);
        Some(end)
    }

    /// What was remembered is of another stream: everything is read.
    fn begin_anew(&mut self, out: &mut Vec<Ask>) {
        self.places.forget();
        self.read_all(out);
    }

    fn read_all(&mut self, out: &mut Vec<Ask>) {
        if let Some(task) = &mut self.task {
            (task.reading, task.phase) = (task.reading.from_first(), Phase::Marking);
            out.extend([Ask::Cancel, Ask::Mark]);
        }
    }

    /// The broker refused a request, or did not answer it. `random` is uniform in 0..1.
    pub(super) fn failed(&mut self, now_ms: u64, for_good: bool, random: f64, silent: bool) -> Option<End> {
        let task = self.task.as_mut()?;
        let delay_ms = u64::try_from(task.backoff.next(random).as_millis()).unwrap_or(u64::MAX);
        if for_good || now_ms + delay_ms >= task.deadline_ms {
            self.task = None;
            return Some(End::Failed { for_good, silent });
        }
        task.phase = Phase::Resting { until_ms: now_ms + delay_ms };
        None
    }

    /// Does what is due at this time. `head` is the newest number taken in by now.
    pub(super) fn due(
        &mut self,
        now_ms: u64,
        head: impl FnOnce() -> Option<Cursor>,
        out: &mut Vec<Ask>,
    ) -> Option<End> {
        self.due_ms().filter(|due_ms| now_ms >= *due_ms)?;
        if self.may_be_beyond() {
            self.begin_anew(out);
            return None;
        }
        match &self.task.as_ref()?.phase {
            Phase::Marking => None,
            Phase::Reading { .. } => {
                out.push(Ask::Cancel);
                // Gateways that the same stream left alone have met it at different times.
                self.failed(now_ms, false, 0.5, true)
            }
            Phase::Resting { .. } => {
                let head = head();
                let from_mark = self.task.as_ref()?.from_mark;
                let start = self.start(from_mark, head.as_ref());
                let task = self.task.as_mut()?;
                (task.reading, task.phase) = (Reading::new(start, head), Phase::Marking);
                out.push(Ask::Mark);
                None
            }
        }
    }
}
