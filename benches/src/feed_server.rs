//! A gateway without a broker, to measure what the feed alone costs: the library's feed and listener, and a
//! port that takes messages of the bus.
//!
//! Goes in, on that port, one line each: a message in its form on the bus; `generate PHASE`, which makes and takes in a
//! phase's messages at full speed, without reading or decoding; `settle`, which is answered with `settled` when
//! everything before it was taken in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bugfeed::cli::{Cli, Command};
use bugfeed_core::bus::{Event, Queue};
use bugfeed_gateway::events::Events;
use bugfeed_gateway::feed::{self, Clock, Ingest};
use bugfeed_gateway::http::origins::Origins;
use bugfeed_gateway::http::routes::{self, AppState, DEFAULT_FEED};
use bugfeed_protocol::bus::{BusMessage, Message};
use bugfeed_protocol::{Cursor, Epoch};
use bugfeed_runtime::http as listen;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::plan::Phase;

/// Runs until standard input ends. `args` are options of `bugfeed gateway`; those about the broker are ignored.
///
/// # Errors
/// When an option is wrong or a port cannot be bound.
pub fn run(feed: SocketAddr, args: &[OsString]) -> Result<()> {
    let words = ["bugfeed", "gateway"].map(OsString::from).into_iter().chain(args.iter().cloned());
    let Command::Gateway(gateway) = Cli::read(words)?.command else { bail!("these are no options of a gateway") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let serving = gateway.listen.serving().map_err(anyhow::Error::msg)?;
        let listener = listen::bind("listen", serving.listen, serving.limits.send_buffer_bytes)?;
        let messages = TcpListener::bind(feed).await.with_context(|| format!("cannot listen on {feed}"))?;
        let (events, tracker, stop) = (Arc::new(Events::new()), TaskTracker::new(), CancellationToken::new());
        let parts = feed::feed(DEFAULT_FEED, &serving.feed, Clock::start(), &events);
        for shard in parts.shards {
            tokio::spawn(shard.run(stop.clone()));
        }
        let feeds = Arc::new(BTreeMap::from([(DEFAULT_FEED.to_owned(), parts.feed)]));
        let origins = Origins::new(&serving.origins);
        let state = AppState {
            webhooks: None,
            feeds,
            demo: None,
            trackers: Arc::default(),
            origins,
            events: Arc::clone(&events),
            tracker: tracker.clone(),
        };
        let (router, limits) = (routes::router(state), serving.limits);
        tokio::spawn(listen::serve(listener, router, limits, events, tracker, stop));
        let mut ingest = parts.ingest;
        ingest.take(Event::Connected { queue: Queue::Ledger, waiting: 0 }).await;
        loop {
            let (stream, _) = messages.accept().await?;
            stream.set_nodelay(true)?;
            serve(stream, &mut ingest).await?;
        }
    })
}

async fn serve(stream: TcpStream, ingest: &mut Ingest) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::with_capacity(64 * 1024, read);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        match line.as_slice() {
            [b'{', ..] => {
                if let Some(Message::Change(message)) = ingest.read(None, &line) {
                    ingest.take_change(message, None).await;
                }
            }
            b"settle\n" => write.write_all(b"settled\n").await?,
            other => {
                let phase = other.strip_prefix(b"generate ").context("neither a message nor a command")?;
                generate(ingest, &serde_json::from_slice(phase)?).await?;
            }
        }
    }
}

async fn generate(ingest: &mut Ingest, phase: &Phase) -> Result<()> {
    let epoch = Epoch::parse("bench").context("an epoch")?;
    let before = ingest.head().map_or(0, |head| head.seq);
    for (number, index) in phase.indices().enumerate() {
        let cursor = Cursor::new(epoch.clone(), before + 1 + number as u64);
        let message = BusMessage { change: phase.change(index), cursor: Some(cursor), after: None };
        ingest.take_change(message, None).await;
    }
    Ok(())
}
