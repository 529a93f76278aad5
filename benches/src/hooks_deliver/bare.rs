//! The least that POSTs cost: requests with a fixed head and body over kept connections, one at a time on each.
//!
//! Goes in: an address, and how many. Comes out: a line with the seconds and the processor time of this process. It signs
//! nothing, reads no status and looks no name up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::procfs::Cpu;

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// As long as the body of a single change.
const BODY: &str = r#"{"command":"update","bug":1234567,"when":"2026-11-26T12:00:00","cursor":"000000000000feed.8800000.0000beef","feed":"default"}"#;

/// What it cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// How long it took.
    pub seconds: f64,
    /// Processor time, in nanoseconds.
    pub cpu_ns: u64,
}

/// Sends them, and prints what they cost, as JSON.
///
/// # Errors
/// When the receiver does not answer.
pub fn run(to: SocketAddr, count: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cost = runtime.block_on(send(to, count))?;
    #[allow(clippy::print_stdout, reason = "what it is for")]
    {
        println!("{}", serde_json::to_string(&cost)?);
    }
    Ok(())
}

async fn send(to: SocketAddr, count: u64) -> Result<Cost> {
    let (sent, request) = (Arc::new(AtomicU64::new(0)), Arc::new(request(to)));
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(to).await.context("the receiver takes no connection")?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let (begin, before) = (Instant::now(), Cpu::of(std::process::id())?);
    let mut tasks = Vec::new();
    for mut stream in streams {
        let (sent, request) = (Arc::clone(&sent), Arc::clone(&request));
        tasks.push(tokio::spawn(async move {
            let mut answer = [0; 512];
            while sent.fetch_add(1, Ordering::Relaxed) < count {
                stream.write_all(request.as_bytes()).await?;
                if stream.read(&mut answer).await? == 0 {
                    bail!("the receiver hung up");
                }
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let cpu = Cpu::of(std::process::id())?.since(before);
    Ok(Cost { seconds: begin.elapsed().as_secs_f64(), cpu_ns: cpu.ns })
}

fn request(to: SocketAddr) -> String {
    let length = BODY.len();
    format!(
        "POST /takes HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{BODY}"
    )
}
