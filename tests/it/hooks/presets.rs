//! Requests as trackers send them (`hooks/tests/payloads`), all the way to a WebSocket client.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Receiver, key_in};
use crate::support::request;

/// The key in the requests of the folder.
const KEY: &str = "bf_abcdef_ghijkmnpqrstuvwxyz2345";

/// A request, and what it tells.
struct Sent {
    text: String,
    feed: String,
    bug: u64,
}

fn payloads() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks/tests/payloads")
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The first request of a tracker that is good today, too: whose signature says no time.
fn first_good(folder: &Path) -> Option<Sent> {
    sorted(folder).iter().filter(|path| path.extension().is_some_and(|end| end == "http")).find_map(|path| {
        let golden: Value = serde_json::from_str(&fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
        let access = golden["explanation"][1].as_str()?;
        let is_good = access.starts_with("access: the key ") || access.starts_with("access: the signature fits");
        let item = golden["items"].as_array()?.first()?["item"].clone();
        let text = String::from_utf8(fs::read(path).unwrap()).ok()?;
        let is_bound_to_time = text.to_lowercase().contains("webhook-timestamp");
        let fits = is_good && !is_bound_to_time && item["private"] == false;
        let (feed, bug) = (item["feed"].as_str()?.to_owned(), item["bug"].as_u64()?);
        fits.then_some(Sent { text, feed, bug })
    })
}

/// The captured request as it is sent: the file has lines that end as those of any text.
fn over_http(text: &str) -> String {
    let (head, body) = text.split_once("\n\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let body = &body[..length.trim().parse().unwrap()];
    format!("{}\r\nConnection: close\r\n\r\n{body}", head.lines().collect::<Vec<_>>().join("\r\n"))
}

#[tokio::test]
async fn what_each_tracker_sends_becomes_an_update() {
    let dir = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = sorted(&payloads());
    let config: Vec<String> =
        folders.iter().map(|folder| fs::read_to_string(folder.join("source.toml")).unwrap()).collect();
    fs::write(dir.path().join("hooks.toml"), config.join("\n")).unwrap();
    let serve = Receiver::start(dir.path(), &["serve", "--config", "hooks.toml"]).await;
    let key = key_in(&serve.command(dir.path(), &["keys", "create", "--name", "all"]).await);
    let mut count = 0;
    for folder in &folders {
        let Sent { text, feed, bug } = first_good(folder).unwrap_or_else(|| panic!("none in {}", folder.display()));
        let path = if feed == "default" { "/".to_owned() } else { format!("/{feed}/") };
        let mut client = serve.watch(&path, &[bug]).await;
        let (status, answer) = request(serve.port, &over_http(&text.replace(KEY, &key))).await;
        assert!(status == 200 && answer.contains("\"result\":\"ok\""), "{}: {status} {answer}", folder.display());
        assert_eq!(client.update().await.0, bug, "{}", folder.display());
        count += 1;
    }
    assert!(count >= 10, "{count} trackers");
}
