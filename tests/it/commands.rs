//! The binary as a user starts it.

use bugfeed_testbed::{Proc, Run, bin, free_port};
use serde_json::Value;

use crate::support::{SOON, connected, free_address, goes_on_trying, touch};

pub fn bugfeed() -> std::path::PathBuf {
    bin("bugfeed").unwrap()
}

/// `bugfeed` with no arguments but ports of its own, in a folder of its own.
pub async fn start(dir: &std::path::Path) -> (Proc, u16) {
    let [clients, admin] = [(); 2].map(|()| free_address());
    let mut proc = Run::new(bugfeed())
        .dir(dir)
        .env("BUGFEED_LISTEN", clients.to_string())
        .env("BUGFEED_ADMIN_LISTEN", admin.to_string())
        .env("BUGFEED_DRAIN_WINDOW_MS", "50")
        .spawn()
        .unwrap();
    proc.wait_ready(admin, SOON).await.unwrap();
    (proc, clients.port())
}

#[tokio::test]
async fn serve_watch_and_touch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut serve, port) = start(dir.path()).await;
    let url = format!("ws://127.0.0.1:{port}/");
    let mut watch = Proc::spawn(bugfeed(), &["watch", "1234", "5678", "--json", "--url", &url], &[]).unwrap();
    let mut people = Proc::spawn(bugfeed(), &["watch", "5678", "--count", "1", "--url", &url], &[]).unwrap();
    for proc in [&mut watch, &mut people] {
        connected(proc).await;
    }
    touch(dir.path(), &["1234", "9", "--when", "2014-04-03T21:13:45"]).await;
    let line = watch.wait_for_line("\"bug\"", SOON).await.unwrap();
    assert_eq!(line, r#"{"bug":1234,"when":"2014-04-03T21:13:45"}"#);
    touch(dir.path(), &["5678", "--when", "2014-04-03 21:13:46Z"]).await;
    watch.wait_for_line(r#"{"bug":5678,"when":"2014-04-03T21:13:46"}"#, SOON).await.unwrap();
    people.wait_for_line("2014-04-03T21:13:46  bug 5678 changed", SOON).await.unwrap();
    assert!(people.wait(SOON).await.unwrap().success(), "--count 1");

    serve.stop(SOON).await.unwrap();
    goes_on_trying(&mut watch).await;
    watch.stop(SOON).await.unwrap();
}

#[tokio::test]
async fn watch_misses_nothing_over_kill_9_and_prints_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut serve, port) = start(dir.path()).await;
    let url = format!("ws://127.0.0.1:{port}/");
    let mut watch = Proc::spawn(bugfeed(), &["watch", "1", "2", "--json", "--url", &url], &[]).unwrap();
    connected(&mut watch).await;
    touch(dir.path(), &["1", "1", "--when", "2014-04-03T21:13:45"]).await;
    watch.wait_for_line(r#"{"bug":1,"#, SOON).await.unwrap();
    serve.kill9();
    goes_on_trying(&mut watch).await;
    // These changes are written while nothing runs; the third one comes within the same second as the others.
    touch(dir.path(), &["1", "2", "--when", "2014-04-03T21:13:45"]).await;
    let (clients, admin) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", free_port().unwrap()));
    let _serve = Run::new(bugfeed())
        .dir(dir.path())
        .args(["serve", "--listen", &clients, "--admin-listen", &admin])
        .spawn()
        .unwrap();
    watch.wait_for_line(r#"{"bug":2,"#, SOON * 2).await.unwrap();
    touch(dir.path(), &["2", "--when", "2014-04-03T21:13:50"]).await;
    watch.wait_for_line("21:13:50", SOON).await.unwrap();
    let output = watch.output();
    let bugs: Vec<u64> =
        output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["bug"].as_u64()).collect();
    assert_eq!(bugs, [1, 1, 1, 2, 2], "{output}");
}

#[tokio::test]
async fn start_up_faults_end_with_a_clear_error_and_an_exit_code() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(data("a-file"), "").unwrap();
    for file in ["bugfeed.db", "ledger.db"] {
        std::fs::create_dir(data(&format!("corrupt-{file}"))).unwrap();
        std::fs::write(data(&format!("corrupt-{file}/{file}")), "this is no database, by any means\n".repeat(200))
            .unwrap();
    }
    let free = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (a_file, table, ledger) = (data("a-file"), data("corrupt-bugfeed.db"), data("corrupt-ledger.db"));
    for (args, code, wants) in [
        (&["--listen", &taken, "--data-dir", &a_file][..], 1, &["error: cannot listen on", &taken, "--listen"][..]),
        (&[&free[..], &["--data-dir", &a_file]].concat(), 1, &["error: ", "a-file", "--data-dir"]),
        (&[&free[..], &["--data-dir", &table]].concat(), 1, &["error: ", "bugfeed.db", "not a database"]),
        (&[&free[..], &["--data-dir", &ledger]].concat(), 1, &["error: ", "ledger.db", "not a database"]),
        (&["--listen", "nowhere"], 2, &["--listen", "nowhere"]),
        (&["--idle-timeout-ms", "10"], 2, &["--idle-timeout-ms 10", "--ping-interval-ms"]),
        (&["watch", "1", "--url", "ftp://x"], 2, &["--url", "ws://"]),
        (&["touch", "1", "--source", "sqlite:///nowhere/at/all.db"], 1, &["error: ", "--source"]),
        (&["touch", "1", "--source", "mysql://me:topsecret@127.0.0.1/"], 2, &["--source", "mysql://me@127.0.0.1/"]),
        (&["frobnicate"], 2, &["frobnicate"]),
    ] {
        let mut proc = Proc::spawn(bugfeed(), args, &[]).unwrap();
        let status = proc.wait(SOON).await.unwrap();
        let output = proc.output();
        assert_eq!(status.code(), Some(code), "{args:?}: {output}");
        for want in wants {
            assert!(output.contains(want), "{args:?}: no '{want}' in: {output}");
        }
        assert!(!output.contains("panicked") && !output.contains("Error {"), "{args:?}: {output}");
        assert!(!output.contains("topsecret"), "{args:?}: {output}");
    }
}

#[tokio::test]
async fn help_teaches_by_example() {
    for (args, wants) in [
        (&["--help"][..], &["bugfeed watch 1234", "bugfeed touch 1234", "gateway", "bugfeed [serve]"][..]),
        (&["serve", "--help"], &["Examples:", "INSERT INTO push_notify", "--max-connections", "BUGFEED_DATA_DIR"]),
        (&["gateway", "--help"], &["Examples:", "--feed", "bugfeed.default", "BUGFEED_AMQP"]),
        (&["touch", "--help"], &["Examples:", "--when 2014-04-03T21:13:45", "mysql://"]),
        (
            &["watch", "--help"],
            &["Examples:", "--json", "{\"bug\":1234", "--exec './look-at {bug}'", "Exit status: 0", "130"],
        ),
        (&["--version"], &["bugfeed 0."]),
    ] {
        let secret = [("BUGFEED_AMQP", "amqp://me:topsecret@rabbit/")];
        let mut proc = Proc::spawn(bugfeed(), args, &secret).unwrap();
        proc.succeeds(SOON).await.unwrap();
        let output = proc.output();
        for want in wants {
            assert!(output.contains(want), "{args:?}: no '{want}' in: {output}");
        }
        assert!(!output.contains("topsecret"), "{output}");
    }
}
