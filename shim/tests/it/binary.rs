//! The real binary on SQLite files, with a broker that is not there: options, faults at the start and while running, who
//! works.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{LinePattern as _, Run, event, eventually, free_port, get};
use tokio::net::TcpListener;

use crate::rig::{Rig, waits_for, works};
use crate::support::{Place, T1};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Nobody listens there.
pub(crate) const NO_BROKER: &str = "amqp://user:sekrit@127.0.0.1:1/%2f";

/// The binary under test, with no settings from outside.
pub(crate) fn shim(args: &[&str]) -> Run {
    let names = ["SOURCE", "TABLE", "LEDGER", "AMQP", "EXCHANGE", "ONCE", "TIMEZONE", "FORMAT", "BATCH"];
    // Without history, because a history takes every message: these tests need messages that no queue takes.
    let run = Run::new(binary()).args(args).env_remove("RUST_LOG").env("BUGFEED_SHIM_HISTORY", "false");
    names.iter().fold(run, |run, name| run.env_remove(format!("BUGFEED_SHIM_{name}")))
}

pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_bugfeed-shim"))
}

pub(crate) fn ledger_url(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("ledger.db").display())
}

/// What it prints and its exit code, when it ends by itself.
pub(crate) async fn ends(run: Run) -> (i32, String) {
    let mut proc = run.spawn().unwrap();
    let code = proc.wait(LIMIT).await.unwrap().code().unwrap();
    // The pipe may deliver the last line a moment after the end of the process.
    let _ = proc.wait_for_line("error: ", Duration::from_secs(1)).await;
    (code, proc.output())
}

/// A number of `bugfeed-shim status`.
pub(crate) async fn status(ledger: &str, name: &str) -> Option<u64> {
    let (_, output) = ends(shim(&["status", "--ledger", ledger])).await;
    let line = output.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::test]
async fn wrong_values_end_with_2_before_anything_is_opened() {
    for (args, part) in [
        (&["--source", "sqlite://x", "--timezone", "Mars"][..], "--timezone"),
        (&["--source", "nonsense"], "mysql://"),
        (&[], "--source"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (code, output) = ends(shim(args).dir(dir.path())).await;
        assert!(code == 2 && output.contains(part), "{args:?}: {code}\n{output}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let (code, output) = ends(shim(&["--help"])).await;
    assert!(code == 0 && output.contains("Examples:") && output.contains("bugfeed-shim init"), "{output}");
}

#[tokio::test]
async fn faults_at_the_start_end_with_1_and_one_clear_line() {
    let place = Place::sqlite();
    place.table().await;
    let dir = place.dir.path();
    let garbage = dir.join("garbage.db");
    std::fs::write(&garbage, "this is no database, it only looks like a file ".repeat(100)).unwrap();
    let garbage = format!("sqlite://{}", garbage.display());
    let good = ledger_url(dir);
    // If there is nothing to publish, --once succeeds even if the broker is away.
    let once = ["run", "--once", "--source", &place.url, "--ledger", &good, "--amqp", NO_BROKER];
    assert_eq!(ends(shim(&once)).await.0, 0);
    let read_only = format!("{good}?mode=ro");
    let folder = format!("sqlite://{}", dir.display());
    let nowhere = format!("sqlite://{}/no/such/folder/ledger.db", dir.display());
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    for (name, value, parts) in [
        ("--ledger", garbage.as_str(), &["garbage.db", "not a database", "new-epoch"][..]),
        ("--ledger", &read_only, &["ledger.db", "readonly", "permission"]),
        ("--ledger", &nowhere, &["no/such/folder", "unable to open", "name another place"]),
        ("--ledger", &folder, &["directory", "name another place"]),
        ("--source", &garbage, &["garbage.db", "not a database"]),
        ("--source", "sqlite://nowhere.db", &["nowhere.db", "bugfeed-shim init"]),
        ("--table", "other", &["other", "no such table", "bugfeed-shim init"]),
        ("--bug-column", "bug", &["no such column"]),
        ("--admin-listen", &busy, &[&busy, "another port"]),
    ] {
        let mut args = vec!["--amqp", NO_BROKER, name, value];
        for (other, default) in [("--source", place.url.as_str()), ("--ledger", &good)] {
            if name != other {
                args.extend([other, default]);
            }
        }
        let (code, output) = ends(shim(&args).dir(dir)).await;
        let errors: Vec<&str> = output.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(code == 1 && errors.len() == 1, "{name} {value}: {code}\n{output}");
        for part in parts {
            assert!(errors[0].contains(part), "{part:?} missing: {}", errors[0]);
        }
        assert!(!output.contains("sekrit") && !output.contains("panicked"), "{output}");
        assert!(name != "--ledger" || !output.contains("bugfeed-shim init"), "that makes no ledger: {output}");
    }
}

#[tokio::test]
async fn the_ledger_has_one_place_when_nothing_is_said_and_it_is_printed() {
    let place = Place::sqlite();
    place.table().await;
    let folder = tempfile::tempdir().unwrap();
    let once = ["run", "--once", "--source", &place.url, "--amqp", NO_BROKER];
    let mut proc = shim(&once).dir(folder.path()).spawn().unwrap();
    proc.succeeds(LIMIT).await.unwrap();
    let line = proc.wait_for_event(LogEvent::ShimStarted, LIMIT).await.unwrap();
    assert!(line.contains("sqlite://data/bugfeed-ledger.db"), "{line}");
    assert!(folder.path().join("data/bugfeed-ledger.db").is_file());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["data"]);
}

/// A tracker that writes local time, and a shim that was not told.
#[tokio::test]
async fn dates_that_are_hours_off_are_said_once() {
    let rig = Rig::without_broker().await;
    let mut proc = rig.run().spawn().unwrap();
    let mut tracker = rig.place.session().await;
    for hours in ["+0", "+2", "+2"] {
        let when = format!("datetime('now', '{hours} hours')");
        tracker.exec(&format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES (1, {when})")).await;
        rig.emptied().await;
    }
    let line = proc.wait_for_event(LogEvent::DatesOff, LIMIT).await.unwrap();
    assert!(line.contains("+2 h off") && line.contains("give --timezone "), "{line}");
    proc.sigterm();
    proc.wait(LIMIT).await.unwrap();
    assert_eq!(proc.events(LogEvent::DatesOff), 1, "{}", proc.output());
}

#[tokio::test]
async fn without_a_broker_changes_are_kept_and_it_is_said_once() {
    let rig = Rig::without_broker().await;
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let mut proc = works(rig.run().args(["--admin-listen", &admin.to_string()])).await;
    let rows: Vec<(u64, &str)> = (1..=50).map(|bug| (bug, T1)).collect();
    rig.insert(&rows).await;
    rig.emptied().await;
    let (status_code, ready) = get(admin, "/readyz").await.unwrap();
    assert!(status_code == 503 && ready.contains("bus: broker"), "{status_code} {ready}");
    assert_eq!(get(admin, "/livez").await.unwrap().0, 200);
    let (_, metrics) = get(admin, "/metrics").await.unwrap();
    for line in [
        "bugfeed_shim_changes_recorded_total 50",
        "bugfeed_shim_changes_unpublished 50",
        "bugfeed_shim_outages_total{part=\"bus\"} 1",
        "bugfeed_shim_up{part=\"bus\"} 0",
        "bugfeed_shim_up{part=\"ledger\"} 1",
        "bugfeed_shim_active 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in\n{metrics}");
    }
    proc.stop(LIMIT).await.unwrap();
    let output = proc.output();
    let refused: Vec<&str> = output.lines().filter(|line| event(LogEvent::PartDown).is_in(line)).collect();
    assert!(refused.len() == 1 && refused[0].contains("Connection refused"), "{output}");
    assert!(!output.contains("sekrit"), "{output}");
    let ledger = rig.ledger();
    assert_eq!(status(&ledger, "unpublished").await, Some(50));
    assert_eq!(status(&ledger, "published").await, Some(0));
    // The next run tries to publish the same changes, and --once says that it could not.
    let (code, output) = ends(rig.run().args(["--once", "--once-timeout", "1"])).await;
    assert!(code == 1 && output.contains("not everything could be published within 1 s"), "{code}\n{output}");
}

#[tokio::test]
async fn a_second_shim_waits_and_takes_over_at_once_when_the_first_is_killed() {
    let rig = Rig::without_broker().await;
    let mut first = rig.start().await;
    let mut second = waits_for(rig.run(), &first).await;
    first.kill9();
    let killed = Instant::now();
    second.wait_for_event(LogEvent::LeaseTaken, LIMIT).await.unwrap();
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    assert_eq!(second.events(LogEvent::LeaseWaiting), 1, "said once: {}", second.output());
}

/// The files' size is limited, so that writes fail as on a full disk; the limit is lifted while it runs.
#[tokio::test]
async fn a_full_disk_under_the_ledger_loses_nothing() {
    let rig = Rig::without_broker().await;
    let ledger = rig.ledger();
    // A write beyond the limit also sends a signal that would end the process; an ignored one stays ignored.
    let script = "trap '' XFSZ; ulimit -S -f 400; exec \"$@\"";
    let binary = binary();
    let run = Run::new("sh").args(["-c", script, "sh"]).arg(&binary);
    let mut proc = works(run.args(["--source", &rig.place.url, "--ledger", &ledger, "--amqp", NO_BROKER])).await;
    let mut tracker = rig.place.session().await;
    let mut total = 0;
    let full = event(LogEvent::PartDown).with("part", "ledger");
    while full.count(&proc.output()) == 0 {
        assert!(total < 10_000, "the limit is never reached: {}", proc.output());
        tracker.exec(&format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES (1, '{T1}'), (2, '{T1}')")).await;
        total += 2;
        eventually(LIMIT, "a drained table or a full disk", async || {
            tracker.count("push_notify").await == 0 || full.count(&proc.output()) > 0
        })
        .await
        .unwrap();
    }
    // Perhaps only the removal of a mark has failed, and the table is empty. So one more row is added.
    tracker.exec(&format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES (3, '{T1}')")).await;
    total += 1;
    let left = tracker.count("push_notify").await;
    assert!(left > 0 && proc.exited().unwrap().is_none(), "rows stay in the table: {}", proc.output());
    let pid = proc.pid().to_string();
    let lift = std::process::Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().unwrap();
    assert!(lift.success());
    rig.emptied().await;
    proc.wait_for_line(event(LogEvent::PartUp).with("part", "ledger"), LIMIT).await.unwrap();
    proc.stop(LIMIT).await.unwrap();
    assert_eq!(status(&ledger, "head").await, Some(total), "every row once: {}", proc.output());
    assert_eq!(proc.output().matches("make room on the disk").count(), 1, "said once: {}", proc.output());
}

#[tokio::test]
async fn init_says_what_it_did_and_what_comes_next() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("new.db").display());
    for want in ["created", "exists already"] {
        let (code, output) = ends(shim(&["init", "--source", &url, "--table", "changes"])).await;
        assert!(code == 0 && output.contains(want) && output.contains("INSERT INTO changes"), "{code}\n{output}");
    }
    let (code, output) = ends(shim(&["status", "--ledger", &url])).await;
    assert!(code == 1 && output.contains("there is no ledger here yet"), "{code}\n{output}");
}

#[tokio::test]
async fn a_new_epoch_on_command() {
    let rig = Rig::without_broker().await;
    rig.insert(&[(7, T1), (8, T1), (9, T1)]).await;
    let ledger = rig.ledger();
    let new_epoch = |more: &[&str]| ends(shim(&["new-epoch", "--ledger", &ledger]).args(more));
    let (code, output) = new_epoch(&["--yes"]).await;
    assert!(code == 1 && output.contains("unable to open"), "{code}\n{output}");
    let mut proc = rig.run().spawn().unwrap();
    rig.emptied().await;
    let (code, output) = new_epoch(&["--yes"]).await;
    let holder = format!("pid {} on", proc.pid());
    assert!(code == 1 && output.contains(&holder) && output.contains("stop that first"), "{code}\n{output}");
    proc.stop(LIMIT).await.unwrap();
    let epoch = async || {
        let (_, output) = ends(shim(&["status", "--ledger", &ledger])).await;
        output.lines().find(|line| line.starts_with("epoch")).unwrap().to_owned()
    };
    let before = epoch().await;
    let (code, output) = new_epoch(&[]).await;
    assert!(code == 1 && output.contains("3 unpublished") && output.contains("--yes"), "{code}\n{output}");
    assert_eq!(epoch().await, before, "only said");
    let (code, output) = new_epoch(&["--yes"]).await;
    assert!(code == 0 && output.contains("'gap'") && output.contains("Done: epoch"), "{code}\n{output}");
    assert_ne!(epoch().await, before);
    assert_eq!((status(&ledger, "head").await, status(&ledger, "unpublished").await), (Some(3), Some(3)));
}

#[tokio::test]
async fn a_log_directive_that_cannot_be_followed_is_named() {
    let place = Place::sqlite();
    place.table().await;
    let ledger = ledger_url(place.dir.path());
    let args = ["--source", &place.url, "--ledger", &ledger, "--amqp", NO_BROKER];
    for format in ["text", "json"] {
        let run = shim(&args).args(["--log-format", format]).env("RUST_LOG", "error,relay[batch{id=7,n}]=debug");
        let line = run.spawn().unwrap().wait_for_line("left out 'relay[batch{id=7,n}]=debug'", LIMIT).await.unwrap();
        assert!(line.contains("WARN") && line.contains("TARGET=LEVEL"), "{line}");
        assert_eq!(line.starts_with('{'), format == "json", "{line}");
    }
}
