//! The whole road within one process: POST over HTTP → receiver → store → worker → change table.
//!
//! Goes in: how many senders and items. Comes out: figures. Sender and service share the machine, as in the all-in-one.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bugfeed_hooks::config::HooksConfig;
use bugfeed_hooks::receive::key::{Key, RANDOM_BYTES};
use bugfeed_hooks::receive::spool::SpoolOptions;
use bugfeed_hooks::service::{Hooks, HooksOptions};
use bugfeed_hooks::store::keys::{KeyScopes, StoredKey};
use bugfeed_hooks::store::{Options, Store};
use bugfeed_runtime::health::Health;
use bugfeed_runtime::http::{ConnectionEvents, ListenLimits, bind, serve};
use bugfeed_sql::{Db, DbUrl, Use};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::turns::Turns;
use super::{ITEMS, scatter};
use crate::figures::ms;

/// Senders of bulk.
const BULK_SENDERS: u64 = 4;
/// No run takes longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// A running service, and what is known of it.
pub(super) struct Road {
    hooks: Hooks,
    address: SocketAddr,
    key: Key,
    db: Db,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

struct Silent;

impl ConnectionEvents for Silent {
    fn accept_failed(&self, _: &std::io::Error, _: bool) {}
    fn turned_away(&self, _: &'static str, _: Option<std::net::IpAddr>) {}
}

/// How quickly bulk went.
pub(super) struct Bulk {
    /// Until each request was answered.
    pub(super) answered: Duration,
    /// Until each item was in the change table.
    pub(super) through: Duration,
}

impl Road {
    /// Starts a service with an empty store.
    pub(super) async fn start(dir: &Path) -> Result<Road> {
        let url = DbUrl::sqlite_file(dir.join("road.db"));
        let key = Key::generate(&[1; RANDOM_BYTES]);
        let store = Store::open(&url, Options { works: false, ..Options::default() }).await?.store;
        store.add_key(&stored(&key)).await?;
        store.close().await;
        let options = HooksOptions::new(HooksConfig::plain()?, url.clone(), SpoolOptions::new(dir.join("spool")));
        let (stop, tracker) = (options.stop.clone(), options.connections.clone());
        let hooks = Hooks::start(options, Health::new()).await?;
        hooks.opened().await;
        let listener = bind("listen", SocketAddr::from(([127, 0, 0, 1], 0)), 64 * 1024)?;
        let address = listener.local_addr()?;
        let limits = ListenLimits {
            connections: 20_000,
            handshake_timeout: Duration::from_secs(10),
            send_buffer_bytes: 64 * 1024,
            unacknowledged_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        };
        let serving = tokio::spawn(serve(listener, hooks.routes(), limits, Arc::new(Silent), tracker, stop.clone()));
        let db = Db::new(&url, Use::Ledger { create: false });
        Ok(Road { hooks, address, key, db, stop, serving })
    }

    /// Requests with one change each, from so many senders, each of which waits for its answer. Returns the times of all
    /// answers in milliseconds, counted from when the request was due, and how long it took.
    pub(super) async fn singles(&self, senders: u32, bugs: u64, turns: Turns) -> Result<(Vec<f64>, Duration)> {
        let before = self.rows().await?;
        let turns = Arc::new(turns);
        let mut tasks = Vec::new();
        for _ in 0..senders {
            let (mut sender, turns) = (Sender::connect(self).await?, Arc::clone(&turns));
            tasks.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while let Some((number, due)) = turns.next().await {
                    sender.post(&line(number, bugs)).await?;
                    times.push(ms(due.elapsed()));
                }
                Ok::<_, anyhow::Error>(times)
            }));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        let took = turns.elapsed();
        // What follows begins with an idle worker.
        self.wait_for(before + times.len() as u64).await?;
        Ok((times, took))
    }

    /// Sends so many items, as NDJSON of 500 lines.
    pub(super) async fn bulk(&self, items: u64, bugs: u64) -> Result<Bulk> {
        let (before, begin) = (self.rows().await?, Instant::now());
        let (requests, counter) = (items.div_ceil(ITEMS), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..BULK_SENDERS {
            let (mut sender, counter) = (Sender::connect(self).await?, Arc::clone(&counter));
            tasks.push(tokio::spawn(async move {
                loop {
                    let number = counter.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return Ok::<_, anyhow::Error>(());
                    }
                    let numbers = number * ITEMS..(number + 1) * ITEMS;
                    let body: String = numbers.map(|number| line(1_000_000_000 + number, bugs)).collect();
                    sender.post(&body).await?;
                }
            }));
        }
        for task in tasks {
            task.await??;
        }
        let answered = begin.elapsed();
        self.wait_for(before + requests * ITEMS).await?;
        Ok(Bulk { answered, through: begin.elapsed() })
    }

    async fn rows(&self) -> Result<u64> {
        let rows = self.db.fetch("SELECT COALESCE(MAX(id), 0) FROM push_notify_default", &[]).await?;
        let most = rows.first().and_then(|row| row.first()).and_then(bugfeed_sql::Value::int);
        Ok(most.unwrap_or(0).unsigned_abs())
    }

    async fn wait_for(&self, wanted: u64) -> Result<()> {
        let begin = Instant::now();
        loop {
            let rows = self.rows().await?;
            if rows >= wanted {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{rows} of {wanted} rows are in the change table");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.serving.await?;
        self.hooks.stop().await;
        self.db.close().await;
        Ok(())
    }
}

fn stored(key: &Key) -> StoredKey {
    StoredKey {
        id: key.id().to_owned(),
        hash: key.hash(),
        previous: None,
        name: "bench".to_owned(),
        owner: String::new(),
        scopes: KeyScopes::default(),
        created_us: 0,
        expires_us: None,
        used_us: None,
        revoked_us: None,
    }
}

/// A change of some bug, each with a time of its own.
fn line(number: u64, bugs: u64) -> String {
    let bug = scatter(number) % bugs + 1;
    let mut line = String::with_capacity(64);
    // Writing to a String cannot fail.
    let _ =
        writeln!(line, "{{\"bug\":{bug},\"when\":{},\"id\":\"d{number}\"}}", 1_700_000_000_000 + number % 100_000_000);
    line
}

/// A connection that is used again and again.
struct Sender {
    stream: TcpStream,
    head: String,
    answer: Vec<u8>,
}

impl Sender {
    async fn connect(road: &Road) -> Result<Sender> {
        let stream = TcpStream::connect(road.address).await?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /hooks/plain HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Type: application/x-ndjson\r\n",
            road.key.expose()
        );
        Ok(Sender { stream, head, answer: Vec::new() })
    }

    /// Posts, and fails unless all of it was taken by the store.
    async fn post(&mut self, body: &str) -> Result<()> {
        let request = format!("{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the connection was closed: {}", String::from_utf8_lossy(&self.answer));
            }
            if let Some(body) = whole_body(&self.answer)? {
                if !body.starts_with("{\"result\":\"ok\"") || body.contains("\"spooled\"") {
                    bail!("not all was taken: {body}");
                }
                return Ok(());
            }
        }
    }
}

/// The body of an answer, once all of it is there.
fn whole_body(answer: &[u8]) -> Result<Option<&str>> {
    let text = std::str::from_utf8(answer)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no content-length")?;
    Ok((body.len() >= length.parse()?).then_some(body))
}
