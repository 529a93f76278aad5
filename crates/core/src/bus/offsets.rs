//! Where in a feed's history reading begins, which of what is met there is new, and what it proves.
//!
//! Goes in: what a reading meets, one after the other. Comes out: whether to take it in, and whether the reading is of any
//! use. Never reads anything itself.
//!
//! Where to begin: each message of the queue is in the stream at least once and in the same order. So the newest number that
//! the queue has delivered lies in the stream at least as many messages behind the last number read there as messages with
//! newer numbers were delivered since. (Numbers cannot be counted instead: a message may hold several.) Where nothing is
//! numbered, the last marker is where to go on. A stream that was made anew, or cut off at its beginning, shows by what is read first, or by
//! nothing at all; then everything is read.

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::BusMessage;

use super::older::Older;

/// What is known of a feed's history.
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    /// A number, and an offset at which it lies in the stream, or before which it does not.
    known: Option<(Cursor, i64)>,
    /// The last marker that was met, and where it lies.
    mark: Option<(String, i64)>,
}

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Everything.
    First,
    /// At or before this number, which is the newest one known.
    After(Cursor, i64),
    /// At this marker.
    Mark(String, i64),
}

impl Start {
    /// The offset to begin at; none for the first there is.
    pub fn offset(&self) -> Option<i64> {
        match self {
            Start::First => None,
            Start::After(_, offset) | Start::Mark(_, offset) => Some(*offset),
        }
    }
}

/// What to do about what was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// Take it in.
    New,
    /// Pass over it.
    Old,
    /// It was not sensible to begin there: read everything.
    Useless,
}

impl Offsets {
    /// Where to begin, given the newest number taken in.
    pub fn start(&self, head: Option<&Cursor>) -> Start {
        let after = |head: &Cursor| {
            let (known, offset) = self.known.as_ref()?;
            let holds = known.epoch == head.epoch && known.seq <= head.seq;
            holds.then(|| Start::After(head.clone(), *offset))
        };
        let mark = || self.mark.clone().map(|(marker, offset)| Start::Mark(marker, offset));
        head.and_then(after).or_else(mark).unwrap_or(Start::First)
    }

    /// Where to begin to find only what came since the last reading.
    pub fn start_at_mark(&self, head: Option<&Cursor>) -> Start {
        let mark = self.mark.clone().map(|(marker, offset)| Start::Mark(marker, offset));
        mark.unwrap_or_else(|| self.start(head))
    }

    /// The queue has delivered a message with this newest number.
    pub fn delivered(&mut self, cursor: &Cursor) {
        if let Some((known, offset)) = &mut self.known
            && known.epoch == cursor.epoch
            && known.seq < cursor.seq
        {
            (known.seq, known.tag) = (cursor.seq, cursor.tag);
            *offset = offset.saturating_add(1);
        }
    }

    /// What was remembered is not of the stream that is there.
    pub fn forget(&mut self) {
        *self = Offsets::default();
    }

    /// Whether a message without a number lies before what was read to its end once, and so was taken in.
    fn has_passed(&self, message: &BusMessage, offset: i64) -> bool {
        message.cursor.is_none() && self.mark.as_ref().is_some_and(|(_, mark)| offset < *mark)
    }

    fn remember(&mut self, message: &BusMessage, offset: i64) {
        let Some(cursor) = &message.cursor else { return };
        // A repeat lies further on than where its number is first found.
        let repeat =
            self.known.as_ref().is_some_and(|(known, _)| known.epoch == cursor.epoch && cursor.seq <= known.seq);
        if !repeat {
            self.known = Some((cursor.clone(), offset));
        }
    }
}

/// A reading from a place to the end.
#[derive(Clone, Debug)]
pub struct Reading {
    start: Start,
    /// The newest number taken in when it began.
    head: Option<Cursor>,
    /// Nothing was met yet that shows that the place is right.
    first: bool,
    /// Whether what is met lies before what is known.
    pub older: Older,
    /// Nothing lies between what is known and what was read, or clients are told.
    pub proven: bool,
    /// Messages taken in.
    pub read: u64,
}

impl Reading {
    /// A reading that begins there; `head` is the newest number taken in.
    pub fn new(start: Start, head: Option<Cursor>) -> Reading {
        let older = Older::new(start == Start::First && head.is_some());
        Reading { start, head, first: true, older, proven: false, read: 0 }
    }

    /// The same once more, from the beginning.
    #[must_use]
    pub fn from_first(&self) -> Reading {
        Reading::new(Start::First, self.head.clone())
    }

    /// The newest number taken in when it began.
    pub fn head(&self) -> Option<&Cursor> {
        self.head.as_ref()
    }

    /// Where it began.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Another reading's marker was met.
    pub fn marker(&mut self, marker: &str) -> Met {
        let same = matches!(&self.start, Start::Mark(mark, _) if mark == marker);
        if self.first && matches!(self.start, Start::Mark(..)) && !same {
            return Met::Useless;
        }
        self.proven |= same;
        self.first &= !same;
        Met::Old
    }

    /// A message was met.
    pub fn message(&mut self, message: &BusMessage, offset: i64, places: &mut Offsets) -> Met {
        if self.first && self.is_beyond(message) {
            return Met::Useless;
        }
        if places.has_passed(message, offset) {
            // It says nothing of whether the stream is the same: what comes next does, or the end.
            return Met::Old;
        }
        // One without a number does not show either that the place is right: any stream may hold it there.
        self.first &= message.cursor.is_none() && self.start != Start::First;
        self.proven |=
            self.head.as_ref().zip(message.cursor.as_ref()).is_some_and(|(head, cursor)| meets(head, cursor));
        places.remember(message, offset);
        self.read += 1;
        Met::New
    }

    /// Continuity was broken by what was read: clients are told, and from there on nothing is missing.
    pub fn gave_up(&mut self) {
        self.proven = true;
    }

    /// Its own marker was met: the end. Useless where it began at the end of a stream that is not the one it was in.
    pub fn end(&self, marker: &str, offset: i64, places: &mut Offsets) -> Met {
        if self.first && self.start != Start::First {
            return Met::Useless;
        }
        places.mark = Some((marker.to_owned(), offset));
        Met::Old
    }

    /// Whether what is met first comes after what it was to begin with.
    fn is_beyond(&self, message: &BusMessage) -> bool {
        match (&self.start, &message.cursor) {
            (Start::After(after, _), Some(cursor)) => cursor.epoch != after.epoch || cursor.seq > after.seq + 1,
            (Start::Mark(..), _) => true,
            _ => false,
        }
    }
}

/// Whether a number is the newest one known, or the next: between the two nothing is missing.
fn meets(head: &Cursor, cursor: &Cursor) -> bool {
    head.epoch == cursor.epoch && (head.is_same(cursor) || Some(cursor.seq) == head.seq.checked_add(1))
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, Change, When};

    use super::*;

    /// Reads a stream, given as texts: a number, `-` for a change without one, `mN` for a marker. The last is its end.
    /// What was new, or none where the start was of no use; and whether continuity is proven.
    fn read(places: &mut Offsets, head: Option<&str>, begin: i64, stream: &[&str]) -> Option<(Vec<String>, bool)> {
        let head = head.and_then(Cursor::parse);
        let start = places.start(head.as_ref());
        let mut reading = Reading::new(start, head);
        let mut new = Vec::new();
        let at = reading.start().offset().unwrap_or(0).max(begin);
        for (offset, text) in (begin..).zip(stream).skip(usize::try_from(at - begin).unwrap()) {
            let change = Change { bug: BugId::new(1).unwrap(), when: When::MIN };
            let met = match text.strip_prefix('m') {
                Some(_) if offset + 1 == begin + i64::try_from(stream.len()).unwrap() => {
                    return (reading.end(text, offset, places) == Met::Old).then_some((new, reading.proven));
                }
                Some(_) => reading.marker(text),
                None => {
                    reading.message(&BusMessage { change, cursor: Cursor::parse(text), after: None }, offset, places)
                }
            };
            match met {
                Met::Useless => return None,
                Met::New => new.push((*text).to_owned()),
                Met::Old => {}
            }
        }
        None
    }

    #[test]
    fn reading_goes_on_where_it_ended() {
        let mut places = Offsets::default();
        let all = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let got = read(&mut places, None, 0, &["E.1", "E.2", "-", "m1"]);
        assert_eq!(got, Some((all(&["E.1", "E.2", "-"]), false)));
        // From the newest number on, though newer ones came another way.
        let stream = ["E.1", "E.2", "-", "m1", "E.3", "-", "E.4", "m2"];
        let got = read(&mut places.clone(), Some("E.3"), 0, &stream);
        assert_eq!(got, Some((all(&["E.2", "E.3", "-", "E.4"]), true)), "{places:?}");
        // One message with it was delivered: it lies at least one further on. A repeat does not count.
        places.delivered(&Cursor::parse("E.3").unwrap());
        places.delivered(&Cursor::parse("E.2").unwrap());
        let got = read(&mut places.clone(), Some("E.3"), 0, &stream);
        assert_eq!(got, Some((all(&["E.3", "-", "E.4"]), true)), "{places:?}");
        // Without numbers from the marker on.
        let got = read(&mut Offsets { known: None, ..places.clone() }, None, 0, &stream);
        assert_eq!(got, Some((all(&["E.3", "-", "E.4"]), true)));
        // Cut off at its beginning.
        assert_eq!(read(&mut places.clone(), Some("E.3"), 6, &["E.4", "m2"]), Some((all(&["E.4"]), true)));
        assert_eq!(read(&mut places.clone(), Some("E.3"), 6, &["E.5", "m2"]), None);
    }

    /// A stream that was made anew: what was remembered is of no use, and everything is read.
    #[test]
    fn another_stream_is_noticed() {
        let mut places = Offsets::default();
        read(&mut places, None, 0, &["E.1", "E.2", "E.3", "m1"]);
        for stream in [&["E.4", "m2"][..], &["E.4", "E.5", "m2"], &["E.4", "E.5", "E.6", "E.7", "m2"]] {
            assert_eq!(read(&mut places.clone(), Some("E.3"), 0, stream), None, "{stream:?}");
        }
        // What has no number may lie anywhere. Found by the simulation: it was taken for a sign that the place is right.
        assert_eq!(read(&mut places.clone(), Some("E.3"), 0, &["E.4", "-", "-", "-", "m2"]), None);
        let by_mark = Offsets { known: None, ..places };
        for stream in [&["m2"][..], &["-", "-", "-", "m2"], &["-", "-", "-", "-", "m2"]] {
            assert_eq!(read(&mut by_mark.clone(), None, 0, stream), None, "{stream:?}");
        }
    }
}
