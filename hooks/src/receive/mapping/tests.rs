//! What the golden files do not show: limits, what is kept, and which messages count as the same event.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::config::HooksConfig;
use crate::receive::mapped::{MAX_ITEMS, MAX_VALUES};

fn source(members: &str) -> Source {
    let text = format!("[[source]]\nname = \"x\"\n{members}\n");
    let none = |_: &Path| Err(String::new());
    HooksConfig::read("x", &text, &none).unwrap_or_else(|error| panic!("{error}")).sources.remove(0)
}

fn arrived() -> When {
    "2026-11-26T12:00:00".parse().unwrap()
}

fn map_text(source: &Source, headers: &[(&str, &str)], body: &str) -> Result<Vec<Mapped>, RequestError> {
    let headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    map(source, Request { headers: &headers, body: body.as_bytes(), arrived: arrived() })
}

fn map_one(source: &Source, body: &Value) -> Mapped {
    map_text(source, &[], &body.to_string()).unwrap().remove(0)
}

fn item(mapped: Mapped) -> Item {
    match mapped {
        Mapped::Item(item) => item,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_usable_number_counts() {
    let source = source("bug = [\"/a\", \"/b\", { from = \"/c\", match = \"#([0-9]+)\" }, \"header:X-Bug\"]");
    for (body, want) in [
        (json!({"a": 1, "b": 2}), Some(1)),
        (json!({"a": null, "b": 2}), Some(2)),
        (json!({"a": "one", "b": " 2 "}), Some(2)),
        (json!({"a": [1], "b": {"b": 1}, "c": "bug #17 and #18"}), Some(17)),
        (json!({"a": true, "c": 5}), None),
        (json!({"a": 1.0}), None),
        (json!([]), None),
    ] {
        let bug = map_text(&source, &[], &body.to_string()).unwrap().pop().map(|mapped| match mapped {
            Mapped::Item(item) => Some(item.bug.get()),
            _ => None,
        });
        assert_eq!(bug.flatten(), want, "{body}");
    }
    let mapped = map_text(&source, &[("x-bug", "99")], "{}").unwrap().remove(0);
    assert_eq!(item(mapped).bug.get(), 99);
}

#[test]
fn privacy_in_doubt_is_privacy() {
    let drops = source("bug = \"/bug\"\nis_private = [\"/p\", \"/q\"]");
    for (value, is_private) in [
        (json!(false), false),
        (json!(0), false),
        (json!("0"), false),
        (json!("False"), false),
        (json!(""), false),
        (json!("public"), false),
        (json!(null), false),
        (json!(true), true),
        (json!(1), true),
        (json!("internal"), true),
        (json!({}), true),
        (json!([]), true),
    ] {
        for name in ["p", "q"] {
            let mapped = map_one(&drops, &json!({"bug": 1, name: value}));
            assert_eq!(matches!(mapped, Mapped::Dropped(_)), is_private, "{name} {value}");
        }
    }
    // A pattern that cannot be compared leaves doubt.
    let matches = source("bug = \"/bug\"\nis_private = { from = \"/p\", match = \"^staff$\" }");
    for (value, is_private) in [
        (json!("staff"), true),
        (json!("all"), false),
        (json!(null), false),
        (json!({"name": "all"}), true),
        (json!("a".repeat(LONGEST_TEXT)), false),
        (json!("a".repeat(LONGEST_TEXT + 1)), true),
    ] {
        let mapped = map_one(&matches, &json!({"bug": 1, "p": value}));
        assert_eq!(matches!(mapped, Mapped::Dropped(_)), is_private);
    }
    let announces = source("bug = \"/bug\"\nis_private = \"/p\"\nprivate = \"announce\"");
    assert!(item(map_one(&announces, &json!({"bug": 1, "p": true}))).is_private);
    // A preset's word can be taken back.
    let takes_back = source("preset = \"plain\"\nis_private = []");
    assert!(!item(map_one(&takes_back, &json!({"bug": 1, "private": true}))).is_private);
}

#[test]
fn of_a_private_item_nothing_is_kept_whatever_is_wrong_with_it() {
    let source = source(
        "kind = \"/kind\"\nis_private = \"/p\"\nbug = \"/bug\"\n[source.on.known]\nfeed = { from = \"/f\", map = { a = \"a\" } }",
    );
    for body in [
        json!({"p": true, "kind": "unknown", "bug": 1}),
        json!({"p": true, "kind": "known", "bug": "none"}),
        json!({"p": true, "kind": "known", "bug": 1, "f": "none"}),
    ] {
        match map_one(&source, &body) {
            Mapped::Dropped(dropped) => assert_eq!((dropped.reason, dropped.kept), (DropReason::Private, None)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_kept_is_enough_and_not_more() {
    let broken = "kind = \"header:X-Kind\"\nid = \"header:X-Id\"\nitems = \"/items\"\n[source.on.\"*\"]\nbug = \"/nr\"\nwhen = \"root:/at\"";
    let body = r#"{"at": "2026-11-26T11:00:00", "secret": "HIDDEN", "items": [{"number": 5}, {"number": 6}]}"#;
    let headers = [("X-Kind", "k"), ("X-Id", "7"), ("Authorization", "HIDDEN"), ("X-Other", "HIDDEN")];
    let mapped = map_text(&source(broken), &headers, body).unwrap();
    let Mapped::Errored(errored) = &mapped[1] else { panic!("{mapped:?}") };
    assert_eq!(errored.kept.item, "{\"number\":6}");
    assert!(!format!("{errored:?}").contains("HIDDEN"));
    // The configuration is mended.
    let mended = source(&broken.replace("/nr", "/number"));
    let again = map_kept(&mended, &errored.kept, arrived());
    assert_eq!(again, map_text(&mended, &headers, body).unwrap()[1]);
    let again = item(again);
    assert_eq!((again.bug.get(), again.time.when.to_string()), (6, "2026-11-26T11:00:00".to_owned()));
    assert_eq!((again.about.kind.as_str(), again.about.delivery.as_deref()), ("k", Some("7")));
}

#[test]
fn many_items_do_not_keep_much_of_one_body() {
    let source = source("items = \"/items\"\nbug = [\"/nr\", \"root:/list\", \"root:/text\", \"root:/short\"]");
    let body = json!({"list": [1, 2], "text": "t".repeat(LONGEST_TEXT + 1), "short": "s", "items": [{}]});
    let Mapped::Errored(errored) = map_one(&source, &body) else { panic!() };
    assert_eq!(errored.kept.headers, [("root:/short".to_owned(), "\"s\"".to_owned())]);
}

#[test]
fn errors_show_no_title() {
    let source = source("bug = \"/title\"");
    for title in ["Crash of Ann's PC", "Donaudampfschifffahrt"] {
        let Mapped::Errored(errored) = map_one(&source, &json!({"title": title})) else { panic!() };
        assert_eq!(
            errored.error,
            "no bug's number was found: /title is there, but it is no whole number from 1 to 9223372036854775807"
        );
    }
}

#[test]
fn names_are_bounded() {
    let source = source("bug = \"/bug\"\nkind = \"/kind\"\nid = \"/id\"\nproject = \"/project\"");
    let long = "é".repeat(10_000);
    let about = item(map_one(&source, &json!({"bug": 1, "kind": long, "id": long, "project": long}))).about;
    assert_eq!((about.kind.len(), about.project.map(|project| project.len())), (200, Some(200)));
    assert_eq!(about.delivery.map(|id| (id.len(), id.starts_with("sha256:"))), Some((71, true)));
    let matched = self::source("bug = { from = \"/bug\", match = \"([0-9]+)$\" }");
    let padded = |length: usize| json!({"bug": format!("{}17", " ".repeat(length))});
    assert_eq!(item(map_one(&matched, &padded(LONGEST_TEXT - 2))).bug.get(), 17);
    assert!(matches!(map_one(&matched, &padded(LONGEST_TEXT - 1)), Mapped::Errored(_)));
}

#[test]
fn five_hundred_items_are_taken_and_not_one_more() {
    let plain = source("preset = \"plain\"");
    let list = |number: usize| vec!["{\"bug\":1}"; number];
    for (number, want) in [(MAX_ITEMS, Some(MAX_ITEMS)), (MAX_ITEMS + 1, None)] {
        let lines = list(number).join("\n\n") + "\n\n";
        for body in [format!("[{}]", list(number).join(",")), lines] {
            let mapped = map_text(&plain, &[], &body);
            assert_eq!(mapped.as_ref().ok().map(Vec::len), want);
            assert!(mapped.is_ok() || mapped.is_err_and(|error| error.error.contains("501 items")));
        }
    }
}

#[test]
fn a_body_has_only_so_many_values() {
    let plain = source("preset = \"plain\"");
    // Eight before the list's commas; signs in a text do not count.
    let body = |number: usize| format!("{{\"bug\":1,\"t\":\"[{{,:\\\"\",\"x\":[{}0]}}", "0,".repeat(number - 8));
    assert_eq!(item(map_text(&plain, &[], &body(MAX_VALUES)).unwrap().remove(0)).bug.get(), 1);
    let error = map_text(&plain, &[], &body(MAX_VALUES + 1)).unwrap_err().error;
    assert_eq!(error, "the body has more than 250000 JSON values; nothing was taken");
}

#[test]
fn bodies_of_every_encoding() {
    let plain = source("preset = \"plain\"");
    assert_eq!(item(map_text(&plain, &[], "\u{feff}{\"bug\":3}").unwrap().remove(0)).bug.get(), 3);
    let whole = "{\n  \"changes\": [\n    {\"bug\":1},\n    {\"bug\":2}\n  ]\n";
    let error = map_text(&plain, &[], whole).unwrap_err().error;
    assert!(error.starts_with("the body is not JSON: EOF"), "one broken text, not lines: {error}");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let github = source("preset = \"github\"");
    let error = map_text(&github, &form, "a=b").unwrap_err().error;
    assert_eq!(error, "the body is a form without the field 'payload'");
}

#[test]
fn the_clock_of_the_tracker() {
    let plain = source("preset = \"plain\"");
    let at = |text: &str| item(map_one(&plain, &json!({"bug": 1, "when": text}))).time;
    assert_eq!(at("2026-11-26T12:05:00").origin, TimeOrigin::Tracker);
    assert_eq!(at("2026-11-26T12:05:00.000001"), Time { when: arrived(), origin: TimeOrigin::ArrivalClock });
    assert_eq!(at("1970-01-01").origin, TimeOrigin::Tracker);
    assert_eq!(at("1969-12-31"), Time { when: arrived(), origin: TimeOrigin::Arrival });
}

#[test]
fn which_messages_are_the_same_event() {
    let event = json!({"bug": {"id": 5}, "webhook_id": 1, "event": {
        "target": "bug", "action": "modify", "routing_key": "bug.modify:status", "time": "2026-11-26T11:00:00",
        "changes": [{"field": "status", "removed": "NEW", "added": "ASSIGNED"}]}});
    let bugzilla = source("preset = \"bugzilla\"");
    let identity = |source: &Source, event: &Value| item(map_one(source, event)).identity;
    let first = identity(&bugzilla, &event);
    let with = |pointer: &str, value: Value| {
        let mut event = event.clone();
        *event.pointer_mut(pointer).unwrap() = value;
        identity(&bugzilla, &event)
    };
    assert_eq!(first, with("/webhook_id", json!(2)), "two webhooks tell of one edit");
    for (pointer, value) in [
        ("/bug/id", json!(6)),
        ("/event/target", json!("comment")),
        ("/event/time", json!("2026-11-26T11:00:01")),
        ("/event/changes/0/added", json!("RESOLVED")),
        ("/event/changes", json!(null)),
        ("/event/routing_key", json!("bug.modify:resolution")),
    ] {
        assert_ne!(first, with(pointer, value), "{pointer}");
    }
    let mut other = bugzilla.clone();
    other.name = "y".to_owned();
    assert_ne!(first, identity(&other, &event));
    // Where the mapping does not say what tells events apart, the whole item does.
    let plain = source("preset = \"plain\"");
    assert_eq!(identity(&plain, &json!({"bug": 1, "x": 1})), identity(&plain, &json!({"x": 1, "bug": 1})));
    assert_ne!(identity(&plain, &json!({"bug": 1, "x": 1})), identity(&plain, &json!({"bug": 1, "x": 2})));
}
