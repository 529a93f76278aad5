//! Compares the tables of transitions with the document that shows them, and checks what a change does that is not
//! listed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::path::{Path, PathBuf};

use super::transitions::Transition;
use super::*;
use crate::session::Session;

/// The document, from the root of the repository.
const DOCUMENT: &str = "docs/design/session.md";
const BEGIN: &str = "<!-- Generated from the code, from here: -->\n";
const END: &str = "<!-- to here. -->\n";

thread_local! {
    static HAPPENED: RefCell<BTreeSet<String>> = RefCell::default();
}

/// Notes a transition that happened in this thread.
pub(super) fn note(transition: &str) {
    HAPPENED.with_borrow_mut(|happened| {
        if !happened.contains(transition) {
            happened.insert(transition.to_owned());
        }
    });
}

/// The transitions that happened in this thread so far.
pub(crate) fn happened() -> BTreeSet<String> {
    HAPPENED.with_borrow(Clone::clone)
}

/// All transitions that the tables list.
pub(crate) fn listed() -> BTreeSet<String> {
    arrows(&TRANSITIONS).chain(arrows(&REQUESTS)).collect()
}

fn arrows<N: Debug>(table: &[Transition<N>]) -> impl Iterator<Item = String> {
    table.iter().map(|(from, to, _)| format!("{from:?} --> {to:?}"))
}

/// A diagram and a table of transitions.
fn show<N: Debug>(table: &[Transition<N>], first: N, last: N) -> String {
    let mut text = format!("```mermaid\nstateDiagram-v2\n    [*] --> {first:?}\n");
    arrows(table).for_each(|arrow| writeln!(text, "    {arrow}").unwrap());
    write!(text, "    {last:?} --> [*]\n```\n\n| from | to | when |\n|---|---|---|\n").unwrap();
    for (from, to, when) in table {
        writeln!(text, "| `{from:?}` | `{to:?}` | {when} |").unwrap();
    }
    text
}

fn document() -> PathBuf {
    let found =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join(DOCUMENT)).find(|p| p.exists());
    found.expect("the document lies in the repository")
}

/// The document shows the tables as they are in the code. The test can also write them into it.
#[test]
fn the_session_document_shows_the_tables() {
    let path = document();
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the tables begin is marked");
    let (_, after) = rest.split_once(END).expect("where the tables end is marked");
    let phases = show(&TRANSITIONS, Name::Open, Name::Ended);
    let requests = show(&REQUESTS, transitions::RequestName::None, transitions::RequestName::None);
    let want = format!("{before}{BEGIN}\n### Phases\n\n{phases}\n### Requests\n\n{requests}\n{END}{after}");
    if std::env::var_os("BUGFEED_WRITE_DOCS").is_some() {
        std::fs::write(&path, want).unwrap();
    } else {
        let how = "BUGFEED_WRITE_DOCS=1 cargo nextest run --workspace -E 'test(session_document)'";
        assert!(text == want, "{DOCUMENT} differs from the code. To write it anew: {how}");
    }
}

#[test]
fn no_transition_is_listed_twice() {
    assert_eq!(listed().len(), TRANSITIONS.len() + REQUESTS.len());
}

#[test]
#[should_panic(expected = "a session went from GapOwed to Closing")]
fn a_transition_that_is_not_listed_stops_the_process() {
    let mut backlog = Backlog::new(Phase::GapOwed, Vec::new());
    backlog.close(Close::Normal);
}

#[test]
#[should_panic(expected = "a session went from Deferred to Deferred")]
fn a_connection_hands_in_one_piece_of_work_at_a_time() {
    let mut backlog = Backlog::with_work(Work::Write(Vec::new()), 1);
    backlog.hand_in(Work::Write(Vec::new()));
}

/// Memory matters here: there are as many sessions as connections, and most of them are idle.
#[test]
fn a_session_takes_72_bytes_and_a_backlog_272_at_most() {
    assert_eq!(size_of::<Session<Box<()>>>(), 72);
    assert!(size_of::<Backlog>() <= 272, "{}", size_of::<Backlog>());
}
