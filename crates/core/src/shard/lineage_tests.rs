//! What sessions are told after a ledger was set back, while it is unknown whether changes were missed, and while no
//! change can arrive.

use std::rc::Rc;

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{Epoch, Tag};

use super::state::{SPREAD_FROM, SPREAD_MAX_MS, SPREAD_MS};
use super::tests::{Wire, change};
use super::*;
use crate::replay::{ReplayLimits, replay};
use crate::sequencer::{New, Sequencer, Taken};

/// A sequencer, and the shard that it feeds.
struct Feed {
    sequencer: Sequencer,
    shard: Shard<Rc<Wire>>,
    count: i64,
}

impl Feed {
    fn new() -> Feed {
        let (recorder, cache) = replay(ReplayLimits::default());
        let about = About { version: "9.9.9".into(), feed: "default".into() };
        let shard = Shard::new(cache, SessionLimits::default(), about);
        Feed { sequencer: Sequencer::new(recorder, Epoch::parse("own").unwrap()), shard, count: 0 }
    }

    /// A change of a bug arrives. `number` is a text such as `E.5.a`, or `E.5.b after a`; `None` for a change without
    /// one.
    fn arrives(&mut self, bug: u64, number: Option<&str>) {
        self.count += 1;
        let (number, after) = match number {
            Some(text) => {
                let (number, after) = text.split_once(" after ").unwrap_or((text, ""));
                (Some(Cursor::parse(number).unwrap()), Tag::parse(after))
            }
            None => (None, None),
        };
        let change = change(bug, self.count);
        let taken = self.sequencer.accept_gap(&BusMessage { change, cursor: number, after }, None, change.when);
        let Taken::New(New { update, gap, .. }) = taken else { return };
        if let Some(gap) = gap {
            self.shard.handle(Input::Gap(Some(gap)));
        }
        self.shard.handle(Input::Update(update));
    }

    fn arrive(&mut self, numbers: &[&str]) {
        numbers.iter().for_each(|number| self.arrives(1, Some(number)));
    }

    fn send(&mut self, wire: &Rc<Wire>, text: &str) {
        self.shard.handle(Input::Work(wire.slot.get(), Work::Command(bugfeed_protocol::client::parse(text))));
    }

    fn hello(&mut self) -> Rc<Wire> {
        let wire = Rc::new(Wire::default());
        wire.room.set(usize::MAX / 4);
        self.shard.handle(Input::Attach(Rc::clone(&wire)));
        self.send(&wire, r#"{"command":"hello","heartbeat":10}"#);
        wire.take();
        wire
    }

    /// Subscribes to bug 1 from a cursor. Returns in short what the reply and all messages with it say.
    fn resume(&mut self, from: &str) -> (Rc<Wire>, Vec<String>) {
        let wire = self.hello();
        self.send(&wire, &format!(r#"{{"command":"subscribe","bugs":[1],"cursor":"{from}"}}"#));
        let texts = short(&wire);
        (wire, texts)
    }
}

/// The messages that were received, each in short: the command, the verdict or state, and the cursor. Pings are left
/// out.
fn short(wire: &Wire) -> Vec<String> {
    let word = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!(r#""{name}":""#))?;
        rest.split_once('"').map(|(word, _)| word.to_owned())
    };
    let words = |text: &String| {
        let words = ["command", "replay", "state", "cursor"].iter().filter_map(|name| word(text, name));
        words.collect::<Vec<_>>().join(" ")
    };
    wire.take().iter().filter(|text| text.starts_with('{')).map(words).collect()
}

#[test]
fn a_ledger_that_was_set_back_is_a_gap_to_those_who_stayed_and_to_those_who_come_back() {
    let mut feed = Feed::new();
    feed.arrive(&["E.1.a", "E.2.a", "E.3.a", "E.4.a"]);
    let (stayed, _) = feed.resume("E.4.a");
    // The ledger is restored to its state at number 2.
    feed.arrive(&["E.3.b after a", "E.4.b"]);
    let tag = "0000000b";
    let told = [format!("gap E.3.{tag}"), format!("update E.3.{tag}"), format!("update E.4.{tag}")];
    assert_eq!(short(&stayed), told);
    for (from, want) in [
        ("E.4.a", vec![format!("subscribe gap E.4.{tag}")]),
        ("E.3.a", vec![format!("subscribe gap E.4.{tag}")]),
        // This client may lack the old 3 and 4, which were given after its cursor.
        ("E.2.a", vec![format!("subscribe gap E.4.{tag}")]),
        ("E.3.b", vec![format!("subscribe complete E.3.{tag}"), format!("update E.4.{tag}")]),
        // Without a tag, the cursor fits both histories; the client is sent what follows it in the present one.
        ("E.3", vec!["subscribe complete E.3".to_owned(), format!("update E.4.{tag}")]),
    ] {
        assert_eq!(feed.resume(from).1, want, "{from}");
    }
}

/// Two machines work with copies of one ledger. A client that has all changes that the first one published up to here
/// may lack changes of the other one.
#[test]
fn a_history_that_goes_on_after_another_one_continues_nothing() {
    let mut feed = Feed::new();
    feed.arrive(&["E.1.a", "E.2.a", "E.3.a", "E.2.b after a", "E.4.a"]);
    assert_eq!(feed.resume("E.3.a").1, ["subscribe gap E.4.0000000a"], "number 2 of the other");
}

/// The client resumes on a gateway that has only the new history, and that has not come as far as the client.
#[test]
fn a_client_that_is_ahead_is_compared_when_its_number_comes() {
    for watched in [true, false] {
        let mut feed = Feed::new();
        feed.arrive(&["E.1.b"]);
        let (other, said) = feed.resume("E.4.a");
        assert_eq!(said, ["subscribe complete E.4.0000000a"], "it may be a gateway that is a little behind");
        let (same, _) = feed.resume("E.4.b");
        let bug = if watched { 1 } else { 9 };
        feed.arrives(bug, Some("E.2.b"));
        feed.arrives(bug, Some("E.3.b"));
        assert_eq!((short(&other), short(&same)), (vec![], vec![]), "numbers that it has seen");
        feed.arrives(bug, Some("E.4.b"));
        feed.arrives(bug, Some("E.5.b"));
        feed.shard.tick(1);
        if other.wants.take() {
            feed.shard.handle(Input::Writable(other.slot.get()));
        }
        let said = short(&other);
        assert!(said[0].starts_with("gap E."), "watched {watched}: {said:?}");
        let want: &[&str] = if watched { &["update E.5.0000000b"] } else { &[] };
        assert_eq!(short(&same), want, "who has seen the same is sent what follows");
    }
    // The same is told before the answer to a command, if one comes before a heartbeat is due.
    let mut feed = Feed::new();
    feed.arrive(&["E.1.b"]);
    let (wire, _) = feed.resume("E.2.a");
    feed.arrives(9, Some("E.2.b"));
    feed.send(&wire, r#"{"command":"unsubscribe","bugs":[7]}"#);
    assert_eq!(short(&wire), ["gap E.2.0000000b", "unsubscribe E.2.0000000b"]);
}

/// Found by the simulation: the gap was told with the number of its first change. Then that change was told with the
/// number before it, because the cursor was held back for a late change.
#[test]
fn a_cursor_that_is_held_back_does_not_fall_below_the_gap() {
    let mut feed = Feed::new();
    feed.arrive(&["E.1.a", "E.3.a"]);
    let wire = feed.hello();
    feed.send(&wire, r#"{"command":"subscribe","bugs":[1,2]}"#);
    short(&wire);
    wire.room.set(2 + r#"{"command":"gap","cursor":"E.3.0000000b"}"#.len());
    feed.arrives(1, Some("E.3.b after a"));
    feed.arrives(2, Some("E.2.a"));
    wire.room.set(usize::MAX / 4);
    assert!(wire.wants.take(), "there was room for the gap only");
    feed.shard.handle(Input::Writable(wire.slot.get()));
    assert_eq!(short(&wire), ["gap E.3.0000000b", "update E.3.0000000b", "update E.3.0000000b"]);
}

/// Found by the simulation: while the break was still in the shard's queue, a client was treated as one that is ahead,
/// and was sent number 5 without 3 and 4.
#[test]
fn who_is_as_far_as_a_history_that_has_just_ended_is_told_gap() {
    let mut feed = Feed::new();
    feed.arrive(&["E.1.a", "E.2.a", "E.3.a", "E.4.a"]);
    let message = |number: &str, after: Option<&str>| BusMessage {
        change: change(1, 9),
        cursor: Cursor::parse(number),
        after: after.and_then(Tag::parse),
    };
    let next = feed.sequencer.accept_gap(&message("E.5.a", None), None, change(1, 9).when);
    feed.sequencer.accept_gap(&message("E.2.b", Some("a")), None, change(1, 9).when);
    let (wire, said) = feed.resume("E.3.a");
    assert_eq!(said, ["subscribe gap E.4.0000000a"]);
    assert_eq!(feed.resume("E.3.c").1, said, "also of a history that never came here");
    let Taken::New(New { update, .. }) = next else { panic!("{next:?}") };
    feed.shard.handle(Input::Update(update));
    assert_eq!(short(&wire), ["update E.5.0000000a"]);
    assert_eq!(
        feed.resume("E.6.a").1,
        ["subscribe complete E.6.0000000a"],
        "it may be a gateway that is a little behind"
    );
}

/// Found by the simulation: number 2 replaced the change without a number. Then number 2 was not sent either, because
/// the client has it.
#[test]
fn what_a_client_has_from_elsewhere_stands_for_nothing_that_it_lacks() {
    let mut feed = Feed::new();
    feed.arrive(&["E.1"]);
    let (wire, _) = feed.resume("E.4");
    feed.arrives(1, None);
    assert!(wire.wants.take(), "it goes on by a catch-up");
    feed.arrives(1, Some("E.2"));
    feed.shard.handle(Input::Writable(wire.slot.get()));
    assert_eq!(short(&wire), ["update E.4"]);
}

#[test]
fn unnumbered_changes_between_numbered_ones_are_told_to_all() {
    let mut feed = Feed::new();
    for number in 1..=400 {
        feed.arrives(1, Some(&format!("E.{number}")));
        feed.arrives(1, None);
    }
    let wire = feed.hello();
    feed.send(&wire, r#"{"command":"subscribe","bugs":[1],"since":"1970-01-01T00:00:00"}"#);
    while wire.wants.take() {
        feed.shard.handle(Input::Writable(wire.slot.get()));
    }
    let said = short(&wire);
    assert_eq!(said.len(), 1 + 800, "every one of them");
    assert_eq!(said[0], "subscribe E.0");
    assert_eq!(said.last().map(String::as_str), Some("update E.400"));
    let (_, said) = feed.resume("E.399");
    assert_eq!(said, ["subscribe complete E.399", "update E.399", "update E.399", "update E.400"]);
}

#[test]
fn resumes_wait_until_it_is_known_whether_changes_were_missed() {
    for missed in [false, true] {
        let mut feed = Feed::new();
        feed.arrive(&["E.1.a", "E.2.a"]);
        let (stayed, _) = feed.resume("E.2.a");
        feed.shard.handle(Input::Hold(true));
        let (wire, said) = feed.resume("E.1.a");
        assert!(said.is_empty(), "no verdict yet: {said:?}");
        // The socket is not stalled, however long the feed takes.
        wire.heard_ms.set(100_000);
        stayed.heard_ms.set(100_000);
        feed.shard.tick(100_000);
        let fresh = feed.hello();
        feed.send(&fresh, r#"{"command":"subscribe","bugs":[1]}"#);
        assert_eq!(short(&fresh), ["subscribe E.2.0000000a"], "who asks for nothing of the past need not wait");
        if missed {
            let told = feed.sequencer.go_on_after(&Cursor::parse("E.5.a").unwrap());
            feed.shard.handle(Input::Gap(Some(told)));
        }
        feed.shard.handle(Input::Hold(false));
        let want: &[&str] = if missed {
            &["subscribe gap E.5.0000000a"]
        } else {
            &["subscribe complete E.1.0000000a", "update E.2.0000000a"]
        };
        assert_eq!(short(&wire), want);
        feed.arrive(&["E.6.a"]);
        assert_eq!(short(&wire).last().map(String::as_str), Some("update E.6.0000000a"));
        if missed {
            assert!(short(&stayed).contains(&"gap E.5.0000000a".to_owned()));
        }
    }
}

#[test]
fn a_feed_on_which_nothing_can_arrive_says_so() {
    let mut feed = Feed::new();
    feed.arrive(&["E.1.a"]);
    let (wire, _) = feed.resume("E.1.a");
    let classic = Rc::new(Wire::default());
    classic.room.set(usize::MAX / 4);
    feed.shard.handle(Input::Attach(Rc::clone(&classic)));
    feed.send(&classic, r#"{"command":"subscribe","bugs":[1]}"#);
    classic.take();
    let (full, _) = feed.resume("E.1.a");
    full.room.set(0);
    let since = bugfeed_protocol::When::MIN;
    feed.shard.handle(Input::Feed { paused: true, since });
    feed.shard.handle(Input::Feed { paused: true, since });
    assert_eq!(wire.take(), [r#"{"command":"feed","state":"paused","since":"1970-01-01T00:00:00"}"#], "once");
    let late = Rc::new(Wire::default());
    late.room.set(usize::MAX / 4);
    feed.shard.handle(Input::Attach(Rc::clone(&late)));
    feed.send(&late, r#"{"command":"hello","heartbeat":10}"#);
    assert_eq!(short(&late), ["hello E.1.0000000a", "feed paused"], "who comes then is told too");
    full.room.set(usize::MAX / 4);
    let beat = |feed: &mut Feed, now_ms| {
        [&wire, &classic, &late, &full].iter().for_each(|wire| wire.heard_ms.set(now_ms));
        feed.shard.tick(now_ms);
    };
    beat(&mut feed, 10_000);
    assert_eq!(short(&wire), ["heartbeat paused E.1.0000000a"]);
    assert_eq!(short(&full), ["heartbeat paused E.1.0000000a"], "for the notice there was no room");
    feed.shard.handle(Input::Feed { paused: false, since });
    beat(&mut feed, 20_000);
    assert_eq!(short(&wire), ["feed live", "heartbeat E.1.0000000a"]);
    assert_eq!(short(&classic), [] as [&str; 0], "an old client sees nothing new");
}

#[test]
fn a_gap_told_to_many_says_over_how_long_to_spread_the_questions() {
    for (sessions, want) in
        [(1, None), (SPREAD_FROM, Some(SPREAD_FROM as u64 * SPREAD_MS)), (5000, Some(SPREAD_MAX_MS))]
    {
        let mut feed = Feed::new();
        feed.arrive(&["E.1.a"]);
        let wires: Vec<Rc<Wire>> = (0..sessions).map(|_| feed.resume("E.1.a").0).collect();
        feed.shard.handle(Input::Gap(None));
        let spread = want.map_or(String::new(), |ms| format!(r#","spread_ms":{ms}"#));
        let told = format!(r#"{{"command":"gap","cursor":"E.1.0000000a"{spread}}}"#);
        assert_eq!(wires[0].take(), [told], "{sessions}");
    }
}
