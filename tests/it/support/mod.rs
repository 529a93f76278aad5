//! The all-in-one in this process on ports of its own, and a classic client.

pub mod bot;
mod programs;
pub mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use bugfeed::cli::{Cli, Command};
use bugfeed::compose::all_in_one;
use bugfeed::compose::serving::Ports;
use bugfeed_protocol::{BugId, When};
use bugfeed_shim::source::{self, TableSpec};
use bugfeed_testbed::eventually;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

pub use programs::{connected, free_address, goes_on_trying, has_retried, init, touch};

/// Long enough for a busy machine; nothing here waits this long unless it fails.
pub const SOON: Duration = Duration::from_secs(20);

/// A running all-in-one.
pub struct Serve {
    pub clients: SocketAddr,
    pub admin: SocketAddr,
    pub dir: tempfile::TempDir,
    stop: CancellationToken,
    running: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Serve {
    pub async fn start(options: &[&str]) -> Serve {
        Serve::start_in(tempfile::tempdir().unwrap(), options).await
    }

    /// In a directory that may hold the data of an earlier one.
    pub async fn start_in(dir: tempfile::TempDir, options: &[&str]) -> Serve {
        let data = dir.path().join("data");
        let data = data.to_str().unwrap();
        let fixed = ["bugfeed", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", data];
        let args = fixed.iter().chain(options).map(std::ffi::OsString::from);
        let Command::Serve(args) = Cli::read(args).unwrap().command else { panic!("not serve") };
        let options = args.options().unwrap();
        let ports = Ports::bind(&options.serving).unwrap();
        let (clients, admin) = ports.addresses().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let running = tokio::spawn(async move { all_in_one::run(options, ports, &stopped, |_| {}).await });
        // Until it holds its ledger's lease, and has read it, clients are turned away.
        let ready = async || {
            let (status, body) = get(admin, "/readyz").await;
            if status == 200 || running.is_finished() { Ok(()) } else { Err(body) }
        };
        eventually(SOON, "a ready all-in-one", ready).await.unwrap();
        Serve { clients, admin, dir, stop, running: Some(running) }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/", self.clients)
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url()).await
    }

    pub async fn touch(&self, bug: u64, when: &str) {
        let url = format!("sqlite://{}/data/bugfeed.db", self.dir.path().display()).parse().unwrap();
        let (bug, when) = (BugId::new(bug).unwrap(), When::parse_utc(when).unwrap());
        source::touch(&url, &TableSpec::default(), &[bug], when, &jiff::tz::TimeZone::UTC).await.unwrap();
    }

    /// Changes of these bugs, each so many seconds after 1970, in one transaction.
    pub async fn touch_many(&self, changes: impl IntoIterator<Item = (u64, i64)>) {
        let url = format!("sqlite://{}/data/bugfeed.db", self.dir.path().display()).parse().unwrap();
        let row = |(bug, second)| (BugId::new(bug).unwrap(), When::from_micros(second * 1_000_000).unwrap());
        let rows: Vec<_> = changes.into_iter().map(row).collect();
        source::touch_many(&url, &TableSpec::default(), &rows, &jiff::tz::TimeZone::UTC).await.unwrap();
    }

    /// Stops politely; returns the directory for another to start in.
    pub async fn stop(mut self) -> tempfile::TempDir {
        self.stop.cancel();
        let running = self.running.take().unwrap();
        tokio::time::timeout(SOON, running).await.expect("stops in time").unwrap().expect("stops without a fault");
        let empty = tempfile::tempdir().unwrap();
        std::mem::replace(&mut self.dir, empty)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client as those of 2014 were.
pub struct Client(pub Socket);

impl Client {
    pub async fn connect(url: &str) -> Client {
        Client::try_connect(url).await.unwrap()
    }

    pub async fn try_connect(url: &str) -> Result<Client, WsError> {
        tokio::time::timeout(SOON, tokio_tungstenite::connect_async(url))
            .await
            .expect("an answer to the handshake")
            .map(|(socket, _)| Client(socket))
    }

    pub async fn send(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    /// The next message, passing over pings.
    pub async fn next(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(SOON, self.0.next()).await.expect("a message in time");
            match next.expect("an open connection").unwrap() {
                Message::Ping(_) => {}
                message => return message,
            }
        }
    }

    pub async fn text(&mut self) -> String {
        match self.next().await {
            Message::Text(text) => text.to_string(),
            other => panic!("not a text: {other:?}"),
        }
    }

    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// Sends a command and returns its reply.
    pub async fn ask(&mut self, text: impl Into<String>) -> String {
        self.send(text).await;
        self.text().await
    }

    pub async fn subscribe(&mut self, bugs: &[u64]) {
        let reply = self.ask(json!({ "command": "subscribe", "bugs": bugs }).to_string()).await;
        assert!(reply.contains(r#""result":"ok""#), "{reply}");
    }

    /// The next update, as (bug, when).
    pub async fn update(&mut self) -> (u64, String) {
        let message = self.json().await;
        assert_eq!(message["command"], "update", "{message}");
        (message["bug"].as_u64().unwrap(), message["when"].as_str().unwrap().to_owned())
    }

    /// The code of the close frame that comes next.
    pub async fn close_code(&mut self) -> u16 {
        match self.next().await {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("not a close frame with a code: {other:?}"),
        }
    }
}

/// The sum of all counters of this name on a page of metrics.
pub fn counted(metrics: &str, name: &str) -> u64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// GET over a plain socket; status and body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}

/// Sends a request as it is; status and body.
pub async fn request(address: SocketAddr, request: &str) -> (u16, String) {
    let answer = answer(address, request).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

/// The head of the answer to a GET.
pub async fn head(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = answer(address, &request).await;
    answer.split_inclusive("\r\n\r\n").next().unwrap_or_default().to_owned()
}

async fn answer(address: SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    answer
}
