//! Processes are killed in the middle of their work. Each test starts its own broker. The modules below: other things that go
//! wrong with a site, one at a time.

pub mod deleted;
mod moved;
pub mod restore;
mod scene;
mod wiped;

use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, RabbitMq, SqlServer, event, eventually, shared, unique};
use rand::{RngExt as _, SeedableRng as _};

use super::split::{Gateway, shim};
use crate::support::{Client, SOON, init};

/// So much room that a client on a busy machine does not lag, and so gets every change and not the newest only.
const ROOMY: [&str; 2] = ["--send-buffer-bytes", "4194304"];

/// A change table, its shim, a gateway with a durable queue, and a client of bugs 1 to 3.
struct Pipeline {
    database: String,
    shim: Proc,
    gateway: Gateway,
    client: Client,
    dir: tempfile::TempDir,
}

impl Pipeline {
    async fn start(server: &SqlServer, amqp: &str) -> Pipeline {
        let database = server.create_database().await.unwrap();
        let source = server.url(&database);
        init(&source).await;
        let gateway = Gateway::start(amqp, &[&ROOMY[..], &["--queue-name", "one"]].concat()).await;
        let dir = tempfile::tempdir().unwrap();
        let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
        let shim = shim(&["--source", &source, "--ledger", &ledger, "--amqp", amqp]).await;
        let mut client = gateway.client().await;
        client.subscribe(&[1, 2, 3]).await;
        Pipeline { database, shim, gateway, client, dir }
    }
}

/// Inserts `count` changes of bugs 1 to 3, a second apart, beginning with number `from`; all in one transaction.
async fn insert(server: &SqlServer, database: &str, from: u32, count: u32) {
    let rows: Vec<String> =
        (from..from + count).map(|i| format!("({}, FROM_UNIXTIME(1400000000 + {i}))", i % 3 + 1)).collect();
    let sql = format!("SET time_zone='+00:00'; INSERT INTO push_notify (bug_id, delta_ts) VALUES {}", rows.join(","));
    server.sql(database, &sql).await.unwrap();
}

/// What the next update must be, when each change arrives once and in order.
async fn expect_all(client: &mut Client, numbers: std::ops::Range<u32>, limit: Duration) {
    for i in numbers {
        let when = jiff::Timestamp::from_second(1_400_000_000 + i64::from(i)).unwrap();
        let when = jiff::tz::TimeZone::UTC.to_datetime(when).to_string();
        let update = tokio::time::timeout(limit, client.update()).await.expect("the next update in time");
        assert_eq!(update, (u64::from(i % 3 + 1), when), "change number {i}");
    }
}

/// Every committed row arrives once and in order at the clients of a gateway with a durable queue, while the broker is
/// killed and restarted again and again; the clients never notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_killed_mid_stream() {
    let Some(server) = shared::mariadb().await else { return };
    let Some(mut rabbit) = RabbitMq::start_or_skip().await else { return };
    let Pipeline { database, shim, mut gateway, mut client, dir: _dir } = Pipeline::start(&server, &rabbit.url()).await;
    let mut sent = 0;
    for round in 0..2 {
        insert(&server, &database, sent, 200).await;
        // Somewhere in the middle of these.
        expect_all(&mut client, sent..sent + 50, SOON).await;
        insert(&server, &database, sent + 200, 200).await;
        rabbit.kill9().await;
        insert(&server, &database, sent + 400, 100).await;
        eventually(SOON, "the gateway says that the broker is away", async || {
            crate::support::get(gateway.admin, "/readyz").await.0 == 503
        })
        .await
        .unwrap();
        rabbit.start_again().await.unwrap();
        expect_all(&mut client, sent + 50..sent + 500, SOON * 3).await;
        gateway.wait_ready().await;
        sent += 500;
        let said = event(LogEvent::PartDown).with("part", "bus").count(&shim.output());
        assert!(said <= 2 * (round + 1), "said once, not for each row: {}", shim.output());
    }
    drop(gateway);
}

/// The shim is killed with kill -9 at random moments while a writer inserts; every row arrives once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shim_is_killed_at_random_moments() {
    let Some(server) = shared::mariadb().await else { return };
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let database = server.create_database().await.unwrap();
    let (source, exchange) = (server.url(&database), unique("exchange"));
    init(&source).await;
    let feed = format!("default={exchange}");
    let gateway = Gateway::start(&rabbit.url, &[&ROOMY[..], &["--feed", &feed]].concat()).await;
    let mut client = gateway.client().await;
    client.subscribe(&[1, 2, 3]).await;
    let dir = tempfile::tempdir().unwrap();
    let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
    let options = ["--source", &source, "--ledger", &ledger, "--amqp", &rabbit.url, "--exchange", &exchange];

    const ROWS: u32 = 6000;
    let (writer_server, writer_database) = (server.clone(), database.clone());
    let batches: Vec<u32> = (0..ROWS / 100).map(|_| 100).collect();
    let writer = tokio::spawn(async move {
        let mut from = 0;
        for batch in batches {
            insert(&writer_server, &writer_database, from, batch).await;
            from += batch;
        }
    });
    let mut killed = 0;
    let mut running = shim(&options).await;
    let arriving = tokio::spawn(async move {
        expect_all(&mut client, 0..ROWS, SOON * 2).await;
        client
    });
    while !arriving.is_finished() {
        if !writer.is_finished() {
            // Time itself is what is random here.
            let pause = Duration::from_millis(random.random_range(20..400));
            let _ = tokio::time::timeout(pause, std::future::pending::<()>()).await;
            running.kill9();
            killed += 1;
            running = shim(&options).await;
        }
        tokio::task::yield_now().await;
        if writer.is_finished() {
            break;
        }
    }
    writer.await.unwrap();
    let mut client = arriving.await.unwrap();
    println!("killed {killed} times");
    assert!(killed >= 3, "killed only {killed} times");
    // And nothing twice: the next update is the next change.
    insert(&server, &database, ROWS, 1).await;
    expect_all(&mut client, ROWS..ROWS + 1, SOON).await;
    drop(running);
}

/// The broker closes every connection: gateway and shim come back by themselves, clients stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_closes_every_connection() {
    let Some(server) = shared::mariadb().await else { return };
    let Some(rabbit) = RabbitMq::start_or_skip().await else { return };
    let mut pipeline = Pipeline::start(&server, &rabbit.url()).await;
    for round in 0..3 {
        insert(&server, &pipeline.database, round * 300, 300).await;
        rabbit.ctl(&["close_all_connections", "maintenance"]).await.unwrap();
        expect_all(&mut pipeline.client, round * 300..(round + 1) * 300, SOON).await;
    }
    pipeline.gateway.wait_ready().await;
}
