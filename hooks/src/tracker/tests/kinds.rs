//! Which tracker a source has.

use super::source;
use crate::tracker::Tracker;

fn describe(preset: &str, members: &str) -> String {
    match Tracker::of(&source(preset, members)) {
        Ok(tracker) => {
            let scopes = tracker.scopes().iter();
            let scopes: Vec<_> =
                scopes.map(|scope| format!(" {}={}", scope.project, scope.feed.as_deref().unwrap_or("?"))).collect();
            format!("{}{}", tracker.base, scopes.concat())
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn addresses_and_projects() {
    for (preset, members, want) in [
        ("bugzilla", "tracker = \"https://bugs.example.org/\"", "https://bugs.example.org =default"),
        ("bugzilla", "tracker = \"https://example.org/bz/\"\nfeed = \"kde\"", "https://example.org/bz =kde"),
        (
            "bugzilla",
            "tracker = \"https://bugs.example.org\"\nfeed = { map = { \"Plasma\" = \"p\" }, else = \"drop\" }",
            "https://bugs.example.org =?",
        ),
        ("redmine", "tracker = \"https://rm.example.org/redmine\"", "https://rm.example.org/redmine =default"),
        ("github", "tracker = \"https://github.com/o/r\"", "https://api.github.com o/r=default"),
        (
            "github",
            "tracker = \"https://api.github.com/\"\nfeed = { map = { \"o/r\" = \"f\" } }",
            "https://api.github.com o/r=f",
        ),
        ("github", "tracker = \"https://ghe.example.org/o/r.git\"", "https://ghe.example.org/api/v3 o/r=default"),
        (
            "gitlab",
            "tracker = \"https://gl.example.org\"\nfeed = { map = { \"g/s/p\" = \"a\", \"g/*\" = \"b\", \"g/q\" = \"c\" } }",
            "https://gl.example.org/api/v4 g/q=c g/s/p=a",
        ),
        ("gitea", "tracker = \"https://example.org/gitea/api/v1/o/r\"", "https://example.org/gitea/api/v1 o/r=default"),
    ] {
        let found = describe(preset, members);
        let sorted = |text: &str| {
            let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&found), sorted(want), "{preset} {members}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    for (preset, members, want) in [
        ("jira", "tracker = \"https://j.example.org\"", "trackers of preset jira are not asked"),
        ("plain", "tracker = \"https://j.example.org\"", "without a preset cannot be asked"),
        ("bugzilla", "", "add tracker = "),
        (
            "bugzilla",
            "tracker = \"https://b.example.org\"\nfeed = { from = \"/bug/component\", map = { \"C\" = \"f\" } }",
            "something else than /bug/product",
        ),
        (
            "github",
            "tracker = \"https://github.com/o/r\"\n[source.on.\"pull_request*\"]\nbug = \"/number\"\nfeed = \"pulls\"",
            "say feed once",
        ),
        ("github", "tracker = \"https://github.com\"", "nothing says which projects to ask about"),
        (
            "gitlab",
            "tracker = \"https://gl.example.org\"\nfeed = { map = { \"g/*\" = \"f\" } }",
            "patterns are not enough",
        ),
        (
            "gitea",
            "tracker = \"https://g.example.org\"\nfeed = { map = { \"o/a\" = \"f\", \"o/b\" = \"f\" } }",
            "give each project a feed of its own",
        ),
    ] {
        let found = describe(preset, members);
        assert!(found.contains(want), "{preset} {members}: {found}");
    }
}
