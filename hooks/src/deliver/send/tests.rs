//! Requests to real sockets that behave, and that do not.

mod http2;
mod names;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::deliver::sign::SigningSecret;
use crate::receive::signature::Stamped;
use crate::test_server::{Reply, Server};
use crate::test_tls::Tls;

/// Loopback is allowed, but only at its usual address.
fn rules() -> Rules {
    Rules { allowed: vec!["127.0.0.1".parse().unwrap()], https_only: false }
}

fn sender() -> Sender {
    Sender::new(Options::default(), rules())
}

fn now() -> When {
    "2026-11-26T12:00:00".parse().unwrap()
}

/// Delivers a small body to a URL.
async fn deliver(sender: &Sender, url: &str) -> Attempt {
    let to = Address::parse(url).unwrap();
    let headers = UserHeaders::read([("Authorization", "Bearer s3cret")]).unwrap();
    let secrets = Secrets::new(SigningSecret::generate(&[1; 32]));
    let body = Bytes::from_static(br#"{"command":"test"}"#);
    sender
        .deliver(&Delivery {
            to: &to,
            headers: &headers,
            id: "ep_1-E-1-1-0",
            body: &body,
            secrets: &secrets,
            now: now(),
        })
        .await
}

fn class(attempt: &Attempt) -> Option<FaultClass> {
    match &attempt.outcome {
        Outcome::Failed { class, .. } => Some(*class),
        Outcome::Answered { .. } => None,
    }
}

fn status(attempt: &Attempt) -> Option<u16> {
    match &attempt.outcome {
        Outcome::Answered { status, .. } => Some(*status),
        Outcome::Failed { .. } => None,
    }
}

/// A listener, whose connections are served one after another or side by side as `serve` spawns.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Waits for the end of a request, whose body is an object without a line break.
async fn read_request(stream: &mut TcpStream) {
    let mut got = Vec::new();
    while !got.ends_with(b"}") {
        if stream.read_buf(&mut got).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

#[tokio::test]
async fn a_signed_request_and_what_is_kept_of_the_response() {
    let server = Server::start(|_| Reply::full(202, "Retry-After: 5\r\n", "thank\tyou\u{1b}[31m\u{202e}é\n")).await;
    let sender = sender();
    let attempt = deliver(&sender, &server.url("/hook/SECRET?a=b")).await;
    assert_eq!(attempt.outcome, Outcome::Answered { status: 202, retry_after_us: Some(5_000_000) });
    assert_eq!(attempt.response, "thank\\tyou\\u{1b}[31m\\u{202e}é\\n");
    assert!(attempt.outcome.is_success());
    let got = server.got().remove(0);
    assert_eq!((got.method.as_str(), got.target.as_str()), ("POST", "/hook/SECRET?a=b"));
    assert_eq!(got.body, r#"{"command":"test"}"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("content-length", "18"),
        ("user-agent", crate::client::USER_AGENT),
        ("authorization", "Bearer s3cret"),
        ("webhook-id", "ep_1-E-1-1-0"),
        ("webhook-timestamp", "1795694400"),
    ] {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
    let stamped = Stamped::read(&got.headers, now()).unwrap();
    assert!(stamped.fits(SigningSecret::generate(&[1; 32]).key(), &[got.body.as_bytes()]));
}

#[tokio::test]
async fn nothing_secret_shows() {
    let to = Address::parse("https://example.org/SECRET?SECRET").unwrap();
    let headers = UserHeaders::read([("Authorization", "SECRET")]).unwrap();
    let secrets = Secrets::new(SigningSecret::parse("whsec_SECRETSECRETSECRETSECRETSECRETSE").unwrap());
    let body = Bytes::from_static(b"{}");
    let delivery = Delivery { to: &to, headers: &headers, id: "id", body: &body, secrets: &secrets, now: now() };
    let shown = format!("{delivery:?} {:?} {:?}", sender(), sender().request(&delivery));
    assert!(!shown.contains("SECRET"), "{shown}");
    let attempt = deliver(&sender(), "http://127.0.0.1:1/SECRET?SECRET").await;
    assert_eq!(class(&attempt), Some(FaultClass::Refused));
    assert!(!format!("{attempt:?}").contains("SECRET"), "{attempt:?}");
}

#[tokio::test]
async fn wishes_to_come_back_later() {
    let server = Server::start(|got| {
        let date = "Date: Thu, 26 Nov 2026 13:00:00 GMT\r\n";
        match got.path() {
            "/date" => Reply::full(503, "Retry-After: Thu, 26 Nov 2026 12:01:00 GMT\r\n", ""),
            "/own-date" => Reply::full(503, &format!("{date}Retry-After: Thu, 26 Nov 2026 13:00:30 GMT\r\n"), ""),
            "/past" => Reply::full(429, "Retry-After: Thu, 26 Nov 2026 11:00:00 GMT\r\n", ""),
            "/huge" => Reply::full(429, "Retry-After: 99999999999999999999\r\n", ""),
            "/soon" => Reply::full(429, "Retry-After: soon\r\n", ""),
            _ => Reply::full(429, "Retry-After: -1\r\n", ""),
        }
    })
    .await;
    let sender = sender();
    for (path, want) in [
        ("/date", (503, Some(60_000_000))),
        ("/own-date", (503, Some(30_000_000))),
        ("/past", (429, Some(0))),
        ("/huge", (429, Some(i64::MAX))),
        ("/soon", (429, None)),
        ("/minus", (429, None)),
    ] {
        let want = Outcome::Answered { status: want.0, retry_after_us: want.1 };
        assert_eq!(deliver(&sender, &server.url(path)).await.outcome, want, "{path}");
    }
}

#[tokio::test]
async fn what_comes_back_instead_of_an_answer() {
    let server = Server::start(|got| match got.path() {
        "/hang" => Reply::Hang(Vec::new()),
        "/hang-in-head" => Reply::Hang(b"HTTP/1.1 200 OK\r\nX-".to_vec()),
        "/hang-in-body" => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec()),
        "/close" => Reply::Close,
        "/close-in-head" => Reply::Last(b"HTTP/1.1 200 OK\r\nX-".to_vec()),
        "/close-in-body" => Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec()),
        "/ssh" => Reply::Last(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
        "/zeros" => Reply::Last(vec![0; 4_000]),
        "/http-9" => Reply::Last(b"HTTP/9.9 200 OK\r\n\r\n".to_vec()),
        "/status" => Reply::Last(b"HTTP/1.1 20 OK\r\n\r\n".to_vec()),
        "/lengths" => Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec()),
        "/chunks" => Reply::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n".to_vec()),
        "/long-head" => Reply::Last([b"HTTP/1.1 200 OK\r\nX: ", &vec![b'x'; 200_000][..], b"\r\n\r\n"].concat()),
        _ => Reply::Hang(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000)),
    })
    .await;
    let sender = sender().within(Duration::from_millis(300));
    for (path, want) in [
        ("/hang", FaultClass::TimeoutBeforeHead),
        ("/hang-in-head", FaultClass::TimeoutBeforeHead),
        ("/hang-in-body", FaultClass::TimeoutAfterHead),
        ("/close", FaultClass::Closed),
        ("/close-in-head", FaultClass::Closed),
        ("/close-in-body", FaultClass::Closed),
        ("/ssh", FaultClass::Protocol),
        ("/zeros", FaultClass::Protocol),
        ("/http-9", FaultClass::Protocol),
        ("/status", FaultClass::Protocol),
        ("/lengths", FaultClass::Protocol),
        ("/chunks", FaultClass::Protocol),
        ("/long-head", FaultClass::Protocol),
        ("/only-1xx", FaultClass::TimeoutBeforeHead),
    ] {
        let attempt = deliver(&sender, &server.url(path)).await;
        assert_eq!(class(&attempt), Some(want), "{path}: {attempt:?}");
        assert!(attempt.took < Duration::from_secs(5) && attempt.response.is_empty(), "{path}: {attempt:?}");
    }
    let asked = server.got();
    assert_eq!(asked.len(), 14, "nothing is sent twice: {asked:?}");
}

#[tokio::test]
async fn statuses_that_are_no_success() {
    let server = Server::start(|got| match got.path() {
        "/1xx" => Reply::Bytes(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        ),
        "/101" => Reply::Last(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec()),
        path => Reply::full(path[1..].parse().unwrap(), "Location: /elsewhere\r\n", ""),
    })
    .await;
    let sender = sender();
    for (path, want, is_success) in [
        ("/1xx", 204, true),
        ("/101", 101, false),
        ("/200", 200, true),
        ("/299", 299, true),
        ("/301", 301, false),
        ("/307", 307, false),
        ("/304", 304, false),
        ("/410", 410, false),
        ("/500", 500, false),
        ("/999", 999, false),
    ] {
        let attempt = deliver(&sender, &server.url(path)).await;
        assert_eq!((status(&attempt), attempt.outcome.is_success()), (Some(want), is_success), "{path}");
    }
    assert!(server.got().iter().all(|got| got.path() != "/elsewhere"), "no redirect is followed");
}

#[tokio::test]
async fn of_a_hundred_megabytes_the_beginning_is_read_and_the_connection_closed() {
    const LENGTH: usize = 100_000_000;
    let (written, mut wrote) = mpsc::unbounded_channel();
    let address = listen(move |mut stream| {
        let written = written.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes()).await.unwrap();
            let block = vec![b'x'; 1_000_000];
            for number in 0..LENGTH / block.len() {
                if stream.write_all(&block).await.is_err() {
                    written.send(number * block.len()).unwrap();
                    return;
                }
            }
            written.send(LENGTH).unwrap();
        }
    })
    .await;
    let attempt = deliver(&sender(), &format!("http://{address}/")).await;
    assert_eq!(status(&attempt), Some(200));
    assert_eq!(attempt.response, format!("{}…", "x".repeat(LONGEST_KEPT)));
    let written = wrote.recv().await.unwrap();
    assert!(written < LENGTH / 5, "the server could write {written} bytes");
}

#[tokio::test]
async fn a_trickle_is_not_waited_for() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n";
    for (at_once, want) in [(head.len(), FaultClass::TimeoutAfterHead), (1, FaultClass::TimeoutBeforeHead)] {
        let address = listen(move |mut stream| async move {
            read_request(&mut stream).await;
            let answer = [head.as_bytes(), &[b'x'; 10_000]].concat();
            let _ = stream.write_all(&answer[..at_once]).await;
            for byte in &answer[at_once..] {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        })
        .await;
        let sender = sender().within(Duration::from_millis(400));
        let attempt = deliver(&sender, &format!("http://{address}/")).await;
        assert_eq!(class(&attempt), Some(want), "{attempt:?}");
        assert!(attempt.took < Duration::from_secs(5), "{attempt:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_receiver_closed_costs_no_failure() {
    // Each connection is closed after its first request, without a word.
    let address = listen(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        read_request(&mut stream).await;
    })
    .await;
    let sender = sender();
    for _ in 0..5 {
        assert_eq!(status(&deliver(&sender, &format!("http://{address}/")).await), Some(200));
    }
}

#[tokio::test]
async fn servers_that_cannot_prove_who_they_are() {
    let (Some(good), Some(expired)) = (Tls::made(false).await, Tls::made(true).await) else { return };
    let serve = async |tls: &Tls| {
        let acceptor = tls.acceptor(&["http/1.1"]);
        listen(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                // A client that does not trust us says so in the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = stream.read(&mut [0; 1000]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        })
        .await
        .port()
    };
    let (good_port, expired_port) = (serve(&good).await, serve(&expired).await);
    let plain = listen(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let plain = plain.await.port();
    let trusting = |tls: &Tls| Sender::with_resolver(tls.trusting(), rules(), Arc::new(names::Fixed::loopback()));
    for (sender, host, port, want) in [
        (trusting(&good), "localhost", good_port, None),
        (trusting(&good), "localhost.", good_port, None),
        (trusting(&good), "127.0.0.1", good_port, Some(FaultClass::Tls)),
        (trusting(&good), "other.example", good_port, Some(FaultClass::Tls)),
        (trusting(&expired), "localhost", good_port, Some(FaultClass::Tls)),
        (trusting(&expired), "localhost", expired_port, Some(FaultClass::Tls)),
        (trusting(&good), "localhost", plain, Some(FaultClass::Tls)),
    ] {
        let attempt = deliver(&sender, &format!("https://{host}:{port}/")).await;
        assert_eq!(class(&attempt), want, "{host}: {attempt:?}");
    }
    let attempt = deliver(&trusting(&expired), &format!("https://localhost:{expired_port}/")).await;
    assert!(format!("{attempt:?}").contains("Expired"), "{attempt:?}");
}
