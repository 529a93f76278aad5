//! How long from an INSERT into the change table to the frame at a client? For the all-in-one, and for the split set-up
//! with MariaDB, RabbitMQ and two gateways (throwaway servers, as in the tests).
//!
//! ```sh
//! cargo build --profile dist --workspace --bins && cargo run --profile dist --example latency
//! ```
//!
//! Each sample is one INSERT in a transaction of its own, after a random pause, timed from before the statement is
//! sent until the client has read the frame. What it shows is mostly the poll: `--poll-interval-ms` bounds it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic)]

use std::time::{Duration, Instant};

use bugfeed_testbed::{MariaDb, Proc, RabbitMq, Run, bin, eventually, free_port};
use futures::{SinkExt as _, StreamExt as _};
use rand::RngExt as _;
use sqlx::Connection as _;
use tokio_tungstenite::tungstenite::Message;

const SAMPLES: usize = 300;
const LIMIT: Duration = Duration::from_secs(60);

/// Connects to a gateway and subscribes bug 1234.
async fn subscribe(port: u16) -> impl futures::Stream<Item = Message> + Unpin {
    let url = format!("ws://127.0.0.1:{port}/");
    let (mut socket, _) =
        eventually(LIMIT, "a connection", async || tokio_tungstenite::connect_async(&url).await).await.unwrap();
    socket.send(Message::text(r#"{"command":"subscribe","bugs":1234}"#)).await.unwrap();
    let mut texts = Box::pin(socket.filter_map(async |message| message.ok().filter(|message| message.is_text())));
    texts.next().await.unwrap();
    texts
}

/// Inserts, waits for every client to have the frame, and prints the percentiles of the slowest client's times.
async fn measure<C, S>(name: &str, connection: &mut C, clients: &mut [S])
where
    C: sqlx::Connection,
    for<'c> &'c mut C: sqlx::Executor<'c, Database = C::Database>,
    S: futures::Stream<Item = Message> + Unpin,
{
    for (kind, pauses_ms) in [("every 10 to 30 ms", 10..30), ("every 300 to 700 ms, so that it is idle", 300..700)] {
        let samples = if pauses_ms.start < 100 { SAMPLES } else { SAMPLES / 3 };
        let mut times = Vec::new();
        for _ in 0..samples {
            tokio::time::sleep(Duration::from_millis(rand::rng().random_range(pauses_ms.clone()))).await;
            let begin = Instant::now();
            let insert = "INSERT INTO push_notify (bug_id, delta_ts) VALUES (1234, '2014-04-03 21:13:45')";
            sqlx::raw_sql(insert).execute(&mut *connection).await.unwrap();
            for client in &mut *clients {
                tokio::time::timeout(LIMIT, client.next()).await.unwrap().unwrap();
            }
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let percentile = |p: usize| times[(times.len() * p / 100).min(times.len() - 1)];
        println!(
            "{name}, an INSERT {kind}: p50 {:.1} ms, p99 {:.1} ms ({samples} samples)",
            percentile(50),
            percentile(99)
        );
    }
}

fn gateway(args: &[&str]) -> (Proc, u16) {
    let port = free_port().unwrap();
    let run = Run::new(bin("bugfeed").unwrap()).args(args);
    let listen = format!("127.0.0.1:{port}");
    (run.args(["--listen", &listen, "--admin-listen", "127.0.0.1:0"]).spawn().unwrap(), port)
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (_serve, port) = gateway(&["serve", "--data-dir", data.to_str().unwrap()]);
    let client = subscribe(port).await;
    let url = format!("sqlite://{}/bugfeed.db", data.display());
    let mut sqlite = sqlx::SqliteConnection::connect(&url).await.unwrap();
    measure("all in one, SQLite", &mut sqlite, &mut [client]).await;

    let (mariadb, rabbit) = tokio::try_join!(MariaDb::start(), RabbitMq::start()).unwrap();
    let source = mariadb.url(&mariadb.create_database().await.unwrap());
    let shim = bin("bugfeed-shim").unwrap();
    let mut init = Proc::spawn(&shim, &["init", "--source", &source], &[]).unwrap();
    init.succeeds(LIMIT).await.unwrap();
    let (amqp, ledger) = (rabbit.url(), format!("sqlite://{}/ledger.db", dir.path().display()));
    let (_one, port_one) = gateway(&["gateway", "--amqp", &amqp]);
    let (_two, port_two) = gateway(&["gateway", "--amqp", &amqp]);
    let mut clients = [subscribe(port_one).await, subscribe(port_two).await];
    let _shim = Proc::spawn(&shim, &["run", "--source", &source, "--ledger", &ledger, "--amqp", &amqp], &[]).unwrap();
    let mut connection = sqlx::MySqlConnection::connect(&source).await.unwrap();
    measure("MariaDB, RabbitMQ and two gateways", &mut connection, &mut clients).await;
}
