//! The network is pulled out for a minute under clients of every kind: each comes back by itself and misses nothing.
//!
//! Half of the clients see their connections break, and cannot connect again. For the other half nothing arrives and nothing
//! breaks, as behind a router without power: they have to notice by themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bugfeed_testbed::{Proc, Run, bin, eventually};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::browser::webdriver::WebDriver;
use crate::examples::tools::{Python, node};
use crate::support::{SOON, Serve, get};

/// How long it is gone.
const OUTAGE: Duration = Duration::from_secs(60);

/// From when on nobody may have missed anything: two and a half heartbeats of 30 s after it went, those who see nothing break
/// begin to look for another connection, which fails once more for up to 15 s; then one of them is good.
const BACK: Duration = Duration::from_secs(75);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Line {
    Up,
    /// Connections are broken, new ones at once.
    Cut,
    /// Nothing comes through, and nobody is told. What was connected then stays so for good.
    Dark,
}

/// A cable to a server.
pub(super) struct Network {
    pub(super) address: SocketAddr,
    pub(super) line: watch::Sender<Line>,
    /// What will become of it.
    fate: Line,
    accepting: AbortHandle,
}

impl Network {
    pub(super) async fn to(gateway: SocketAddr, fate: Line) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, state) = watch::channel(Line::Up);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(carry(client, gateway, state.clone()));
            }
        });
        Network { address, line, fate, accepting: accepting.abort_handle() }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut client: TcpStream, gateway: SocketAddr, mut line: watch::Receiver<Line>) {
    let now = *line.borrow();
    let mut server = match now {
        Line::Up => TcpStream::connect(gateway).await.unwrap(),
        Line::Cut => return,
        Line::Dark => return std::future::pending().await,
    };
    let went = async { line.wait_for(|line| *line != Line::Up).await.map(|line| *line) };
    let went = tokio::select! {
        _either_side_may_end_it = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
        went = went => went,
    };
    if went.is_ok_and(|line| line == Line::Dark) {
        // Both sides stay connected, to nothing.
        std::future::pending::<()>().await;
    }
}

/// A client that tells of changes as they come.
struct Client {
    name: String,
    telling: Telling,
}

enum Telling {
    /// A line of JSON each.
    Program(Proc),
    /// In `window.seen`.
    Page(WebDriver),
}

const NODE: &str = "
    import { Bugfeed } from './bugfeed.js';
    import WebSocket from 'ws';
    const feed = new Bugfeed(process.argv[1], { bugs: [1, 2], WebSocket });
    for await (const event of feed) console.log(JSON.stringify(event));";

const PYTHON: &str = "
import asyncio, json, sys
from bugfeed_client import Bugfeed
async def main():
    async with Bugfeed(sys.argv[1]) as feed:
        async for event in feed.watch([1, 2]):
            print(json.dumps(vars(event)), flush=True)
asyncio.run(main())";

const PAGE: &str = "
    window.seen = [];
    import('/client.js').then(({ Bugfeed }) => {
        const feed = new Bugfeed('/', { bugs: [1, 2] });
        for (const type of ['change', 'gap', 'error']) feed.addEventListener(type, ({ detail }) => seen.push(detail));
    });";

impl Client {
    /// None where what it is made of is not installed.
    async fn start(kind: &str, network: &Network) -> Option<Client> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (address, name) = (network.address, format!("{kind} {:?}", network.fate));
        let (url, page) = (format!("ws://{address}/"), format!("http://{address}/"));
        let run = match kind {
            "watch" => Run::new(bin("bugfeed").unwrap()).args(["watch", "1", "2", "--json", "--url", &url]),
            "curl" => Run::new("sh").arg(root.join("examples/curl/poll.sh")).args([&page, "1,2"]),
            "node" => {
                node()?;
                let program = ["--input-type=module", "--eval", NODE, &url];
                Run::new("node").args(program).dir(root.join("clients/js"))
            }
            "python" => Python::find_or_skip()?.code(PYTHON).arg(&url),
            "page" => {
                let driver = WebDriver::start_or_skip().await?;
                // Of the same site, but without the live page's policy.
                driver.goto(&format!("{page}changes?bugs=1")).await;
                driver.script(PAGE, json!([])).await;
                return Some(Client { name, telling: Telling::Page(driver) });
            }
            other => panic!("{other}"),
        };
        Some(Client { name, telling: Telling::Program(run.spawn().unwrap()) })
    }

    /// The times of the changes it told of, in order. It may have told of nothing else.
    async fn seen(&self) -> Vec<String> {
        let messages: Vec<Value> = match &self.telling {
            Telling::Page(driver) => serde_json::from_value(driver.script("return seen;", json!([])).await).unwrap(),
            Telling::Program(proc) => {
                let output = proc.output();
                output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
            }
        };
        let mut seen = Vec::new();
        for message in messages {
            match &message["changes"] {
                Value::Array(changes) => seen.extend(changes.iter().map(|change| change["when"].clone())),
                _ => seen.push(message["when"].clone()),
            }
            assert_ne!(message["replay"], "gap", "{}", self.name);
        }
        let text = |when: &Value| when.as_str().unwrap_or_else(|| panic!("{}: {seen:?}", self.name)).to_owned();
        seen.iter().map(text).collect()
    }
}

#[tokio::test]
async fn clients_of_every_kind_miss_nothing_while_the_network_is_gone_for_a_minute() {
    let serve = Serve::start(&[]).await;
    let networks = [Network::to(serve.clients, Line::Cut).await, Network::to(serve.clients, Line::Dark).await];
    let mut clients = Vec::new();
    for kind in ["watch", "curl", "node", "python", "page"] {
        for network in &networks {
            let Some(client) = Client::start(kind, network).await else { return };
            clients.push(client);
        }
    }
    let all_in = format!("bugfeed_connections {}", clients.len());
    eventually(SOON, "all are connected", async || {
        let page = get(serve.admin, "/metrics").await.1;
        if page.lines().any(|line| line == all_in) { Ok(()) } else { Err(page) }
    })
    .await
    .unwrap();

    let mut sent = Vec::new();
    let mut change = async || {
        let second = sent.len();
        sent.push(format!("2014-04-03T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60));
        serve.touch(1 + second as u64 % 2, &sent[second]).await;
        sent.clone()
    };
    let missing = async |sent: &[String]| {
        for client in &clients {
            let seen = client.seen().await;
            if seen != sent {
                return Err(format!("{}: {seen:?} of {sent:?}", client.name));
            }
        }
        Ok(())
    };
    for _ in 0..10 {
        change().await;
    }
    let before = change().await;
    eventually(SOON, "all have what came before", async || missing(&before).await).await.unwrap();

    for network in &networks {
        network.line.send_replace(network.fate);
    }
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..OUTAGE.as_secs() {
        every_second.tick().await;
        change().await;
    }
    missing(&before).await.expect("nothing came through");
    for network in &networks {
        network.line.send_replace(Line::Up);
    }

    let after = change().await;
    eventually(BACK, "all have everything, once and in order", async || missing(&after).await).await.unwrap();
}
