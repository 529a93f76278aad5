//! Each chat's body, own templates, and what is refused.

use bugfeed_protocol::{BugId, When};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use super::*;

fn change() -> Change {
    Change { bug: BugId::new(1234).unwrap(), when: "2026-11-26T12:00:00.25".parse().unwrap() }
}

fn link() -> Link {
    Link::parse("https://bugs.example.org/show_bug.cgi?id={bug}&x=\"<").unwrap()
}

fn value(template: &Template, say: Say) -> Value {
    serde_json::from_slice(&template.body("kde", say, Some(&link()))).unwrap()
}

#[test]
fn each_chat_gets_words() {
    let words = "Bug 1234 changed at 2026-11-26 12:00:00 UTC: https://bugs.example.org/show_bug.cgi?id=1234&x=\"<";
    for (name, pointer) in [
        ("slack", "/text"),
        ("mattermost", "/text"),
        ("matrix", "/text"),
        ("matrix", "/body"),
        ("discord", "/content"),
        ("teams", "/attachments/0/content/body/0/text"),
    ] {
        let template = Template::named(name).unwrap();
        for (say, want) in [
            (Say::Change(change()), words),
            (Say::More(1), "1 more bug of kde changed"),
            (Say::More(2_000), "2000 more bugs of kde changed"),
            (Say::Gap, "Changes of kde may be missing: treat all its bugs as changed"),
            (Say::Test, "A test by bugfeed: changes of kde will be told here"),
        ] {
            assert_eq!(value(&template, say).pointer(pointer).and_then(Value::as_str), Some(want), "{name}");
        }
    }
    assert_eq!(Template::named("irc"), None);
    let without = Template::named("slack").unwrap().body("kde", Say::Change(change()), None);
    assert_eq!(without, br#"{"text":"Bug 1234 changed at 2026-11-26 12:00:00 UTC (kde)"}"#);
}

#[test]
fn own_templates() {
    let template = r##"{"a":[{"t":"#{bug} at {when}"},1,null],"b":"{url}","c":"plain {} {Bug} {a b}","d":"{feed}"}"##;
    let template = Template::parse(template).unwrap();
    assert_eq!(
        value(&template, Say::Change(change())),
        json!({"a": [{"t": "#1234 at 2026-11-26T12:00:00.25"}, 1, null], "c": "plain {} {Bug} {a b}", "d": "kde",
            "b": "https://bugs.example.org/show_bug.cgi?id=1234&x=\"<"})
    );
    let gap = "Changes of kde may be missing: treat all its bugs as changed";
    assert_eq!(
        value(&template, Say::Gap),
        json!({"a": [{"t": gap}, 1, null], "b": "", "c": "plain {} {Bug} {a b}", "d": "kde"})
    );
    let template = Template::parse(r#"{"title":"{bug}","body":"{text}"}"#).unwrap();
    assert_eq!(value(&template, Say::Gap), json!({"title": "", "body": gap}), "the words have their place");
}

#[test]
fn what_is_no_template() {
    let many = format!(r#"{{"a":"{}"}}"#, "{bug}".repeat(MOST_PLACEHOLDERS + 1));
    let long = format!(r#"{{"a":"{{bug}}{}"}}"#, "x".repeat(LONGEST_TEMPLATE));
    let deep = format!("{}\"{{bug}}\"{}", "{\"a\":".repeat(200), "}".repeat(200));
    for (text, want) in [
        ("", BadTemplate::NoJson(1, 0)),
        ("{bug}", BadTemplate::NoJson(1, 2)),
        (r#"{"bug":{bug}}"#, BadTemplate::NoJson(1, 9)),
        (r#"["{bug}"]"#, BadTemplate::NoObject),
        (r#"{"a":"{bugs}"}"#, BadTemplate::Unknown("bugs".to_owned())),
        (r#"{"{bug}":1}"#, BadTemplate::InName),
        (r#"{"a":"b"}"#, BadTemplate::NoPlaceholder),
        ("{}", BadTemplate::NoPlaceholder),
        (&many, BadTemplate::TooMany),
        (&long, BadTemplate::TooLong(long.len())),
        (&deep, BadTemplate::NoJson(1, 636)),
    ] {
        assert_eq!(Template::parse(text), Err(want.clone()), "{text}");
    }
    let message = Template::parse(r#"{"a":"{bugs}"}"#).unwrap_err().to_string();
    let want = "the placeholder {bugs} is unknown; allowed are {bug}, {when}, {url}, {feed} and {text}";
    assert_eq!(message, want);
    for pattern in
        ["", "https://example.org/", "ftp://example.org/{bug}", "javascript:{bug}", "https://a b/{bug}", "{bug}"]
    {
        assert_eq!(Link::parse(pattern), Err(BadTemplate::Link), "{pattern}");
    }
}

#[test]
fn a_backlog_is_split() {
    for (changes, want) in [(0, (0, 0)), (1, (1, 0)), (10, (10, 0)), (11, (10, 1)), (1_000_000, (10, 999_990))] {
        assert_eq!(split(changes), want);
    }
}

/// A JSON value of texts that look like JSON, escapes and placeholders.
fn some_value(random: &mut StdRng, depth: u32) -> Value {
    const PARTS: [&str; 14] = [
        "{bug}",
        "{text}",
        "{when}",
        "{url}",
        "{feed}",
        "\"",
        "\\",
        "{",
        "}",
        "{\"bug\":",
        "\n",
        "é\u{1f41e}",
        "\u{0}",
        "{ bug}",
    ];
    let text = |random: &mut StdRng| -> String {
        (0..random.random_range(0..5)).map(|_| PARTS[random.random_range(0..PARTS.len())]).collect()
    };
    match random.random_range(0..if depth == 0 { 4 } else { 6 }) {
        0..4 => Value::String(text(random)),
        4 => Value::Array((0..random.random_range(0..3)).map(|_| some_value(random, depth - 1)).collect()),
        _ => {
            let members =
                (0..random.random_range(0..3)).map(|number| (format!("\"{number}{{"), some_value(random, depth - 1)));
            Value::Object(members.collect())
        }
    }
}

/// What a template means: the placeholders of each text replaced.
fn filled(value: &Value, with: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(with(text)),
        Value::Array(list) => Value::Array(list.iter().map(|value| filled(value, with)).collect()),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (name.clone(), filled(value, with))).collect())
        }
        other => other.clone(),
    }
}

#[test]
fn whatever_is_filled_in_the_form_stays() {
    let mut random = StdRng::seed_from_u64(5);
    let mut tried = 0;
    while tried < 2_000 {
        let template = json!({"a": some_value(&mut random, 3), "b": some_value(&mut random, 3)});
        let Ok(parsed) = Template::parse(&template.to_string()) else { continue };
        tried += 1;
        let feed = ["kde", "a\"b\\{bug}", "\u{0}\n{text}"][random.random_range(0..3)];
        let change = Change { when: When::from_micros(random.random_range(0..1 << 50)).unwrap(), ..change() };
        let is: Value = serde_json::from_slice(&parsed.body(feed, Say::Change(change), None)).unwrap();
        let words = format!("Bug {} changed at {} UTC ({feed})", change.bug, people(change));
        // One pass over the text, so that what is filled in is not filled again.
        let with = |text: &str| {
            let (mut out, mut rest) = (String::new(), text);
            while let Some((before, name, after)) = next_placeholder(rest) {
                out += before;
                out += &match name {
                    "bug" => change.bug.to_string(),
                    "when" => change.when.to_string(),
                    "feed" => feed.to_owned(),
                    "text" => words.clone(),
                    _ => String::new(),
                };
                rest = after;
            }
            out + rest
        };
        assert_eq!(is, filled(&template, &with), "{template}");
        let gap: Value = serde_json::from_slice(&parsed.body(feed, Say::Gap, None)).unwrap();
        let has_words = gap.to_string().contains("may be missing");
        assert!(has_words, "{template} {gap}");
    }
}
