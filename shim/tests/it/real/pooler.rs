//! A pooler in front of the tracker's database, which gives each transaction to another session (PgBouncer).

use std::sync::Arc;
use std::time::Duration;

use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_shim::source;
use bugfeed_shim::source::{Source, TableSpec};
use bugfeed_sql::DbUrl;
use bugfeed_testbed::{PgBouncer, shared};
use jiff::tz::TimeZone;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, Row as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::{Collector, Kind, Place, Running, T1};

const LIMIT: Duration = Duration::from_secs(20);

/// A database behind a pooler with one session for all, and the pooler.
async fn pooled() -> Option<(Place, PgBouncer, DbUrl)> {
    let server = shared::postgres().await?;
    let place = Place::on(Kind::Postgres, server.clone()).await;
    let pooler = PgBouncer::start_or_skip(&server).await?;
    let url = pooler.client().url(place.url.rsplit_once('/').unwrap().1).parse().unwrap();
    Some((place, pooler, url))
}

/// The tracker, through the same pooler.
async fn tracker(place: &Place, pooler: &PgBouncer) -> PgConnection {
    let url = pooler.client().url(place.url.rsplit_once('/').unwrap().1);
    let options: PgConnectOptions = url.parse().unwrap();
    options.extra_float_digits(None).connect().await.unwrap()
}

/// What is set on the session that the tracker has just now, otherwise than in the server's configuration.
async fn settings(tracker: &mut PgConnection) -> Vec<String> {
    let sql = "SELECT name || '=' || setting FROM pg_settings WHERE source = 'session' ORDER BY 1";
    let rows = sqlx::raw_sql(sql).fetch_all(tracker).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

#[tokio::test]
async fn the_tracker_finds_its_session_as_it_left_it() {
    let Some((place, pooler, url)) = pooled().await else { return };
    let mut tracker = tracker(&place, &pooler).await;
    sqlx::raw_sql("SET application_name = 'tracker'").execute(&mut tracker).await.unwrap();
    source::init(&url, &TableSpec::default()).await.unwrap();
    let before = settings(&mut tracker).await;
    let source = Source::open(&url, &TableSpec::default(), TimeZone::UTC).await.unwrap();
    let ledger = Ledger::open(&url, &Prefix::default()).await.unwrap();
    let collector = Collector::default();
    let running = Running::start(&source, &ledger, collector.clone());
    for round in 1..=30 {
        let sql = format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES ({round}, '{T1}'), ({round}, '{T1}')");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut tracker).await.unwrap();
        collector.until(2 * round).await;
        assert_eq!(settings(&mut tracker).await, before);
    }
    assert_eq!(running.telemetry.ready(), Ok(()));
    running.stop().await;
    let prepared = sqlx::raw_sql("SELECT name FROM pg_prepared_statements").fetch_all(&mut tracker).await.unwrap();
    assert!(prepared.is_empty());
    let bugs: Vec<u64> = collector.told().into_iter().map(|(_, bug, _)| bug).collect();
    assert_eq!(bugs, (1..=30).flat_map(|bug| [bug, bug]).collect::<Vec<_>>());
    assert!(collector.told().iter().all(|(_, _, when)| when == "2014-04-03T21:13:45"));
}

/// The tracker's own style of dates and time zone do not matter, wherever they are set.
#[tokio::test]
async fn dates_are_read_in_one_style_whatever_the_tracker_sets() {
    let Some((place, pooler, url)) = pooled().await else { return };
    let name = place.url.rsplit_once('/').unwrap().1;
    let mut admin = place.session().await;
    admin.exec(&format!("ALTER DATABASE {name} SET DateStyle = 'German'; ALTER DATABASE {name} SET TimeZone = 'Asia/Kolkata'; ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'; ALTER DATABASE {name} SET standard_conforming_strings = off")).await;
    admin.exec("CREATE TABLE push_notify (id BIGSERIAL PRIMARY KEY, bug_id BIGINT, delta_ts TIMESTAMPTZ)").await;
    let mut tracker = tracker(&place, &pooler).await;
    sqlx::raw_sql("SET TimeZone = 'America/Los_Angeles'").execute(&mut tracker).await.unwrap();
    sqlx::raw_sql("INSERT INTO push_notify (bug_id, delta_ts) VALUES (7, '2014-04-03 21:13:45+00'), (8, 'infinity')")
        .execute(&mut tracker)
        .await
        .unwrap();
    let source = Source::open(&url, &TableSpec::default(), TimeZone::UTC).await.unwrap();
    let (ledger, mut collector) = (place.file_ledger().await, Collector::default());
    crate::support::relay_once(&source, &ledger, &mut collector).await;
    assert_eq!(collector.told(), [(1, 7, "2014-04-03T21:13:45".to_owned())]);
    assert_eq!(place.session().await.count("push_notify").await, 0);
}

/// Listening through a pooler would tell us nothing, and make the tracker's session listen.
#[tokio::test]
async fn nobody_listens_through_a_pooler() {
    let Some((place, pooler, url)) = pooled().await else { return };
    let mut tracker = tracker(&place, &pooler).await;
    let (channel, wake) = ("bugfeed".parse().unwrap(), Arc::new(Notify::new()));
    let notifier = url.notifier().unwrap();
    let listening = notifier.wake_on(&channel, wake, CancellationToken::new());
    tokio::time::timeout(LIMIT, listening).await.expect("it is noticed, and given up");
    let listens = sqlx::raw_sql("SELECT pg_listening_channels()").fetch_all(&mut tracker).await.unwrap();
    assert!(listens.is_empty());
}
