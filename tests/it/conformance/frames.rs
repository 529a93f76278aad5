//! Categories 1 to 5: framing, pings and pongs, reserved bits, opcodes, fragments.

use super::wire::Chop::{Frames, Octets, Whole};
use super::wire::Heard::{Close, Pong, Reply};
use super::wire::{BINARY, Case, Heard, MORE, PING, PONG, TEXT, case, frame, part, play, raw_frame};
use crate::support::Serve;

fn pong(payload: &[u8]) -> Heard {
    Pong(payload.to_vec())
}

#[tokio::test]
async fn messages_of_all_lengths() {
    let serve = Serve::start(&[]).await;
    let sizes = [0, 125, 126, 127, 128, 65_535, 65_536, 65_536];
    let mut cases = Vec::new();
    for (number, size) in (1..).zip(sizes) {
        let chop = if number == 8 { Octets(997) } else { Whole };
        cases.push(case(format!("1.1.{number}"), vec![frame(TEXT, &vec![b'*'; size])], chop, &[Reply]));
        cases.push(case(format!("1.2.{number}"), vec![frame(BINARY, &vec![0xFE; size])], chop, &[Close(1003)]));
    }
    play(serve.clients, cases).await;
}

#[tokio::test]
async fn pings_and_pongs() {
    let serve = Serve::start(&[]).await;
    let (not_text, longest) = ([0x00, 0xFF, 0xFE, 0xFD], [0xFE; 125]);
    let ten: Vec<Vec<u8>> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
    let pings: Vec<Vec<u8>> = ten.iter().map(|payload| frame(PING, payload)).collect();
    let pongs: Vec<Heard> = ten.iter().map(|payload| pong(payload)).collect();
    play(
        serve.clients,
        vec![
            case("2.1", vec![frame(PING, b"")], Whole, &[pong(b"")]),
            case("2.2", vec![frame(PING, b"Hello, world!")], Whole, &[pong(b"Hello, world!")]),
            case("2.3", vec![frame(PING, &not_text)], Whole, &[pong(&not_text)]),
            case("2.4", vec![frame(PING, &longest)], Whole, &[pong(&longest)]),
            case("2.5", vec![frame(PING, &[0xFE; 126])], Whole, &[Close(1002)]),
            case("2.6", vec![frame(PING, &longest)], Octets(1), &[pong(&longest)]),
            case("2.7", vec![frame(PONG, b"")], Whole, &[]),
            case("2.8", vec![frame(PONG, b"unsolicited")], Whole, &[]),
            case("2.9", vec![frame(PONG, b"unsolicited"), frame(PING, b"ping")], Whole, &[pong(b"ping")]),
            case("2.10", pings.clone(), Frames, &pongs),
            case("2.11", pings, Octets(1), &pongs),
            // Only the head is sent: nothing that follows could make it right.
            case("x2.5", vec![frame(PING, &[0; 126])[..2].to_vec()], Whole, &[Close(1002)]),
            case("x2.5, a pong", vec![frame(PONG, &[0; 126])[..2].to_vec()], Octets(1), &[Close(1002)]),
        ],
    )
    .await;
}

#[tokio::test]
async fn reserved_bits() {
    let serve = Serve::start(&[]).await;
    let then = |first: u8, chop| {
        let wrong = raw_frame(first, b"Hello, world!");
        case(String::new(), vec![frame(TEXT, b"Hello, world!"), wrong, frame(PING, b"")], chop, &[Reply, Close(1002)])
    };
    let named = |id: &str, case: Case| Case { id: id.to_owned(), ..case };
    play(
        serve.clients,
        vec![
            case("3.1", vec![raw_frame(0x91, b"Hello, world!")], Whole, &[Close(1002)]),
            named("3.2", then(0xA1, Whole)),
            named("3.3", then(0xB1, Frames)),
            named("3.4", then(0xC1, Octets(1))),
            case("3.5", vec![raw_frame(0xD2, &[0; 8])], Whole, &[Close(1002)]),
            case("3.6", vec![raw_frame(0xE9, b"Hello, world!")], Whole, &[Close(1002)]),
            case("3.7", vec![raw_frame(0xF8, &1000_u16.to_be_bytes())], Whole, &[Close(1002)]),
            case("x3.1, one byte", vec![vec![0x91]], Whole, &[Close(1002)]),
        ],
    )
    .await;
}

#[tokio::test]
async fn reserved_opcodes() {
    let serve = Serve::start(&[]).await;
    let mut cases = Vec::new();
    for (category, first) in [(1, 3), (2, 11)] {
        for number in 1..=5 {
            let opcode = first + number - 1;
            let (wrong, payload) = (frame(opcode, b""), frame(opcode, b"reserved opcode payload"));
            let (before, ping) = (frame(TEXT, b"Hello, world!"), frame(PING, b""));
            let (frames, chop, want) = match number {
                1 => (vec![wrong], Whole, &[Close(1002)][..]),
                2 => (vec![payload], Whole, &[Close(1002)][..]),
                3 => (vec![before, wrong, ping], Whole, &[Reply, Close(1002)][..]),
                4 => (vec![before, payload, ping], Frames, &[Reply, Close(1002)][..]),
                _ => (vec![before, payload, ping], Octets(1), &[Reply, Close(1002)][..]),
            };
            cases.push(case(format!("4.{category}.{number}"), frames, chop, want));
        }
    }
    play(serve.clients, cases).await;
}

#[tokio::test]
async fn fragments() {
    let serve = Serve::start(&[]).await;
    let both = |between: Option<Vec<u8>>| {
        let frames = [Some(part(TEXT, b"fragment1")), between, Some(frame(MORE, b"fragment2"))];
        frames.into_iter().flatten().collect::<Vec<_>>()
    };
    let ping = || Some(frame(PING, b"ping"));
    let (lone_last, lone) = (frame(MORE, b"non-continuation payload"), part(MORE, b"non-continuation payload"));
    let text = || frame(TEXT, b"Hello, world!");
    let pongs_between = || {
        vec![
            part(TEXT, b"fragment1"),
            part(MORE, b"fragment2"),
            frame(PING, b"pongme 1!"),
            part(MORE, b"fragment3"),
            part(MORE, b"fragment4"),
            frame(PING, b"pongme 2!"),
            frame(MORE, b"fragment5"),
        ]
    };
    let pongs = [pong(b"pongme 1!"), pong(b"pongme 2!"), Reply];
    let twice = |wrong: &Vec<u8>| {
        let round = || [wrong.clone(), part(TEXT, b"fragment1"), frame(MORE, b"fragment2")];
        round().into_iter().chain(round()).collect::<Vec<_>>()
    };
    let mut cases = vec![
        case("5.1", vec![part(PING, b"fragment1"), frame(MORE, b"fragment2")], Whole, &[Close(1002)]),
        case("5.2", vec![part(PONG, b"fragment1"), frame(MORE, b"fragment2")], Whole, &[Close(1002)]),
        case("5.15", [both(None), vec![lone.clone(), text()]].concat(), Whole, &[Reply, Close(1002)]),
        case("5.16", twice(&lone), Whole, &[Close(1002)]),
        case("5.17", twice(&lone_last), Whole, &[Close(1002)]),
        case("5.18", vec![part(TEXT, b"fragment1"), frame(TEXT, b"fragment2")], Whole, &[Close(1002)]),
        case("5.19", pongs_between(), Frames, &pongs),
        case("5.20", pongs_between(), Whole, &pongs),
        case("x5.18, binary", vec![part(TEXT, b"fragment1"), part(BINARY, b"")], Whole, &[Close(1002)]),
        case("x5.1, a close", vec![part(0x8, &1000_u16.to_be_bytes())], Whole, &[Close(1002)]),
    ];
    for (step, chop) in [(0, Whole), (1, Frames), (2, Octets(1))] {
        let id = |first: u32| format!("5.{}", first + step);
        cases.push(case(id(3), both(None), chop, &[Reply]));
        cases.push(case(id(6), both(ping()), chop, &[pong(b"ping"), Reply]));
        cases.push(case(id(9), vec![lone_last.clone(), text()], chop, &[Close(1002)]));
        cases.push(case(id(12), vec![lone.clone(), text()], chop, &[Close(1002)]));
    }
    play(serve.clients, cases).await;
}

/// RFC 6455 §5.1 and §5.2, which no category is about.
#[tokio::test]
async fn masks_and_lengths() {
    let serve = Serve::start(&[]).await;
    let good = frame(TEXT, b"x");
    let long = |head: &[u8], payload: &[u8]| [head, &[0; 4], payload].concat();
    let mut cases = Vec::new();
    for (name, wrong) in [
        ("no mask", vec![0x81, 0x02, b'{', b'}']),
        ("no mask, a ping", vec![0x89, 0x00]),
        ("16 bits for 0", long(&[0x81, 0xFE, 0, 0], b"")),
        ("16 bits for 125", long(&[0x81, 0xFE, 0, 125], &[b' '; 125])),
        ("64 bits for 2", long(&[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0, 2], b"{}")),
        ("64 bits for 65,535", long(&[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], &vec![b' '; 65_535])),
        ("the highest bit of 64", vec![0x81, 0xFF, 0x80]),
    ] {
        for chop in [Whole, Frames, Octets(1)] {
            let frames = vec![good.clone(), wrong.clone(), frame(PING, b"")];
            cases.push(case(format!("x, {name}, {chop:?}"), frames, chop, &[Reply, Close(1002)]));
        }
    }
    play(serve.clients, cases).await;
}
