//! What the documents show of requests is what is sent.

use std::fs;
use std::path::Path;

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
    let words = "Bug 1234 changed at 2026-11-26 12:00:00 UTC: https://bugs.example.org/1234";
    let card = json!({ "type": "AdaptiveCard", "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4", "body": [{ "type": "TextBlock", "wrap": true, "text": words }] });
    let change = Change { bug: BugId::new(1234).unwrap(), when: "2026-11-26T12:00:00".parse().unwrap() };
    let link = Link::parse("https://bugs.example.org/{bug}").unwrap();
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
