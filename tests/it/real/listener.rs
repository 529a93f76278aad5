//! Behind real proxies: whose connections they are is known, and a client that forges headers gains nothing.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_testbed::{Proc, Run, eventually, skipped, tool};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::nginx::nginx;
use crate::support::{Client, SOON, Serve, free_address};

const TWO: [&str; 4] = ["--behind-proxy", "127.0.0.1", "--max-connections-per-address", "2"];

/// Tries to connect, with a forged header; the status of the answer.
async fn join(proxy: SocketAddr, header: &'static str, forged: &str, open: &mut Vec<Client>) -> u16 {
    let mut request = format!("ws://{proxy}/").into_client_request().unwrap();
    request.headers_mut().insert(header, forged.parse().unwrap());
    let connecting = tokio_tungstenite::connect_async(request);
    match tokio::time::timeout(SOON, connecting).await.expect("an answer in time") {
        Ok((socket, _)) => {
            open.push(Client(socket));
            101
        }
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{other}"),
    }
}

/// Whoever is behind this proxy has two places, whatever it says.
async fn has_two_places(proxy: SocketAddr) {
    let mut open = Vec::new();
    let mut statuses = Vec::new();
    for (header, forged) in [
        ("x-forwarded-for", "203.0.113.1"),
        ("x-forwarded-for", "203.0.113.2, 127.0.0.1"),
        ("x-forwarded-for", "203.0.113.3"),
        ("x-real-ip", "203.0.113.4"),
        ("x-forwarded-for", "unknown"),
    ] {
        statuses.push(join(proxy, header, forged, &mut open).await);
    }
    assert_eq!(statuses, [101, 101, 429, 429, 429]);
    open[0].subscribe(&[1]).await;
}

/// The client is on this machine, and so is the proxy: the header names an address that is not the proxy's.
fn from_elsewhere(location: &str) -> String {
    location.replace("$remote_addr", "198.51.100.7")
}

#[tokio::test]
async fn nginx_tells_whose_requests_it_forwards() {
    let upgrade =
        "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;";
    for line in [
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-For \"$http_x_forwarded_for, $remote_addr\";",
    ] {
        let serve = Serve::start(&TWO).await;
        let dir = tempfile::tempdir().unwrap();
        let location = format!("location / {{ proxy_pass http://127.0.0.1:8844; {upgrade} {} }}", from_elsewhere(line));
        let (_proc, proxy) = nginx(dir.path(), &location, serve.clients).await;
        has_two_places(proxy).await;
        // nginx hands on a header of the client's that it does not write itself; that is noticed, and costs other forgers only.
        let mut open = Vec::new();
        let mut statuses = Vec::new();
        for forged in ["for=203.0.113.1", "for=203.0.113.2", "for=203.0.113.3", "for=\"", "for=_x"] {
            statuses.push(join(proxy, "forwarded", forged, &mut open).await);
        }
        assert_eq!(statuses, [101, 101, 429, 429, 429]);
    }
}

async fn haproxy(dir: &Path, mode: &str, server: &str, backend: SocketAddr) -> Option<(Proc, SocketAddr)> {
    let Ok(program) = tool("haproxy") else {
        skipped("haproxy is not installed; run tests/run, or install the Debian package haproxy");
        return None;
    };
    let address = free_address();
    let text = format!(
        "global\n maxconn 100\ndefaults\n mode {mode}\n timeout connect 2s\n timeout client 90s\n timeout server 90s\n\
         listen all\n bind {address}\n server a {backend} {server}\n"
    );
    std::fs::write(dir.join("haproxy.cfg"), text).unwrap();
    let proc = Run::new(program).args(["-db", "-f"]).arg(dir.join("haproxy.cfg")).spawn().unwrap();
    let listens = async || if TcpStream::connect(address).await.is_ok() { Ok(()) } else { Err(proc.output()) };
    eventually(SOON, "haproxy listens", listens).await.unwrap();
    Some((proc, address))
}

/// The client's own address is a loopback one here, and counts because a proxy that is named says it.
#[tokio::test]
async fn haproxy_sends_the_proxy_header() {
    for (mode, server) in [("tcp", "send-proxy-v2"), ("tcp", "send-proxy"), ("http", "send-proxy-v2-ssl")] {
        let serve = Serve::start(&[&["--behind-proxy", "127.0.0.9", "--proxy-protocol"], &TWO[2..]].concat()).await;
        let dir = tempfile::tempdir().unwrap();
        let server = format!("{server} source 127.0.0.9");
        let Some((_proc, proxy)) = haproxy(dir.path(), mode, &server, serve.clients).await else { return };
        has_two_places(proxy).await;
    }
}

/// Health checks, which come from the proxy itself, are answered.
#[tokio::test]
async fn health_checks_with_the_proxy_header_pass() {
    let serve = Serve::start(&[&["--proxy-protocol"], &TWO[..]].concat()).await;
    let dir = tempfile::tempdir().unwrap();
    let server = "send-proxy-v2 check-send-proxy check inter 100ms fall 1 rise 1\n option httpchk GET /page.json";
    let Some((proc, proxy)) = haproxy(dir.path(), "http", server, serve.clients).await else { return };
    let served = async || match crate::support::get(proxy, "/page.json").await {
        (200, _) => Ok(()),
        (status, body) => Err(format!("{status} {body} {}", proc.output())),
    };
    eventually(SOON, "an answer through haproxy", served).await.unwrap();
    assert!(!proc.output().contains("is DOWN"), "{}", proc.output());
}
