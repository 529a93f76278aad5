//! One POST, as simple senders do it: a connection of its own, and a bound for the whole.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug)]
pub enum Posted {
    /// A whole answer: status and body.
    Answered(u16, String),
    /// None.
    Failed(&'static str),
}

/// POSTs a body of JSON. The whole takes at most `limit`.
pub async fn post(to: SocketAddr, path: &str, headers: &[(&str, String)], body: &str, limit: Duration) -> Posted {
    match timeout(limit, exchange(to, path, headers, body)).await {
        Ok(Ok((status, body))) => Posted::Answered(status, body),
        Ok(Err(why)) => Posted::Failed(why),
        Err(_) => Posted::Failed("too slow"),
    }
}

async fn exchange(
    to: SocketAddr,
    path: &str,
    headers: &[(&str, String)],
    body: &str,
) -> Result<(u16, String), &'static str> {
    let connecting = timeout(CONNECT, TcpStream::connect(to)).await;
    let mut stream = connecting.map_err(|_| "too slow")?.map_err(|_| "no connection")?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.map_err(|_| BROKEN)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map_err(|_| BROKEN)?;
    read(&bytes).ok_or(BROKEN)
}

const BROKEN: &str = "broken off";

/// Status and body of a whole answer.
fn read(bytes: &[u8]) -> Option<(u16, String)> {
    let (head, body) = str::from_utf8(bytes).ok()?.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (body.len() == length).then(|| (status, body.to_owned()))
}
