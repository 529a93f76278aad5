//! The tracker's database moves to another server behind its address, with the rows that it has, as a switch-over does it.

use std::net::SocketAddr;

use bugfeed_testbed::{MariaDb, Postgres, Proc, SqlKind, SqlServer, eventually, free_port, shared, unique};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::scene::PATIENCE;
use crate::real::split::{Gateway, shim};
use crate::support::{Client, get, init};

const DATABASE: &str = "bugs";
/// Rows that are written at once, right before the old server takes no writes any more.
const BURST: u32 = 300;

/// An address behind which one server is, and later another. Who is connected stays so, as long as that server lives.
struct Address {
    port: u16,
    to: watch::Sender<u16>,
    accepting: AbortHandle,
}

impl Address {
    async fn of(to: u16) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, now) = watch::channel(to);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let to = *now.borrow();
                connections.spawn(async move {
                    // Where nobody listens, whoever connected is cut off at once.
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let _either_side_may_end_it = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Address { port, to, accepting: accepting.abort_handle() }
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn no_database(server: &SqlServer) -> &'static str {
    if server.kind() == SqlKind::MySql { "" } else { "postgres" }
}

/// A change table, in a database that has the same name on each server, and a user who may read and delete.
async fn prepare(server: &SqlServer) {
    server.sql(no_database(server), &format!("CREATE DATABASE {DATABASE};")).await.unwrap();
    init(&server.url(DATABASE)).await;
    let user = match server.kind() {
        SqlKind::MySql => {
            "CREATE USER shim@'%' IDENTIFIED BY 'pass'; GRANT SELECT, DELETE ON bugs.push_notify TO shim@'%';"
        }
        SqlKind::Postgres => "CREATE ROLE shim LOGIN PASSWORD 'pass'; GRANT SELECT, DELETE ON push_notify TO shim;",
    };
    server.sql(DATABASE, user).await.unwrap();
}

fn when(number: u32) -> String {
    let when = jiff::Timestamp::from_second(1_400_000_000 + i64::from(number)).unwrap();
    jiff::tz::TimeZone::UTC.to_datetime(when).to_string()
}

async fn insert(server: &SqlServer, numbers: std::ops::Range<u32>) {
    let rows: Vec<String> = numbers.map(|number| format!("({}, '{}')", number % 3 + 1, when(number))).collect();
    let sql = format!("INSERT INTO push_notify (bug_id, delta_ts) VALUES {};", rows.join(","));
    server.sql(DATABASE, &sql).await.unwrap();
}

/// The rows that the old server has still, on the new one, with their ids, as replication brings them. How many.
async fn replicate(old: &SqlServer, new: &SqlServer) -> usize {
    let all = old.sql(DATABASE, "SELECT id, bug_id, delta_ts FROM push_notify ORDER BY id;").await.unwrap();
    let rows: Vec<String> = all
        .lines()
        .map(|line| {
            let [id, bug, when] = line.split(['\t', '|']).collect::<Vec<_>>()[..] else { panic!("{line}") };
            format!("({id}, {bug}, '{when}')")
        })
        .collect();
    if !rows.is_empty() {
        let sql = format!("INSERT INTO push_notify (id, bug_id, delta_ts) VALUES {};", rows.join(","));
        new.sql(DATABASE, &sql).await.unwrap();
    }
    if new.kind() == SqlKind::Postgres {
        let next = "SELECT setval(pg_get_serial_sequence('push_notify', 'id'), 10000);";
        new.sql(DATABASE, next).await.unwrap();
    }
    rows.len()
}

/// A shim on the address, a gateway, and a modern client of all bugs.
struct Site {
    _shim: Proc,
    shim_admin: SocketAddr,
    _gateway: Gateway,
    client: Client,
    _dir: tempfile::TempDir,
    updates: Vec<String>,
    /// What the client was told of the feed.
    states: Vec<String>,
}

impl Site {
    async fn start(amqp: &str, kind: SqlKind, address: &Address) -> Site {
        let (dir, exchange) = (tempfile::tempdir().unwrap(), unique("moved"));
        let scheme = if kind == SqlKind::MySql { "mysql" } else { "postgres" };
        let source = format!("{scheme}://shim:pass@127.0.0.1:{}/{DATABASE}", address.port);
        let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
        let shim_admin = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let options = ["--source", &source, "--ledger", &ledger, "--amqp", amqp, "--exchange", &exchange];
        let shim = shim(&[&options[..], &["--admin-listen", &shim_admin.to_string()]].concat()).await;
        let feed = format!("default={exchange}");
        let gateway = Gateway::start(amqp, &["--feed", &feed, "--send-buffer-bytes", "4194304"]).await;
        let mut client = gateway.client().await;
        client.ask(r#"{"command":"hello","heartbeat":300}"#).await;
        client.send(r#"{"command":"subscribe","bugs":[1,2,3]}"#).await;
        let mut site = Site {
            _shim: shim,
            shim_admin,
            _gateway: gateway,
            client,
            _dir: dir,
            updates: Vec::new(),
            states: Vec::new(),
        };
        while site.next().await != "subscribe" {}
        site
    }

    /// Takes the next message; what it says.
    async fn next(&mut self) -> String {
        let message = self.client.json().await;
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        match message["command"].as_str().unwrap() {
            "update" => self.updates.push(text("when")),
            "feed" => self.states.push(text("state")),
            "subscribe" | "heartbeat" => {}
            _ => panic!("not to be told: {message}"),
        }
        text("command")
    }

    /// Waits until all numbers up to this were told, once and in order.
    async fn told(&mut self, count: u32) {
        while self.updates.len() < count as usize {
            self.next().await;
        }
        assert_eq!(self.updates, (0..count).map(when).collect::<Vec<_>>());
    }

    async fn state(&mut self, state: &str) {
        while self.states.last().is_none_or(|last| last != state) {
            self.next().await;
        }
    }

    async fn shim_says(&self, status: u16, text: &str) {
        let say = async || {
            let (now, body) = get(self.shim_admin, "/readyz").await;
            if now == status && body.contains(text) { Ok(()) } else { Err(format!("{now} {body}")) }
        };
        eventually(PATIENCE, format!("a shim that says {status} {text}"), say).await.unwrap();
    }
}

/// The old server takes no writes any more and answers on, with rows that were read and could not be deleted.
async fn old_one_read_only(old: &SqlServer, new: &SqlServer, read_only: &str) {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    prepare(old).await;
    prepare(new).await;
    let address = Address::of(old.address().1).await;
    let mut site = Site::start(&rabbit.url, old.kind(), &address).await;
    insert(old, 0..10).await;
    site.told(10).await;
    old.sql(no_database(old), read_only).await.unwrap();
    insert_all_the_same(old, 10..10 + BURST).await;
    site.shim_says(503, "takes no writes").await;
    site.state("paused").await;
    assert!(replicate(old, new).await > 0, "rows that both servers have");
    address.to.send_replace(new.address().1);
    insert(new, 10 + BURST..20 + BURST).await;
    site.told(20 + BURST).await;
    site.state("live").await;
    site.shim_says(200, "").await;
    eventually(PATIENCE, "the new server's table is empty", async || {
        let left = new.sql(DATABASE, "SELECT COUNT(*) FROM push_notify;").await.unwrap();
        if left == "0" { Ok(()) } else { Err(left) }
    })
    .await
    .unwrap();
    // And nothing of it is told twice.
    insert(new, 20 + BURST..21 + BURST).await;
    site.told(21 + BURST).await;
}

/// What the tracker had written before its server became read-only; this user may write on.
async fn insert_all_the_same(server: &SqlServer, numbers: std::ops::Range<u32>) {
    match server.kind() {
        SqlKind::MySql => insert(server, numbers).await,
        SqlKind::Postgres => {
            let rows: Vec<String> = numbers.map(|number| format!("({}, '{}')", number % 3 + 1, when(number))).collect();
            let sql = format!(
                "SET default_transaction_read_only = off; INSERT INTO push_notify (bug_id, delta_ts) VALUES {};",
                rows.join(",")
            );
            server.sql(DATABASE, &sql).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_moves_and_the_old_one_is_read_only() {
    let (old, new) = tokio::join!(MariaDb::start_or_skip(), MariaDb::start_or_skip());
    let (Some(old), Some(new)) = (old, new) else { return };
    old_one_read_only(old.client(), new.client(), "SET GLOBAL read_only = 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_moves_and_the_old_one_is_read_only() {
    let (old, new) = tokio::join!(Postgres::start_or_skip(), Postgres::start_or_skip());
    let (Some(old), Some(new)) = (old, new) else { return };
    let read_only = "ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf();";
    old_one_read_only(old.client(), new.client(), read_only).await;
}

/// The old server dies; what it had not told yet is on the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_moves_and_the_old_one_is_gone() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (old, new) = tokio::join!(Postgres::start_or_skip(), Postgres::start_or_skip());
    let (Some(mut old), Some(new)) = (old, new) else { return };
    prepare(old.client()).await;
    prepare(new.client()).await;
    let address = Address::of(old.client().address().1).await;
    let mut site = Site::start(&rabbit.url, SqlKind::Postgres, &address).await;
    insert(old.client(), 0..10).await;
    site.told(10).await;
    old.kill9().await;
    site.shim_says(503, "").await;
    site.state("paused").await;
    let next = "SELECT setval(pg_get_serial_sequence('push_notify', 'id'), 10000);";
    new.sql(DATABASE, next).await.unwrap();
    insert(new.client(), 10..20).await;
    address.to.send_replace(new.client().address().1);
    site.told(20).await;
    site.state("live").await;
    site.shim_says(200, "").await;
}
