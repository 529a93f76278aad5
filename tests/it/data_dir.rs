//! The data folder of an all-in-one: two processes want it, it is restored from a copy, it is removed.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, bin, eventually};
use serde_json::{Value, json};

use crate::commands::{bugfeed, start};
use crate::support::{Client, SOON, Serve, free_address, get, touch};

const WHEN: &str = "2014-04-03T21:13:45";

/// A modern session, and the head that hello told.
async fn modern(url: &str) -> (Client, String) {
    let mut client = Client::connect(url).await;
    client.send(r#"{"command":"hello"}"#).await;
    let reply = client.json().await;
    assert_eq!(reply["result"], "ok", "{reply}");
    (client, reply["cursor"].as_str().unwrap_or_default().to_owned())
}

/// Resumes; the verdict.
async fn resume(client: &mut Client, bugs: &[u64], cursor: &str) -> String {
    client.send(json!({ "command": "subscribe", "bugs": bugs, "cursor": cursor }).to_string()).await;
    let reply = until(client, "subscribe").await;
    reply["replay"].as_str().unwrap().to_owned()
}

/// The next message of this kind, passing over heartbeats.
async fn until(client: &mut Client, command: &str) -> Value {
    loop {
        let message = client.json().await;
        match message["command"].as_str().unwrap() {
            found if found == command => return message,
            "heartbeat" => {}
            _ => panic!("not a {command}: {message}"),
        }
    }
}

/// A second all-in-one in this folder, on ports of its own: it, where clients connect, and its admin port.
fn serve(dir: &Path) -> (Proc, SocketAddr, SocketAddr) {
    let [clients, admin] = [(); 2].map(|()| free_address());
    let args = ["serve", "--listen", &clients.to_string(), "--admin-listen", &admin.to_string()];
    (Run::new(bugfeed()).dir(dir).args(args).spawn().unwrap(), clients, admin)
}

async fn touched(dir: &Path, bugs: &[&str]) {
    touch(dir, &[bugs, &["--when", WHEN]].concat()).await;
}

/// The second of two serves nobody, and says for whom it waits. When its turn comes, it knows what the first one recorded
/// meanwhile.
#[tokio::test]
async fn a_standby_waits_aloud_and_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, port) = start(dir.path()).await;
    touched(dir.path(), &["1", "2"]).await;
    let (mut second, clients, admin) = serve(dir.path());
    let line = second.wait_for_line("bugfeed ", SOON).await.unwrap();
    let holder = format!("WAITING for its turn. pid {} on", first.pid());
    assert!(line.contains(&holder) && line.contains("./data"), "{line}");
    eventually(SOON, "a listening standby", async || get(clients, "/changes?bugs=1").await.0 == 503).await.unwrap();
    let (status, body) = get(admin, "/readyz").await;
    assert!(status == 503 && body.contains("held by pid"), "{status} {body}");
    assert!(!second.output().contains("bugfeed touch 1234"), "no welcome yet: {}", second.output());

    let (mut client, _) = modern(&format!("ws://127.0.0.1:{port}/")).await;
    client.subscribe(&[1, 3]).await;
    touched(dir.path(), &["3"]).await;
    let cursor = until(&mut client, "update").await["cursor"].as_str().unwrap().to_owned();
    touched(dir.path(), &["1"]).await;
    until(&mut client, "update").await;
    first.kill9();
    second.wait_for_line("bugfeed touch 1234", SOON).await.unwrap();
    second.wait_ready(admin, SOON).await.unwrap();
    let (mut client, _) = modern(&format!("ws://{clients}/")).await;
    assert_eq!(resume(&mut client, &[1, 3], &cursor).await, "complete");
    let update = until(&mut client, "update").await;
    assert_eq!(update["bug"], 1, "what came while it waited: {update}");
}

/// The whole folder is restored from a copy while nothing runs. A cursor of a number that was given after the copy was taken
/// is answered with a gap.
#[tokio::test]
async fn a_folder_that_was_put_back() {
    let serve = Serve::start(&[]).await;
    let url = serve.url();
    let (mut client, _) = modern(&url).await;
    client.subscribe(&[7]).await;
    let mut cursors = Vec::new();
    let mut change = async |serve: &Serve, client: &mut Client| {
        serve.touch(7, WHEN).await;
        cursors.push(until(client, "update").await["cursor"].as_str().unwrap().to_owned());
        cursors.clone()
    };
    for _ in 0..3 {
        change(&serve, &mut client).await;
    }
    let dir = serve.stop().await;
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    copy_dir(&data, &copy);
    let serve = Serve::start_in(dir, &[]).await;
    let (mut client, _) = modern(&serve.url()).await;
    client.subscribe(&[7]).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all = change(&serve, &mut client).await;
    }
    let dir = serve.stop().await;
    std::fs::remove_dir_all(&data).unwrap();
    copy_dir(&copy, &data);
    let serve = Serve::start_in(dir, &[]).await;
    let (mut live, _) = modern(&serve.url()).await;
    live.subscribe(&[7]).await;
    for _ in 0..2 {
        serve.touch(7, WHEN).await;
        until(&mut live, "update").await;
    }
    // E.3 was before the copy, E.5 is given again, E.6 is not there again yet.
    for (cursor, verdict) in [(&all[2], "complete"), (&all[4], "gap")] {
        let (mut client, _) = modern(&serve.url()).await;
        assert_eq!(resume(&mut client, &[7], cursor).await, verdict, "{all:?}");
    }
    let (mut ahead, _) = modern(&serve.url()).await;
    resume(&mut ahead, &[7], &all[5]).await;
    serve.touch(7, WHEN).await;
    until(&mut ahead, "gap").await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (one, other) = (entry.path(), to.join(entry.file_name()));
        if one.is_dir() {
            copy_dir(&one, &other);
        } else {
            std::fs::copy(one, other).unwrap();
        }
    }
}

/// Another file takes the ledger's name while it runs: an older copy of it.
#[tokio::test]
async fn a_ledger_that_is_put_back_while_it_runs() {
    let serve = Serve::start(&[]).await;
    let (mut client, _) = modern(&serve.url()).await;
    client.subscribe(&[7, 8]).await;
    let ledger = serve.dir.path().join("data/ledger.db");
    serve.touch(7, WHEN).await;
    until(&mut client, "update").await;
    // The ledger's own journal belongs to the copy.
    let copied = serve.dir.path().join("copied");
    std::fs::create_dir(&copied).unwrap();
    for name in ["ledger.db", "ledger.db-wal"] {
        std::fs::copy(serve.dir.path().join("data").join(name), copied.join(name)).unwrap();
    }
    let (first, second) = (serve.touch(7, WHEN).await, until(&mut client, "update").await);
    let ((), before) = (first, second["cursor"].as_str().unwrap().to_owned());
    for name in ["ledger.db-wal", "ledger.db"] {
        std::fs::rename(copied.join(name), ledger.with_file_name(name)).unwrap();
    }
    let gap = until_gap(&mut client).await;
    serve.touch(8, WHEN).await;
    // Changes that were not yet published when the copy was taken are published once more.
    let mut update = until_update(&mut client).await;
    while update["bug"] == 7 {
        update = until_update(&mut client).await;
    }
    let epoch = |cursor: &str| cursor.split('.').next().unwrap().to_owned();
    assert_eq!(update["bug"], 8);
    assert_ne!(epoch(update["cursor"].as_str().unwrap()), epoch(&before), "{gap} {update}");
    eventually(SOON, "ready", async || get(serve.admin, "/readyz").await.0 == 200).await.unwrap();
    let (mut late, _) = modern(&serve.url()).await;
    assert_eq!(resume(&mut late, &[7, 8], &before).await, "gap");
}

/// The next message of the kind, passing over what says that nothing can come, or can again.
async fn until_gap(client: &mut Client) -> Value {
    passing(client, "gap").await
}

async fn until_update(client: &mut Client) -> Value {
    passing(client, "update").await
}

async fn passing(client: &mut Client, command: &str) -> Value {
    loop {
        let message = client.json().await;
        match message["command"].as_str().unwrap() {
            found if found == command => return message,
            "heartbeat" | "feed" => {}
            _ => panic!("not a {command}: {message}"),
        }
    }
}

/// The file of change tables may hold bodies of webhooks: it is for its owner alone, unless the umask means the group.
#[tokio::test]
async fn a_new_file_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let shim = bin("bugfeed-shim").unwrap();
    for (umask, want) in [("022", 0o600), ("027", 0o600), ("077", 0o600), ("007", 0o660), ("002", 0o660)] {
        let path = dir.path().join(format!("{umask}.db"));
        let line = format!("umask {umask}; exec {} init --source sqlite://{}", shim.display(), path.display());
        Run::new("sh").args(["-c", &line]).succeeds(SOON).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, want, "umask {umask}: {mode:o}");
    }
}

/// The folder is removed while the process runs: readiness says why, and clients are told that the feed is paused.
#[tokio::test]
async fn a_folder_that_is_removed_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (mut serve, clients, admin) = serve(dir.path());
    serve.wait_ready(admin, SOON).await.unwrap();
    let (mut client, _) = modern(&format!("ws://{clients}/")).await;
    client.subscribe(&[7]).await;
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let (_, body) = eventually(SOON, "not ready", async || {
        let (status, body) = get(admin, "/readyz").await;
        if status == 503 { Ok((status, body)) } else { Err(body) }
    })
    .await
    .unwrap();
    assert!(body.contains("gone"), "{body}");
    let line = serve.wait_for_event(LogEvent::PartDown, SOON).await.unwrap();
    assert!(line.contains("gone"), "{line}");
    let told = until(&mut client, "feed").await;
    assert_eq!(told["state"], "paused", "{told}");
}
