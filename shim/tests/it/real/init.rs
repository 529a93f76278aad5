//! The statements that `init` prints are run as they are printed, on servers that have no user for the shim yet.

use bugfeed_shim::source::{self, TableSpec};
use bugfeed_testbed::{MariaDb, Postgres, SqlServer};

use crate::binary::{LIMIT, NO_BROKER, ledger_url, shim, status};
use crate::support::{Kind, Place, T1};

/// What `bugfeed-shim init` prints for this table.
async fn init(place: &Place, table: &str) -> String {
    let mut proc = shim(&["init", "--source", &place.url, "--table", table]).spawn().unwrap();
    proc.succeeds(LIMIT).await.unwrap();
    proc.wait_for_line("Then start the shim", LIMIT).await.unwrap();
    proc.output()
}

async fn as_printed(place: Place, server: &SqlServer, table: &str) {
    let output = init(&place, table).await;
    let is_sql = |line: &&str| {
        line.starts_with("  CREATE USER") || line.starts_with("  CREATE ROLE") || line.starts_with("  GRANT")
    };
    let statements: Vec<&str> = output.lines().filter(is_sql).map(str::trim).collect();
    assert!(statements.len() >= 2, "{output}");
    // In no database, as somebody who has just logged in; PostgreSQL knows no such thing.
    let database = if place.kind == Kind::MySql { "" } else { place.url.rsplit_once('/').unwrap().1 };
    server.sql(database, &statements.join("\n")).await.unwrap();
    let start = output.lines().find(|line| line.trim().starts_with("bugfeed-shim --source ")).unwrap();
    let source = start.trim().strip_prefix("bugfeed-shim --source ").unwrap().trim_matches('\'');
    place.session().await.exec(&format!("INSERT INTO {table} (bug_id, delta_ts) VALUES (1, '{T1}')")).await;
    let ledger = ledger_url(place.dir.path());
    let args = ["--source", source, "--table", table, "--ledger", &ledger, "--amqp", NO_BROKER];
    let mut proc = shim(&args).spawn().unwrap();
    let mut tracker = place.session().await;
    let empty = bugfeed_testbed::eventually(LIMIT, "an empty table", async || tracker.count(table).await == 0).await;
    assert!(empty.is_ok(), "{}", proc.output());
    proc.sigterm();
    proc.wait(LIMIT).await.unwrap();
    assert_eq!(status(&ledger, "head").await, Some(1));
}

#[tokio::test]
async fn mariadb() {
    let Some(server) = MariaDb::start_or_skip().await else { return };
    let place = Place::on(Kind::MySql, server.client().clone()).await;
    as_printed(place, server.client(), "push_notify").await;
    let place = Place::on(Kind::MySql, server.client().clone()).await;
    let hint = async || source::clock_hint(&place.db(), &TableSpec::default()).await;
    let said = hint().await;
    assert!(said.contains("needs no --timezone"), "{said}");
    server.sql("", "SET GLOBAL time_zone = '+05:30'").await.unwrap();
    let said = hint().await;
    assert!(said.contains("NOW() is UTC+05:30") && said.contains("--timezone"), "{said}");
}

#[tokio::test]
async fn postgres() {
    let Some(server) = Postgres::start_or_skip().await else { return };
    let place = Place::on(Kind::Postgres, server.client().clone()).await;
    place.session().await.exec("CREATE SCHEMA tracker").await;
    as_printed(place, server.client(), "tracker.push_notify").await;
    let place = Place::on(Kind::Postgres, server.client().clone()).await;
    let hint = async || source::clock_hint(&place.db(), &TableSpec::default()).await;
    let said = hint().await;
    assert!(said.contains("needs no --timezone"), "{said}");
    let name = place.url.rsplit_once('/').unwrap().1;
    place.session().await.exec(&format!("ALTER DATABASE {name} SET TimeZone = 'Asia/Kolkata'")).await;
    let said = hint().await;
    assert!(said.contains("is UTC+05:30") && said.contains("--timezone Asia/Kolkata."), "{said}");
}
