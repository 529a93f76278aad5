//! What a configuration may say, and what each error says.

use std::path::Path;

use super::auth::{Hash, KeyPlace, Signature};
use super::feed::FeedRule;
use super::notify::Target;
use super::source::{Answers, Duplicates, Older, Private};
use super::{ConfigError, HooksConfig, presets};

fn read_file(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("secret.txt") => Ok("from the file\n".to_owned()),
        Some("url.txt") => Ok("https://chat.example.org/HIDDEN\n".to_owned()),
        Some("smtp.txt") => Ok("smtps://u:HIDDEN@mail.example.org\n".to_owned()),
        Some("empty.txt") => Ok("\n".to_owned()),
        _ => Err("no such file".to_owned()),
    }
}

fn read(text: &str) -> Result<HooksConfig, ConfigError> {
    HooksConfig::read("hooks.toml", text, &read_file)
}

/// The error of a source named `x` that says this beside its name, on the third line.
fn error_of(members: &str) -> String {
    let text = format!("[[source]]\nname = \"x\"\n{members}\n");
    read(&text).map_or_else(|error| error.to_string(), |_| "no error".to_owned())
}

#[test]
fn each_preset_is_good_and_names_its_feed() {
    for name in presets::NAMES {
        let config = read(&format!("[[source]]\nname = \"x\"\npreset = \"{name}\"\n")).unwrap();
        assert_eq!(config.feeds().into_iter().collect::<Vec<_>>(), ["default"], "{name}");
        assert!(presets::text(name).is_some_and(|text| text.contains("[[source]]")));
        // A user may copy it, give it a name and change it. Only SHA-1 stays with the preset.
        // What signs needs a secret then.
        let is_signed = ["gitea", "github", "jira", "plain", "redmine"].contains(&name);
        let own = if is_signed { "[[source]]\nname = \"x\"\nsecret = \"s\"" } else { "[[source]]\nname = \"x\"" };
        let copied = presets::text(name).unwrap_or_default().replace("[[source]]", own);
        match (name, read(&copied)) {
            ("launchpad", Err(error)) => assert!(error.problem.contains("SHA-1"), "{error}"),
            (_, copied) => {
                let rules = copied.unwrap().sources.remove(0).mapping.rules;
                assert_eq!(rules.len(), config.sources[0].mapping.rules.len());
            }
        }
    }
    assert_eq!(HooksConfig::plain().unwrap().sources[0].name, "plain");
    let gitlab = read("[[source]]\nname = \"x\"\npreset = \"gitlab\"\n").unwrap();
    let token = KeyPlace::Header("X-Gitlab-Token".to_owned());
    assert!(gitlab.sources[0].keys.contains(&token), "where GitLab's form has room for a key");
}

#[test]
fn all_options_of_a_source() {
    let config = read(
        r#"
        [[source]]
        name = "kde-bugzilla"
        preset = "bugzilla"
        feed = "kde"
        auth = "bearer"
        answers = "honest"
        duplicates = "by-time"
        older = "drop"
        private = "drop"
        dead_letters = "supersede"
        retry = "classic"
        bodies = "none"
        tracker = "https://bugs.example.org/"
        tracker_key_file = "tracker.key"
        reconcile_as_key = true
        verify = true
        reconcile = "5m"
        path_key = true
        timezone = "Europe/Berlin"
        [[notify]]
        on = ["dead-letters", "endpoint.disabled", "silence"]
        sources = ["kde-bugzilla"]
        url = "https://chat.example.org/hook/TOKEN"
        [[notify]]
        on = "all"
        command = ["/usr/bin/logger", "-t", "bugfeed"]
        [[notify]]
        on = ["digest", "endpoints"]
        smtp = { server = "smtp://u:PASSWORD@mail.example.org", from = "a@example.org", to = ["b@example.org"] }
        "#,
    )
    .unwrap();
    let source = config.source("kde-bugzilla").unwrap();
    assert_eq!(source.keys, [KeyPlace::Bearer, KeyPlace::Path]);
    assert_eq!((source.answers, source.duplicates), (Answers::Honest, Duplicates::ByTime));
    assert_eq!((source.older, source.private), (Older::Drop, Private::Drop));
    assert_eq!(source.tracker.as_deref(), Some("https://bugs.example.org"));
    assert_eq!(source.reconcile.map(|every| every.as_secs()), Some(300));
    assert_eq!(source.feeds(), ["kde"]);
    assert_eq!(config.notify[0].on, ["dead-letters", "endpoint.disabled", "silence"]);
    assert!(matches!(&config.notify[1].target, Target::Command(words) if words.len() == 3));
    let endpoints = ["warning", "cooling", "disabled", "recovered", "enabled"].map(|word| format!("endpoint.{word}"));
    assert_eq!(config.notify[2].on, [&["digest".to_owned()][..], &endpoints].concat());
    let shown = format!("{config:?}");
    assert!(!shown.contains("TOKEN") && !shown.contains("PASSWORD"), "{shown}");
}

#[test]
fn addresses_of_those_who_are_told_come_from_files_and_never_show() {
    let config = read(
        "[[notify]]\non = \"all\"\nurl_file = \"url.txt\"\n[[notify]]\non = \"all\"\n\
         smtp = { server_file = \"smtp.txt\", from = \"a@example.org\", to = \"b@example.org\" }\n",
    )
    .unwrap();
    assert!(matches!(&config.notify[0].target, Target::Url(url) if url.expose() == "https://chat.example.org/HIDDEN"));
    assert!(
        matches!(&config.notify[1].target, Target::Smtp { server, .. } if server.expose().ends_with("HIDDEN@mail.example.org"))
    );
    assert!(!format!("{config:?}").contains("HIDDEN"));
    for (target, want) in [
        ("url_file = \"smtp.txt\"", "notify.url_file: this is no address to POST to"),
        ("url_file = \"absent\"", "notify.url_file: the file cannot be read: no such file"),
        ("url = \"https://h/\"\nurl_file = \"url.txt\"", "this does not say who is told"),
        ("smtp = { server = \"smtp://h\", server_file = \"smtp.txt\", from = \"a\", to = \"b\" }", "named twice"),
    ] {
        let error = read(&format!("[[notify]]\non = \"all\"\n{target}\n")).unwrap_err().to_string();
        assert!(error.contains(want) && !error.contains("HIDDEN"), "{target}: {error}");
    }
}

#[test]
fn secrets_come_from_the_text_or_a_file_and_never_show() {
    let text = "[[source]]\nname = \"x\"\npreset = \"github\"\nsecret = [\"HIDDEN1\", \"HIDDEN2\"]\nsecret_file = \"secret.txt\"\n";
    let config = read(text).unwrap();
    let secrets: Vec<&str> = config.sources[0].secrets.iter().map(super::Secret::expose).collect();
    assert_eq!(secrets, ["HIDDEN1", "HIDDEN2", "from the file"]);
    assert!(!format!("{config:?}").contains("HIDDEN"));
    // Whatever is wrong in such a file, the error does not show them.
    for (from, to) in [
        ("\"HIDDEN1\"", "HIDDEN1"),
        ("\"HIDDEN1\",", "\"HIDDEN1,"),
        ("[\"HIDDEN1\", \"HIDDEN2\"]", "\"HIDDEN1"),
        ("[\"HIDDEN1\", \"HIDDEN2\"]", "\"HIDDEN1\\q\""),
        ("[\"HIDDEN1\", \"HIDDEN2\"]", "HIDDEN1 = 3"),
        ("[\"HIDDEN1\", \"HIDDEN2\"]", "{ a = \"HIDDEN1\" }"),
        ("\"HIDDEN1\"", "17"),
        ("preset = \"github\"", "preset = \"jiraa\""),
        ("preset = \"github\"", "preset = \"bugzilla\""),
        ("secret.txt", "absent"),
        ("secret.txt", "empty.txt"),
    ] {
        let error = read(&text.replace(from, to)).unwrap_err();
        assert!(!error.to_string().contains("HIDDEN"), "{error}");
        assert!(error.line >= 3, "{error}");
    }
}

#[test]
fn the_users_members_replace_the_presets() {
    let config = read(
        r#"
        [[source]]
        name = "x"
        preset = "github"
        secret = "s"
        when = "now"
        feed = { map = { "a/b" = "one" } }
        auth = { hmac-sha256 = "X-Other", encoding = "base64" }
        [source.on."fork"]
        bug = "/forkee/id"
        [source.on."ping"]
        bug = "/hook_id"
        [source.on."issue*"]
        if = "/issue/number"
        "#,
    )
    .unwrap();
    let source = &config.sources[0];
    let globs: Vec<&str> = source.mapping.rules.iter().map(|rule| rule.glob.as_str()).collect();
    assert_eq!(
        globs,
        [
            "fork",
            "issues.deleted",
            "issues.transferred",
            "issue_comment.deleted",
            "pull_request*.deleted",
            "issue*",
            "pull_request*",
            "ping",
            "*"
        ]
    );
    for rule in source.mapping.rules.iter().filter(|rule| rule.answer.is_none()) {
        let when = rule.members.when.as_ref().unwrap();
        assert_eq!(when[0].place.to_string(), "now", "{}", rule.glob.as_str());
        assert!(matches!(rule.members.feed, Some(FeedRule::Map { .. })));
        assert_eq!(rule.members.project.as_ref().unwrap()[0].to_string(), "/repository/full_name");
    }
    assert_eq!(source.mapping.rules[5].members.bug.as_ref().unwrap()[0].to_string(), "/issue/number", "kept");
    assert_eq!(source.mapping.rules[7].answer, None, "a rule that ignored makes changes now");
    assert!(
        matches!(&source.signatures[..], [Signature::Hmac { hash: Hash::Sha256, header, .. }] if header == "X-Other")
    );
}

#[test]
fn feeds_by_project() {
    let config = read(
        "[[source]]\nname = \"x\"\npreset = \"gitea\"\nfeed = { map = { \"kde/*\" = \"kde\", \"kde/plasma\" = \"plasma\" }, else = \"rest\" }",
    );
    let config = config.unwrap();
    assert_eq!(config.feeds().into_iter().collect::<Vec<_>>(), ["kde", "plasma", "rest"]);
    let feed = config.sources[0].mapping.rules[1].members.feed.as_ref().unwrap();
    for (project, want) in [("kde/plasma", "plasma"), ("kde/x", "kde"), ("gnome/x", "rest"), ("", "rest")] {
        assert_eq!(feed.choose(Some(project)), Some(want), "{project}");
    }
    assert_eq!(feed.choose(None), Some("rest"));
}

/// Checks that each source has an error that says so.
fn assert_errors(cases: &[(&str, &str)]) {
    for (members, want) in cases {
        let error = error_of(members);
        assert!(error.contains(want), "{members}\n{error}");
    }
}

#[test]
fn errors_name_file_line_member_and_what_is_allowed() {
    assert_errors(&[
        (
            "preset = \"plain\"\nanswer = \"honest\"",
            "hooks.toml:4: source.x: \"answer\" is no option here; did you mean \"answers\"? allowed: name, preset, ",
        ),
        (
            "preset = \"bugzila\"",
            "hooks.toml:3: source.x.preset: \"bugzila\" is not known here; did you mean \"bugzilla\"? allowed: \"bugzilla\", \"gitea\", \"github\", ",
        ),
        (
            "preset = \"plain\"\nanswers = \"allways-200\"",
            "hooks.toml:4: source.x.answers: \"allways-200\" is not known here; did you mean \"always-200\"? allowed: \"always-200\", \"honest\"",
        ),
        (
            "preset = \"plain\"\nverify = \"yes\"",
            "hooks.toml:4: source.x.verify: this is of type string; it must be true or false",
        ),
        (
            "preset = \"forgejo\"",
            "hooks.toml:3: source.x.preset: there is no preset \"forgejo\"; Forgejo and Gogs send what Gitea sends: use preset = \"gitea\"",
        ),
        ("preset = \"phabricator\"", "cannot be mapped"),
        ("preset = \"mantisbt\"", "bugfeed-shim"),
        ("preset = 5", "source.x.preset: this is of type integer; it must be a text in quotes"),
    ]);
}

#[test]
fn errors_of_feeds() {
    assert_errors(&[
        (
            "preset = \"plain\"\nfeed = \"api\"",
            "hooks.toml:4: source.x.feed: \"api\" cannot be the name of a feed, because it is in use as a path",
        ),
        ("preset = \"plain\"\nfeed = \"endpoints\"", "because it is in use as a path"),
        ("preset = \"plain\"\nfeed = \"Ä\"", "\"Ä\" cannot be the name of a feed; a feed's name is 1 to 64 of a-z"),
        ("preset = \"plain\"\nfeed = { map = { a = \"hooks\" } }", "source.x.feed.map.a: \"hooks\" cannot be"),
        ("preset = \"plain\"\nfeed = {}", "this names no feed; write feed = \"NAME\""),
        ("bug = \"/b\"\nfeed = { map = { a = \"b\" } }", "nothing says where the project is"),
        ("kind = \"/k\"", "hooks.toml:1: source.x: nothing says where the bug's number is"),
    ]);
}

#[test]
fn errors_of_trackers() {
    assert_errors(&[
        ("preset = \"plain\"\nverify = true", "source.x.verify: this needs the tracker's address"),
        (
            "preset = \"plain\"\ntracker = \"https://h\"\nverify = true",
            "only trackers of these presets can be asked: bugzilla, ",
        ),
        (
            "preset = \"bugzilla\"\ntracker = \"https://h\"\nverify = true\nprivate = \"announce\"",
            "hooks.toml:6: source.x.private: verify asks",
        ),
        (
            "preset = \"bugzilla\"\ntracker = \"https://h\"\nreconcile = \"1m\"",
            "source.x.reconcile: a tracker is asked at most every 300 s",
        ),
        ("preset = \"bugzilla\"\nreconcile = \"5\"", "this is no length of time"),
        ("preset = \"bugzilla\"\nreconcile = \"5é\"", "this is no length of time"),
        ("preset = \"bugzilla\"\nreconcile_as_key = true", "this needs tracker_key_file and reconcile"),
        ("preset = \"bugzilla\"\ntracker = \"bugs.example.org\"", "write https://HOST/PATH"),
        ("preset = \"bugzilla\"\ntracker = \"https://u:p@h\"", "use tracker_key_file"),
    ]);
}

#[test]
fn errors_of_access() {
    assert_errors(&[
        ("preset = \"github\"\nsecret = \"\"", "hooks.toml:4: source.x.secret: the secret is empty"),
        ("preset = \"github\"\nsecret = []", "source.x.secret: the list is empty"),
        ("preset = \"github\"\nsecret = \"whsec_\"", "the secret is empty"),
        (
            "preset = \"github\"\nsecret = \"a\"\nauth = \"bearer\"",
            "source.x.auth: a source with a secret accepts signatures only",
        ),
        ("preset = \"github\"\nsecret_file = \"absent\"", "the file cannot be read: no such file"),
        ("preset = \"bugzilla\"\nsecret = \"a\"", "senders of preset \"bugzilla\" sign nothing"),
        ("bug = \"/b\"\nsecret = \"a\"", "nothing says how the sender signs"),
        ("bug = \"/b\"\nsecret = \"a\"", "as in auth = { token = \"X-My-Token\" }"),
        (
            "bug = \"/b\"\nauth = { token = \"X-T\" }",
            "source.x.auth: the source has no secret by which this could be checked; add secret_file = \"FILE\"; or, if a \
             header is to carry a key, write auth = { header = \"X-My-Key\" }",
        ),
        ("bug = \"/b\"\nauth = { hmac-sha256 = \"X-S\" }", "the source has no secret"),
        ("preset = \"plain\"\nauth = \"standard-webhooks\"", "the source has no secret"),
        ("bug = \"/b\"\nauth = [{ token = \"X-T\" }, \"bearer\"]", "no error"),
        ("bug = \"/b\"\nauth = { token = \"X-T\" }\nsecret_file = \"secret.txt\"", "no error"),
        ("bug = \"/b\"\nauth = { hmac-sha1 = \"X-A\" }", "SHA-1 is too weak"),
        ("bug = \"/b\"\nauth = \"header\"", "nothing says which header"),
        ("bug = \"/b\"\nauth = \"beerer\"", "did you mean \"bearer\"?"),
        ("bug = \"/b\"\nauth = { header = \"X A\" }", "this is no name of a header"),
        (
            "bug = \"/b\"\nauth = { header = \"X-A\", prefix = \"x\" }",
            "source.x.auth.prefix: this goes with hmac-sha256 only",
        ),
        ("bug = \"/b\"\nauth = {}", "this must name exactly one header"),
        ("bug = \"/b\"\nauth = []\npath_key = false", "no error"),
    ]);
}

#[test]
fn a_source_whose_sender_can_only_sign_lacks_a_secret() {
    for (members, lacks) in [
        ("preset = \"github\"", true),
        ("preset = \"jira\"", true),
        ("preset = \"github\"\nsecret = \"s\"", false),
        ("preset = \"github\"\npath_key = true", false),
        ("preset = \"github\"\nauth = \"bearer\"", false),
        ("preset = \"gitlab\"", false),
        ("preset = \"plain\"", false),
        ("bug = \"/b\"", false),
    ] {
        let config = read(&format!("[[source]]\nname = \"x\"\n{members}\n")).unwrap();
        assert_eq!(config.sources[0].lacks_secret(), lacks, "{members}");
    }
}

#[test]
fn errors_of_mappings() {
    assert_errors(&[
        ("bug = \"b\"", "hooks.toml:3: source.x.bug: this is no place in a request; a JSON Pointer begins with \"/\""),
        ("bug = \"/a~2\"", "\"~\" is written \"~0\""),
        ("bug = \"now\"", "\"now\" is a time"),
        ("bug = \"/b\"\nidentity = \"root:/x\"", "an item's identity is in the item"),
        ("bug = { from = \"/a\", match = \"([0-9]\" }", "source.x.bug.match: this is no regular expression"),
        ("bug = { match = \"a\" }", "nothing says where to look"),
        ("bug = \"/b\"\nproject = [\"/p\", \"public\"]", "source.x.project: \"public\" is an answer"),
        ("bug = \"/b\"\nis_private = [\"/p\", \"public\"]", "no error"),
        ("bug = { from = \"/b\", format = \"%F\" }", "source.x.bug: only a time has a format"),
        (
            "bug = \"/b\"\nwhen = { from = \"/a\", format = \"%H:%M\" }",
            "source.x.when.format: this is no form of a date",
        ),
        ("bug = \"/b\"\nwhen = { from = \"/a\", format = \"%!\" }", "this is no form of a date"),
        (
            "bug = \"/b\"\nwhen = { from = \"/a\", timezone = \"UTC\" }",
            "source.x.when.timezone: this goes with a format",
        ),
        (
            "bug = \"/b\"\nwhen = { from = \"/a\", format = \"%F\", timezone = \"Mars\" }",
            "source.x.when.timezone: this is no time zone",
        ),
        ("bug = \"/b\"\nwhen = { from = \"/a\", format = \"%d.%m.%Y %H:%M:%S %z\" }", "no error"),
        ("bug = { frm = \"/a\" }", "did you mean \"from\"?"),
        ("bug = \"/b\"\nitems = []", "source.x.items: the list is empty"),
        ("bug = \"/b\"\nitems = \"x\"", "this is no JSON Pointer"),
        ("bug = \"/b\"\nunwrap = \"payload\"", "write \"form:FIELD\""),
        ("bug = \"/b\"\ntimezone = \"Mars/Olympus\"", "this is no time zone"),
        ("bug = \"/b\"\n[source.on.\"a[b]\"]", "source.x.on.\"a[b]\": a kind has no '['"),
        (
            "bug = \"/b\"\n[source.on.a]\nanswer = \"ignore\"",
            "hooks.toml:5: source.x.on.a.answer: \"ignore\" is not known here; did you mean \"ignored\"?",
        ),
        (
            "bug = \"/b\"\n[source.on.a]\nbugs = \"/c\"",
            "hooks.toml:5: source.x.on.a: \"bugs\" is no option here; did you mean \"bug\"?",
        ),
    ]);
}

#[test]
fn errors_of_files_and_targets() {
    assert_errors(&[
        ("bug = \"/b\"\n[[source]]\nbug = \"/b\"", "hooks.toml:4: source: this source has no name"),
        (
            "bug = \"/b\"\n[[source]]\nname = \"x\"\nbug = \"/b\"",
            "hooks.toml:4: source: there are two sources of the name \"x\"",
        ),
        ("bug = \"/b\"\n[[source]]\nname = \"X Y\"", "\"X Y\" cannot be the name of a source"),
        (
            "bug = \"/b\"\n[[sources]]\nname = \"y\"",
            "hooks.toml:4: \"sources\" is no option here; did you mean \"source\"?",
        ),
        ("bug = \"/b\"\nbug = \"/c\"", "hooks.toml:4: this is not TOML: duplicate key"),
        ("bug = /b", "hooks.toml:3: this is not TOML"),
        ("bug = \"/b\"\n[[notify]]\nurl = \"https://h/\"", "hooks.toml:4: notify: this tells of nothing"),
        ("bug = \"/b\"\n[[notify]]\non = \"dead_letters\"\nurl = \"https://h/\"", "did you mean \"dead-letters\"?"),
        ("bug = \"/b\"\n[[notify]]\non = \"all\"", "notify: this does not say who is told"),
        ("bug = \"/b\"\n[[notify]]\non = \"all\"\nurl = \"ftp://h\"", "notify.url: this is no address to POST to"),
        (
            "bug = \"/b\"\n[[notify]]\non = \"all\"\nsources = \"y\"\ncommand = \"c\"",
            "\"y\" is not known here; allowed: \"x\"",
        ),
        ("bug = \"/b\"\n[[notify]]\non = \"all\"\ncommand = []", "notify.command: this is empty"),
        ("bug = \"/b\"\n[[notify]]\non = \"all\"\nsmtp = { server = \"h\" }", "server, from and to are all needed"),
    ]);
    assert!(read("").unwrap().sources.is_empty());
    let error = read("source = 5").unwrap_err().to_string();
    assert_eq!(error, "hooks.toml:1: source: this is of type integer; it must be a table");
}

#[test]
fn a_place_that_was_copied_from_a_sentence_is_refused() {
    for (line, form) in [
        ("is_private = [\"/v (match ^(staff|owner)$)\", \"public\"]", "{ from = \"/v\", match = \"^(staff|owner)$\" }"),
        ("when = \"/at (format %d.%m.%Y)\"", "{ from = \"/at\", format = \"%d.%m.%Y\" }"),
        ("project = \"root:/team (match ^x)\"", "{ from = \"root:/team\", match = \"^x\" }"),
        ("kind = { from = \"/v (match x)\" }", "{ from = \"/v\", match = \"x\" }"),
        ("kind = \"/Type (old)\"", "{ from = \"/Type (old)\" }"),
    ] {
        let text = format!("[[source]]\nname = \"x\"\nbug = \"/bug\"\n{line}\n");
        let error = HooksConfig::read("x", &text, &|_| Err(String::new())).unwrap_err().to_string();
        assert!(error.starts_with("x:4: ") && error.contains(form), "{error}");
    }
    let text = "[[source]]\nname = \"x\"\nbug = \"/bug\"\nkind = { from = \"/Type (old)\" }\n";
    assert!(HooksConfig::read("x", text, &|_| Err(String::new())).is_ok(), "a member may be called so");
}
