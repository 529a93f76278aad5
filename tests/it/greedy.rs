//! Peers that send without end: the updates of others still come.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bugfeed_protocol::{BugId, When};
use bugfeed_shim::source::{self, TableSpec};
use bugfeed_testbed::{Run, bin};

use crate::support::{Client, SOON, free_address, get};

/// Sends the same frames over and over, on a new connection whenever one is ended.
struct Attack {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Attack {
    fn start(address: SocketAddr, attackers: usize, begin: &'static [u8], again: &[u8]) -> Attack {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..attackers).map(|_| {
            let (stop, sent, again) = (Arc::clone(&stop), Arc::clone(&sent), again.to_vec());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = attack(address, begin, &again, &stop, &sent);
                }
            })
        });
        let threads = threads.collect();
        Attack { stop, sent, threads }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn attack(address: SocketAddr, begin: &[u8], again: &[u8], stop: &AtomicBool, sent: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    // With the time limits, the thread notices that it shall stop.
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(std::time::Duration::from_millis(100)))?;
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes())?;
    let mut answer = [0; 1024];
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if stream.read(&mut answer)? == 0 {
            return Ok(());
        }
    }
    stream.write_all(begin)?;
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&again[at..]) {
            Ok(written) => {
                at = (at + written) % again.len();
                sent.fetch_add(written as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The gateway has one thread, so that one attacker could keep it busy on any machine.
#[tokio::test]
async fn who_sends_without_end_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let [clients, admin] = [(); 2].map(|()| free_address());
    let mut serve = Run::new(bin("bugfeed").unwrap())
        .dir(dir.path())
        .env("BUGFEED_LISTEN", clients.to_string())
        .env("BUGFEED_ADMIN_LISTEN", admin.to_string())
        .env("TOKIO_WORKER_THREADS", "1")
        .spawn()
        .unwrap();
    serve.wait_ready(admin, SOON).await.unwrap();
    let mut client = Client::connect(&format!("ws://{clients}/")).await;
    client.subscribe(&[1]).await;
    let table = format!("sqlite://{}/data/bugfeed.db", dir.path().display()).parse().unwrap();
    let masked = |first: u8, payload: &[u8]| {
        [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
    };
    for (name, begin, again) in [
        ("empty pieces", &[0x01, 0x80, 0, 0, 0, 0][..], masked(0x00, b"").repeat(10_000)),
        ("pieces of one byte", &[0x01, 0x80, 0, 0, 0, 0], masked(0x00, b" ").repeat(10_000)),
        ("pongs", &[], masked(0x8A, b"").repeat(10_000)),
        ("pings", &[], masked(0x89, b"x").repeat(10_000)),
        ("empty messages", &[], masked(0x81, b"").repeat(10_000)),
        ("pieces with pongs in between", &[0x01, 0x80, 0, 0, 0, 0], masked(0x8A, &[0; 125]).repeat(1000)),
    ] {
        let attack = Attack::start(clients, 2, begin, &again);
        let begun = attack.sent.load(Ordering::Relaxed);
        for second in 0..20 {
            let when = When::from_micros(second * 1_000_000).unwrap();
            let bug = BugId::new(1).unwrap();
            source::touch(&table, &TableSpec::default(), &[bug], when, &jiff::tz::TimeZone::UTC).await.unwrap();
            assert_eq!(client.update().await, (1, when.to_string()), "{name}");
        }
        assert!(attack.sent.load(Ordering::Relaxed) > begun, "{name}: it went on all the time");
    }
    let metrics = get(admin, "/metrics").await.1;
    assert!(metrics.contains("bugfeed_sessions_ended_total{kind=\"fragments\"}"), "{metrics}");
}
