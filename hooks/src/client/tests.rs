//! The client against servers that behave and that do not.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::test_server::{Reply, Server};

fn client() -> Client {
    Client::new(Options::default())
}

fn get(server: &Server, target: &str) -> Request {
    Request::get(Address::parse(&server.url(target)).unwrap())
}

#[tokio::test]
async fn sends_what_it_is_told_and_keeps_the_connection() {
    let server = Server::start(|got| Reply::full(201, "X-A: b\r\n", &format!("{} {}", got.method, got.target))).await;
    let client = client();
    let name = HeaderName::from_static("x-key");
    let response = client.send(get(&server, "/a?b=c").with(name, HeaderValue::from_static("k"))).await.unwrap();
    assert_eq!(
        (response.status.as_u16(), &response.body[..], response.header("x-a")),
        (201, &b"GET /a?b=c"[..], Some("b"))
    );
    let response = client.send(Request::post_json(Address::parse(&server.url("/p")).unwrap(), "{}")).await.unwrap();
    assert_eq!(&response.body[..], b"POST /p");
    let got = server.got();
    let host = server.address.to_string();
    assert_eq!((got[0].header("host"), got[0].header("x-key")), (Some(host.as_str()), Some("k")));
    assert_eq!(got[0].header("user-agent"), Some(USER_AGENT));
    assert_eq!((got[1].header("content-type"), got[1].header("content-length")), (Some("application/json"), Some("2")));
    assert_eq!((got[1].body.as_str(), got[1].connection), ("{}", 0), "the same connection");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_failure() {
    let ended = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&ended);
    // The second request on a connection is never answered: the server closes instead.
    let server = Server::start(move |got| {
        let is_first = counted.fetch_max(got.connection + 1, Ordering::SeqCst) <= got.connection;
        if is_first { Reply::full(200, "", "x") } else { Reply::Close }
    })
    .await;
    let client = client();
    for _ in 0..3 {
        assert_eq!(&client.send(get(&server, "/")).await.unwrap().body[..], b"x");
    }
    assert_eq!(server.got().iter().map(|got| got.connection).collect::<Vec<_>>(), [0, 0, 1, 1, 2]);
}

#[tokio::test]
async fn a_new_connection_that_is_closed_is_a_fault() {
    let server = Server::start(|_| Reply::Close).await;
    assert_eq!(client().send(get(&server, "/")).await.unwrap_err(), Fault::Closed);
    assert_eq!(server.got().len(), 1, "not sent again");
    let server = Server::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec())).await;
    assert_eq!(client().send(get(&server, "/")).await.unwrap_err(), Fault::Closed);
}

#[tokio::test]
async fn a_body_is_bounded() {
    let server = Server::start(|got| match got.path() {
        "/declared" => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n0123456789".to_vec()),
        _ => Reply::full(200, "", "0123456789"),
    })
    .await;
    let client = client();
    let with_bound = |target: &str, longest_body| Request { longest_body, ..get(&server, target) };
    assert_eq!(&client.send(with_bound("/", 10)).await.unwrap().body[..], b"0123456789");
    assert_eq!(client.send(with_bound("/", 9)).await.unwrap_err(), Fault::TooLong { longest: 9 });
    let cut = client.send(Request { too_long: TooLong::Cut, ..with_bound("/declared", 4) }).await.unwrap();
    assert_eq!((&cut.body[..], cut.is_cut), (&b"0123"[..], true));
    assert_eq!(client.pool.len(), 0, "no connection is kept in the middle of a body");
}

#[tokio::test]
async fn slow_servers_are_given_up() {
    let server = Server::start(|got| match got.path() {
        "/head" => Reply::Hang(b"HTTP/1.1 200 OK\r\nX-".to_vec()),
        _ => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec()),
    })
    .await;
    let within = Duration::from_millis(50);
    for (target, after_head) in [("/head", false), ("/body", true)] {
        let request = Request { within, ..get(&server, target) };
        assert_eq!(client().send(request).await.unwrap_err(), Fault::TooSlow { within, after_head });
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_fault() {
    let server = Server::start(|got| match got.path() {
        "/garbage" => Reply::Last(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
        _ => Reply::Last([&b"HTTP/1.1 200 OK\r\nX: "[..], &vec![b'x'; 2 * LONGEST_HEAD], b"\r\n\r\n"].concat()),
    })
    .await;
    for target in ["/garbage", "/long-head"] {
        let fault = client().send(get(&server, target)).await.unwrap_err();
        assert!(matches!(fault, Fault::NoHttp(_)), "{target}: {fault:?}");
    }
}

#[tokio::test]
async fn redirects_are_followed_if_asked_and_to_the_same_server() {
    let server = Server::start(|got| match got.path() {
        "/1" => Reply::full(301, "Location: /2?x\r\n", ""),
        "/2" => Reply::full(302, "Location: 3\r\n", ""),
        "/other" => Reply::full(302, "Location: http://127.0.0.1:1/\r\n", ""),
        "/loop" => Reply::full(302, "Location: /loop\r\n", ""),
        _ => Reply::full(200, "", "there"),
    })
    .await;
    let status = async |target: &str, redirects| {
        let response = client().send(Request { redirects, ..get(&server, target) }).await.unwrap();
        (response.status.as_u16(), response.redirects)
    };
    assert_eq!(status("/1", 0).await, (301, 0));
    assert_eq!(status("/1", 1).await, (302, 1));
    assert_eq!(status("/1", 2).await, (200, 2));
    assert_eq!(status("/other", 5).await, (302, 0), "a key must not go to another server");
    assert_eq!(status("/loop", 5).await, (302, 5));
    let post = Request { redirects: 5, ..Request::post_json(Address::parse(&server.url("/1")).unwrap(), "{}") };
    assert_eq!(client().send(post).await.unwrap().status.as_u16(), 301);
}

#[derive(Debug)]
struct NotLoopback;

impl AddressRule for NotLoopback {
    fn permits(&self, host: &str, address: IpAddr) -> Result<(), String> {
        if address.is_loopback() { Err(format!("{host} is this machine")) } else { Ok(()) }
    }
}

#[tokio::test]
async fn the_rule_is_asked_before_connecting() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let client = Client::with_rule(Options::default(), Arc::new(NotLoopback));
    for (host, is_final) in [("127.0.0.1", true), ("localhost", false)] {
        let url = format!("http://{host}:{}/", server.address.port());
        let fault = client.send(Request::get(Address::parse(&url).unwrap())).await.unwrap_err();
        assert_eq!(fault, Fault::Forbidden { why: format!("{host} is this machine"), is_final });
    }
    assert!(server.got().is_empty());
}

#[tokio::test]
async fn nobody_listens_and_no_name() {
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let refused = Request::get(Address::parse(&format!("http://{free}/secret")).unwrap());
    let fault = client().send(refused).await.unwrap_err();
    assert!(matches!(fault, Fault::Connect { .. }) && !fault.is_ours(), "{fault:?}");
    assert!(!fault.to_string().contains("secret"));
    let fault = client().send(Request::get(Address::parse("http://name.invalid/").unwrap())).await.unwrap_err();
    assert!(matches!(fault, Fault::Name { .. }) && fault.is_ours(), "{fault:?}");
}

#[tokio::test]
async fn https_to_a_server_without_tls_is_refused() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let roots = rustls::RootCertStore::empty();
    let url = format!("https://{}/", server.address);
    let client = |trust| Client::new(Options { trust, ..Options::default() });
    let request = || Request::get(Address::parse(&url).unwrap());
    assert_eq!(client(Trust::Only(Arc::new(roots))).send(request()).await.unwrap_err(), Fault::NoTrust);
}

#[tokio::test]
async fn https_proves_who_the_server_is() {
    let Some((acceptor, client)) = crate::test_tls::pair().await else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us says so in the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 1000]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi").await;
            let _ = stream.shutdown().await;
        }
    });
    let request = |host: &str| Request::get(Address::parse(&format!("https://{host}:{port}/")).unwrap());
    assert_eq!(&client.send(request("localhost")).await.unwrap().body[..], b"hi");
    for (host, client) in [("127.0.0.1", client), ("localhost", self::client())] {
        let fault = client.send(request(host)).await.unwrap_err();
        assert!(matches!(fault, Fault::Tls { .. } | Fault::NoTrust), "{host}: {fault:?}");
    }
}

#[tokio::test]
async fn connections_are_kept_within_bounds() {
    let server = Server::start(|_| Reply::full(200, "", "")).await;
    let client = Client::new(Options { idle_per_server: 2, ..Options::default() });
    let request = || client.send(get(&server, "/"));
    let (a, b, c) = tokio::join!(request(), request(), request());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert!((1..=2).contains(&client.pool.len()), "{}", client.pool.len());
}
