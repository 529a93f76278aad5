//! Micro benchmarks of the core: `cargo bench -p bugfeed-bench`. To see whether a change made something slower, trust the
//! instruction counts (benches/hot-path) more; this shows what they mean in time on this machine.

use bugfeed_core::bus::{Arrival, Bus, Event, Item, Now, Queue, Setup};
use bugfeed_core::frame;
use bugfeed_core::position_map::Continuity;
use bugfeed_core::replay::{Recorder, ReplayLimits, Wanted, replay};
use bugfeed_core::sequencer::Sequencer;
use bugfeed_core::subscriptions::Subscriptions;
use bugfeed_protocol::bus::{self, Format};
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, Numbered, When, client};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn change(bug: u64, number: i64) -> Change {
    let bug = BugId::new(bug).expect("from 1");
    Change { bug, when: When::from_micros(1_767_225_600_000_000 + number * 1_000_000).expect("near 2026") }
}

fn cursor(seq: u64) -> Cursor {
    Cursor::new(Epoch::parse("epoch").expect("letters"), seq)
}

fn record(recorder: &mut Recorder, bugs: u64, seq: u64) {
    let change = change(1 + seq % bugs, i64::try_from(seq).expect("small"));
    recorder.record(change, change.when, &cursor(seq), None, Continuity::Next);
}

/// Recording a change, with this many different bugs.
#[divan::bench(args = [1000, 100_000])]
fn replay_record(bencher: Bencher<'_, '_>, bugs: u64) {
    let (mut recorder, _cache) = replay(ReplayLimits::default());
    let mut seq = 0;
    bencher.bench_local(|| {
        seq += 1;
        record(&mut recorder, bugs, seq);
    });
}

/// Looking up the changes of 200 bugs since a position, among 100,000 changes of 20,000 bugs.
#[divan::bench]
fn replay_200_bugs(bencher: Bencher<'_, '_>) {
    let (mut recorder, cache) = replay(ReplayLimits::default());
    for seq in 1..=100_000 {
        record(&mut recorder, 20_000, seq);
    }
    let bugs: Vec<BugId> = (1..=200).filter_map(|bug| BugId::new(bug * 100)).collect();
    let wanted = Wanted { bugs: &bugs, after: 90_000, after_old: 0, upto: 100_000, since: None, limit: 20_000 };
    let mut found = Vec::new();
    bencher.bench_local(|| {
        found.clear();
        cache.every(black_box(&wanted), &mut found)
    });
}

/// Adding a subscription and removing it at once, beside a million others.
#[divan::bench]
fn index_add_and_remove(bencher: Bencher<'_, '_>) {
    let mut index = filled();
    let mut slot = 0;
    bencher.bench_local(|| {
        slot = (slot + 1) % 50_000;
        let bug = BugId::new(1 + u64::from(slot) * 7 % 100_000).expect("from 1");
        index.add(bug, slot + 100_000);
        index.remove(bug, slot + 100_000);
    });
}

/// Looking up the watchers of a bug, among a million subscriptions.
#[divan::bench]
fn index_watchers(bencher: Bencher<'_, '_>) {
    let index = filled();
    let mut bug = 0;
    bencher.bench_local(|| {
        bug = (bug + 7919) % 100_000;
        index.watchers(BugId::new(1 + bug).expect("from 1")).len()
    });
}

fn filled() -> Subscriptions {
    let mut index = Subscriptions::default();
    for slot in 0..50_000_u32 {
        for at in 0..20_u64 {
            index.add(BugId::new(1 + (u64::from(slot) * 20 + at * 4999) % 100_000).expect("from 1"), slot);
        }
    }
    index
}

#[divan::bench]
fn encode_classic_update(bencher: Bencher<'_, '_>) {
    let (mut out, change) = (Vec::with_capacity(128), change(1_234_567, 5));
    bencher.bench_local(|| {
        out.clear();
        frame::push_update(&mut out, black_box(change));
    });
}

#[divan::bench]
fn encode_modern_update(bencher: Bencher<'_, '_>) {
    let (mut out, change, cursor) = (Vec::with_capacity(192), change(1_234_567, 5), cursor(123_456));
    bencher.bench_local(|| {
        out.clear();
        frame::push_update_with_cursor(&mut out, black_box(change), black_box(&cursor));
    });
}

#[divan::bench]
fn decode_bus_message(bencher: Bencher<'_, '_>) {
    let numbered = Numbered { change: change(1_234_567, 5), cursor: cursor(123_456), after: None, recorded: When::MIN };
    let body = bus::encode(&numbered, Format::Native, "");
    bencher.bench_local(|| bus::decode(black_box(&body)));
}

fn batch(first: u64, count: u64) -> Vec<u8> {
    let numbered = |seq: u64| Numbered {
        change: change(1_000_000 + seq * 7919 % 100_000, i64::try_from(seq).expect("small")),
        cursor: cursor(seq),
        after: None,
        recorded: When::MIN,
    };
    bus::encode_batch(&(first..first + count).map(numbered).collect::<Vec<_>>())
}

/// Decoding a message of this many changes.
#[divan::bench(args = [20, 500])]
fn decode_batch(bencher: Bencher<'_, '_>, count: u64) {
    let body = batch(123_456, count);
    bencher.counter(divan::counter::ItemsCount::new(count)).bench_local(|| bus::decode_batch(black_box(&body)));
}

/// Reading 100,000 changes of history, in messages of 500: decoded, taken in, and told.
#[divan::bench(sample_count = 20)]
fn read_history(bencher: Bencher<'_, '_>) {
    let count = 100_000_u64;
    let bodies: Vec<Vec<u8>> = (0..count / 500).map(|at| batch(1 + at * 500, 500)).collect();
    bencher.counter(divan::counter::ItemsCount::new(count)).bench_local(|| {
        let (recorder, _cache) = replay(ReplayLimits::default());
        let mut bus = Bus::new(Sequencer::new(recorder, Epoch::parse("own").expect("letters")));
        let now = Now { ms: 0, wall: When::MAX };
        bus.set_up(0, Setup { history: true, ..Setup::default() });
        bus.on(now, Event::Connected { queue: Queue::New, waiting: 0 });
        bus.on(now, Event::Marked("m".to_owned()));
        for (body, offset) in bodies.iter().zip(0..) {
            let elements = bus::decode_batch(body).expect("a batch");
            let arrival = |message| Arrival { message, recorded: Some(When::MIN) };
            let changes = elements.into_iter().flatten().map(arrival).collect();
            bus.on(now, Event::Read(Item::Changes(changes), offset));
            while let Some(action) = bus.next_action() {
                black_box(&action);
            }
        }
        assert_eq!(bus.head().map(|head| head.seq), Some(count));
    });
}

/// Parsing a subscribe command with this many bugs.
#[divan::bench(args = [1, 20, 200])]
fn parse_subscribe(bencher: Bencher<'_, '_>, bugs: u64) {
    let list: Vec<String> = (0..bugs).map(|bug| (1_234_567 + bug).to_string()).collect();
    let text = format!(r#"{{"command":"subscribe","bugs":[{}]}}"#, list.join(","));
    bencher.bench_local(|| client::parse(black_box(&text)));
}
