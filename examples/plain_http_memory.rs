//! What an idle client costs the gateway by WebSocket, by SSE and by long-poll: memory for each of 5,000 that watch 20 bugs.
//!
//! ```sh
//! cargo build --profile dist -p bugfeed --bins && cargo run --profile dist --example plain_http_memory
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use bugfeed_testbed::{Run, bin, eventually, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CLIENTS: u64 = 5000;
const BUGS: u64 = 20;
/// Bugs are shared, as they are between clients of one tracker.
const ALL_BUGS: u64 = 100_000;
const LIMIT: Duration = Duration::from_secs(120);

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

/// A masked text frame of 126 to 65,535 bytes, its mask zero.
fn frame(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap();
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend(len.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

fn request(kind: &str, client: u64) -> Vec<u8> {
    let bugs: Vec<String> = (0..BUGS).map(|bug| ((client * BUGS + bug) % ALL_BUGS + 1).to_string()).collect();
    let bugs = bugs.join(",");
    let get = |path: String, more: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n").into_bytes();
    match kind {
        "WebSocket" => {
            let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            let mut bytes = get("/".to_owned(), upgrade);
            bytes.extend(frame(&format!(r#"{{"command":"subscribe","bugs":[{bugs}],"since":null}}"#)));
            bytes
        }
        "SSE" => get(format!("/sse?bugs={bugs}"), ""),
        _ => get(format!("/changes?wait=60&bugs={bugs}"), ""),
    }
}

#[tokio::main]
async fn main() {
    for kind in ["WebSocket", "SSE", "long-poll"] {
        let dir = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port().unwrap(), free_port().unwrap());
        let gateway = Run::new(bin("bugfeed").unwrap())
            .args(["serve", "--data-dir", dir.path().to_str().unwrap()])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")])
            .spawn()
            .unwrap();
        let connected = async || {
            let mut stream = TcpStream::connect(("127.0.0.1", admin)).await?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
            let mut page = String::new();
            stream.read_to_string(&mut page).await?;
            let line = page.lines().find_map(|line| line.strip_prefix("bugfeed_connections "));
            line.and_then(|count| count.parse::<u64>().ok()).ok_or_else(|| std::io::Error::other("no such metric"))
        };
        eventually(LIMIT, "the gateway", connected).await.unwrap();
        let before = resident(gateway.pid());
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(&request(kind, client)).await.unwrap();
            clients.push(stream);
        }
        let all = async || if connected().await.ok() == Some(CLIENTS) { Ok(()) } else { Err("not all") };
        eventually(LIMIT, "all clients are connected", all).await.unwrap();
        println!("{kind}: {} bytes each", (resident(gateway.pid()) - before) / CLIENTS);
    }
}
