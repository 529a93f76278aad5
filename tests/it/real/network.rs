//! The network is pulled out for a minute under clients of every kind: each comes back by itself and misses nothing.
//!
//! Half of them see their connections break and nobody answer; for the other half nothing moves any more and nothing breaks,
//! as behind a router that has lost its power: they have to notice by themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bugfeed_testbed::{Proc, Run, bin, eventually};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::support::{SOON, Serve, get};

/// How long it is gone.
const OUTAGE: Duration = Duration::from_secs(60);

/// From when on nobody may have missed anything: two and a half heartbeats of 30 s after it went, those who see nothing break
/// begin to look for another connection, which fails once more for up to 15 s; then one of them is good.
const BACK: Duration = Duration::from_secs(75);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    Up,
    /// Connections are broken, new ones at once.
    Cut,
    /// Nothing comes through, and nobody is told. What was connected then stays so for good.
    Dark,
}

/// A cable to a gateway.
struct Network {
    address: SocketAddr,
    line: watch::Sender<Line>,
    /// What will become of it.
    fate: Line,
    accepting: AbortHandle,
}

impl Network {
    async fn to(gateway: SocketAddr, fate: Line) -> Network {
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

/// A client, and how its output tells of changes.
struct Client {
    name: String,
    proc: Proc,
}

impl Client {
    fn start(kind: &str, network: &Network, dir: &Path) -> Client {
        let (address, name) = (network.address, format!("{kind} {:?}", network.fate));
        let run = match kind {
            "watch" => {
                let url = format!("ws://{address}/");
                Run::new(bin("bugfeed").unwrap()).args(["watch", "1", "2", "--json", "--url", &url])
            }
            "curl" => {
                let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/curl/poll.sh");
                Run::new("sh").arg(program).args([format!("http://{address}/"), "1,2".to_owned()])
            }
            other => panic!("{other}"),
        };
        Client { name, proc: run.dir(dir).spawn().unwrap() }
    }

    /// The times of the changes it told of, in order. None may be told twice, and no gap.
    fn seen(&self) -> Vec<String> {
        let mut seen = Vec::new();
        let output = self.proc.output();
        for line in output.lines().filter(|line| line.starts_with('{')) {
            let message: Value = serde_json::from_str(line).unwrap();
            assert!(!line.contains("gap"), "{}: {output}", self.name);
            match &message["changes"] {
                Value::Array(changes) => seen.extend(changes.iter().map(|change| change["when"].clone())),
                _ => seen.push(message["when"].clone()),
            }
        }
        seen.iter().map(|when| when.as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn clients_of_every_kind_miss_nothing_while_the_network_is_gone_for_a_minute() {
    let serve = Serve::start(&[]).await;
    let networks = [Network::to(serve.clients, Line::Cut).await, Network::to(serve.clients, Line::Dark).await];
    let dir = tempfile::tempdir().unwrap();
    let kinds = ["watch", "curl"];
    let clients: Vec<Client> =
        kinds.iter().flat_map(|kind| networks.iter().map(|network| Client::start(kind, network, dir.path()))).collect();
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
    let missing = |sent: &[String]| {
        let lacks = |client: &&Client| client.seen() != sent;
        let those: Vec<String> = clients.iter().filter(lacks).map(|c| format!("{}: {:?}", c.name, c.seen())).collect();
        if those.is_empty() { Ok(()) } else { Err(format!("{sent:?} but {those:#?}")) }
    };
    for _ in 0..10 {
        change().await;
    }
    let before = change().await;
    eventually(SOON, "all have what came before", async || missing(&before)).await.unwrap();

    for network in &networks {
        network.line.send_replace(network.fate);
    }
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..OUTAGE.as_secs() {
        every_second.tick().await;
        change().await;
    }
    missing(&before).expect("nothing came through");
    for network in &networks {
        network.line.send_replace(Line::Up);
    }

    let after = change().await;
    eventually(BACK, "all have everything, once and in order", async || missing(&after)).await.unwrap();
}
