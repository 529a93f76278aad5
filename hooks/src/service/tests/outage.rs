//! The store is away: at the start, and while requests come; it is gone, full, or not ours.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use bugfeed_runtime::health::Health;

use super::rig::{PLAIN, Place, changes, until};
use crate::receive::spool::SpoolOptions;
use crate::service::{Hooks, StartError};
use crate::store::StoreError;

#[tokio::test]
async fn what_comes_while_the_store_is_away_is_spooled_and_comes_in_order_when_it_is_back() {
    let place = Place::sqlite().await;
    let service = place.start(PLAIN).await;
    service.post("plain", &changes(&[1], 1)).await;
    service.until_rows("default", 1).await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    assert_eq!(service.post("plain", &changes(&[2], 2)).await, ["spooled"]);
    assert_eq!(service.post("plain", &changes(&[3], 3)).await, ["spooled"]);
    let report = service.health.report();
    assert!(report.ready && report.lines.iter().any(|line| line.contains("store")), "{report:?}");
    drop(lock);
    let mut rows = service.until_rows("default", 3).await;
    rows.sort_unstable();
    assert_eq!(rows, [1, 2, 3]);
    until("all is well", async || {
        let report = service.health.report();
        report.lines.is_empty().then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
    assert!(service.hooks.spool().is_empty());
    locking.close().await;
    service.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_stops_nothing() {
    let place = Place::sqlite().await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    let service = place.start_with(place.options(PLAIN)).await;
    assert!(service.hooks.store().is_none());
    // The keys are not known yet: it is checked later.
    assert_eq!(service.post("plain", &changes(&[4], 1)).await, ["spooled"]);
    drop(lock);
    assert_eq!(service.until_rows("default", 1).await, [4]);
    locking.close().await;
    service.stop().await;
}

#[tokio::test]
async fn a_service_that_ends_while_the_store_is_away_leaves_the_spool() {
    let place = Place::sqlite().await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    let service = place.start_with(place.options(PLAIN)).await;
    assert_eq!(service.post("plain", &changes(&[4, 5], 1)).await, ["spooled", "spooled"]);
    service.stop().await;
    drop(lock);
    locking.close().await;
    let service = place.start(PLAIN).await;
    assert_eq!(service.until_rows("default", 2).await, [4, 5]);
    service.stop().await;
}

#[tokio::test]
async fn what_comes_while_the_file_of_the_store_is_gone_is_spooled() {
    let place = Place::sqlite().await;
    let service = place.start(PLAIN).await;
    service.post("plain", &changes(&[1], 1)).await;
    service.until_rows("default", 1).await;
    let file = place.url.file_path().unwrap().to_owned();
    let elsewhere = file.with_extension("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    assert_eq!(service.post("plain", &changes(&[2], 2)).await, ["spooled"]);
    assert!(!file.exists(), "no empty store is made in its place");
    until("it is said", async || {
        let report = service.health.report();
        let is_said = report.lines.iter().any(|line| line.contains("gone"));
        (report.ready && is_said).then_some(()).ok_or_else(|| format!("{report:?}"))
    })
    .await;
    std::fs::rename(&elsewhere, &file).unwrap();
    assert_eq!(service.until_rows("default", 2).await, [1, 2]);
    service.stop().await;
}

#[tokio::test]
async fn a_store_of_a_newer_version_stops_the_start_and_costs_nothing_that_is_spooled() {
    let place = Place::sqlite().await;
    let locking = place.db();
    let lock = locking.begin().await.unwrap();
    let service = place.start_with(place.options(PLAIN)).await;
    assert_eq!(service.post("plain", &changes(&[4], 1)).await, ["spooled"]);
    service.stop().await;
    drop(lock);
    locking.execute("UPDATE hooks_meta SET version = version + 7", &[]).await.unwrap();
    let refused = Hooks::start(place.options(PLAIN), Health::new()).await;
    let Err(StartError::Store(StoreError::Newer { found, known, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!(found, known + 7);
    locking.execute("UPDATE hooks_meta SET version = version - 7", &[]).await.unwrap();
    locking.close().await;
    let service = place.start(PLAIN).await;
    assert_eq!(service.until_rows("default", 1).await, [4]);
    service.stop().await;
}

/// The variable that makes the test below the child: the folder of its store.
const CHILD: &str = "BUGFEED_HOOKS_FULL_CHILD";

/// The disk of a child process takes no file of more than 600 KiB, and its spool is full after a few requests.
#[tokio::test]
async fn a_full_store_spools_and_a_full_spool_says_503_and_nothing_that_was_answered_is_lost() {
    let place = Place::sqlite().await;
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1200; exec \"$0\" --exact service::tests::outage::child --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, &place.folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told: Vec<(i64, String)> = lines
        .filter_map(|line| {
            let (bug, state) = line.strip_prefix("told ")?.split_once(' ')?;
            Some((bug.parse().unwrap(), state.to_owned()))
        })
        .collect();
    assert!(child.wait().unwrap().success());
    let of = |wanted: &str| told.iter().filter(|(_, state)| state == wanted).count();
    assert!(of("queued") > 3 && of("spooled") > 3 && of("503") > 0, "{told:?}");
    // The disk has room again.
    let service = place.start(PLAIN).await;
    let answered: BTreeSet<i64> = told.iter().filter(|(_, state)| state != "503").map(|(bug, _)| *bug).collect();
    let rows = service.until_rows("default", answered.len()).await;
    assert!(answered.is_subset(&rows.iter().copied().collect()), "{answered:?} {rows:?}");
    service.stop().await;
}

/// Not a test of its own: the process whose disk is full.
#[tokio::test]
async fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let place = Place::of_another(&folder);
    let mut options = place.options(PLAIN);
    options.spool = SpoolOptions { max_bytes: 40_000, segment_bytes: 10_000, ..options.spool };
    let service = place.start_with(options).await;
    service.hooks.opened().await;
    let say = |bug: u64, state: &str| writeln!(std::io::stdout(), "\ntold {bug} {state}").unwrap();
    for bug in 1..10_000 {
        match service.try_post("plain", &changes(&[bug], 1)).await {
            (200, state) => say(bug, &state),
            (status, _) => {
                say(bug, &status.to_string());
                break;
            }
        }
    }
    // Killed, so that nothing is written in the end.
    #[expect(clippy::exit, reason = "a process of a test that is to end at once")]
    std::process::exit(0);
}
