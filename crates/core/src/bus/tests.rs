//! The whole of the bus: messages in, actions out.

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{BugId, Change, Epoch, When};

use super::*;
use crate::input::Update;
use crate::replay::{ReplayLimits, replay};

/// A bus, and its clock.
struct Bed {
    bus: Bus,
    ms: u64,
}

/// A change, as `NUMBER` or `NUMBER after TAG`.
fn arrival(text: &str) -> Arrival {
    let (number, before) = text.split_once(" after ").unwrap_or((text, ""));
    let cursor = Cursor::parse(number);
    // The date tells changes apart.
    let second = cursor.as_ref().map_or(0, |cursor| i64::try_from(cursor.seq).unwrap());
    let when = When::from_micros(second * 1_000_000).unwrap();
    let change = Change { bug: BugId::new(1).unwrap(), when };
    let after = bugfeed_protocol::Tag::parse(before);
    Arrival { message: BusMessage { change, cursor, after }, recorded: None }
}

/// An action in a word or two.
fn word(action: &Action) -> String {
    let gap = |cursor: &Option<Cursor>| cursor.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    match action {
        Action::Tell(Tell::Update(update)) => match &update.number {
            Some(number) => number.to_string(),
            None => format!("late at {}", update.cursor),
        },
        Action::Tell(Tell::Updates(updates)) => {
            let word = |update: &Update| word(&Action::Tell(Tell::Update(update.clone())));
            updates.iter().map(word).collect::<Vec<_>>().join("+")
        }
        Action::Tell(Tell::Gap(cursor, cause)) => format!("gap {} {cause:?}", gap(cursor)),
        Action::Tell(Tell::Current(current)) => if *current { "current" } else { "not current" }.to_owned(),
        Action::Tell(other) => format!("{other:?}"),
        Action::Say(Say::Repeated) => "repeated".to_owned(),
        Action::Say(Say::HistoryRead(messages)) => format!("read {messages}"),
        Action::Say(Say::NoHistory { silent }) => format!("no history{}", if *silent { ", silent" } else { "" }),
        Action::Say(_) => String::new(),
        Action::Ask(ask) => format!("{ask:?}"),
    }
}

impl Bed {
    fn new(history: bool) -> Bed {
        let (recorder, _) = replay(ReplayLimits::default());
        let mut bus = Bus::new(Sequencer::new(recorder, Epoch::parse("own").unwrap()));
        bus.set_up(0, Setup { history, prefetch: 4, ..Setup::default() });
        Bed { bus, ms: 0 }
    }

    /// One that is connected, and has read history, which holds these.
    fn connected(stream: &[&str]) -> Bed {
        let mut bed = Bed::new(true);
        bed.hear(Event::Connected { queue: Queue::New, waiting: 0 });
        bed.hear(Event::Marked("m0".into()));
        for (offset, text) in (0..).zip(stream) {
            bed.meet(text, offset);
        }
        bed.meet("m0", i64::try_from(stream.len()).unwrap());
        bed
    }

    fn on(&mut self, event: Event<'_>) -> Vec<String> {
        let wall = When::from_micros(1_000_000_000_000).unwrap();
        self.bus.on(Now { ms: self.ms, wall }, event);
        std::iter::from_fn(|| self.bus.next_action())
            .map(|action| word(&action))
            .filter(|word| !word.is_empty())
            .collect()
    }

    fn hear(&mut self, event: Event<'_>) -> String {
        self.ms += 1;
        self.on(event).join(", ")
    }

    fn take(&mut self, text: &str, tag: u64) -> String {
        self.hear(Event::Change(arrival(text), Some(tag)))
    }

    fn take_batch(&mut self, texts: &[&str], tag: u64) -> String {
        self.hear(Event::Batch(texts.iter().map(|text| arrival(text)).collect(), Some(tag)))
    }

    /// The stream holds a change, or a marker (`m…`).
    fn meet(&mut self, text: &str, offset: i64) -> String {
        let item = match text.strip_prefix('m') {
            Some(_) => Item::Marker(text.to_owned()),
            None => Item::Changes(vec![arrival(text)]),
        };
        self.hear(Event::Read(item, offset))
    }

    fn wait(&mut self, ms: u64) -> String {
        self.ms += ms - 1;
        self.hear(Event::Due)
    }

    fn fails(&mut self, for_good: bool) -> String {
        self.hear(Event::ReadingFailed { for_good, random: 1.0 })
    }
}

#[test]
fn a_change_goes_one_way() {
    let mut bed = Bed::connected(&["E.1", "E.2"]);
    assert_eq!(bed.take("E.3", 1), "E.3");
    assert_eq!(bed.take("E.3", 2), "repeated, Acknowledge(2)");
    assert!(bed.bus.takes_deliveries());
    // A hole: it is held, and nothing of it is acknowledged.
    assert_eq!(bed.take("E.6", 3), "not current, Mark");
    assert!(!bed.bus.takes_deliveries());
    assert_eq!(bed.hear(Event::Marked("m1".into())), "Consume(Some(2))");
    assert_eq!(bed.meet("m0", 2), "");
    assert_eq!(bed.meet("E.3", 3), "repeated");
    assert_eq!(bed.meet("E.4", 4), "E.4");
    assert_eq!(bed.meet("E.5", 5), "E.5");
    assert_eq!(bed.meet("E.6", 6), "E.6");
    assert_eq!(bed.wait(60), "", "nothing but what was held is to be acknowledged");
    let end = "read 4, repeated, current, AcknowledgeRead, Cancel";
    assert_eq!(bed.meet("m1", 7), end);
    assert!(bed.bus.takes_deliveries());
    assert_eq!(bed.wait(50), "Acknowledge(3)");
    assert_eq!(bed.bus.take_unacknowledged(), None);
}

/// Several changes in one message: each goes the way of a single one, and the delivery is acknowledged once.
#[test]
fn changes_of_one_message_go_the_same_way() {
    let mut bed = Bed::connected(&["E.1", "E.2"]);
    assert_eq!(bed.take_batch(&["E.3", "E.4", "E.5"], 1), "E.3+E.4+E.5");
    // Half of it is known: it was published again, put together otherwise.
    assert_eq!(bed.take_batch(&["E.4", "E.5", "E.6"], 2), "repeated, repeated, E.6, Acknowledge(2)");
    // A hole: what follows in the same message waits with the change that shows it.
    assert_eq!(bed.take_batch(&["E.9", "E.10"], 3), "not current, Mark");
    assert!(!bed.bus.takes_deliveries());
    // Two messages with newer numbers were delivered since number 2 was read at offset 1.
    assert_eq!(bed.hear(Event::Marked("m1".into())), "Consume(Some(3))");
    let read = Item::Changes(["E.6", "E.7", "E.8"].map(arrival).into());
    assert_eq!(bed.hear(Event::Read(read, 4)), "repeated, E.7+E.8");
    assert_eq!(bed.meet("m1", 5), "read 3, E.9, current, AcknowledgeRead, Cancel, E.10");
    assert!(bed.bus.takes_deliveries());
    assert_eq!(bed.wait(50), "Acknowledge(3)");
    // Nothing of it could be read.
    assert_eq!(bed.take_batch(&[], 4), "");
    assert_eq!(bed.wait(50), "Acknowledge(4)");
    // The connection is lost while it waits: it comes again.
    assert_eq!(bed.take_batch(&["E.12", "E.13"], 5), "not current, Mark");
    assert_eq!(bed.hear(Event::Lost), "");
    assert_eq!(bed.hear(Event::Tick), "");
    assert_eq!(bed.bus.take_unacknowledged(), None);
}

/// One change of a message could not be read: its number is missing, and nothing else.
#[test]
fn a_change_that_cannot_be_read_is_missing_within_its_message() {
    let mut bed = Bed::new(false);
    bed.hear(Event::Connected { queue: Queue::New, waiting: 0 });
    assert_eq!(bed.take_batch(&["E.1", "E.2", "E.4", "E.5"], 1), "E.1+E.2, gap E.3 Change, E.4+E.5");
}

#[test]
fn a_hole_that_history_does_not_fill_is_a_gap() {
    let mut bed = Bed::connected(&["E.1"]);
    assert_eq!(bed.take("E.4", 1), "not current, Mark");
    bed.hear(Event::Marked("m1".into()));
    assert_eq!(bed.meet("E.2", 1), "E.2");
    // It may lie before what was read first.
    assert_eq!(bed.meet("m1", 2), "Cancel, Mark");
    assert_eq!(bed.hear(Event::Marked("m2".into())), "Consume(None)");
    assert_eq!(bed.meet("E.1", 0), "repeated");
    assert_eq!(bed.meet("E.2", 1), "repeated");
    let end = "read 2, gap E.3 Change, E.4, current, AcknowledgeRead, Cancel";
    assert_eq!(bed.meet("m2", 3), end);
    // Another history of the same ledger is no hole that history could fill: it is not read again.
    let mut bed = Bed::connected(&["E.1.a", "E.2.a", "E.3.a"]);
    assert_eq!(bed.take("E.2.b after a", 1), "not current, Mark");
    bed.hear(Event::Marked("m1".into()));
    let end = "read 0, gap E.2.0000000b Change, E.2.0000000b, current, AcknowledgeRead, Cancel";
    assert_eq!(bed.meet("m1", 4), "Cancel, Mark", "the stream was made anew");
    bed.hear(Event::Marked("m2".into()));
    assert_eq!(bed.meet("m2", 0), end);
}

#[test]
fn history_that_does_not_answer_is_asked_again_and_given_up() {
    let mut bed = Bed::connected(&["E.1"]);
    assert_eq!(bed.take("E.4", 1), "not current, Mark");
    // It refuses: again after a while, from where things stand then.
    assert_eq!(bed.fails(false), "");
    assert_eq!((bed.wait(99), bed.wait(1)), (String::new(), "Mark".to_owned()));
    // Nothing comes from an offset that may lie beyond the end: from the first message on.
    bed.hear(Event::Marked("m1".into()));
    assert_eq!((bed.wait(2999), bed.wait(1)), (String::new(), "Cancel, Mark".to_owned()));
    // Nothing comes at all, and changes have waited long enough behind the hole.
    assert_eq!(bed.hear(Event::Marked("m2".into())), "Consume(None)");
    assert_eq!(bed.wait(4999), "");
    assert_eq!(bed.wait(1), "no history, silent, gap E.3 Change, E.4, current, Cancel");
    // It is left alone for a while.
    assert_eq!(bed.take("E.9", 2), "gap E.8 Change, E.9, Acknowledge(2)");
    // A broker that has none is not asked again at once.
    let mut bed = Bed::new(true);
    assert_eq!(bed.hear(Event::Connected { queue: Queue::New, waiting: 0 }), "Mark");
    assert_eq!(bed.fails(true), "no history, current");
}

#[test]
fn a_lost_connection_ends_everything_that_was_asked() {
    let mut bed = Bed::connected(&["E.1"]);
    bed.take("E.4", 1);
    let now = Now { ms: bed.ms, wall: When::MIN };
    bed.bus.on(now, Event::Marked("m1".into()));
    assert_eq!(bed.hear(Event::Lost), "", "what was not asked yet is not asked any more");
    assert_eq!((bed.bus.due_ms(), bed.bus.takes_deliveries()), (None, true));
    // The held change comes again, from history or the queue.
    assert_eq!(bed.hear(Event::Connected { queue: Queue::New, waiting: 0 }), "Mark");
    assert_eq!(bed.hear(Event::Marked("m2".into())), "Consume(Some(0))");
    assert_eq!([bed.meet("E.1", 0), bed.meet("E.2", 1)], ["repeated", "E.2"]);
}

/// While the broker is busy with one question, clients are told what is due, and the next question waits.
#[test]
fn what_clients_are_told_does_not_wait_for_the_broker() {
    let mut bed = Bed::connected(&["E.1"]);
    let now = |ms| Now { ms, wall: When::MIN };
    bed.bus.on(now(10), Event::Change(arrival("E.4"), Some(1)));
    bed.bus.on(now(2100), Event::Tick);
    let aside: Vec<String> = std::iter::from_fn(|| bed.bus.next_aside()).map(|action| word(&action)).collect();
    assert_eq!(aside.iter().filter(|word| !word.is_empty()).count(), 1, "{aside:?}");
    assert!(matches!(bed.bus.next_action(), Some(Action::Ask(Ask::Mark))));
}

/// Found by the simulation: a gateway that could read no history at first, and reads it later, took what lies before the only
/// number it knew for another history of the ledger, and told two gaps.
#[test]
fn what_history_has_before_all_that_is_known_is_no_other_history() {
    let mut bed = Bed::new(true);
    bed.hear(Event::Connected { queue: Queue::New, waiting: 0 });
    bed.fails(true);
    assert_eq!(bed.take("E.9.c", 1), "E.9.0000000c");
    bed.hear(Event::Lost);
    bed.hear(Event::Connected { queue: Queue::New, waiting: 0 });
    assert_eq!(bed.hear(Event::Marked("m1".into())), "Consume(None)");
    let late = "late at E.9.0000000c";
    let stream = ["E.4.a", "E.5.a", "E.4.a", "E.7.b after a", "E.8.c after b", "E.9.c", "E.10.c"];
    let met: Vec<String> = (0..).zip(stream).map(|(offset, text)| bed.meet(text, offset)).collect();
    assert_eq!(met, [late, late, "repeated", late, late, "repeated", "E.10.0000000c"]);
    assert_eq!(bed.meet("m1", 7), "read 7, current, AcknowledgeRead, Cancel", "continuity is proven");
}

/// Where nothing in history leads to what is known, it cannot be told whether it is another one: that is a gap.
#[test]
fn history_that_leads_nowhere_is_a_gap() {
    let mut bed = Bed::new(true);
    bed.hear(Event::Connected { queue: Queue::New, waiting: 0 });
    bed.fails(true);
    assert_eq!(bed.take("E.9.c", 1), "E.9.0000000c");
    bed.hear(Event::Lost);
    bed.hear(Event::Connected { queue: Queue::New, waiting: 0 });
    bed.hear(Event::Marked("m1".into()));
    assert_eq!(bed.meet("E.4.a", 0), "late at E.9.0000000c");
    let end = "gap E.4.0000000a Head(Forked), read 1, current, AcknowledgeRead, Cancel";
    assert_eq!(bed.meet("m1", 1), end);
    assert_eq!(bed.take("E.5.a", 2), "E.5.0000000a", "the ledger was set back, and goes on");
}

/// Found by the simulation: the same of what had waited in a durable queue, where history was cut off further on.
#[test]
fn what_waited_before_all_that_is_known_is_no_other_history() {
    let mut bed = Bed::new(true);
    bed.hear(Event::Connected { queue: Queue::Durable { kept: true }, waiting: 4 });
    bed.hear(Event::Marked("m1".into()));
    assert_eq!(bed.meet("E.9.c", 7), "E.9.0000000c");
    bed.meet("m1", 8);
    let late = "late at E.9.0000000c";
    let queue = ["E.4.a", "E.5.a", "E.8.c after b", "E.9.c"];
    let came: Vec<String> = queue.iter().map(|text| bed.hear(Event::Change(arrival(text), None))).collect();
    assert_eq!(came, [late, late, late, "repeated, current"]);
    assert_eq!(bed.take("E.10.c", 1), "E.10.0000000c");
}
