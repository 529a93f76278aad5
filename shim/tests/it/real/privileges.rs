//! The shim needs SELECT and DELETE on the change table, and nothing else.

use bugfeed_shim::source::{Source, SourceError, TableSpec};
use bugfeed_sql::{DbUrl, Fault};
use bugfeed_testbed::unique;
use jiff::tz::TimeZone;

use crate::support::{Collector, Kind, Place, Running, T1, relay_once};

/// The URL of a new user with just these privileges on the table.
async fn user_with(place: &Place, privileges: &str) -> DbUrl {
    let user = unique("u").replace("u_", "u").chars().take(30).collect::<String>();
    let mut admin = place.session().await;
    match place.kind {
        Kind::MySql => {
            admin.exec(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'pass'")).await;
            admin.exec(&format!("GRANT {privileges} ON push_notify TO {user}@'%'")).await;
        }
        _ => {
            admin.exec(&format!("CREATE ROLE {user} LOGIN PASSWORD 'pass'")).await;
            admin.exec(&format!("GRANT {privileges} ON push_notify TO {user}")).await;
        }
    }
    let (scheme, rest) = place.url.split_once("://").unwrap();
    let host = rest.rsplit_once('@').unwrap().1;
    format!("{scheme}://{user}:pass@{host}").parse().unwrap()
}

async fn select_and_delete_are_enough(place: Place) {
    place.table().await;
    place.session().await.insert(&[(1, T1), (2, T1)]).await;
    let url = user_with(&place, "SELECT, DELETE").await;
    let source = Source::open(&url, &TableSpec::default(), TimeZone::UTC).await.unwrap();
    let mut collector = Collector::default();
    relay_once(&source, &place.file_ledger().await, &mut collector).await;
    assert_eq!(collector.told().len(), 2);
    assert_eq!(place.session().await.count("push_notify").await, 0);
}

async fn a_missing_privilege_is_told_at_the_start(place: Place) {
    place.table().await;
    for missing in ["SELECT", "DELETE"] {
        let granted = if missing == "SELECT" { "DELETE" } else { "SELECT" };
        let url = user_with(&place, granted).await;
        let SourceError::Sql { source, .. } =
            Source::open(&url, &TableSpec::default(), TimeZone::UTC).await.unwrap_err();
        assert_eq!(source.fault, Fault::Denied, "{source}");
        assert!(source.to_string().contains("GRANT") && !source.to_string().contains("pass@"), "{source}");
    }
}

/// A column that holds instants is read as such, whatever the tracker's zone is.
async fn a_column_with_a_time_zone(place: Place) {
    let mut tracker = place.session().await;
    let columns = match place.kind {
        Kind::MySql => "id BIGINT AUTO_INCREMENT PRIMARY KEY, bug_id BIGINT, delta_ts TIMESTAMP",
        _ => "id BIGSERIAL PRIMARY KEY, bug_id BIGINT, delta_ts TIMESTAMPTZ",
    };
    tracker.exec(&format!("CREATE TABLE push_notify ({columns})")).await;
    tracker
        .exec(if place.kind == Kind::MySql { "SET time_zone = '+05:30'" } else { "SET TIME ZONE 'Asia/Kolkata'" })
        .await;
    tracker.insert(&[(1, "2014-04-04 02:43:45")]).await;
    let source = place.open(TimeZone::get("America/Los_Angeles").unwrap()).await;
    let mut collector = Collector::default();
    relay_once(&source, &place.file_ledger().await, &mut collector).await;
    assert_eq!(collector.told(), [(1, 1, "2014-04-03T21:13:45".to_owned())]);
}

macro_rules! on_each_server {
    ($($test:ident),*) => {
        mod mariadb {
            $(#[tokio::test]
            async fn $test() {
                let Some(place) = super::Place::mariadb().await else { return };
                super::$test(place).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                let Some(place) = super::Place::postgres().await else { return };
                super::$test(place).await;
            })*
        }
    };
}
on_each_server!(select_and_delete_are_enough, a_missing_privilege_is_told_at_the_start, a_column_with_a_time_zone);

/// Row-level security that shows rows and does not let them be deleted.
#[tokio::test]
async fn rows_that_row_security_keeps_are_named() {
    let Some(place) = Place::postgres().await else { return };
    place.table().await;
    let url = user_with(&place, "SELECT, DELETE").await;
    let mut admin = place.session().await;
    admin
        .exec(
            "ALTER TABLE push_notify ENABLE ROW LEVEL SECURITY; CREATE POLICY looks ON push_notify FOR SELECT USING (true)",
        )
        .await;
    admin.insert(&[(1, T1), (2, T1)]).await;
    let source = Source::open(&url, &TableSpec::default(), TimeZone::UTC).await.unwrap();
    let (ledger, collector) = (place.file_ledger().await, Collector::default());
    let running = Running::start(&source, &ledger, collector.clone());
    running.until_ready_says(Some("row-level security")).await;
    admin.exec("CREATE POLICY deletes ON push_notify FOR DELETE USING (true)").await;
    running.until_ready_says(None).await;
    running.stop().await;
    assert_eq!((ledger.head().await.unwrap(), collector.told().len()), (2, 2), "each of them once");
}
