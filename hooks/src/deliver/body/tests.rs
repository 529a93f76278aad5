//! Exact bytes (`hooks/golden/deliver`; `BUGFEED_GOLDEN=write` writes them anew), bounds, and what ids promise.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bugfeed_protocol::{BugId, Tag, When};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::*;

fn epoch() -> Epoch {
    Epoch::from_random(0xfeed)
}

fn cursor(seq: u64) -> Cursor {
    Cursor::new(epoch(), seq).tagged(Some(Tag::from_random(0xbeef)))
}

fn item(bug: u64, when: &str, seq: u64) -> Item {
    let change = Change { bug: BugId::new(bug).unwrap(), when: when.parse().unwrap() };
    Item { change, cursor: cursor(seq) }
}

#[test]
fn bodies_and_ids_have_these_bytes() {
    let one = [item(1234, "2026-11-26T12:00:00", 88)];
    let two = [item(1, "2026-11-26T12:00:00.5", 80), one[0].clone()];
    let (last, later) = (cursor(88), cursor(100));
    let batch = |content, cursor, generation| Batch { feed: "kde", content, cursor, generation };
    let mut differing = Vec::new();
    for (name, batch) in [
        ("update", batch(Content::Update(&one[0]), &last, 0)),
        ("update-again", batch(Content::Update(&one[0]), &last, 1)),
        ("updates-complete", batch(Content::Updates { replay: Replay::Complete, items: &two }, &last, 0)),
        ("updates-of-one", batch(Content::Updates { replay: Replay::Latest, items: &one }, &later, 0)),
        ("gap", batch(Content::Gap, &later, 0)),
        ("test", batch(Content::Test, &later, 7)),
    ] {
        let body = batch.body();
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["feed"], "kde");
        // The first line is the id, the second the body.
        let is = format!("{}\n{}\n", batch.id("ep_1", &body), String::from_utf8(body).unwrap());
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/deliver").join(name).with_extension("txt");
        if std::env::var_os("BUGFEED_GOLDEN").is_some_and(|word| word == "write") {
            fs::write(&golden, &is).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != is {
            differing.push(format!("{}\n{is}", golden.display()));
        }
    }
    assert!(differing.is_empty(), "BUGFEED_GOLDEN=write writes these anew:\n{}", differing.join("\n"));
}

#[test]
fn feeds_with_strange_names_are_escaped() {
    let one = item(1, "2026-11-26T12:00:00", 1);
    let feed = "a\"b\\c\n\u{7f}é";
    for content in [Content::Update(&one), Content::Gap] {
        let body = Batch { feed, content, cursor: &cursor(1), generation: 0 }.body();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["feed"], feed);
    }
}

/// Changes whose numbers and dates have all lengths.
fn items(random: &mut StdRng, number: usize) -> Vec<Item> {
    let epoch = Epoch::parse(&"e".repeat(random.random_range(1..=Epoch::MAX_LEN))).unwrap();
    let bits = random.random_range(1..50);
    let mut seq: u64 = random.random_range(1..=1 << bits);
    let mut next = || {
        seq += random.random_range(1..1_000);
        let most = BugId::MAX >> random.random_range(0..60);
        let bug = BugId::new(random.random_range(1..=most)).unwrap();
        let when = When::from_micros(random.random_range(0..When::MAX.as_micros())).unwrap();
        let tag = random.random_bool(0.8).then(|| Tag::from_random(random.random()));
        Item { change: Change { bug, when }, cursor: Cursor::new(epoch.clone(), seq).tagged(tag) }
    };
    (0..number).map(|_| next()).collect()
}

#[test]
fn a_body_holds_what_fits_and_hardly_less() {
    let mut random = StdRng::seed_from_u64(20_000);
    assert_eq!(fits("kde", &[]), 0);
    for _ in 0..200 {
        let items = items(&mut random, 600);
        let feed = "f".repeat(random.random_range(1..=64));
        let number = fits(&feed, &items);
        let longest = Cursor::new(items[0].cursor.epoch.clone(), u64::MAX).tagged(Tag::parse("ffffffffffffffff"));
        let length = |number: usize, cursor: &Cursor| {
            let content = Content::Updates { replay: Replay::Complete, items: &items[..number] };
            Batch { feed: &feed, content, cursor, generation: 0 }.body().len()
        };
        assert!(length(number, &longest) <= LONGEST_BODY);
        assert!(length(number + 1, &longest) + 110 > LONGEST_BODY, "{number} of {}", items.len());
        assert_eq!(fits(&feed, &items[..number - 1]), number - 1, "all of fewer");
    }
}

#[test]
fn equal_ids_have_equal_bodies_and_the_other_way_round() {
    let mut random = StdRng::seed_from_u64(14);
    let mut bodies: HashMap<String, (Vec<u8>, u32)> = HashMap::new();
    let mut ids: HashMap<(Vec<u8>, u32, &str), String> = HashMap::new();
    let mut repeats = 0;
    for _ in 0..20_000 {
        // Few numbers, so that many batches are of the same span, and some are equal.
        let first = random.random_range(1..4);
        let mut items: Vec<Item> = (first..first + random.random_range(1..4))
            .map(|seq| {
                item(random.random_range(1..3), ["2026-11-26T12:00:00", "2026-11-26"][random.random_range(0..2)], seq)
            })
            .collect();
        if random.random_bool(0.3) {
            items.iter_mut().for_each(|item| item.cursor.tag = None);
        }
        let after = cursor(items.last().unwrap().cursor.seq + random.random_range(0..2));
        let replay = [Replay::Complete, Replay::Latest][random.random_range(0..2)];
        let (content, cursor) = match random.random_range(0..4) {
            0 => (Content::Update(&items[0]), &items[0].cursor),
            1 => (Content::Gap, &after),
            2 => (Content::Test, &after),
            _ => (Content::Updates { replay, items: &items }, &after),
        };
        let feed = ["kde", "gnome"][random.random_range(0..2)];
        let batch = Batch { feed, content, cursor, generation: random.random_range(0..3) };
        let body = batch.body();
        let endpoint = ["a", "b"][random.random_range(0..2)];
        let id = batch.id(endpoint, &body);
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{id}");
        let same = (body.clone(), batch.generation);
        assert_eq!(bodies.entry(id.clone()).or_insert_with(|| same.clone()), &same, "{id}");
        let known = ids.entry((body, batch.generation, endpoint)).or_insert_with(|| id.clone());
        assert_eq!(known, &id);
        repeats += 1;
    }
    repeats -= bodies.len();
    assert!(repeats > 1_000, "{repeats} batches were equal to another one");
}
