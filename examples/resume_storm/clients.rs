//! The clients of the storm: a process of its own, which does as it is told, one order a line.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bugfeed_protocol::Cursor;
use futures::{SinkExt as _, StreamExt as _};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{Answer, LIMIT, Options, Order, bug_of};

/// How often one client tries to connect.
const ATTEMPTS: u32 = 5;

/// A process with clients does as it is told until its input ends.
pub(super) async fn work(options: &Options, number: u32) {
    let gateway = options.gateway.unwrap();
    let mut clients: Vec<Client> = (0..options.clients).map(|n| Client::new(options, number, n)).collect();
    for line in std::io::stdin().lines() {
        let answer = match serde_json::from_str(&line.unwrap()).unwrap() {
            Order::Open => phase(&mut clients, gateway, Target::new(1, 1, options.bugs), 200).await,
            Order::Live(from, to) => {
                phase(&mut clients, gateway, Target::new(from, to, options.bugs), usize::MAX).await
            }
            Order::Resume(from, to) => {
                phase(&mut clients, gateway, Target::new(from, to, options.bugs), usize::MAX).await
            }
            Order::Drop => {
                clients.iter_mut().for_each(|client| client.socket = None);
                Answer::default()
            }
        };
        println!("{}", serde_json::to_string(&answer).unwrap());
    }
}

/// What each client must get: the newest of the changes after one number up to another.
struct Target {
    newest: HashMap<u32, u64>,
}

impl Target {
    fn new(from: u64, to: u64, bugs: u32) -> Arc<Target> {
        Arc::new(Target { newest: (from + 1..=to).map(|seq| (bug_of(seq, bugs), seq)).collect() })
    }
}

type Socket = WebSocketStream<TcpStream>;

struct Client {
    source: Ipv4Addr,
    bugs: BTreeSet<u32>,
    cursor: Option<Cursor>,
    socket: Option<Socket>,
    /// The newest number of each bug it got since it began the phase.
    answer: Answer,
}

#[derive(Deserialize)]
struct Frame<'a> {
    command: &'a str,
    replay: Option<String>,
    bug: Option<u32>,
    cursor: Option<&'a str>,
}

/// Runs one phase for all clients; at most so many begin at a time.
async fn phase(clients: &mut Vec<Client>, gateway: SocketAddr, target: Arc<Target>, at_once: usize) -> Answer {
    let begin = Instant::now();
    let mut waiting = std::mem::take(clients);
    let mut running = JoinSet::new();
    let mut all = Answer::default();
    loop {
        while running.len() < at_once
            && let Some(mut client) = waiting.pop()
        {
            let target = Arc::clone(&target);
            running.spawn(async move {
                client.answer = Answer::default();
                let done = tokio::time::timeout(LIMIT, Box::pin(client.come(gateway, &target, begin))).await;
                client.answer.lost = u64::from(!matches!(done, Ok(Some(()))));
                client.answer.current_s = begin.elapsed().as_secs_f64();
                client
            });
        }
        let Some(done) = running.join_next().await else { return all };
        let client = done.unwrap();
        all.add(&client.answer);
        clients.push(client);
    }
}

impl Client {
    fn new(options: &Options, process: u32, number: u32) -> Client {
        let mut random = SmallRng::seed_from_u64(u64::from(process) << 32 | u64::from(number));
        let mut bugs = BTreeSet::new();
        while bugs.len() < options.subscriptions.min(options.bugs) as usize {
            bugs.insert(random.random_range(1..=options.bugs));
        }
        let last = u8::try_from(2 + (process * 31 + number % 31) % 250).unwrap();
        Client { source: Ipv4Addr::new(127, 0, 0, last), bugs, cursor: None, socket: None, answer: Answer::default() }
    }

    /// Connects and subscribes if it has to, and reads until it has everything. None: the connection was lost.
    async fn come(&mut self, gateway: SocketAddr, target: &Target, begin: Instant) -> Option<()> {
        let mut replied = self.socket.is_some();
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.subscribe(gateway).await?,
        };
        let mut missing: HashMap<u32, u64> =
            self.bugs.iter().filter_map(|bug| Some((*bug, *target.newest.get(bug)?))).collect();
        // What came before this phase was asked for is not missing.
        missing.retain(|_, seq| self.cursor.as_ref().is_none_or(|cursor| cursor.seq < *seq));
        while !replied || !missing.is_empty() {
            let Ok(Message::Text(text)) = socket.next().await?.map_err(drop) else { continue };
            let frame: Frame<'_> = serde_json::from_str(&text).unwrap();
            let cursor = frame.cursor.and_then(Cursor::parse);
            match (frame.command, frame.bug) {
                ("subscribe", _) => {
                    replied = true;
                    self.answer.replied_s = begin.elapsed().as_secs_f64();
                    let verdict = frame.replay.unwrap_or_else(|| "none".to_owned());
                    *self.answer.verdicts.entry(verdict).or_default() += 1;
                }
                ("update", Some(bug)) => {
                    let seq = cursor.as_ref().unwrap().seq;
                    self.answer.updates += 1;
                    self.answer.repeated += u64::from(self.cursor.as_ref().is_some_and(|cursor| cursor.seq >= seq));
                    if missing.get(&bug) == Some(&seq) {
                        missing.remove(&bug);
                    }
                }
                // The hello's cursor is the head, and of use only before anything was asked for.
                ("hello", _) => continue,
                _ => {}
            }
            self.cursor = cursor.or(self.cursor.take());
        }
        self.socket = Some(socket);
        Some(())
    }

    async fn subscribe(&mut self, gateway: SocketAddr) -> Option<Socket> {
        let mut attempt = 0;
        let mut socket = loop {
            match connect(self.source, gateway).await {
                Ok(socket) => break socket,
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(_) => return None,
            }
        };
        self.answer.retries += u64::from(attempt);
        let subscribe = json!({ "command": "subscribe", "bugs": self.bugs, "cursor": self.cursor });
        socket.feed(Message::text(r#"{"command":"hello","heartbeat":300}"#)).await.ok()?;
        socket.feed(Message::text(subscribe.to_string())).await.ok()?;
        socket.flush().await.ok()?;
        Some(socket)
    }
}

async fn connect(source: Ipv4Addr, gateway: SocketAddr) -> anyhow::Result<Socket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(gateway).await?;
    let small = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
    let url = format!("ws://{gateway}/");
    Ok(Box::pin(tokio_tungstenite::client_async_with_config(url, stream, Some(small))).await?.0)
}
