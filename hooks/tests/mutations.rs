//! Whatever is sent, nothing panics, and what must always hold does. Requests of `payloads/` are changed at random, and
//! random bytes are sent. `BUGFEED_MUTATIONS` says how many rounds; the seed of each is its number.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use bugfeed_hooks::config::{HooksConfig, Source};
use bugfeed_hooks::receive::capture::{self, Captured};
use bugfeed_hooks::receive::explain::explain;
use bugfeed_hooks::receive::key;
use bugfeed_hooks::receive::mapped::{MAX_ITEMS, Mapped, Request};
use bugfeed_hooks::receive::mapping::{map, map_kept};
use bugfeed_hooks::receive::signature;
use bugfeed_protocol::When;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

struct Sample {
    source: Source,
    captured: Captured,
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for folder in sorted(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads")) {
        let text = fs::read_to_string(folder.join("source.toml")).unwrap();
        let config = HooksConfig::read("source.toml", &text, &|_| Err(String::new())).unwrap();
        for path in sorted(&folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "http")) {
            let captured = capture::read(&fs::read(path).unwrap());
            samples.push(Sample { source: config.sources[0].clone(), captured });
        }
    }
    samples
}

/// Changes some bytes.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random_range(0..=255)),
            2 => bytes.splice(at..at, *b"\"\\u0000").for_each(drop),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] = *b"{}[]\",:0-9n\n\xff".get(random.random_range(0..13)).unwrap(),
            _ => {}
        }
    }
}

/// All places in a document, as pointers.
fn pointers(value: &Value) -> Vec<String> {
    let mut found = vec![(String::new(), value)];
    let mut next = 0;
    while let Some((pointer, value)) = found.get(next).cloned() {
        match value {
            Value::Array(list) => found.extend(list.iter().enumerate().map(|(i, v)| (format!("{pointer}/{i}"), v))),
            Value::Object(members) => found.extend(
                members
                    .iter()
                    .map(|(name, v)| (format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")), v)),
            ),
            _ => {}
        }
        next += 1;
    }
    found.into_iter().map(|(pointer, _)| pointer).collect()
}

/// Puts other values into a document.
fn mutate_json(body: &mut Vec<u8>, random: &mut StdRng) {
    let Ok(mut document) = serde_json::from_slice::<Value>(body) else { return mutate_bytes(body, random) };
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("é".repeat(5_000)),
        json!("2026-11-26T12:00:00Z"),
        json!("9999-12-31"),
        json!([]),
        json!({}),
        json!([1, "2"]),
        json!({"a": {"b": []}}),
        json!("-99999999999999999999"),
        json!("0x1F"),
    ];
    for _ in 0..random.random_range(1..4) {
        let pointers = pointers(&document);
        let pointer = &pointers[random.random_range(0..pointers.len())];
        *document.pointer_mut(pointer).unwrap() = values[random.random_range(0..values.len())].clone();
    }
    *body = document.to_string().into_bytes();
}

fn check(source: &Source, captured: &Captured, arrived: When) {
    let request = Request { headers: &captured.headers, body: &captured.body, arrived };
    let mapped = map(source, request);
    let _ = signature::verify(source, &captured.headers, &captured.body, arrived);
    let _ = key::find(&source.keys, &captured.headers, captured.path.as_deref());
    let explanation = explain(source, captured, arrived);
    let explained = explanation.items.as_ref().map(|items| items.iter().map(|item| &item.outcome).collect::<Vec<_>>());
    assert_eq!(explained.ok(), mapped.as_ref().ok().map(|items| items.iter().collect()));
    assert!(!explanation.to_string().is_empty());
    for item in mapped.as_ref().map(Vec::as_slice).unwrap_or_default() {
        let (about, kept) = match item {
            Mapped::Item(item) => {
                let ahead = item.time.when.as_micros() - arrived.as_micros();
                assert!(ahead <= 300_000_000, "no time is in the future");
                (&item.about, None)
            }
            Mapped::Dropped(dropped) => (&dropped.about, dropped.kept.as_ref()),
            Mapped::Errored(errored) => {
                assert!(!errored.error.is_empty() && !errored.fix.is_empty());
                (&errored.about, Some(&errored.kept))
            }
            Mapped::Answered { about, .. } => (about, None),
        };
        for name in [Some(&about.kind), about.delivery.as_ref(), about.project.as_ref()].into_iter().flatten() {
            assert!(name.len() <= 200, "{} bytes", name.len());
        }
        if let Some(kept) = kept {
            let again = map_kept(source, kept, arrived);
            assert!(matches!(again, Mapped::Errored(_) | Mapped::Dropped(_)), "the same configuration, no change");
        }
    }
    assert!(mapped.map_or(0, |items| items.len()) <= MAX_ITEMS);
}

#[test]
fn nothing_that_is_sent_panics() {
    let rounds = std::env::var("BUGFEED_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(8_000);
    let samples = samples();
    let arrived: When = "2026-11-26T12:00:00".parse().unwrap();
    for seed in 0..rounds {
        let random = &mut StdRng::seed_from_u64(seed);
        let Sample { source, captured } = &samples[random.random_range(0..samples.len())];
        let mut captured = captured.clone();
        match random.random_range(0..5) {
            0 | 1 => mutate_bytes(&mut captured.body, random),
            2 | 3 => mutate_json(&mut captured.body, random),
            _ => captured.body = (0..random.random_range(0..300)).map(|_| random.random_range(0..=255)).collect(),
        }
        if random.random_bool(0.3) && !captured.headers.is_empty() {
            let at = random.random_range(0..captured.headers.len());
            let mut value = captured.headers[at].1.clone().into_bytes();
            mutate_bytes(&mut value, random);
            captured.headers[at].1 = String::from_utf8_lossy(&value).into_owned();
        }
        check(source, &captured, arrived);
    }
}

#[test]
fn no_capture_and_no_configuration_panics() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads");
    let mut texts = Vec::new();
    for folder in sorted(&folder) {
        texts.extend(sorted(&folder).into_iter().filter(|path| !path.ends_with("too_many.http")));
    }
    let texts: Vec<Vec<u8>> = texts.into_iter().map(|path| fs::read(path).unwrap()).collect();
    for seed in 0..4_000 {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut text = texts[random.random_range(0..texts.len())].clone();
        mutate_bytes(&mut text, random);
        let _ = capture::read(&text);
        let text = String::from_utf8_lossy(&text);
        if let Err(error) = HooksConfig::read("f", &text, &|_| Err(String::new())) {
            assert!(error.line >= 1 && !error.problem.is_empty());
        }
    }
}
