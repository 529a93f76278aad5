use bugfeed_core::endpoints::orders::{Order, Recovery, carry_out};
use bugfeed_core::endpoints::policy::Outcome;

use super::*;
use crate::deliver::sign::RANDOM_BYTES;

/// What stands in stores that exist.
#[test]
fn codes_never_change() {
    fn check<T: Code + std::fmt::Display>(want: &str) {
        let got: Vec<String> = T::WORDS.iter().map(|word| format!("{} {word}", word.code())).collect();
        assert_eq!(got.join(", "), want);
    }
    check::<Policy>("0 classic, 1 current, 2 off");
    check::<Bar>("0 gone, 1 forbidden_address, 2 no_address, 3 failures");
    assert!(Policy::ALL.iter().all(|word| Policy::of(word.code()) == Some(*word)));
    assert!(Bar::ALL.iter().all(|word| Bar::of(word.code()) == Some(*word)));
}

fn settings() -> Settings {
    Settings {
        url: "https://example.org/hook?key=s3cret".to_owned(),
        secret: SigningSecret::generate(&[1; RANDOM_BYTES]),
        previous: Some((SigningSecret::generate(&[2; RANDOM_BYTES]), 5)),
        headers: UserHeaders::read([("X-Key", "s3cret")]).unwrap(),
        description: "mine é".to_owned(),
        feeds: FeedChoice::Named(vec!["a".into(), "b\"c".into()]),
        template: Some("slack".to_owned()),
        created_us: 7,
    }
}

/// A row in which everything is set.
fn full() -> Row {
    let bugs = [3, 1, 2].map(|bug| BugId::new(bug).unwrap());
    let mut row = Row::new(Policy::Current, Watch::Bugs(bugs.into()), ["a".into(), "b\"c".into()]);
    row.health.count(row.policy, Outcome::Nameless, 1_000);
    row.health.count(row.policy, Outcome::Gone, 2_000);
    row.health.disabled_until_us = Some(9);
    row.health.again_us = Some(10);
    row.health.nameless_since_us = Some(11);
    let cursor = Recovery::Cursor(Cursor::parse("E.5").unwrap());
    let since = Recovery::Since(When::from_micros(1_700_000_000_123_456).unwrap());
    for order in [
        Order::Test,
        Order::Redeliver { attempt: u128::MAX - 5 },
        Order::Ready,
        Order::Pause,
        Order::Rate(Some(7)),
        Order::Recover { feed: Some("a".into()), to: cursor },
        Order::Recover { feed: Some("b\"c".into()), to: since },
        Order::Url,
    ] {
        carry_out(&mut row, &order).unwrap();
    }
    row.lines[1].left_out = true;
    row.lines[1].sent = Sent::parse("latest 20 cbf29ce484222325 E.7");
    row.health.bar = Some(Bar::Gone);
    row.health.disabled_until_us = Some(9);
    row.applied = Applied { term: 3, effect: 4 };
    row
}

fn again(id: &EndpointId, settings: &Settings, row: &Row) -> Stored {
    read(cells(id, settings, row, 12)).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let (id, settings) = (EndpointId::new([9; 13]), settings());
    for mut row in [full(), Row::new(Policy::Off, Watch::All, [])] {
        for since in [Since::Head, Since::Unknown] {
            row.lines.push(Line { since, ..Line::new("c".into()) });
            let stored = again(&id, &settings, &row);
            assert_eq!((stored.row, stored.id.clone(), stored.mark), (row.clone(), id.clone(), 12));
            assert_eq!(settings_cells(&stored.settings), settings_cells(&settings));
            assert_eq!(stored.settings.created_us, 7);
        }
    }
    let mut all = settings;
    (all.feeds, all.previous, all.template) = (FeedChoice::All, None, None);
    let stored = again(&id, &all, &full());
    assert_eq!((stored.settings.feeds, stored.settings.previous.is_none()), (FeedChoice::All, true));
}

/// A store that exists has these texts.
#[test]
fn the_form_of_a_row() {
    let cells = cells(&EndpointId::new([9; 13]), &settings(), &full(), 12);
    let shown: Vec<String> = COLUMNS
        .iter()
        .zip(&cells)
        .map(|(column, value)| match value {
            Value::Int(number) => format!("{column} {number}"),
            Value::Text(text) => format!("{column} {text}"),
            Value::Null => format!("{column} -"),
        })
        .collect();
    let want = include_str!("row.txt");
    assert_eq!(shown.join("\n"), want.trim_end());
}

#[test]
fn a_row_is_small() {
    let row = Row::new(Policy::Classic, Watch::All, ["default".into()]);
    let size = |value: &Value| match value {
        Value::Text(text) => text.len(),
        _ => 8,
    };
    assert!(moved(&row).iter().map(size).sum::<usize>() < 150);
    let bugs: Vec<BugId> = (1_000_000..1_010_000).filter_map(BugId::new).collect();
    assert!(bugs_text(&bugs).len() <= 80_001);
}

#[test]
fn secrets_are_not_shown() {
    let id = EndpointId::new([9; 13]);
    let shown = format!("{:?}", again(&id, &settings(), &full()));
    for secret in ["s3cret", "AQEB", "AgIC"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("https://example.org\""), "{shown}");
}

#[test]
fn damage_is_found_and_not_shown() {
    let good = cells(&EndpointId::new([9; 13]), &settings(), &full(), 12);
    for (column, value) in [
        ("id", Value::Text("ep_1".to_owned())),
        ("policy", Value::Int(9)),
        ("bar", Value::Int(9)),
        ("progress", Value::Text("{".to_owned())),
        ("progress", Value::Text(r#"{"v":1,"lines":[{"feed":"a","since":{"cursor":"no"}}]}"#.to_owned())),
        ("progress", Value::Text(r#"{"v":1,"lines":[{"feed":"a","since":"head","sent":"no"}]}"#.to_owned())),
        ("bugs", Value::Text(",1,x,".to_owned())),
        ("secrets", Value::Text(r#"{"v":1,"secret":"s3cret"}"#.to_owned())),
        ("headers", Value::Text(r#"[["host","s3cret"]]"#.to_owned())),
        ("url", Value::Null),
    ] {
        let mut bad = good.clone();
        bad[COLUMNS.iter().position(|other| *other == column).unwrap()] = value;
        let error = read(bad.clone()).unwrap_err().to_string();
        assert!(error.contains("damaged") && !error.contains("s3cret"), "{column}: {error}");
        assert_eq!(readable(vec![bad, good.clone()]).len(), 1, "{column}: the others are read");
    }
}
