//! A server of HTTP/1.1 in the test process, that says what a test tells it to say, byte for byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as the server got it.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The connection, counted from 0.
    pub(crate) connection: usize,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query, decoded.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What the server does.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Sends this, and keeps the connection.
    Bytes(Vec<u8>),
    /// Sends this, and closes.
    Last(Vec<u8>),
    /// Sends this, then nothing more.
    Hang(Vec<u8>),
    /// Sends this after some time, and keeps the connection.
    Later(Duration, Vec<u8>),
    /// Sends the beginning of a body without end, until so many bytes were sent.
    Flood(usize),
    /// Closes at once.
    Close,
}

impl Reply {
    /// A response with these headers, of which each ends with CR and LF.
    pub(crate) fn full(status: u16, headers: &str, body: &str) -> Reply {
        let length = body.len();
        Reply::Bytes(format!("HTTP/1.1 {status} Word\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes())
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Reply {
        Reply::full(status, "Content-Type: application/json\r\n", &body.to_string())
    }

    pub(crate) fn html(status: u16) -> Reply {
        Reply::full(status, "Content-Type: text/html\r\n", "<!DOCTYPE html><title>Oops</title><p>secret-word</p>")
    }
}

type Handler = dyn Fn(&Got) -> Reply + Send + Sync;

/// A running server. It ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Got) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (got, handler) =
            (Arc::<Mutex<Vec<Got>>>::default(), Arc::<Handler>::from(Box::new(handler) as Box<Handler>));
        let all = Arc::clone(&got);
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, Arc::clone(&handler), Arc::clone(&all)));
            }
        });
        Server { address, got }
    }

    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// What it got so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, connection: usize, handler: Arc<Handler>, all: Arc<Mutex<Vec<Got>>>) {
    let mut buffer = Vec::new();
    while let Some(got) = read(&mut stream, &mut buffer, connection).await {
        let reply = handler(&got);
        all.lock().unwrap().push(got);
        match reply {
            Reply::Bytes(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::Last(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Reply::Hang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read(&mut [0]).await;
                return;
            }
            Reply::Later(pause, bytes) => {
                tokio::time::sleep(pause).await;
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::Flood(total) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n");
                let (mut sent, piece) = (0, vec![b'x'; 64 * 1024]);
                let mut is_open = stream.write_all(head.as_bytes()).await.is_ok();
                while is_open && sent < total {
                    is_open = stream.write_all(&piece).await.is_ok();
                    sent += piece.len();
                }
                return;
            }
            Reply::Close => return,
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Got> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..head_end).collect()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut got = Got { method, target, headers, body: String::new(), connection };
    let length: usize = got.header("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    got.body = String::from_utf8(buffer.drain(..length).collect()).unwrap();
    Some(got)
}
