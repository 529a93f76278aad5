//! Category 7: closing.

use super::wire::Chop::{Frames, Octets, Whole};
use super::wire::Heard::{Close, Reply};
use super::wire::{CLOSE, MORE, PING, TEXT, case, close, frame, part, play};
use crate::support::{Serve, get};

#[tokio::test]
async fn closing_handshakes() {
    let serve = Serve::start(&[]).await;
    let text = || frame(TEXT, b"Hello, world!");
    let normal = || close(1000, b"");
    let long = || frame(TEXT, &vec![b'*'; 256 * 1024]);
    play(
        serve.clients,
        vec![
            case("7.1.1", vec![text(), normal()], Frames, &[Reply, Close(1000)]),
            case("7.1.2", vec![normal(), normal()], Whole, &[Close(1000)]),
            case("7.1.3", vec![normal(), frame(PING, b"")], Whole, &[Close(1000)]),
            case("7.1.4", vec![normal(), text()], Whole, &[Close(1000)]),
            case("7.1.5", vec![part(TEXT, b"fragment1"), normal(), frame(MORE, b"fragment2")], Whole, &[Close(1000)]),
            case("7.1.6", vec![long(), normal(), frame(PING, b"")], Whole, &[Reply, Close(1000)]),
            case("7.3.1", vec![frame(CLOSE, b"")], Whole, &[Close(1000)]),
            case("7.3.2", vec![frame(CLOSE, b"a")], Whole, &[Close(1002)]),
            case("7.3.3", vec![normal()], Octets(1), &[Close(1000)]),
            case("7.3.4", vec![close(1000, b"Hello World!")], Whole, &[Close(1000)]),
            case("7.3.5", vec![close(1000, &[b'*'; 123])], Whole, &[Close(1000)]),
            case("7.3.6", vec![close(1000, &[b'*'; 124])], Whole, &[Close(1002)]),
            case("7.5.1", vec![close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80")], Whole, &[Close(1007)]),
            // What is wrong after a close frame is not looked at.
            case("x7.1, no frame", vec![normal(), vec![0xFF; 100]], Whole, &[Close(1000)]),
        ],
    )
    .await;
}

#[tokio::test]
async fn close_codes() {
    let serve = Serve::start(&[]).await;
    let mut cases = Vec::new();
    let good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for (number, code) in (1..).zip(good) {
        cases.push(case(format!("7.7.{number}"), vec![close(code, b"")], Whole, &[Close(1000)]));
    }
    let bad = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    for (number, code) in (1..).zip(bad) {
        cases.push(case(format!("7.9.{number}"), vec![close(code, b"")], Octets(1), &[Close(1002)]));
    }
    for (id, code) in [("7.13.1", 5000), ("7.13.2", 65_535), ("x7.9, 1015", 1015)] {
        cases.push(case(id, vec![close(code, b"")], Whole, &[Close(1002)]));
    }
    // Registered after the RFC.
    for code in [1012, 1013, 1014] {
        cases.push(case(format!("x7.7, {code}"), vec![close(code, b"")], Whole, &[Close(1000)]));
    }
    play(serve.clients, cases).await;
    let page = get(serve.admin, "/metrics").await.1;
    assert!(page.contains("bugfeed_sessions_ended_total{kind=\"protocol\"} 12\n"), "{page}");
}
