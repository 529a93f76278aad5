//! The proxies of deploy/proxy, as their files set them up, each in front of two real gateways. Traefik is no package of
//! Debian; tests/deploy compares its files with its schemas.

mod scene;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bugfeed_testbed::{Proc, Run, bin};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, SOON, connected, get, request};
use scene::{Capture, Kind, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_in_front_of_two_gateways() {
    everything_passes(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_in_front_of_two_gateways() {
    everything_passes(Kind::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy_in_front_of_two_gateways() {
    everything_passes(Kind::Caddy).await;
}

async fn everything_passes(kind: Kind) {
    let Some(mut scene) = Scene::start_or_skip(kind).await else { return };
    // First, while a gateway's count of connections tells where it is.
    let (watch, holder) = a_watch(&scene).await;
    a_websocket_gets_an_update(&scene).await;
    a_stream_is_not_kept_back(&scene).await;
    a_poll_waits_and_wakes(&scene).await;
    addresses_are_forwarded(kind).await;
    if kind.has_timeouts() {
        what_is_silent_between_pings_lives(&scene).await;
    }
    the_watch_goes_on_elsewhere(&mut scene, watch, holder).await;
}

/// A `bugfeed watch` of bug 1234, and which gateway serves it.
async fn a_watch(scene: &Scene) -> (Proc, usize) {
    let url = format!("http://{}/", scene.proxy.address);
    let mut watch = Run::new(bin("bugfeed").unwrap()).args(["watch", "1234", "--url", &url]).spawn().unwrap();
    connected(&mut watch).await;
    scene.touch(1234).await;
    watch.wait_for_line("bug 1234 changed", SOON).await.unwrap();
    for (index, gateway) in scene.gateways.iter().enumerate() {
        if gateway.metrics().await.contains("bugfeed_connections 1\n") {
            return (watch, index);
        }
    }
    panic!("no gateway has it");
}

async fn a_websocket_gets_an_update(scene: &Scene) {
    let mut client = Client::connect(&format!("ws://{}/", scene.proxy.address)).await;
    client.subscribe(&[11]).await;
    scene.touch(11).await;
    assert_eq!(client.update().await.0, 11);
}

/// An update comes while the answer goes on.
async fn a_stream_is_not_kept_back(scene: &Scene) {
    let mut stream = TcpStream::connect(scene.proxy.address).await.unwrap();
    let ask = format!("GET /sse?bugs=12 HTTP/1.1\r\nHost: {}\r\n\r\n", scene.proxy.address);
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut until = async |part: &str| loop {
        let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("a line in time").unwrap();
        if line.expect("the stream goes on").contains(part) {
            return;
        }
    };
    until(r#""command":"subscribe""#).await;
    scene.touch(12).await;
    until(r#""bug":12,"#).await;
}

async fn poll(proxy: SocketAddr, query: &str) -> Value {
    let (status, body) = get(proxy, &format!("/changes?bugs=13&{query}")).await;
    assert_eq!(status, 200, "{body}");
    // A proxy may send it in chunks.
    let json = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
    serde_json::from_str(json).unwrap()
}

async fn a_poll_waits_and_wakes(scene: &Scene) {
    let start = poll(scene.proxy.address, "wait=0").await;
    let cursor = start["cursor"].as_str().unwrap();
    let asked = Instant::now();
    let none = poll(scene.proxy.address, &format!("cursor={cursor}&wait=1")).await;
    assert!(none["changes"].as_array().unwrap().is_empty() && asked.elapsed() >= Duration::from_millis(900), "{none}");
    let query = format!("cursor={cursor}&wait=60");
    let (woken, ()) = tokio::join!(poll(scene.proxy.address, &query), scene.touch(13));
    assert_eq!(woken["changes"][0]["bug"], 13, "{woken}");
}

/// Whoever asks cannot say that it is somebody else.
async fn addresses_are_forwarded(kind: Kind) {
    let capture = Capture::start().await;
    let dir = tempfile::tempdir().unwrap();
    let proxy = kind.start(dir.path(), capture.places(), |text| text).await;
    for path in ["/page.json", "/hooks/kde"] {
        let ask = format!(
            "GET {path} HTTP/1.1\r\nHost: feed.example\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(request(proxy.address, &ask).await.0, 200);
        let head = capture.head_of(path);
        let values = |name: &str| -> Vec<String> {
            let prefix = format!("{name}: ");
            head.lines().filter_map(|line| Some(line.strip_prefix(&prefix)?.to_owned())).collect()
        };
        assert_eq!(values("x-forwarded-for"), ["127.0.0.1"], "{head}");
        assert_eq!(values("host"), ["feed.example"], "{head}");
        assert_eq!(values("x-forwarded-proto").len(), 1, "{head}");
    }
}

/// Its timeouts begin anew with each ping: as short as a few pings, they cut nobody.
async fn what_is_silent_between_pings_lives(scene: &Scene) {
    let dir = tempfile::tempdir().unwrap();
    let shorter = |text: String| {
        assert!(text.contains("90s"), "{text}");
        text.replace("90s", "2s")
    };
    let proxy = scene.kind.start(dir.path(), scene.places(), shorter).await;
    let mut client = Client::connect(&format!("ws://{}/", proxy.address)).await;
    client.subscribe(&[14]).await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        let message = tokio::time::timeout(SOON, client.0.next()).await.expect("pings").expect("it is open").unwrap();
        assert!(matches!(message, Message::Ping(_)), "{message:?}");
        client.0.flush().await.unwrap();
    }
    scene.touch(14).await;
    assert_eq!(client.update().await.0, 14);
}

/// The gateway that has the watch is stopped: the watch is told what comes meanwhile, and of no gap.
async fn the_watch_goes_on_elsewhere(scene: &mut Scene, mut watch: Proc, holder: usize) {
    let before = watch.lines();
    scene.gateways[holder].proc.sigterm();
    scene.touch(1234).await;
    scene.gateways[holder].proc.succeeds(SOON).await.unwrap();
    watch.wait_for_line_after(before, "bug 1234 changed", SOON).await.unwrap();
    let at = watch.lines();
    scene.touch(1234).await;
    watch.wait_for_line_after(at, "bug 1234 changed", SOON).await.unwrap();
    assert!(!watch.output().contains("gap"), "{}", watch.output());
}
