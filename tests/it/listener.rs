//! Who is let in at a port: bounds for each client, what is believed of proxies, and where a port may be bound at all.

use std::net::SocketAddr;
use std::time::Duration;

use bugfeed_testbed::{Run, bin, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{SOON, Serve, free_address, get};

/// The head of a handshake, with these lines.
fn handshake(lines: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    )
}

/// A connection that has sent these bytes and read the head of an answer; and the head.
async fn talk(address: SocketAddr, bytes: &[u8]) -> (TcpStream, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    answered(stream, bytes).await
}

async fn answered(mut stream: TcpStream, bytes: &[u8]) -> (TcpStream, String) {
    stream.write_all(bytes).await.unwrap();
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {
            if head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.expect("an answer in time");
    (stream, String::from_utf8_lossy(&head).into_owned())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// From an address of this machine that is not named as a proxy.
async fn from_elsewhere(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

async fn counted(admin: SocketAddr, kind: &str) -> u64 {
    let page = get(admin, "/metrics").await.1;
    let name = format!("bugfeed_connections_refused_total{{kind=\"{kind}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

fn version_1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    format!("PROXY {family} {client} {client} 5000 80\r\n").into_bytes()
}

fn version_2(client: std::net::Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = client.octets();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[a, b, c, d, 10, 0, 0, 1, 0x13, 0x88, 0, 80]].concat()
}

const WRAPPED: [&str; 5] = ["--behind-proxy", "127.0.0.1", "--proxy-protocol", "--max-connections-per-address", "2"];

#[tokio::test]
async fn a_client_behind_the_proxy_protocol_has_bounds_of_its_own() {
    let serve = Serve::start(&WRAPPED).await;
    let join = async |header: Vec<u8>| talk(serve.clients, &[&header[..], handshake("").as_bytes()].concat()).await;
    let (first, head) = join(version_1("192.0.2.1")).await;
    assert_eq!(status(&head), 101, "{head}");
    // Version 2 of the header, and IPv4 written as IPv6, are the same client.
    let (_second, head) = join(version_2([192, 0, 2, 1].into())).await;
    assert_eq!(status(&head), 101, "{head}");
    let (_, head) = join(version_1("::ffff:192.0.2.1")).await;
    assert!(
        status(&head) == 429 && head.contains("Retry-After: 30\r\n") && head.contains("bugfeed-version:"),
        "{head}"
    );
    assert_eq!(counted(serve.admin, "address_full").await, 1);
    let (_other, head) = join(version_1("192.0.2.2")).await;
    assert_eq!(status(&head), 101, "{head}");
    // All addresses of a /64 are one client.
    let mut let_in = Vec::new();
    for host in 1..=6 {
        let (stream, head) = join(version_1(&format!("2001:db8:0:7:{host}::{host}"))).await;
        assert_eq!(status(&head), if host <= 2 { 101 } else { 429 }, "{host}: {head}");
        let_in.push(stream);
    }
    let (_, head) = join(version_1("2001:db8:0:8::1")).await;
    assert_eq!(status(&head), 101, "{head}");
    drop(first);
    eventually(SOON, "a place is free again", async || {
        let (_, head) = join(version_1("192.0.2.1")).await;
        if status(&head) == 101 { Ok(()) } else { Err(head) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_proxy_header_is_there_where_it_must_be_and_nowhere_else() {
    let serve = Serve::start(&WRAPPED).await;
    let ask = b"GET /page.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec();
    let (one, two) = (version_1("192.0.2.9"), version_2([192, 0, 2, 9].into()));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..], b"\r\n"].concat();
    let many_extensions = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 3000]].concat();
    for (name, bytes, want) in [
        ("version 1", [one.clone(), ask.clone()].concat(), 200),
        ("version 2", [two.clone(), ask.clone()].concat(), 200),
        ("a health check", [local, ask.clone()].concat(), 200),
        ("unknown", [b"PROXY UNKNOWN\r\n".to_vec(), ask.clone()].concat(), 200),
        ("none", ask.clone(), 400),
        ("both", [one.clone(), two.clone(), ask.clone()].concat(), 400),
        ("both, the other way round", [two.clone(), one.clone(), ask.clone()].concat(), 400),
        ("twice", [one.clone(), one.clone(), ask.clone()].concat(), 400),
        ("too long", long, 400),
        ("too many extensions", many_extensions, 400),
    ] {
        let (_, head) = talk(serve.clients, &bytes).await;
        assert_eq!(status(&head), want, "{name}: {head}");
    }
    assert_eq!(counted(serve.admin, "proxy_header").await, 3);
    // Who is not named sends none.
    let (_, head) = answered(from_elsewhere(serve.clients).await, &ask).await;
    assert_eq!(status(&head), 200, "{head}");
    for header in [one.clone(), two] {
        let (_, head) = answered(from_elsewhere(serve.clients).await, &[header, ask.clone()].concat()).await;
        assert_eq!(status(&head), 400, "{head}");
    }
    // One byte at a time: each is on its way alone, since the gateway has taken the one before.
    let mut stream = TcpStream::connect(serve.clients).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in &one {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(status(&answered(stream, &ask).await.1), 200);
}

#[tokio::test]
async fn a_proxy_that_sends_no_header_is_not_waited_for() {
    let options = [&WRAPPED[..], &["--handshake-timeout-ms", "200"]].concat();
    let serve = Serve::start(&options).await;
    let (_, head) = talk(serve.clients, b"PROXY TCP4 192.0.2.1 ").await;
    assert!(status(&head) == 400, "{head}");
    assert_eq!(counted(serve.admin, "proxy_header").await, 1);
}

const FORWARDED: [&str; 4] = ["--behind-proxy", "127.0.0.1", "--max-connections-per-address", "2"];

#[tokio::test]
async fn forged_headers_gain_nothing() {
    let serve = Serve::start(&FORWARDED).await;
    let join = async |lines: &str| talk(serve.clients, handshake(lines).as_bytes()).await;
    let real = |forged: &str| format!("X-Forwarded-For: {forged}\r\nX-Forwarded-For: 192.0.2.1\r\n");
    let (first, head) = join(&real("203.0.113.1")).await;
    assert_eq!(status(&head), 101, "{head}");
    let (_second, head) = join("X-Forwarded-For: 203.0.113.2, 192.0.2.1, 127.0.0.1\r\n").await;
    assert_eq!(status(&head), 101, "{head}");
    for forged in ["203.0.113.3", "unknown", "_x", "127.0.0.1", "rubbish\"", ""] {
        let (_, head) = join(&real(forged)).await;
        assert!(status(&head) == 429 && head.contains("retry-after: 30\r\n"), "{forged}: {head}");
    }
    let (_, head) = join("X-Forwarded-For: 192.0.2.2\r\n").await;
    assert_eq!(status(&head), 101, "{head}");
    // A place is free again when its session has ended.
    drop(first);
    eventually(SOON, "a place is free again", async || {
        let (_, head) = join(&real("203.0.113.4")).await;
        if status(&head) == 101 { Ok(()) } else { Err(head) }
    })
    .await
    .unwrap();
}

/// A proxy writes one of the two headers, and a client forges the other.
#[tokio::test]
async fn contradicting_headers_share_the_bounds_of_one_client() {
    let serve = Serve::start(&FORWARDED).await;
    let mut let_in = Vec::new();
    for forged in 1..=5 {
        let lines = format!("X-Forwarded-For: 192.0.2.1\r\nForwarded: for=203.0.113.{forged}\r\n");
        let (stream, head) = talk(serve.clients, handshake(&lines).as_bytes()).await;
        let_in.push((stream, status(&head)));
    }
    assert_eq!(let_in.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [101, 101, 429, 429, 429]);
    // Those that contradict nothing are not touched by it.
    for lines in ["X-Forwarded-For: 192.0.2.1\r\n", "Forwarded: for=192.0.2.1;proto=https\r\n"] {
        let (stream, head) = talk(serve.clients, handshake(lines).as_bytes()).await;
        let_in.push((stream, status(&head)));
    }
    assert_eq!(let_in[5..].iter().map(|(_, status)| *status).collect::<Vec<_>>(), [101, 101]);
    // Where the operator has named one, the other is not looked at.
    let named = [&FORWARDED[..], &["--forwarded-header", "x-forwarded-for"]].concat();
    let serve = Serve::start(&named).await;
    let mut statuses = Vec::new();
    for forged in 1..=3 {
        let lines = format!("X-Forwarded-For: 192.0.2.1\r\nForwarded: for=203.0.113.{forged}\r\n");
        let (stream, head) = talk(serve.clients, handshake(&lines).as_bytes()).await;
        statuses.push(status(&head));
        let_in.push((stream, 0));
    }
    assert_eq!(statuses, [101, 101, 429]);
}

/// Who is not named as a proxy is not believed.
#[tokio::test]
async fn headers_of_strangers_count_for_nothing() {
    let serve = Serve::start(&FORWARDED).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let lines = handshake("X-Forwarded-For: 192.0.2.1\r\n");
        let (stream, head) = answered(from_elsewhere(serve.clients).await, lines.as_bytes()).await;
        assert_eq!(status(&head), 101, "{head}");
        open.push(stream);
    }
    let (_, head) = talk(serve.clients, handshake("X-Forwarded-For: 192.0.2.1\r\n").as_bytes()).await;
    assert_eq!(status(&head), 101, "nobody has used up what is 192.0.2.1's: {head}");
}

/// Streams and polls that wait have a place of their client's, like sockets.
#[tokio::test]
async fn streams_and_polls_count_like_sockets() {
    let serve = Serve::start(&FORWARDED).await;
    let line = "Host: x\r\nX-Forwarded-For: 192.0.2.1\r\n";
    let (_stream, head) = talk(serve.clients, format!("GET /sse?bugs=1 HTTP/1.1\r\n{line}\r\n").as_bytes()).await;
    assert_eq!(status(&head), 200, "{head}");
    let mut poll = TcpStream::connect(serve.clients).await.unwrap();
    poll.write_all(format!("GET /changes?bugs=1&wait=60 HTTP/1.1\r\n{line}\r\n").as_bytes()).await.unwrap();
    let refused = async || {
        let (_, head) = talk(serve.clients, format!("GET /page.json HTTP/1.1\r\n{line}\r\n").as_bytes()).await;
        if status(&head) == 429 { Ok(()) } else { Err(head) }
    };
    eventually(SOON, "the poll waits, and there is no third place", refused).await.unwrap();
    drop(poll);
    let served = async || {
        let (_, head) = talk(serve.clients, format!("GET /page.json HTTP/1.1\r\n{line}\r\n").as_bytes()).await;
        if status(&head) == 200 { Ok(()) } else { Err(head) }
    };
    eventually(SOON, "whoever asked has gone", served).await.unwrap();
}

#[tokio::test]
async fn a_hasty_client_is_told_to_wait_and_others_are_not() {
    let slow = ["--handshakes-per-second-per-address", "1", "--handshakes-burst-per-address", "3"];
    let serve = Serve::start(&[&["--behind-proxy", "127.0.0.1"], &slow[..]].concat()).await;
    let ask = async |client: &str| {
        let lines = format!("GET /page.json HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
        talk(serve.clients, lines.as_bytes()).await.1
    };
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(status(&ask("192.0.2.1").await));
    }
    assert_eq!(statuses[..3], [200; 3]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
    let head = ask("192.0.2.2").await;
    assert_eq!(status(&head), 200, "{head}");
    let body = async || {
        let lines = "GET /page.json HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n";
        let (status, body) = crate::support::request(serve.clients, lines).await;
        if status == 429 { Ok(body) } else { Err(body) }
    };
    let body = eventually(SOON, "a refusal", body).await.unwrap();
    assert!(body.starts_with("{\"error\":\"too many connections or requests from your address"), "{body}");
}

/// Connections on which nobody asks anything do not keep others out.
#[tokio::test]
async fn silent_connections_make_room_and_readiness_shows_it() {
    let serve = Serve::start(&["--max-connections", "10"]).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(serve.clients).await.unwrap());
    }
    let full = async || {
        let (status, text) = get(serve.admin, "/readyz").await;
        if status == 200 && text.contains("connections: all places are taken, 10 of 10") { Ok(()) } else { Err(text) }
    };
    eventually(SOON, "a line in /readyz", full).await.unwrap();
    let let_in = async || {
        let (status, body) = get(serve.clients, "/page.json").await;
        if status == 200 { Ok(()) } else { Err(body) }
    };
    eventually(SOON, "room for who asks", let_in).await.unwrap();
    assert!(counted(serve.admin, "silent").await > 0 && counted(serve.admin, "full").await > 0);
}

/// A connection is not kept on which nobody asks anything, before the first request or after one.
#[tokio::test]
async fn idle_connections_are_closed_after_a_time() {
    let serve = Serve::start(&["--handshake-timeout-ms", "300"]).await;
    let silent = TcpStream::connect(serve.clients).await.unwrap();
    let (asked, head) = talk(serve.clients, b"GET /page.json HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&head), 200, "{head}");
    for mut stream in [silent, asked] {
        let mut rest = Vec::new();
        let reading = tokio::time::timeout(SOON, stream.read_to_end(&mut rest));
        reading.await.expect("it is closed").unwrap();
    }
}

/// What fail2ban reads, with the expression of docs/limits.md.
#[tokio::test]
async fn who_is_turned_away_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let [clients, admin] = [(); 2].map(|()| free_address());
    let mut serve = Run::new(bin("bugfeed").unwrap())
        .args(["serve", "--listen", &clients.to_string(), "--admin-listen", &admin.to_string()])
        .args([&["--data-dir", "data"], &FORWARDED[..2], &["--max-connections-per-address", "1"]].concat())
        .env("RUST_LOG", "info,bugfeed::audit=debug")
        .dir(dir.path())
        .spawn()
        .unwrap();
    serve.wait_ready(admin, SOON).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(talk(clients, handshake("X-Forwarded-For: 2001:db8::7\r\n").as_bytes()).await);
    }
    let lines = || -> Vec<String> {
        let said = serve.output();
        let form = " turned away kind=address_full address=2001:db8::7 event=client_refused";
        said.lines().filter(|line| line.contains(form)).map(str::to_owned).collect()
    };
    eventually(SOON, "audit lines", async || if lines().len() >= 10 { Ok(()) } else { Err(serve.output()) })
        .await
        .unwrap();
    assert!(lines().len() <= 20, "they are throttled: {:?}", lines());
    let document = include_str!("../../docs/limits.md");
    assert!(document.contains(
        r"failregex = \bturned away kind=(?:address_full|address_rate) address=<ADDR> event=client_refused\b"
    ));
}

#[tokio::test]
async fn ports_beyond_this_machine_are_refused_unless_that_is_meant() {
    let shim = ["run", "--source", "sqlite://none.db", "--admin-listen", "0.0.0.0:0"];
    for (program, args, option) in [
        ("bugfeed", &["serve", "--listen", "0.0.0.0:0"][..], "--listen 0.0.0.0:0"),
        ("bugfeed", &["--listen", "[::]:0"], "--listen [::]:0"),
        ("bugfeed", &["serve", "--admin-listen", "0.0.0.0:0"], "--admin-listen 0.0.0.0:0"),
        ("bugfeed", &["gateway", "--listen", "192.0.2.1:1"], "--listen 192.0.2.1:1"),
        ("bugfeed", &["gateway", "--admin-listen", "0.0.0.0:0"], "--admin-listen 0.0.0.0:0"),
        ("bugfeed", &["hooks", "--listen", "0.0.0.0:0"], "--listen 0.0.0.0:0"),
        ("bugfeed", &["hooks", "--admin-listen", "[::]:0"], "--admin-listen [::]:0"),
        ("bugfeed-shim", &shim, "--admin-listen 0.0.0.0:0"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::new(bin(program).unwrap()).args(args).dir(dir.path()).spawn().unwrap();
        let ended = run.wait(SOON).await.unwrap();
        let said = run.output();
        assert_eq!(ended.code(), Some(2), "{program} {args:?}: {said}");
        for part in [option, "--open", "127.0.0.1"] {
            assert!(said.contains(part), "{program} {args:?}: {said}");
        }
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was opened");
    }
    for words in [&["--open"][..], &["--behind-proxy", "10.0.0.1,fd00::/8"]] {
        let dir = tempfile::tempdir().unwrap();
        let [clients, admin] = [(); 2].map(|()| free_address());
        let anywhere = |address: SocketAddr| format!("0.0.0.0:{}", address.port());
        let mut serve = Run::new(bin("bugfeed").unwrap())
            .args(["serve", "--listen", &anywhere(clients), "--admin-listen", &anywhere(admin)])
            .args(words)
            .dir(dir.path())
            .spawn()
            .unwrap();
        serve.wait_ready(admin, SOON).await.unwrap();
        assert_eq!(get(clients, "/page.json").await.0, 200, "{words:?}");
    }
}
