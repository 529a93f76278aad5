//! The names of events in the logs: every line has one, the document lists them all, and no test goes by a line's words.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bugfeed_protocol::log_event::LogEvent;

/// The file with the names.
const TABLE: &str = "log_event.rs";
/// This file waits for what `bugfeed watch` prints, which is no log.
const WORDS_FOR_PEOPLE: &str = "programs.rs";

fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The text from the opening bracket at its beginning to the bracket that closes it.
fn in_brackets(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

/// The arguments of each call of one of these functions or macros.
fn calls<'a>(text: &'a str, names: &[&str]) -> Vec<&'a str> {
    let begins =
        |name: &&str, at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') && !name.is_empty();
    let mut found = Vec::new();
    for name in names {
        let places = text.match_indices(name).filter(|(at, _)| begins(name, *at));
        found.extend(places.map(|(at, name)| in_brackets(&text[at + name.len() - 1..])));
    }
    found
}

/// All log lines of the programs, as they are written in the code.
fn log_lines() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for (path, text) in sources(&["src", "shim/src", "hooks/src", "crates"]) {
        let lines = calls(&text, &["error!(", "warn!(", "info!(", "debug!(", "trace!("]);
        found.extend(lines.into_iter().map(|line| (path.clone(), line.to_owned())));
    }
    found
}

#[test]
fn every_log_line_names_its_event_last() {
    let lines = log_lines();
    assert!(lines.len() > 50, "only {} log lines found", lines.len());
    for (path, line) in lines {
        let named = line.split("event = %LogEvent::").nth(1);
        let after = named.unwrap_or_else(|| panic!("{}: a log line without an event: {line}", path.display()));
        let words = after.split_once(',').map(|(_, words)| words.trim_start());
        assert!(
            words.is_some_and(|words| words.starts_with('"')),
            "{}: other fields come first: {line}",
            path.display()
        );
    }
}

#[test]
fn every_name_is_used_and_unlike_the_others() {
    let code: String = sources(&["src", "shim/src", "hooks/src", "crates"])
        .into_iter()
        .filter(|(path, _)| !path.ends_with(TABLE))
        .map(|(_, text)| text)
        .collect();
    let mut names = BTreeSet::new();
    for event in LogEvent::ALL {
        let name = event.name();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert!(names.insert(name), "{name} twice");
        assert!(code.contains(&format!("event = %LogEvent::{event:?},")), "{name} is never logged");
    }
}

#[test]
fn the_document_lists_every_event_with_its_meaning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: Vec<String> =
        LogEvent::ALL.iter().map(|event| format!("| `{event}` | {} |", event.meaning())).collect();
    assert_eq!(rows, wanted, "docs/events.md and {TABLE} differ");
}

#[test]
fn no_test_waits_for_the_words_of_a_log_line() {
    let lines = log_lines();
    for (path, text) in sources(&["tests/it", "shim/tests", "examples", "benches"]) {
        if path.ends_with(WORDS_FOR_PEOPLE) {
            continue;
        }
        for call in calls(&text, &["wait_for_line(", "wait_for_line_after("]) {
            // A few letters, such as the beginning of JSON, are no words.
            let words = call.split('"').nth(1).filter(|words| words.len() > 3 && !call.contains("event("));
            let Some(words) = words else { continue };
            let logged = lines.iter().find(|(_, line)| line.contains(words));
            assert!(logged.is_none(), "{}: go by the event instead of the words {words:?}", path.display());
        }
    }
}
