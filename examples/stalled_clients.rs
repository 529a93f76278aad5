//! What a client that reads nothing costs the gateway: user memory and kernel memory, before and after its socket is
//! full, and while changes go on.
//!
//! ```sh
//! cargo build --profile dist -p bugfeed --bins && cargo run --profile dist --example stalled_clients
//! ```
//!
//! Kernel memory is what `/proc/net/sockstat` says of all TCP sockets of this machine, so nothing else should use any. It
//! counts both ends; the clients' receive buffers are made as small as they can be, so that what is left is the gateway's.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use bugfeed_protocol::{BugId, When};
use bugfeed_shim::source::{self, TableSpec};
use bugfeed_testbed::{Run, bin, eventually, free_port};
use futures::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

const CLIENTS: usize = 500;
const BUGS: u64 = 20;
const LIMIT: Duration = Duration::from_secs(120);

/// (user memory of the gateway, kernel memory of all TCP sockets), in bytes.
fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").trim().parse().unwrap();
    let sockets = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages: u64 = tcp.rsplit(' ').next().unwrap().parse().unwrap();
    (resident * 1024, pages * 4096)
}

fn show(what: &str, now: (u64, u64), before: (u64, u64)) {
    let each = |now: u64, before: u64| now.saturating_sub(before) / CLIENTS as u64;
    println!(
        "{what}: {} bytes of the gateway and {} bytes of the kernel for each of {CLIENTS} clients",
        each(now.0, before.0),
        each(now.1, before.1)
    );
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (port, admin) = (free_port().unwrap(), free_port().unwrap());
    let gateway = Run::new(bin("bugfeed").unwrap())
        .args(["serve", "--data-dir", data.to_str().unwrap(), "--ping-interval-ms", "3600000"])
        .args(["--idle-timeout-ms", "7200000", "--write-timeout-ms", "3600000"])
        .args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")])
        .spawn()
        .unwrap();
    let url = format!("ws://127.0.0.1:{port}/");
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let connect = async |receive_buffer: u32| {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(receive_buffer)?;
        let stream = socket.connect(address).await?;
        let (socket, _) = tokio_tungstenite::client_async(&url, stream).await.map_err(std::io::Error::other)?;
        std::io::Result::Ok(socket)
    };
    let mut reader = eventually(LIMIT, "a connection", async || connect(1 << 20).await).await.unwrap();
    let bugs: Vec<u64> = (1..=BUGS).collect();
    let subscribe = serde_json::json!({ "command": "subscribe", "bugs": bugs }).to_string();
    reader.send(Message::text(subscribe.clone())).await.unwrap();
    reader.next().await.unwrap().unwrap();

    let table = format!("sqlite://{}/bugfeed.db", data.display()).parse().unwrap();
    let mut second = 1_400_000_000;
    let mut change = async |rounds: u32| {
        for _ in 0..rounds {
            let rows: Vec<(BugId, When)> = (0..1000)
                .map(|i| {
                    second += 1;
                    (BugId::new(i % BUGS + 1).unwrap(), When::from_micros(second * 1_000_000).unwrap())
                })
                .collect();
            source::touch_many(&table, &TableSpec::default(), &rows, &jiff::tz::TimeZone::UTC).await.unwrap();
            let last = rows.last().unwrap().1.to_string();
            // The one that reads has the newest: all before it was dealt with.
            while !reader.next().await.unwrap().unwrap().to_string().contains(&last) {}
        }
    };
    // What the databases' caches and most of the ring cost is there before the clients.
    change(120).await;
    let before = memory(gateway.pid());
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        let mut socket = connect(4096).await.unwrap();
        socket.send(Message::text(subscribe.clone())).await.unwrap();
        socket.next().await.unwrap().unwrap();
        stalled.push(socket);
    }
    show("connected, 20 subscriptions", memory(gateway.pid()), before);

    for changes in [2, 10, 10] {
        change(changes).await;
        show(&format!("{changes},000 changes more, none read"), memory(gateway.pid()), before);
    }
}
