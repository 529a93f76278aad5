//! A database that moved to another server behind the same address, while the old server still answers the connections that
//! it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bugfeed_shim::source::{self, Source, TableSpec};
use bugfeed_testbed::{MariaDb, Postgres, SqlServer};
use jiff::tz::TimeZone;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Collector, Kind, Place, Running, T1};

/// An address that leads to one server, and later to another. Connections that exist stay with their server.
async fn address(to: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = to.load(Ordering::Relaxed);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                // It ends when either side closes.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

/// A table on this server, in a database that has the same name on each, and a user who may read and delete.
async fn prepare(server: &SqlServer, kind: Kind) -> Place {
    let create = if kind == Kind::MySql { "CREATE DATABASE bugs" } else { "CREATE DATABASE bugs;" };
    server.sql(if kind == Kind::MySql { "" } else { "postgres" }, create).await.unwrap();
    let place = Place { url: server.url("bugs"), kind, dir: tempfile::tempdir().unwrap() };
    source::init(&place.db(), &TableSpec::default()).await.unwrap();
    let user = if kind == Kind::MySql {
        "CREATE USER shim@'%' IDENTIFIED BY 'pass'; GRANT SELECT, DELETE ON push_notify TO shim@'%'"
    } else {
        "CREATE ROLE shim LOGIN PASSWORD 'pass'; GRANT SELECT, DELETE ON push_notify TO shim"
    };
    place.session().await.exec(user).await;
    place
}

async fn moves(kind: Kind, old: &SqlServer, new: &SqlServer, read_only: &str) {
    let (before, after) = (prepare(old, kind).await, prepare(new, kind).await);
    let to = Arc::new(AtomicU16::new(old.address().1));
    let scheme = if kind == Kind::MySql { "mysql" } else { "postgres" };
    let url = format!("{scheme}://shim:pass@127.0.0.1:{}/bugs", address(to.clone()).await).parse().unwrap();
    let source = Source::open(&url, &TableSpec::default(), TimeZone::UTC).await.unwrap();
    let (ledger, collector) = (before.file_ledger().await, Collector::default());
    let running = Running::start(&source, &ledger, collector.clone());
    before.session().await.insert(&[(1, T1)]).await;
    collector.until(1).await;
    // The old server takes no writes any more. The shim notices, although it has nothing to delete.
    old.sql(if kind == Kind::MySql { "" } else { "postgres" }, read_only).await.unwrap();
    running.until_ready_says(Some("takes no writes")).await;
    to.store(new.address().1, Ordering::Relaxed);
    after.session().await.insert(&[(2, T1)]).await;
    collector.until(2).await;
    running.until_ready_says(None).await;
    running.stop().await;
    assert_eq!(collector.told().iter().map(|(_, bug, _)| *bug).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn mariadb() {
    let (Some(old), Some(new)) = (MariaDb::start_or_skip().await, MariaDb::start_or_skip().await) else { return };
    moves(Kind::MySql, old.client(), new.client(), "SET GLOBAL read_only = 1").await;
}

#[tokio::test]
async fn postgres() {
    let (Some(old), Some(new)) = (Postgres::start_or_skip().await, Postgres::start_or_skip().await) else { return };
    let read_only = "ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf();";
    moves(Kind::Postgres, old.client(), new.client(), read_only).await;
}
