//! What the documents promise for the first ten minutes.

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, eventually};
use serde_json::json;

use super::Receiver;
use crate::commands::bugfeed;
use crate::support::{SOON, connected, get, request};

#[tokio::test]
async fn a_post_becomes_an_update_and_its_way_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Receiver::start(dir.path(), &[]).await;
    let url = format!("ws://{}/", serve.port);
    let mut watch = Proc::spawn(bugfeed(), &["watch", "1234", "--count", "1", "--url", &url], &[]).unwrap();
    connected(&mut watch).await;
    let mut client = serve.watch("/", &[1234]).await;
    // As the documents have it: `KEY=$(…)` takes what is on standard output.
    let create = format!(
        "KEY=$({} keys create --name try --source plain --admin-url http://{} 2>remarks); printf '[%s]' \"$KEY\"",
        bugfeed().display(),
        serve.admin
    );
    let told = Run::new("sh").args(["-c", &create]).dir(dir.path()).succeeds(SOON).await.unwrap();
    let key = told.trim().trim_matches(['[', ']']).to_owned();
    assert!(key.len() == 32 && key.starts_with("bf_"), "the key alone: {told}");
    let event = serve.change("plain", &key, 1234).await;
    assert_eq!(client.update().await.0, 1234);
    assert!(watch.wait(SOON).await.unwrap().success());

    let step = serve.way(dir.path(), "1234", |step| step["cursor"].is_string()).await;
    assert_eq!((step["id"].as_str(), step["state"].as_str()), (Some(&*event), Some("completed")), "{step}");
    assert_eq!((&step["source"], &step["came_with"]["address"]), (&json!("plain"), &json!("127.0.0.1")), "{step}");
    assert!(step["says"].as_str().unwrap().starts_with("announced as "), "{step}");
    let told = serve.command(dir.path(), &["bug", "1234"]).await;
    assert!(told.contains("bug 1234 changed") && told.contains("received by plain"), "{told}");
    let (_, metrics) = get(serve.admin, "/metrics").await;
    for line in [
        "bugfeed_hooks_requests_total{source=\"plain\",result=\"ok\"} 1",
        "bugfeed_hooks_completed_total{source=\"plain\"} 1",
        "bugfeed_shim_changes_published_total 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in {metrics}");
    }
}

#[tokio::test]
async fn who_has_no_key_is_told_and_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Receiver::start(dir.path(), &[]).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join("data/admin.token")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let key = serve.key(dir.path(), "plain").await;
    serve.command(dir.path(), &["keys", "revoke", key.split('_').nth(1).unwrap()]).await;
    for (path, key) in
        [("/hooks/plain", "bf_aaaaaa_bbbbbbbbbbbbbbbbbbbbbb"), ("/hooks/plain", &*key), ("/hooks/none", "x")]
    {
        let (status, answer) = serve.post(path, key, "{\"changes\":[{\"bug\":1}]}").await;
        assert_eq!((status, &answer["result"]), (200, &json!("error")), "{path} {answer}");
        assert!(answer["fix"].is_string(), "{answer}");
    }
    let quarantined = serve.command(dir.path(), &["requests", "list", "--state", "quarantined", "--json"]).await;
    assert_eq!(quarantined.lines().count(), 3, "{quarantined}");
    assert!(!quarantined.contains(&key));
    let (status, _) = request(serve.port, "GET /hooks/plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 405);
    let (status, body) = get(serve.admin, "/api/keys").await;
    assert_eq!(status, 401, "{body}");
}

/// Whoever asks at a wrong address is told the right one.
#[tokio::test]
async fn a_wrong_address_names_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Receiver::start(dir.path(), &[]).await;
    let asked = async |address, method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        request(address, &head).await
    };
    let (admin, port) = (serve.admin.port().to_string(), serve.port.port().to_string());
    for (method, path, status) in [
        ("POST", "/", 405),
        ("POST", "/hook/krn", 404),
        ("GET", "/hook/krn", 404),
        ("POST", "/hooks", 405),
        ("POST", "/HOOKS/krn", 404),
        ("POST", "/webhooks/krn", 404),
    ] {
        let (found, said) = asked(serve.port, method, path).await;
        assert!(found == status && said.contains("webhooks: POST /hooks/SOURCE"), "{method} {path}: {found} {said}");
    }
    for (method, path) in [("GET", "/nonsense/"), ("POST", "/nonsense/changes")] {
        let (found, said) = asked(serve.port, method, path).await;
        assert!(found == 404 && !said.contains("webhooks"), "a client: {method} {path}: {found} {said}");
    }
    for path in ["/endpoints", "/endpoints/"] {
        let (found, said) = asked(serve.port, "POST", path).await;
        assert!(found >= 404 && said.contains("POST /endpoints/ID/ready"), "{path}: {found} {said}");
    }
    for path in ["/api", "/api/keys"] {
        let (_, said) = asked(serve.port, "POST", path).await;
        assert!(said.contains(&format!("admin port, {admin}")), "{path}: {said}");
    }
    let (status, said) = asked(serve.admin, "POST", "/hooks/plain").await;
    assert!(status == 404 && said.contains(&port) && said.contains("POST /hooks/SOURCE"), "{said}");

    let args = ["hooks", "--amqp", "amqp://127.0.0.1:1/", "--feed", "kdee=x"];
    let dir = tempfile::tempdir().unwrap();
    let role = Receiver::start(dir.path(), &args).await;
    let (admin, port) = (role.admin.port().to_string(), role.port.port().to_string());
    for path in ["/", "/hook/krn", "/HOOKS/krn", "/api/keys"] {
        let (status, said) = asked(role.port, "POST", path).await;
        assert!(status == 404 && said.contains("POST /hooks/SOURCE") && said.contains(&admin), "{path}: {said}");
    }
    let (status, said) = asked(role.admin, "POST", "/hooks/plain").await;
    assert!(status == 404 && said.contains(&port) && said.contains("POST /hooks/SOURCE"), "{said}");
    let log = role.proc.output();
    assert_eq!(role.proc.events(LogEvent::HooksFeedUnused), 1, "{log}");
    assert!(log.contains("feed=kdee") || log.contains("feed=\"kdee\""), "{log}");
}

/// A configuration names feeds; each is served at its path, from tables of its own.
#[tokio::test]
async fn each_feed_of_a_source_is_served() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("empty.toml"), "").unwrap();
    let mut empty = Receiver::start(dir.path(), &["serve", "--config", "empty.toml"]).await;
    assert_eq!(empty.proc.events(LogEvent::HooksNoSource), 1, "{}", empty.proc.output());
    assert!(empty.proc.output().contains("webhooks   none"), "{}", empty.proc.output());
    empty.proc.stop(SOON).await.unwrap();
    let config = "[[source]]\nname = \"kde\"\npreset = \"plain\"\nfeed = \"kde\"\n\
                  [[source]]\nname = \"gnome\"\npreset = \"plain\"\nfeed = \"gnome-shell\"\n\
                  [[source]]\nname = \"rest\"\npreset = \"plain\"\n";
    std::fs::write(dir.path().join("hooks.toml"), config).unwrap();
    let mut serve = Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    for feed in ["default", "gnome-shell", "kde"] {
        let line = format!("shim{{feed=\"{feed}\"}}");
        let log = serve.proc.output();
        let named = log.lines().any(|found| found.contains(&line) && found.contains("working on this ledger"));
        assert!(named, "no {line} in {log}");
    }
    let all = [("kde", "/kde/"), ("gnome", "/gnome-shell/"), ("rest", "/")];
    let mut keys = Vec::new();
    for (source, path) in all {
        let key = serve.key(dir.path(), source).await;
        let mut client = serve.watch(path, &[7]).await;
        serve.change(source, &key, 7).await;
        assert_eq!(client.update().await.0, 7, "{path}");
        keys.push(key);
    }
    // Each has a ledger of its own, so each change is the first of its feed.
    for (source, _) in all {
        let feed = match source {
            "rest" => "default",
            "gnome" => "gnome-shell",
            kde => kde,
        };
        let announced = async || {
            let told = serve.command(dir.path(), &["bug", "7", "--feed", feed]).await;
            if told.contains("announced as ") && told.trim_end().contains(".1\n") { Ok(()) } else { Err(told) }
        };
        eventually(SOON, format!("number 1 of feed {feed}"), announced).await.unwrap();
    }
    serve.proc.stop(SOON).await.unwrap();
    let serve = Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    for ((source, path), key) in all.into_iter().zip(&keys) {
        let mut client = serve.watch(path, &[8]).await;
        serve.change(source, key, 8).await;
        assert_eq!(client.update().await.0, 8, "{path}");
    }
}

/// The table has local time; what webhooks bring is written into it as its tracker would.
#[tokio::test]
async fn rows_are_in_the_zone_of_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let serve = Receiver::start(dir.path(), &["serve", "--timezone", "Asia/Tokyo", "--table", "changes"]).await;
    let key = serve.key(dir.path(), "plain").await;
    let mut client = serve.watch("/", &[1]).await;
    let body = "{\"changes\":[{\"bug\":1,\"when\":\"2026-01-26T12:00:00Z\"}]}";
    let (_, answer) = serve.post("/hooks/plain", &key, body).await;
    assert_eq!(answer["result"], "ok", "{answer}");
    assert_eq!(client.update().await, (1, "2026-01-26T12:00:00".to_owned()));
    serve.way(dir.path(), "1", |step| step["cursor"].is_string()).await;
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file("path.toml", "[[source]]\nname = \"a\"\npreset = \"plain\"\nfeed = \"public\"\n");
    file("typo.toml", "[[source]]\nname = \"a\"\npresett = \"plain\"\n");
    file("same.toml", "[[source]]\nname = \"a\"\npreset = \"plain\"\nfeed = \"kde\"\n");
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    for (args, code, wants) in [
        (&["serve", "--config", "path.toml"][..], 1, &["path.toml:4: ", "public", "in use as a path"][..]),
        (&["hooks", "--config", "path.toml"], 1, &["path.toml:4: ", "public"]),
        (&["hooks", "--config", "typo.toml"], 1, &["typo.toml:3: ", "preset"]),
        (&["serve", "--config", "none.toml"], 1, &["none.toml", "--config"]),
        (&["serve", "--config", "same.toml", "--table", "push_notify_kde"], 1, &["--table", "feed 'kde'"]),
        (&["gateway", "--feed", "endpoints=x"], 2, &["'endpoints'", "another name"]),
        (&["serve", "--data-dir", "/proc"], 1, &["/proc", "--data-dir", "not writable", "uid "]),
        (&["hooks", "--feed", "h=x"], 2, &["'h'", "another name"]),
        (&["hooks", "--feed", "a=x,b=x"], 2, &["exchange 'x' twice"]),
        (&["hooks", "--store", "none.db"], 2, &["--store", "sqlite://"]),
        (&["hooks", "--tracker-url", "kde=https://x/{bug}"], 1, &["--tracker-url", "'kde'", "served are: default"]),
        (&["hooks", "--tracker-url", "https://x/{bug}", "--config", "same.toml"], 1, &["'default'", "are: kde"]),
        (&["serve", "--tracker-url", "kdee=https://x/{bug}", "--config", "same.toml"], 1, &["'kdee'", "default, kde"]),
    ] {
        let mut proc = Run::new(bugfeed()).dir(dir.path()).args(args).args(ports).spawn().unwrap();
        let status = proc.wait(SOON).await.unwrap();
        let output = proc.output();
        assert_eq!(status.code(), Some(code), "{args:?}: {output}");
        for want in wants {
            assert!(output.contains(want), "{args:?}: no '{want}' in: {output}");
        }
    }
}
