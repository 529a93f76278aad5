//! A backup of the shim's ledger is restored: the ledger knows nothing of the numbers that were given since the copy was
//! taken.

use std::path::Path;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{shared, unique};
use sqlx::Connection as _;

use super::scene::{Parts, Scene};

/// A copy as `sqlite3 ledger.db .backup` makes it, while the shim works.
pub async fn copy_while_it_runs(ledger: &Path, copy: &Path) {
    let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite://{}", ledger.display())).await.unwrap();
    let sql = format!("VACUUM INTO '{}'", copy.display());
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// The copy takes the place of a file that nobody has open.
pub fn put_back(ledger: &Path, copy: &Path) {
    for beside in ["-wal", "-shm"] {
        // After an orderly end these files do not exist.
        let _ = std::fs::remove_file(format!("{}{beside}", ledger.display()));
    }
    std::fs::copy(copy, ledger).unwrap();
}

/// Two restores: of a copy that was taken from a stopped shim, after an orderly end; and of a copy that was taken from a
/// working shim, after a crash.
async fn is_restored(shim_reads_history: bool) {
    let Some(server) = shared::mariadb().await else { return };
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let history = if shim_reads_history { "true" } else { "false" };
    let parts = Parts {
        shim_amqp: &rabbit.url,
        amqp: &rabbit.url,
        exchange: &unique("restore"),
        shim: &["--history", history],
        gateways: &[&[], &[]],
        before: 1,
    };
    let mut scene = Scene::start(server, &parts).await;
    let ledger = scene.dir.path().join("ledger.db");
    for crashes in [false, true] {
        let copy = scene.dir.path().join(format!("copy-{crashes}.db"));
        if crashes {
            copy_while_it_runs(&ledger, &copy).await;
        } else {
            scene.shim.terminate().await;
            std::fs::copy(&ledger, &copy).unwrap();
            scene.shim.start();
        }
        let copied = scene.published().await;
        // These changes will be lost. Some clients leave with a cursor of them.
        scene.flows().await;
        scene.clients.send_away().await;
        scene.flows().await;
        assert!(scene.published().await > copied, "something is lost");
        let before = scene.gaps();
        if crashes {
            scene.shim.kill9();
        } else {
            scene.shim.terminate().await;
        }
        put_back(&ledger, &copy);
        scene.shim.start();
        scene.clients.let_in();
        scene.flows().await;
        scene.gap_at_every_client(&before);
    }
    let set_back = scene.logged(LogEvent::LedgerSetBack);
    assert_eq!(set_back, if shim_reads_history { 2 } else { 0 });
    scene.end().await;
}

/// The shim notices by the end of history, and begins a new epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_restored_begins_a_new_epoch() {
    is_restored(true).await;
}

/// The shim reads no history, so it gives numbers twice. Gateways notice by the tags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_restored_without_history_is_told_by_its_tags() {
    is_restored(false).await;
}
