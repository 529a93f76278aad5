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
    let event = json!({"bug": {"id": 5, "is_private": false}, "webhook_id": 1, "event": {
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

#[test]
fn what_does_not_say_whether_it_is_private_is_not_announced() {
    let error = |source: &Source, body: &Value| match map_one(source, body) {
        Mapped::Errored(errored) => errored.error,
        other => panic!("{other:?}"),
    };
    let strict = source("bug = \"/bug\"\nis_private = [\"/hiden\", \"header:X-Private\"]");
    let body = json!({"bug": 1, "hidden": true});
    assert_eq!(
        error(&strict, &body),
        "nothing says whether the bug is private: /hiden is not there; header:X-Private is not there"
    );
    assert_eq!(item(map_one(&strict, &json!({"bug": 1, "hiden": null}))).bug.get(), 1, "null is an answer");
    let mapped = map_text(&strict, &[("X-Private", "")], &body.to_string()).unwrap().remove(0);
    assert_eq!(item(mapped).bug.get(), 1, "so is an empty header");
    let lenient = source("bug = \"/bug\"\nis_private = [\"/hidden\", \"public\"]");
    assert_eq!(item(map_one(&lenient, &json!({"bug": 1}))).bug.get(), 1);
    assert!(matches!(map_one(&lenient, &body), Mapped::Dropped(_)));
    let announces = source("bug = \"/bug\"\nis_private = \"/hiden\"\nprivate = \"announce\"");
    assert_eq!(item(map_one(&announces, &body)).bug.get(), 1);
    // It is beside the items.
    let items = source("items = \"/items\"\nbug = \"/bug\"\nis_private = \"/private\"");
    let said = error(&items, &json!({"private": true, "items": [{"bug": 1}]}));
    assert_eq!(said, "nothing says whether the bug is private: /private is not there (root:/private is)");
    for (preset, body) in [
        ("bugzilla", json!({"bug": {"id": 1}})),
        ("plain", json!({"bug": 1})),
        ("redmine-plugin", json!({"payload": {"issue": {"id": 1}}})),
    ] {
        let is_errored = matches!(map_one(&source(&format!("preset = \"{preset}\"")), &body), Mapped::Errored(_));
        assert_eq!(is_errored, preset == "bugzilla", "{preset}");
    }
}

#[test]
fn a_rule_whose_condition_is_not_found_is_named() {
    let source = source("kind = \"/kind\"\nbug = \"/bug\"\n[source.on.a]\nif = \"/x\"\n[source.on.b]");
    let error = |kind: &str| match map_one(&source, &json!({"bug": 1, "kind": kind})) {
        Mapped::Errored(errored) => (errored.error, errored.fix),
        other => panic!("{other:?}"),
    };
    let (why, fix) = error("a");
    assert_eq!(why, "the rule for \"a\" fits the kind, but its `if` was not found: /x is not there");
    assert!(fix.starts_with("change `if` of [source.on.\"a\"]"), "{fix}");
    assert!(error("c").0.starts_with("no rule of the source is for events of kind \"c\""));
}

#[test]
fn a_date_in_a_form_of_its_own() {
    let body = json!({"bug": 1, "at": "26.11.2026 12:30:00 +0100", "local": "26.11.2026 12:30"});
    let formed = source("bug = \"/bug\"\nwhen = { from = \"/at\", format = \"%d.%m.%Y %H:%M:%S %z\" }");
    let time = item(map_one(&formed, &body)).time;
    assert_eq!((time.when.to_string().as_str(), time.origin), ("2026-11-26T11:30:00", TimeOrigin::Tracker));
    let zone = "format = \"%d.%m.%Y %H:%M\", timezone = \"Europe/Berlin\"";
    let local = source(&format!("bug = \"/bug\"\nwhen = [\"/at\", {{ from = \"/local\", {zone} }}]"));
    let mapped = item(map_one(&local, &body));
    assert_eq!((mapped.time.when.to_string().as_str(), mapped.unreadable), ("2026-11-26T11:30:00", None));
}

#[test]
fn a_date_that_cannot_be_read_leaves_a_remark() {
    let plain = source("preset = \"plain\"");
    let remark = |when: Value| item(map_one(&plain, &json!({"bug": 1, "when": when}))).unreadable;
    assert_eq!((remark(json!("2026-11-26T11:00:00Z")), remark(json!(null))), (None, None));
    let Some(Failure { error, fix }) = remark(json!("26.11.2026 11:00")) else { panic!() };
    assert_eq!(error, "the date at /when cannot be read (\"26.11.2026 11:00\"); the time of arrival counts");
    assert!(fix.ends_with("write when = [\"/when\", { from = \"/when\", format = \"%d.%m.%Y %H:%M\" }]"), "{fix}");
    for title in [json!("Crash of Ann's PC in 2026"), json!([1]), json!("1234 ".repeat(9))] {
        let error = remark(title).unwrap().error;
        assert_eq!(error, "the date at /when cannot be read; the time of arrival counts");
    }
}

#[test]
fn what_is_dropped_goes_to_no_other_projects_feed() {
    let source = source(
        "bug = \"/bug\"\nis_private = \"/p\"\nfeed = { from = \"/project\", map = { a = \"feed-a\", b = \"feed-b\" } }",
    );
    for (private, project, feed) in [(true, "b", Some("feed-b")), (true, "c", None), (false, "c", None)] {
        match map_one(&source, &json!({"bug": 1, "p": private, "project": project})) {
            Mapped::Dropped(dropped) => assert_eq!(dropped.feed.as_deref(), feed, "{project}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_form_that_holds_json_is_recognised() {
    let own = source("bug = \"/bug\"");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for (body, want) in [
        ("a=b&payload=%7B%22bug%22%3A1%7D", "add unwrap = \"form:payload\" to the source, or choose"),
        ("a=b", "choose the content type application/json in the sender's webhook; of a form"),
        ("a%20%22=%7B%7D", "choose the content type application/json"),
    ] {
        let fix = map_text(&own, &form, body).unwrap_err().fix;
        assert!(fix.starts_with(want), "{body}: {fix}");
    }
    assert_eq!(map_text(&own, &[], "a=b").unwrap_err().fix, "send JSON");
}

/// The source of a fix's TOML, which stands after `write ` up to its end.
fn pasted(fix: &str, others: &str) -> Source {
    let (_, toml) = fix.rsplit_once("write ").unwrap_or_else(|| panic!("{fix}"));
    source(&format!("{others}\n{toml}"))
}

#[test]
fn the_fix_for_a_missing_privacy_can_be_pasted_and_keeps_its_meaning() {
    let words = "{ from = \"/issue/visibility\", match = \"^(staff|owner)$\" }";
    let quoted = r#"{ from = "/a \"b\"/c (d)", match = "^\"\\w'\"$" }"#;
    for rule in [words.to_owned(), format!("[\"/hidden\", {words}]"), quoted.to_owned()] {
        let strict = source(&format!("bug = \"/bug\"\nis_private = {rule}"));
        let Mapped::Errored(errored) = map_one(&strict, &json!({"bug": 1})) else { panic!("{rule}") };
        let mended = pasted(&errored.fix, "bug = \"/bug\"");
        assert!(matches!(map_one(&mended, &json!({"bug": 1})), Mapped::Item(_)), "{}", errored.fix);
        for (value, is_private) in [("staff", true), ("\"x'\"", true), ("all", false)] {
            let body = json!({"bug": 1, "hidden": false, "issue": {"visibility": value}, "a \"b\"": {"c (d)": value}});
            let of = |source: &Source| matches!(map_one(source, &body), Mapped::Dropped(_));
            assert_eq!(of(&mended), of(&strict), "{rule} {value} {is_private}: {}", errored.fix);
        }
    }
    // What stands beside the items is named there.
    let items = source("items = \"/items\"\nbug = \"/bug\"\nis_private = { from = \"/p\", match = \"^s$\" }");
    let Mapped::Errored(errored) = map_one(&items, &json!({"p": "s", "items": [{"bug": 1}]})) else { panic!() };
    let mended = pasted(&errored.fix, "items = \"/items\"\nbug = \"/bug\"");
    assert!(
        matches!(map_one(&mended, &json!({"p": "s", "items": [{"bug": 1}]})), Mapped::Dropped(_)),
        "{}",
        errored.fix
    );
}

#[test]
fn the_fix_for_a_date_can_be_pasted_and_reads_it() {
    for (text, want) in [
        ("26.11.2026 11:00", "2026-11-26T11:00:00"),
        ("26.11.2026 11:00:30", "2026-11-26T11:00:30"),
        ("Thu, 26 Nov 2026 11:00:00 +0100", "2026-11-26T10:00:00"),
        ("11/26/2026 11:00 AM", "2026-11-26T11:00:00"),
        ("2026/11/26 11:00:00", "2026-11-26T11:00:00"),
    ] {
        for rule in ["\"/at\"", "[\"/none\", { from = \"/at\", match = \"^.*$\" }, \"now\"]"] {
            let body = json!({"bug": 1, "at": text});
            let remark = item(map_one(&source(&format!("bug = \"/bug\"\nwhen = {rule}")), &body)).unreadable;
            let fix = remark.unwrap_or_else(|| panic!("{text}")).fix;
            let mended = item(map_one(&pasted(&fix, "bug = \"/bug\""), &body));
            assert_eq!((mended.time.when.to_string().as_str(), mended.unreadable), (want, None), "{fix}");
        }
    }
}

#[test]
fn a_date_out_of_range_is_no_matter_of_its_form() {
    let plain = source("preset = \"plain\"");
    for when in [
        json!("1969-12-31T23:00:00Z"),
        json!("2300-01-01"),
        json!("0001-01-01T00:00:00Z"),
        json!(99_999_999_999_999_999_i64),
        json!("2026-02-30"),
        json!(1e20),
        json!(-5),
    ] {
        let remark = item(map_one(&plain, &json!({"bug": 1, "when": when}))).unreadable.unwrap();
        assert!(remark.fix.contains("1970 to 2199") && !remark.fix.contains("format"), "{when}: {}", remark.fix);
    }
    // What is quoted is what was sent, or nothing.
    let quoted = |body: &str| item(map_text(&plain, &[], body).unwrap().remove(0)).unreadable.unwrap().error;
    assert!(quoted(r#"{"bug": 1, "when": 100000000000000000000}"#).contains("cannot be read;"), "it is 1e20 when read");
    assert!(quoted(r#"{"bug": 1, "when": " 2300-01-01 "}"#).contains("(\" 2300-01-01 \")"));
    let part = source("bug = \"/bug\"\nwhen = { from = \"/at\", match = \"on (.+)$\" }");
    let error = item(map_one(&part, &json!({"bug": 1, "at": "on 26.11.26 11:00"}))).unreadable.unwrap().error;
    assert!(error.contains("of \"on 26.11.26 11:00\", \"26.11.26 11:00\""), "{error}");
}
