//! Requests as trackers send them, and what each of them becomes: `payloads/TRACKER/NAME.http`, compared with
//! `NAME.json` beside it. The source is `payloads/TRACKER/source.toml`. `BUGFEED_GOLDEN=write` writes the files anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use bugfeed_hooks::config::{HooksConfig, Source};
use bugfeed_hooks::receive::capture::{self, Captured};
use bugfeed_hooks::receive::explain::explain;
use bugfeed_hooks::receive::mapped::{About, Mapped, Request, Time};
use bugfeed_hooks::receive::mapping::{map, map_kept};
use bugfeed_protocol::When;
use serde_json::{Value, json};

/// The time of arrival.
fn arrived() -> When {
    "2026-11-26T12:00:00".parse().unwrap()
}

fn source(folder: &Path) -> Source {
    let file = folder.join("source.toml");
    let text = fs::read_to_string(&file).unwrap();
    let config = HooksConfig::read(&file.to_string_lossy(), &text, &|_| Err("no file is read here".to_owned()));
    config.unwrap_or_else(|error| panic!("{error}")).sources.remove(0)
}

fn time(time: Time) -> Value {
    json!({"when": time.when.to_string(), "origin": format!("{:?}", time.origin)})
}

/// What came out, as JSON. Members that say nothing are left out.
fn outcome(mapped: &Mapped) -> Value {
    let with = |about: &About, mut value: Value| {
        let members = value.as_object_mut().unwrap();
        members.insert("kind".to_owned(), json!(about.kind));
        members.insert("delivery".to_owned(), json!(about.delivery));
        members.insert("project".to_owned(), json!(about.project));
        members.retain(|_, value| !value.is_null());
        value
    };
    match mapped {
        Mapped::Item(item) => {
            let value = json!({"item": {"bug": item.bug, "time": time(item.time), "feed": item.feed,
                "private": item.is_private, "identity": item.identity.to_string()}});
            with(&item.about, value)
        }
        Mapped::Dropped(dropped) => {
            let kept = dropped.kept.as_ref().map(|kept| json!({"item": kept.item, "headers": kept.headers}));
            let value = json!({"dropped": format!("{:?}", dropped.reason), "bug": dropped.bug,
                "time": time(dropped.time), "kept": kept});
            with(&dropped.about, value)
        }
        Mapped::Errored(errored) => {
            let kept = json!({"item": errored.kept.item, "headers": errored.kept.headers});
            let value = json!({"error": errored.error, "fix": errored.fix, "time": time(errored.time), "kept": kept});
            with(&errored.about, value)
        }
        Mapped::Answered { answer, about } => with(about, json!({"answered": format!("{answer:?}")})),
    }
}

fn result(source: &Source, captured: &Captured) -> Value {
    let request = Request { headers: &captured.headers, body: &captured.body, arrived: arrived() };
    let explanation = explain(source, captured, arrived());
    let mapped = map(source, request);
    let explained: Result<Vec<Mapped>, _> =
        explanation.items.clone().map(|items| items.into_iter().map(|item| item.outcome).collect());
    assert_eq!(explained, mapped, "an explanation says what happens");
    let text: Vec<String> = explanation.to_string().lines().map(str::to_owned).collect();
    match mapped {
        Ok(items) => {
            for item in &items {
                assert_kept_is_enough(source, item);
            }
            json!({"items": items.iter().map(outcome).collect::<Vec<_>>(), "explanation": text})
        }
        Err(error) => json!({"error": error.error, "fix": error.fix, "explanation": text}),
    }
}

/// What is kept of an item leads to the same outcome.
fn assert_kept_is_enough(source: &Source, mapped: &Mapped) {
    let kept = match mapped {
        Mapped::Errored(errored) => Some(&errored.kept),
        Mapped::Dropped(dropped) => dropped.kept.as_ref(),
        Mapped::Item(_) | Mapped::Answered { .. } => None,
    };
    let Some(kept) = kept else { return };
    match (map_kept(source, kept, arrived()), mapped) {
        // The number of the line is not kept.
        (Mapped::Errored(again), Mapped::Errored(before)) if before.error.starts_with("line ") => {
            assert_eq!(again.kept, before.kept);
        }
        (again, before) => assert_eq!(again, *before),
    }
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn what_trackers_send() {
    let write = std::env::var_os("BUGFEED_GOLDEN").is_some_and(|word| word == "write");
    let mut differing = Vec::new();
    let mut files = 0;
    for folder in sorted(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads")) {
        let source = source(&folder);
        for path in sorted(&folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "http")) {
            files += 1;
            let captured = capture::read(&fs::read(&path).unwrap());
            let golden = path.with_extension("json");
            let is = serde_json::to_string_pretty(&result(&source, &captured)).unwrap() + "\n";
            if write {
                fs::write(&golden, &is).unwrap();
            } else if fs::read_to_string(&golden).unwrap_or_default() != is {
                differing.push(format!("{}\n{is}", golden.display()));
            }
        }
    }
    assert!(files > 50, "{files} files");
    assert!(differing.is_empty(), "BUGFEED_GOLDEN=write writes these anew:\n{}", differing.join("\n"));
}
