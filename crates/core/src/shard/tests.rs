//! A shard writes to sockets that take only so much; every frame is checked.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bugfeed_protocol::close::Close;
use bugfeed_protocol::{Change, When, client};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::backlog::KEEP;
use crate::position_map::Continuity;
use crate::replay::{Recorder, ReplayLimits, replay};

/// A simulated socket, whose peer reads when it is told to.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) room: Cell<usize>,
    pub(super) writes: Cell<u32>,
    pub(super) received: RefCell<Vec<u8>>,
    pub(super) slot: Cell<Slot>,
    pub(super) wants: Cell<bool>,
    pub(super) ready: Cell<u32>,
    pub(super) ended: Cell<bool>,
    pub(super) broken: Cell<bool>,
    /// The socket breaks after this many more writes.
    pub(super) writes_left: Cell<Option<u32>>,
    pub(super) heard_ms: Cell<u64>,
}

impl Peer for Rc<Wire> {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.set(self.writes.get() + 1);
        let left = self.writes_left.get();
        self.writes_left.set(left.map(|left| left.saturating_sub(1)));
        if self.broken.get() || left == Some(0) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let takes = bytes.len().min(self.room.get());
        if takes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.set(self.room.get() - takes);
        self.received.borrow_mut().extend_from_slice(&bytes[..takes]);
        Ok(takes)
    }
    fn attached(&self, slot: Slot) {
        self.slot.set(slot);
    }
    fn want_writable(&self) {
        self.wants.set(true);
    }
    fn ready(&self) {
        self.ready.set(self.ready.get() + 1);
    }
    fn end(&self) {
        self.ended.set(true);
    }
    fn heard_ms(&self) -> u64 {
        self.heard_ms.get()
    }
}

impl Wire {
    /// The text frames received since the last call; all frames must be whole.
    pub(super) fn take(&self) -> Vec<String> {
        let bytes = self.received.take();
        let (mut rest, mut texts) = (&bytes[..], Vec::new());
        while let [first, second, tail @ ..] = rest {
            let (len, tail) = match second {
                126 => (usize::from(u16::from_be_bytes([tail[0], tail[1]])), &tail[2..]),
                127 => (usize::try_from(u64::from_be_bytes(tail[..8].try_into().unwrap())).unwrap(), &tail[8..]),
                len => (usize::from(*len), tail),
            };
            match first {
                0x81 => texts.push(String::from_utf8(tail[..len].to_vec()).unwrap()),
                0x88 => texts.push(format!("close {}", u16::from_be_bytes([tail[0], tail[1]]))),
                0x89 => texts.push("ping".to_owned()),
                0x8A => texts.push("pong".to_owned()),
                other => panic!("frame starts with {other:#x}"),
            }
            rest = &tail[len..];
        }
        assert!(rest.is_empty(), "a frame was cut");
        texts
    }
}

pub(super) struct Bed {
    pub(super) recorder: Recorder,
    pub(super) shard: Shard<Rc<Wire>>,
    pub(super) seq: u64,
}

const VERSION: &str = "9.9.9";

pub(super) fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

/// The change whose date tells its number.
pub(super) fn change(number: u64, second: i64) -> Change {
    Change { bug: bug(number), when: When::from_micros(second * 1_000_000).unwrap() }
}

impl Bed {
    pub(super) fn new(limits: SessionLimits, ring: ReplayLimits) -> Bed {
        let (recorder, replay) = replay(ring);
        Bed {
            recorder,
            shard: Shard::new(replay, limits, About { version: VERSION.into(), feed: "default".into() }),
            seq: 0,
        }
    }

    pub(super) fn connect(&mut self, room: usize) -> Rc<Wire> {
        let wire = Rc::new(Wire::default());
        wire.room.set(room);
        self.shard.handle(Input::Attach(Rc::clone(&wire)));
        wire
    }

    pub(super) fn record(&mut self, change: Change) -> Update {
        self.seq += 1;
        let cursor = Cursor::new(bugfeed_protocol::Epoch::parse("E").unwrap(), self.seq);
        self.record_as(change, &cursor, Continuity::Next)
    }

    pub(super) fn record_as(&mut self, change: Change, cursor: &Cursor, continuity: Continuity) -> Update {
        let pos = self.recorder.record(change, change.when, cursor, cursor.tag, continuity);
        let cursor = self.shard.replay.cursor_at(pos).unwrap();
        Update { pos, change, number: self.shard.replay.number_of(pos), cursor }
    }

    pub(super) fn publish(&mut self, change: Change) {
        let update = self.record(change);
        self.shard.handle(Input::Update(update));
    }

    pub(super) fn send(&mut self, wire: &Rc<Wire>, text: &str) {
        self.shard.handle(Input::Work(wire.slot.get(), Work::Command(client::parse(text))));
    }

    /// The peer reads this many bytes.
    pub(super) fn read(&mut self, wire: &Rc<Wire>, bytes: usize) {
        wire.room.set(wire.room.get().saturating_add(bytes));
        if wire.wants.replace(false) {
            self.shard.handle(Input::Writable(wire.slot.get()));
        }
    }
}

pub(super) fn bed() -> Bed {
    Bed::new(SessionLimits::default(), ReplayLimits::default())
}

#[test]
fn the_classic_conversation() {
    let mut bed = bed();
    let wire = bed.connect(usize::MAX);
    for (command, replies) in [
        (r#"{"command":"version"}"#, &[r#"{"command":"version","result":"ok","version":"9.9.9"}"#][..]),
        (r#"{"command":"subscriptions"}"#, &[r#"{"command":"subscriptions","result":"ok","bugs":[]}"#]),
        (r#"{"command":"subscribe","bugs":[5,3]}"#, &[r#"{"command":"subscribe","result":"ok","bugs":[3,5]}"#]),
        (r#"{"command":"subscribe","bugs":"4"}"#, &[r#"{"command":"subscribe","result":"ok","bugs":[3,4,5]}"#]),
        (r#"{"command":"subscribe","bugs":[]}"#, &[r#"{"command":"subscribe","result":"ok","bugs":[3,4,5]}"#]),
        (
            r#"{"command":"subscribe","bugs":[6,"x"]}"#,
            &[r#"{"command":"subscribe","result":"error","error":"invalid bug id; must be integer"}"#],
        ),
        (r#"{"command":"unsubscribe","bugs":[4,77]}"#, &[r#"{"command":"unsubscribe","result":"ok","bugs":[3,5]}"#]),
        (r#"{"command":"nonsense"}"#, &[r#"{"command":"nonsense","result":"error","error":"invalid command"}"#]),
        ("]", &[r#"{"command":null,"result":"error","error":"invalid message; must be JSON"}"#]),
    ] {
        bed.send(&wire, command);
        assert_eq!(wire.take(), replies, "{command}");
    }
    assert_eq!(wire.ready.get(), 9, "after each the next is read");
    for number in 3..8 {
        bed.publish(change(number, 1_396_559_625));
    }
    assert_eq!(
        wire.take(),
        [
            r#"{"command":"update","bug":3,"when":"2014-04-03T21:13:45"}"#,
            r#"{"command":"update","bug":5,"when":"2014-04-03T21:13:45"}"#,
        ]
    );
    bed.shard.handle(Input::Detach(wire.slot.get()));
    assert_eq!((bed.shard.sessions.len(), bed.shard.index.bugs()), (0, 0));
}

#[test]
fn reply_then_catch_up_then_live() {
    let mut bed = bed();
    for second in 100..105 {
        bed.publish(change(1, second));
        bed.publish(change(2, second));
    }
    // These are recorded, and so in the cache, but still on their way to this shard.
    let queued = bed.record(change(1, 105));
    let wire = bed.connect(usize::MAX);
    bed.send(&wire, r#"{"command":"subscribe","bugs":1,"since":"1970-01-01T00:01:43"}"#);
    bed.shard.handle(Input::Update(queued));
    assert_eq!(
        wire.take(),
        [
            r#"{"command":"subscribe","result":"ok","bugs":[1]}"#,
            r#"{"command":"update","bug":1,"when":"1970-01-01T00:01:43"}"#,
            r#"{"command":"update","bug":1,"when":"1970-01-01T00:01:44"}"#,
            r#"{"command":"update","bug":1,"when":"1970-01-01T00:01:45"}"#,
        ]
    );
}

#[test]
fn too_many_subscriptions_change_nothing() {
    let mut bed = Bed::new(SessionLimits { subscriptions: 3, ..SessionLimits::default() }, ReplayLimits::default());
    let wire = bed.connect(usize::MAX);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2]}"#);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[2,3,4]}"#);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,3]}"#);
    assert_eq!(
        wire.take()[1..],
        [
            r#"{"command":"subscribe","result":"error","error":"too many subscriptions"}"#,
            r#"{"command":"subscribe","result":"ok","bugs":[1,2,3]}"#,
        ]
    );
}

#[test]
fn a_lagging_session_gets_the_newest_of_each_bug_and_costs_little() {
    let mut bed = bed();
    let wire = bed.connect(1000);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,3]}"#);
    wire.take();
    wire.room.set(60 + 30); // one frame is 59 or so bytes: the second is cut
    for second in 0..1000 {
        bed.publish(change(1, second));
        bed.publish(change(2, second));
    }
    let State::Lagging(backlog) = &bed.shard.sessions[0].state else { panic!("not lagging") };
    assert!(backlog.outgoing.capacity() < 100 && backlog.found_capacity() == 0);
    // Commands of a lagging session wait, and are answered after what it missed.
    bed.send(&wire, r#"{"command":"unsubscribe","bugs":[2]}"#);
    bed.publish(change(3, 5000));
    bed.read(&wire, usize::MAX / 2);
    assert_eq!(
        wire.take(),
        [
            r#"{"command":"update","bug":1,"when":"1970-01-01T00:00:00"}"#,
            r#"{"command":"update","bug":2,"when":"1970-01-01T00:00:00"}"#,
            r#"{"command":"update","bug":1,"when":"1970-01-01T00:16:39"}"#,
            r#"{"command":"update","bug":2,"when":"1970-01-01T00:16:39"}"#,
            r#"{"command":"update","bug":3,"when":"1970-01-01T01:23:20"}"#,
            r#"{"command":"unsubscribe","result":"ok","bugs":[1,3]}"#,
        ]
    );
    assert!(matches!(bed.shard.sessions[0].state, State::Open));
    assert_eq!(bed.shard.take_tally(), Tally { live: 2, caught_up: 3, lagged: 1, ..Tally::default() });
}

#[test]
fn a_long_catch_up_through_a_narrow_socket_is_complete_and_in_order() {
    let mut bed = bed();
    for second in 0..10_000 {
        bed.publish(change(u64::try_from(second % 7).unwrap() + 1, second));
    }
    for seed in 0..40 {
        long_catch_up(&mut bed, seed);
    }
}

fn long_catch_up(bed: &mut Bed, seed: u64) {
    let wire = bed.connect(100);
    let slot = wire.slot.get();
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,3,4,5,6],"since":"1970-01-01"}"#);
    let mut random = SmallRng::seed_from_u64(seed);
    while wire.wants.get() {
        if let State::Lagging(backlog) = &bed.shard.sessions[slot as usize].state {
            assert!(backlog.found_capacity() <= KEEP && backlog.outgoing.capacity() < 2 * PIECE, "{backlog:?}");
        }
        bed.read(&wire, random.random_range(1..10_000));
    }
    let texts = wire.take();
    let want: Vec<String> = (0..10_000)
        .filter(|second| second % 7 != 6)
        .map(|second| {
            let change = change(u64::try_from(second % 7).unwrap() + 1, second);
            format!(r#"{{"command":"update","bug":{},"when":"{}"}}"#, change.bug, change.when)
        })
        .collect();
    assert_eq!(texts[1..], want, "seed {seed}");
    assert_eq!(wire.ready.get(), 1);
    bed.shard.handle(Input::Detach(slot));
}

/// A long catch-up is written in turns with other sessions. A client that reads as fast as it can must not lose changes
/// that come during the catch-up. (A slow client may lose them to conflation.)
#[test]
fn what_comes_during_a_long_catch_up_is_sent_too() {
    let mut bed = bed();
    (0..10_000).for_each(|second| bed.publish(change(1, second)));
    let wire = bed.connect(usize::MAX / 4);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1],"since":"1970-01-01"}"#);
    let mut next = 10_000;
    while wire.wants.get() {
        if next < 20_000 {
            (next..next + 500).for_each(|second| bed.publish(change(1, second)));
            next += 500;
        }
        bed.read(&wire, 0);
    }
    let want = (0..next).map(|second| format!(r#"{{"command":"update","bug":1,"when":"{}"}}"#, change(1, second).when));
    assert!(next > 12_000 && wire.take()[1..].iter().cloned().eq(want));
    assert_eq!(bed.shard.take_tally().lagged, 0);
}

#[test]
fn dead_peers_are_ended_and_live_ones_pinged() {
    let mut bed = bed();
    let (silent, talking, stalled, broken) =
        (bed.connect(usize::MAX), bed.connect(usize::MAX), bed.connect(60), bed.connect(usize::MAX));
    for wire in [&stalled, &broken] {
        bed.send(wire, r#"{"command":"subscribe","bugs":1}"#);
    }
    broken.broken.set(true);
    bed.publish(change(1, 1));
    assert!(broken.ended.get(), "found out by a write");
    for second in 0..=80 {
        talking.heard_ms.set(second * 1000);
        stalled.heard_ms.set(second * 1000);
        bed.shard.tick(second * 1000);
        assert_eq!(silent.ended.get(), second >= 75, "after {second} s");
        assert_eq!(stalled.ended.get(), second >= 30, "after {second} s");
    }
    assert!(!talking.ended.get());
    assert!((2..=3).contains(&talking.take().len()), "a ping every 30 s");
    let Tally { silent, stalled, .. } = bed.shard.take_tally();
    assert_eq!((silent, stalled), (1, 1));
}

#[test]
fn a_slow_reader_is_never_cut() {
    let mut bed = bed();
    let wire = bed.connect(60);
    bed.send(&wire, r#"{"command":"subscribe","bugs":1}"#);
    for second in 0..600 {
        bed.publish(change(1, second.try_into().unwrap()));
        bed.read(&wire, 5);
        bed.shard.tick(second * 1000);
        assert!(!wire.ended.get(), "after {second} s");
    }
}

#[test]
fn close_comes_after_what_was_begun_and_shutdown_closes_all() {
    let mut bed = bed();
    let (wire, other) = (bed.connect(60 + 10), bed.connect(1000));
    bed.send(&wire, r#"{"command":"subscribe","bugs":1}"#);
    bed.publish(change(1, 1));
    bed.shard.handle(Input::Work(wire.slot.get(), Work::Write(frame::pong(b"x"))));
    assert_eq!(wire.ready.get(), 1, "the pong waits");
    bed.read(&wire, 1000);
    bed.shard.handle(Input::Work(wire.slot.get(), Work::Close(Close::TooBig)));
    assert_eq!(
        wire.take()[1..],
        [r#"{"command":"update","bug":1,"when":"1970-01-01T00:00:01"}"#, "pong", "close 1009"]
    );
    assert!(wire.ended.get() && !other.ended.get());
    bed.shard.handle(Input::Drain { window_ms: 0 });
    assert_eq!(other.take(), ["close 1001"]);
    assert!(other.ended.get());
}

/// Many sessions, random sockets, random commands, updates that wait in the queue: each session is sent, per bug, only
/// newer changes, and in the end the newest; one that never lagged is sent every change exactly once.
#[test]
fn random_runs_miss_nothing() {
    for seed in 0..300 {
        random_run(seed, 3, 400);
    }
    // There are so many bugs that the changes that a lagging session missed are more than one piece.
    for seed in 0..20 {
        random_run(seed, 200, 6000);
    }
}

fn random_run(seed: u64, bugs: u64, steps: i64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut bed = bed();
    let frame_len = {
        let mut frame = Vec::new();
        frame::push_update(&mut frame, change(1, 0));
        frame.len()
    };
    let wires: Vec<_> = (0..6).map(|_| bed.connect(usize::MAX / 2)).collect();
    let subscribe = format!(r#"{{"command":"subscribe","bugs":{:?}}}"#, (1..=bugs).collect::<Vec<_>>());
    for wire in &wires {
        bed.send(wire, &subscribe);
        wire.take();
    }
    for wire in &wires[2..] {
        wire.room.set(100);
    }
    let mut queue = std::collections::VecDeque::new();
    let mut published: Vec<Change> = Vec::new();
    for second in 0..steps {
        match random.random_range(0..4) {
            0 | 1 => {
                let change = change(random.random_range(1..bugs + 2), second);
                published.push(change);
                queue.push_back(bed.record(change));
            }
            2 => {
                for _ in 0..random.random_range(0..4) {
                    if let Some(update) = queue.pop_front() {
                        bed.shard.handle(Input::Update(update));
                    }
                }
            }
            _ => {
                let wire = &wires[random.random_range(2..6)];
                // The room often ends between two frames, so that the next frame finds none at all.
                let whole = random.random_range(0..3) * frame_len;
                let bytes = if random.random_bool(0.5) { whole } else { random.random_range(0..3 * frame_len) };
                bed.read(wire, bytes);
            }
        }
    }
    for update in queue {
        bed.shard.handle(Input::Update(update));
    }
    for (i, wire) in wires.iter().enumerate() {
        while wire.wants.get() {
            bed.read(wire, random.random_range(1..6000));
        }
        let texts = wire.take();
        for number in 1..=bugs {
            let want: Vec<String> =
                published.iter().filter(|change| change.bug == bug(number)).map(|c| c.when.to_string()).collect();
            let prefix = format!(r#"{{"command":"update","bug":{number},"when":""#);
            let got: Vec<&str> =
                texts.iter().filter_map(|text| text.strip_prefix(&prefix)?.strip_suffix("\"}")).collect();
            assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}, session {i}: order or repeat: {got:?}");
            let newest = want.last().map(String::as_str);
            assert_eq!(got.last().copied(), newest, "seed {seed}, session {i}, bug {number}: the newest is missing");
            if i < 2 {
                assert_eq!(got, want, "seed {seed}, session {i}: never lagged, so every change");
            }
        }
    }
}
