//! What the documents show of requests is what is sent.

use std::fs;
use std::path::Path;

use bugfeed_core::endpoints::policy::{Health, Outcome, Policy};
use bugfeed_protocol::{BugId, Change};
use serde_json::{Value, json};

use super::template::{Link, Say, Template};

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

#[test]
fn the_protocol_shows_the_golden_bodies() {
    let text = document("PROTOCOL.md");
    let text = text.split_once("## 8. Webhooks out").unwrap().1;
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/deliver")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(text.contains(&format!("`{name}")), "PROTOCOL.md does not name {name}");
        if path.extension().is_some_and(|end| end == "txt") && !["update-again", "updates-of-one"].contains(&name) {
            let golden = fs::read_to_string(&path).unwrap();
            let body = golden.lines().nth(1).unwrap();
            assert!(text.contains(&format!("\n    {body}\n")), "PROTOCOL.md does not show {name}: {body}");
        }
    }
}

/// What each chat's own documents say that its incoming webhooks take, and no member that it does not know.
#[test]
fn chats_are_sent_what_they_take() {
    let words = "Bug 1234 changed at 2026-11-26 12:00:00 UTC: https://bugs.example.org/show_bug.cgi?id=1234";
    let card = json!({ "type": "AdaptiveCard", "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4", "body": [{ "type": "TextBlock", "wrap": true, "text": words }] });
    let change = Change { bug: BugId::new(1234).unwrap(), when: "2026-11-26T12:00:00".parse().unwrap() };
    let link = Link::parse("https://bugs.example.org/show_bug.cgi?id={bug}").unwrap();
    let text = document("docs/hooks/endpoints.md");
    for (name, want) in [
        ("slack", json!({ "text": words })),
        ("mattermost", json!({ "text": words })),
        ("matrix", json!({ "text": words, "msgtype": "m.notice", "body": words })),
        ("discord", json!({ "content": words, "allowed_mentions": { "parse": [] } })),
        (
            "teams",
            json!({ "type": "message", "attachments":
                [{ "contentType": "application/vnd.microsoft.card.adaptive", "content": card }] }),
        ),
    ] {
        let body = Template::named(name).unwrap().body("kde", Say::Change(change), Some(&link));
        let body = String::from_utf8(body).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), want, "{name}");
        assert!(
            text.contains(&format!("\n{body}\n")),
            "docs/hooks/endpoints.md does not show the body of {name}: {body}"
        );
        assert!(
            text.contains(&format!("--template {name} ")),
            "docs/hooks/endpoints.md does not say how {name} is told"
        );
    }
}

/// The cool-down, or the time until what failed is sent again without news, after each of so many failures in a row.
fn waits(policy: Policy, outcome: Outcome, failures: usize) -> Vec<String> {
    let (mut health, mut now_us) = (Health::default(), 1_800_000_000_000_000);
    let mut wait = || {
        health.count(policy, outcome, now_us);
        if health.disabled(policy).is_some() {
            return "disabled".to_owned();
        }
        let until_us = health.disabled_until_us.or(health.again_us).unwrap();
        let seconds = (until_us - now_us) / 1_000_000;
        now_us = until_us + 1;
        if seconds < 1_000 { seconds.to_string() } else { format!("{},{:03}", seconds / 1_000, seconds % 1_000) }
    };
    (0..failures).map(|_| wait()).collect()
}

#[test]
fn the_tables_of_policies_are_those_of_the_planner() {
    let text = document("docs/hooks/endpoints.md");
    let shows = |line: &str| assert!(text.contains(line), "docs/hooks/endpoints.md does not say: {line}");
    let server = Outcome::Server { retry_after_us: None };
    let classic = waits(Policy::Classic, server, 30);
    shows(&format!("\n| seconds | {} |\n", classic[..9].join(" | ")));
    assert!(classic[9..].iter().all(|wait| *wait == classic[8]), "{classic:?}");
    let refused = waits(Policy::Classic, Outcome::Refused, 4);
    assert_eq!(refused[..3], [refused[0].as_str(); 3]);
    assert_eq!(refused[3], "disabled");
    shows(&format!("| + 1 | | with the next change, or after {} s |", refused[0]));
    let current = waits(Policy::Current, server, 40);
    assert!(current[..3].iter().all(|wait| *wait == current[0]));
    shows(&format!("\n| 1st, 2nd, 3rd | with the next change, or after {} s |\n", current[0]));
    shows(&format!("\n| 4th, 5th, 6th, 7th, 8th | after {} s |\n", current[3..8].join(", ")));
    shows(&format!("\n| 9th to 14th | after {} s |\n", current[8..14].join(", ")));
    assert!(current[14..39].iter().all(|wait| *wait == current[14]), "{current:?}");
    shows(&format!("\n| 15th to 39th | after {} s |\n| 40th, or", current[14]));
    assert_eq!(current[39], "disabled");
    let off = waits(Policy::Off, server, 50);
    shows(&format!("Cool-downs of {} … s", off[..5].join(", ")));
    assert!(off[5..].iter().all(|wait| *wait == off[4]), "{off:?}");
}
